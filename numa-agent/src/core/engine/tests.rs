//! The engine against a made-up world.

mod cuts;
mod devices;
mod machine;
mod order;
mod starting;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::world::{Happened, World};
use super::{
    drift::{BURST, WINDOW_NS},
    *,
};
use crate::core::{
    config::Overrides,
    event::EventKind,
    hold::Hold,
    instance::GroupBy,
    settings::{DriftPolicy, Settings},
    synthetic::Machine,
};

fn settings(overrides: Overrides) -> Settings {
    let overrides = Overrides {
        group_patterns: vec!["scheduler|worker".into()],
        other_patterns: vec!["Motor".into()],
        ..overrides
    };
    Settings::from_sources(None, overrides).unwrap()
}

fn engine(overrides: Overrides) -> Engine {
    Engine::new(Machine::default().topology(), settings(overrides), [AGENT]).unwrap()
}

/// The agent itself.
const AGENT: TaskId = TaskId { tid: 1, start_time: 0 };

/// Two sockets of two nodes with eight CPUs each: paired, 0-7 and 8-15, 16-23 and 24-31.
fn paired(groups_per_socket: u32) -> Engine {
    let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() };
    let overrides = Overrides { groups_per_socket: Some(groups_per_socket), ..Overrides::default() };
    Engine::new(machine.topology(), settings(overrides), [AGENT]).unwrap()
}

/// Where the engine wants each thread: role, group and CPUs.
fn placement(engine: &Engine) -> BTreeMap<TaskId, (ThreadRole, Option<String>, CpuSet)> {
    let of = |process: &Process| {
        let group = engine.group_of(process).map(|group| group.name.clone());
        let place =
            |thread: &Thread| (thread.role, group.clone(), engine.cpus_of(process, thread.role).clone());
        process.threads.values().map(|thread| (thread.id, place(thread))).collect::<Vec<_>>()
    };
    engine.processes().flat_map(of).collect()
}

fn cpus(binds: &[Bind]) -> Vec<String> {
    binds.iter().map(|bind| bind.cpus.to_string()).collect()
}

#[test]
fn a_process_is_bound_at_exec_and_its_threads_at_rename() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let started = world.spawn(7, "worker");
    let pid = started.event.pid;
    let binds = world.tell(&mut engine, &started);
    assert_eq!((cpus(&binds), binds[0].cause.clone()), (vec!["0-3".to_owned()], Cause::Exec));
    assert_eq!(binds[0].group.as_deref(), Some("socket0_group0"));
    assert_eq!(binds[0].at_ns, Some(started.event.at_ns));

    let thread = world.thread(pid);
    assert_eq!(cpus(&world.tell(&mut engine, &thread)), ["0-3"], "inheritance is never trusted");
    let tid = thread.event.task.tid;
    let renamed = world.rename(pid, tid, "decode_0");
    assert_eq!(cpus(&world.tell(&mut engine, &renamed)), ["8-15"]);
    let renamed = world.rename(pid, tid, "prefill_0");
    assert!(world.tell(&mut engine, &renamed).is_empty(), "still a forward thread, still in place");
    let renamed = world.rename(pid, tid, "loader");
    assert_eq!(cpus(&world.tell(&mut engine, &renamed)), ["0-3"]);
}

#[test]
fn a_held_process_goes_on_once_it_is_bound_with_its_groups_memory_policy() {
    let injecting = |inject| {
        let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() };
        let mut settings = settings(Overrides { groups_per_socket: Some(1), ..Overrides::default() });
        (settings.hold.hold, settings.hold.inject) = (true, inject);
        Engine::new(machine.topology(), settings, [AGENT]).unwrap()
    };
    for (name, inject, policy) in [
        ("worker", true, Some("interleave:0-1")),
        ("worker", false, None),
        ("Motor", true, None),
        ("sshd", true, None),
    ] {
        let (mut world, mut engine) = (World { holds: true, ..World::default() }, injecting(inject));
        let started = world.spawn(7, name);
        let facts = engine.wants_facts(&started.event).then(|| started.facts.clone()).flatten();
        let actions = engine.apply(&started.event, facts);
        let (last, before) = actions.split_last().unwrap();
        let hold = Hold { task: started.event.task, at_ns: started.event.at_ns };
        let memory = policy.map(|policy| policy.parse().unwrap());
        assert_eq!(*last, Action::Release { hold, memory }, "{name}");
        let bound = before.iter().any(|action| matches!(action, Action::Bind(_)));
        assert_eq!(bound, name != "sshd", "{name}: {before:?}");
        // An event that is out of date is answered all the same.
        let mut earlier = started.event.clone();
        earlier.task.start_time = 0;
        earlier.at_ns = 0;
        let actions = engine.apply(&earlier, None);
        assert!(
            matches!(actions.last(), Some(Action::Release { hold, memory: None }) if hold.task == earlier.task)
        );
    }
}

