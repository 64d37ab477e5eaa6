//! Reads that may keep the reader waiting for ever, made by threads aside.
//!
//! `/proc/PID/cmdline` and `environ` are read out of a process's memory, under its `mmap_lock` (`access_remote_vm`, 5.10 to 6.18). A `mmap` of a
//! file whose NFS or FUSE server does not answer holds that lock until it does, and nothing but a deadly signal ends the wait for it. So a
//! helper reads, and who wants to know waits for a while and no longer. The helper that still waits says that the process cannot be read:
//! nobody else tries meanwhile, and once it comes back all is well again.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use super::sys::{self, EventPriority, Host, Kernel};
use crate::core::task::TaskId;

/// For so long after somebody was waited for in vain, nobody is waited for long: where many do not answer, all together must not take for ever.
const WARY: Duration = Duration::from_secs(1);
/// So much less long.
const WARY_SHARE: u32 = 20;
/// The most helpers that wait at a time; after that nothing is read aside.
const MAX_STUCK: usize = 1024;

/// How long to wait for an answer, and how it is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// At most.
    pub wait: Duration,
    /// By a real-time thread if who waits is one, who then must not wait for the run queue's ordinary threads.
    pub urgent: bool,
}

/// It has not answered, or nobody asks it because it did not answer before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck;

/// The helpers. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Aside {
    state: Arc<Mutex<State>>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug, Default)]
struct State {
    /// Ordinary helpers without work, and urgent ones.
    idle: [Vec<Sender<Job>>; 2],
    /// Those that have not answered, and since when.
    stuck: BTreeMap<TaskId, Instant>,
    /// When somebody was waited for in vain last.
    vain: Option<Instant>,
}

impl Aside {
    /// Has a helper do `read`, which is of that process.
    ///
    /// # Errors
    /// [`Stuck`]; the inner error is the read's.
    pub fn read(
        &self,
        process: TaskId,
        patience: Patience,
        read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Result<io::Result<Vec<u8>>, Stuck> {
        let began = Instant::now();
        let mut state = self.state();
        if state.stuck.contains_key(&process) || state.stuck.len() >= MAX_STUCK {
            return Err(Stuck);
        }
        let wary = state.vain.is_some_and(|vain| vain.elapsed() < WARY);
        let wait = if wary { patience.wait / WARY_SHARE } else { patience.wait };
        let idle = state.idle[usize::from(patience.urgent)].pop();
        drop(state);
        let (reply, answer) = sync_channel(1);
        let aside = self.clone();
        let mut job: Job = Box::new(move || {
            // Who asked may not be waiting any more.
            let _ = reply.send(read());
            aside.state().stuck.remove(&process);
        });
        let helper = match idle {
            Some(helper) => helper,
            None => match start(patience.urgent) {
                Ok(helper) => helper,
                Err(error) => return Ok(Err(error)),
            },
        };
        if let Err(refused) = helper.send(job) {
            // It has panicked over an earlier job.
            job = refused.0;
            job();
        }
        let late = match answer.recv_timeout(wait) {
            Ok(bytes) => Some(bytes),
            Err(RecvTimeoutError::Disconnected) => return Err(Stuck),
            Err(RecvTimeoutError::Timeout) => None,
        };
        let mut state = self.state();
        // The helper takes it out of `stuck` after it has answered.
        match late.or_else(|| answer.try_recv().ok()) {
            Some(bytes) => {
                state.idle[usize::from(patience.urgent)].push(helper);
                Ok(bytes)
            }
            None => {
                state.stuck.insert(process, began);
                state.vain = Some(Instant::now());
                Err(Stuck)
            }
        }
    }

    /// The process of that pid, if it does not answer.
    #[must_use]
    pub fn stuck(&self, pid: u32) -> Option<TaskId> {
        let of_pid = TaskId { tid: pid, start_time: 0 }..=TaskId { tid: pid, start_time: u64::MAX };
        self.state().stuck.range(of_pid).next_back().map(|(process, _)| *process)
    }

    /// Those that have not answered for so long.
    #[must_use]
    pub fn stuck_for(&self, age: Duration) -> Vec<TaskId> {
        let state = self.state();
        let old = state.stuck.iter().filter(|(_, since)| since.elapsed() >= age);
        old.map(|(process, _)| *process).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a helper, which ends with its sender.
fn start(urgent: bool) -> io::Result<Sender<Job>> {
    let (helper, jobs) = channel::<Job>();
    let urgent = urgent && Host.real_time(nix::unistd::gettid().as_raw() as u32).is_some();
    // What it reads is on the heap.
    std::thread::Builder::new().name("proc-reader".into()).stack_size(128 << 10).spawn(move || {
        if urgent && let EventPriority::Normal(error) = sys::prioritise_event_thread() {
            tracing::debug!("what is read for the event thread is read at an ordinary priority: {error}");
        }
        jobs.into_iter().for_each(|job| job());
    })?;
    Ok(helper)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SHORT: Patience = Patience { wait: Duration::from_millis(50), urgent: false };
    const LONG: Patience = Patience { wait: Duration::from_secs(60), urgent: false };

    fn process(tid: u32) -> TaskId {
        TaskId { tid, start_time: 7 }
    }

    #[test]
    fn who_does_not_answer_is_asked_once_and_again_when_it_has() {
        let aside = Aside::default();
        let (unlock, lock) = channel::<()>();
        let blocked = aside.read(process(1), SHORT, move || {
            let _ = lock.recv();
            Ok(b"late".to_vec())
        });
        assert!(blocked.is_err());
        assert_eq!(aside.stuck(1), Some(process(1)));
        assert_eq!((aside.stuck(2), aside.stuck_for(LONG.wait)), (None, vec![]));
        assert_eq!(aside.stuck_for(Duration::ZERO), [process(1)]);
        let asked = Instant::now();
        assert!(aside.read(process(1), LONG, || Ok(Vec::new())).is_err(), "nobody asks it");
        assert!(asked.elapsed() < Duration::from_secs(30));
        assert_eq!(aside.read(process(2), LONG, || Ok(b"two".to_vec())).unwrap().unwrap(), b"two");
        unlock.send(()).unwrap();
        while aside.stuck(1).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(aside.read(process(1), LONG, || Ok(b"one".to_vec())).unwrap().unwrap(), b"one");
    }

    #[test]
    fn helpers_are_used_again() {
        let aside = Aside::default();
        for _ in 0..100 {
            aside.read(process(1), LONG, || Ok(Vec::new())).unwrap().unwrap();
        }
        assert_eq!(aside.state().idle[0].len(), 1);
        let error = aside.read(process(1), LONG, || Err(io::ErrorKind::NotFound.into()));
        assert_eq!(error.unwrap().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
