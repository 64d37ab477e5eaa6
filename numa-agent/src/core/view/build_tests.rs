use numa_ebpf::{
    account::{
        duration::{PREEMPT_WAIT, SLICE},
        span,
    },
    histogram::record,
};

use super::*;
use crate::core::{
    config::Overrides,
    jitter::{
        homes::Homes,
        observer::{
            Limits, Observer,
            tests::{show, task},
        },
    },
    settings::{Layout, PolicyChoice, Settings},
    synthetic::Machine,
    view::tests::agent,
};

/// Two nodes of four CPUs on one socket: members belong on 0-3, forward threads on 4-7, others on 0-3.
fn engine() -> Engine {
    let flags = Overrides {
        policy: Some(PolicyChoice::Paired),
        layout: Some(Layout::Shared),
        groups_per_socket: Some(1),
        group_patterns: vec!["serve".into()],
        other_patterns: vec!["motor".into()],
        ..Overrides::default()
    };
    let machine = Machine { nodes_per_socket: 2, ..Machine::default() };
    Engine::new(machine.topology(), Settings::from_sources(None, flags).unwrap(), []).unwrap()
}

fn status_of(engine: &Engine, planned: bool) -> Status {
    let known =
        Known { engine, planned, stats: &Stats::default(), lost: &DropCounts::default(), unreadable: 0 };
    status(&known, agent())
}

#[test]
fn a_status_has_everybody_once() {
    let mut engine = engine();
    show(&mut engine, 100, "serve", &[(100, "python3"), (101, "forward_0"), (102, "io")]);
    show(&mut engine, 200, "motor", &[(200, "motor")]);
    let status = status_of(&engine, true);
    let group = &status.groups[0];
    assert_eq!((group.name.as_str(), group.instance.as_deref()), ("socket0_group0", Some("session:100")));
    assert_eq!((group.members.cpus.to_string(), &group.members.nodes), ("0-3".to_owned(), &vec![0]));
    assert_eq!((group.forward.cpus.to_string(), &group.forward.nodes), ("4-7".to_owned(), &vec![1]));
    assert_eq!(
        group.processes.iter().map(|process| (process.pid, process.threads)).collect::<Vec<_>>(),
        [(100, 3)]
    );
    assert_eq!(status.background.iter().map(|process| process.pid).collect::<Vec<_>>(), [200]);
    assert_eq!((status.counts.processes, status.counts.threads), (2, 4));
    let planned = |node: usize| status.sockets[0].nodes[node].planned.clone();
    assert_eq!(planned(0), BTreeMap::from([(ThreadRole::Member, 2), (ThreadRole::Other, 1)]));
    assert_eq!(planned(1), BTreeMap::from([(ThreadRole::Forward, 1)]));
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}

#[test]
fn without_a_plan_nobody_belongs_anywhere() {
    let mut engine = engine();
    show(&mut engine, 100, "serve", &[(100, "python3")]);
    let status = status_of(&engine, false);
    assert!(status.groups.is_empty() && status.others.is_none() && status.agent.policy.is_none());
    assert_eq!(status.background.len(), 1);
    assert!(status.sockets[0].nodes.iter().all(|node| node.planned.is_empty()));
}

#[test]
fn instances_that_share_a_group_are_all_named() {
    let mut engine = engine();
    for pid in [100, 200, 300] {
        show(&mut engine, pid, "serve", &[(pid, "python3")]);
    }
    show(&mut engine, 201, "serve", &[(201, "python3")]);
    let status = status_of(&engine, true);
    assert_eq!(
        status.groups[0].instance.as_deref(),
        Some("session:100, session:200, session:201, session:300")
    );
}

/// Threads that ended and are kept one by one.
const KEPT: usize = 10;

/// An agent whose accounts the test writes.
struct World {
    engine: Engine,
    observer: Observer,
    now_ns: u64,
    accounts: BTreeMap<u32, Account>,
}

