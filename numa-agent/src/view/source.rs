//! Lines from wherever they come, on a thread of their own: connected again when they end, at another pace when that is asked for.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
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

/// Makes connections: the milliseconds between snapshots go in.
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
    /// What it leads to.
    pub leads_to: Link,
    /// Milliseconds between its snapshots.
    pub interval_ms: u64,
    /// Makes the next ones.
    pub connect: Connect,
    /// Whether that is of use once a connection has ended by itself.
    pub retries: bool,
}

type Close = Arc<Mutex<Option<Box<dyn Fn() + Send>>>>;

/// Has the pace changed.
pub struct Pacer {
    pace: Sender<u64>,
    close: Close,
}

/// Nobody listens any more.
#[derive(Debug)]
pub struct Gone;

struct Reader<T> {
    tell: T,
    pace: Receiver<u64>,
    close: Close,
    leads_to: Link,
    retries: bool,
}

/// Why a connection ended.
enum End {
    /// Another pace was asked for.
    Pace(u64),
    /// By itself.
    Over(String),
}

impl Source {
    /// Reads on a thread of its own, and tells of all that comes until nobody listens.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn read(self, tell: impl Fn(News) -> Result<(), Gone> + Send + 'static) -> io::Result<Pacer> {
        let (pace, paces) = channel();
        let close = Close::default();
        let reader = Reader {
            tell,
            pace: paces,
            close: Arc::clone(&close),
            leads_to: self.leads_to,
            retries: self.retries,
        };
        let read = move || {
            let Err(Gone) = reader.read(self.first, self.interval_ms, self.connect);
        };
        std::thread::Builder::new().name("lines".to_owned()).spawn(read)?;
        Ok(Pacer { pace, close })
    }
}

impl Pacer {
    /// From now on snapshots are so many milliseconds apart.
    pub fn set(&self, interval_ms: u64) {
        // A reader that has ended needs no pace.
        let _ = self.pace.send(interval_ms);
        if let Some(close) = &*self.close.lock().unwrap_or_else(PoisonError::into_inner) {
            close();
        }
    }
}

impl<T: Fn(News) -> Result<(), Gone>> Reader<T> {
    fn read(
        self,
        first: Connection,
        mut interval_ms: u64,
        mut connect: Connect,
    ) -> Result<std::convert::Infallible, Gone> {
        let mut next = Ok(first);
        loop {
            let end = match next {
                Ok(connection) => self.lines(connection)?,
                Err(why) => End::Over(why),
            };
            interval_ms = match end {
                End::Pace(asked) => asked,
                End::Over(why) if !self.retries => {
                    self.tell(News::Over(why))?;
                    return Err(Gone);
                }
                End::Over(why) => {
                    self.tell(News::Link(Link::Lost(why)))?;
                    match self.pace.recv_timeout(RETRY) {
                        Ok(asked) => asked,
                        Err(RecvTimeoutError::Timeout) => interval_ms,
                        Err(RecvTimeoutError::Disconnected) => return Err(Gone),
                    }
                }
            };
            interval_ms = self.asked().unwrap_or(interval_ms);
            next = connect(interval_ms);
        }
    }

    /// The last pace that was asked for since.
    fn asked(&self) -> Option<u64> {
        self.pace.try_iter().last()
    }

