//! The agent's socket in the file system: made, taken over from an agent that was killed, and removed.
//!
//! One agent listens on a path at a time. No symbolic link is followed, and nothing is removed that is no socket, or not ours.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, Flock, FlockArg, OFlag},
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
        stat::{Mode, fchmod},
    },
    unistd::{Gid, fchownat},
};

use super::{client, sys};

/// The group whose members may look, where there is one of that name.
pub const GROUP: &str = "numa-agent";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How often to try for the lock, which is held for a few system calls.
const TRIES: u32 = 50;
/// Time between tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Why nobody can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent does.
    #[error(
        "an agent runs already{}: it listens on {path}; stop it, for two would move each other's threads; only where this one has other processes, let it listen elsewhere with --socket, or not with --no-socket",
        .pid.map_or(String::new(), |pid| format!(" with pid {pid}"))
    )]
    Taken {
        /// Where.
        path: PathBuf,
        /// Its pid, where known.
        pid: Option<u32>,
    },
    /// Another is about to listen, or to end.
    #[error(
        "another agent starts or ends on {path}: it holds {path}.lock; wait for it, or let this one listen elsewhere with --socket, or not with --no-socket"
    )]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{0} is there already and is no socket; remove it, or choose another path with --socket")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot listen on {path}: {what}: {error}")]
    Failed {
        /// Where.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

/// A socket that is listened on, until it is dropped.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: (u64, u64),
    /// The group whose members may look.
    group: u32,
}

impl Listening {
    /// Listens on `path`, which gets `group`, or else root's, as its group. The folder is made if it is missing; `own_folder`: it
    /// is the agent's alone, and gets that group too.
    ///
    /// # Errors
    /// If another does, or it cannot be made.
    pub fn start(path: &Path, group: Option<u32>, own_folder: bool) -> Result<Self, ListenError> {
        let failed = |what| move |error| ListenError::Failed { path: path.into(), what, error };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let group = group.unwrap_or(0);
        let made = make_folder(folder).map_err(failed("making its folder"))?;
        if made || own_folder {
            let flags = (OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
            let opened = OpenOptions::new().read(true).custom_flags(flags).open(folder);
            let opened = opened.map_err(failed("opening its folder"))?;
            if opened.metadata().is_ok_and(|facts| facts.gid() != group) {
                give_to(&opened, group).map_err(failed("giving its folder to the group"))?;
            }
        }
        let lock = lock(path).map_err(failed("locking it"))?;
        let lock = lock.ok_or_else(|| ListenError::Locked { path: path.into() })?;
        make_room(path)?;
        let listening = Self::bind(path, group).map_err(failed("making the socket"))?;
        drop(lock);
        Ok(listening)
    }

    fn bind(path: &Path, group: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // What it is bound to has this mode from the first moment.
        fchmod(&descriptor, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
        // From here on by the file itself, whatever its path leads to.
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits())
            .open(path)?;
        let facts = handle.metadata()?;
        if !facts.file_type().is_socket() {
            return Err(Errno::ENOTSOCK.into());
        }
        let group = match give_to(&handle, group) {
            Ok(()) => group,
            // Who is not root has no say; then it is for our own group.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => facts.gid(),
            Err(error) => return Err(error),
        };
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::set_permissions(link, Permissions::from_mode(0o660))?;
        listen(&descriptor, Backlog::new(BACKLOG)?)?;
        let file = (facts.dev(), facts.ino());
        Ok(Self { listener: descriptor.into(), path: path.into(), file, group })
    }

    /// The socket; it does not block.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The group whose members may look.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group
    }

    fn remove(&self) -> io::Result<()> {
        let _lock = lock(&self.path)?.ok_or(Errno::EWOULDBLOCK)?;
        let facts = fs::symlink_metadata(&self.path)?;
        if (facts.dev(), facts.ino()) == self.file {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

/// Removes the file, if it still is the one that we made.
impl Drop for Listening {
    fn drop(&mut self) {
        match self.remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} stays behind: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

/// The group whose members may look, if this host has it: a line of `/etc/group`. (Asking the C library would load others.)
#[must_use]
pub fn viewers_group() -> Option<u32> {
    group_of(&fs::read_to_string("/etc/group").ok()?, GROUP)
}

fn group_of(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name)?;
    line.get(2)?.parse().ok()
}

fn give_to(file: &File, group: u32) -> io::Result<()> {
    Ok(fchownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?)
}

/// Makes a folder and those above it. Whether it was missing.
pub(super) fn make_folder(folder: &Path) -> io::Result<bool> {
    let mut builder = DirBuilder::new();
    builder.mode(0o750);
    let made = match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(folder.parent().ok_or(error)?)?;
            builder.create(folder)
        }
        other => other,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// So that two agents that start at once do not both find the same socket abandoned; `None`: another has it. It is on a file that
/// nobody else can open, unlike the folder, and which stays: another may wait for it.
fn lock(socket: &Path) -> io::Result<Option<Flock<File>>> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    for _ in 0..TRIES {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno.into()),
        };
        thread::sleep(PAUSE);
    }
    Ok(None)
}