#[test]
fn strangers_and_the_agent_are_left_alone() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let stranger = world.spawn(7, "sshd");
    assert!(world.tell(&mut engine, &stranger).is_empty());
    let mut own = world.spawn(8, "worker");
    (own.event.pid, own.event.task) = (AGENT.tid, AGENT);
    assert!(!engine.wants_facts(&own.event));
    assert_eq!(engine.processes().count(), 0);
}

#[test]
fn exec_into_a_stranger_lets_go_and_back_again_binds() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    let pid = started.event.pid;
    let left = world.exec(pid, "sleep");
    let actions = engine.apply(&left.event, None);
    assert_eq!(actions, [Action::Unmark { task: started.event.task }]);
    assert!(!engine.manages(pid));
    let back = world.exec(pid, "scheduler");
    assert_eq!(cpus(&world.tell(&mut engine, &back)), ["0-7"]);
}

#[test]
fn background_processes_go_to_the_others_place() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let motor = world.spawn(9, "Motor");
    let binds = world.tell(&mut engine, &motor);
    assert_eq!(
        (cpus(&binds), binds[0].role, binds[0].group.clone()),
        (vec!["16-23".into()], ThreadRole::Other, None)
    );
}

#[test]
fn a_leaders_new_name_can_make_the_whole_process_ours() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let stranger = world.spawn(7, "python");
    world.tell(&mut engine, &stranger);
    let pid = stranger.event.pid;
    world.thread(pid);
    let renamed = world.rename(pid, pid, "worker");
    assert_eq!(cpus(&world.tell(&mut engine, &renamed)), ["0-7", "0-7"]);
}

#[test]
fn a_repinned_thread_is_put_back_but_not_for_ever() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    let pid = started.event.pid;
    let mut binds = 0;
    for _ in 0..40 {
        world.tick();
        let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
        let happened = world.event(pid, started.event.task, kind);
        let put_back = world.tell(&mut engine, &happened);
        assert!(
            put_back
                .iter()
                .all(|bind| matches!(&bind.cause, Cause::SetAffinity(caller) if caller.comm == "omp"))
        );
        binds += put_back.len();
    }
    assert_eq!(binds, BURST as usize);
    assert!(
        engine.warnings().iter().any(|warning| warning.contains("omp") && warning.contains(&pid.to_string()))
    );
    assert_eq!(engine.pending(&Cause::Reconcile).len(), 1, "the next reconcile still puts it back");
    world.now_ns += WINDOW_NS;
    let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
    let happened = world.event(pid, started.event.task, kind);
    assert_eq!(world.tell(&mut engine, &happened).len(), 1);
}

/// An engine with that policy, and a thread that it has put where it belongs.
fn with_drift(drift: DriftPolicy) -> (World, Engine, Happened) {
    let (mut world, engine) = (World::default(), paired(1));
    let settings = Settings { drift, ..engine.settings().clone() };
    let mut engine = Engine::new(engine.topology().clone(), settings, [AGENT]).unwrap();
    let started = world.spawn(7, "worker");
    assert_eq!(world.tell(&mut engine, &started).len(), 1);
    (world, engine, started)
}

fn repin(world: &mut World, engine: &mut Engine, started: &Happened) -> usize {
    let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
    let happened = world.event(started.event.pid, started.event.task, kind);
    world.tell(engine, &happened).len()
}

