//! The engine against a made-up world.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::world::{Happened, World};
use super::{
    state::{REPIN_BURST, REPIN_WINDOW_NS},
    *,
};
use crate::core::{
    config::Overrides, event::EventKind, instance::GroupBy, settings::Settings, synthetic::Machine,
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
    assert_eq!(binds, REPIN_BURST as usize);
    assert!(
        engine.warnings().iter().any(|warning| warning.contains("omp") && warning.contains(&pid.to_string()))
    );
    assert_eq!(engine.pending(&Cause::Reconcile).len(), 1, "the next reconcile still puts it back");
    world.now_ns += REPIN_WINDOW_NS;
    let kind = EventKind::SetAffinity { caller_pid: 5, caller_tid: 6, caller_comm: "omp".into() };
    let happened = world.event(pid, started.event.task, kind);
    assert_eq!(world.tell(&mut engine, &happened).len(), 1);
}

#[test]
fn a_mask_cut_by_a_cpuset_is_asked_for_once_and_named() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let actions = engine.apply(&started.event, started.facts.clone());
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    let granted: CpuSet = "0-1".parse().unwrap();
    engine.record(bind, BindOutcome::Bound(granted.clone()));
    assert!(engine.warnings().iter().any(|warning| warning.contains("0-1") && warning.contains("0-7")));
    world.masks.insert(started.event.task, granted);
    assert!(world.show(&mut engine).is_empty(), "nothing is gained by asking again");
    world.masks.insert(started.event.task, "5".parse().unwrap());
    assert_eq!(cpus(&world.show(&mut engine)), ["0-7"], "but somebody else's change is answered");
    assert_eq!(engine.cuts.texts().count(), 0, "and what is not so any more is not listed");
}

/// What kernels make of a task's mask when its cpuset changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cpusets {
    /// All that the cpuset allows: before 6.2.
    Wipe,
    /// What was asked for, as far as the cpuset allows it, else as above: since 6.2.
    Restore,
}

/// The task's cpuset is changed, and three reconciles follow: attempts worth a word, and warnings.
fn confine(
    kernel: Cpusets,
    world: &mut World,
    engine: &mut Engine,
    task: TaskId,
    cpuset: &str,
) -> (usize, Vec<String>) {
    let allowed: CpuSet = cpuset.parse().unwrap();
    let asked = allowed.intersection(&"0-7".parse().unwrap());
    let wiped = kernel == Cpusets::Wipe || asked.is_empty();
    world.masks.insert(task, if wiped { allowed.clone() } else { asked });
    let mut binds = 0;
    for _reconcile in 0..3 {
        let (snapshots, alive, as_of_ns) = world.scan();
        for snapshot in snapshots {
            for action in engine.observe(&snapshot, &Cause::Reconcile, None) {
                let Action::Bind(bind) = action else { continue };
                let mask = bind.cpus.intersection(&allowed);
                let outcome = match (mask.is_empty(), world.masks[&task] == mask) {
                    (true, _) => BindOutcome::Failed {
                        why: "EINVAL".into(),
                        excluded: true,
                        actual: Some(allowed.clone()),
                    },
                    (false, true) => BindOutcome::Unchanged(mask.clone()),
                    (false, false) => BindOutcome::Bound(mask.clone()),
                };
                if !mask.is_empty() {
                    world.masks.insert(task, mask);
                }
                binds += usize::from(engine.is_news(&bind, &outcome));
                engine.record(&bind, outcome);
            }
        }
        engine.sweep(&alive, as_of_ns);
    }
    (binds, engine.take_news())
}

#[test]
fn a_cpuset_that_changes_and_changes_is_followed_and_said_once_each_time() {
    for kernel in [Cpusets::Wipe, Cpusets::Restore] {
        follow_changes(kernel);
    }
}

