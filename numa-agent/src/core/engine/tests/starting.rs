//! Where a program belongs that is about to start.

use super::*;

#[test]
fn a_program_that_is_about_to_start_has_the_seat_that_it_gets_when_it_runs() {
    let (mut world, mut engine) = (World::default(), paired(2));
    let running = world.spawn(7, "worker");
    world.tell(&mut engine, &running);
    // The launcher is no match itself; what it becomes is.
    let launcher = world.spawn(8, "numa-agent");
    let own = launcher.facts.clone().unwrap();
    assert!(world.tell(&mut engine, &launcher).is_empty());
    engine.own.insert(own.id());
    let as_program = |comm: &str| ProcessFacts {
        comm: comm.into(),
        cmdline: format!("/opt/{comm}").into(),
        ..own.clone()
    };
    let Some(Seat::Group(group)) = engine.seat_of(&as_program("scheduler")) else { panic!("a group") };
    assert_eq!(group.name, "socket1_group0", "the next socket's");
    let others = engine.plan().others.clone();
    assert_eq!(engine.seat_of(&as_program("Motor")), Some(Seat::Others(others)));
    assert_eq!(engine.seat_of(&as_program("bash")), None);
    let same_session = ProcessFacts { session: 7, ..as_program("scheduler") };
    let Some(Seat::Group(group)) = engine.seat_of(&same_session) else { panic!("a group") };
    assert_eq!(group.name, "socket0_group0", "with the instance that it belongs to");
    assert!(!engine.manages(own.pid), "it was but a question");

    engine.own.remove(&own.id());
    let started = world.exec(own.pid, "scheduler");
    assert_eq!(world.tell(&mut engine, &started)[0].group.as_deref(), Some("socket1_group0"));
}

#[test]
fn a_program_of_no_rule_goes_where_nobody_sits() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let free = |engine: &Engine, taken: &str| {
        engine.free_group(|group| group.name == taken).map(|group| group.name.clone()).unwrap()
    };
    assert_eq!(free(&engine, ""), "socket0_group0");
    assert_eq!(free(&engine, "socket0_group0"), "socket1_group0");
    let started = world.spawn(7, "worker");
    world.tell(&mut engine, &started);
    assert_eq!(free(&engine, ""), "socket1_group0");
    assert_eq!(free(&engine, "socket1_group0"), "socket0_group0", "all are taken");
}