#[test]
fn who_sets_the_mask_that_a_thread_has_anyway_changes_nothing() {
    for policy in [DriftPolicy::Reapply, DriftPolicy::Enforce] {
        let (mut world, mut engine, started) = with_drift(policy);
        let (pid, task) = (started.event.pid, started.event.task);
        for _ in 0..3 * BURST {
            world.tick();
            let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
            let happened = world.event(pid, task, kind);
            let actions = engine.apply(&happened.event, None);
            let [Action::Bind(bind)] = &actions[..] else { panic!("{policy}: {actions:?}") };
            engine.record(bind, BindOutcome::Unchanged(bind.cpus.clone()), world.now_ns);
        }
        let counts = engine.drift();
        assert_eq!((counts.changes, counts.put_back, counts.left, counts.by.len()), (0, 0, 0, 0), "{policy}");
        // One that cannot be put back is not.
        world.tick();
        let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
        let happened = world.event(pid, task, kind);
        let actions = engine.apply(&happened.event, None);
        let [Action::Bind(bind)] = &actions[..] else { panic!("{policy}: {actions:?}") };
        let failed = BindOutcome::Failed { why: "no".into(), excluded: true, actual: None };
        engine.record(bind, failed, world.now_ns);
        let counts = engine.drift();
        assert_eq!((counts.changes, counts.put_back, counts.left), (1, 0, 1), "{policy}");
    }
}

#[test]
fn who_observes_leaves_a_thread_where_others_put_it_until_it_takes_another_name() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Observe);
    assert_eq!(repin(&mut world, &mut engine, &started), 0);
    assert_eq!(engine.pending(&Cause::Reconcile), [], "nor does the reconcile put it back");
    let counts = engine.drift();
    assert_eq!((counts.changes, counts.put_back, counts.left), (1, 0, 1));
    let place = (Some("socket0_group0".to_owned()), ThreadRole::Member);
    let drifted = Drifted { by_other: 1, left: 1, ..Drifted::default() };
    assert_eq!(*engine.drifted(), [(place, drifted)].into());
    assert_eq!((counts.by[0].comm.as_deref(), counts.by[0].pid), (Some("omp"), 5));
    assert!(engine.warnings().iter().any(|warning| warning.contains("omp") && warning.contains("observe")));
    let another =
        world.event(started.event.pid, started.event.task, EventKind::Rename { comm: "forward_0".into() });
    assert_eq!(world.tell(&mut engine, &another).len(), 1, "a new role is a new place");
}

#[test]
fn who_enforces_puts_back_at_once_and_then_after_ever_longer_waits() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Enforce);
    assert_eq!(repin(&mut world, &mut engine, &started), 1);
    assert_eq!(engine.next_due_ns(), None);
    assert_eq!(repin(&mut world, &mut engine, &started), 0);
    let due_ns = engine.next_due_ns().unwrap();
    assert_eq!(engine.take_due(due_ns - 1), []);
    let actions = engine.take_due(due_ns);
    assert!(matches!(&actions[..], [Action::Bind(bind)] if bind.task == started.event.task), "{actions:?}");
    assert_eq!(engine.next_due_ns(), None);
    let counts = engine.drift();
    assert_eq!((counts.changes, counts.put_back, counts.left), (2, 2, 0));
    let drifted = Drifted { by_other: 2, put_back: 2, ..Drifted::default() };
    assert_eq!(engine.drifted().values().collect::<Vec<_>>(), [&drifted], "also what had to wait");
    // Two changes, of which the later is answered before the wait for the first is seen to be over.
    assert_eq!(repin(&mut world, &mut engine, &started), 0);
    let due_ns = engine.next_due_ns().unwrap();
    world.now_ns = due_ns;
    assert_eq!(repin(&mut world, &mut engine, &started), 1);
    assert_eq!(engine.take_due(due_ns), [], "once is enough");
}

/// A thread that takes a name and a mask for each of so many jobs, a millisecond each, and a leader that takes a name too: how often the
/// thread is put back.
fn jobs(drift: DriftPolicy, jobs: u64) -> usize {
    let (mut world, mut engine, started) = with_drift(drift);
    let pid = started.event.pid;
    let thread = world.thread(pid);
    world.tell(&mut engine, &thread);
    let task = thread.event.task;
    let mut times = 0;
    for job in 0..jobs {
        world.now_ns += 1_000_000;
        let kind =
            EventKind::SetAffinity { caller_pid: pid, caller_tid: task.tid, caller_comm: "pool".into() };
        let repinned = world.event(pid, task, kind);
        let renamed = world.rename(pid, task.tid, &format!("job_{}", job % 7));
        let leader = world.rename(pid, pid, &format!("worker_{}", job % 7));
        for happened in [repinned, renamed, leader] {
            times += world.tell(&mut engine, &happened).len();
        }
        let due = engine.take_due(world.now_ns);
        times += world.carry_out(&mut engine, due).len();
    }
    assert_eq!(engine.process(pid).unwrap().facts.comm, format!("worker_{}", (jobs - 1) % 7));
    times
}