fn follow_changes(kernel: Cpusets) {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let task = started.event.task;
    world.processes.get_mut(&task.tid).unwrap().0.cgroup = Some("/pod".into());
    world.tell(&mut engine, &started);
    // The plan is 0-7.
    for (cpuset, mask, said) in [
        ("0-31", "0-7", ""),
        ("4-11", "4-7", "only 4-7 of the planned 0-7"),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
        ("8-15", "8-15", "none of the planned 0-7"),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
        ("0-15", "0-7", ""),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
    ] {
        let (attempts, news) = confine(kernel, &mut world, &mut engine, task, cpuset);
        assert_eq!(world.masks[&task].to_string(), mask, "{cpuset}");
        let restored = kernel == Cpusets::Restore && said.is_empty();
        assert_eq!(attempts, usize::from(!restored), "{kernel:?} {cpuset}: one that says something new");
        assert_eq!(news.len(), usize::from(!said.is_empty()), "{cpuset}: {news:?}");
        assert!(news.iter().all(|text| text.contains("/pod") && text.contains(said)), "{cpuset}: {news:?}");
        assert!(engine.cuts.texts().eq(&news), "what is listed is what is so now");
    }
    let ended = world.exit_thread(task.tid, task.tid);
    world.tell(&mut engine, &ended);
    world.show(&mut engine);
    assert_eq!(engine.cuts.texts().count(), 0, "nobody is in that cgroup any more");
}

#[test]
fn a_cut_is_listed_while_a_living_thread_is_cut_by_it() {
    for ends in [false, true] {
        let (mut world, mut engine) = (World::default(), paired(1));
        let started = world.spawn(7, "worker");
        world.tell(&mut engine, &started);
        let pid = started.event.pid;
        let thread = world.thread(pid);
        let task = thread.event.task;
        world.tell(&mut engine, &thread);
        let renamed = world.rename(pid, task.tid, "forward_0");
        let actions = engine.apply(&renamed.event, None);
        let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
        engine.record(bind, BindOutcome::Bound("8-9".parse().unwrap()));
        world.masks.insert(task, "8-9".parse().unwrap());
        let scanned = |world: &mut World, engine: &mut Engine| {
            let (_, alive, as_of_ns) = world.scan();
            engine.sweep(&alive, as_of_ns);
            engine.cuts.texts().count()
        };
        assert_eq!(scanned(&mut world, &mut engine), 1, "it is so still");
        let over =
            if ends { world.exit_thread(pid, task.tid) } else { world.rename(pid, task.tid, "loader") };
        world.tell(&mut engine, &over);
        assert_eq!(scanned(&mut world, &mut engine), 0, "over, in a process that lives");
    }
}

#[test]
fn more_cuts_than_are_kept_are_said_once() {
    let (mut cuts, planned) = (Cuts::default(), "0-7".parse().unwrap());
    let outcome = BindOutcome::Bound("0".parse().unwrap());
    let facts = |pid| ProcessFacts { pid, ..ProcessFacts::default() };
    let mut said = |pid| cuts.note(&facts(pid), &planned, &outcome);
    assert!((0..MAX_WARNINGS as u32).all(|pid| said(pid).is_some()));
    assert!(said(9998).is_some_and(|text| text.contains("not shown")));
    assert_eq!(said(9999), None);
}

/// The machine of [`paired`] with `left` CPUs of the first node.
fn machine_with(left: u32) -> Topology {
    let machine = Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() };
    let mut topology = machine.topology();
    topology.offline = (left..8).collect();
    topology.cpus.retain(|cpu| !(left..8).contains(&cpu.id));
    topology.allowed = topology.allowed.difference(&topology.offline);
    topology.settled()
}

