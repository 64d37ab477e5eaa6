//! Who could have written a file that root acts on: it and the folders it is in have to be ours or root's, and nobody else's to write to.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::sys;

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Who beside us and root could have put another file in the place of that one, which has been found at `place`, past all links, in words;
/// `None`: nobody.
///
/// # Errors
/// If a folder cannot be looked at.
pub fn distrust_place(path: &Path, place: &Path) -> io::Result<Option<String>> {
    match distrust_folder_of(path)? {
        (_, Some(why)) => Ok(Some(why)),
        (..) => Ok(distrust_folder_of(place)?.1),
    }
}

/// The folder a file is in, and who beside us and root could put another in its place, in words; `None`: nobody.
///
/// # Errors
/// If a folder cannot be looked at.
pub fn distrust_folder_of(path: &Path) -> io::Result<(PathBuf, Option<String>)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder)?;
    for above in folder.ancestors() {
        let facts = fs::symlink_metadata(above)?;
        // In one like /tmp nobody can take away what is another's. Kubernetes mounts its ConfigMaps read-only, with a folder that anybody
        // could write to else.
        let is_closed = || is_ours(&facts) && (facts.mode() & STICKY != 0 || is_read_only(above));
        if let Some(why) = distrust(&facts).filter(|_| !is_closed()) {
            let why = format!("the folder {} {why}", above.display());
            return Ok((folder, Some(why)));
        }
    }
    Ok((folder, None))
}

fn is_read_only(folder: &Path) -> bool {
    statvfs(folder).is_ok_and(|facts| facts.flags().contains(FsFlags::ST_RDONLY))
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