#[test]
fn another_name_for_the_same_place_is_answered_like_another_mask() {
    assert_eq!(jobs(DriftPolicy::Observe, 200), 0);
    assert_eq!(jobs(DriftPolicy::Reapply, 200), BURST as usize);
    let times = jobs(DriftPolicy::Enforce, 200);
    assert!((5..=11).contains(&times), "{times} times in some seconds");
}

#[test]
fn a_leaders_name_that_makes_it_another_concerns_all_its_threads() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Reapply);
    let pid = started.event.pid;
    let thread = world.thread(pid);
    world.tell(&mut engine, &thread);
    let kind = || EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
    for _ in 0..=BURST {
        let repinned = world.event(pid, thread.event.task, kind());
        world.tell(&mut engine, &repinned);
    }
    let renamed = world.rename(pid, pid, "worker_1");
    assert_eq!(world.tell(&mut engine, &renamed), [], "it is the same process by another name");
    // Its command line makes it one of a group still; one without loses its threads with its name.
    let renamed = world.rename(pid, pid, "Motor");
    assert_eq!(world.tell(&mut engine, &renamed), []);
    let stranger = world.spawn(7, "Motor");
    world.tell(&mut engine, &stranger);
    assert_eq!(engine.process(stranger.event.pid).unwrap().role, ProcessRole::Other);
    let thread = world.thread(stranger.event.pid);
    world.tell(&mut engine, &thread);
    let renamed = world.rename(stranger.event.pid, stranger.event.pid, "worker");
    assert_eq!(world.tell(&mut engine, &renamed).len(), 2, "both have another place");
}

#[test]
fn a_long_command_line_is_kept_once_for_a_process_and_its_children() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Reapply);
    let pid = started.event.pid;
    let child = world.fork(pid);
    world.tell(&mut engine, &child);
    let [parent, child] = [pid, child.event.pid].map(|pid| &engine.process(pid).unwrap().facts);
    assert!(std::sync::Arc::ptr_eq(&parent.cmdline, &child.cmdline));
    assert_eq!(child.parent, None, "no rule looks at it");
}

#[test]
fn a_real_time_thread_is_tried_again_by_each_scan_and_bound_once_it_is_none() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let actions = engine.apply(&started.event, started.facts.clone());
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    let mask: CpuSet = "30".parse().unwrap();
    let spared = BindOutcome::Spared { class: "SCHED_FIFO", actual: mask.clone() };
    assert!(engine.is_news(bind, &spared));
    engine.record(bind, spared.clone(), world.now_ns);
    assert!(engine.warnings().iter().any(|warning| warning.contains("SCHED_FIFO")));
    assert_eq!(engine.pending(&Cause::Replan), [], "not before the next scan");
    assert!(!engine.is_news(bind, &spared), "said once");
    world.masks.insert(started.event.task, mask);
    assert_eq!(repin(&mut world, &mut engine, &started), 0, "nor is it put back when others move it");
    assert_eq!(cpus(&world.show(&mut engine)), ["0-7"]);
    assert_eq!(engine.drift().left, 1);
}