#[test]
fn a_machine_that_lost_cpus_is_planned_anew_and_everybody_put_back_when_they_return() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let started: Vec<Happened> = (50..54).map(|session| world.spawn(session, "worker")).collect();
    for started in &started {
        world.tell(&mut engine, started);
    }
    let before = placement(&engine);
    let groups = |engine: &Engine| -> BTreeMap<TaskId, Option<String>> {
        placement(engine).into_iter().map(|(task, (_, group, _))| (task, group)).collect()
    };

    // CPUs 4-7 go offline: the second group's tasks are off their plan, and the kernel has let them loose.
    let mut engine = engine.replanned(machine_with(4)).unwrap();
    let everywhere: CpuSet = "0-3,8-31".parse().unwrap();
    world
        .masks
        .values_mut()
        .filter(|mask| mask.to_string() == "4-7")
        .for_each(|mask| mask.clone_from(&everywhere));
    assert_eq!(placement(&engine).values().filter(|(_, _, cpus)| cpus.to_string() == "2-3").count(), 1);
    assert_eq!(groups(&engine), before.iter().map(|(task, (_, group, _))| (*task, group.clone())).collect());
    let pending = engine.pending(&Cause::Replan);
    let mut binds = cpus(&world.carry_out(&mut engine, pending));
    binds.sort();
    assert_eq!(binds, ["0-1", "2-3"], "the other socket is as it was");

    // They return; a scan restores what the kernel took, also where the plan is the same.
    let mut engine = engine.replanned(machine_with(8)).unwrap();
    assert_eq!(placement(&engine), before);
    let pending = engine.pending(&Cause::Replan);
    world.carry_out(&mut engine, pending);
    let task = started[0].event.task;
    world.masks.insert(task, everywhere);
    assert_eq!(cpus(&world.show(&mut engine)), ["0-3"]);
    let planned = |(task, (_, _, cpus)): (&TaskId, &(_, _, CpuSet))| (*task, cpus.clone());
    assert_eq!(world.masks, placement(&engine).iter().map(planned).collect());
}

/// Four sockets of two nodes with four CPUs each, without these nodes.
fn grid_without(nodes: &[u32]) -> Topology {
    let machine = Machine { sockets: 4, nodes_per_socket: 2, cores_per_node: 4, ..Machine::default() };
    let mut topology = machine.topology();
    let (gone, left) = topology.cpus.into_iter().partition(|cpu| nodes.contains(&cpu.node));
    let gone: Vec<_> = gone;
    topology.cpus = left;
    topology.offline = gone.iter().map(|cpu| cpu.id).collect();
    topology.allowed = topology.allowed.difference(&topology.offline);
    topology.settled()
}

/// Those of the placements that are not on that socket.
fn on_other_sockets(
    placement: &BTreeMap<TaskId, (ThreadRole, Option<String>, CpuSet)>,
    socket: u32,
) -> BTreeMap<TaskId, (ThreadRole, Option<String>, CpuSet)> {
    let cpus: CpuSet = (socket * 8..socket * 8 + 8).collect();
    let mut placement = placement.clone();
    placement.retain(|_, (_, _, theirs)| theirs.intersection(&cpus).is_empty());
    placement
}

proptest! {
    /// A node, or all of a socket, goes offline and returns: nobody moves on the other sockets, and in the end everybody
    /// is where it was, whatever had to share meanwhile and whoever came and went.
    #[test]
    fn sockets_that_did_not_change_keep_their_instances(
        instances in 1u32..9,
        ends in prop::collection::btree_set(0u32..9, 0..3),
        gone in prop::sample::select(vec![vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7], vec![0], vec![3], vec![5]]),
        policy in prop::sample::select(vec!["auto", "generic"]),
        groups_per_socket in prop::sample::select(vec![None, Some(0), Some(2)]),
    ) {
        let overrides = Overrides {
            policy: Some(policy.parse().unwrap()),
            groups_per_socket,
            ..Overrides::default()
        };
        let mut engine = Engine::new(grid_without(&[]), settings(overrides), [AGENT]).unwrap();
        let mut world = World::default();
        let motor = world.spawn(9, "Motor");
        world.tell(&mut engine, &motor);
        let started: Vec<Happened> = (50..50 + instances).map(|session| world.spawn(session, "worker")).collect();
        for started in &started {
            world.tell(&mut engine, started);
            let thread = world.thread(started.event.pid);
            world.tell(&mut engine, &thread);
            let renamed = world.rename(started.event.pid, thread.event.task.tid, "forward_0");
            world.tell(&mut engine, &renamed);
        }
        for end in ends.iter().filter(|end| **end < instances) {
            let pid = started[*end as usize].event.pid;
            engine.forget(pid);
        }
        let before = placement(&engine);
        let socket = gone[0] / 2;
        let meanwhile = engine.replanned(grid_without(&gone)).unwrap();
        // Groups as needed divide a node for one more, if it is the only room for those who lost theirs.
        let depth = |engine: &Engine| engine.plan.groups.iter().map(|group| group.index).max();
        let divides = depth(&meanwhile) != depth(&engine);
        let stayed = |placement: &BTreeMap<TaskId, (ThreadRole, Option<String>, CpuSet)>| -> BTreeMap<TaskId, String> {
            let names = on_other_sockets(placement, socket).into_iter();
            names.map(|(task, (role, group, cpus))| {
                (task, format!("{role:?} {group:?} {}", if divides { String::new() } else { cpus.to_string() }))
            }).collect()
        };
        let now = stayed(&placement(&meanwhile));
        for (task, place) in stayed(&before) {
            prop_assert_eq!(now.get(&task), Some(&place));
        }
        let offline = &meanwhile.topology.offline;
        prop_assert!(placement(&meanwhile).values().all(|(_, _, cpus)| cpus.intersection(offline).is_empty()));
        prop_assert_eq!(meanwhile.plan.policy, engine.plan.policy);
        let again = meanwhile.replanned(grid_without(&[])).unwrap();
        prop_assert_eq!(placement(&again), before);
        prop_assert_eq!(&again.plan, &engine.plan);
    }
}

