//! Lines on their way out: standard output of `run`, and standard error of every command.
//!
//! Who reads them must not hold up who writes them, and may go away. So lines pass through a bounded queue to a thread of
//! their own: what does not fit, or cannot be written, is dropped and counted.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::host::capabilities;

/// Lines that wait for a slow reader.
const QUEUE: usize = 16_384;

/// After a line the writer looks again so much later, and only then waits to be woken: in a storm each line would wake it, which costs who
/// tells of it more than the line itself.
const NAP: Duration = Duration::from_millis(2);

/// How long the agent waits at its end for a reader that may have stopped to read.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Makes a line, on the thread that writes it.
type Line = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// The queue's near end; clones lead to the same writer.
#[derive(Debug, Clone)]
pub struct LineQueue {
    queue: SyncSender<Line>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// In the queue, or being written.
    pending: AtomicU64,
    dropped: AtomicU64,
}

impl LineQueue {
    /// Starts the thread that writes to `out`.
    #[must_use]
    pub fn start(mut out: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel::<Line>(QUEUE);
        let counts = Arc::new(Counts::default());
        let written = Arc::clone(&counts);
        std::thread::spawn(move || {
            // It writes to what is open already, and may be older than the agent's own renunciation.
            let _ = capabilities::keep_only(&[]);
            while let Ok(line) = lines.recv() {
                if out.write_all(&line()).and_then(|()| out.flush()).is_err() {
                    written.dropped.fetch_add(1, Ordering::Relaxed);
                }
                if written.pending.fetch_sub(1, Ordering::Release) == 1 {
                    std::thread::sleep(NAP);
                }
            }
        });
        Self { queue, counts }
    }

    /// Queues one line; never waits.
    pub fn line(&self, line: impl Into<String>) {
        let line = line.into();
        self.later(move || line);
    }

    /// Queues one line that is still to be put into words: not by who tells of it. Never waits.
    pub fn later(&self, line: impl FnOnce() -> String + Send + 'static) {
        self.push(Box::new(move || (line() + "\n").into_bytes()));
    }

    /// How many lines were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that is queued is written, at most for `patience`.
    pub fn flush_within(&self, patience: Duration) {
        let start = Instant::now();
        while self.counts.pending.load(Ordering::Acquire) > 0 && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn push(&self, line: Line) {
        // Counted before the writer can have it.
        self.counts.pending.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(line).is_err() {
            self.counts.pending.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// For whom a line is one call of `write`, as the log's.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let bytes = line.to_vec();
        self.push(Box::new(move || bytes));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (out, mut reader) = UnixStream::pair().unwrap();
        let mut lines = LineQueue::start(out);
        lines.line("one");
        lines.write_all(b"two\n").unwrap();
        lines.flush_within(Duration::from_secs(20));
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        // Never accepts a byte until the test is over.
        let (gate, closed) = std::sync::mpsc::channel::<()>();
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(line.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = LineQueue::start(Stuck(closed));
        for _ in 0..2 * QUEUE {
            lines.line("x");
        }
        let dropped = lines.dropped() as usize;
        assert!((QUEUE - 1..=QUEUE).contains(&dropped), "{dropped}");
        let start = Instant::now();
        lines.flush_within(Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(10));
        drop(gate);
    }

    #[test]
    fn a_reader_that_went_away_is_counted() {
        let (out, reader) = UnixStream::pair().unwrap();
        drop(reader);
        let lines = LineQueue::start(out);
        for _ in 0..3 {
            lines.line("x");
        }
        lines.flush_within(Duration::from_secs(20));
        assert_eq!(lines.dropped(), 3);
    }
}
