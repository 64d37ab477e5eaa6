//! Whom a file is about. Cgroups and queues are made anew under the name of one that was removed, and the number of an interrupt goes to
//! another device's.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::core::journal::is_interrupt;

/// Whom the file at `path` is about now: an interrupt about its handlers, by their names, anything else about its folder. `None`: an
/// interrupt that nobody handles, or nobody can tell.
pub fn whose(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    if !is_interrupt(path.to_str()?) {
        return Some(format!("inode {}", fs::metadata(folder).ok()?.ino()));
    }
    // Each handler has a folder there.
    let entries = fs::read_dir(folder).ok()?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    (!names.is_empty()).then(|| names.join(","))
}
