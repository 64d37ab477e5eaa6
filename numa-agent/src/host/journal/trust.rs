//! Opening a journal: it and the folders it is in are ours or root's, and nobody else's to write to.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{JournalError, failed};
use crate::host::trust::{distrust, distrust_folder_of};

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
    let (folder, why) = distrust_folder_of(path).map_err(failed(path, "looking for its folder"))?;
    if let Some(why) = why {
        return Err(untrusted(why));
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
