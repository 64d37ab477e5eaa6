//! The cgroups of managed processes, and the memory nodes that they allow: `cpuset.mems` of v2
//! (`Documentation/admin-guide/cgroup-v2.rst`) or v1 (`Documentation/admin-guide/cgroup-v1/cpusets.rst`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    cpuset::{self, CpusetError, Hierarchy},
    journal::{JournalError, whose},
    sys::{self, Host, Kernel},
};
use crate::core::{
    idset::NodeSet,
    instance::container_of,
    journal::{FileChange, FileClass},
    memory::cgroup::{Cgroup, Decision, Fence, FenceOutcome, Owner, Wanted},
    task::TaskId,
};

/// How far up a process's ancestors are followed.
const MAX_ANCESTORS: usize = 32;

/// Has the cgroup of each process, a container's own if it is in one, allow the nodes that are wanted, if `may_write` says so of
/// its path; else only says what would be. `before` is told of each file that is about to be written; if that fails, it is not. By
/// ascending path. Processes that end meanwhile are left out.
#[must_use]
pub fn fence(
    wanted: &[Wanted],
    may_write: impl Fn(&str) -> bool,
    mut before: impl FnMut(&FileChange) -> Result<(), JournalError>,
) -> Vec<Fence> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places = BTreeMap::<String, (Place, Vec<&Wanted>)>::new();
    for one in wanted {
        let Some(place) = Place::of(one.process, &mounts) else { continue };
        places.entry(place.path.clone()).or_insert_with(|| (place, Vec::new())).1.push(one);
    }
    let ours: BTreeSet<u32> = wanted.iter().map(|one| one.process.tid).collect();
    let fence = |(place, wanted): (Place, Vec<&Wanted>)| {
        place.fence(&wanted, &ours, may_write(&place.path), &mut before)
    };
    places.into_values().map(fence).collect()
}

/// A cgroup in the file system.
#[derive(Debug)]
struct Place {
    /// The path as the kernel tells it.
    path: String,
    /// Whether a container's.
    container: bool,
    hierarchy: Hierarchy,
}

impl Place {
    /// Where a process is; `None` if it is gone, or the kernel has no cpusets.
    fn of(process: TaskId, mounts: &str) -> Option<Self> {
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", process.tid)).ok()?;
        if Host.start_time(process.tid) != Some(process.start_time) {
            return None;
        }
        let mut hierarchy = cpuset::hierarchy(&cgroups, mounts)?;
        let path = format!("/{}", hierarchy.cgroup.display());
        let container = container_of(&path);
        let path = container.as_ref().map_or(path, |container| container.cgroup.clone());
        hierarchy.cgroup = PathBuf::from(path.trim_start_matches('/'));
        Some(Self { container: container.is_some(), path, hierarchy })
    }

    fn dir(&self) -> PathBuf {
        self.hierarchy.mount.join(&self.hierarchy.cgroup)
    }

    fn fence(
        &self,
        wanted: &[&Wanted],
        ours: &BTreeSet<u32>,
        apply: bool,
        before: impl FnOnce(&FileChange) -> Result<(), JournalError>,
    ) -> Fence {
        let groups = wanted.iter().map(|one| one.group.clone()).collect();
        let planned = wanted.first().map(|one| one.nodes.clone()).unwrap_or_default();
        let failed = |why: String| (NodeSet::new(), FenceOutcome::Failed(why));
        let (effective, outcome) = match self.look(ours) {
            Err(error) => failed(error.to_string()),
            Ok(cgroup) => match cgroup.decide(wanted.iter().map(|one| &one.nodes)) {
                Decision::Fits => (cgroup.effective, FenceOutcome::Unchanged),
                Decision::Refused(why) => (cgroup.effective, FenceOutcome::Failed(why.to_string())),
                Decision::Set(nodes) if !apply => (cgroup.effective, FenceOutcome::Planned(nodes)),
                Decision::Set(nodes) => match self.set(&nodes, before) {
                    Err(why) => failed(why),
                    Ok(now) if now == nodes => (now, FenceOutcome::Set(nodes)),
                    Ok(now) => {
                        let why = format!("{nodes} was written to cpuset.mems, and {now} is in force");
                        (now, FenceOutcome::Failed(why))
                    }
                },
            },
        };
        let manager = Owner::of(&self.path, self.container).manager();
        Fence { cgroup: self.path.clone(), groups, planned, effective, manager, outcome }
    }