#[test]
fn a_machine_too_small_for_the_plan_gives_none_and_what_was_cut_meanwhile_is_asked_for_again() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let started = world.spawn(50, "worker");
    world.tell(&mut engine, &started);
    let error = engine.replanned(machine_with(1)).unwrap_err();
    assert!(matches!(error, PlanError::TooFewUnits { units: 1, .. }), "{error}");

    // The old plan is in force. Before 6.3 the kernel leaves CPUs that are offline out of a mask for good.
    let one: CpuSet = "0".parse().unwrap();
    world.masks.insert(started.event.task, "0,8-31".parse().unwrap());
    let (snapshots, ..) = world.scan();
    let actions = engine.observe(&snapshots[0], &Cause::Reconcile, None);
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    engine.record(bind, BindOutcome::Bound(one.clone()));
    world.masks.insert(started.event.task, one);
    assert!(world.show(&mut engine).is_empty());
    let mut engine = engine.replanned(machine_with(8)).unwrap();
    let pending = engine.pending(&Cause::Replan);
    assert_eq!(cpus(&world.carry_out(&mut engine, pending)), ["0-3"]);
}

#[test]
fn explicit_pids_stay_tied_to_their_processes_on_a_machine_that_changes() {
    let mut world = World::default();
    let started = world.spawn(7, "scheduler");
    let pid = started.event.pid;
    let settings = settings(Overrides { group_pids: vec![pid], ..Overrides::default() });
    let mut engine = Engine::new(machine_with(8), settings, [AGENT]).unwrap();
    assert_eq!(engine.pin_pids(|_| Some(started.event.task.start_time)), [0; 0]);
    let engine = engine.replanned(machine_with(4)).unwrap();
    let stranger =
        |start_time| ProcessFacts { pid, start_time, cmdline: "/opt/x".into(), ..ProcessFacts::default() };
    let role = |start_time| engine.rules().process_role(&stranger(start_time));
    assert_eq!(role(started.event.task.start_time), Some(ProcessRole::Group));
    assert_eq!(role(started.event.task.start_time + 1), None);
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
    engine.record(bind, refused);
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

/// One thing that happens to a random task of a random process.
#[derive(Debug, Clone)]
enum Step {
    Spawn(bool),
    Thread(usize),
    Fork(usize),
    Exec(usize, usize),
    Rename(usize, usize, usize),
    ExitThread(usize, usize),
}

const NAMES: [&str; 6] = ["worker", "decode_0", "prefill", "python", "Motor", "scheduler"];

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..64;
    prop_oneof![
        2 => any::<bool>().prop_map(Step::Spawn),
        4 => index.clone().prop_map(Step::Thread),
        2 => index.clone().prop_map(Step::Fork),
        1 => (index.clone(), index.clone()).prop_map(|(process, name)| Step::Exec(process, name)),
        5 => (index.clone(), index.clone(), index.clone()).prop_map(|(process, thread, name)| Step::Rename(process, thread, name)),
        2 => (index.clone(), index).prop_map(|(process, thread)| Step::ExitThread(process, thread)),
    ]
}

