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
    unreadable: u64,
}

/// What tells that its ring is half full.
pub type Signal = AsyncFd<OwnedFd>;

impl Tapped {
    /// Records what the ring tells.
    #[must_use]
    pub fn new(ring: TapRing) -> Self {
        Self { ring, taps: Taps::default(), unreadable: 0 }
    }

    /// What to wait for, besides coming round once a second.
    pub fn signal(&self) -> anyhow::Result<Signal> {
        sys::watch(self.ring.fd()?).context("the tap's ring")
    }

    /// Takes what is there.
    pub fn drain(&mut self) {
        self.drain_until(u64::MAX);
    }

    /// The same up to the first send that is later than `end_ns`; whether there may be more.
    fn drain_until(&mut self, end_ns: u64) -> bool {
        for _ in 0..BATCH {
            match self.ring.next_send() {
                None => return false,
                Some(Ok(send)) if send.at_ns > end_ns => return false,
                Some(Ok(send)) => self.taps.send(&send),
                Some(Err(error)) => {
                    self.unreadable += 1;
                    tracing::warn!("send on a tapped connection: {error}");
                }
            }
        }
        true
    }

    /// The connections, and what was lost, in words.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Connection>, Option<String>) {
        let now_ns = sys::monotonic_ns();
        while self.drain_until(now_ns) {}
        let lost = self.ring.lost() + self.taps.lost() + self.unreadable;
        let words = (lost > 0).then(|| format!("sends on tapped connections: {lost}"));
        (self.taps.into_connections(0), words)
    }
}
