//! Token times with nothing from the application: what to tap, and from sends to the gaps between them.
//!
//! An answer is what a process sends on a connection without receiving anything in between. Contents are never looked at.

use std::{collections::HashMap, fmt, str::FromStr};

use super::recording::Connection;
use crate::core::task::TaskId;

/// What is tapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tap {
    /// The connections of whichever process on that local TCP port.
    Port(u16),
    /// All TCP connections of a process, given by its leader.
    Process(TaskId),
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "TCP port {port}"),
            Self::Process(task) => write!(f, "process {}", task.tid),
        }
    }
}

/// What the user asked to tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapArgument {
    /// `port:8000`
    Port(u16),
    /// `pid:4711`
    Pid(u32),
    /// `8000`: the port if something listens there, else the process.
    Number(u32),
}

/// Why there is nothing to tap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// Not one of the forms.
    #[error("expected a TCP port or a pid: 8000, port:8000 or pid:4711")]
    Form,
    /// No process of that pid.
    #[error("--tap pid:{0}: there is no process {0}")]
    NoProcess(u32),
    /// A number that is neither.
    #[error(
        "--tap {0}: nothing listens on TCP port {0} and there is no process {0}; if it is a port that a server will \
             listen on later, say --tap port:{0}"
    )]
    Neither(u32),
    /// A number too large for a port.
    #[error("--tap {0}: there is no process {0}, and ports end at 65535")]
    NoSuchNumber(u32),
}

impl FromStr for TapArgument {
    type Err = TapError;

    fn from_str(text: &str) -> Result<Self, TapError> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).map(Self::Port);
        let number = |text: &str| text.parse().ok().filter(|number| *number != 0);
        let argument = match text.split_once(':') {
            Some(("port", rest)) => port(rest),
            Some(("pid", rest)) => number(rest).map(Self::Pid),
            Some(_) => None,
            None => number(text).map(Self::Number),
        };
        argument.ok_or(TapError::Form)
    }
}

impl TapArgument {
    /// What it means on a host where `listens` knows the TCP ports and `process` the processes.
    ///
    /// # Errors
    /// [`TapError`] says what is not there.
    pub fn resolve(
        self,
        listens: impl Fn(u16) -> bool,
        process: impl Fn(u32) -> Option<TaskId>,
    ) -> Result<Tap, TapError> {
        match self {
            Self::Port(port) => Ok(Tap::Port(port)),
            Self::Pid(pid) => process(pid).map(Tap::Process).ok_or(TapError::NoProcess(pid)),
            Self::Number(number) => {
                let port = u16::try_from(number);
                if let Ok(port) = port
                    && listens(port)
                {
                    return Ok(Tap::Port(port));
                }
                let missing = if port.is_ok() { TapError::Neither } else { TapError::NoSuchNumber };
                process(number).map(Tap::Process).ok_or(missing(number))
            }
        }
    }
}

/// A send on a tapped connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// When it was done, in monotonic nanoseconds.
    pub at_ns: u64,
    /// Tells connections apart while they are open.
    pub socket: u64,
    /// The sending process.
    pub pid: u32,
    /// Its name, not safe to print as it is.
    pub comm: String,
    /// Port on our side.
    pub local_port: u16,
    /// Port on the other side.
    pub remote_port: u16,
    /// How many bytes.
    pub bytes: u32,
    /// Whether an answer begins with it: something was received since the last one, or sends in between were lost.
    pub first: bool,
}

/// Connections that are kept, those that have ended included.
const MAX_CONNECTIONS: usize = 1 << 18;
/// Memory for gaps, in bytes: seven minutes of 400 streams at 50 tokens a second.
const GAP_BYTES: usize = 1 << 27;
/// What a gap takes at most: half of a list that has just grown is empty.
const PER_GAP: usize = 16;
/// What an answer takes at most: its list and that list's place in the connection's, which hold four at least, and what the
/// allocator adds.
const PER_ANSWER: usize = 176;

/// Gaps between sends, by connection. Takes up to 128 MiB for gaps and 64 MiB for connections.
#[derive(Debug)]
pub struct Taps {
    /// Index into `connections` of what is open, as far as is known.
    open: HashMap<(u64, u16, u16), usize>,
    connections: Vec<Track>,
    /// In bytes.
    room_for_gaps: usize,
    room_for_connections: usize,
    lost: u64,
}

#[derive(Debug)]
struct Track {
    connection: Connection,
    last_ns: u64,
    /// The last send was an answer's first.
    fresh: bool,
}

