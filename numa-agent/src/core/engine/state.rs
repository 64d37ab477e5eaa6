//! What the engine keeps of the managed processes and threads.

use std::collections::BTreeMap;

use super::drift::Patience;
use crate::core::{
    idset::CpuSet,
    instance::InstanceKey,
    settings::DriftPolicy,
    task::{BindOutcome, ProcessFacts, ProcessRole, TaskId, ThreadFacts, ThreadRole},
};

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
    /// Whether it has used a device file that only forward threads use. A scan cannot know; an exec ends it.
    pub uses_device: bool,
    /// The mask last read from the kernel, where known.
    pub actual: Option<CpuSet>,
    /// What the last attempt to bind it came to; `None` if none was needed yet.
    pub outcome: Option<BindOutcome>,
    /// What that attempt asked for, and the mask that the kernel made of it.
    pub(super) asked: Option<CpuSet>,
    pub(super) granted: Option<CpuSet>,
    pub(super) as_of_ns: u64,
    /// When its mask was last set, by us or by others: what a scan has read before that is of no use.
    pub(super) mask_set_ns: u64,
    pub(super) patience: Patience,
    /// What it was before somebody set its mask last.
    pub(super) patience_before: Patience,
    /// Somebody else has put it where it is, and there it stays.
    pub(super) let_be: bool,
}

impl Process {
    /// Who uses a device will be told anew.
    pub(super) fn forget_devices(&mut self) {
        self.threads.values_mut().for_each(|thread| thread.uses_device = false);
    }

    /// What the kernel granted in part it may grant in full on a machine that has changed.
    pub(super) fn forget_grants(&mut self) {
        self.threads.values_mut().for_each(|thread| thread.granted = None);
    }

    /// Where others have put its threads counts for no more than the policy says.
    pub(super) fn forget_others(&mut self, policy: DriftPolicy) {
        let observes = policy == DriftPolicy::Observe;
        self.threads.values_mut().for_each(|thread| thread.let_be &= observes);
    }
}

impl Thread {
    pub(super) fn new(id: TaskId, comm: String, role: ThreadRole, as_of_ns: u64) -> Self {
        Self {
            id,
            comm,
            role,
            uses_device: false,
            actual: None,
            outcome: None,
            asked: None,
            granted: None,
            as_of_ns,
            mask_set_ns: 0,
            patience: Patience::default(),
            patience_before: Patience::default(),
            let_be: false,
        }
    }

    /// Whether it is known to be where the plan wants it, as far as its cpuset lets it: asking again for what was granted
    /// in part would change nothing.
    pub(super) fn is_on(&self, planned: &CpuSet) -> bool {
        self.actual.as_ref() == Some(planned)
            || (self.actual.is_some() && self.granted == self.actual && self.asked.as_ref() == Some(planned))
    }

    /// Whether it was left where it is when we last looked, as a real-time thread.
    pub(super) fn is_spared(&self) -> bool {
        matches!(self.outcome, Some(BindOutcome::Spared { .. }))
    }

    /// Whether the last attempt to give it `planned` gave it less.
    pub(super) fn is_cut(&self, planned: &CpuSet) -> bool {
        self.asked.as_ref() == Some(planned) && self.granted.as_ref() != Some(planned)
    }
}
