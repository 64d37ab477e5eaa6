//! What a task had before us. A mask that it has inherited from one to which we gave it is no mask of its own: the journal tells what
//! the forebear had.

use std::collections::BTreeMap;

use super::{Outstanding, TaskChange, undo::is};
use crate::core::{
    engine::{Bind, Engine},
    idset::CpuSet,
    task::{BindOutcome, TaskId},
};

/// So many processes are worth no look at which of them have ended.
const FEW: usize = 1024;

/// The processes that we have given masks to.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    families: BTreeMap<u32, Family>,
    /// How many there were when those that had ended were forgotten.
    kept: usize,
}

#[derive(Debug, Clone)]
struct Family {
    start_time: u64,
    /// What its leader had.
    origin: CpuSet,
    /// What its threads were given.
    gifts: Vec<CpuSet>,
}

impl Family {
    fn has_given(&self, mask: &CpuSet, online: &CpuSet) -> bool {
        self.gifts.iter().any(|gift| is(mask, gift, online))
    }
}

/// A thread and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The thread.
    pub task: TaskId,
    /// Its name.
    pub comm: String,
    /// Its process.
    pub process: TaskId,
    /// The process that has created that.
    pub parent: u32,
    /// The CPUs that are online: of a mask the kernel tells no others.
    pub online: CpuSet,
}

