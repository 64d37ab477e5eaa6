//! A running irqbalance, and what it is told: by its socket, that some interrupts are not its to move.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{UnixAddr, getsockopt, sockopt::PeerCredentials},
};

use crate::{
    core::{
        idset::CpuSet,
        irq::balancer::{SETUP, ban, banned, banned_cpus, listed},
        journal::{FileChange, undo::Verdict},
    },
    host::{client, sys},
};

/// Where its sockets are.
pub const FOLDER: &str = "/run/irqbalance";

/// How long it may take to answer, from the first word to the last: it does nothing else while it looks at the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that makes sense: each interrupt takes less than 100 bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why it does not know.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// It cannot be talked to.
    #[error("{socket}: {source}")]
    Socket {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it should: it takes commands of root alone, and answers nobody else.
    #[error("{socket} does not answer as irqbalance does: {answer:?}; only root is answered")]
    Answer {
        /// Its socket.
        socket: PathBuf,
        /// What it says, shortened.
        answer: String,
    },
    /// The list is longer than a command may be.
    #[error("{socket}: {0} interrupts are more than irqbalance takes in one command", socket = .1.display())]
    TooMany(usize, PathBuf),
    /// It took the list, and has another.
    #[error("{socket}: irqbalance does not have all of the list that it was given")]
    NotTaken {
        /// Its socket.
        socket: PathBuf,
    },
}

impl BalancerError {
    /// Whether nobody listens there any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, Self::Socket { source, .. } if gone.contains(&source.kind()))
    }
}

/// One that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    /// Its process.
    pub pid: u32,
    /// Its socket: a file, where that is there, else the abstract name of versions before 1.5.
    pub socket: PathBuf,
}

/// Those that run on this machine. `procfs` is `/proc`, `folder` has their sockets.
#[must_use]
pub fn running(procfs: &Path, folder: &Path) -> Vec<Balancer> {
    let Ok(entries) = fs::read_dir(procfs) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pids = pids.filter(|pid| {
        // A process that ends meanwhile is none.
        let comm = fs::read_to_string(procfs.join(pid.to_string()).join("comm")).unwrap_or_default();
        comm.trim_end() == "irqbalance"
    });
    pids.map(|pid| Balancer { pid, socket: socket_of(folder, pid) }).collect()
}

/// Where the process with that id listens.
#[must_use]
pub fn socket_of(folder: &Path, pid: u32) -> PathBuf {
    folder.join(format!("irqbalance{pid}.sock"))
}

/// The interrupts that it was told not to move, by command line or socket.
///
/// # Errors
/// [`BalancerError`] if it does not answer.
pub fn bans(socket: &Path) -> Result<BTreeSet<u32>, BalancerError> {
    setup(socket, banned)
}

/// The CPUs that it puts no interrupts on.
///
/// # Errors
/// [`BalancerError`] if it does not answer.
pub fn cpu_bans(socket: &Path) -> Result<CpuSet, BalancerError> {
    setup(socket, banned_cpus)
}

fn setup<T>(socket: &Path, read: fn(&str) -> Option<T>) -> Result<T, BalancerError> {
    let answer = ask(socket, SETUP)?;
    read(&answer).ok_or_else(|| BalancerError::Answer {
        socket: socket.to_owned(),
        answer: answer.chars().take(80).collect(),
    })
}

/// Tells it which interrupts it must not move, and asks whether it understood. It forgets all others.
///
/// # Errors
/// [`BalancerError`] if it does not take the list.
pub fn set_bans(socket: &Path, irqs: &BTreeSet<u32>) -> Result<(), BalancerError> {
    let command = ban(irqs).ok_or_else(|| BalancerError::TooMany(irqs.len(), socket.to_owned()))?;
    ask(socket, &command)?;
    match bans(socket)? == *irqs {
        true => Ok(()),
        false => Err(BalancerError::NotTaken { socket: socket.to_owned() }),
    }
}

/// A ban list, and what is to become of it: what was added to it is to go, and what else is on it stays, whoever said so and when.
///
/// # Errors
/// [`BalancerError`] if it does not answer. It forgets its list when it ends; the next one has a socket of its own.
pub fn of_ban(change: &FileChange) -> Result<(BTreeSet<u32>, Verdict<BTreeSet<u32>>), BalancerError> {
    let now = bans(Path::new(&change.path))?;
    let wanted = &now - &(&listed(&change.given) - &listed(&change.before));
    let verdict = if wanted == now { Verdict::AsBefore } else { Verdict::Undo(wanted) };
    Ok((now, verdict))
}

/// One command, in one write: it reads once. It asks its socket for the sender's credentials, so the kernel adds them.
fn ask(socket: &Path, command: &str) -> Result<String, BalancerError> {
    let talk = || -> io::Result<String> {
        let end = Instant::now() + PATIENCE;
        let mut stream = connect(socket, end)?;
        // Any process may be called irqbalance, and anybody may have an abstract name.
        let peer = getsockopt(&stream, PeerCredentials)?;
        if ![0, sys::own_uid()].contains(&peer.uid()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "who listens there is not root's"));
        }
        stream.set_write_timeout(Some(left(end)?))?;
        stream.write_all(command.as_bytes())?;
        let answer = read(&mut stream, end)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let said = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {PATIENCE:?}; is it stopped?"))
        }
        _ => error,
    };
    talk().map_err(|source| BalancerError::Socket { socket: socket.to_owned(), source: said(source) })
}

/// All that comes until it closes the connection, before `end`.
fn read(stream: &mut UnixStream, end: Instant) -> io::Result<Vec<u8>> {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left(end)?))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// The time until then.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// One that does not accept has room for few who wait: nobody waits for longer than an answer may take, and who does has found somebody.
fn connect(socket: &Path, end: Instant) -> io::Result<UnixStream> {
    match client::open(socket, left(end)?) {
        Err(Errno::ENOENT) => {
            let address = UnixAddr::new_abstract(name(socket).as_encoded_bytes())?;
            Ok(client::open_address(&address, left(end)?)?)
        }
        other => Ok(other?),
    }
}

/// Its name without the folder: the abstract one of versions before 1.5.
fn name(socket: &Path) -> &OsStr {
    socket.file_name().unwrap_or_default()
}

/// Whether there is an abstract socket of that name, without a word to whoever has it. Yes, if that cannot be told.
#[must_use]
pub fn has_abstract(socket: &Path) -> bool {
    let ending = [b" @".as_slice(), name(socket).as_encoded_bytes()].concat();
    let sockets = fs::read("/proc/net/unix");
    sockets.map_or(true, |all| all.split(|byte| *byte == b'\n').any(|line| line.ends_with(&ending)))
}