    /// Passes a connection's lines on, up to its end.
    fn lines(&self, connection: Connection) -> Result<End, Gone> {
        let keep = |close| *self.close.lock().unwrap_or_else(PoisonError::into_inner) = close;
        keep(Some(connection.close));
        self.tell(News::Link(self.leads_to.clone()))?;
        // Asked for while the connection was made: there was nothing to close yet.
        if let Some(asked) = self.asked() {
            keep(None);
            return Ok(End::Pace(asked));
        }
        let (mut why, mut silent) = ("the connection was closed".to_owned(), false);
        for line in connection.lines {
            match line {
                Ok(line) => {
                    if silent {
                        self.tell(News::Link(self.leads_to.clone()))?;
                    }
                    silent = false;
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
        keep(None);
        Ok(self.asked().map_or(End::Over(why), End::Pace))
    }

    fn tell(&self, news: News) -> Result<(), Gone> {
        (self.tell)(news)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    type Far = SyncSender<Result<Line, Broken>>;

    /// A connection, and its other end.
    fn connection() -> (Connection, Far) {
        let (far, near) = sync_channel(8);
        // Closing makes the reader see an end.
        let end = far.clone();
        let close = move || drop(end.try_send(Err(Broken::Over("closed".into()))));
        (Connection { lines: Box::new(near.into_iter()), close: Box::new(close) }, far)
    }

    /// A source whose first connection is at hand, and the later ones come with the pace that was asked for.
    fn source(retries: bool) -> (Far, Receiver<(u64, Far)>, Receiver<News>, Pacer) {
        let (first, far) = connection();
        let (made, connections) = sync_channel(8);
        let connect = move |interval_ms| {
            let (connection, far) = connection();
            made.send((interval_ms, far)).map_err(|_| "over".to_owned())?;
            Ok(connection)
        };
        let source =
            Source { first, leads_to: Link::Agent, interval_ms: 1000, connect: Box::new(connect), retries };
        let (tell, news) = sync_channel(64);
        let pacer = source.read(move |told| tell.send(told).map_err(|_| Gone)).unwrap();
        (far, connections, news, pacer)
    }

    fn missed(events: u64) -> Result<Line, Broken> {
        Ok(Line::Missed { schema: 1, events })
    }

    /// The next news in a few words.
    fn next(news: &Receiver<News>) -> String {
        match news.recv_timeout(Duration::from_secs(60)).unwrap() {
            News::Line(line) => match *line {
                Line::Missed { events, .. } => format!("line {events}"),
                other => format!("{other:?}"),
            },
            News::Link(Link::Lost(why)) => format!("lost: {why}"),
            News::Link(Link::Silent(why)) => format!("silent: {why}"),
            News::Link(link) => format!("{link:?}"),
            News::Over(why) => format!("over: {why}"),
        }
    }

    #[test]
    fn an_agent_that_went_away_is_tried_again_at_the_same_pace() {
        let (far, connections, news, _pacer) = source(true);
        far.send(missed(1)).unwrap();
        assert_eq!([next(&news), next(&news)], ["Agent", "line 1"]);
        far.send(Err(Broken::Silent("slow".into()))).unwrap();
        far.send(missed(2)).unwrap();
        assert_eq!([next(&news), next(&news), next(&news)], ["silent: slow", "Agent", "line 2"]);
        far.send(Err(Broken::Over("gone".into()))).unwrap();
        assert_eq!(next(&news), "lost: gone");
        let (interval_ms, far) = connections.recv().unwrap();
        far.send(missed(3)).unwrap();
        assert_eq!((interval_ms, next(&news), next(&news)), (1000, "Agent".into(), "line 3".into()));
    }

    #[test]
    fn another_pace_is_another_connection_and_no_loss() {
        let (_far, connections, news, pacer) = source(false);
        assert_eq!(next(&news), "Agent");
        pacer.set(500);
        let (interval_ms, far) = connections.recv().unwrap();
        assert_eq!((interval_ms, next(&news)), (500, "Agent".into()));
        far.send(Err(Broken::Over("a signal".into()))).unwrap();
        assert_eq!(next(&news), "over: a signal");
    }

    #[test]
    fn a_pace_that_is_asked_for_while_connecting_is_not_forgotten() {
        let (first, far) = connection();
        let (enter, entered) = sync_channel::<u64>(8);
        let (leave, left) = sync_channel::<()>(8);
        let mut others = Vec::new();
        let connect = move |interval_ms| {
            enter.send(interval_ms).map_err(|_| "over".to_owned())?;
            left.recv().map_err(|_| "over".to_owned())?;
            let (connection, far) = connection();
            others.push(far);
            Ok(connection)
        };
        let connect = Box::new(connect);
        let source = Source { first, leads_to: Link::Agent, interval_ms: 1000, connect, retries: true };
        let pacer = source.read(|_| Ok(())).unwrap();
        far.send(Err(Broken::Over("gone".into()))).unwrap();
        assert_eq!(entered.recv(), Ok(1000));
        pacer.set(200);
        pacer.set(500);
        leave.send(()).unwrap();
        assert_eq!(entered.recv(), Ok(500));
    }

    #[test]
    fn nobody_who_listens_is_the_end() {
        let (far, connections, news, _pacer) = source(true);
        drop(news);
        // It ends at the latest with the next line.
        while far.send(missed(1)).is_ok() {}
        assert!(connections.recv().is_err());
    }
}
