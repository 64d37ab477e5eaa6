//! What a thread of a puppet may be busy with, over and over, while something is done to it. It finds out by itself whether that showed: a call
//! that failed, ended early or late, a byte that was lost, a sum that is wrong.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::gettid,
};
use serde::{Deserialize, Serialize};

use crate::sys;

/// What it is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Occupation {
    /// Sleeps.
    Sleep,
    /// Waits on a futex, for somebody who wakes it.
    Futex,
    /// Waits on a futex for a time.
    FutexTime,
    /// Reads from a pipe.
    Pipe,
    /// Waits for a pipe with epoll.
    Epoll,
    /// Waits for a pipe with poll, for a time.
    PollTime,
    /// Waits for a pipe with epoll, for a time: interrupted, that begins anew.
    EpollTime,
    /// Waits for a signal, for a time: interrupted, that begins anew.
    SignalTime,
    /// Computes.
    Compute,
    /// Computes with all signals blocked.
    Deaf,
    /// Computes under a storm of signals.
    Storm,
    /// Sleeps where nothing interrupts it.
    Uninterruptible,
    /// Spins in restartable sequences, which signals abort.
    #[cfg(target_arch = "x86_64")]
    Sequence,
    /// Reads and writes every page of its memory, which it takes under the policy that it has.
    Touch,
    /// Maps a page and unmaps it again, every now and then.
    Map,
}

/// How long one wait takes.
pub const WAIT: Duration = Duration::from_millis(120);

/// A thread that is busy so.
pub struct Occupant {
    with: Occupation,
    /// Times that it did it.
    pub rounds: u32,
    /// The longest that one page made it wait: a touch of it, or mapping and unmapping it.
    pub longest: Duration,
    pipe: (io::PipeReader, u8),
    word: Arc<AtomicU32>,
    /// A number in each page, of [`Occupation::Touch`]: the page's own and how often it was touched.
    memory: Vec<u64>,
}

/// Pages that [`Occupation::Touch`] has, and words of one.
pub const TOUCHED_PAGES: usize = 4096;
const PAGE_WORDS: usize = 4096 / 8;

/// Between two pages of [`Occupation::Map`]: one that maps all the time would keep everybody else from its mappings.
const MAP_EVERY: Duration = Duration::from_millis(1);

impl Occupant {
    /// Gets ready, on the thread that will be busy.
    ///
    /// # Errors
    /// If there is no pipe, or no handler can be set.
    pub fn new(with: Occupation) -> Result<Self> {
        // The result to compare with, before anybody interferes.
        compute()?;
        let (reader, writer) = io::pipe().context("a pipe")?;
        let word = Arc::new(AtomicU32::new(0));
        match with {
            Occupation::Pipe | Occupation::Epoll => drop(thread::spawn(move || write_on(writer))),
            Occupation::Futex => {
                let word = Arc::clone(&word);
                thread::spawn(move || wake_on(&word));
            }
            Occupation::Storm => {
                sys::count_queued_signals().context("a handler")?;
                let tid = gettid().as_raw().cast_unsigned();
                thread::spawn(move || storm(tid));
            }
            #[cfg(target_arch = "x86_64")]
            Occupation::Sequence => {
                sys::count_queued_signals().context("a handler")?;
                let tid = gettid().as_raw().cast_unsigned();
                thread::spawn(move || {
                    loop {
                        thread::sleep(WAIT / 12);
                        let _ = sys::queue_signal(tid, 0);
                    }
                });
            }
            Occupation::Deaf => sys::block_signals(),
            // Open, and silent.
            _ => std::mem::forget(writer),
        }
        let mut memory = Vec::new();
        if with == Occupation::Touch {
            memory = vec![0; TOUCHED_PAGES * PAGE_WORDS];
            for (index, page) in memory.chunks_exact_mut(PAGE_WORDS).enumerate() {
                page.fill(mark(index, 0));
            }
        }
        Ok(Self { with, rounds: 0, longest: Duration::ZERO, pipe: (reader, 0), word, memory })
    }

