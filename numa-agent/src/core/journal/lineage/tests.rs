use super::*;
use crate::core::{
    config::Overrides,
    engine::{Cause, Snapshot},
    journal::Entry,
    settings::Settings,
    synthetic::Machine as Synthetic,
    task::{ProcessFacts, ThreadFacts},
};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn id(tid: u32) -> TaskId {
    TaskId { tid, start_time: 7 }
}

fn who(tid: u32, pid: u32, parent: u32) -> Who<'static> {
    Who { task: id(tid), comm: "x", process: id(pid), parent, ancestors: &[] }
}

/// A machine with eight CPUs.
#[derive(Debug)]
struct Town {
    /// When they were born, and of whom.
    born: BTreeMap<u32, (u64, u32)>,
    cpus: Cpus,
    allowed: BTreeMap<u32, CpuSet>,
    whole: BTreeMap<u32, CpuSet>,
    /// How often it was asked who was born of whom, and what a cpuset allows.
    looks: usize,
}

impl Machine for Town {
    fn born(&mut self, pid: u32) -> Option<(u64, u32)> {
        self.looks += 1;
        self.born.get(&pid).copied()
    }

    fn cpus(&mut self) -> &Cpus {
        &self.cpus
    }

    fn allowed(&mut self, pid: u32) -> Option<CpuSet> {
        self.looks += 1;
        self.allowed.get(&pid).cloned()
    }

    fn whole(&mut self, tid: u32, mask: &CpuSet) -> CpuSet {
        self.whole.get(&tid).unwrap_or(mask).clone()
    }
}

fn town() -> Town {
    let cpus = Cpus { online: set("0-7"), possible: set("0-7") };
    Town { born: BTreeMap::new(), cpus, allowed: BTreeMap::new(), whole: BTreeMap::new(), looks: 0 }
}

/// A lineage in that town.
#[derive(Debug)]
struct Tale(Lineage, Town);

impl Tale {
    fn new() -> Self {
        Self(Lineage::default(), town())
    }

    fn told(&mut self, who: &Who<'_>, before: &str, given: &str) -> TaskChange {
        self.0.change(&mut self.1, who, &set(before), &set(given))
    }

    fn change(&mut self, who: &Who<'_>, before: &str, given: &str) -> String {
        self.told(who, before, given).before.to_string()
    }

    fn outcome(&mut self, who: &Who<'_>, asked: &str, outcome: &BindOutcome) -> Option<(String, String)> {
        let told = self.0.outcome(&mut self.1, who, &set(asked), outcome)?;
        Some((told.before.to_string(), told.given.to_string()))
    }
}

fn told(before: &str, given: &str) -> Option<(String, String)> {
    Some((before.to_owned(), given.to_owned()))
}

#[test]
fn those_that_have_ended_are_forgotten_in_time() {
    let mut tale = Tale::new();
    let mut most = 0;
    // Each ends before the next comes, but for the first hundred.
    for pid in 1..100_000 {
        tale.change(&who(pid, pid, 0), "0-7", "2");
        most = most.max(tale.0.families.len());
        if tale.0.is_long() {
            tale.0.retain(|one| one.tid <= 100 || one.tid == pid);
        }
    }
    assert!(most <= 2 * FEW && tale.0.families.contains_key(&100), "{most}");
}

#[test]
fn what_was_inherited_is_traced_to_who_had_its_own() {
    let mut tale = Tale::new();
    assert_eq!(tale.change(&who(1, 1, 0), "0-7", "2"), "0-7");
    // A thread that was born with the gift, and one that has a mask of its own.
    assert_eq!(tale.change(&who(2, 1, 0), "2", "3"), "0-7");
    assert_eq!(tale.change(&who(3, 1, 0), "4-5", "3"), "4-5");
    // A child, and a child of that.
    assert_eq!(tale.change(&who(5, 5, 1), "3", "6"), "0-7");
    assert_eq!(tale.change(&who(6, 6, 5), "6", "2"), "0-7");
    assert_eq!(tale.change(&who(8, 8, 0), "6", "2"), "6", "nobody's child");
}