impl Default for Taps {
    fn default() -> Self {
        Self::with_room(MAX_CONNECTIONS, GAP_BYTES)
    }
}

impl Taps {
    fn with_room(connections: usize, gap_bytes: usize) -> Self {
        Self {
            open: HashMap::new(),
            connections: Vec::new(),
            room_for_gaps: gap_bytes,
            room_for_connections: connections,
            lost: 0,
        }
    }

    /// Takes the next send.
    pub fn send(&mut self, send: &Send) {
        let key = (send.socket, send.local_port, send.remote_port);
        // Sockets are used again: another process's first send is on another connection.
        let same = |track: &Track| !send.first || track.connection.pid == send.pid;
        let index = self.open.get(&key).copied().filter(|index| same(&self.connections[*index]));
        if let Some(index) = index {
            match self.connections[index].send(send, self.room_for_gaps) {
                Kept::Gap { bytes } => self.room_for_gaps -= bytes,
                Kept::Time => {}
                Kept::Nothing => self.lost += 1,
            }
        } else if self.connections.len() < self.room_for_connections {
            self.open.insert(key, self.connections.len());
            self.connections.push(Track::new(send));
        } else {
            self.open.remove(&key);
            self.lost += 1;
        }
    }

    /// Sends that there was no room for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The connections with gaps, in the order of their first sends.
    #[must_use]
    pub fn into_connections(self, run: usize) -> Vec<Connection> {
        let connections = self.connections.into_iter().map(|track| Connection { run, ..track.connection });
        connections.filter(|connection| !connection.answers.is_empty()).collect()
    }
}

enum Kept {
    Gap { bytes: usize },
    Time,
    Nothing,
}

impl Track {
    fn new(send: &Send) -> Self {
        let connection = Connection {
            run: 0,
            pid: send.pid,
            comm: send.comm.clone(),
            local_port: send.local_port,
            remote_port: send.remote_port,
            answers: Vec::new(),
        };
        Self { connection, last_ns: send.at_ns, fresh: true }
    }

