//! The thread that serves viewers: accepts, takes the loop's news, has snapshots made, and cleans up.

use std::{cell::RefCell, io, os::unix, rc::Rc, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::{Instant, timeout},
};

use super::{
    END_PATIENCE, FAREWELL, TRIM_PAUSE,
    conversation::{Caller, converse},
    feed::{Demand, Feed, News},
    hub::{Hub, printed},
};
use crate::{
    core::view::{
        Line, Status,
        build::{Reading, snapshot},
        load::CpuTimes,
    },
    host::{
        listen::Listening,
        procfs,
        sys::{self, Peer},
    },
};

/// How long nobody is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where viewers come from.
#[derive(Debug)]
pub enum Door {
    /// A socket.
    Socket(Listening),
    /// There is one, and will be no other.
    One(unix::net::UnixStream),
}

/// The thread. Dropped, it waits until viewers have heard the last; all clones of the feed must be gone by then.
#[derive(Debug)]
pub struct Server(Option<JoinHandle<()>>);

impl Server {
    /// Starts it; what is told to the feed goes to who comes.
    ///
    /// # Errors
    /// If the thread's event loop cannot be made.
    pub fn start(door: Door) -> io::Result<(Self, Feed)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Snapshots are made one after the other: the agent has other use for the machine's CPUs.
            .max_blocking_threads(1)
            .build()?;
        let (feed, demand, news) = Feed::new();
        let began = Instant::now();
        let serve = move || {
            let end = Arc::clone(&demand);
            let served = LocalSet::new().block_on(&runtime, async {
                Reception::new(demand, door, began)?.serve(news).await;
                io::Result::Ok(())
            });
            if let Err(error) = served {
                tracing::warn!("nobody can look at this agent: {error}");
            }
            end.end();
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("viewers".to_owned()).spawn(serve)?;
        Ok((Self(Some(thread)), feed))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(thread) = self.0.take() else { return };
        let began = Instant::now();
        // A descriptor that somebody has sent us may take its time to close.
        while !thread.is_finished() && began.elapsed() < FAREWELL + END_PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::warn!("the thread that serves viewers has panicked");
        }
    }
}

/// A snapshot that has been made, and who wants it.
type Made = (Arc<str>, Vec<u64>);

/// Who serves, and whom.
struct Reception {
    hub: Rc<RefCell<Hub>>,
    socket: Option<(UnixListener, Listening)>,
    conversations: JoinSet<()>,
    making: JoinSet<Made>,
    began: Instant,
}

impl Reception {
    fn new(demand: Arc<Demand>, door: Door, began: Instant) -> io::Result<Self> {
        let hub = Rc::new(RefCell::new(Hub::new(demand)));
        let (conversations, making) = (JoinSet::new(), JoinSet::new());
        let mut reception = Self { hub, socket: None, conversations, making, began };
        match door {
            Door::Socket(socket) => {
                let listener = UnixListener::from_std(socket.listener().try_clone()?)?;
                reception.socket = Some((listener, socket));
            }
            Door::One(stream) => {
                stream.set_nonblocking(true)?;
                reception.welcome(UnixStream::from_std(stream)?, Caller::Root);
            }
        }
        Ok(reception)
    }

    /// Until the loop has no more to say, or there can be nobody to hear it.
    async fn serve(mut self, mut news: mpsc::Receiver<News>) {
        let (mut watched, mut trimmed) = (false, None::<Instant>);
        while self.socket.is_some() || !self.conversations.is_empty() {
            tokio::select! {
                told = news.recv() => match told {
                    Some(told) => self.take(told),
                    None => break,
                },
                Some(made) = self.making.join_next() => match made {
                    Ok((text, viewers)) => self.hub.borrow_mut().snapshot(&text, &viewers),
                    Err(error) => {
                        tracing::warn!("a snapshot could not be made: {error}");
                        self.hub.borrow_mut().not_made();
                    }
                },
                Some(_) = self.conversations.join_next() => {}
                (stream, caller) = accept(&self.socket) => self.welcome(stream, caller),
            }
            let is_watched = self.hub.borrow().is_watched();
            if watched && !is_watched && trimmed.is_none_or(|at| at.elapsed() >= TRIM_PAUSE) {
                // The readings that they had.
                sys::release_freed_memory();
                trimmed = Some(Instant::now());
            }
            watched = is_watched;
        }
        // From now on another agent may listen there.
        drop(self.socket);
        self.hub.borrow_mut().close();
        let farewell = async { while self.conversations.join_next().await.is_some() {} };
        // Who has not taken the last lines by then will not.
        let _ = timeout(FAREWELL, farewell).await;
    }

    fn take(&mut self, news: News) {
        match news {
            News::Event(line) => self.hub.borrow_mut().event(line),
            News::Status(status) => {
                let line = Line::Status(Box::new(finished(*status, self.began)));
                self.hub.borrow_mut().state(&printed(&line));
            }
            News::Reading(reading) => {
                let reading = Arc::new(Reading { cpus: cpu_times(), ..*reading });
                let wanted = self.hub.borrow_mut().reading(&reading);
                for (since, viewers) in wanted {
                    let (now, began) = (Arc::clone(&reading), self.began);
                    self.making.spawn_blocking(move || (made(&since, &now, began), viewers));
                }
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream, caller: Caller) {
        let id = self.hub.borrow_mut().next_id();
        let conversation = converse(Rc::clone(&self.hub), id, stream, caller);
        let conversation = self.conversations.spawn_local(conversation);
        self.hub.borrow_mut().came(id, caller == Caller::Root, conversation);
    }
}

/// The next who connects; for ever pending without a socket.
async fn accept(socket: &Option<(UnixListener, Listening)>) -> (UnixStream, Caller) {
    let Some((listener, listening)) = socket else { return std::future::pending().await };
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let peer = sys::peer(&stream)?;
            Ok((stream, caller(&peer, sys::own_uid(), listening.group())))
        });
        match accepted {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!("a viewer could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The socket's permissions keep others out; should somebody have changed them, this does.
fn caller(peer: &Peer, own_uid: u32, group: u32) -> Caller {
    match peer.uid {
        0 => Caller::Root,
        uid if uid == own_uid || peer.groups.contains(&group) => Caller::Viewer,
        _ => Caller::Stranger,
    }
}

fn made(since: &Reading, now: &Reading, began: Instant) -> Arc<str> {
    let mut snapshot = snapshot(since, now);
    snapshot.status = finished(snapshot.status, began);
    printed(&Line::Snapshot(Box::new(snapshot)))
}

/// With what only a clock and `/proc` tell.
fn finished(mut status: Status, began: Instant) -> Status {
    let usage = procfs::own_usage();
    status.at = sys::now_rfc3339();
    status.agent.uptime = began.elapsed().as_secs_f64();
    (status.agent.rss, status.agent.cpu_seconds) = usage.unzip();
    status
}

fn cpu_times() -> Option<CpuTimes> {
    std::fs::read_to_string("/proc/stat").ok().map(|text| CpuTimes::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_agents_own_user_and_the_group_may_look() {
        let peer = |uid, groups: &[u32]| Peer { pid: 1, uid, groups: groups.to_vec() };
        assert_eq!(caller(&peer(0, &[]), 7, 991), Caller::Root);
        assert_eq!(caller(&peer(7, &[]), 7, 991), Caller::Viewer);
        assert_eq!(caller(&peer(8, &[8, 991]), 7, 991), Caller::Viewer);
        assert_eq!(caller(&peer(8, &[8, 0]), 7, 991), Caller::Stranger);
    }
}
