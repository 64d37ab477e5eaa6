//! What is to be undone, and what is left alone because others have changed it since.

use std::collections::{BTreeMap, BTreeSet};

use super::{FileChange, Outstanding, Owed, TaskChange, same_value};
use crate::core::{
    idset::{CpuSet, IdSet},
    task::TaskId,
};

/// How far up a process's ancestors are followed.
pub(super) const MAX_ANCESTORS: usize = 64;

/// What is to become of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It is what it was given: it gets back what it had.
    Undo(T),
    /// It is what it was before already.
    AsBefore,
    /// Somebody else has changed it since.
    Changed,
}

/// The processes that run: parent and start time, by pid.
pub type Running = BTreeMap<u32, (u32, u64)>;

/// A process with threads that are owed a mask, or one of its descendants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// What those get that have inherited a gift.
    pub origin: CpuSet,
    /// What was given to it, or to its ancestors.
    pub gifts: BTreeSet<CpuSet>,
    /// Of those of its ancestors that were given something, the nearest first: what that was, and what they had.
    forebears: Vec<(BTreeSet<CpuSet>, CpuSet)>,
}

/// What is to become of a task that the journal names. `reach`: the CPUs that are online and that its cpuset allows.
#[must_use]
pub fn of_task(
    owed: &Owed<TaskChange>,
    family: &Family,
    current: &CpuSet,
    reach: &CpuSet,
) -> Verdict<CpuSet> {
    let before = family.owes(owed);
    // A task of whose mask nothing is left is let run wherever its cpuset does, and the kernel keeps that mask in mind: so it does with more
    // than is left of it. It may have what it had, and still have to be given that.
    let is_beyond = |given: &CpuSet| current == reach && given.intersection(reach).is_empty();
    if owed.gifts().any(|given| *given != before && (is(current, given, reach) || is_beyond(given))) {
        return Verdict::Undo(before);
    }
    if is(current, &before, reach) { Verdict::AsBefore } else { Verdict::Changed }
}

/// What is to become of a file. `online` are the CPUs that are, or of a cpuset the memory nodes.
#[must_use]
pub fn of_file(owed: &Owed<FileChange>, current: &str, online: &IdSet) -> Verdict<String> {
    let before = &owed.change.before;
    if same_value(current, before) {
        Verdict::AsBefore
    } else if is_gift(owed, current, online) {
        Verdict::Undo(before.clone())
    } else {
        Verdict::Changed
    }
}

/// A change that is about to be made, with what the file had before us if what it holds was given to it.
#[must_use]
pub fn traced(known: &Outstanding, change: &FileChange, online: &IdSet) -> FileChange {
    let owed = known.files.get(&change.path).filter(|owed| !change.is_anothers(owed.change.whose.as_deref()));
    let owed = owed.filter(|owed| is_gift(owed, &change.before, online));
    let before = owed.map_or(&change.before, |owed| &owed.change.before).clone();
    FileChange { before, ..change.clone() }
}

fn is_gift(owed: &Owed<FileChange>, current: &str, online: &IdSet) -> bool {
    let made_of = |given: &String| {
        let sets = owed.change.set(current).zip(owed.change.set(given));
        sets.is_some_and(|(current, given)| {
            is(&current, &given, online)
                || (owed.change.is_interrupt() && is_astray(&current, &given, online))
        })
    };
    owed.gifts().any(|given| same_value(current, given) || made_of(given))
}

/// Whether an interrupt is where the kernel puts those whose last CPU goes offline: anywhere else (`migrate_one_irq` in
/// `kernel/irq/cpuhotplug.c`). It stays there when that CPU returns; then this is told from a place that somebody has chosen by being
/// most of the machine.
fn is_astray(current: &CpuSet, given: &CpuSet, online: &CpuSet) -> bool {
    let elsewhere = online.difference(given);
    !current.is_empty()
        && current.intersection(given).is_empty()
        && elsewhere.is_subset(current)
        && (elsewhere == *online || current.len() > given.len())
}