    /// Does it once.
    ///
    /// # Errors
    /// If anything is not as it would be on a thread that is left alone.
    pub fn round(&mut self) -> Result<()> {
        let start = Instant::now();
        let timed = match self.with {
            Occupation::Sleep => {
                sys::nanosleep(WAIT).context("nanosleep")?;
                true
            }
            Occupation::FutexTime => {
                let result = sys::futex_wait(&AtomicU32::new(0), 0, Some(WAIT));
                ensure!(is(&result, Errno::ETIMEDOUT), "futex: {result:?}");
                true
            }
            Occupation::PollTime => {
                let time = PollTimeout::try_from(WAIT)?;
                let ready = poll(&mut [PollFd::new(self.pipe.0.as_fd(), PollFlags::POLLIN)], time);
                ensure!(ready == Ok(0), "poll: {ready:?}");
                true
            }
            Occupation::EpollTime => {
                let ready = sys::epoll_once(self.pipe.0.as_fd(), Some(WAIT)).context("epoll")?;
                ensure!(ready == 0, "epoll: {ready} ready");
                true
            }
            Occupation::SignalTime => {
                let result = sys::wait_for_signal(nix::libc::SIGUSR2, WAIT);
                ensure!(is(&result, Errno::EAGAIN), "sigtimedwait: {result:?}");
                true
            }
            Occupation::Futex => {
                let before = self.word.load(Ordering::Acquire);
                let result = sys::futex_wait(&self.word, before, None);
                ensure!(result.is_ok() || is(&result, Errno::EAGAIN), "futex: {result:?}");
                ensure!(self.word.load(Ordering::Acquire) != before, "futex: woken by nobody");
                false
            }
            Occupation::Epoll | Occupation::Pipe => {
                if self.with == Occupation::Epoll {
                    let ready = sys::epoll_once(self.pipe.0.as_fd(), None).context("epoll")?;
                    ensure!(ready == 1, "epoll: {ready} ready");
                }
                let mut byte = [0];
                // Unlike `read_exact`, this returns what the kernel said.
                let read = self.pipe.0.read(&mut byte).context("read")?;
                ensure!((read, byte[0]) == (1, self.pipe.1), "read {read}: {byte:?}, not {}", self.pipe.1);
                self.pipe.1 = self.pipe.1.wrapping_add(1);
                false
            }
            Occupation::Compute | Occupation::Deaf | Occupation::Storm => {
                compute()?;
                if self.with == Occupation::Storm {
                    check_signals()?;
                }
                false
            }
            #[cfg(target_arch = "x86_64")]
            Occupation::Sequence => {
                sys::spin_in_sequence().context("rseq")?;
                false
            }
            Occupation::Touch => {
                self.touch()?;
                false
            }
            Occupation::Map => {
                thread::sleep(MAP_EVERY);
                let start = Instant::now();
                sys::map_and_unmap().context("mmap")?;
                self.longest = self.longest.max(start.elapsed());
                false
            }
            Occupation::Uninterruptible => {
                sys::sleep_uninterruptibly(WAIT).context("vfork")?;
                true
            }
        };
        ensure!(!timed || start.elapsed() >= WAIT, "{:?} in place of {WAIT:?}", start.elapsed());
        self.rounds += 1;
        Ok(())
    }
}

impl Occupant {
    fn touch(&mut self) -> Result<()> {
        for (index, page) in self.memory.chunks_exact_mut(PAGE_WORDS).enumerate() {
            // A word of each page, another one each time, and the last one, which tells of all times.
            let at = self.rounds as usize % (PAGE_WORDS - 1);
            let start = Instant::now();
            page[PAGE_WORDS - 1] = mark(index, u64::from(self.rounds) + 1);
            self.longest = self.longest.max(start.elapsed());
            ensure!(page[at] == mark(index, 0), "page {index} has {:x} at {at}", page[at]);
        }
        for (index, page) in self.memory.chunks_exact(PAGE_WORDS).enumerate() {
            let last = page[PAGE_WORDS - 1];
            ensure!(last == mark(index, u64::from(self.rounds) + 1), "page {index} has {last:x} at its end");
        }
        Ok(())
    }
}

fn mark(page: usize, times: u64) -> u64 {
    ((page as u64) << 32 | times).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn is<T>(result: &io::Result<T>, errno: Errno) -> bool {
    result.as_ref().err().and_then(io::Error::raw_os_error) == Some(errno as i32)
}

fn write_on(mut writer: io::PipeWriter) {
    let mut byte = 0u8;
    while writer.write_all(&[byte]).is_ok() {
        byte = byte.wrapping_add(1);
        thread::sleep(WAIT);
    }
}

fn wake_on(word: &AtomicU32) {
    loop {
        thread::sleep(WAIT);
        word.fetch_add(1, Ordering::Release);
        sys::futex_wake(word);
    }
}

/// Sends it signals that have 1, 2, 3 and so on in them.
fn storm(tid: u32) {
    let mut value = 1;
    loop {
        // Where the queue is full, the same again.
        if sys::queue_signal(tid, value).is_ok() {
            value += 1;
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// That each came once: of `n` the sum is that of 1 to `n`.
fn check_signals() -> Result<()> {
    // One may come between the two.
    let (sum, count) = loop {
        let found = sys::queued_signals();
        if found == sys::queued_signals() {
            break found;
        }
    };
    if sum != count * (count + 1) / 2 {
        bail!("{count} signals came, with {sum} in all");
    }
    Ok(())
}

/// A few milliseconds in registers and on the stack, floating point included, with a result that is known.
fn compute() -> Result<()> {
    const STEPS: u64 = 200_000;
    let (mut state, mut sum) = (0x9e37_79b9_7f4a_7c15_u64, 0.0_f64);
    let mut table = [0u64; 64];
    for step in 0..STEPS {
        state = std::hint::black_box(state).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
        table[(state >> 58) as usize] ^= state;
        sum += (state >> 40) as f64;
    }
    let found = (state, table.iter().fold(0, |all, word| all ^ word), sum.to_bits());
    static EXPECTED: std::sync::OnceLock<(u64, u64, u64)> = std::sync::OnceLock::new();
    let expected = EXPECTED.get_or_init(|| found);
    ensure!(found == *expected, "computed {found:?}, not {expected:?}");
    Ok(())
}