#[test]
fn what_came_by_way_of_others_is_traced_too() {
    let mut tale = Tale::new();
    tale.change(&who(1, 1, 0), "0-7", "2");
    // Two shells in between, which are none of ours.
    tale.1.born = [(9, (7, 8)), (8, (7, 1)), (1, (7, 0))].into();
    assert_eq!(tale.outcome(&who(10, 10, 9), "2", &BindOutcome::Unchanged(set("2"))), told("0-7", "2"));
    assert_eq!(tale.change(&who(11, 11, 9), "2", "3"), "0-7");
    // Once for a process: another of its threads was born before it was bound. And not for who has another mask.
    let looks = tale.1.looks;
    assert_eq!(tale.change(&who(12, 11, 9), "2", "3"), "0-7");
    assert_eq!(
        (tale.change(&who(13, 13, 9), "4-7", "3"), tale.1.looks),
        ("4-7".into(), looks + 1),
        "its cpuset"
    );
    assert_eq!((tale.change(&who(14, 13, 9), "4-7", "3"), tale.1.looks), ("4-7".into(), looks + 1));
    // Their parents have ended; what the first of ours had is known of the second.
    tale.0.retain(|process| process.tid == 11);
    tale.1.born.clear();
    assert_eq!(tale.change(&who(15, 15, 11), "3", "2"), "0-7");
    assert_eq!(tale.change(&who(16, 16, 11), "2", "4"), "0-7", "born before it was moved");
}

#[test]
fn who_runs_another_program_for_a_while_is_a_forebear_still() {
    let mut tale = Tale::new();
    tale.change(&who(1, 1, 0), "0-7", "2");
    // It becomes a shell, and what comes with it is known to have been born of it, though it has another parent by now.
    let stays = BindOutcome::Unchanged(set("2"));
    assert_eq!(tale.outcome(&who(5, 5, 1), "2", &stays), told("0-7", "2"));
    tale.0.retain(|process| process.tid == 5);
    let ancestors = [id(5)];
    let born = Who { ancestors: &ancestors, ..who(6, 6, 400) };
    assert_eq!(tale.change(&born, "2", "3"), "0-7");
    // And by way of one of whom nothing else is known.
    let ancestors = [id(77)];
    tale.1.born = [(77, (7, 5))].into();
    assert_eq!(tale.change(&Who { ancestors: &ancestors, ..who(8, 8, 400) }, "2", "3"), "0-7");
    tale.1.born = [(77, (6, 5))].into();
    assert_eq!(
        tale.change(&Who { ancestors: &ancestors, ..who(9, 9, 400) }, "2", "3"),
        "2",
        "another by now"
    );
}

#[test]
fn a_process_that_stays_where_its_parent_was_put_is_told_of_too() {
    let mut tale = Tale::new();
    let stays = BindOutcome::Unchanged(set("2"));
    assert_eq!(tale.outcome(&who(4, 4, 1), "2", &stays), told("2", "2"), "its own mask");
    tale.change(&who(1, 1, 0), "0-7", "2");
    assert_eq!(tale.outcome(&who(5, 5, 1), "2", &stays), told("0-7", "2"));
    assert_eq!(tale.outcome(&who(5, 5, 1), "2", &stays), None, "once");
    assert_eq!(tale.outcome(&who(9, 5, 1), "2", &stays), None, "not of each thread");
    tale.0.retain(|process| process.tid == 5);
    assert_eq!(tale.change(&who(6, 6, 5), "2", "3"), "0-7", "the parent ended");
}

#[test]
fn what_the_kernel_made_of_it_is_told() {
    let mut tale = Tale::new();
    tale.change(&who(1, 1, 0), "0-7", "2-3");
    assert_eq!(tale.outcome(&who(1, 1, 0), "2-3", &BindOutcome::Bound(set("2"))), told("0-7", "2"));
    assert_eq!(tale.outcome(&who(1, 1, 0), "2", &BindOutcome::Bound(set("2"))), None);
}

