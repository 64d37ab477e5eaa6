use std::collections::BTreeMap;

use numa_ebpf::{
    account::{
        Early, cause,
        duration::{SLICE, WAKE_WAIT},
        span,
    },
    histogram::record,
};

use super::*;
use crate::core::{
    config::Overrides,
    engine::{Cause, Snapshot},
    jitter::{
        draft::Frame,
        recording::{Recording, Run, RunHost, Subject},
    },
    settings::{Layout, PolicyChoice, Settings},
    synthetic::Machine,
    task::{ProcessFacts, ThreadFacts},
};

/// Two nodes of four CPUs on one socket.
fn machine() -> Machine {
    Machine { nodes_per_socket: 2, ..Machine::default() }
}

/// The task of that tid in these tests.
pub(crate) fn task(tid: u32) -> TaskId {
    TaskId { tid, start_time: 7 }
}

/// An engine that manages process 100 with these threads; members belong on node 0, forward threads on node 1.
fn engine(threads: &[(u32, &str)]) -> Engine {
    let flags = Overrides {
        policy: Some(PolicyChoice::Paired),
        layout: Some(Layout::Shared),
        groups_per_socket: Some(1),
        group_patterns: vec!["serve".into()],
        ..Overrides::default()
    };
    let settings = Settings::from_sources(None, flags).unwrap();
    let mut engine = Engine::new(machine().topology(), settings, []).unwrap();
    show(&mut engine, 100, "serve --model x", threads);
    engine
}

/// A scan finds a process of a session of its own, with these threads.
pub(crate) fn show(engine: &mut Engine, pid: u32, cmdline: &str, threads: &[(u32, &str)]) {
    let facts = ProcessFacts {
        pid,
        start_time: 7,
        comm: "python3".into(),
        cmdline: cmdline.into(),
        session: pid,
        ..ProcessFacts::default()
    };
    let threads =
        threads.iter().map(|(tid, comm)| ThreadFacts { id: task(*tid), comm: (*comm).into(), allowed: None });
    let snapshot = Snapshot { facts, threads: threads.collect(), as_of_ns: 1, after_loss: false };
    engine.observe(&snapshot, &Cause::Scan, None);
}

fn observer(planned: Option<&Engine>, ended: usize) -> Observer {
    let places = Places::new(&machine().topology());
    let homes =
        planned.map_or_else(|| Homes::of_nodes(&places), |engine| Homes::of_plan(engine.plan(), &places));
    Observer::new(1000, places, homes, Measured::ALL, Limits { ended, intervals: 100 })
}

fn account(tid: u32, run_ns: u64, node: usize) -> Account {
    let mut account = Account { tid, tgid: 100, opened_at_ns: 1000, ..Account::EMPTY };
    account.durations[SLICE].total_ns = run_ns;
    account.node_ns[node] = run_ns;
    record(&mut account.durations[WAKE_WAIT], &mut account.buckets[WAKE_WAIT], run_ns / 10);
    account
}

fn recording(observer: &Observer, living: Vec<Arc<Kept>>, planned: bool) -> Recording {
    let host = RunHost {
        name: "h".into(),
        machine_id: String::new(),
        kernel: "6".into(),
        arch: "x".into(),
        nodes: BTreeMap::new(),
        sockets: BTreeMap::new(),
        matrix_of: "node".into(),
    };
    let subject = match planned {
        true => Subject::Plan { policy: "paired".into(), groups: BTreeMap::new(), others: String::new() },
        false => Subject::Processes { what: "x".into() },
    };
    let run = Run {
        host,
        agent_version: "0".into(),
        started_at: "now".into(),
        seconds: 0.0,
        subject,
        bound: false,
        missing: Vec::new(),
        missing_programs: Vec::new(),
        lost: Vec::new(),
        lost_detail: Vec::new(),
    };
    let memory = BTreeMap::from([(task(100), BTreeMap::from([(1, 4096)]))]);
    let frame = Frame { run, memory, intruders: Vec::new(), connections: Vec::new() };
    observer.draft(living, 2_000_001_000).recording(frame)
}

