//! Lines from wherever they come, on a thread of their own: an agent that goes away is connected to again, and one that comes takes the
//! place of programs of our own.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

use super::app::Link;
use crate::core::view::Line;

/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);

/// A connection.
pub struct Connection {
    /// Its lines.
    pub lines: Box<dyn Iterator<Item = Result<Line, Broken>> + Send>,
    /// Asks for snapshots so many milliseconds apart from now on, from any thread.
    pub pace: Box<dyn Fn(u64) + Send>,
    /// Ends it, from any thread.
    pub close: Box<dyn Fn() + Send>,
}

/// Why no line came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// There may be more.
    Silent(String),
    /// There will be no more on this connection.
    Over(String),
}

/// Makes connections to the agent: the milliseconds between snapshots go in.
pub type Connect = Box<dyn FnMut(u64) -> Result<Connection, String> + Send>;

/// What comes.
#[derive(Debug)]
pub enum News {
    /// A line.
    Line(Box<Line>),
    /// A connection, or none any more.
    Link(Link),
    /// That was all, and why.
    Over(String),
}

/// Where lines come from.
pub struct Source {
    /// A connection that is made already.
    pub first: Connection,
    /// What it leads to: [`Link::Agent`] or [`Link::Own`].
    pub leads_to: Link,
    /// Milliseconds until its first snapshot.
    pub first_ms: u64,
    /// Milliseconds between snapshots.
    pub interval_ms: u64,
    /// Makes the next ones.
    pub connect: Connect,
}

/// The pace, and what asks for another.
struct Pace {
    interval_ms: u64,
    ask: Option<Box<dyn Fn(u64) + Send>>,
}

type Shared = Arc<Mutex<Pace>>;

/// Has the pace changed.
pub struct Pacer(Shared);

/// Nobody listens any more.
#[derive(Debug)]
pub struct Gone;

struct Reader<T> {
    tell: T,
    pace: Shared,
}

/// A connection to the agent, its pace, and what makes others.
type Found = (Connection, u64, Connect);

/// What comes when the first connection has ended.
enum Then {
    /// It is made again.
    Connect(Connect),
    /// The agent, if one has been found meanwhile.
    Agent(Receiver<Found>),
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Reads on a thread of its own, and tells of all that comes until nobody listens.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn read(self, tell: impl Fn(News) -> Result<(), Gone> + Send + 'static) -> io::Result<Pacer> {
        let Self { mut first, leads_to, first_ms, interval_ms, connect } = self;
        let pace = Shared::new(Mutex::new(Pace { interval_ms, ask: None }));
        let reader = Reader { tell, pace: Arc::clone(&pace) };
        let then = if leads_to == Link::Agent {
            Then::Connect(connect)
        } else {
            let close = std::mem::replace(&mut first.close, Box::new(|| {}));
            Then::Agent(look_out(connect, Arc::downgrade(&pace), close)?)
        };
        let read = move || {
            let Err(Gone) = reader.read(first, &leads_to, first_ms, then);
        };
        std::thread::Builder::new().name("lines".to_owned()).spawn(read)?;
        Ok(Pacer(pace))
    }
}

/// Looks for an agent on a thread of its own until there is one, and has our own programs ended then; or until nobody reads any more.
fn look_out(
    mut connect: Connect,
    pace: Weak<Mutex<Pace>>,
    close: Box<dyn Fn() + Send>,
) -> io::Result<Receiver<Found>> {
    let (found, agent) = sync_channel(1);
    let look = move || {
        loop {
            std::thread::sleep(RETRY);
            let Some(interval_ms) = pace.upgrade().map(|pace| locked(&pace).interval_ms) else { return };
            let Ok(mut agent) = connect(interval_ms) else { continue };
            // One that refuses, or that we do not understand, is of no use.
            let Some(Ok(line)) = agent.lines.next() else { continue };
            agent.lines = Box::new(std::iter::once(Ok(line)).chain(agent.lines));
            // There is room for it; who reads may have gone.
            drop(found.send((agent, interval_ms, connect)));
            return close();
        }
    };
    std::thread::Builder::new().name("agent".to_owned()).spawn(look)?;
    Ok(agent)
}

impl Pacer {
    /// From now on snapshots are so many milliseconds apart.
    pub fn set(&self, interval_ms: u64) {
        let mut pace = locked(&self.0);
        pace.interval_ms = interval_ms;
        if let Some(ask) = &pace.ask {
            ask(interval_ms);
        }
    }
}