#[test]
fn the_next_agent_knows_what_the_one_before_has_given() {
    let mut tale = Tale::new();
    let told = [(1, "0-7", "2"), (5, "2", "3")]
        .map(|(tid, before, given)| tale.told(&who(tid, 1, 0), before, given));
    let journal: Outstanding = told.into_iter().map(Entry::Task).collect();
    let mut next = Tale(Lineage::of(&journal), town());
    for inherited in ["2", "3"] {
        assert_eq!(
            next.change(&who(6, 1, 0), inherited, "4"),
            "0-7",
            "born while there was no agent, with {inherited}"
        );
    }
}

#[test]
fn who_reads_the_journal_late_knows_it_all_the_same() {
    let mut tale = Tale::new();
    let told = [tale.told(&who(1, 1, 0), "0-7", "2"), tale.told(&who(5, 5, 0), "0-6", "2")];
    let journal: Outstanding = told.into_iter().map(Entry::Task).collect();
    // It has bound one of them, and another that has its pid by now.
    let mut late = Tale::new();
    late.change(&who(1, 1, 0), "2", "3");
    let recycled = Who {
        task: TaskId { start_time: 8, ..id(5) },
        process: TaskId { start_time: 8, ..id(5) },
        ..who(5, 5, 0)
    };
    late.change(&recycled, "0-3", "4");
    late.0.go_on_from(Lineage::of(&journal));
    assert_eq!(
        (late.change(&who(2, 1, 0), "2", "4"), late.change(&who(3, 1, 0), "3", "4")),
        ("0-7".into(), "0-7".into())
    );
    assert_eq!(late.change(&Who { task: id(6), ..recycled }, "4", "5"), "0-3");
}

#[test]
fn what_it_had_first_is_what_it_gets_back() {
    let mut tale = Tale::new();
    let mut told = vec![tale.told(&who(1, 1, 0), "0-7", "2-3")];
    told.push(tale.told(&who(2, 1, 0), "4", "2-3"));
    // The plan is another; then a CPU is offline, and what the kernel tells of the mask is less.
    told.push(tale.told(&who(2, 1, 0), "2-3", "6-7"));
    tale.1.cpus.online = set("0-6");
    told.push(tale.told(&who(2, 1, 0), "6", "5-6"));
    tale.1.cpus.online = set("0-7");
    let owed = |told: &[TaskChange], tid: u32| {
        let journal: Outstanding = told.iter().cloned().map(Entry::Task).collect();
        journal.tasks[&id(tid)].change.before.clone()
    };
    assert_eq!((owed(&told, 1), owed(&told, 2)), (set("0-7"), set("4")), "its own");
    // It pins itself to one of the CPUs that it was given, and is put back; so does the leader, elsewhere.
    told.push(tale.told(&who(2, 1, 0), "5", "5-6"));
    told.push(tale.told(&who(1, 1, 0), "0-1", "5-6"));
    told.push(tale.told(&who(2, 1, 0), "5-6", "2-3"));
    assert_eq!((owed(&told, 1), owed(&told, 2)), (set("0-7"), set("4")), "not what it was put back from");
    assert_eq!(tale.change(&who(9, 1, 0), "5-6", "2-3"), "0-7", "nor who was born meanwhile");
}

#[test]
fn a_recycled_pid_inherits_nothing() {
    let mut tale = Tale::new();
    tale.change(&who(1, 1, 0), "0-7", "2");
    let mut next = who(1, 1, 0);
    (next.task.start_time, next.process.start_time) = (9, 9);
    assert_eq!(tale.change(&next, "2", "3"), "2");
    assert_eq!(tale.change(&who(5, 5, 1), "3", "4"), "3", "older than that parent");
    // Nor by way of others.
    tale.1.born = [(4, (8, 1))].into();
    assert_eq!(tale.change(&who(6, 6, 4), "3", "4"), "3", "older than that parent");
}