#[test]
fn threads_are_told_their_homes_once_and_again_when_their_role_changes() {
    let mut engine = engine(&[(100, "python3"), (101, "forward_0")]);
    let mut observer = observer(Some(&engine), 10);
    let mut follow = |engine: &Engine, tid, slot| observer.follow(engine, 100, task(tid), || slot);
    let member = follow(&engine, 100, Some(5)).expect("to be told");
    let forward = follow(&engine, 101, Some(6)).expect("to be told");
    assert_eq!((member.slot, forward.slot), (5, 6));
    assert_eq!(forward.home, member.home + 1);
    assert_eq!(follow(&engine, 100, None), None, "it knows");
    assert_eq!(follow(&engine, 102, Some(7)), None, "the engine does not know that one");
    show(&mut engine, 100, "serve", &[(100, "python3"), (101, "helper")]);
    assert_eq!(follow(&engine, 101, None), Some(Assign { task: task(101), slot: 6, home: member.home }));
    let set = observer.homes().get(member.home).unwrap().set;
    assert!(set.has_cpu(0) && !set.has_cpu(4));
}

#[test]
fn a_life_that_is_over_already_counts_where_it_was_measured() {
    let engine = engine(&[(100, "python3"), (101, "forward_0")]);
    let mut observer = observer(Some(&engine), 10);
    let born = |observer: &mut Observer, tid, comm, plan| {
        observer.follow_born(&engine, 100, task(tid), comm, (tid, plan))
    };
    assert_eq!(born(&mut observer, 102, "python3", 1), None, "no thread of the process is followed");
    let member = observer.follow(&engine, 100, task(100), || Some(5)).expect("to be told").home;
    assert_eq!(born(&mut observer, 101, "python3", member), None, "the engine knows it");
    assert_eq!(
        born(&mut observer, 102, "python3", member + 1),
        None,
        "it was measured by another's plan set"
    );
    assert_eq!(born(&mut observer, 102, "forward_9", member), None, "it belonged elsewhere");
    assert_eq!(observer.follow_born(&engine, 7, task(7), "python3", (7, member)), None, "nobody of ours");
    assert!(!observer.follows(task(101)) && !observer.follows(task(102)));
    assert_eq!(born(&mut observer, 102, "python3", member), Some(ThreadRole::Member));
    assert_eq!(born(&mut observer, 103, "forward_9", member + 1), Some(ThreadRole::Forward));
    assert_eq!(born(&mut observer, 103, "forward_9", member + 1), None, "once");
    let closed = Account { closed_at_ns: 9000, ..account(103, 1000, 1) };
    observer.end(task(103), Some((103, &closed)), 9000);
    let recording = recording(&observer, Vec::new(), true);
    let threads: Vec<_> =
        recording.threads.iter().map(|thread| (thread.tid, thread.comm.as_str(), thread.role)).collect();
    assert_eq!(threads, [(103, "forward_9", ThreadRole::Forward)]);
}

#[test]
fn those_that_ended_and_those_that_live_are_in_the_recording() {
    let engine = engine(&[(100, "python3"), (101, "forward_0"), (102, "forward_1")]);
    let mut observer = observer(Some(&engine), 10);
    for (tid, slot) in [(100, Some(1)), (101, Some(2)), (102, None)] {
        observer.follow(&engine, 100, task(tid), || slot);
    }
    observer.measure(task(101), &account(101, 600, 1), 5000);
    let closed = Account { closed_at_ns: 9000, ..account(101, 1000, 1) };
    observer.end(task(101), Some((2, &closed)), 9000);
    let living = observer.keep(task(100), &account(100, 4000, 0), 10_000).unwrap();
    let recording = recording(&observer, vec![living], true);
    assert_eq!(recording.runs[0].seconds, 2.0);
    assert_eq!(recording.runs[0].lost, ["1 threads were not measured: there was no room for their accounts"]);
    let process = &recording.processes[0];
    assert_eq!((process.pid, process.cmdline.as_str()), (100, "serve --model x"));
    assert_eq!((process.role, process.group.as_deref()), (Some(ProcessRole::Group), Some("socket0_group0")));
    assert_eq!(process.memory, Some(BTreeMap::from([(1, 4096)])));
    let threads: Vec<_> = recording
        .threads
        .iter()
        .map(|thread| {
            let figures = &thread.figures;
            (
                thread.tid,
                thread.role,
                thread.ended,
                thread.home_nodes.clone(),
                figures.run_ns,
                figures.followed_ns,
            )
        })
        .collect();
    let expected = [
        (101, ThreadRole::Forward, true, vec![1], 1000, 8000),
        (100, ThreadRole::Member, false, vec![0], 4000, 9000),
    ];
    assert_eq!(threads, expected);
    assert_eq!(observer.threads_ended(), 1);
}

