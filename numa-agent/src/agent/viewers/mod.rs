//! Those who look at the agent: its socket, or a connection within this process.
//!
//! The loop's part is [`Feed`], which never waits: what there is no room for is left out, and counted. All else, connections,
//! requests, differences and JSON, is done on threads of ordinary priority: one that serves ([`serve`]), and those that it has
//! build snapshots. Without viewers the loop reads no account and prints no line for them.
//!
//! `agent::observe` runs the loop within the caller's process, changes nothing, and gives the near end of a connection on which
//! the caller asks as on the socket (`host::client::ask`); the observer ends when that is closed.

mod conversation;
mod feed;
mod hub;
mod serve;

use std::{path::Path, time::Duration};

use tokio::time::Instant;

#[cfg(test)]
pub(super) use self::feed::News;
pub(super) use self::{
    feed::{Feed, Viewing, Want},
    serve::{Door, Server},
};
use super::{Agent, Options, Socket, meter::Pass};
use crate::{
    core::{
        health::Health,
        view::{
            self,
            build::{Known, Reading, status},
        },
    },
    host::{
        listen::{ListenError, Listening, viewers_group},
        sys,
    },
    report::escape,
};

/// Viewers at a time.
const VIEWERS: usize = 32;
/// Of those, for root alone.
const FOR_ROOT: usize = 8;
/// Connections at a time that are no viewers, or not yet: the oldest gives way, root last.
const CALLERS: usize = 64;
/// How long a request may take to arrive, and a viewer may take nothing of what waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a viewer is not listened to once it has asked for another interval: that wakes the event thread.
const REQUEST_PAUSE: Duration = Duration::from_millis(100);
/// Lines that wait for a viewer.
const QUEUE: usize = 1024;
/// Readings that are kept for viewers' next snapshots to begin with: each is as large as all accounts. Viewers of one moment share one.
const READINGS: usize = 8;
/// What waits on the way from the loop.
const NEWS: usize = 4096;
/// How long viewers have to take the last lines once the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the thread that serves them has beyond that: the agent ends without it.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How often freed memory is given back to the kernel at most: it holds up all who allocate.
const TRIM_PAUSE: Duration = Duration::from_secs(60);

/// Opens the door; `None`: nobody will come. Where the default socket cannot be made, the agent does its work without; not beside
/// another agent.
pub(super) fn door(socket: &Socket, door: Option<Door>) -> Result<Option<Door>, ListenError> {
    let listen = |path: &Path, own| Listening::start(path, viewers_group(), own).map(Door::Socket);
    match (door, socket) {
        (Some(door), _) => Ok(Some(door)),
        (None, Socket::None) => Ok(None),
        (None, Socket::At(path)) => listen(path, false).map(Some),
        (None, Socket::Default) => match listen(view::SOCKET.as_ref(), true) {
            Ok(door) => Ok(Some(door)),
            Err(error @ (ListenError::Taken { .. } | ListenError::Locked { .. })) => Err(error),
            Err(error) => {
                let error = escape::text(&format!("{error:#}"));
                tracing::warn!("`numa-agent status` and `watch` cannot see this agent: {error}");
                Ok(None)
            }
        },
    }
}

/// What the agent is.
pub(super) fn about(options: &Options, health: &Health, started_at: &str) -> view::Agent {
    let (host, kernel) = sys::uname().unwrap_or_default();
    view::Agent {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host,
        kernel,
        started_at: started_at.to_owned(),
        uptime: 0.0,
        enforcing: !options.dry_run,
        policy: None,
        programs: health.summary(),
        missing_programs: health.failed().map(|program| program.name.to_owned()).collect(),
        rss: None,
        cpu_seconds: None,
    }
}

impl Agent {
    /// Viewers want something, and no pass is under way.
    pub(super) fn look(&mut self, want: Want) {
        match want {
            Want::Status => {
                let began = Instant::now();
                if let Some((viewing, status)) = self.status() {
                    viewing.tell_status(status, began);
                }
            }
            Want::Reading => {
                if let Some(viewing) = &mut self.viewing {
                    viewing.begin();
                    self.executor.marks.observer.note_ends();
                    self.pass = Some(Pass::for_viewers());
                }
            }
            Want::Nothing => self.viewing = None,
        }
    }

    /// Tells viewers what a pass has read.
    pub(super) fn show(&mut self, pass: Pass) {
        let observer = &mut self.executor.marks.observer;
        let (ended, moves_of_ended) = (observer.take_ends(), *observer.moves_of_ended());
        let (places, measured) = (observer.shared_places(), observer.measured());
        let Some((viewing, status)) = self.status() else { return };
        let threads = pass.living.unwrap_or_default();
        let at_ns = sys::monotonic_ns();
        viewing.tell_reading(Reading {
            status,
            at_ns,
            threads,
            ended,
            moves_of_ended,
            places,
            measured,
            cpus: None,
        });
    }

    fn status(&mut self) -> Option<(&mut Viewing, view::Status)> {
        let viewing = self.viewing.as_mut()?;
        let known = Known {
            engine: &self.engine,
            planned: self.executor.marks.is_planned(),
            stats: &self.executor.stats,
            lost: &self.lost,
            unreadable: self.unreadable,
        };
        let status = status(&known, viewing.agent());
        Some((viewing, status))
    }
}

#[cfg(test)]
mod tests;
