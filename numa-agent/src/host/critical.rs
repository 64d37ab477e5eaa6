//! What the critical threads wait for a CPU meanwhile, by the agent that runs: whether pages may be moved. What follows from it is
//! [`Brake`]'s to say.

use std::{
    path::Path,
    sync::mpsc::{self, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use super::{
    client::{self, ClientError},
    repair::Next,
};
use crate::core::{
    memory::brake::Brake,
    view::{CriticalWaits, FASTEST_MS, Line, Request},
};

/// A connection to the agent, and what follows from its snapshots.
pub struct Critical {
    brake: Brake,
    heard: Instant,
    /// When each came, the interval that it is of, and the waits in it.
    snapshots: mpsc::Receiver<(Instant, Duration, CriticalWaits)>,
    /// Whether there ever was a critical thread.
    any: bool,
    close: Box<dyn Fn()>,
}

impl Critical {
    /// Asks the agent at `socket`. None of the critical threads is to wait longer than `max_wait`.
    ///
    /// # Errors
    /// If no agent answers.
    pub fn watch(socket: &Path, max_wait: Duration) -> Result<Self, ClientError> {
        let mut lines = client::connect(socket, Request::Watch { interval_ms: FASTEST_MS })?;
        // Its state, or why not.
        lines.answer()?;
        let close = Box::new(lines.closer()?);
        let (sender, snapshots) = mpsc::channel();
        thread::spawn(move || {
            for line in lines {
                let news = match line {
                    Ok(Line::Snapshot(snapshot)) => (
                        Instant::now(),
                        Duration::try_from_secs_f64(snapshot.seconds).unwrap_or_default(),
                        snapshot.critical,
                    ),
                    Ok(_) => continue,
                    Err(error) if error.may_pass() => continue,
                    Err(_) => return,
                };
                if sender.send(news).is_err() {
                    return;
                }
            }
        });
        let brake = Brake::new(max_wait.as_nanos().try_into().unwrap_or(u64::MAX));
        Ok(Self { brake, heard: Instant::now(), snapshots, any: false, close })
    }

    /// Whether pages may be moved now, for how much of the time if `duty_percent` is asked for.
    pub fn next(&mut self, duty_percent: u64) -> Next {
        loop {
            match self.snapshots.try_recv() {
                Ok((heard, interval, CriticalWaits { threads, longest_ns: Some(longest_ns) })) => {
                    self.any |= threads > 0;
                    self.heard = heard;
                    self.brake.report(interval.as_nanos() as u64, longest_ns);
                }
                Ok((_, _, CriticalWaits { longest_ns: None, .. })) => {
                    return Next::End(
                        "the agent does not measure what threads wait; `numa-agent doctor` says why"
                            .to_owned(),
                    );
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Next::End("the agent that --max-wait goes by has ended".to_owned());
                }
            }
        }
        if self.brake.holds(self.heard.elapsed().as_nanos() as u64) {
            return Next::Halt;
        }
        Next::Move { duty_percent: self.brake.duty_percent(duty_percent) }
    }

    /// Whether there was a critical thread to go by.
    #[must_use]
    pub fn any(&self) -> bool {
        self.any
    }
}

impl Drop for Critical {
    fn drop(&mut self) {
        (self.close)();
    }
}