#[test]
fn beyond_the_limit_the_oldest_are_added_up_and_totals_stay() {
    let tids: Vec<(u32, &str)> =
        (100..130).map(|tid| (tid, if tid < 120 { "decode" } else { "x" })).collect();
    let engine = engine(&tids);
    let mut observer = observer(Some(&engine), 4);
    for (tid, _) in &tids {
        observer.follow(&engine, 100, task(*tid), || Some(*tid));
        observer.end(task(*tid), Some((*tid, &account(*tid, u64::from(*tid), 1))), 9000);
    }
    let recording = recording(&observer, Vec::new(), true);
    let kept: Vec<u32> =
        recording.threads.iter().filter(|thread| thread.tid > 0).map(|thread| thread.tid).collect();
    assert_eq!(kept, [126, 127, 128, 129]);
    let rest: Vec<_> = recording
        .threads
        .iter()
        .filter(|thread| thread.tid == 0)
        .map(|rest| (rest.role, rest.comm.as_str()))
        .collect();
    assert_eq!(rest, [(ThreadRole::Member, "6 ended"), (ThreadRole::Forward, "20 ended")]);
    let total: u64 = recording.threads.iter().map(|thread| thread.figures.run_ns).sum();
    assert_eq!(total, (100..130).sum::<u64>());
    let waits: u64 = recording.threads.iter().map(|thread| thread.figures.wake_wait.count).sum();
    assert_eq!(waits, 30);
    assert!(
        recording.runs[0].lost_detail[0].starts_with("26 of the threads that ended"),
        "{:?}",
        recording.runs[0].lost_detail
    );
    assert_eq!(observer.threads_ended(), 30);
}

#[test]
fn an_account_that_goes_on_under_its_leaders_tid_counts_once() {
    let engine = engine(&[(100, "python3"), (101, "x")]);
    let mut observer = observer(Some(&engine), 10);
    observer.follow(&engine, 100, task(100), || Some(1));
    observer.follow(&engine, 100, task(101), || Some(2));
    observer.measure(task(101), &account(101, 600, 0), 5000);
    observer.close_interval(5000);
    // Thread 101 runs another program: the leader ends, and 101 goes on as 100.
    observer.end(task(100), Some((1, &account(100, 50, 0))), 6000);
    observer.end(task(101), None, 6000);
    observer.follow(&engine, 100, task(100), || Some(2));
    observer.measure(task(100), &account(100, 900, 0), 7000);
    observer.close_interval(7000);
    let interval = observer.last_interval().unwrap();
    assert_eq!((interval.run_ns, interval.threads), (350, 2), "50 of the leader, 300 since");
    let living = observer.keep(task(100), &account(100, 900, 0), 7000).unwrap();
    let recording = recording(&observer, vec![living], true);
    assert_eq!(recording.threads.iter().map(|thread| thread.figures.run_ns).sum::<u64>(), 950);
    assert!(recording.runs[0].lost.is_empty());
}

#[test]
fn without_a_plan_a_process_lives_where_it_runs_most_or_has_its_memory() {
    let mut engine = engine(&[(100, "python3"), (101, "forward_0")]);
    show(&mut engine, 200, "serve", &[(200, "python3")]);
    let mut observer = observer(None, 10);
    for (pid, tid) in [(100, 100), (100, 101), (200, 200)] {
        assert_eq!(observer.follow(&engine, pid, task(tid), || Some(tid)), None, "nobody knows yet");
    }
    observer.measure(task(100), &account(100, 3_000_000, 0), 5000);
    observer.measure(task(101), &account(101, 2_000_000, 1), 5000);
    assert_eq!(observer.close_interval(5000), [], "too little to tell");
    observer.measure(task(100), &account(100, 4_000_000, 0), 6000);
    observer.measure(task(101), &account(101, 9_000_000, 1), 6000);
    let node_1 = observer.homes().of_node(1);
    let told = observer.close_interval(6000);
    assert_eq!(told, [100, 101].map(|tid| Assign { task: task(tid), slot: tid, home: node_1 }));
    let node_0 = observer.homes().of_node(0);
    assert_eq!(observer.settle(task(200), 0), [Assign { task: task(200), slot: 200, home: node_0 }]);
    let living = observer.keep(task(101), &account(101, 9_000_000, 1), 6000).unwrap();
    let recording = recording(&observer, vec![living], false);
    let thread = &recording.threads[0];
    assert_eq!((thread.home_nodes.as_slice(), thread.group.as_deref()), (&[1][..], None));
    assert_eq!((thread.figures.off_plan_ns, thread.figures.before_bind_ns), (None, None), "no plan");
    assert_eq!(thread.figures.off_node.map(|off| off.ns), Some(0));
    assert_eq!(recording.processes[0].role, None);
}