/// The processes with tasks in the journal, and those that descend from them, by pid.
#[must_use]
pub fn families(outstanding: &Outstanding, running: &Running) -> BTreeMap<u32, Family> {
    let mut members = BTreeMap::<TaskId, Vec<&Owed<TaskChange>>>::new();
    for (task, owed) in &outstanding.tasks {
        let pid = owed.change.pid;
        let Some((_, start_time)) = running.get(&pid) else { continue };
        let leader = TaskId { tid: pid, start_time: *start_time };
        // Of an earlier owner of the pid.
        if task.start_time < *start_time || (task.tid == pid && *task != leader) {
            continue;
        }
        members.entry(leader).or_default().push(owed);
    }
    let own: BTreeMap<u32, (Family, bool)> = members
        .into_iter()
        .map(|(leader, threads)| (leader.tid, Family::of(outstanding.tasks.get(&leader), &threads)))
        .collect();
    let of = |pid: &u32| {
        let mut found: Option<(Family, bool)> = None;
        let (mut at, mut born) = (*pid, u64::MAX);
        for _ in 0..MAX_ANCESTORS {
            // A later owner of a pid has created nobody before it was there.
            let Some((parent, start_time)) = running.get(&at).filter(|(_, start)| *start <= born) else {
                break;
            };
            match (&mut found, own.get(&at)) {
                (_, None) => {}
                (None, Some(family)) => found = Some(family.clone()),
                (Some((found, _)), Some((older, _))) => {
                    found.forebears.push((older.gifts.clone(), older.origin.clone()));
                }
            }
            (at, born) = (*parent, *start_time);
        }
        let (mut family, is_own) = found?;
        if !is_own {
            family.origin = family.traced(&family.origin);
        }
        let inherited: Vec<CpuSet> =
            family.forebears.iter().flat_map(|(gifts, _)| gifts.iter().cloned()).collect();
        family.gifts.extend(inherited);
        Some((*pid, family))
    };
    running.keys().filter_map(of).collect()
}

impl Family {
    /// Of a process whose threads those are, and whether what its heirs get is known to be its own.
    fn of(leader: Option<&Owed<TaskChange>>, threads: &[&Owed<TaskChange>]) -> (Self, bool) {
        let given = |owed: &Owed<TaskChange>| {
            owed.gifts().filter(|given| **given != owed.change.before).cloned().collect()
        };
        let gifts: BTreeSet<CpuSet> =
            threads.iter().flat_map(|owed| -> Vec<CpuSet> { given(owed) }).collect();
        let has_given = |owed: &&&Owed<TaskChange>| owed.gifts().any(|given| *given != owed.change.before);
        let first = leader.or_else(|| threads.iter().find(has_given).copied()).or(threads.first().copied());
        let origin = first.map_or_else(CpuSet::default, |owed| owed.change.before.clone());
        (Self { origin, gifts, forebears: Vec::new() }, first.is_some_and(is_own))
    }

    /// What a task of it that the journal names is owed.
    #[must_use]
    pub fn owes(&self, owed: &Owed<TaskChange>) -> CpuSet {
        let before = &owed.change.before;
        if is_own(owed) { before.clone() } else { self.traced(before) }
    }

    /// Whose mask is one that an ancestor was given, while the journal tells of nobody who had it before, has inherited it: who told of it
    /// did not know.
    fn traced(&self, mask: &CpuSet) -> CpuSet {
        self.forebears.iter().fold(mask.clone(), |mask, (gifts, origin)| match gifts.contains(&mask) {
            true => origin.clone(),
            false => mask,
        })
    }

    /// What is to become of a thread that the journal does not name; `None`: its mask is no gift. One that is all of `reach` may be
    /// anybody's.
    #[must_use]
    pub fn of_heir(&self, current: &CpuSet, reach: &CpuSet) -> Option<CpuSet> {
        let inherited = |given: &CpuSet| current == given || (current != reach && is(current, given, reach));
        let is_heir = *current != self.origin && self.gifts.iter().any(inherited);
        is_heir.then(|| self.origin.clone())
    }
}