/// Removes a socket on which nobody listens.
fn make_room(path: &Path) -> Result<(), ListenError> {
    let failed = |what, error| ListenError::Failed { path: path.into(), what, error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at it", error)),
        Ok(facts) if !facts.file_type().is_socket() => return Err(ListenError::NotASocket(path.into())),
        Ok(_) => {}
    }
    match client::open(path, Duration::ZERO) {
        Ok(stream) => {
            let pid = sys::peer(&stream).ok().map(|peer| peer.pid).filter(|pid| *pid > 0);
            Err(ListenError::Taken { path: path.into(), pid })
        }
        // Its queue of connections is full.
        Err(Errno::EAGAIN) => Err(ListenError::Taken { path: path.into(), pid: None }),
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|error| failed("removing what an agent left behind", error))
        }
        Err(errno) => Err(failed("asking who listens there", errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn start(path: &Path) -> Result<Listening, ListenError> {
        Listening::start(path, Some(nix::unistd::getegid().as_raw()), false)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_goes_when_we_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/agent.sock");
        let listening = start(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
        assert_eq!(listening.group(), nix::unistd::getegid().as_raw());
        client::open(&path, Duration::ZERO).unwrap();
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_agent_is_refused_and_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _first = start(&path).unwrap();
        let error = start(&path).unwrap_err();
        assert!(matches!(error, ListenError::Taken { pid: Some(pid), .. } if pid == std::process::id()));
        let words = error.to_string();
        assert!(
            words.contains(&format!("pid {}", std::process::id())) && words.contains("agent.sock"),
            "{words}"
        );
        client::open(&path, Duration::ZERO).expect("the first still listens");
    }

    #[test]
    fn what_a_killed_agent_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let left = UnixListener::bind(&path).unwrap();
        drop(left);
        let listening = start(&path).unwrap();
        client::open(&path, Duration::ZERO).unwrap();
        // Somebody else's by now: it stays.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listening);
        client::open(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("agent.sock"), dir.path().join("target"));
        fs::write(&path, "precious").unwrap();
        assert!(matches!(start(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let _target = UnixListener::bind(&target).unwrap();
        for to in [&target, &dir.path().join("nowhere")] {
            symlink(to, &path).unwrap();
            assert!(matches!(start(&path), Err(ListenError::NotASocket(_))), "{}", to.display());
            assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
            fs::remove_file(&path).unwrap();
        }
        assert!(matches!(start(Path::new("/proc/no/agent.sock")), Err(ListenError::Failed { .. })));
        let long = dir.path().join("x".repeat(200));
        assert!(start(&long).unwrap_err().to_string().contains("xxx"));
    }

    #[test]
    fn who_may_look_into_the_folder_cannot_keep_the_agent_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let folder = File::open(dir.path()).unwrap();
        let _held = Flock::lock(folder, FlockArg::LockExclusiveNonblock).unwrap();
        drop(start(&path).unwrap());
        let file = dir.path().join("agent.sock.lock");
        assert_eq!((mode(&file), path.exists()), (0o600, false));
        // Another agent's.
        let _held = Flock::lock(File::open(&file).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let error = start(&path).unwrap_err();
        assert!(matches!(error, ListenError::Locked { .. }) && !path.exists(), "{error}");
    }

    #[test]
    fn no_link_is_taken_for_the_lock_or_the_agents_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("folder"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        symlink(&folder, &link).unwrap();
        let own = Listening::start(&link.join("agent.sock"), Some(nix::unistd::getegid().as_raw()), true);
        assert!(matches!(own, Err(ListenError::Failed { what: "opening its folder", .. })), "{own:?}");
        drop(start(&link.join("agent.sock")).expect("whoever asks for it may use one"));
        let file = folder.join("other.sock.lock");
        symlink(dir.path().join("nowhere"), &file).unwrap();
        let locked = start(&folder.join("other.sock"));
        assert!(matches!(locked, Err(ListenError::Failed { what: "locking it", .. })), "{locked:?}");
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn of_many_that_start_at_once_one_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || start(&path))
            })
            .collect();
        let ends: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
        assert!(
            ends.iter()
                .flat_map(|end| end.as_ref().err())
                .all(|error| matches!(error, ListenError::Taken { .. }))
        );
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\nnuma-agents:x:7:\nnuma-agent:x:991:a,b\nbad\n";
        assert_eq!((group_of(text, "numa-agent"), group_of(text, "numa")), (Some(991), None));
    }
}