#[test]
fn a_plan_that_changed_tells_everybody_again() {
    let engine = engine(&[(100, "python3"), (101, "forward_0")]);
    let mut observer = observer(Some(&engine), 10);
    observer.follow(&engine, 100, task(100), || Some(1));
    observer.follow(&engine, 100, task(101), || None);
    let places = Places::new(engine.topology());
    let homes = Homes::of_plan(engine.plan(), &places);
    let told = observer.replan(&engine, places, homes);
    assert_eq!(told.iter().map(|assign| assign.slot).collect::<Vec<_>>(), [1]);
}

#[test]
fn all_accounts_are_read_in_parts() {
    let tids: Vec<(u32, &str)> = (100..110).map(|tid| (tid, "x")).collect();
    let engine = engine(&tids);
    let mut observer = observer(Some(&engine), 10);
    for (tid, _) in &tids {
        observer.follow(&engine, 100, task(*tid), || (tid % 2 == 0).then_some(*tid));
    }
    let first = observer.slots_after(None, 3);
    assert_eq!(first.iter().map(|(task, _)| task.tid).collect::<Vec<_>>(), [100, 102, 104]);
    let rest = observer.slots_after(Some(first[2].0), 3);
    assert_eq!(rest.iter().map(|(_, slot)| *slot).collect::<Vec<_>>(), [106, 108]);
}

#[test]
fn only_the_beginning_of_arguments_is_kept() {
    assert_eq!(beginning("short"), "short");
    let long = "\u{e9}".repeat(1000);
    assert_eq!(beginning(&long).len(), 1024);
    assert_eq!(beginning(&format!("x{long}")).len(), 1023);
}

#[test]
fn a_home_that_turns_out_late_makes_no_interval_of_what_was_before() {
    let engine = engine(&[(100, "python3")]);
    let mut observer = observer(None, 10);
    observer.follow(&engine, 100, task(100), || Some(3));
    // 1 ms is not telling: its memory is what tells.
    let mut account = account(100, 1_000_000, 0);
    account.early[0] = Early { cpu: 1, ns: 1_000_000 };
    observer.measure(task(100), &account, 2000);
    observer.close_interval(2000);
    assert_eq!(observer.settle(task(100), 1).len(), 1);
    account.durations[SLICE].total_ns += 2_000_000;
    account.off_node.ns = 30_000;
    observer.measure(task(100), &account, 3000);
    observer.close_interval(3000);
    let last = observer.last_interval().unwrap();
    assert_eq!((last.run_ns, last.off_node_ns), (2_000_000, Some(30_000)));
    // And it is in the thread's own figures.
    let kept = observer.keep(task(100), &account, 3000).unwrap();
    assert_eq!(kept.figures(&observer.reader()).off_node.map(|off| off.ns), Some(1_030_000));
}

