//! What a task had before us. A mask that it has inherited from one to which we gave it is no mask of its own: the journal tells what
//! the forebear had. A mask that is all its cpuset lets it have is none of its own either: it is told as all CPUs there can be.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Outstanding, TaskChange,
    undo::{MAX_ANCESTORS, is},
};
use crate::core::{
    engine::{Bind, Engine, Thread},
    idset::CpuSet,
    task::{BindOutcome, TaskId},
};

/// So many processes are worth no look at which of them have ended.
const FEW: usize = 256;

/// What the machine is asked, only where it matters: each answer takes a look.
pub trait Machine {
    /// When a process was born, in its start time's ticks, and the pid of its parent; `None`: it has ended.
    fn born(&mut self, pid: u32) -> Option<(u64, u32)>;

    /// The CPUs.
    fn cpus(&mut self) -> &Cpus;

    /// Those that a process's cpuset allows; `None`: all, or nobody can tell.
    fn allowed(&mut self, pid: u32) -> Option<CpuSet>;

    /// A thread's mask with the CPUs that are offline: of those `sched_getaffinity` does not tell.
    fn whole(&mut self, tid: u32, mask: &CpuSet) -> CpuSet;
}

/// The CPUs of a machine; empty where they are not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpus {
    /// That run now.
    pub online: CpuSet,
    /// That can ever be.
    pub possible: CpuSet,
}

/// The processes that we have given masks to.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    families: BTreeMap<u32, Family>,
    /// All that anybody was given.
    gifts: BTreeSet<CpuSet>,
    /// How many there were when those that had ended were forgotten.
    kept: usize,
}

#[derive(Debug, Clone)]
struct Family {
    start_time: u64,
    /// What its leader had; or, as long as nothing is known of that, the first of its threads that was given another.
    origin: Option<CpuSet>,
    /// What its threads were given, and had not.
    gifts: Vec<CpuSet>,
    /// Masks that were looked up among its ancestors' gifts, and what those are owed who came with them.
    traced: Vec<(CpuSet, CpuSet)>,
    /// What its cpuset allowed when that was looked up.
    allowed: Option<CpuSet>,
}

impl Family {
    const fn new(start_time: u64) -> Self {
        Self { start_time, origin: None, gifts: Vec::new(), traced: Vec::new(), allowed: None }
    }

    /// What those are owed of it that have this mask; `None`: it is none that they could have inherited, as far as is known here.
    fn origin_of(&self, mask: &CpuSet, online: &CpuSet) -> Option<&CpuSet> {
        let given = self.gifts.iter().any(|gift| is(mask, gift, online));
        let traced = || self.traced.iter().find(|(came_with, _)| came_with == mask);
        self.origin.as_ref().filter(|_| given).or_else(|| traced().map(|(_, origin)| origin))
    }
}

/// A thread and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who<'a> {
    /// The thread.
    pub task: TaskId,
    /// Its name.
    pub comm: &'a str,
    /// Its process.
    pub process: TaskId,
    /// The parent of that.
    pub parent: u32,
    /// Whom it was born of, and who had created those, as far as is known.
    pub ancestors: &'a [TaskId],
}

impl<'a> Who<'a> {
    /// Whom that is about.
    #[must_use]
    pub fn of(bind: &'a Bind, engine: &'a Engine) -> Self {
        Self::in_process(bind.task, &bind.comm, bind.pid, engine)
    }

    fn in_process(task: TaskId, comm: &'a str, pid: u32, engine: &'a Engine) -> Self {
        let facts = engine.process(pid).map(|process| &process.facts);
        let process = facts.map_or(TaskId { tid: pid, start_time: 0 }, |facts| facts.id());
        let parent = facts.map_or(0, |facts| facts.ppid);
        let ancestors = facts.map_or(&[][..], |facts| &facts.ancestors);
        Self { task, comm, process, parent, ancestors }
    }

    fn leads(&self) -> bool {
        self.task == self.process
    }
}

impl Lineage {
    /// What a journal tells.
    #[must_use]
    pub fn of(outstanding: &Outstanding) -> Self {
        let mut lineage = Self::default();
        let (leaders, others): (Vec<_>, Vec<_>) =
            outstanding.tasks.iter().partition(|(task, owed)| task.tid == owed.change.pid);
        // By start time: of those that had the same pid, the last.
        for (task, owed) in leaders {
            owed.gifts().for_each(|given| lineage.gave(*task, true, &owed.change.before, given));
        }
        for (task, owed) in others {
            let family = lineage.families.get(&owed.change.pid);
            let Some(family) = family.filter(|family| family.start_time <= task.start_time) else { continue };
            let process = TaskId { tid: owed.change.pid, start_time: family.start_time };
            owed.gifts().for_each(|given| lineage.gave(process, false, &owed.change.before, given));
        }
        lineage
    }

