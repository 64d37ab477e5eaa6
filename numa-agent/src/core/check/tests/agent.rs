//! The agent's plan beside the one that is checked.

use crate::core::{
    check::agent::{differences, learn_forward},
    config::Overrides,
    engine::{Cause, Engine, Snapshot},
    health::DropCounts,
    settings::{Layout, PolicyChoice, Settings},
    stats::Stats,
    synthetic::Machine,
    task::{ProcessFacts, TaskId, ThreadFacts, ThreadRole},
    view::{
        self, CriticalWaits, Status,
        build::{Known, status},
        tests::agent,
    },
};

fn settings(change: impl FnOnce(&mut Overrides)) -> Settings {
    let mut flags = Overrides {
        group_patterns: vec!["worker".into()],
        groups_per_socket: Some(2),
        others_socket_index: Some(1),
        ..Overrides::default()
    };
    change(&mut flags);
    Settings::from_sources(None, flags).unwrap()
}

fn engine(change: impl FnOnce(&mut Overrides)) -> Engine {
    engine_of(settings(change))
}

/// Two sockets of two nodes, and a worker of three threads, tids 20 to 22, on the first.
fn engine_of(settings: Settings) -> Engine {
    let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() };
    let mut engine = Engine::new(machine.topology(), settings, []).unwrap();
    let (pid, comm) = (20, "worker".to_owned());
    let facts =
        ProcessFacts { pid, start_time: 1, session: 5, comm: comm.clone(), ..ProcessFacts::default() };
    let thread = |tid| {
        let id = TaskId { tid, start_time: 1 };
        ThreadFacts { id, comm: comm.clone(), allowed: "0-31".parse().ok() }
    };
    let threads = (pid..pid + 3).map(thread).collect();
    engine.observe(&Snapshot { facts, threads, as_of_ns: 1, after_loss: false }, &Cause::Scan, None);
    engine
}

fn told(engine: &Engine) -> Status {
    let (stats, lost) = (Stats::default(), DropCounts::default());
    status(&Known { engine, planned: true, stats: &stats, lost: &lost, unreadable: 0 }, agent())
}

fn differs(change: impl FnOnce(&mut Overrides)) -> Vec<String> {
    differences(&told(&engine(change)), &engine(|_| {}), |_| true)
}

#[test]
fn an_agent_with_the_same_plan_does_not_differ() {
    assert_eq!(differs(|_| {}), Vec::<String>::new());
}

#[test]
fn what_differs_is_named() {
    assert_eq!(
        differs(|flags| flags.groups_per_socket = Some(1))[..2],
        ["socket0_group0: 0-7 there, 0-3 here", "socket0_group1: none there, 4-7 here"]
    );
    assert_eq!(
        differs(|flags| flags.groups_per_socket = Some(3)).last().unwrap(),
        "socket1_group2: 22-23 there, none here"
    );
    let others = differs(|flags| flags.others_socket_index = Some(0));
    assert_eq!(others, ["background processes: 0-7 there, 16-23 here"]);
    let policy = differs(|flags| flags.policy = Some(PolicyChoice::Generic));
    assert_eq!(policy[0], "policy: generic there, paired here");
    assert!(policy.iter().any(|what| what.starts_with("forward threads of ")), "{policy:?}");
}

#[test]
fn processes_that_it_does_not_have_there_are_named_as_long_as_they_live() {
    let nobody = |flags: &mut Overrides| flags.group_patterns = vec!["elsewhere".into()];
    assert_eq!(differs(nobody), ["pid 20 (worker): unknown there, socket0_group0 here"]);
    let ended = differences(&told(&engine(nobody)), &engine(|_| {}), |_| false);
    assert!(ended.is_empty(), "{ended:?}");
    let other = |flags: &mut Overrides| {
        nobody(flags);
        flags.other_patterns = vec!["worker".into()];
    };
    assert_eq!(differs(other), ["pid 20 (worker): background there, socket0_group0 here"]);
}

#[test]
fn groups_of_the_same_cpus_are_one_place() {
    let shared = |flags: &mut Overrides| flags.layout = Some(Layout::Shared);
    let mut status = told(&engine(shared));
    let seated = std::mem::take(&mut status.groups[0].processes);
    status.groups[1].processes = seated;
    assert_eq!(differences(&status, &engine(shared), |_| true), Vec::<String>::new());
}

#[test]
fn an_agent_without_a_plan_has_another() {
    let mut status = told(&engine(|_| {}));
    status.agent.policy = None;
    assert_eq!(differences(&status, &engine(|_| {}), |_| true), ["it has none"]);
}

/// What an agent tells that lists one thread, and counts so many forward threads.
fn lists(tid: u32, role: ThreadRole, critical: u64) -> view::Snapshot {
    let thread = view::Thread {
        pid: 20,
        tid,
        start_time: 1,
        comm: "worker".into(),
        process: "worker".into(),
        role,
        group: None,
        planned: None,
        cpu: None,
        node: None,
        run_ns: None,
        off_node_ns: None,
        migrations: None,
        node_migrations: None,
        waits: None,
        wait_p99_ns: None,
        wait_max_ns: None,
        preemptor: None,
    };
    view::Snapshot {
        status: told(&engine(|_| {})),
        seconds: 1.0,
        load: None,
        matrix_of: "node".into(),
        moves: None,
        threads: vec![thread],
        unlisted: 2,
        off_plan: 0,
        critical: CriticalWaits { threads: critical, longest_ns: None },
    }
}

#[test]
fn forward_threads_are_learnt_and_those_that_are_not_listed_are_counted() {
    let learnt = |engine: &mut Engine, snapshot: &view::Snapshot| {
        let unseen = learn_forward(engine, snapshot);
        let threads = engine.processes().flat_map(|process| process.threads.values());
        let forward = threads.filter(|thread| thread.role == ThreadRole::Forward);
        (forward.map(|thread| thread.id.tid).collect::<Vec<_>>(), unseen)
    };
    let (forward, member) = (ThreadRole::Forward, ThreadRole::Member);
    assert_eq!(learnt(&mut engine(|_| {}), &lists(21, forward, 1)), (vec![21], 0));
    assert_eq!(learnt(&mut engine(|_| {}), &lists(21, forward, 3)), (vec![21], 2));
    assert_eq!(learnt(&mut engine(|_| {}), &lists(21, member, 1)), (vec![], 1));
    // Those that are known by name are known.
    let named = |flags: &mut Overrides| flags.forward_thread_patterns = vec!["worker".into()];
    assert_eq!(learnt(&mut engine(named), &lists(21, forward, 3)), (vec![20, 21, 22], 0));
    // Without devices, names tell of all.
    let no_devices = Settings { forward_thread_devices: Vec::new(), ..settings(|_| {}) };
    assert_eq!(learnt(&mut engine_of(no_devices), &lists(21, member, 1)), (vec![], 0));
}
