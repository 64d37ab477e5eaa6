//! Opening a file that root acts on: ours or root's, as are the folders it is in, and nobody else's to write to.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{JournalError, failed};
use crate::host::sys;

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// It is made if it is missing.
    ToAppend,
    /// It has to be there.
    ToRead,
}

pub(super) fn options(open: Open) -> OpenOptions {
    let mut options = OpenOptions::new();
    // What is no file shall not keep us waiting.
    options.read(true).append(open == Open::ToAppend).mode(0o600);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

/// Opens it, if nobody else could have written it.
pub(super) fn open_trusted(path: &Path, open: Open) -> Result<File, JournalError> {
    let untrusted = |why| JournalError::Untrusted { path: path.to_owned(), why };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).map_err(failed(path, "looking for its folder"))?;
    for folder in folder.ancestors() {
        let facts = fs::symlink_metadata(folder).map_err(failed(path, "looking at its folder"))?;
        // In one like /tmp nobody can take away what is another's.
        let why = distrust(&facts).filter(|_| !(is_ours(&facts) && facts.mode() & STICKY != 0));
        if let Some(why) = why {
            return Err(untrusted(format!("the folder {} {why}", folder.display())));
        }
    }
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let opened = options(open).create(open == Open::ToAppend).open(folder.join(name));
    let file = opened.map_err(failed(path, "opening"))?;
    let facts = file.metadata().map_err(failed(path, "looking at it"))?;
    let why = if facts.is_file() { distrust(&facts) } else { Some("is no regular file".to_owned()) };
    match why {
        Some(why) => Err(untrusted(format!("it {why}"))),
        None => Ok(file),
    }
}

fn is_ours(facts: &Metadata) -> bool {
    [0, sys::own_uid()].contains(&facts.uid())
}

/// Who beside us and root could have written a file or folder, in words; `None`: nobody.
#[must_use]
pub fn distrust(facts: &Metadata) -> Option<String> {
    match facts.mode() & 0o7777 {
        _ if !is_ours(facts) => Some(format!("belongs to the user {}", facts.uid())),
        mode if mode & OTHERS_WRITE != 0 => Some(format!("may be written by others (mode {mode:o})")),
        _ => None,
    }
}
