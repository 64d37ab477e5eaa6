//! Where a command leaves its report, and in which format by the file's ending.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
};

/// What a file's ending asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Markdown,
    Json,
    Svg,
    Html,
}

impl Kind {
    /// Markdown where the ending says nothing.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("html" | "htm") => Self::Html,
            Some("json") => Self::Json,
            Some("svg") => Self::Svg,
            Some("txt") => Self::Text,
            _ => Self::Markdown,
        }
    }
}

/// Finds out that the report's place cannot be written before anything is done.
pub(super) fn check_writable(path: &Path) -> anyhow::Result<()> {
    let open = || {
        make_folder(path)?;
        opened(path, OpenOptions::new().append(true)).map(drop)
    };
    open().with_context(|| unwritable(path))
}

/// Writes a report; if it was not asked for, a place that cannot be written is only a warning. Whether it is there.
pub(super) fn keep(path: &Path, asked: bool, text: &str) -> anyhow::Result<bool> {
    let write = || {
        make_folder(path)?;
        opened(path, OpenOptions::new().write(true).truncate(true))?.write_all(text.as_bytes())
    };
    match write().with_context(|| unwritable(path)) {
        Err(error) if !asked => {
            super::complain(&format!("warning: {error:#}"));
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

/// Opens it, made if need be. A FIFO that nobody reads is refused, and not waited for.
fn opened(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = match options.create(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
            return Err(io::Error::other("nobody reads what is written there"));
        }
        other => other?,
    };
    // Who reads slowly is waited for.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder),
        None => Ok(()),
    }
}

fn unwritable(path: &Path) -> String {
    format!("cannot write the report to {}; choose another place with --report", path.display())
}
