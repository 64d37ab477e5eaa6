//! The files of one sysfs tree, and what they are called in an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::core::idset::{IdSet, ListError};

/// Why a tree gave no topology.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// Not a sysfs tree.
    #[error("{path} is missing, so {root} does not stand for /sys; {hint}")]
    NotSysfs {
        /// The tree.
        root: PathBuf,
        /// What it lacks.
        path: PathBuf,
        /// Where to look instead.
        hint: String,
    },
    /// A file that cannot be done without.
    #[error("{path} is missing; {hint}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file that is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that holds something else than it should.
    #[error("{path} holds {content:?}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Its content, shortened.
        content: String,
        /// What is wrong with it.
        why: String,
    },
    /// Our own cgroup's limits could not be read.
    #[error(transparent)]
    Cpuset(#[from] crate::host::cpuset::CpusetError),
}

/// A directory that stands for `/sys`. Paths are relative to it; a file that is not there is `None`.
pub(super) struct Tree<'a> {
    pub(super) root: &'a Path,
}

impl Tree<'_> {
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    pub(super) fn is_dir(&self, dir: &str) -> bool {
        self.path(dir).is_dir()
    }

    /// The file's text without surrounding white space, nor the NUL that some captured trees end files with.
    pub(super) fn text(&self, file: &str) -> Result<Option<String>, SysfsError> {
        let path = self.path(file);
        match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()))
            }
            Err(error) if absent(&error) => Ok(None),
            Err(source) => Err(SysfsError::Read { path, source }),
        }
    }

    pub(super) fn number(&self, file: &str) -> Result<Option<i64>, SysfsError> {
        let Some(text) = self.text(file)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.content(file, &text, "not a number"))
    }

    /// A list. `(null)` is how kernels print a mask that was never allocated (`nohz_full` before 5.18).
    pub(super) fn list(&self, file: &str) -> Result<Option<IdSet>, SysfsError> {
        self.set(file, |text| if text == "(null)" { Ok(IdSet::new()) } else { text.parse() })
    }

    /// The set that the list file or else the mask file holds. Lists came with 2.6.26 for CPUs, 2.6.29 for nodes.
    pub(super) fn list_or_mask(&self, list: &str, mask: &str) -> Result<Option<IdSet>, SysfsError> {
        match self.list(list)? {
            Some(set) => Ok(Some(set)),
            None => self.set(mask, IdSet::from_mask),
        }
    }

    fn set(
        &self,
        file: &str,
        parse: impl Fn(&str) -> Result<IdSet, ListError>,
    ) -> Result<Option<IdSet>, SysfsError> {
        let Some(text) = self.text(file)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|error| self.content(file, &text, &error.to_string()))
    }

    /// The numbers of the entries of `dir` that are called `prefix` and a number.
    pub(super) fn numbered(&self, dir: &str, prefix: &str) -> Result<IdSet, SysfsError> {
        let path = self.path(dir);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if absent(&error) => return Ok(IdSet::new()),
            Err(source) => return Err(SysfsError::Read { path, source }),
        };
        let mut numbers = IdSet::new();
        for entry in entries {
            let entry = entry.map_err(|source| SysfsError::Read { path: path.clone(), source })?;
            let name = entry.file_name();
            // The list's parser keeps the number within bounds; names like `cpufreq` or `cpu-map` do not parse.
            let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<IdSet>().ok());
            numbers.extend(number.filter(|number| number.len() == 1).and_then(|number| number.first()));
        }
        Ok(numbers)
    }

    /// The fields of a node's `meminfo`, in bytes; `None` for what this kernel does not say.
    pub(super) fn meminfo<const N: usize>(
        &self,
        file: &str,
        names: [&str; N],
    ) -> Result<[Option<u64>; N], SysfsError> {
        let (text, mut fields) = (self.text(file)?.unwrap_or_default(), [None; N]);
        for (field, name) in fields.iter_mut().zip(names) {
            // Node 0 MemTotal:       24684092 kB
            let Some(line) = text.lines().find(|line| line.split_whitespace().nth(2) == Some(name)) else {
                continue;
            };
            let kib = line.split_whitespace().nth(3).and_then(|word| word.parse::<u64>().ok());
            let bytes = kib.and_then(|kib| kib.checked_mul(1024));
            *field = Some(bytes.ok_or_else(|| self.content(file, line, "not a number of kB"))?);
        }
        Ok(fields)
    }

    pub(super) fn content(&self, file: &str, content: &str, why: &str) -> SysfsError {
        SysfsError::Content {
            path: self.path(file),
            content: content.chars().take(80).collect(),
            why: why.to_owned(),
        }
    }
}

/// A CPU that goes offline takes its directories along between listing and reading.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}
