//! The journal's file: appended to before each change, shared by all that change something, rewritten when it has grown.
//!
//! By default it is in `/run`: it ends with the boot, as masks and the affinity of interrupts do, so nothing is synchronised to a
//! disk; one that is on a disk all the same says of which boot it is. An entry is one write(2) under a lock, which a crash of ours leaves whole or torn; a torn line is counted when it is read. What `restore`
//! writes to comes from here, so the file and the folders it is in have to be ours or root's, and nobody else's to write to.

mod alone;
mod held;
mod here;
mod trust;
mod whose;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use self::trust::{Open, open_trusted};
pub use self::{
    alone::{Attendance, attend, keep_agents_out},
    held::Held,
    here::Here,
};
pub(super) use self::{here::listed, whose::whose};
use super::{
    irq::balancer,
    listen,
    sys::{self, Host, Kernel},
};
use crate::core::journal::{
    self, Decoded, Entry, FileChange, Outstanding, Owed, Subject, TaskChange, decode,
};

/// Where it is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/run/numa-agent/journal";

/// It is rewritten when it is this long, and twice as long as after the last time.
const REWRITE_BYTES: u64 = 256 << 10;
/// Nothing is appended beyond.
const MAX_BYTES: u64 = 64 << 20;
/// How long others may hold the lock, which they need for a write.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries for it.
const PAUSE: Duration = Duration::from_micros(200);

/// Why nothing can be written to the journal, or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It, or its folder, cannot be made, opened or read.
    #[error("the journal {path}: {what}: {error}", path = .path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Somebody else could have written it.
    #[error("the journal {path}: {why}; remove it or choose another place with --journal", path = .path.display())]
    Untrusted {
        /// Which.
        path: PathBuf,
        /// Who could have.
        why: String,
    },
    /// Somebody else holds its lock.
    #[error(
        "the journal {path} has been locked by another process for too long; see who with `fuser -v {path}`",
        path = .0.display()
    )]
    Busy(PathBuf),
    /// An agent adds to it.
    #[error(
        "an agent runs and would change it all again: stop it first, or have it undone at its end with `numa-agent run --restore-on-exit`; --force does it all the same"
    )]
    Attended(PathBuf),
    /// Somebody undoes what it tells.
    #[error(
        "`numa-agent restore` is undoing what the journal {path} tells; wait for its end, or see who with `fuser -v {path}.agent`",
        path = .0.display()
    )]
    BeingRestored(PathBuf),
    /// Another file has taken its place, or none: for who is not to open one.
    #[error("the journal {path} has been written anew or removed", path = .0.display())]
    Moved(PathBuf),
    /// It is another kind of file.
    #[error(
        "{path} is no journal, and is left as it is: give another --journal, or move it away",
        path = .0.display()
    )]
    Foreign(PathBuf),
    /// It has grown too long.
    #[error(
        "the journal {path} has {max} MiB; undo what is in it with `numa-agent restore`",
        path = .0.display(),
        max = MAX_BYTES >> 20
    )]
    Full(PathBuf),
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Its length as we left it, with an end of a line.
    length: u64,
    rewrite_at: u64,
    patience: Duration,
    /// Opens what has taken its place.
    follows: bool,
}

/// Which file was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locked {
    /// The one that was open.
    TheSame,
    /// One that has taken its place.
    Another,
}

/// Held until this is dropped.
struct Lock<'a>(&'a File);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // The kernel has it no more in any case once the descriptor is closed.
        let _ = sys::lock(self.0, false);
    }
}