/// Lets `steps` happen. The first process of each session is a worker that never changes, so that instances come in the
/// same order for a scan (by start time) and for events (by exec), and none is over before a scan could see it.
fn live(steps: &[Step]) -> (Vec<Happened>, Vec<World>) {
    let mut world = World::default();
    let (mut history, mut worlds, mut founders) = (Vec::new(), vec![World::default()], BTreeSet::new());
    for step in steps {
        let pick = |index: usize, world: &World| {
            world.processes.keys().nth(index % world.processes.len().max(1)).copied()
        };
        let free = |pid: &u32| !founders.contains(pid);
        // The kernel ends a process's other threads before it runs the new program.
        let ends = match step {
            Step::Exec(process, _) => pick(*process, &world).filter(free).map(|pid| world.other_threads(pid)),
            _ => None,
        };
        for (pid, tid) in ends.into_iter().flatten() {
            history.push(world.exit_thread(pid, tid));
            worlds.push(world.clone());
        }
        let happened = match step {
            Step::Spawn(new_session) => {
                let session = 1000 + if *new_session { world.next_id + 1 } else { 0 };
                let happened = world.spawn(session, "worker");
                founders.insert(happened.event.pid);
                Some(happened)
            }
            Step::Thread(process) => pick(*process, &world).map(|pid| world.thread(pid)),
            Step::Fork(process) => pick(*process, &world).map(|pid| world.fork(pid)),
            Step::Exec(process, name) => {
                pick(*process, &world).filter(free).map(|pid| world.exec(pid, NAMES[name % NAMES.len()]))
            }
            Step::Rename(process, thread, name) => pick(*process, &world).and_then(|pid| {
                let threads: Vec<u32> = world.processes[&pid].1.keys().copied().collect();
                let tid = threads[thread % threads.len()];
                let name = NAMES[name % NAMES.len()];
                (tid != pid || free(&pid)).then(|| world.rename(pid, tid, name))
            }),
            Step::ExitThread(process, thread) => pick(*process, &world).and_then(|pid| {
                let threads: Vec<u32> = world.processes[&pid].1.keys().copied().collect();
                let tid = threads[thread % threads.len()];
                (tid != pid).then(|| world.exit_thread(pid, tid))
            }),
        };
        if let Some(happened) = happened {
            history.push(happened);
            worlds.push(world.clone());
        }
    }
    (history, worlds)
}

proptest! {
    /// However much of the history happened before the agent started, and however many events are told again after a scan
    /// has shown their result: the same placement, and every mask in force is the planned one.
    #[test]
    fn scan_then_events_and_events_then_scan_agree(
        steps in prop::collection::vec(step(), 1..40), cut in 0.0..1.0f64, again in 0usize..6, fixed in any::<bool>(),
    ) {
        let (history, worlds) = live(&steps);
        let cut = (cut * history.len() as f64) as usize;
        let fresh = || if fixed { paired(3) } else { engine(Overrides::default()) };

        let (mut live_world, mut by_events) = (World::default(), fresh());
        for (happened, world) in history.iter().zip(&worlds[1..]) {
            live_world = World { masks: live_world.masks, ..world.clone() };
            live_world.tell(&mut by_events, happened);
        }

        let (mut late_world, mut by_scan) = (worlds[cut].clone(), fresh());
        late_world.show(&mut by_scan);
        for index in cut.saturating_sub(again)..history.len() {
            late_world = World { masks: late_world.masks, ..worlds[index.max(cut).max(index + 1)].clone() };
            late_world.tell(&mut by_scan, &history[index]);
        }
        prop_assert_eq!(placement(&by_events), placement(&by_scan));

        // A last scan finds nothing to do, and changes nothing.
        let before = placement(&by_events);
        prop_assert_eq!(live_world.show(&mut by_events), vec![]);
        prop_assert_eq!(placement(&by_events), before.clone());
        for (task, (_, _, planned)) in before {
            prop_assert_eq!(live_world.masks.get(&task), Some(&planned));
        }
    }
}
