//! A memory policy for a thread that runs already: it is stopped on its way to user mode, made to run the system calls, and let go as
//! it was (`ptrace(2)`).
//!
//! No memory of the process is touched but a page that it is made to map, and to unmap at the end; no code is changed: the instruction is
//! one of the vDSO's. Its registers are others than its own only from one stop of it to the third next, for each call. If the thread that
//! traces it were killed then, the task would go on with the wrong ones, and crash: whoever calls this must not be easy to kill.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
mod held;
mod vdso;

use std::{
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use self::held::Held;
use super::sys::{self, Host, Kernel, NODE_BITS, NODE_WORDS, Tracee, number};
use crate::core::{idset::IdSet, memory::Policy, task::TaskId};

/// Why a thread did not get the policy. It goes on as before in any case.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// It ended, or its tid belongs to another task by now.
    #[error("thread {tid} is gone")]
    Gone {
        /// The thread.
        tid: u32,
    },
    /// It is the kernel's, or works for the kernel on behalf of its process (`io_uring`): it never runs a program.
    #[error("thread {tid} is the kernel's: no program could set a memory policy in it")]
    KernelThread {
        /// The thread.
        tid: u32,
    },
    /// It is one of this process's own, which no thread of it can trace.
    #[error("thread {tid} is numa-agent's own")]
    Own {
        /// The thread.
        tid: u32,
    },
    /// A debugger or a tracer has it.
    #[error("thread {tid} is traced by task {by} already")]
    Traced {
        /// The thread.
        tid: u32,
        /// The thread that traces it.
        by: u32,
    },
    /// The kernel lets nobody, or not us, trace it.
    #[error("thread {tid} may not be traced: {errno}; run as root or with CAP_SYS_PTRACE")]
    NotPermitted {
        /// The thread.
        tid: u32,
        /// What `ptrace(2)` said.
        errno: Errno,
    },
    /// It has a seccomp filter, which may kill it for the calls, and which cannot be suspended.
    #[error(
        "thread {tid} has a seccomp filter, which could not be suspended: {errno}; that takes CAP_SYS_ADMIN"
    )]
    Seccomp {
        /// The thread.
        tid: u32,
        /// What `ptrace(2)` said.
        errno: Errno,
    },
    /// It is a 32-bit program's.
    #[error("thread {tid} runs a 32-bit program")]
    Width {
        /// The thread.
        tid: u32,
    },
    /// Its process has no vDSO, or none with a system call in it.
    #[error("thread {tid} has no vDSO to make a system call from")]
    NoVdso {
        /// The thread.
        tid: u32,
    },
    /// It did not come to where it could be stopped: it sleeps in the kernel uninterruptibly (`D`), or is frozen.
    #[error("thread {tid} could not be stopped in time: it sleeps uninterruptibly or is frozen")]
    Slow {
        /// The thread.
        tid: u32,
    },
    /// Its process has the kernel turn system calls from the vDSO into signals (`PR_SET_SYSCALL_USER_DISPATCH`), or unmapped it.
    #[error("thread {tid} got signal {signal} in place of a system call from its vDSO")]
    Fault {
        /// The thread.
        tid: u32,
        /// The signal, which was taken from it.
        signal: i32,
    },
    /// The kernel refused one of the system calls.
    #[error("{call} in thread {tid}: {errno}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The thread.
        tid: u32,
        /// Why.
        errno: Errno,
    },
    /// Its memory could not be read or written.
    #[error("the memory of thread {tid}: {error}")]
    Memory {
        /// The thread.
        tid: u32,
        /// Why.
        error: io::Error,
    },
    /// No thread could be started to trace it.
    #[error("no thread to trace thread {tid}: {error}")]
    NoTracer {
        /// The thread.
        tid: u32,
        /// Why.
        error: io::Error,
    },
    /// The policy in force is one that we do not know.
    #[error("thread {tid} has memory policy {number}, which numa-agent does not know")]
    Unknown {
        /// The thread.
        tid: u32,
        /// Its number.
        number: u32,
    },
}

/// Sets the memory policy of a thread, and returns the one that the kernel then says it has: it leaves out nodes that have no memory or
/// are not in the thread's cpuset.
///
/// The thread may run, sleep, or be stopped, as it stays then. What it waits for goes on where it was, as after `SIGSTOP` and
/// `SIGCONT`, and calls that would fail with `EINTR` then are begun anew. It is waited for no longer than `patience`, until its
/// registers are changed; then for as long as it takes to put them back. Nobody else in our process may wait for it meanwhile: for a child of
/// ours, `wait(2)` in any thread would take the stops for itself.
///
/// # Errors
/// [`InjectError`]; the thread has its old policy then, or, for errors that name calls after `set_mempolicy`, the new one.
pub fn set_policy(task: TaskId, policy: &Policy, patience: Duration) -> Result<Policy, InjectError> {
    let policy = policy.clone();
    let (answer, result) = mpsc::sync_channel(1);
    // A thread that does not stop can be let go by the end of its tracer alone.
    let tracer = thread::Builder::new().name("inject".to_owned()).spawn(move || {
        let _ = answer.send(trace(task, &policy, patience));
    });
    let tid = task.tid;
    tracer.map_err(|error| InjectError::NoTracer { tid, error })?;
    result.recv().unwrap_or(Err(InjectError::Gone { tid }))
}