impl Journal {
    /// Opens it, and makes it and its folder if they are missing. What it holds of another boot is dropped; so is what it holds of tasks
    /// that have ended, if it has grown.
    ///
    /// # Errors
    /// If it cannot be opened, or others may write to it.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            listen::make_folder(folder).map_err(failed(path, "making its folder"))?;
        }
        let file = open_trusted(path, Open::ToAppend)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            length: 0,
            rewrite_at: REWRITE_BYTES,
            patience: PATIENCE,
            follows: true,
        };
        refuse_foreign(&journal.file, path)?;
        if journal.facts()?.size() >= REWRITE_BYTES || journal.is_of_another_boot()? {
            journal.rewrite()?;
        }
        Ok(journal)
    }

    /// The same, but who appends waits no longer than this for another who does.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, but it is [`JournalError::Moved`] once another file has taken its place: to open that may wait for a disk, or for others.
    #[must_use]
    pub fn staying(self) -> Self {
        Self { follows: false, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To be called before a task is given another mask.
    ///
    /// # Errors
    /// If it is not in the journal.
    pub fn before_task(&mut self, change: &TaskChange) -> Result<(), JournalError> {
        self.append(&Entry::Task(change.clone()).encode())
    }

    /// To be called before something is written to a file.
    ///
    /// # Errors
    /// If it is not in the journal.
    pub fn before_file(&mut self, change: &FileChange) -> Result<(), JournalError> {
        self.append(&Entry::File(change.clone()).encode())
    }

    /// Appends encoded entries: all of them or none.
    ///
    /// # Errors
    /// If they are not in the journal.
    pub fn append(&mut self, lines: &str) -> Result<(), JournalError> {
        self.lock()?;
        let _lock = Lock(&self.file);
        let length = self.facts()?.size();
        if length + lines.len() as u64 > MAX_BYTES {
            return Err(JournalError::Full(self.path.clone()));
        }
        // Somebody may have died in the middle of a line.
        let torn = length != self.length && length > 0 && {
            let mut last = [0];
            self.file.read_exact_at(&mut last, length - 1).map_err(failed(&self.path, "reading"))?;
            last != *b"\n"
        };
        let lines = match length {
            0 => Cow::Owned(header() + lines),
            _ if torn => Cow::Owned(format!("\n{lines}")),
            _ => Cow::Borrowed(lines),
        };
        let bytes = lines.as_bytes();
        let written = match (&self.file).write(bytes) {
            Ok(written) if written == bytes.len() => Ok(written),
            Ok(_) => Err(Errno::ENOSPC.into()),
            Err(error) => Err(error),
        };
        match written {
            Ok(written) => self.length = length + written as u64,
            Err(error) => {
                // So that half a line does not stay there.
                let _ = self.file.set_len(length);
                return Err(failed(&self.path, "writing")(error));
            }
        }
        Ok(())
    }

    /// Whether it has grown so that it should be rewritten.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.length >= self.rewrite_at
    }

    /// Whether nobody has written to it since we have, removed it, or put another in its place.
    #[must_use]
    pub fn is_as_we_left_it(&self) -> bool {
        self.facts().is_ok_and(|facts| facts.nlink() > 0 && facts.size() == self.length)
    }

    /// Writes it anew, with one entry for each task that lives and each file. Others that have it open go over to the new one.
    /// What takes long is done before the lock is taken.
    ///
    /// # Errors
    /// If that fails; the old one is still there then.
    pub fn rewrite(&mut self) -> Result<(), JournalError> {
        let path = self.path.clone();
        loop {
            let mut bytes = read_from(&self.file, 0).map_err(failed(&path, "reading"))?;
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
            let decoded = decode(&bytes);
            let (mut outstanding, _) = this_boots(decoded);
            let gone = gone(&outstanding);
            if self.lock()? == Locked::Another {
                sys::lock(&self.file, false).map_err(|errno| failed(&path, "unlocking")(errno.into()))?;
                continue;
            }
            let lock = Lock(&self.file);
            // What others have appended meanwhile.
            let late = read_from(&self.file, bytes.len() as u64).map_err(failed(&path, "reading"))?;
            let late = decode(&late);
            follow(&mut outstanding, &gone, late);
            let text = outstanding.encode();
            let file = replace(&path, text.as_bytes()).map_err(failed(&path, "rewriting"))?;
            drop(lock);
            if outstanding.lost > 0 {
                tracing::warn!(
                    "{} damaged lines of the journal {} are dropped: what was changed as they told cannot be undone",
                    outstanding.lost,
                    path.display()
                );
            }
            self.take(file, text.len() as u64);
            return Ok(());
        }
    }

    /// Whether it begins with another line than it should, as an older version's does. One that is damaged is left as it is, for `restore`
    /// to say so, unless it is over.
    fn is_of_another_boot(&self) -> Result<bool, JournalError> {
        let header = header();
        let mut first = vec![0; header.len()];
        let read = self.file.read_at(&mut first, 0).map_err(failed(&self.path, "reading"))?;
        if read == 0 || first == header.as_bytes() {
            return Ok(false);
        }
        let decoded = decode(&read_from(&self.file, 0).map_err(failed(&self.path, "reading"))?);
        Ok(decoded.damaged == 0 || this_boots(decoded).1 > 0)
    }

    fn take(&mut self, file: File, length: u64) {
        (self.file, self.length) = (file, length);
        self.rewrite_at = (2 * length).max(REWRITE_BYTES);
    }

    /// Takes the lock on the file that is at the path now.
    fn lock(&mut self) -> Result<Locked, JournalError> {
        let end = Instant::now() + self.patience;
        let mut locked = Locked::TheSame;
        loop {
            match sys::lock(&self.file, true) {
                Ok(()) if self.facts()?.nlink() > 0 => return Ok(locked),
                // It was rewritten, or removed.
                Ok(()) if !self.follows => return Err(JournalError::Moved(self.path.clone())),
                Ok(()) => {
                    let file = open_trusted(&self.path, Open::ToAppend)?;
                    let length = file.metadata().map_err(failed(&self.path, "looking at it"))?.size();
                    self.take(file, length);
                    locked = Locked::Another;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EWOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
                Err(Errno::EWOULDBLOCK) => return Err(JournalError::Busy(self.path.clone())),
                Err(errno) => return Err(failed(&self.path, "locking")(errno.into())),
            }
        }
    }

    fn facts(&self) -> Result<Metadata, JournalError> {
        self.file.metadata().map_err(failed(&self.path, "looking at it"))
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// The first line.
fn header() -> String {
    boot_id().map(|id| Entry::Boot { id }.encode()).unwrap_or_default()
}

/// The kernel's name for this boot; `None` without `/proc`.
fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// What it adds up to on this boot of the machine, and how many changes it holds of another. Damaged lines are of this boot, unless there
/// are such changes.
#[must_use]
pub fn this_boots(decoded: Decoded) -> (Outstanding, usize) {
    let mut outstanding: Outstanding = decoded.entries.into_iter().collect();
    let over = boot_id().map_or(0, |id| outstanding.enter_boot(&id));
    if over == 0 {
        outstanding.add(Entry::Lost { lines: decoded.damaged });
    }
    (outstanding, over)
}

/// What the journal says; `None`: there is none.
///
/// # Errors
/// If it cannot be read, or others may write to it.
pub fn read(path: &Path) -> Result<Option<Decoded>, JournalError> {
    let file = match open_trusted(path, Open::ToRead) {
        Err(JournalError::Failed { error, .. }) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    refuse_foreign(&file, path)?;
    Ok(Some(decode(&read_from(&file, 0).map_err(failed(path, "reading"))?)))
}

/// Whoever gives the wrong path must not lose a file by it.
fn refuse_foreign(file: &File, path: &Path) -> Result<(), JournalError> {
    let mut first = [0; 9];
    let length = file.read_at(&mut first, 0).map_err(failed(path, "reading"))?;
    if journal::begins(&first[..length]) {
        return Ok(());
    }
    // Or its beginning is damaged.
    let bytes = read_from(file, 0).map_err(failed(path, "reading"))?;
    if decode(&bytes).entries.is_empty() { Err(JournalError::Foreign(path.to_owned())) } else { Ok(()) }
}

/// What has been appended since it was seen what is gone: that may have come back.
fn follow(outstanding: &mut Outstanding, gone: &BTreeSet<Subject>, late: Decoded) {
    outstanding.forget(gone);
    outstanding.add(Entry::Lost { lines: late.damaged });
    late.entries.into_iter().for_each(|entry| outstanding.add(entry));
}

/// The tasks that have ended, and the files that are there no more or somebody else's: a cgroup was removed, an interrupt has no handler
/// any more, irqbalance does not run any more.
fn gone(outstanding: &Outstanding) -> BTreeSet<Subject> {
    let is_gone = |subject: &Subject| match subject {
        // Elsewhere tids mean something else, and nobody would be there.
        Subject::Task(task) => {
            sys::in_initial_pid_namespace() && Host.start_time(task.tid) != Some(task.start_time)
        }
        Subject::File(path) => is_away(path) || outstanding.files.get(path).is_some_and(is_anothers),
    };
    outstanding.subjects().filter(is_gone).collect()
}

fn is_away(path: &str) -> bool {
    // An old irqbalance's socket has no file.
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
        && !(journal::is_socket(path) && balancer::has_abstract(path.as_ref()))
}

/// Whether the file is somebody else's by now.
pub(super) fn is_anothers(owed: &Owed<FileChange>) -> bool {
    let change = &owed.change;
    change.whose.is_some() && change.is_anothers(whose(change.path.as_ref()).as_deref())
}

/// Puts a new file in place of the old one; for who has its lock.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = with_ending(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = trust::options(Open::ToAppend).create_new(true).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // It is ours, and nobody wants half a file.
        let _ = fs::remove_file(&new);
    }
    written.map(|()| file)
}

/// All there is from `offset` on, but no more than a journal can have.
fn read_from(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read_at(&mut chunk, offset + bytes.len() as u64) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > 2 * MAX_BYTES {
            return Err(Errno::EFBIG.into());
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> JournalError {
    move |error| JournalError::Failed { path: path.to_owned(), what, error }
}

#[cfg(test)]
mod tests;
