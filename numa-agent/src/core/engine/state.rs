//! What the engine keeps of the managed processes and threads.

use std::collections::BTreeMap;

use crate::core::{
    idset::CpuSet,
    instance::InstanceKey,
    task::{BindOutcome, ProcessFacts, ProcessRole, TaskId, ThreadFacts, ThreadRole},
};

/// How often a thread is put back within [`REPIN_WINDOW_NS`] when others keep re-pinning it; after that it waits for the
/// next reconcile, so that two enforcers never fight in a loop.
pub(super) const REPIN_BURST: u32 = 8;
/// See [`REPIN_BURST`].
pub(super) const REPIN_WINDOW_NS: u64 = 10_000_000_000;

/// One process as a scan saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its facts, complete as far as the rules need them.
    pub facts: ProcessFacts,
    /// Its threads.
    pub threads: Vec<ThreadFacts>,
    /// Monotonic nanoseconds before the first of it was read.
    pub as_of_ns: u64,
    /// Events were lost since the last scan: what was captured at exec may be another program's by now.
    pub after_loss: bool,
}

/// A managed process.
#[derive(Debug, Clone)]
pub struct Process {
    /// As captured at exec or first sight.
    pub facts: ProcessFacts,
    /// Its role.
    pub role: ProcessRole,
    /// Its serving instance; `None` for background processes.
    pub instance: Option<InstanceKey>,
    /// Its threads, by tid.
    pub threads: BTreeMap<u32, Thread>,
    pub(super) as_of_ns: u64,
}

/// A managed thread.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Identity.
    pub id: TaskId,
    /// Name.
    pub comm: String,
    /// Role.
    pub role: ThreadRole,
    /// The mask last read from the kernel, where known.
    pub actual: Option<CpuSet>,
    /// What the last attempt to bind it came to; `None` if none was needed yet.
    pub outcome: Option<BindOutcome>,
    /// What that attempt asked for, and the mask that the kernel made of it.
    pub(super) asked: Option<CpuSet>,
    pub(super) granted: Option<CpuSet>,
    pub(super) as_of_ns: u64,
    pub(super) repins: u32,
    pub(super) repins_since_ns: u64,
}

impl Process {
    /// What the kernel granted in part it may grant in full on a machine that has changed.
    pub(super) fn forget_grants(&mut self) {
        self.threads.values_mut().for_each(|thread| thread.granted = None);
    }
}

impl Thread {
    pub(super) fn new(id: TaskId, comm: String, role: ThreadRole, as_of_ns: u64) -> Self {
        Self {
            id,
            comm,
            role,
            actual: None,
            outcome: None,
            asked: None,
            granted: None,
            as_of_ns,
            repins: 0,
            repins_since_ns: 0,
        }
    }

    /// Whether it is known to be where the plan wants it, as far as its cpuset lets it: asking again for what was granted
    /// in part would change nothing.
    pub(super) fn is_on(&self, planned: &CpuSet) -> bool {
        self.actual.as_ref() == Some(planned)
            || (self.actual.is_some() && self.granted == self.actual && self.asked.as_ref() == Some(planned))
    }

    /// Whether the last attempt to give it `planned` gave it less.
    pub(super) fn is_cut(&self, planned: &CpuSet) -> bool {
        self.asked.as_ref() == Some(planned) && self.granted.as_ref() != Some(planned)
    }

    /// Whether it may be put back once more now, see [`REPIN_BURST`].
    pub(super) fn may_repin(&mut self, at_ns: u64) -> bool {
        if at_ns.saturating_sub(self.repins_since_ns) > REPIN_WINDOW_NS {
            (self.repins, self.repins_since_ns) = (0, at_ns);
        }
        self.repins += 1;
        self.repins <= REPIN_BURST
    }
}
