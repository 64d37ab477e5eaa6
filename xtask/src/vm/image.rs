//! The initial file system of a guest: a cpio archive in the "newc" format (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`), made here because not every machine has a `cpio`.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive being written.
#[derive(Default)]
pub struct Image {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl Image {
    /// One with the console: what init has as its standard output is opened before `/dev` is mounted.
    pub fn new() -> Self {
        let mut image = Self::default();
        image.parents(Path::new("/dev/console"));
        image.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
        image
    }

    /// Adds the program `from` at the absolute path `to`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.parents(to);
        let name = to.to_string_lossy();
        self.entry(name.trim_start_matches('/'), PROGRAM, (0, 0), &content);
        Ok(())
    }

    /// Adds a symbolic link at the absolute path `at`.
    pub fn link(&mut self, at: &Path, to: &str) {
        self.parents(at);
        self.entry(at.to_string_lossy().trim_start_matches('/'), LINK, (0, 0), to.as_bytes());
    }

    /// Ends the archive and writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(mut self, to: &Path) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        // Another run may be booting the old one.
        let new = to.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, self.bytes)?;
        fs::rename(new, to)
    }

    /// Ends the archive and writes it behind the one in that file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(mut self, to: &Path) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        fs::OpenOptions::new().append(true).open(to)?.write_all(&self.bytes)
    }

    fn parents(&mut self, path: &Path) {
        let parents: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        for parent in parents.into_iter().rev() {
            let name = parent.to_string_lossy().trim_start_matches('/').to_owned();
            if !name.is_empty() && self.directories.insert(parent) {
                self.entry(&name, DIRECTORY, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path");
        // inode, mode, uid, gid, links, mtime, size, device, special device, name's size, checksum (of another format).
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_parents_come_first_and_once() {
        let dir = std::env::temp_dir().join(format!("numa-agent-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("program");
        fs::write(&program, "abcde").unwrap();
        let mut image = Image::new();
        image.program(&program, Path::new("/init")).unwrap();
        image.program(&program, Path::new("/a/b/one")).unwrap();
        image.program(&program, Path::new("/a/b/two")).unwrap();
        image.link(Path::new("/a/link"), "b/one");
        image.write(&dir.join("image")).unwrap();
        let bytes = fs::read(dir.join("image")).unwrap();
        fs::remove_dir_all(&dir).unwrap();

        // Read back as the kernel does.
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            assert_eq!((&bytes[at..at + 6], at % 4), (&b"070701"[..], 0));
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * index..at + 14 + 8 * index]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap();
            let content = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            seen.push((name.to_owned(), mode as u32, bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        let names: Vec<&str> = seen.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "init", "a", "a/b", "a/b/one", "a/b/two", "a/link"]);
        assert_eq!((seen[7].1, seen[7].2.as_slice()), (LINK, &b"b/one"[..]));
        assert_eq!((seen[2].1, seen[2].2.as_slice()), (PROGRAM, &b"abcde"[..]));
        assert_eq!(seen[3].1, DIRECTORY);
    }
}
