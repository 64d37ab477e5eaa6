//! A scan: every process that may be ours, with its threads and their masks.

use std::collections::BTreeSet;

use super::{
    device_files,
    procfs::{ProcError, ProcReader},
    sys::{self, Kernel},
};
use crate::core::{
    engine::Snapshot,
    rules::Rules,
    task::{ProcessFacts, TaskId},
};

/// Processes whose threads are read together: each takes a descriptor, of which we may have 1024.
const TOGETHER: usize = 64;

/// What to look for.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// Where to look.
    pub reader: ProcReader,
    /// What may be ours.
    pub rules: Rules,
    /// Pids that are ours already, and may have stopped to match.
    pub managed: BTreeSet<u32>,
    /// See [`Snapshot::after_loss`].
    pub after_loss: bool,
}

/// What was there.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Processes that may be ours, oldest first: the order in which live events would have told of them.
    pub snapshots: Vec<Snapshot>,
    /// All processes alive.
    pub alive: BTreeSet<TaskId>,
    /// The numbers of the device files that only forward threads use. Patterns may match any number of files: not for the event loop.
    pub devices: BTreeSet<u32>,
    /// Monotonic nanoseconds when it began.
    pub as_of_ns: u64,
}

impl Scanner {
    /// Reads all of `/proc` once.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn scan(&self, kernel: &(impl Kernel + Sync)) -> Result<Scan, ProcError> {
        let as_of_ns = sys::monotonic_ns();
        let devices = device_files::numbers(&self.rules.settings().forward_thread_devices);
        let mut scan = Scan { snapshots: Vec::new(), alive: BTreeSet::new(), devices, as_of_ns };
        let mut found = Vec::new();
        for pid in self.reader.pids()? {
            let as_of_ns = sys::monotonic_ns();
            let Some(brief) = self.reader.brief(pid) else { continue };
            scan.alive.insert(brief.id());
            if self.may_be_ours(&brief) {
                let Some(facts) = self.reader.complete(brief) else { continue };
                // Threads are what takes long to read.
                if self.managed.contains(&pid) || self.rules.process_role(&facts).is_some() {
                    found.push((facts, as_of_ns));
                }
            }
            if found.len() == TOGETHER {
                scan.snapshots.extend(self.with_threads(std::mem::take(&mut found), kernel));
            }
        }
        scan.snapshots.extend(self.with_threads(found, kernel));
        scan.snapshots.sort_by_key(|snapshot| (snapshot.facts.start_time, snapshot.facts.pid));
        Ok(scan)
    }

    /// Reads one process, whether it may be ours or not; `None` if it is gone.
    #[must_use]
    pub fn look(&self, pid: u32, kernel: &impl Kernel) -> Option<Snapshot> {
        let as_of_ns = sys::monotonic_ns();
        let facts = self.reader.complete(self.reader.brief(pid)?)?;
        let threads = self.reader.threads(pid, kernel);
        Some(Snapshot { facts, threads, as_of_ns, after_loss: self.after_loss })
    }

    fn may_be_ours(&self, brief: &ProcessFacts) -> bool {
        let matches = || self.rules.may_match(brief, false);
        !brief.kernel_thread && (self.managed.contains(&brief.pid) || matches())
    }

    fn with_threads(&self, found: Vec<(ProcessFacts, u64)>, kernel: &(impl Kernel + Sync)) -> Vec<Snapshot> {
        let pids: Vec<u32> = found.iter().map(|(facts, _)| facts.pid).collect();
        let threads = self.reader.threads_of(&pids, kernel);
        let snapshot =
            |((facts, as_of_ns), threads)| Snapshot { facts, threads, as_of_ns, after_loss: self.after_loss };
        found.into_iter().zip(threads).map(snapshot).collect()
    }
}
