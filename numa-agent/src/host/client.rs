//! The near end of the agent's socket: sends a request, and gives the lines that come.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use serde::Deserialize;

use crate::core::view::{Line, Request, SCHEMA};

/// How long an agent may take to answer, beyond the time that the viewer has asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line, in bytes: far more than ten thousand threads make.
const MAX_LINE: u64 = 64 << 20;

/// Why there are no lines.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket, or nobody listens on it.
    #[error("no agent listens on {0}; `numa-agent run` starts one, and --socket says where another listens")]
    NoAgent(PathBuf),
    /// We may not look.
    #[error("no permission to use {0}: it is for root and the members of its group (`ls -l` shows which)")]
    Denied(PathBuf),
    /// Somebody listens and does not answer.
    #[error("{0} does not answer; the agent may be stopped or overloaded")]
    Silent(Peer),
    /// The agent says no.
    #[error("{0} refuses: {1}")]
    Refused(Peer, String),
    /// It has closed the connection.
    #[error("{0} has closed the connection: it ended, or we did not keep up")]
    Ended(Peer),
    /// It is of another version.
    #[error(
        "{0} sends lines of schema {1}, and this version understands schema {SCHEMA}; use the numa-agent that the agent is of"
    )]
    OtherSchema(Peer, u32),
    /// What came is none of the lines that we know.
    #[error("{0} sends lines that this version (schema {SCHEMA}) does not understand: {1}")]
    Strange(Peer, String),
    /// Anything else.
    #[error("{0}: {1}")]
    Failed(Peer, io::Error),
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// The agent that listens there.
    Agent(PathBuf),
    /// This very program.
    Ourselves,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(path) => write!(f, "the agent at {}", path.display()),
            Self::Ourselves => f.write_str("the observer in this process"),
        }
    }
}

/// What a line of any version has.
#[derive(Debug, Deserialize)]
struct Versioned {
    schema: u32,
}

/// The lines of a connection, as they come; after an error that [may pass](ClientError::may_pass) there may be more.
#[derive(Debug)]
pub struct Lines {
    peer: Peer,
    reader: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    patience: Arc<Patience>,
}

/// How long a line may take, in milliseconds: it changes with the interval, also while somebody waits.
#[derive(Debug)]
struct Patience(AtomicU64);

impl Patience {
    fn set(&self, stream: &UnixStream, patience: Duration) -> io::Result<()> {
        self.0.store(patience.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        stream.set_read_timeout(Some(patience))
    }

    /// Whether it is over; the socket's own, set before the wait began, may have been shorter.
    fn is_over(&self, began: Instant) -> bool {
        // A timeout is not to the millisecond.
        began.elapsed().mul_f64(1.1) >= Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl ClientError {
    /// Whether another look at the same connection may succeed.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Silent(_))
    }
}

/// Asks the agent that listens on `path`.
///
/// # Errors
/// If none does, or we may not.
pub fn connect(path: &Path, request: Request) -> Result<Lines, ClientError> {
    connect_within(path, request, PATIENCE)
}

fn connect_within(path: &Path, request: Request, patience: Duration) -> Result<Lines, ClientError> {
    let stream = open(path, patience).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED => ClientError::NoAgent(path.into()),
        Errno::EACCES | Errno::EPERM => ClientError::Denied(path.into()),
        // Its queue of connections is full.
        Errno::EAGAIN => ClientError::Silent(Peer::Agent(path.into())),
        other => ClientError::Failed(Peer::Agent(path.into()), other.into()),
    })?;
    ask(stream, Peer::Agent(path.into()), request)
}

/// Asks over a connection that there is already.
///
/// # Errors
/// If the request cannot be sent.
pub fn ask(mut stream: UnixStream, peer: Peer, request: Request) -> Result<Lines, ClientError> {
    let patience = Arc::new(Patience(AtomicU64::new(0)));
    let send = |stream: &mut UnixStream| {
        stream.set_write_timeout(Some(PATIENCE))?;
        send(stream, request, &patience)
    };
    send(&mut stream).map_err(|error| failed(&peer, error))?;
    Ok(Lines { peer, reader: BufReader::new(stream), partial: Vec::new(), patience })
}

