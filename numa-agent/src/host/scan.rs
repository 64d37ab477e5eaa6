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
    pub fn scan(&self, kernel: &impl Kernel) -> Result<Scan, ProcError> {
        let as_of_ns = sys::monotonic_ns();
        let devices = device_files::numbers(&self.rules.settings().forward_thread_devices);
        let mut scan = Scan { snapshots: Vec::new(), alive: BTreeSet::new(), devices, as_of_ns };
        for pid in self.reader.pids()? {
            let as_of_ns = sys::monotonic_ns();
            let Some(brief) = self.reader.brief(pid) else { continue };
            scan.alive.insert(brief.id());
            if self.may_be_ours(&brief) {
                let Some(facts) = self.reader.complete(brief) else { continue };
                // Threads are what takes long to read.
                if self.managed.contains(&pid) || self.rules.process_role(&facts).is_some() {
                    scan.snapshots.push(self.with_threads(facts, as_of_ns, kernel));
                }
            }
        }
        scan.snapshots.sort_by_key(|snapshot| (snapshot.facts.start_time, snapshot.facts.pid));
        Ok(scan)
    }

    /// Reads one process, whether it may be ours or not; `None` if it is gone.
    #[must_use]
    pub fn look(&self, pid: u32, kernel: &impl Kernel) -> Option<Snapshot> {
        let as_of_ns = sys::monotonic_ns();
        Some(self.with_threads(self.reader.complete(self.reader.brief(pid)?)?, as_of_ns, kernel))
    }

    fn may_be_ours(&self, brief: &ProcessFacts) -> bool {
        let matches = || self.rules.may_match(brief, false);
        !brief.kernel_thread && (self.managed.contains(&brief.pid) || matches())
    }

    fn with_threads(&self, facts: ProcessFacts, as_of_ns: u64, kernel: &impl Kernel) -> Snapshot {
        let threads = self.reader.threads(facts.pid, kernel);
        Snapshot { facts, threads, as_of_ns, after_loss: self.after_loss }
    }
}