#[test]
fn a_warning_about_what_is_gone_goes() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let spare = |world: &mut World, engine: &mut Engine, session| {
        let started = world.spawn(session, "worker");
        let actions = engine.apply(&started.event, started.facts.clone());
        let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
        let spared = BindOutcome::Spared { class: "SCHED_FIFO", actual: "30".parse().unwrap() };
        engine.record(bind, spared, world.now_ns);
        started
    };
    let has = |engine: &Engine, text: &str| {
        engine.warnings().iter().filter(|warning| warning.contains(text)).count()
    };
    let sweep = |world: &mut World, engine: &mut Engine| {
        world.tick();
        let (_, alive, as_of_ns) = world.scan();
        engine.sweep(&alive, as_of_ns);
    };
    // Groups for two instances, so the third shares one.
    let all: Vec<_> = (0..3).map(|session| spare(&mut world, &mut engine, 50 + session)).collect();
    engine.warn("the journal is not written".to_owned());
    sweep(&mut world, &mut engine);
    assert_eq!((has(&engine, "SCHED_FIFO"), has(&engine, "shares")), (3, 1));
    // One is an ordinary thread by now, another has ended.
    let last = &all[2].event;
    let ended = world.exit_thread(last.pid, last.pid);
    world.tell(&mut engine, &ended);
    let Some(process) = engine.process(all[0].event.pid) else { panic!("not managed") };
    let thread = &process.threads[&all[0].event.pid];
    let bind = engine.bind(process, engine.group_of(process), thread, Cause::Reconcile, None);
    world.carry_out(&mut engine, vec![Action::Bind(bind)]);
    sweep(&mut world, &mut engine);
    assert_eq!((has(&engine, "SCHED_FIFO"), has(&engine, "shares"), has(&engine, "journal")), (1, 0, 1));
    engine.take_back("the journal is not written");
    assert_eq!(has(&engine, "journal"), 0);
    // Room for others.
    (0..300).for_each(|number| engine.warn(format!("warning {number}")));
    assert_eq!(has(&engine, "not shown"), 1);
    engine.take_back("warning 7");
    sweep(&mut world, &mut engine);
    assert_eq!(has(&engine, "not shown"), 0);
}

#[test]
fn what_a_scan_read_before_a_mask_was_set_is_not_what_it_is_now() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Observe);
    let early = |world: &mut World, mask: &str| {
        world.masks.insert(started.event.task, mask.parse().unwrap());
        world.scan().0.remove(0)
    };
    // Read before it was bound again, and before it was moved.
    let (stray, planned) = (early(&mut world, "30"), early(&mut world, "0-7"));
    world.tick();
    let Some(process) = engine.process(started.event.pid) else { panic!("not managed") };
    let bind = engine.bind(
        process,
        engine.group_of(process),
        &process.threads[&started.event.pid],
        Cause::Rename,
        None,
    );
    world.carry_out(&mut engine, vec![Action::Bind(bind)]);
    assert_eq!(engine.observe(&stray, &Cause::Reconcile, None).len(), 1, "a mark");
    assert_eq!(engine.drift().changes, 0, "our own work");
    world.tick();
    assert_eq!(repin(&mut world, &mut engine, &started), 0);
    engine.observe(&planned, &Cause::Reconcile, None);
    assert_eq!(
        engine.process(started.event.pid).unwrap().threads[&started.event.pid].actual,
        None,
        "nobody knows yet"
    );
}

#[test]
fn what_waits_to_be_put_back_is_given_up_with_the_policy() {
    for (policy, puts_back) in
        [(DriftPolicy::Observe, 0), (DriftPolicy::Reapply, 1), (DriftPolicy::Enforce, 1)]
    {
        let (mut world, mut engine, started) = with_drift(DriftPolicy::Enforce);
        assert_eq!(repin(&mut world, &mut engine, &started), 1);
        assert_eq!(repin(&mut world, &mut engine, &started), 0);
        let settings = Settings { drift: policy, ..engine.settings().clone() };
        let engine = engine.reconfigured(engine.topology().clone(), settings, &BTreeMap::new()).unwrap();
        assert_eq!(engine.next_due_ns().is_some(), policy == DriftPolicy::Enforce, "{policy}");
        assert_eq!(engine.drift().left, u64::from(policy != DriftPolicy::Enforce));
        assert_eq!(engine.pending(&Cause::Replan).len(), puts_back, "{policy}");
    }
}

#[test]
fn a_reload_keeps_the_warnings_that_have_nothing_to_do_with_the_configuration() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let actions = engine.apply(&started.event, started.facts.clone());
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    engine.record(bind, BindOutcome::Bound("0".parse().unwrap()), world.now_ns);
    engine.warn("the journal is not written".to_owned());
    engine.warn_of_settings("pid 5 was asked for".to_owned());
    let told = engine.take_news().len();
    assert_eq!(told, 3, "and the cpuset");
    let has = |engine: &Engine, text: &str| engine.warnings().iter().any(|warning| warning.contains(text));
    let mut reloaded =
        engine.reconfigured(engine.topology().clone(), engine.settings().clone(), &BTreeMap::new()).unwrap();
    assert!(has(&reloaded, "journal") && has(&reloaded, "cpuset") && !has(&reloaded, "pid 5"));
    let mut replanned = engine.replanned(engine.topology().clone()).unwrap();
    assert!(has(&replanned, "journal") && has(&replanned, "cpuset") && has(&replanned, "pid 5"));
    assert_eq!((reloaded.take_news(), replanned.take_news()), (vec![], vec![]), "nothing is said twice");
}