    fn look(&self, ours: &BTreeSet<u32>) -> Result<Cgroup, CpusetError> {
        let dir = self.dir();
        let mems = cpuset::text(&dir.join("cpuset.mems"))?;
        let above: Vec<PathBuf> = self.dirs().skip(1).collect();
        let pids = processes(&dir);
        Ok(Cgroup {
            owner: Owner::of(&self.path, self.container),
            mems: mems.map(|text| text.trim().parse().unwrap_or_default()),
            effective: self.effective()?,
            above: cpuset::nearest(&above, self.hierarchy.mems)?.unwrap_or_default(),
            strangers: pids.iter().filter(|pid| !descends(**pid, ours)).count(),
            moves: self.moves(&dir, &pids),
        })
    }

    /// The cgroup's directory, and those above it up to the mounted one.
    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchy.cgroup.ancestors().map(|cgroup| self.hierarchy.mount.join(cgroup))
    }

    fn effective(&self) -> Result<NodeSet, CpusetError> {
        let dirs: Vec<PathBuf> = self.dirs().collect();
        Ok(cpuset::nearest(&dirs, self.hierarchy.mems)?.unwrap_or_default())
    }

    /// Writes, and reads back what is in force. The error is why not.
    fn set(
        &self,
        nodes: &NodeSet,
        before: impl FnOnce(&FileChange) -> Result<(), JournalError>,
    ) -> Result<NodeSet, String> {
        let path = self.dir().join("cpuset.mems");
        let held = cpuset::text(&path).map_err(|error| error.to_string())?.unwrap_or_default();
        let change = FileChange {
            class: FileClass::Cpuset,
            path: fs::canonicalize(&path).unwrap_or_else(|_| path.clone()).display().to_string(),
            what: format!("cpuset.mems of {}", self.path),
            before: held.trim().to_owned(),
            given: nodes.to_string(),
            whose: whose(&path),
        };
        before(&change).map_err(|error| format!("what it is cannot be written down: {error}"))?;
        let written = fs::write(&path, nodes.to_string());
        written
            .map_err(|source| CpusetError::Write { path, nodes: nodes.clone(), source })
            .and_then(|()| self.effective())
            .map_err(|error| error.to_string())
    }

    /// What the kernel moves when the nodes change: always with v2, with v1 if it is told to.
    fn moves(&self, dir: &Path, pids: &[u32]) -> BTreeMap<Option<u32>, u64> {
        let told =
            || fs::read_to_string(dir.join("cpuset.memory_migrate")).is_ok_and(|text| text.trim() == "1");
        if !self.hierarchy.unified && !told() {
            return BTreeMap::new();
        }
        match fs::read_to_string(dir.join("memory.numa_stat")) {
            Ok(text) if self.hierarchy.unified => by_node(&text),
            // Without the memory controller only how much it is at most.
            _ => {
                let resident = |pid: &u32| {
                    let process = procfs::process::Process::new(i32::try_from(*pid).ok()?).ok()?;
                    Some(process.statm().ok()?.resident * sys::page_bytes())
                };
                [(None, pids.iter().filter_map(resident).sum())].into()
            }
        }
    }
}

/// Anonymous and shared memory of `memory.numa_stat` (v2, since 5.10).
fn by_node(text: &str) -> BTreeMap<Option<u32>, u64> {
    let mut nodes = BTreeMap::new();
    for line in text.lines() {
        // anon N0=126976 N1=0
        let mut words = line.split(' ');
        if !words.next().is_some_and(|kind| ["anon", "shmem"].contains(&kind)) {
            continue;
        }
        for (node, bytes) in words.filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            if let (Ok(node), Ok(bytes)) = (node.parse(), bytes.parse::<u64>()) {
                *nodes.entry(Some(node)).or_default() += bytes;
            }
        }
    }
    nodes
}

/// The processes in a cgroup and below it, as far as they can be read.
fn processes(dir: &Path) -> Vec<u32> {
    let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    let below = |entry: io::Result<fs::DirEntry>| {
        Some(entry.ok()?).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    };
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(below) {
        pids.extend(processes(&entry.path()));
    }
    pids
}