impl<T: Fn(News) -> Result<(), Gone>> Reader<T> {
    fn read(
        self,
        first: Connection,
        leads_to: &Link,
        first_ms: u64,
        then: Then,
    ) -> Result<std::convert::Infallible, Gone> {
        let early = first_ms < locked(&self.pace).interval_ms;
        let mut why = self.lines(first, leads_to, first_ms, early)?;
        let mut connect = match then {
            Then::Connect(connect) => connect,
            Then::Agent(agent) => {
                let Ok((agent, made_ms, connect)) = agent.try_recv() else {
                    self.tell(News::Over(why))?;
                    return Err(Gone);
                };
                why = self.lines(agent, &Link::Agent, made_ms, false)?;
                connect
            }
        };
        loop {
            self.tell(News::Link(Link::Lost(why)))?;
            std::thread::sleep(RETRY);
            let interval_ms = locked(&self.pace).interval_ms;
            why = match connect(interval_ms) {
                Ok(connection) => self.lines(connection, &Link::Agent, interval_ms, false)?,
                Err(why) => why,
            };
        }
    }

    /// Passes a connection's lines on, up to its end; why it ended. It was made at a pace of `made_ms`; where that is for an `early`
    /// first snapshot, another is asked for only then.
    fn lines(
        &self,
        connection: Connection,
        leads_to: &Link,
        made_ms: u64,
        mut early: bool,
    ) -> Result<String, Gone> {
        {
            let mut pace = locked(&self.pace);
            if !early && pace.interval_ms != made_ms {
                (connection.pace)(pace.interval_ms);
            }
            pace.ask = Some(connection.pace);
        }
        self.tell(News::Link(leads_to.clone()))?;
        let (mut why, mut silent) = ("the connection was closed".to_owned(), false);
        for line in connection.lines {
            match line {
                Ok(line) => {
                    if silent {
                        self.tell(News::Link(leads_to.clone()))?;
                    }
                    silent = false;
                    if early && matches!(line, Line::Snapshot(_)) {
                        early = false;
                        let pace = locked(&self.pace);
                        pace.ask.iter().for_each(|ask| ask(pace.interval_ms));
                    }
                    self.tell(News::Line(Box::new(line)))?;
                }
                Err(Broken::Silent(why)) => {
                    silent = true;
                    self.tell(News::Link(Link::Silent(why)))?;
                }
                Err(Broken::Over(reason)) => {
                    why = reason;
                    break;
                }
            }
        }
        locked(&self.pace).ask = None;
        Ok(why)
    }

