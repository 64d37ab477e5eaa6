//! The CPUs and memory nodes that our own cgroup allows: what a plan for this machine may use.
//!
//! Taken from the cgroup's effective cpuset and not from our affinity mask, which somebody may have narrowed for the
//! agent alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::core::idset::{CpuSet, IdSet, ListError, NodeSet};

/// A cgroup's limits; `None`: no limit known, everything allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpuset {
    /// CPUs.
    pub cpus: Option<CpuSet>,
    /// Memory nodes.
    pub mems: Option<NodeSet>,
}

/// Why the limits are unknown.
#[derive(Debug, thiserror::Error)]
pub enum CpusetError {
    /// A file that is there and cannot be read.
    #[error("cannot read {path}: {source}; the CPUs we may use are unknown")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The nodes that the kernel does not take.
    #[error("cannot write {nodes} to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The nodes.
        nodes: NodeSet,
        /// Why.
        source: io::Error,
    },
    /// A file that holds no list.
    #[error("{path} holds {content:?}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Its content, shortened.
        content: String,
        /// What is wrong with it.
        source: ListError,
    },
}

/// The limits of the cgroup this process is in, for who reads them often: where they are is found out anew only when that
/// cgroup is another.
#[derive(Debug)]
pub struct Own {
    root: PathBuf,
    /// `/proc/self/cgroup` as it was, and what followed from it.
    cgroups: String,
    hierarchy: Option<Hierarchy>,
}

/// Where the cpuset controller is, and how it calls the files.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// The mounted directory.
    pub(super) mount: PathBuf,
    /// The process's cgroup below it.
    pub(super) cgroup: PathBuf,
    cpus: &'static [&'static str],
    /// What the files are called that say which nodes are in force, the best first.
    pub(super) mems: &'static [&'static str],
    /// Whether it is the unified one.
    pub(super) unified: bool,
}

/// Reads the limits of the cgroup this process is in. `root` is the root of the file system (`/`): a test's fixture
/// holds `proc/self/cgroup`, `proc/self/mountinfo` and the mounts they name.
///
/// # Errors
/// [`CpusetError`] if a file that is there makes no sense. A kernel without cgroups or cpusets is no error.
pub fn own(root: &Path) -> Result<Cpuset, CpusetError> {
    Own::new(root).read()
}

impl Own {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), cgroups: String::new(), hierarchy: None }
    }

    /// As [`own`].
    ///
    /// # Errors
    /// As [`own`].
    pub fn read(&mut self) -> Result<Cpuset, CpusetError> {
        let cgroups = text(&self.root.join("proc/self/cgroup"))?.unwrap_or_default();
        if cgroups != self.cgroups {
            let mounts = text(&self.root.join("proc/self/mountinfo"))?.unwrap_or_default();
            self.hierarchy = hierarchy(&cgroups, &mounts);
            self.cgroups = cgroups;
        }
        self.hierarchy.as_ref().map_or(Ok(Cpuset::default()), |hierarchy| hierarchy.limits(&self.root))
    }
}

impl Hierarchy {
    fn limits(&self, root: &Path) -> Result<Cpuset, CpusetError> {
        // A v2 cgroup has the files only if its parent enabled the controller; the nearest ancestor's then are in force.
        let mount = root.join(self.mount.strip_prefix("/").unwrap_or(&self.mount));
        let dirs: Vec<PathBuf> = self.cgroup.ancestors().map(|cgroup| mount.join(cgroup)).collect();
        Ok(Cpuset { cpus: nearest(&dirs, self.cpus)?, mems: nearest(&dirs, self.mems)? })
    }
}

/// The directory and the limits of the cgroup that a process is in, as [`own`]; `None` if it is gone, or the kernel has no
/// cpusets.
///
/// # Errors
/// As [`own`].
pub fn of(root: &Path, pid: u32) -> Result<Option<(String, Cpuset)>, CpusetError> {
    among(root, pid, &text(&root.join("proc/self/mountinfo"))?.unwrap_or_default())
}

/// The same, for who has read `/proc/self/mountinfo` already.
pub(super) fn among(root: &Path, pid: u32, mounts: &str) -> Result<Option<(String, Cpuset)>, CpusetError> {
    let Some(cgroups) = text(&root.join(format!("proc/{pid}/cgroup")))? else { return Ok(None) };
    let Some(hierarchy) = hierarchy(&cgroups, mounts) else { return Ok(None) };
    let dir = hierarchy.mount.join(&hierarchy.cgroup);
    Ok(Some((dir.display().to_string(), hierarchy.limits(root)?)))
}

/// The hierarchy with the cpuset controller: a v1 one if it is there, since the controller is in one of the two.
pub(super) fn hierarchy(cgroups: &str, mounts: &str) -> Option<Hierarchy> {
    // hierarchy-ID:controllers:path
    let line = |wanted: &dyn Fn(&str) -> bool| {
        cgroups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            wanted(fields.next()?).then(|| fields.next()).flatten()
        })
    };
    let v1 = line(&|controllers| controllers.split(',').any(|name| name == "cpuset"));
    let (path, mounted, cpus, mems): (_, fn(&str, &str) -> bool, &[_], &[_]) = match v1 {
        Some(path) => (
            path,
            |kind, options| kind == "cgroup" && options.split(',').any(|option| option == "cpuset"),
            // The effective files came with 3.17; `cpuset.cpus` is the same outside of cpuset_v2_mode.
            &["cpuset.effective_cpus", "cpuset.cpus"],
            &["cpuset.effective_mems", "cpuset.mems"],
        ),
        None => (
            line(&str::is_empty)?,
            |kind, _| kind == "cgroup2",
            &["cpuset.cpus.effective"],
            &["cpuset.mems.effective"],
        ),
    };
    mounts.lines().find_map(|line| {
        // ID parent major:minor root mount-point options [tags] - type source super-options (proc(5))
        let (mount, fs) = line.split_once(" - ")?;
        let (mount, fs): (Vec<_>, Vec<_>) = (mount.split(' ').collect(), fs.split(' ').collect());
        if !mounted(fs.first()?, fs.get(2).unwrap_or(&"")) {
            return None;
        }
        // A container may see its own cgroup mounted at the top, while its path is still given from the host's root.
        let below = Path::new(path).strip_prefix(mount.get(3)?).unwrap_or(Path::new(""));
        // "/.." paths lie outside of our cgroup namespace: what is mounted is the nearest that can be seen.
        let cgroup = if path.starts_with("/..") { PathBuf::new() } else { below.to_owned() };
        Some(Hierarchy { mount: PathBuf::from(mount.get(4)?), cgroup, cpus, mems, unified: v1.is_none() })
    })
}