impl World {
    fn new(threads: &[(u32, &str)]) -> Self {
        let mut engine = engine();
        show(&mut engine, 100, "serve", threads);
        let places = Places::new(engine.topology());
        let homes = Homes::of_plan(engine.plan(), &places);
        let limits = Limits { ended: KEPT, intervals: 10 };
        let observer = Observer::new(1000, places, homes, Measured::ALL, limits);
        let mut world = Self { engine, observer, now_ns: 1000, accounts: BTreeMap::new() };
        threads.iter().for_each(|(tid, _)| world.follow(*tid));
        world
    }

    fn follow(&mut self, tid: u32) {
        let opened_at_ns = self.now_ns + u64::from(tid);
        self.accounts.insert(tid, Account { tid, tgid: 100, opened_at_ns, ..Account::EMPTY });
        self.observer.follow(&self.engine, 100, task(tid), || Some(tid));
    }

    /// The thread runs on a CPU and leaves it.
    fn runs(&mut self, tid: u32, cpu: u32, ns: u64) {
        self.now_ns += ns;
        let account = self.accounts.get_mut(&tid).unwrap();
        let moved = account.stopped_at_ns > 0 && account.cpu != cpu;
        let row = |cpu: u32| cpu as usize / 4;
        if moved {
            account.moves[row(account.cpu) * MATRIX + row(cpu)] += 1;
            let span = if row(account.cpu) == row(cpu) { span::NODE } else { span::SOCKET };
            account.moves_by_span[span] += 1;
        }
        record(&mut account.durations[SLICE], &mut account.buckets[SLICE], ns);
        (account.cpu, account.stopped_at_ns) = (cpu, self.now_ns);
    }

    fn ends(&mut self, tid: u32) {
        let account = self.accounts.remove(&tid).unwrap();
        self.observer.end(task(tid), Some((tid, &account)), self.now_ns);
    }

    fn reading(&mut self) -> Reading {
        self.now_ns += 10;
        let keep = |(tid, account): (&u32, &Account)| self.observer.keep(task(*tid), account, self.now_ns);
        let threads = self.accounts.iter().filter_map(keep).collect();
        self.now_ns += 10;
        Reading {
            status: status_of(&self.engine, true),
            at_ns: self.now_ns,
            threads,
            ended: BTreeSet::new(),
            moves_of_ended: *self.observer.moves_of_ended(),
            places: self.observer.shared_places(),
            measured: Measured::ALL,
            cpus: None,
        }
    }
}

const CREW: [(u32, &str); 3] = [(100, "python3"), (101, "forward_0"), (102, "io")];

#[test]
fn a_snapshot_is_what_happened_in_between() {
    let mut world = World::new(&CREW);
    world.runs(100, 0, 500);
    world.runs(101, 4, 300);
    let before = world.reading();
    world.runs(101, 2, 50);
    world.runs(100, 1, 700);
    let now = world.reading();
    let snapshot = snapshot(&before, &now);
    assert_eq!(snapshot.seconds, (now.at_ns - before.at_ns) as f64 / 1e9);
    let order: Vec<u32> = snapshot.threads.iter().map(|thread| thread.tid).collect();
    assert_eq!(order, [101, 100, 102], "forward threads first, then who moved");
    let [forward, leader, idle] = &snapshot.threads[..] else { panic!() };
    assert_eq!((forward.run_ns, forward.migrations, forward.node_migrations), (Some(50), Some(1), Some(1)));
    assert_eq!((forward.cpu, forward.node, forward.is_off_plan()), (Some(2), Some(0), true));
    assert_eq!(forward.planned.as_ref().unwrap().cpus.to_string(), "4-7");
    assert_eq!(forward.planned.as_ref().unwrap().nodes, [1]);
    assert_eq!((leader.run_ns, leader.migrations, leader.is_off_plan()), (Some(700), Some(1), false));
    assert_eq!((idle.cpu, idle.node, idle.run_ns), (None, None, Some(0)), "it has not run");
    let step = |from, to, count| Move { from, to, count };
    assert_eq!(snapshot.moves.unwrap(), [step(0, 0, 1), step(1, 0, 1)]);
    let nodes = &snapshot.status.sockets[0].nodes;
    assert_eq!((nodes[0].present, nodes[0].strangers, nodes[1].present), (Some(2), Some(1), Some(0)));
    assert_eq!(snapshot.unlisted, 0);
}