    fn tell(&self, news: News) -> Result<(), Gone> {
        (self.tell)(news)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;

    use super::*;

    /// What the other end of a connection has: what it says, and what it is asked.
    struct Far {
        say: SyncSender<Result<Line, Broken>>,
        asked: Receiver<u64>,
    }

    impl Far {
        fn says(&self, events: u64) {
            self.say.send(Ok(Line::Missed { schema: 1, events })).unwrap();
        }

        fn ends(&self, why: &str) {
            self.say.send(Err(Broken::Over(why.into()))).unwrap();
        }
    }

    fn connection() -> (Connection, Far) {
        let (say, near) = sync_channel(8);
        let (ask, asked) = sync_channel(8);
        // Closing makes the reader see an end.
        let end = say.clone();
        let close = move || drop(end.try_send(Err(Broken::Over("closed".into()))));
        let pace = move |ms| ask.try_send(ms).expect("room");
        let near = near.into_iter();
        (
            Connection { lines: Box::new(near), pace: Box::new(pace), close: Box::new(close) },
            Far { say, asked },
        )
    }

    /// A source that is read.
    struct Stage {
        far: Far,
        /// Later connections come with the pace that they were made with, as soon as they may.
        connections: Receiver<(u64, Far)>,
        may_connect: SyncSender<()>,
        news: Receiver<News>,
        pacer: Pacer,
    }

    fn stage(leads_to: Link, first_ms: u64, interval_ms: u64) -> Stage {
        let (first, far) = connection();
        let (made, connections) = sync_channel(8);
        let (may_connect, may) = sync_channel(8);
        let connect = move |interval_ms| {
            may.recv().map_err(|_| "over".to_owned())?;
            let (connection, far) = connection();
            made.send((interval_ms, far)).map_err(|_| "over".to_owned())?;
            Ok(connection)
        };
        let source = Source { first, leads_to, first_ms, interval_ms, connect: Box::new(connect) };
        let (tell, news) = sync_channel(64);
        let pacer = source.read(move |told| tell.send(told).map_err(|_| Gone)).unwrap();
        Stage { far, connections, may_connect, news, pacer }
    }

    /// The next news in a few words.
    fn next(news: &Receiver<News>) -> String {
        match news.recv_timeout(Duration::from_secs(60)).unwrap() {
            News::Line(line) => match *line {
                Line::Missed { events, .. } => format!("line {events}"),
                Line::Snapshot(_) => "snapshot".to_owned(),
                other => format!("{other:?}"),
            },
            News::Link(Link::Lost(why)) => format!("lost: {why}"),
            News::Link(Link::Silent(why)) => format!("silent: {why}"),
            News::Link(link) => format!("{link:?}"),
            News::Over(why) => format!("over: {why}"),
        }
    }

    #[test]
    fn an_agent_that_went_away_is_tried_again_at_the_pace_that_was_asked_for_last() {
        let Stage { far, connections, may_connect, news, pacer } = stage(Link::Agent, 1000, 1000);
        far.says(1);
        assert_eq!([next(&news), next(&news)], ["Agent", "line 1"]);
        far.say.send(Err(Broken::Silent("slow".into()))).unwrap();
        far.says(2);
        assert_eq!([next(&news), next(&news), next(&news)], ["silent: slow", "Agent", "line 2"]);
        pacer.set(500);
        assert_eq!(far.asked.recv(), Ok(500), "on the same connection");
        far.ends("gone");
        assert_eq!(next(&news), "lost: gone");
        may_connect.send(()).unwrap();
        let (interval_ms, far) = connections.recv().unwrap();
        far.says(3);
        assert_eq!((interval_ms, next(&news), next(&news)), (500, "Agent".into(), "line 3".into()));
    }

    #[test]
    fn a_pace_that_is_asked_for_while_connecting_is_not_forgotten() {
        let Stage { far, connections, may_connect, news, pacer } = stage(Link::Agent, 1000, 1000);
        far.ends("gone");
        assert_eq!([next(&news), next(&news)], ["Agent", "lost: gone"]);
        // It has begun to connect, or is about to.
        std::thread::sleep(RETRY + Duration::from_millis(200));
        pacer.set(200);
        pacer.set(500);
        may_connect.send(()).unwrap();
        let (made_ms, far) = connections.recv().unwrap();
        assert_eq!(next(&news), "Agent");
        assert_eq!((made_ms, far.asked.recv()), (1000, Ok(500)));
    }

    #[test]
    fn where_the_interval_is_long_the_first_snapshot_is_early() {
        let snapshot = || crate::view::synthetic::a3(1).pop().unwrap();
        let Stage { far, news, .. } = stage(Link::Agent, 1000, 60_000);
        far.says(1);
        assert_eq!([next(&news), next(&news)], ["Agent", "line 1"]);
        assert!(far.asked.try_recv().is_err(), "it was made at the first pace");
        far.say.send(Ok(snapshot())).unwrap();
        assert_eq!((next(&news).as_str(), far.asked.recv()), ("snapshot", Ok(60_000)));
        far.say.send(Ok(snapshot())).unwrap();
        assert_eq!(next(&news), "snapshot");
        assert!(far.asked.try_recv().is_err(), "once");
    }

    #[test]
    fn an_agent_that_comes_takes_the_place_of_programs_of_our_own() {
        let own = Link::Own("/run/a.sock".into());
        let Stage { far, connections, may_connect, news, pacer } = stage(own, 1000, 1000);
        far.says(1);
        assert_eq!([next(&news), next(&news)], ["Own(\"/run/a.sock\")", "line 1"]);
        pacer.set(2000);
        assert_eq!(far.asked.recv(), Ok(2000));
        // One that refuses is none.
        may_connect.send(()).unwrap();
        connections.recv().unwrap().1.ends("too many viewers");
        far.says(2);
        assert_eq!(next(&news), "line 2");
        may_connect.send(()).unwrap();
        let (interval_ms, agent) = connections.recv().unwrap();
        agent.says(3);
        assert_eq!((interval_ms, next(&news), next(&news)), (2000, "Agent".into(), "line 3".into()));
        agent.ends("gone");
        assert_eq!(next(&news), "lost: gone", "from now on it is waited for");
    }

    #[test]
    fn programs_of_our_own_that_end_are_the_end() {
        let Stage { far, news, .. } = stage(Link::Own("/run/a.sock".into()), 1000, 1000);
        far.ends("a signal");
        assert_eq!([next(&news), next(&news)], ["Own(\"/run/a.sock\")", "over: a signal"]);
    }

    #[test]
    fn nobody_who_listens_is_the_end() {
        let Stage { far, connections, news, .. } = stage(Link::Agent, 1000, 1000);
        drop(news);
        // It ends at the latest with the next line.
        while far.say.send(Ok(Line::Missed { schema: 1, events: 1 })).is_ok() {}
        assert!(connections.recv().is_err());
    }
}