    /// Takes in what was known of the processes before: what they had then is what they had first.
    pub fn go_on_from(&mut self, earlier: Self) {
        for (pid, before) in earlier.families {
            let family = self.families.entry(pid).or_insert_with(|| Family::new(before.start_time));
            if family.start_time == before.start_time {
                family.origin = before.origin.or(family.origin.take());
                let more: Vec<CpuSet> =
                    before.gifts.into_iter().filter(|gift| !family.gifts.contains(gift)).collect();
                family.gifts.extend(more);
            }
        }
        self.gifts.extend(earlier.gifts);
    }

    /// What is to be told of a thread that has the mask `before` and is about to be given another.
    pub fn change(
        &mut self,
        machine: &mut impl Machine,
        who: &Who<'_>,
        before: &CpuSet,
        given: &CpuSet,
    ) -> TaskChange {
        let (origin, _) = self.origin(machine, who, before);
        self.tell(who, origin, given)
    }

    /// What is to be told of one that has this mask and keeps it.
    fn stays(&mut self, machine: &mut impl Machine, who: &Who<'_>, mask: &CpuSet) -> TaskChange {
        let (origin, is_inherited) = self.origin(machine, who, mask);
        let given = if is_inherited { mask.clone() } else { origin.clone() };
        self.tell(who, origin, &given)
    }

    /// What a thread with this mask is owed, and whether that is another's, from whom it has inherited its own.
    fn origin(&mut self, machine: &mut impl Machine, who: &Who<'_>, mask: &CpuSet) -> (CpuSet, bool) {
        let online = machine.cpus().online.clone();
        if let Some(origin) = self.family(who.process).and_then(|family| family.origin_of(mask, &online)) {
            return (origin.clone(), true);
        }
        // To follow its ancestors takes a look at each.
        let may_be_inherited = self.gifts.iter().any(|gift| is(mask, gift, &online));
        let inherited = may_be_inherited.then(|| self.forebears(machine, who, mask, &online)).flatten();
        let is_inherited = inherited.is_some();
        let family = self.family_mut(who.process);
        let origin = inherited.unwrap_or_else(|| {
            let whole = machine.whole(who.task.tid, mask);
            own_mask(machine, who.process.tid, whole, &mut family.allowed)
        });
        if may_be_inherited {
            family.traced.push((mask.clone(), origin.clone()));
        }
        (origin, is_inherited)
    }

    fn tell(&mut self, who: &Who<'_>, before: CpuSet, given: &CpuSet) -> TaskChange {
        self.gave(who.process, who.leads(), &before, given);
        TaskChange {
            pid: who.process.tid,
            task: who.task,
            comm: who.comm.to_owned(),
            before,
            given: given.clone(),
        }
    }

    /// What is to be told after it was asked to take the mask `asked`: what the kernel made of that; and, of a process that is where it
    /// belongs already, what it had, or its forebear, who may end before it. Others may be given that mask.
    pub fn outcome(
        &mut self,
        machine: &mut impl Machine,
        who: &Who<'_>,
        asked: &CpuSet,
        outcome: &BindOutcome,
    ) -> Option<TaskChange> {
        match outcome {
            BindOutcome::Bound(granted) if granted != asked => {
                let origin = self.family(who.process)?.origin.clone()?;
                Some(self.tell(who, origin, granted))
            }
            BindOutcome::Unchanged(mask) if who.leads() && self.family(who.process).is_none() => {
                Some(self.stays(machine, who, mask))
            }
            _ => None,
        }
    }