#[test]
fn as_many_groups_as_needed_divide_the_node_anew() {
    let machine = Machine { sockets: 1, nodes_per_socket: 1, cores_per_node: 8, ..Machine::default() };
    let mut engine = Engine::new(machine.topology(), settings(Overrides::default()), [AGENT]).unwrap();
    let mut world = World::default();
    let first = world.spawn(7, "worker");
    assert_eq!(cpus(&world.tell(&mut engine, &first)), ["0-7"]);
    let second = world.spawn(8, "worker");
    let binds = world.tell(&mut engine, &second);
    assert_eq!(cpus(&binds), ["4-7", "0-3"], "the first instance moves over");
    assert_eq!((&binds[0].cause, binds[0].at_ns), (&Cause::Exec, Some(second.event.at_ns)));
    assert_eq!((&binds[1].cause, binds[1].at_ns), (&Cause::Replan, None));
}

#[test]
fn an_instance_keeps_its_slot_and_gets_it_back_after_a_restart() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let pids: Vec<u32> = (0..3)
        .map(|session| {
            let started = world.spawn(session + 50, &format!("worker{session}"));
            world.tell(&mut engine, &started);
            started.event.pid
        })
        .collect();
    let ended = world.exit_thread(pids[1], pids[1]);
    world.tell(&mut engine, &ended);
    let newcomer = world.spawn(77, "worker_new");
    assert_eq!(world.tell(&mut engine, &newcomer)[0].group.as_deref(), Some("socket1_group1"));
    let restarted = world.spawn(78, "worker1");
    assert_eq!(world.tell(&mut engine, &restarted)[0].group.as_deref(), Some("socket1_group0"));
}

#[test]
fn a_reload_keeps_instances_in_place_and_drops_what_no_longer_matches() {
    let (mut world, mut engine) = (World::default(), paired(2));
    for (session, comm) in [(50, "scheduler"), (51, "worker"), (52, "Motor")] {
        let started = world.spawn(session, comm);
        world.tell(&mut engine, &started);
    }
    let before = placement(&engine);
    let overrides = Overrides { groups_per_socket: Some(2), ..Overrides::default() };
    let same = engine
        .reconfigured(engine.topology().clone(), settings(overrides.clone()), &BTreeMap::new())
        .unwrap();
    assert_eq!(placement(&same), before);
    let overrides = Overrides { group_patterns: vec!["worker".into()], ..overrides };
    let only_workers = Settings::from_sources(None, overrides).unwrap();
    let fewer = engine.reconfigured(engine.topology().clone(), only_workers, &BTreeMap::new()).unwrap();
    let left: BTreeMap<_, _> = placement(&fewer);
    assert_eq!(left.len(), 1);
    assert!(left.iter().all(|(task, place)| before[task] == *place), "the worker stays in its group");
}

#[test]
fn a_recycled_pid_inherits_nothing() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    // Its exit was lost, and the pid belongs to a stranger by now.
    let pid = started.event.pid;
    world.now_ns += 1_000_000_000;
    let (facts, threads) = world.processes.get_mut(&pid).unwrap();
    facts.start_time += 100;
    (facts.comm, facts.cmdline) = ("sshd".into(), "/usr/sbin/sshd".into());
    threads.get_mut(&pid).unwrap().id.start_time += 100;
    assert!(world.show(&mut engine).is_empty());
    assert!(!engine.manages(pid));
}

#[test]
fn a_mark_that_a_late_answer_took_away_is_put_back() {
    let (mut world, mut engine) = (World::default(), paired(1));
    // `sh -c 'exec worker'`: by the time we answer the shell's exec, its second is over.
    let shell = world.spawn(7, "sh");
    let pid = shell.event.pid;
    let worker = world.exec(pid, "worker");
    assert_eq!(engine.apply(&shell.event, None), [Action::Unmark { task: shell.event.task }]);
    let actions = engine.apply(&worker.event, worker.facts.clone());
    assert_eq!(actions.first(), Some(&Action::Mark { pid, task: worker.event.task }));
    let (snapshots, ..) = world.scan();
    let again = engine.observe(&snapshots[0], &Cause::Reconcile, None);
    assert!(again.contains(&Action::Mark { pid, task: worker.event.task }), "and by every scan: {again:?}");
}