/// The set in the first directory that has one of the files with something in it.
pub(super) fn nearest(dirs: &[PathBuf], names: &[&str]) -> Result<Option<IdSet>, CpusetError> {
    for path in dirs.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name))) {
        let Some(text) = text(&path)? else { continue };
        let set: IdSet = text.parse().map_err(|source| CpusetError::Content {
            path,
            content: text.chars().take(80).collect(),
            source,
        })?;
        if !set.is_empty() {
            return Ok(Some(set));
        }
    }
    Ok(None)
}

/// The file's text; `None` if there is none.
pub(super) fn text(path: &Path) -> Result<Option<String>, CpusetError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        // Of a process that has ended in between.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        Err(source) => Err(CpusetError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, content).expect("a file");
        }
        dir
    }

    fn limits(cpus: &str, mems: &str) -> Cpuset {
        Cpuset { cpus: Some(cpus.parse().unwrap()), mems: Some(mems.parse().unwrap()) }
    }

    const V2: &str = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn v2_takes_the_nearest_ancestor_with_the_controller() {
        let root = root(&[
            ("proc/self/cgroup", "0::/system.slice/numa-agent.service\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-31\n"),
            ("sys/fs/cgroup/cpuset.mems.effective", "0-3\n"),
            ("sys/fs/cgroup/system.slice/cpuset.cpus.effective", "0-7\n"),
            ("sys/fs/cgroup/system.slice/cpuset.cpus", "0-15\n"),
            ("sys/fs/cgroup/system.slice/cpuset.mems.effective", "1\n"),
            ("sys/fs/cgroup/system.slice/numa-agent.service/cgroup.procs", "1\n"),
        ]);
        assert_eq!(own(root.path()).unwrap(), limits("0-7", "1"));
    }

    #[test]
    fn v1_reads_our_own_cgroup_also_beside_v2() {
        let root = root(&[
            ("proc/self/cgroup", "3:cpuset:/pods/a\n1:cpu,cpuacct:/\n0::/else\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-31\n"),
            ("sys/fs/cgroup/cpuset/pods/a/cpuset.effective_cpus", "4-7\n"),
            ("sys/fs/cgroup/cpuset/pods/a/cpuset.effective_mems", "0\n"),
            ("sys/fs/cgroup/unified/else/cpuset.cpus.effective", "9\n"),
        ]);
        assert_eq!(own(root.path()).unwrap(), limits("4-7", "0"));
    }

    #[test]
    fn v1_before_effective_files() {
        let root = root(&[
            ("proc/self/cgroup", "3:cpuset:/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/cpuset/cpuset.cpus", "0-3\n"),
            ("sys/fs/cgroup/cpuset/cpuset.mems", "0-1\n"),
        ]);
        assert_eq!(own(root.path()).unwrap(), limits("0-3", "0-1"));
    }

    #[test]
    fn hybrid_with_the_controller_in_v2() {
        let mounts = V1.lines().filter(|line| !line.contains("rw,cpuset")).collect::<Vec<_>>().join("\n");
        let root = root(&[
            ("proc/self/cgroup", "1:name=systemd:/x\n0::/x\n"),
            ("proc/self/mountinfo", &mounts),
            ("sys/fs/cgroup/unified/x/cpuset.cpus.effective", "2-3\n"),
            ("sys/fs/cgroup/unified/x/cpuset.mems.effective", "1\n"),
        ]);
        assert_eq!(own(root.path()).unwrap(), limits("2-3", "1"));
    }

    #[test]
    fn a_container_whose_cgroup_is_mounted_at_the_top() {
        for cgroup in ["0::/docker/abc\n", "0::/../outside\n", "0::/\n"] {
            let root = root(&[
                ("proc/self/cgroup", cgroup),
                ("proc/self/mountinfo", "9 1 0:22 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
                ("sys/fs/cgroup/cpuset.cpus.effective", "5\n"),
                ("sys/fs/cgroup/cpuset.mems.effective", "0\n"),
                ("sys/fs/cgroup/docker/abc/cpuset.cpus.effective", "6\n"),
            ]);
            assert_eq!(own(root.path()).unwrap(), limits("5", "0"), "{cgroup}");
        }
    }

    #[test]
    fn no_cgroups_no_limits() {
        let bare = root(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", "")]);
        assert_eq!(own(bare.path()).unwrap(), Cpuset::default());
        assert_eq!(own(root(&[]).path()).unwrap(), Cpuset::default());
    }

    #[test]
    fn nonsense_is_an_error_naming_the_file() {
        let root = root(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-\x1b[31m\n"),
        ]);
        let message = own(root.path()).unwrap_err().to_string();
        assert!(
            message.contains("sys/fs/cgroup/cpuset.cpus.effective") && !message.contains('\x1b'),
            "{message}"
        );
    }
}
