//! A machine that loses CPUs and gets them back.

use super::*;

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
    engine.record(bind, BindOutcome::Bound(one.clone()), world.now_ns);
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