#[test]
fn a_thread_of_a_process_that_was_rejected_is_let_go_without_a_look() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let stranger = world.spawn(7, "java");
    world.tell(&mut engine, &stranger);
    let thread = world.thread(stranger.event.pid);
    assert_eq!(engine.apply(&thread.event, None), [Action::Unmark { task: thread.event.task }]);
}

#[test]
fn news_of_an_earlier_owner_of_the_pid_changes_nothing() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    let mut stale = started.clone();
    stale.event.task.start_time -= 1;
    stale.event.at_ns += 1;
    assert_eq!(engine.apply(&stale.event, None), []);
    assert!(engine.manages(started.event.pid));
}

#[test]
fn a_scan_torn_by_a_rename_is_mended_by_the_renames_event() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let pid = started.event.pid;
    let (mut snapshots, ..) = world.scan();
    let renamed = world.rename(pid, pid, "Motor");
    // The process's name was read before the rename, its thread's after it.
    snapshots[0].threads[0].comm = "Motor".into();
    engine.observe(&snapshots[0], &Cause::Scan, None);
    world.tell(&mut engine, &renamed);
    assert_eq!(engine.process(pid).unwrap().facts.comm, "Motor");
}

#[test]
fn by_pid_a_child_that_only_runs_another_program_takes_no_group() {
    let overrides = Overrides { group_by: Some(GroupBy::Pid), ..Overrides::default() };
    let (mut world, mut engine) = (World::default(), engine(overrides));
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    for _ in 0..3 {
        let child = world.fork(started.event.pid);
        world.tell(&mut engine, &child);
        let left = world.exec(child.event.pid, "ls");
        world.tell(&mut engine, &left);
    }
    assert_eq!(engine.plan().groups.len(), 1);
    let child = world.fork(started.event.pid);
    world.tell(&mut engine, &child);
    world.show(&mut engine);
    assert_eq!(engine.plan().groups.len(), 2, "one that stays is an instance by the next scan");
}

#[test]
fn what_was_refused_is_not_pending_but_tried_again_by_the_next_scan() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let actions = engine.apply(&started.event, started.facts.clone());
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    let refused =
        BindOutcome::Failed { why: "cpuset".into(), excluded: true, actual: Some("30".parse().unwrap()) };
    engine.record(bind, refused, world.now_ns);
    assert_eq!(engine.pending(&Cause::Scan), []);
    world.masks.insert(started.event.task, "30".parse().unwrap());
    assert_eq!(cpus(&world.show(&mut engine)), ["0-7"]);
}

#[test]
fn a_reload_leaves_no_slot_to_instances_that_are_ours_no_more() {
    let (mut world, mut engine) = (World::default(), paired(2));
    for session in 50..54 {
        let started = world.spawn(session, "scheduler");
        world.tell(&mut engine, &started);
    }
    let overrides = Overrides {
        groups_per_socket: Some(2),
        group_patterns: vec!["worker".into()],
        ..Overrides::default()
    };
    let only_workers = Settings::from_sources(None, overrides).unwrap();
    let mut engine = engine.reconfigured(engine.topology().clone(), only_workers, &BTreeMap::new()).unwrap();
    let worker = world.spawn(60, "worker");
    world.tell(&mut engine, &worker);
    assert!(!engine.warnings().iter().any(|warning| warning.contains("shares")), "{:?}", engine.warnings());
}