#[test]
fn who_has_no_mask_of_its_own_is_owed_all_cpus_there_can_be() {
    let mut tale = Tale::new();
    tale.1.cpus = Cpus { online: set("0-2,4-7"), possible: set("0-15") };
    assert_eq!(tale.change(&who(1, 1, 0), "0-2,4-7", "2"), "0-15", "CPU 3 is offline");
    assert_eq!(tale.change(&who(2, 1, 0), "2", "4"), "0-15", "an heir");
    // A cpuset's, as far as it is online, and one within.
    tale.1.allowed = [(3, set("0-3"))].into();
    assert_eq!(tale.change(&who(3, 3, 0), "0-2", "2"), "0-15");
    assert_eq!(tale.change(&who(4, 3, 0), "0-1", "2"), "0-1");
    let looks = tale.1.looks;
    assert_eq!(tale.change(&who(5, 3, 0), "1", "2"), "1");
    assert_eq!(tale.1.looks, looks, "once for a process");
    // One that somebody has given, with a CPU that is offline.
    tale.1.whole = [(6, set("1-3"))].into();
    assert_eq!(tale.change(&who(6, 6, 0), "1-2", "2"), "1-3");
}

/// Tid, name and mask of each.
type Threads<'a> = &'a [(u32, &'a str, &'a str)];

/// Members belong on 0-7, forward threads on 8-15. What a scan finds: threads of one start time, with names and masks.
fn found(processes: &[(u32, u32, Threads<'_>)]) -> Engine {
    let machine = Synthetic { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Synthetic::default() };
    let overrides = Overrides {
        group_patterns: vec!["worker".into()],
        groups_per_socket: Some(1),
        ..Overrides::default()
    };
    let settings = Settings::from_sources(None, overrides).unwrap();
    let mut engine = Engine::new(machine.topology(), settings, []).unwrap();
    for (pid, ppid, threads) in processes {
        let (pid, ppid, comm) = (*pid, *ppid, "worker".to_owned());
        let facts = ProcessFacts { pid, ppid, start_time: 7, session: 1, comm, ..ProcessFacts::default() };
        let thread = |(tid, comm, mask): &(u32, &str, &str)| ThreadFacts {
            id: id(*tid),
            comm: (*comm).to_owned(),
            allowed: Some(set(mask)),
        };
        let threads = threads.iter().map(thread).collect();
        engine.observe(&Snapshot { facts, threads, as_of_ns: 1, after_loss: false }, &Cause::Scan, None);
    }
    engine
}

#[test]
fn masks_that_the_plan_gives_and_that_were_there_first_are_told_before_others_get_them() {
    let engine = found(&[
        (10, 0, &[(10, "worker", "0-31"), (11, "own", "0-7"), (12, "decode_0", "0-7"), (13, "x", "9")]),
        (20, 10, &[(20, "worker", "0-7"), (21, "heir", "0-7"), (22, "decode_1", "8-15")]),
    ]);
    let mut tale = Tale::new();
    let all = set("0-31");
    tale.1.cpus = Cpus { online: all.clone(), possible: all };
    let mut journal = Vec::new();
    let mut find = |tale: &mut Tale| {
        let found = [10, 20, 99].map(|pid| tale.0.found(&mut tale.1, &engine, pid));
        journal.extend(found.clone().into_iter().flatten());
        found.map(|told| told.iter().map(|told| (told.task.tid, told.before.to_string())).collect::<Vec<_>>())
    };
    let own = |tid: u32| (tid, "0-7".to_owned());
    // Not of who has what its leader has, or a mask that nobody is given.
    let told = [vec![own(11), own(12)], vec![own(20), (22, "8-15".into())], vec![]];
    assert_eq!(find(&mut tale), told);
    assert_eq!(find(&mut tale), [vec![], vec![], vec![]], "once");
    // Now the others are bound, and then all of them elsewhere.
    let mut bind = |tid: u32, pid: u32, before: &str, given: &str| {
        journal.push(tale.told(&who(tid, pid, 0), before, given));
    };
    bind(10, 10, "0-31", "0-7");
    for (tid, pid) in [(10, 10), (11, 10), (12, 10), (20, 20), (21, 20)] {
        bind(tid, pid, "0-7", "16-23");
    }
    bind(22, 20, "8-15", "24-31");
    bind(14, 10, "0-7", "16-23");
    let journal: Outstanding = journal.into_iter().map(Entry::Task).collect();
    let owed = |tid: u32| journal.tasks[&id(tid)].change.before.to_string();
    assert_eq!([11, 12, 20, 21].map(owed), ["0-7"; 4]);
    assert_eq!((owed(10), owed(22)), ("0-31".into(), "8-15".into()));
    assert_eq!(owed(14), "0-31", "born of the first since");
}