#[test]
fn without_the_program_switch_times_and_places_are_not_measured_and_not_zero() {
    let mut world = World::new(&CREW);
    let (before, mut now) = (world.reading(), world.reading());
    now.measured.times = false;
    let snapshot = serde_json::to_value(snapshot(&before, &now)).unwrap();
    for figure in ["run_ns", "off_node_ns", "waits", "wait_p99_ns", "wait_max_ns"] {
        assert!(snapshot["threads"][0].get(figure).is_some_and(serde_json::Value::is_null), "{figure}");
    }
    assert_eq!(snapshot["threads"][0]["migrations"], 0);
    let node = &snapshot["sockets"][0]["nodes"][0];
    assert!(node["present"].is_null() && node["strangers"].is_null(), "{node}");
}

#[test]
fn memory_only_nodes_are_shown_with_the_socket_that_is_nearest() {
    let machine = Machine { sockets: 2, memory_only_nodes: vec![7, 9], ..Machine::default() };
    let mut topology = machine.topology();
    for node in topology.nodes.iter_mut().filter(|node| node.cpus.is_empty()) {
        let near = if node.id == 7 { 1 } else { 0 };
        node.distances = [(0, 30), (1, 30), (near, 14)].into();
        node.memory_bytes = Some(64 << 30);
    }
    let flags = Overrides { group_patterns: vec!["serve".into()], ..Overrides::default() };
    let engine = Engine::new(topology, Settings::from_sources(None, flags).unwrap(), []).unwrap();
    let status = status_of(&engine, true);
    let ids = |socket: usize| {
        let nodes = status.sockets[socket].nodes.iter();
        nodes.map(|node| (node.id, node.cpus.is_empty())).collect::<Vec<_>>()
    };
    assert_eq!([ids(0), ids(1)], [[(0, false), (9, true)], [(1, false), (7, true)]]);
    let memory = &status.sockets[0].nodes[1];
    assert_eq!((memory.memory_bytes, memory.present, memory.planned.len()), (Some(64 << 30), None, 0));
}

#[test]
fn threads_that_come_and_go_are_counted_once() {
    let mut world = World::new(&CREW);
    world.runs(102, 0, 100);
    world.runs(102, 4, 100);
    let before = world.reading();
    // One ends, one is born and ends unseen, one is born with the first one's tid.
    world.runs(102, 0, 100);
    world.ends(102);
    world.follow(102);
    world.runs(102, 5, 40);
    world.runs(102, 6, 40);
    world.ends(102);
    world.follow(102);
    world.runs(102, 1, 30);
    let now = world.reading();
    let shot = snapshot(&before, &now);
    let again = shot.threads.iter().find(|thread| thread.tid == 102).unwrap();
    assert_eq!((again.run_ns, again.migrations), (Some(30), Some(0)), "another account is another thread");
    let step = |from, to, count| Move { from, to, count };
    assert_eq!(shot.moves.unwrap(), [step(1, 0, 1), step(1, 1, 1)], "those of threads that ended too");
    let later = world.reading();
    assert_eq!(snapshot(&now, &later).moves.unwrap(), []);
}

#[test]
fn who_ends_while_all_are_read_is_counted_once() {
    let mut world = World::new(&CREW);
    world.runs(102, 0, 100);
    let before = world.reading();
    world.runs(102, 4, 100);
    world.observer.note_ends();
    let mut now = world.reading();
    world.ends(102);
    (now.ended, now.moves_of_ended) = (world.observer.take_ends(), *world.observer.moves_of_ended());
    let shot = snapshot(&before, &now);
    assert!(!shot.threads.iter().any(|thread| thread.tid == 102));
    assert_eq!(shot.moves.unwrap(), [Move { from: 0, to: 1, count: 1 }]);
}