fn trace(task: TaskId, policy: &Policy, patience: Duration) -> Result<Policy, InjectError> {
    let tid = task.tid;
    let gone = InjectError::Gone { tid };
    if Host.start_time(tid) != Some(task.start_time) {
        return Err(gone);
    }
    let status = Status::read(tid).ok_or(InjectError::Gone { tid })?;
    if status.process == std::process::id() {
        return Err(InjectError::Own { tid });
    }
    if Host.never_in_user_mode(tid) {
        return Err(InjectError::KernelThread { tid });
    }
    // What it waits in, before that is interrupted.
    let waiting = arch::Waiting::of(tid);
    let start = Instant::now();
    let tracee = loop {
        let errno = match Tracee::seize(tid) {
            Ok(tracee) => break tracee,
            Err(errno) => errno,
        };
        let by = Status::read(tid).ok_or(InjectError::Gone { tid })?.tracer;
        // A tracer of ours that has given up is about to end.
        let ours = || Status::read(by).is_none_or(|tracer| tracer.process == std::process::id());
        match errno {
            Errno::ESRCH => return Err(gone),
            _ if by == 0 => return Err(InjectError::NotPermitted { tid, errno }),
            _ if start.elapsed() > patience || !ours() => return Err(InjectError::Traced { tid, by }),
            _ => thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut held = Held::take(&tracee, tid, waiting, patience)?;
    if Host.start_time(tid) != Some(task.start_time) {
        return Err(gone);
    }
    let status = Status::read(tid).ok_or(gone)?;
    if status.seccomp {
        tracee.suspend_seccomp(true).map_err(|errno| InjectError::Seccomp { tid, errno })?;
    }
    held.find_instruction()?;
    let page = held.call("mmap", number::MMAP, with_page(0, PAGE, u64::MAX))?;
    let done = set_and_read_back(&mut held, page, policy);
    let unmapped = match done {
        // It is not as it was any more: a page less or more is the least of it.
        Err(InjectError::Gone { .. } | InjectError::Slow { .. } | InjectError::Fault { .. }) => Ok(0),
        _ => held.call("munmap", number::MUNMAP, [page, PAGE, 0, 0, 0, 0]),
    };
    let (mode, words) = done?;
    unmapped?;
    Policy::from_number(mode, IdSet::from_words(&words)).ok_or(InjectError::Unknown { tid, number: mode })
}

/// Bytes that are mapped: the kernel takes whole pages, of any size.
const PAGE: u64 = 4096;

/// Arguments of `mmap(2)` for such a page.
fn with_page(address: u64, bytes: u64, file: u64) -> [u64; 6] {
    let [protection, flags] = sys::PAGE_OF_ONES_OWN;
    [address, bytes, protection, flags, file, 0]
}

/// By way of that page: the number and the words of the policy that is then in force.
fn set_and_read_back(
    held: &mut Held<'_>,
    page: u64,
    policy: &Policy,
) -> Result<(u32, Vec<u64>), InjectError> {
    let mut words = policy.nodes.words().to_vec();
    if words.len() > NODE_WORDS {
        return Err(InjectError::Refused { call: "set_mempolicy", tid: held.tid(), errno: Errno::EINVAL });
    }
    words.resize(NODE_WORDS, 0);
    held.write(page, &words)?;
    let bits = NODE_BITS as u64;
    held.call("set_mempolicy", number::SET_MEMPOLICY, [policy.number().into(), page, bits, 0, 0, 0])?;
    let mode_at = page + 8 * NODE_WORDS as u64;
    held.call("get_mempolicy", number::GET_MEMPOLICY, [mode_at, page, bits, 0, 0, 0])?;
    held.read(page, &mut words)?;
    let mut mode = [0];
    held.read(mode_at, &mut mode)?;
    // An `int`, and zeros.
    let [low, high] = [mode[0] as u32, (mode[0] >> 32) as u32];
    Ok((if cfg!(target_endian = "little") { low } else { high }, words))
}

/// What `/proc/TID/status` says of a thread.
struct Status {
    process: u32,
    tracer: u32,
    seccomp: bool,
}

impl Status {
    /// `None`: it is gone, or about to be.
    fn read(tid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/task/{tid}/status")).ok()?;
        let value =
            |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()));
        if value("State")?.starts_with(['Z', 'X']) {
            return None;
        }
        Some(Self {
            process: value("Tgid")?.parse().ok()?,
            tracer: value("TracerPid")?.parse().ok()?,
            seccomp: value("Seccomp").is_some_and(|mode| mode != "0"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::memory::Mode;

    fn refusal(tid: u32, start_time: u64) -> InjectError {
        let policy = Policy::new(Mode::Local, IdSet::default());
        set_policy(TaskId { tid, start_time }, &policy, Duration::from_secs(5)).unwrap_err()
    }

    #[test]
    fn who_cannot_be_traced_is_named() {
        let me = std::process::id();
        let start_time = Host.start_time(me).unwrap();
        assert!(matches!(refusal(me, start_time), InjectError::Own { tid } if tid == me));
        assert!(matches!(refusal(me, start_time + 1), InjectError::Gone { .. }), "another task's time");
        assert!(matches!(refusal(u32::MAX >> 1, 0), InjectError::Gone { .. }));
        // kthreadd, in the initial pid namespace.
        if sys::in_initial_pid_namespace() {
            let start_time = Host.start_time(2).unwrap();
            assert!(matches!(refusal(2, start_time), InjectError::KernelThread { tid: 2 }));
        }
    }
}
