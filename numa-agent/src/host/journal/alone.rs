//! Who is at work on a journal: agents that add to it for as long as they run, or one who undoes what it tells. Not both: they would undo
//! each other's work.

use std::{
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{JournalError, PAUSE, trust::Open, trust::open_trusted, with_ending};
use crate::host::sys;

/// Kept for as long as somebody is at it; the kernel forgets it with the process.
#[derive(Debug)]
pub struct Attendance(#[expect(dead_code, reason = "held, not read")] File);

/// Takes note that an agent uses that journal, for as long as the result is kept; others may too. Waits for who undoes what it tells.
/// `None`: nobody can tell.
///
/// # Errors
/// [`JournalError::BeingRestored`] if that takes longer than `patience`.
pub fn attend(path: &Path, patience: Duration) -> Result<Option<Attendance>, JournalError> {
    let Ok(file) = open_trusted(&attendance(path), Open::ToAppend) else { return Ok(None) };
    let end = Instant::now() + patience;
    loop {
        match sys::lock_shared(&file) {
            Ok(()) => return Ok(Some(Attendance(file))),
            Err(Errno::EINTR) => {}
            Err(Errno::EWOULDBLOCK) if Instant::now() < end => thread::sleep(PAUSE),
            Err(Errno::EWOULDBLOCK) => return Err(JournalError::BeingRestored(path.to_owned())),
            Err(_) => return Ok(None),
        }
    }
}

/// Sees to it that no agent uses that journal for as long as the result is kept. `None`: nobody can tell.
///
/// # Errors
/// [`JournalError::Attended`] if one does, [`JournalError::BeingRestored`] if somebody else undoes what it tells.
pub fn keep_agents_out(path: &Path) -> Result<Option<Attendance>, JournalError> {
    let Ok(file) = open_trusted(&attendance(path), Open::ToAppend) else { return Ok(None) };
    match sys::lock(&file, true) {
        Ok(()) => Ok(Some(Attendance(file))),
        Err(Errno::EWOULDBLOCK) => Err(match sys::lock_shared(&file) {
            Ok(()) => JournalError::Attended(path.to_owned()),
            Err(_) => JournalError::BeingRestored(path.to_owned()),
        }),
        Err(_) => Ok(None),
    }
}

fn attendance(path: &Path) -> PathBuf {
    with_ending(path, ".agent")
}
