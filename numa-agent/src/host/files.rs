//! Files written whole or not at all, and read for what they are.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

/// How many names to try for the temporary file.
const TRIES: u32 = 100;

/// A file as it was when it was opened: whatever is at its path by now.
#[derive(Debug)]
pub struct Opened {
    /// Whose it is, and so on.
    pub facts: Metadata,
    /// Where it is, past all links.
    pub place: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Reads a regular file of at most `limit` bytes. A pipe or a device is refused: it could keep a running agent waiting for ever. What hangs in
/// its file system still hangs.
///
/// # Errors
/// If it is none, is larger, is no text, or cannot be read.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Opened> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    // Without it, opening a pipe waits for who writes.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(wrong("not a regular file".into()));
    }
    let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut text = String::new();
    // Whatever size it says, or grows to.
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(wrong(format!("larger than {limit} bytes")));
    }
    Ok(Opened { facts, place, text })
}

/// Writes `bytes` to `path`, making the folders that are missing: readers see the old file or the new one, never a part. A
/// symbolic link is replaced, not followed. What is no regular file (a pipe, a device) is written to as it is.
///
/// # Errors
/// If it cannot be written; the old file is still there then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(facts) if !facts.is_file() => return OpenOptions::new().write(true).open(path)?.write_all(bytes),
        _ => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        fs::create_dir_all(folder)?;
    }
    let (temporary, mut file) = create_beside(path)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It is ours, and nobody wants half a file.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether [`write_whole`] could write to `path`; makes the folders that are missing.
///
/// # Errors
/// As it would.
pub fn check_writable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(facts) if facts.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(facts) if !facts.is_file() => return OpenOptions::new().write(true).open(path).map(drop),
        _ => {}
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let (temporary, _) = create_beside(path)?;
    fs::remove_file(temporary)
}

/// A new file beside `path`, under a name that nobody has.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    for number in 0..TRIES {
        let temporary = path.with_file_name(format!(".{name}.{}.{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (temporary, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/x.json");
        write_whole(&path, b"old and long").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(path.parent().unwrap()), ["x.json"]);
    }

    #[test]
    fn a_link_is_replaced_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert_eq!(
            (fs::read(&target).unwrap(), fs::read(&link).unwrap()),
            (b"precious".to_vec(), b"new".to_vec())
        );
    }

    #[test]
    fn what_fails_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        // A folder in its place, and a name too long for a temporary file beside it.
        let error = write_whole(dir.path(), b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        let path = dir.path().join("x".repeat(255));
        fs::write(&path, "old").unwrap();
        assert!(write_whole(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()).len(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_writable(dir.path()).is_err(), "a folder");
        fs::write(dir.path().join("file"), "old").unwrap();
        assert!(check_writable(&dir.path().join("file/x")).is_err(), "a file for a folder");
        check_writable(&dir.path().join("file")).unwrap();
        check_writable(&dir.path().join("new/x")).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
        assert!(names(&dir.path().join("new")).is_empty());
    }

    #[test]
    fn only_regular_files_are_read_and_nobody_waits_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&file, "1234").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let opened = read_regular(&link, 4).unwrap();
        assert_eq!((opened.text.as_str(), opened.facts.len()), ("1234", 4));
        assert_eq!(opened.place, fs::canonicalize(&file).unwrap());
        let error = |path: &Path| read_regular(path, 3).unwrap_err().to_string();
        assert_eq!(error(&file), "larger than 3 bytes");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in [&pipe, dir.path(), Path::new("/dev/zero")] {
            assert_eq!(error(other), "not a regular file", "{}", other.display());
        }
        // It says that it is empty.
        assert_eq!(error(Path::new("/proc/self/status")), "larger than 3 bytes");
    }

    #[test]
    fn devices_stay_devices() {
        write_whole(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