/// Whether it is one of `ours`, or one of them has started it, at whatever remove.
fn descends(pid: u32, ours: &BTreeSet<u32>) -> bool {
    let mut at = pid;
    for _ in 0..MAX_ANCESTORS {
        if ours.contains(&at) {
            return true;
        }
        let parent =
            i32::try_from(at).ok().and_then(|pid| procfs::process::Process::new(pid).ok()?.stat().ok());
        match parent.and_then(|stat| u32::try_from(stat.ppid).ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::journal::Class;
    use crate::host::{
        journal::Journal,
        restore::{Asked, restore},
    };

    #[test]
    fn what_is_moved_is_anonymous_and_shared() {
        let text = "anon N0=4096 N1=8192\nfile N0=1 N1=1\nkernel_stack N0=1 N1=1\nshmem N0=0 N1=4096\nanon_thp N0=7 N1=7\n";
        assert_eq!(by_node(text), [(Some(0), 4096), (Some(1), 12288)].into());
        assert!(by_node("nonsense").is_empty());
    }

    #[test]
    fn nodes_are_written_down_before_they_are_set_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("cpuset");
        fs::create_dir_all(mount.join("pods/a")).unwrap();
        let mounts = format!("34 31 0:31 / {} rw - cgroup cgroup rw,cpuset\n", mount.display());
        let place = || Place {
            path: "/pods/a".to_owned(),
            container: false,
            hierarchy: cpuset::hierarchy("3:cpuset:/pods/a\n", &mounts).unwrap(),
        };
        let file = mount.join("pods/a/cpuset.mems");
        let holds = || fs::read_to_string(&file).unwrap().trim().to_owned();
        for path in ["cpuset.mems", "pods/cpuset.mems", "pods/a/cpuset.mems"] {
            fs::write(mount.join(path), "0-7\n").unwrap();
        }
        let process = TaskId { tid: 1, start_time: 1 };
        let wanted = Wanted { process, group: "group0".to_owned(), nodes: "0-1".parse().unwrap() };
        let fence = |before: &dyn Fn(&FileChange) -> Result<(), JournalError>| {
            place().fence(&[&wanted], &BTreeSet::new(), true, before).outcome
        };
        let journal = dir.path().join("run/journal");
        let told = |change: &FileChange| {
            assert_ne!(holds(), change.given, "not yet");
            Journal::open(&journal)?.before_file(change)
        };
        let given = FenceOutcome::Set("0-1".parse().unwrap());
        const IRQ: Class = Class::File(FileClass::Irq);
        const CPUSET: Class = Class::File(FileClass::Cpuset);
        let undo = |class, dry_run| {
            let asked = Asked { classes: vec![class], dry_run };
            let rows = restore(&journal, &asked).unwrap().rows;
            rows.into_iter().map(|row| row.outcome.name()).collect::<Vec<_>>()
        };
        let refused = |change: &FileChange| Err(JournalError::Foreign(change.path.clone().into()));
        assert!(matches!(fence(&refused), FenceOutcome::Failed(_)));
        assert_eq!(holds(), "0-7", "what cannot be undone is not done");

        assert_eq!((fence(&told), holds()), (given.clone(), "0-1".to_owned()));
        assert_eq!((undo(IRQ, false), undo(CPUSET, true)), (vec![], vec!["planned"]));
        assert_eq!((undo(CPUSET, false), holds()), (vec!["restored"], "0-7".to_owned()));
        assert!(undo(CPUSET, false).is_empty(), "once");

        // Its manager rewrites it, and we do it again: that is what it gets back. Then it does so and we do not.
        assert_eq!(fence(&told), given);
        fs::write(&file, "0-3\n").unwrap();
        assert_eq!(fence(&told), given);
        assert_eq!((undo(CPUSET, false), holds()), (vec!["restored"], "0-3".to_owned()));
        assert_eq!(fence(&told), given);
        fs::write(&file, "4-5\n").unwrap();
        assert_eq!((undo(CPUSET, false), holds()), (vec!["changed"], "4-5".to_owned()));
    }

    #[test]
    fn who_descends_from_us_is_ours() {
        let me = BTreeSet::from([std::process::id()]);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descends(child.id(), &me) && descends(std::process::id(), &me));
        assert!(!descends(1, &me) && !descends(u32::MAX, &me));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