#[test]
fn a_thread_nobody_heard_of_is_its_processs_or_is_counted_as_nobodys() {
    let engine = engine(&[(100, "python3")]);
    let mut observer = observer(Some(&engine), 10);
    observer.follow(&engine, 100, task(100), || Some(1));
    let end = |observer: &mut Observer, tid, tgid, start_time| {
        let (task, account) = (TaskId { tid, start_time }, Account { tgid, ..account(tid, 700, 1) });
        let known = observer.adopt(task, tid, &account);
        observer.end(task, Some((tid, &account)), 9000);
        known
    };
    assert!(end(&mut observer, 101, 100, 9));
    assert!(!end(&mut observer, 102, 100, 6), "that process 100 was another");
    assert!(!end(&mut observer, 103, 99, 9));
    // Known as long as something is kept of it.
    observer.end(task(100), Some((1, &account(100, 5, 0))), 9500);
    assert!(end(&mut observer, 104, 100, 9));
    assert_eq!(observer.unattributed(), Unattributed { threads: 2, run_ns: 1400 });
    assert!(!observer.follows(TaskId { tid: 101, start_time: 9 }));
    let recording = recording(&observer, Vec::new(), true);
    let found: Vec<_> =
        recording.threads.iter().map(|t| (t.tid, t.pid, t.role, t.ended, t.figures.run_ns)).collect();
    let of = |tid, run_ns| (tid, 100, ThreadRole::Member, true, run_ns);
    assert_eq!(found, [of(101, 700), of(100, 5), of(104, 700)]);
}

#[test]
fn totals_only_grow_and_stay_with_the_role_in_which_it_happened() {
    let mut engine = engine(&[(100, "python3"), (101, "helper"), (102, "forward_1")]);
    let mut observer = observer(Some(&engine), 0);
    observer.keep_totals();
    for (tid, slot) in [(100, 1), (101, 2), (102, 3)] {
        observer.follow(&engine, 100, task(tid), || Some(slot));
    }
    let group = engine.plan().groups[0].name.clone();
    let of = |observer: &Observer, role| {
        let mut totals = observer.totals().unwrap().iter();
        totals
            .find(|(place, _)| *place == (Some(group.clone()), role))
            .map(|(_, total)| total.clone())
            .unwrap_or_default()
    };
    let moved = |tid, run_ns, moves| {
        let mut account = account(tid, run_ns, 1);
        (account.moves_by_span[span::SOCKET], account.moves_by_cause[cause::AFFINITY]) = (moves, moves);
        account.off_node.ns = run_ns;
        account.off_plan_ns = run_ns;
        account
    };
    observer.measure(task(101), &moved(101, 600_000, 3), 5000);
    let before = of(&observer, ThreadRole::Member);
    assert_eq!((before.run_ns, before.off_node_ns, before.off_plan_ns), (600_000, 600_000, 600_000));
    assert_eq!((before.moves_by_span[span::SOCKET], before.moves_by_cause[cause::AFFINITY]), (3, 3));
    assert_eq!((before.waits.count(), before.waits.sum_ns()), (1, 60_000));
    // It is a forward thread from now on: what comes is of that role, what was stays.
    show(&mut engine, 100, "serve", &[(100, "python3"), (101, "forward_0"), (102, "forward_1")]);
    observer.follow(&engine, 100, task(101), || None);
    observer.measure(task(101), &moved(101, 800_000, 4), 6000);
    assert_eq!(of(&observer, ThreadRole::Member), before);
    let forward = of(&observer, ThreadRole::Forward);
    assert_eq!((forward.run_ns, forward.moves_by_span[span::SOCKET]), (200_000, 1));
    let (listed, unlisted) = observer.list(2);
    assert_eq!(
        listed.iter().map(|one| one.task.tid).collect::<Vec<_>>(),
        [101, 102],
        "forward threads first"
    );
    assert_eq!((unlisted, listed[0].run_ns, listed[0].moves), (1, 800_000, 4));
    // Those that end stay, also one that nobody ever looked at, and where nothing of it is kept by itself.
    for (tid, slot) in [(101, 2), (102, 3)] {
        let closed = Account { closed_at_ns: 9000, ..moved(tid, 900_000, 5) };
        observer.end(task(tid), Some((slot, &closed)), 9000);
    }
    let ended = of(&observer, ThreadRole::Forward);
    assert_eq!((ended.run_ns, ended.moves_by_span[span::SOCKET]), (200_000 + 100_000 + 900_000, 1 + 1 + 5));
    assert_eq!(of(&observer, ThreadRole::Member), before);
    // Another has the slot now.
    show(&mut engine, 100, "serve", &[(100, "python3"), (103, "helper")]);
    observer.follow(&engine, 100, task(103), || Some(2));
    observer.measure(task(103), &moved(103, 50, 1), 10_000);
    assert_eq!(of(&observer, ThreadRole::Member).run_ns, 600_050);
}
