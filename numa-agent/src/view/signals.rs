//! Signals that end the view or bring it back, as flags: a full queue loses none of them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use crate::host::sys::Signal;

/// Within this time a signal that others have seen is seen here.
const SOON: Duration = Duration::from_millis(200);

/// What was asked for by signals.
#[derive(Debug, Default)]
pub struct Signals {
    end: AtomicBool,
    resumed: AtomicBool,
}

impl Signals {
    /// Whether one asked for the end.
    #[must_use]
    pub fn end(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    /// Whether one asked for the end, or is about to be taken: an observer of our own sees them too, and may be faster.
    #[must_use]
    pub fn end_soon(&self) -> bool {
        let until = Instant::now() + SOON;
        while !self.end() && Instant::now() < until {
            std::thread::sleep(SOON / 20);
        }
        self.end()
    }

    /// Whether somebody stopped us and we go on; once for each time it is asked.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed.swap(false, Ordering::SeqCst)
    }
}

/// Takes signals on a thread of its own. `wake` is called for each, and must not wait; `end` once, when one has asked for the end and
/// that did not come within `patience`, or before another one.
///
/// # Errors
/// If they cannot be taken.
pub fn watch(
    wake: impl Fn() + Send + 'static,
    patience: Duration,
    end: impl FnOnce() + Send + 'static,
) -> io::Result<Arc<Signals>> {
    let signals = Arc::<Signals>::default();
    let told = Arc::clone(&signals);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    // A raw terminal sends none; others may.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut go_on = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    drop(guard);
    let take = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => break,
                    _ = go_on.recv() => {
                        told.resumed.store(true, Ordering::SeqCst);
                        wake();
                    }
                }
            }
            told.end.store(true, Ordering::SeqCst);
            wake();
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        end();
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(take)?;
    Ok(signals)
}