    fn send(&mut self, send: &Send, room: usize) -> Kept {
        let gap_ns = send.at_ns.saturating_sub(self.last_ns);
        self.last_ns = send.at_ns;
        if send.first {
            self.fresh = true;
            return Kept::Time;
        }
        let going_on = self.connection.answers.last_mut().filter(|_| !self.fresh);
        let bytes = if going_on.is_some() { PER_GAP } else { PER_ANSWER };
        if bytes > room {
            return Kept::Nothing;
        }
        match going_on {
            Some(answer) => answer.push(gap_ns),
            None => self.connection.answers.push(vec![gap_ns]),
        }
        self.fresh = false;
        Kept::Gap { bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId { tid: 4711, start_time: 5 };

    #[test]
    fn a_number_is_a_port_that_somebody_listens_on_else_a_process() {
        let resolve = |text: &str, listening: bool| {
            let listens = |port| listening && (port == 8000 || port == 4711);
            let process = |pid| Some(TASK).filter(|task| task.tid == pid);
            text.parse::<TapArgument>()?.resolve(listens, process)
        };
        assert_eq!(resolve("8000", true), Ok(Tap::Port(8000)));
        assert_eq!(resolve("port:8000", false), Ok(Tap::Port(8000)));
        assert_eq!(resolve("4711", true), Ok(Tap::Port(4711)));
        assert_eq!(resolve("4711", false), Ok(Tap::Process(TASK)));
        assert_eq!(resolve("pid:4711", true), Ok(Tap::Process(TASK)));
        assert_eq!(resolve("pid:8000", true), Err(TapError::NoProcess(8000)));
        let error = resolve("8000", false).unwrap_err().to_string();
        assert!(
            error.contains("port 8000 and there is no process 8000") && error.contains("port:8000"),
            "{error}"
        );
        let error = resolve("70000", true).unwrap_err().to_string();
        assert!(error.contains("no process 70000") && error.contains("65535"), "{error}");
        for text in
            ["", "0", "port:0", "port:65536", "pid:0", "pid:-1", "tcp:80", ":80", "port:", "80 ", "４"]
        {
            assert_eq!(resolve(text, true), Err(TapError::Form), "{text:?}");
        }
    }

    fn send(socket: u64, at_ns: u64, first: bool) -> Send {
        let comm = "server".to_owned();
        Send { at_ns, socket, pid: 7, comm, local_port: 8000, remote_port: 50_000, bytes: 9, first }
    }

    fn answers(taps: Taps) -> Vec<Vec<Vec<u64>>> {
        taps.into_connections(0).into_iter().map(|connection| connection.answers).collect()
    }

    #[test]
    fn interleaved_connections_keep_their_own_gaps_and_answers() {
        let mut taps = Taps::default();
        let sends = [
            // The head, the first token, two more; on the other connection we come in halfway.
            (1, 1000, true),
            (2, 1100, false),
            (1, 1500, false),
            (1, 2700, false),
            (2, 3100, false),
            (1, 4000, false),
            // Asked again: answers of one, two and three sends.
            (1, 9000, true),
            (1, 10_000, true),
            (1, 10_300, false),
            (1, 11_000, true),
            (1, 11_500, false),
            (1, 11_501, false),
            (2, 10_300, true),
        ];
        sends.iter().for_each(|(socket, at_ns, first)| taps.send(&send(*socket, *at_ns, *first)));
        assert_eq!(taps.lost(), 0);
        assert_eq!(answers(taps), [vec![vec![500, 1200, 1300], vec![300], vec![500, 1]], vec![vec![2000]]]);
    }

    #[test]
    fn a_socket_that_is_used_again_is_another_connection() {
        let mut taps = Taps::default();
        let of = |pid, remote_port, at_ns, first| Send { pid, remote_port, ..send(1, at_ns, first) };
        taps.send(&of(7, 1, 100, false));
        taps.send(&of(7, 1, 110, false));
        // Other ports, then another process with the first ones.
        taps.send(&of(7, 2, 200, false));
        taps.send(&of(7, 2, 220, false));
        taps.send(&of(8, 1, 300, true));
        taps.send(&of(8, 1, 330, false));
        let connections = taps.into_connections(3);
        let found: Vec<_> = connections
            .iter()
            .map(|connection| {
                (connection.run, connection.pid, connection.remote_port, &connection.answers[..])
            })
            .collect();
        assert_eq!(found, [(3, 7, 1, &[vec![10]][..]), (3, 7, 2, &[vec![20]]), (3, 8, 1, &[vec![30]])]);
    }

    #[test]
    fn without_room_sends_are_counted_and_no_gap_is_wrong() {
        let mut taps = Taps::with_room(1, PER_ANSWER + PER_GAP);
        for at_ns in [0, 10, 30, 60] {
            taps.send(&send(1, at_ns, false));
        }
        taps.send(&send(2, 70, true));
        taps.send(&send(2, 75, false));
        assert_eq!(taps.lost(), 3);
        assert_eq!(answers(taps), [[[10, 20]]]);
    }

    #[test]
    fn what_is_kept_takes_no_more_than_is_said() {
        const MALLOC: usize = 16;
        // What lists of lists take, by connection: answers of one gap, of four and of five, and many connections of one.
        for (gaps, answers, connections) in
            [(1, 1, 900), (1, 1000, 3), (4, 1, 900), (5, 300, 3), (9, 1, 300), (600, 1, 5)]
        {
            let mut taps = Taps::with_room(1 << 10, 1 << 16);
            for socket in 0..connections {
                for answer in 0..answers {
                    for gap in 0..=gaps {
                        taps.send(&send(socket, answer * 1000 + gap, gap == 0));
                    }
                }
            }
            let taken: usize = taps
                .connections
                .iter()
                .map(|track| &track.connection.answers)
                .filter(|answers| !answers.is_empty())
                .map(|answers| {
                    let lists: usize = answers.iter().map(|gaps| gaps.capacity() * 8 + MALLOC).sum();
                    lists + answers.capacity() * size_of::<Vec<u64>>() + MALLOC
                })
                .sum();
            let charged = (1 << 16) - taps.room_for_gaps;
            assert!(taken <= charged, "{taken} of {charged}: {gaps} gaps, {answers} answers");
        }
        // A connection with its name, its place in a list that has just grown, and in a table that is half empty.
        let track = 2 * size_of::<Track>() + 16 + MALLOC;
        let place = 2 * (size_of::<((u64, u16, u16), usize)>() + 1);
        assert!(MAX_CONNECTIONS * (track + place) <= 64 << 20, "{}", MAX_CONNECTIONS * (track + place));
    }

    #[test]
    fn sends_out_of_order_give_no_gap_below_zero() {
        let mut taps = Taps::default();
        [5, 3].iter().for_each(|at_ns| taps.send(&send(1, *at_ns, false)));
        assert_eq!(answers(taps), [[[0]]]);
    }
}