#[test]
fn so_are_more_than_are_kept() {
    let threads: Vec<(u32, &str)> = (100..100 + 3 * KEPT as u32).map(|tid| (tid, "io")).collect();
    let mut world = World::new(&threads);
    threads.iter().for_each(|(tid, _)| world.runs(*tid, 0, 100));
    let before = world.reading();
    threads.iter().for_each(|(tid, _)| world.runs(*tid, 4, 100));
    world.observer.note_ends();
    let mut now = world.reading();
    threads.iter().for_each(|(tid, _)| world.ends(*tid));
    (now.ended, now.moves_of_ended) = (world.observer.take_ends(), *world.observer.moves_of_ended());
    let shot = snapshot(&before, &now);
    assert!(shot.threads.is_empty());
    assert_eq!(shot.moves.unwrap(), [Move { from: 0, to: 1, count: threads.len() as u64 }]);
    assert_eq!(snapshot(&now, &world.reading()).moves.unwrap(), []);
}

#[test]
fn a_leader_that_a_thread_took_over_from_goes_on_as_that_thread() {
    let mut world = World::new(&CREW);
    world.runs(102, 0, 100);
    let before = world.reading();
    // Thread 102 calls execve: the account goes on as the leader's.
    let account = world.accounts.remove(&102).unwrap();
    world.accounts.insert(100, Account { tid: 100, ..account });
    world.runs(100, 0, 33);
    let now = world.reading();
    let leader = snapshot(&before, &now).threads.into_iter().find(|thread| thread.tid == 100).unwrap();
    assert_eq!(leader.run_ns, Some(33));
}

#[test]
fn the_list_has_an_end_and_says_so() {
    let threads: Vec<(u32, &str)> = (100..100 + LISTED as u32 + 40)
        .map(|tid| (tid, if tid % 2 == 0 { "forward" } else { "io" }))
        .collect();
    let mut world = World::new(&threads);
    let before = world.reading();
    world.runs(139, 0, 10);
    let now = world.reading();
    let shot = snapshot(&before, &now);
    assert_eq!((shot.threads.len(), shot.unlisted), (LISTED, 40));
    let forward = threads.iter().filter(|(_, name)| *name == "forward").count();
    let role = |thread: &Thread| thread.role == ThreadRole::Forward;
    assert!(shot.threads[..forward].iter().all(role) && !shot.threads[forward..].iter().any(role));
    assert_eq!(shot.threads[forward].tid, 139, "then who ran");
    assert_eq!(shot.off_plan, 0);
    assert_eq!(shot.unlisted_off_node(), 0, "who used CPU time off node comes before who did not");
    let cut = Snapshot { threads: shot.threads[..forward].to_vec(), ..shot };
    assert_eq!(cut.unlisted_off_node(), 40, "the list ends among forward threads");

    // The last of all, an `io`, is on a forward thread's CPU: it is counted, and listed.
    let last = 100 + LISTED as u32 + 39;
    world.runs(last, 4, 1);
    let later = snapshot(&now, &world.reading());
    let first = &later.threads[0];
    assert_eq!((later.off_plan, first.tid, first.is_off_plan()), (1, last, true));
}

#[test]
fn critical_threads_waits_count_also_of_those_that_are_not_listed() {
    let threads: Vec<(u32, &str)> = (100..100 + LISTED as u32 + 9).map(|tid| (tid, "forward")).collect();
    let mut world = World::new(&threads);
    let before = world.reading();
    // Who waited and has not run since comes last of all.
    let account = world.accounts.get_mut(&threads[0].0).unwrap();
    record(&mut account.durations[PREEMPT_WAIT], &mut account.buckets[PREEMPT_WAIT], 9_000_000);
    threads[1..].iter().for_each(|(tid, _)| world.runs(*tid, 4, 10));
    let now = world.reading();
    let shot = snapshot(&before, &now);
    assert_eq!(shot.critical.threads, threads.len() as u64);
    assert_eq!(shot.critical.longest_ns.map(|ns| ns / 1_000_000), Some(9));
    let io = World::new(&[(100, "io")]).reading();
    assert_eq!(snapshot(&io, &io).critical, CriticalWaits { threads: 0, longest_ns: Some(0) });
    let blind =
        |reading: Reading| Reading { measured: Measured { times: false, ..Measured::ALL }, ..reading };
    let (before, now) = (blind(before), blind(now));
    assert_eq!(snapshot(&before, &now).critical.longest_ns, None, "not measured");
}