#[test]
fn a_reload_takes_new_facts_and_keeps_a_plan_that_has_grown() {
    let (mut world, mut engine) = (World::default(), engine(Overrides::default()));
    for session in 50..52 {
        let started = world.spawn(session, "worker");
        world.tell(&mut engine, &started);
    }
    let (snapshots, ..) = world.scan();
    let with_env = |snapshot: &Snapshot| ProcessFacts { env: Some("blue".into()), ..snapshot.facts.clone() };
    let facts: Vec<ProcessFacts> = snapshots.iter().map(with_env).collect();
    let seen = facts.iter().map(|facts| (facts.id(), facts)).collect();
    let by_env = Overrides { group_by: Some(GroupBy::Env("INST".into())), ..Overrides::default() };
    let next = engine.reconfigured(engine.topology().clone(), settings(by_env), &seen).unwrap();
    let instances: BTreeSet<String> =
        next.processes().filter_map(|process| process.instance.as_ref()).map(ToString::to_string).collect();
    assert_eq!(instances, BTreeSet::from(["env:INST=blue".to_owned()]));
    assert_eq!(next.plan().groups.len(), 2, "a plan does not shrink while the agent runs");

    // An earlier instance ended: the later one stays where it is.
    let first = snapshots[0].facts.id();
    let ended = world.exit_thread(first.tid, first.tid);
    world.tell(&mut engine, &ended);
    let before = placement(&engine);
    let same =
        engine.reconfigured(engine.topology().clone(), settings(Overrides::default()), &BTreeMap::new());
    assert_eq!(placement(&same.unwrap()), before);
}

#[test]
fn a_launcher_that_matches_holds_the_place_for_what_it_launches() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let first = world.spawn(50, "worker");
    world.tell(&mut engine, &first);
    // `setsid worker`: the launcher's own command line matches, in the shell's session.
    let mut launcher = world.spawn(40, "worker");
    launcher.facts.as_mut().unwrap().comm = "setsid".into();
    let pid = launcher.event.pid;
    assert_eq!(world.tell(&mut engine, &launcher)[0].group.as_deref(), Some("socket1_group0"));
    world.processes.get_mut(&pid).unwrap().0.session = pid;
    let launched = world.exec(pid, "worker");
    world.tell(&mut engine, &launched);
    assert_eq!(engine.group_of(engine.process(pid).unwrap()).unwrap().name, "socket1_group0");
    let third = world.spawn(60, "worker");
    assert_eq!(world.tell(&mut engine, &third)[0].group.as_deref(), Some("socket0_group1"));
}

#[test]
fn a_new_agent_finds_instances_where_the_old_one_put_them() {
    let (mut world, mut before) = (World::default(), engine(Overrides::default()));
    let pids: Vec<u32> = (50..53)
        .map(|session| {
            let started = world.spawn(session, "worker");
            world.tell(&mut before, &started);
            started.event.pid
        })
        .collect();
    let ended = world.exit_thread(pids[0], pids[0]);
    world.tell(&mut before, &ended);
    let groups = |engine: &Engine| -> Vec<CpuSet> {
        pids[1..]
            .iter()
            .map(|pid| engine.cpus_of(engine.process(*pid).unwrap(), ThreadRole::Member).clone())
            .collect()
    };
    // As many groups as before: with fewer their CPUs would be others.
    let overrides = Overrides { groups_per_socket: Some(3), ..Overrides::default() };
    let mut after = engine(overrides);
    let (snapshots, ..) = world.scan();
    after.make_room(&snapshots);
    for snapshot in &snapshots {
        after.observe(snapshot, &Cause::Scan, None);
    }
    assert_eq!(groups(&after), groups(&before));
    assert_eq!(after.pending(&Cause::Scan), []);
}

#[test]
fn a_setsid_moves_no_running_process() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let started = world.spawn(50, "worker");
    world.tell(&mut engine, &started);
    let pid = started.event.pid;
    let child = world.fork(pid);
    world.tell(&mut engine, &child);
    world.processes.get_mut(&child.event.pid).unwrap().0.session = child.event.pid;
    let before = placement(&engine);
    assert_eq!(world.show(&mut engine), []);
    assert_eq!(placement(&engine), before);
}

#[test]
fn an_instance_is_found_where_most_of_its_threads_are() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let mut pids = Vec::new();
    for session in [50, 51] {
        let started = world.spawn(session, "worker");
        let pid = started.event.pid;
        world.tell(&mut engine, &started);
        for _ in 0..2 {
            let thread = world.thread(pid);
            world.tell(&mut engine, &thread);
        }
        pids.push(pid);
    }
    let before = placement(&engine);
    // Somebody puts the first one's leader among the other's threads; then comes another agent.
    let leader = world.processes[&pids[0]].0.id();
    let other = world.processes[&pids[1]].0.id();
    world.masks.insert(leader, before[&other].2.clone());
    let mut next = paired(2);
    let binds = world.show(&mut next);
    assert_eq!(placement(&next), before);
    assert_eq!(binds.iter().map(|bind| bind.task).collect::<Vec<_>>(), [leader]);
}