fn send(mut stream: &UnixStream, request: Request, patience: &Patience) -> io::Result<()> {
    let interval = match request {
        Request::Status => Duration::ZERO,
        Request::Watch { interval_ms } => Duration::from_millis(interval_ms),
    };
    patience.set(stream, PATIENCE + 2 * interval)?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    match stream.write_all(&line) {
        // It has said why before it closed.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Connects; waits for a place in the other's queue no longer than that, and then gives `EAGAIN`.
pub(super) fn open(path: &Path, patience: Duration) -> nix::Result<UnixStream> {
    open_address(&UnixAddr::new(path)?, patience)
}

/// The same for an address of either kind.
pub(super) fn open_address(address: &UnixAddr, patience: Duration) -> nix::Result<UnixStream> {
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::milliseconds(patience.as_millis().try_into().unwrap_or(i64::MAX).max(1));
    setsockopt(&descriptor, sockopt::SendTimeout, &patience)?;
    connect_to(descriptor.as_raw_fd(), address)?;
    Ok(descriptor.into())
}

fn failed(peer: &Peer, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(peer.clone()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ClientError::Ended(peer.clone()),
        _ => ClientError::Failed(peer.clone(), error),
    }
}

impl Lines {
    fn read(&mut self) -> Result<Option<Line>, ClientError> {
        let began = Instant::now();
        loop {
            let room = MAX_LINE.saturating_sub(self.partial.len() as u64);
            match self.reader.by_ref().take(room).read_until(b'\n', &mut self.partial) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match failed(&self.peer, error) {
                    ClientError::Silent(_) if !self.patience.is_over(began) => {}
                    error => return Err(error),
                },
                Ok(_) if self.partial.ends_with(b"\n") => break,
                Ok(0) if self.partial.is_empty() => return Ok(None),
                // Nothing comes any more, or too much has.
                Ok(_) => return Err(ClientError::Ended(self.peer.clone())),
            }
        }
        let line = std::mem::take(&mut self.partial);
        let parsed = serde_json::from_slice::<Line>(&line);
        let schema = match &parsed {
            Ok(line) => line.schema(),
            // Another version's may say what it is, and be nothing that we know.
            Err(_) => serde_json::from_slice(&line).map_or(SCHEMA, |Versioned { schema }| schema),
        };
        match parsed {
            // Whatever version refuses, it says why.
            Ok(Line::Error { error, .. }) => Err(ClientError::Refused(self.peer.clone(), error)),
            _ if schema != SCHEMA => Err(ClientError::OtherSchema(self.peer.clone(), schema)),
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(ClientError::Strange(self.peer.clone(), error.to_string())),
        }
    }

    /// What ends the connection from another thread.
    ///
    /// # Errors
    /// If there can be no more file descriptors.
    pub fn closer(&self) -> Result<impl Fn() + Send + use<>, ClientError> {
        let stream = self.reader.get_ref().try_clone().map_err(|error| failed(&self.peer, error))?;
        // It may have ended already.
        Ok(move || drop(stream.shutdown(Shutdown::Both)))
    }

    /// What asks for another interval between snapshots, in milliseconds, from another thread.
    ///
    /// # Errors
    /// If there can be no more file descriptors.
    pub fn pacer(&self) -> Result<impl Fn(u64) + Send + use<>, ClientError> {
        let stream = self.reader.get_ref().try_clone().map_err(|error| failed(&self.peer, error))?;
        let patience = Arc::clone(&self.patience);
        // If it has ended, who reads is told.
        Ok(move |interval_ms| drop(send(&stream, Request::Watch { interval_ms }, &patience)))
    }

    /// The next line, which has to come.
    ///
    /// # Errors
    /// If there is none.
    pub fn answer(&mut self) -> Result<Line, ClientError> {
        self.read()?.ok_or_else(|| ClientError::Ended(self.peer.clone()))
    }
}

/// Ends when the agent closes the connection.
impl Iterator for Lines {
    type Item = Result<Line, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const WATCH: Request = Request::Watch { interval_ms: 200 };

    /// The lines of a peer that has sent `bytes` and closed, and what it was asked.
    fn sent(bytes: &[u8]) -> (Vec<Result<Line, ClientError>>, String) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let lines = ask(near, Peer::Ourselves, WATCH).unwrap();
        let mut asked = String::new();
        BufReader::new(&far).read_line(&mut asked).unwrap();
        far.write_all(bytes).unwrap();
        drop(far);
        (lines.take(8).collect(), asked)
    }

    #[test]
    fn asks_once_and_gives_every_line() {
        let missed = br#"{"kind":"missed","schema":1,"events":2}"#;
        let (lines, asked) = sent(&[missed.as_slice(), b"\n", missed, b"\n"].concat());
        assert_eq!(serde_json::from_str::<Request>(&asked).unwrap(), WATCH);
        let lines: Vec<Line> = lines.into_iter().map(Result::unwrap).collect();
        assert_eq!(lines, vec![Line::Missed { schema: 1, events: 2 }; 2]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (mut lines, _) = sent(b"{\"kind\":\"error\",\"schema\":1,\"error\":\"too many viewers\"}\n");
        let error = lines.remove(0).unwrap_err().to_string();
        assert!(error.contains("too many viewers"), "{error}");
        for line in [
            // Another version's, whole for us or not.
            "{\"kind\":\"missed\",\"schema\":7,\"events\":2}\n",
            "{\"kind\":\"news\",\"schema\":7}\n",
        ] {
            let (mut lines, _) = sent(line.as_bytes());
            let error = lines.remove(0).unwrap_err();
            assert!(matches!(error, ClientError::OtherSchema(_, 7)), "{error}");
        }
        let (mut lines, _) = sent(b"{\"kind\":\"status\",\"schema\":1}\n");
        assert!(matches!(lines.remove(0), Err(ClientError::Strange(..))));
        let (mut lines, _) = sent(b"{\"kind\":\"mis");
        assert!(matches!(lines.remove(0), Err(ClientError::Ended(_))));
    }

    #[test]
    fn nobody_there_is_told_from_nobody_who_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let no_agent = |path: &Path| matches!(connect(path, WATCH), Err(ClientError::NoAgent(_)));
        assert!(no_agent(&path) && no_agent(&dir.path().join("no/such")));
        let listener = UnixListener::bind(&path).unwrap();
        // Who never accepts has a queue that gets full.
        let mut open = Vec::new();
        let error = loop {
            match connect_within(&path, WATCH, Duration::from_millis(20)) {
                Ok(lines) => open.push(lines),
                Err(error) => break error,
            }
            assert!(open.len() < 100_000);
        };
        assert!(matches!(error, ClientError::Silent(_)), "{error}");
        drop((listener, open));
        assert!(no_agent(&path), "left behind");
    }

    #[test]
    fn a_line_that_takes_long_is_whole_in_the_end() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut lines = ask(near, Peer::Ourselves, WATCH).unwrap();
        lines.patience.set(lines.reader.get_ref(), Duration::from_millis(10)).unwrap();
        far.write_all(b"{\"kind\":\"missed\",").unwrap();
        let error = lines.next().unwrap().unwrap_err();
        assert!(error.may_pass(), "{error}");
        far.write_all(b"\"schema\":1,\"events\":9}\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), Line::Missed { schema: 1, events: 9 });
    }

    #[test]
    fn another_interval_is_asked_for_on_the_same_connection_and_waited_for() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut lines = ask(near, Peer::Ourselves, WATCH).unwrap();
        lines.patience.set(lines.reader.get_ref(), Duration::from_millis(200)).unwrap();
        let (pace, mut asked) = (lines.pacer().unwrap(), BufReader::new(far.try_clone().unwrap()).lines());
        let waiting = std::thread::spawn(move || lines.next().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        pace(60_000);
        let asked = [asked.next().unwrap().unwrap(), asked.next().unwrap().unwrap()];
        let requests = asked.map(|line| serde_json::from_str::<Request>(&line).unwrap());
        assert_eq!(requests, [WATCH, Request::Watch { interval_ms: 60_000 }]);
        // Longer than the wait that began before.
        std::thread::sleep(Duration::from_millis(400));
        far.write_all(b"{\"kind\":\"missed\",\"schema\":1,\"events\":9}\n").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), Line::Missed { schema: 1, events: 9 });
    }
}