impl Who {
    /// Whom that is about.
    #[must_use]
    pub fn of(bind: &Bind, engine: &Engine) -> Self {
        let facts = engine.process(bind.pid).map(|process| &process.facts);
        let process = facts.map_or(TaskId { tid: bind.pid, start_time: 0 }, |facts| facts.id());
        let parent = facts.map_or(0, |facts| facts.ppid);
        let online = engine.online().clone();
        Self { task: bind.task, comm: bind.comm.clone(), process, parent, online }
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
            owed.gifts().for_each(|given| lineage.gave(*task, &owed.change.before, given));
        }
        for (task, owed) in others {
            let family = lineage.families.get(&owed.change.pid);
            let Some(family) = family.filter(|family| family.start_time <= task.start_time) else { continue };
            let process = TaskId { tid: owed.change.pid, start_time: family.start_time };
            owed.gifts().for_each(|given| lineage.gave(process, &owed.change.before, given));
        }
        lineage
    }

    /// What is to be told of a thread that has the mask `before` and is about to be given another.
    pub fn change(&mut self, who: &Who, before: &CpuSet, given: &CpuSet) -> TaskChange {
        let heir_of = |family: &&Family| family.has_given(before, &who.online);
        let family = self.family(who.process).filter(heir_of).or_else(|| self.parent(who).filter(heir_of));
        let before = family.map_or(before, |family| &family.origin).clone();
        self.tell(who, before, given)
    }

    fn tell(&mut self, who: &Who, before: CpuSet, given: &CpuSet) -> TaskChange {
        self.gave(who.process, &before, given);
        TaskChange {
            pid: who.process.tid,
            task: who.task,
            comm: who.comm.clone(),
            before,
            given: given.clone(),
        }
    }

    /// What is to be told after it was asked to take the mask `asked`: what the kernel made of that; and of a process that has inherited
    /// its mask, what its forebear had, who may end before it.
    pub fn outcome(&mut self, who: &Who, asked: &CpuSet, outcome: &BindOutcome) -> Option<TaskChange> {
        match outcome {
            BindOutcome::Bound(granted) if granted != asked => {
                let origin = self.family(who.process)?.origin.clone();
                Some(self.tell(who, origin, granted))
            }
            BindOutcome::Unchanged(mask) if who.task == who.process && self.family(who.process).is_none() => {
                self.parent(who).filter(|family| family.has_given(mask, &who.online))?;
                Some(self.change(who, mask, mask))
            }
            _ => None,
        }
    }

    /// Forgets the processes of which `lives` does not say that they are there.
    pub fn retain(&mut self, lives: impl Fn(u32) -> bool) {
        self.families.retain(|pid, _| lives(*pid));
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

    fn parent(&self, who: &Who) -> Option<&Family> {
        // A later owner of the pid has created nobody before it was there.
        self.families.get(&who.parent).filter(|family| family.start_time <= who.process.start_time)
    }

    fn gave(&mut self, process: TaskId, origin: &CpuSet, given: &CpuSet) {
        let start_time = process.start_time;
        let fresh = || Family { start_time, origin: origin.clone(), gifts: Vec::new() };
        let family = self.families.entry(process.tid).or_insert_with(fresh);
        if family.start_time != start_time {
            *family = fresh();
        }
        if !family.gifts.contains(given) {
            family.gifts.push(given.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn who(tid: u32, pid: u32, parent: u32) -> Who {
        let id = |tid| TaskId { tid, start_time: 7 };
        Who { task: id(tid), comm: "x".into(), process: id(pid), parent, online: set("0-7") }
    }

    #[test]
    fn those_that_have_ended_are_forgotten_in_time() {
        let mut lineage = Lineage::default();
        let mut most = 0;
        // Each ends before the next comes, but for the first hundred.
        for pid in 1..100_000 {
            lineage.change(&who(pid, pid, 0), &set("0-7"), &set("2"));
            most = most.max(lineage.families.len());
            if lineage.is_long() {
                lineage.retain(|one| one <= 100 || one == pid);
            }
        }
        assert!(most <= 2 * FEW && lineage.families.contains_key(&100), "{most}");
    }

    #[test]
    fn what_was_inherited_is_traced_to_who_had_its_own() {
        let mut lineage = Lineage::default();
        assert_eq!(lineage.change(&who(1, 1, 0), &set("0-7"), &set("2")).before, set("0-7"));
        // A thread that was born with the gift, and one that has a mask of its own.
        assert_eq!(lineage.change(&who(2, 1, 0), &set("2"), &set("3")).before, set("0-7"));
        assert_eq!(lineage.change(&who(3, 1, 0), &set("4-5"), &set("3")).before, set("4-5"));
        // A child, and a child of that.
        assert_eq!(lineage.change(&who(5, 5, 1), &set("3"), &set("6")).before, set("0-7"));
        assert_eq!(lineage.change(&who(6, 6, 5), &set("6"), &set("2")).before, set("0-7"));
        assert_eq!(lineage.change(&who(8, 8, 0), &set("6"), &set("2")).before, set("6"), "nobody's child");
    }

    #[test]
    fn a_process_that_stays_where_its_parent_was_put_is_told_of_too() {
        let mut lineage = Lineage::default();
        let stays = BindOutcome::Unchanged(set("2"));
        assert_eq!(lineage.outcome(&who(5, 5, 1), &set("2"), &stays), None, "its own mask");
        lineage.change(&who(1, 1, 0), &set("0-7"), &set("2"));
        let told = lineage.outcome(&who(5, 5, 1), &set("2"), &stays).unwrap();
        assert_eq!((told.before, told.given), (set("0-7"), set("2")));
        assert_eq!(lineage.outcome(&who(5, 5, 1), &set("2"), &stays), None, "once");
        assert_eq!(lineage.outcome(&who(9, 5, 1), &set("2"), &stays), None, "not of each thread");
        lineage.retain(|pid| pid == 5);
        assert_eq!(
            lineage.change(&who(6, 6, 5), &set("2"), &set("3")).before,
            set("0-7"),
            "the parent ended"
        );
    }

    #[test]
    fn what_the_kernel_made_of_it_is_told() {
        let mut lineage = Lineage::default();
        lineage.change(&who(1, 1, 0), &set("0-7"), &set("2-3"));
        let told = lineage.outcome(&who(1, 1, 0), &set("2-3"), &BindOutcome::Bound(set("2"))).unwrap();
        assert_eq!((told.before, told.given), (set("0-7"), set("2")));
        assert_eq!(lineage.outcome(&who(1, 1, 0), &set("2"), &BindOutcome::Bound(set("2"))), None);
    }

    #[test]
    fn the_next_agent_knows_what_the_one_before_has_given() {
        let mut lineage = Lineage::default();
        let told = [(1, "0-7", "2"), (5, "2", "3")]
            .map(|(tid, before, given)| lineage.change(&who(tid, 1, 0), &set(before), &set(given)));
        let journal: Outstanding = told.into_iter().map(crate::core::journal::Entry::Task).collect();
        let mut next = Lineage::of(&journal);
        for inherited in ["2", "3"] {
            let change = next.change(&who(6, 1, 0), &set(inherited), &set("4"));
            assert_eq!(change.before, set("0-7"), "born while there was no agent, with {inherited}");
        }
    }

    #[test]
    fn what_it_had_first_is_what_it_gets_back() {
        let mut lineage = Lineage::default();
        let mut told = vec![lineage.change(&who(1, 1, 0), &set("0-7"), &set("2-3"))];
        told.push(lineage.change(&who(2, 1, 0), &set("4"), &set("2-3")));
        // The plan is another; then a CPU is offline, and what the kernel tells of the mask is less.
        told.push(lineage.change(&who(2, 1, 0), &set("2-3"), &set("6-7")));
        let offline = Who { online: set("0-6"), ..who(2, 1, 0) };
        told.push(lineage.change(&offline, &set("6"), &set("5-6")));
        let owed = |told: &[TaskChange], tid: u32| {
            let journal: Outstanding = told.iter().cloned().map(crate::core::journal::Entry::Task).collect();
            journal.tasks[&TaskId { tid, start_time: 7 }].change.before.clone()
        };
        assert_eq!((owed(&told, 1), owed(&told, 2)), (set("0-7"), set("4")), "its own");
        // It pins itself to one of the CPUs that it was given, and is put back; so does the leader, elsewhere.
        told.push(lineage.change(&who(2, 1, 0), &set("5"), &set("5-6")));
        told.push(lineage.change(&who(1, 1, 0), &set("0-1"), &set("5-6")));
        told.push(lineage.change(&who(2, 1, 0), &set("5-6"), &set("2-3")));
        assert_eq!((owed(&told, 1), owed(&told, 2)), (set("0-7"), set("4")), "not what it was put back from");
        let born = lineage.change(&who(9, 1, 0), &set("5-6"), &set("2-3"));
        assert_eq!(born.before, set("0-7"), "nor who was born meanwhile");
    }

    #[test]
    fn a_recycled_pid_inherits_nothing() {
        let mut lineage = Lineage::default();
        lineage.change(&who(1, 1, 0), &set("0-7"), &set("2"));
        let mut next = who(1, 1, 0);
        (next.task.start_time, next.process.start_time) = (9, 9);
        assert_eq!(lineage.change(&next, &set("2"), &set("3")).before, set("2"));
        assert_eq!(
            lineage.change(&who(5, 5, 1), &set("3"), &set("4")).before,
            set("3"),
            "older than that parent"
        );
    }
}