/// Whether the journal tells of a mask that it was there before any such was given.
fn is_own(owed: &Owed<TaskChange>) -> bool {
    owed.gifts().any(|given| *given == owed.change.before)
}

/// Whether a mask is this one: the kernel leaves out CPUs that are not online.
pub(super) fn is(current: &CpuSet, mask: &CpuSet, online: &CpuSet) -> bool {
    current == mask || (!current.is_empty() && *current == mask.intersection(online))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::journal::{Entry, FileClass, TaskChange};

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn entry(tid: u32, pid: u32, start_time: u64, before: &str, given: &str) -> Entry {
        let task = TaskId { tid, start_time };
        let (before, given) = (set(before), set(given));
        Entry::Task(TaskChange { pid, task, comm: "x".into(), before, given })
    }

    fn outstanding(entries: impl IntoIterator<Item = Entry>) -> Outstanding {
        entries.into_iter().collect()
    }

    /// The family of process 1, born at 7, which is nobody's child.
    fn alone(told: &Outstanding) -> Family {
        families(told, &[(1, (0, 7))].into()).remove(&1).unwrap()
    }

    #[test]
    fn what_a_cpuset_or_cpus_that_go_offline_make_of_a_mask_is_no_change_by_others() {
        let told = outstanding([entry(1, 1, 7, "0-7", "2-3")]);
        let (owed, family) = (&told.tasks[&TaskId { tid: 1, start_time: 7 }], alone(&told));
        let of = |current: &str, reach: &str| of_task(owed, &family, &set(current), &set(reach));
        let undo = || Verdict::Undo(set("0-7"));
        assert_eq!(of("2", "0-2"), undo(), "a part of what it was given is left");
        assert_eq!(of("2", "2"), undo(), "which is all of the cpuset");
        assert_eq!(
            of("4-5", "4-5"),
            undo(),
            "nothing is left, and it has been let run wherever its cpuset does"
        );
        assert_eq!(of("4", "4-5"), Verdict::Changed);
        assert_eq!(of("0-1", "0-7"), Verdict::Changed);
        assert_eq!(of("0-3", "0-3"), Verdict::AsBefore, "before 6.2 that wipes masks");
        // Who is not named in the journal may be nobody's heir.
        assert_eq!(family.of_heir(&set("2"), &set("0-2")), Some(set("0-7")));
        assert_eq!(family.of_heir(&set("2"), &set("2")), None);
        assert_eq!(family.of_heir(&set("4-5"), &set("4-5")), None);
        // It has what it had, but only because its cpuset allows no more.
        let told = outstanding([entry(1, 1, 7, "1", "0-1")]);
        let owed = &told.tasks[&TaskId { tid: 1, start_time: 7 }];
        assert_eq!(of_task(owed, &alone(&told), &set("1"), &set("1")), Verdict::Undo(set("1")));
    }

    #[test]
    fn who_told_of_an_heir_may_not_have_known_that_it_was_one() {
        let told = outstanding([
            entry(10, 10, 100, "0-7", "2"),
            // By an agent that had read no journal; by one that saw its mask before any such was given; born before 10.
            entry(30, 30, 110, "2", "3"),
            entry(40, 40, 110, "2", "2"),
            entry(50, 50, 90, "2", "3"),
        ]);
        let running: Running = [
            (10, (1, 100)),
            (20, (10, 105)),
            (30, (20, 110)),
            (31, (30, 111)),
            (40, (20, 110)),
            (50, (10, 90)),
        ]
        .into();
        let families = families(&told, &running);
        let owes = |tid: u32, start_time: u64| {
            families[&tid].owes(&told.tasks[&TaskId { tid, start_time }]).to_string()
        };
        assert_eq!((owes(10, 100), owes(30, 110)), ("0-7".into(), "0-7".into()));
        assert_eq!((owes(40, 110), owes(50, 90)), ("2".into(), "2".into()));
        assert_eq!(families[&31].of_heir(&set("3"), &set("0-7")), Some(set("0-7")));
        assert_eq!(families[&40].of_heir(&set("2"), &set("0-7")), None);
    }

    #[test]
    fn a_mask_that_was_there_first_is_no_gift() {
        let told = outstanding([
            entry(1, 1, 7, "0-7", "2-3"),
            entry(5, 1, 8, "2-3", "2-3"),
            entry(6, 1, 8, "4", "4"),
            entry(6, 1, 8, "4", "2-3"),
        ]);
        let family = alone(&told);
        let of = |tid: u32, current: &str| {
            of_task(&told.tasks[&TaskId { tid, start_time: 8 }], &family, &set(current), &set("0-7"))
        };
        assert_eq!((of(5, "2-3"), of(6, "2-3")), (Verdict::AsBefore, Verdict::Undo(set("4"))));
        assert_eq!(family.of_heir(&set("4"), &set("0-7")), None);
        // Its leader was never given anything.
        let told = outstanding([entry(5, 1, 8, "4", "4"), entry(6, 1, 8, "0-7", "2")]);
        assert_eq!(alone(&told).of_heir(&set("2"), &set("0-7")), Some(set("0-7")));
    }

    #[test]
    fn what_others_have_changed_is_left_alone() {
        let told = outstanding([entry(1, 1, 7, "0-7", "2-3"), entry(1, 1, 7, "2-3", "4-5")]);
        let (owed, family) = (&told.tasks[&TaskId { tid: 1, start_time: 7 }], alone(&told));
        let online = set("0-6");
        let of = |current: &str| of_task(owed, &family, &set(current), &online);
        assert_eq!(of("4-5"), Verdict::Undo(set("0-7")));
        assert_eq!(of("2-3"), Verdict::Undo(set("0-7")), "killed before the last change");
        assert_eq!((of("0-7"), of("0-6")), (Verdict::AsBefore, Verdict::AsBefore));
        for current in ["4", "0-3", "6"] {
            assert_eq!(of(current), Verdict::Changed, "{current}");
        }
        let offline = of_task(owed, &family, &set("4"), &set("0-4"));
        assert_eq!(offline, Verdict::Undo(set("0-7")), "CPU 5 is offline");
        let text = str::to_owned;
        let file = |before: &str, given: &str| {
            let (class, path, what) = (FileClass::Irq, text("/x"), text("x"));
            Entry::File(FileChange {
                class,
                path,
                what,
                before: text(before),
                given: text(given),
                whose: None,
            })
        };
        let told = outstanding([file("0-3", "1"), file("1", "5")]);
        let of = |current: &str| of_file(&told.files["/x"], current, &online);
        assert_eq!(of("5\n"), Verdict::Undo(text("0-3")));
        assert_eq!(of("1\n"), Verdict::Undo(text("0-3")), "killed before the last change");
        assert_eq!(of("0,1-3\n"), Verdict::AsBefore);
        assert_eq!(of("2\n"), Verdict::Changed);
    }

    #[test]
    fn what_the_kernel_made_of_it_as_cpus_went_offline_is_no_change_by_others() {
        let file = |class, path: &str, before: &str, given: &str| {
            let (path, before, given) = (path.to_owned(), before.to_owned(), given.to_owned());
            FileChange { class, path, what: "x".into(), before, given, whose: None }
        };
        let irq = "/proc/irq/9/smp_affinity_list";
        let queue = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
        let nodes = "/sys/fs/cgroup/cpuset/a/cpuset.mems";
        let told = outstanding([
            Entry::File(file(FileClass::Irq, irq, "0-7", "2-3")),
            Entry::File(file(FileClass::Irq, queue, "00", "0c")),
            Entry::File(file(FileClass::Cpuset, nodes, "0-3", "1-2")),
        ]);
        let of =
            |path: &str, current: &str, online: &str| match of_file(&told.files[path], current, &set(online))
            {
                Verdict::Undo(before) => before,
                Verdict::AsBefore => "as before".into(),
                Verdict::Changed => "changed".into(),
            };
        for (current, online, what) in [
            ("0-1,4-7", "0-1,4-7", "both are offline"),
            ("0-1,4-7", "0-2,4-7", "one has returned"),
            ("0-1,4-7", "0-7", "so has the other"),
            ("0-1,4-7", "0-1,4-6", "another has gone since"),
            ("2", "0-2,4-7", "one is offline"),
            ("2-3", "0-2,4-7", "one is offline, and the kernel does not tell"),
        ] {
            assert_eq!(of(irq, current, online), "0-7", "{what}");
        }
        for (current, online) in
            [("2", "0-7"), ("0-1,4-6", "0-7"), ("0-2,4-7", "0-7"), ("5", "0-7"), ("", "0-7")]
        {
            assert_eq!(of(irq, current, online), "changed", "{current}");
        }
        let half = outstanding([Entry::File(file(FileClass::Irq, irq, "0-3", "0-1"))]);
        let of_half = |online: &str| of_file(&half.files[irq], "2-3", &set(online));
        assert_eq!(of_half("0-3"), Verdict::Changed, "the other half is a place that others may choose");
        assert_eq!(of_half("2-3"), Verdict::Undo("0-3".into()), "there is no other");
        assert_eq!(of(queue, "04", "0-2,4-7"), "00");
        assert_eq!(of(queue, "f3", "0-7"), "changed", "queues do not go astray");
        assert_eq!((of(nodes, "1", "0-1,3"), of(nodes, "1", "0-3")), ("0-3".into(), "changed".into()));

        // The next to change it gives back what it had at first, too.
        let again = |before: &str| traced(&told, &file(FileClass::Irq, irq, before, "4"), &set("0-7")).before;
        assert_eq!((again("0-1,4-7"), again("2-3"), again("5")), ("0-7".into(), "0-7".into(), "5".into()));
    }

    #[test]
    fn descendants_are_heirs_and_strangers_are_not() {
        let told = outstanding([
            entry(10, 10, 100, "0-7", "2-3"),
            entry(11, 10, 101, "0-7", "4"),
            entry(30, 30, 50, "0-7", "5"),
        ]);
        // 10 has a child, and that one another; 30 is somebody else by now; 40 is nobody's.
        let running: Running =
            [(10, (1, 100)), (20, (10, 110)), (21, (20, 120)), (30, (1, 90)), (40, (1, 95))].into();
        let families = families(&told, &running);
        assert_eq!(families.keys().copied().collect::<Vec<_>>(), [10, 20, 21]);
        let online = set("0-7");
        for family in families.values() {
            assert_eq!(family.of_heir(&set("2-3"), &online), Some(set("0-7")));
            assert_eq!(family.of_heir(&set("4"), &online), Some(set("0-7")));
            assert_eq!(family.of_heir(&set("2"), &online), None, "its own doing");
            assert_eq!(family.of_heir(&set("0-7"), &online), None);
        }
    }

    #[test]
    fn the_nearest_ancestor_says_what_a_heir_gets() {
        let told = outstanding([entry(10, 10, 100, "0-7", "2"), entry(20, 20, 110, "0-3", "4")]);
        let running: Running = [(10, (1, 100)), (20, (10, 110)), (21, (20, 120))].into();
        let family = &families(&told, &running)[&21];
        assert_eq!(family.of_heir(&set("4"), &set("0-7")), Some(set("0-3")));
        assert_eq!(
            family.of_heir(&set("2"), &set("0-7")),
            Some(set("0-3")),
            "born before its parent was moved"
        );
    }
}
