//! The agent's plan beside the one that is checked.

use crate::core::{
    check::agent::differences,
    config::Overrides,
    engine::{Cause, Engine, Snapshot},
    health::DropCounts,
    settings::{Layout, PolicyChoice, Settings},
    stats::Stats,
    synthetic::Machine,
    task::{ProcessFacts, TaskId, ThreadFacts},
    view::{
        Status,
        build::{Known, status},
        tests::agent,
    },
};

/// Two sockets of two nodes, and a worker on the first.
fn engine(change: impl FnOnce(&mut Overrides)) -> Engine {
    let mut flags = Overrides {
        group_patterns: vec!["worker".into()],
        groups_per_socket: Some(2),
        others_socket_index: Some(1),
        ..Overrides::default()
    };
    change(&mut flags);
    let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() };
    let settings = Settings::from_sources(None, flags).unwrap();
    let mut engine = Engine::new(machine.topology(), settings, []).unwrap();
    let (pid, comm) = (20, "worker".to_owned());
    let facts =
        ProcessFacts { pid, start_time: 1, session: 5, comm: comm.clone(), ..ProcessFacts::default() };
    let id = TaskId { tid: pid, start_time: 1 };
    let threads = vec![ThreadFacts { id, comm, allowed: "0-31".parse().ok() }];
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
