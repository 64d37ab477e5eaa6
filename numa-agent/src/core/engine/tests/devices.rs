//! Threads that are known by the device that they use.

use super::*;

fn uses(world: &mut World, pid: u32, tid: u32) -> Happened {
    world.tick();
    let thread = &world.processes[&pid].1[&tid];
    let (id, comm) = (thread.id, thread.comm.clone());
    world.event(pid, id, EventKind::UseDevice { device: 1, comm })
}

/// A worker with a second thread of the same name, which uses a device.
fn worker() -> (World, Engine, u32, u32) {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let pid = started.event.pid;
    world.tell(&mut engine, &started);
    let thread = world.thread(pid);
    let tid = thread.event.task.tid;
    assert_eq!(cpus(&world.tell(&mut engine, &thread)), ["0-7"]);
    (world, engine, pid, tid)
}

#[test]
fn a_thread_without_a_name_is_a_forward_thread_from_its_use_of_the_device() {
    let (mut world, mut engine, pid, tid) = worker();
    let used = uses(&mut world, pid, tid);
    let binds = world.tell(&mut engine, &used);
    assert_eq!((cpus(&binds), &binds[0].cause), (vec!["8-15".to_owned()], &Cause::UseDevice));
    assert_eq!(world.tell(&mut engine, &used), [], "told again");
    let renamed = world.rename(pid, tid, "python3");
    assert_eq!(world.tell(&mut engine, &renamed), [], "whatever its name is");
    assert_eq!(world.show(&mut engine), [], "a scan does not know, and takes nothing back");
    assert_eq!(engine.process(pid).unwrap().threads[&pid].role, ThreadRole::Member);
}

#[test]
fn an_instance_sits_on_the_socket_of_its_npu() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let mut start = |session, device_node| {
        let mut started = world.spawn(session, "worker");
        let pid = started.event.pid;
        world.processes.get_mut(&pid).unwrap().0.device_node = device_node;
        started.facts.as_mut().unwrap().device_node = device_node;
        cpus(&world.tell(&mut engine, &started)).join(" ")
    };
    // Two groups of four CPUs on the first node of each socket; node 3 is the second socket's.
    assert_eq!([start(1, Some(3)), start(2, Some(2)), start(3, Some(3))], ["16-19", "20-23", "0-3"]);
    assert_eq!(start(4, Some(9)), "4-7", "a node that nobody knows");
}

#[test]
fn another_program_has_used_nothing() {
    let (mut world, mut engine, pid, tid) = worker();
    let used = uses(&mut world, pid, pid);
    assert_eq!(cpus(&world.tell(&mut engine, &used)), ["8-15"]);
    let gone = world.exit_thread(pid, tid);
    world.tell(&mut engine, &gone);
    let exec = world.exec(pid, "scheduler");
    assert_eq!(cpus(&world.tell(&mut engine, &exec)), ["0-7"]);
    // The same, where a scan was faster than the news of it.
    let used = uses(&mut world, pid, pid);
    let exec = world.exec(pid, "worker");
    world.show(&mut engine);
    world.tell(&mut engine, &used);
    world.tell(&mut engine, &exec);
    assert_eq!(engine.process(pid).unwrap().threads[&pid].role, ThreadRole::Member);
    assert_eq!(world.masks[&used.event.task].to_string(), "0-7");
}

#[test]
fn who_is_not_in_a_group_stays_what_it_is() {
    let (mut world, mut engine) = (World::default(), paired(1));
    for comm in ["Motor", "bash"] {
        let started = world.spawn(9, comm);
        world.tell(&mut engine, &started);
        let used = uses(&mut world, started.event.pid, started.event.pid);
        assert_eq!(world.tell(&mut engine, &used), [], "{comm}");
    }
    let (mut world, mut engine, pid, _) = worker();
    // Its creation was lost.
    let unknown = world.thread(pid).event.task;
    let used = uses(&mut world, pid, unknown.tid);
    assert_eq!(cpus(&world.tell(&mut engine, &used)).last().map(String::as_str), Some("8-15"));
}

#[test]
fn other_devices_begin_anew() {
    let (mut world, mut engine, pid, tid) = worker();
    let used = uses(&mut world, pid, tid);
    world.tell(&mut engine, &used);
    let with = |devices: &[&str]| {
        let devices = devices.iter().map(ToString::to_string).collect();
        Settings { forward_thread_devices: devices, ..engine.settings().clone() }
    };
    let role = |engine: &Engine| engine.process(pid).unwrap().threads[&tid].role;
    let same =
        engine.reconfigured(engine.topology().clone(), engine.settings().clone(), &BTreeMap::new()).unwrap();
    assert_eq!(role(&same), ThreadRole::Forward);
    let other = engine.reconfigured(engine.topology().clone(), with(&["/dev/x"]), &BTreeMap::new()).unwrap();
    assert_eq!(role(&other), ThreadRole::Member);
}

#[test]
fn who_is_let_be_is_not_from_its_use_of_the_device_on() {
    let (mut world, mut engine, started) = with_drift(DriftPolicy::Observe);
    assert_eq!(repin(&mut world, &mut engine, &started), 0);
    let pid = started.event.pid;
    let used = uses(&mut world, pid, pid);
    assert_eq!(cpus(&world.tell(&mut engine, &used)), ["8-15"]);
    assert!(!engine.process(pid).unwrap().threads[&pid].let_be, "the reconcile keeps it there");
}