    /// What is to be told of a process of which nothing is known yet, as a scan has found it, before any of its threads is bound: whose
    /// mask is one that the plan gives. Once others are given that one, it is not to be told from theirs.
    pub fn found(&mut self, machine: &mut impl Machine, engine: &Engine, pid: u32) -> Vec<TaskChange> {
        let Some(process) = engine.process(pid) else { return Vec::new() };
        if self.family(process.facts.id()).is_some() {
            return Vec::new();
        }
        let leader = process.threads.get(&pid);
        let lead = leader.and_then(|leader| leader.actual.as_ref());
        // What the leader had is what its heirs get.
        let others = process.threads.values().filter(|thread| thread.id.tid != pid);
        let others = others.filter(|thread| thread.actual.as_ref() != lead);
        let is_planned = |mask: &CpuSet| {
            let plan = engine.plan();
            let groups = &plan.groups;
            *mask == plan.others.cpus
                || groups.iter().any(|group| [&group.primary_cpus, &group.forward_cpus].contains(&mask))
        };
        let mut tell = |thread: &Thread| {
            let mask = thread.actual.as_ref().filter(|mask| is_planned(mask))?;
            let who = Who::in_process(thread.id, &thread.comm, pid, engine);
            Some(self.stays(machine, &who, mask))
        };
        leader.into_iter().chain(others).filter_map(&mut tell).collect()
    }

    /// Forgets the processes that have ended, as `lives` says.
    pub fn retain(&mut self, lives: impl Fn(TaskId) -> bool) {
        self.families.retain(|pid, family| lives(TaskId { tid: *pid, start_time: family.start_time }));
        self.gifts = self.families.values().flat_map(|family| family.gifts.iter().cloned()).collect();
        self.kept = self.families.len();
    }

    /// Whether it has grown so that those that have ended should be forgotten.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.families.len() >= 2 * self.kept.max(FEW)
    }

    fn family(&self, process: TaskId) -> Option<&Family> {
        self.families.get(&process.tid).filter(|family| family.start_time == process.start_time)
    }

    /// What a thread is owed that has inherited its mask, at whatever remove, also from processes that are none of ours; `None`: it has not.
    fn forebears(
        &self,
        machine: &mut impl Machine,
        who: &Who<'_>,
        mask: &CpuSet,
        online: &CpuSet,
    ) -> Option<CpuSet> {
        let of = |family: &Family| family.origin_of(mask, online).cloned();
        let born_of = who.ancestors.iter().find_map(|id| self.family(*id).and_then(of));
        if born_of.is_some() {
            return born_of;
        }
        // A later owner of a pid has created nobody before it was there.
        let (mut at, mut born) = (who.parent, who.process.start_time);
        if let Some(last) = who.ancestors.last() {
            let (start_time, parent) = machine.born(last.tid)?;
            if start_time != last.start_time {
                return None;
            }
            (at, born) = (parent, start_time);
        }
        for _ in 0..MAX_ANCESTORS {
            let family = self.families.get(&at).filter(|family| family.start_time <= born);
            if let Some(origin) = family.and_then(of) {
                return Some(origin);
            }
            let (start_time, parent) = machine.born(at).filter(|(start_time, _)| *start_time <= born)?;
            (at, born) = (parent, start_time);
        }
        None
    }

    fn family_mut(&mut self, process: TaskId) -> &mut Family {
        let start_time = process.start_time;
        let family = self.families.entry(process.tid).or_insert_with(|| Family::new(start_time));
        if family.start_time != start_time {
            *family = Family::new(start_time);
        }
        family
    }

    fn gave(&mut self, process: TaskId, leads: bool, origin: &CpuSet, given: &CpuSet) {
        let family = self.family_mut(process);
        let is_gift = origin != given;
        if leads || is_gift {
            family.origin.get_or_insert_with(|| origin.clone());
        }
        if is_gift && !family.gifts.contains(given) {
            family.gifts.push(given.clone());
            self.gifts.insert(given.clone());
        }
    }
}

/// A mask that a thread has of its own; all CPUs there can be, if it has none, and runs wherever its cpuset lets it. (Linux 6.2 keeps to a
/// mask that was set, also when the cpuset widens.) `allowed` is what that was when it was looked up last.
fn own_mask(machine: &mut impl Machine, pid: u32, mask: CpuSet, allowed: &mut Option<CpuSet>) -> CpuSet {
    let Cpus { online, possible } = machine.cpus().clone();
    if online.is_empty() || possible.is_empty() {
        return mask;
    }
    if !online.is_subset(&mask) {
        let allowed = &*allowed.get_or_insert_with(|| machine.allowed(pid).unwrap_or_else(|| online.clone()));
        let reach = allowed.intersection(&online);
        if reach.is_empty() || !reach.is_subset(&mask) {
            return mask;
        }
    }
    possible
}

#[cfg(test)]
mod tests;
