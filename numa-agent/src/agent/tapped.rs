//! The tap of a recording: sends go from the kernel side's ring to the connections of the recording.

use std::os::fd::OwnedFd;

use anyhow::Context;
use tokio::io::unix::AsyncFd;

use crate::{
    core::jitter::{recording::Connection, tap::Taps},
    host::{bpf::TapRing, sys},
};

/// Sends that are taken before the loop looks at other things again: some milliseconds' worth.
const BATCH: usize = 1 << 16;

/// A tap that is recorded.
pub struct Tapped {
    ring: TapRing,
    taps: Taps,
}

/// What tells that its ring is half full.
pub type Signal = AsyncFd<OwnedFd>;

impl Tapped {
    /// Records what the ring tells.
    #[must_use]
    pub fn new(ring: TapRing) -> Self {
        Self { ring, taps: Taps::default() }
    }

    /// What to wait for, besides coming round once a second.
    pub fn signal(&self) -> anyhow::Result<Signal> {
        sys::watch(self.ring.fd()?).context("the tap's ring")
    }

    /// Takes what is there.
    pub fn drain(&mut self) {
        for send in std::iter::from_fn(|| self.ring.next_send()).take(BATCH) {
            match send {
                Ok(send) => self.taps.send(&send),
                Err(error) => tracing::warn!("send on a tapped connection: {error}"),
            }
        }
    }

    /// The connections, and what was lost, in words.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Connection>, Option<String>) {
        self.drain();
        let lost = self.ring.lost() + self.taps.lost();
        let words = (lost > 0).then(|| format!("sends on tapped connections: {lost}"));
        (self.taps.into_connections(0), words)
    }
}

/// The ring is half full; for ever pending without a tap.
pub async fn half_full(signal: Option<&Signal>) {
    let Some(signal) = signal else { return std::future::pending().await };
    match signal.readable().await {
        Ok(mut ready) => ready.clear_ready(),
        // Only where the runtime is shutting down.
        Err(_) => std::future::pending().await,
    }
}
