//! Who ends up where, whatever the order of things.

use std::collections::BTreeSet;

use super::*;

/// What the threads of an instance saw at last: role, name, mask.
fn places(stack: &Stack, instance: u32, records: &[Record]) -> BTreeSet<(String, String, CpuSet)> {
    let pids = stack.pids(instance);
    let last = witness::by_thread(records, 0).into_values().filter_map(|looks| looks.last().copied());
    last.filter(|look| pids.contains(&look.pid))
        .map(|look| (look.role.clone(), look.comm.clone(), look.cpus.clone()))
        .collect()
}

#[test]
fn started_before_or_after_the_agent_makes_no_difference() {
    let Some(stage) = stage("before-after") else { return };
    let mut stack = stage.stack(1);
    let before = stack.start_instance().unwrap();
    let unbound = stage.records();
    assert!(unbound.iter().all(|look| look.cpus == stage.all), "nobody is bound yet");
    let started = now_ns();

    let agent = stage.agent();
    stage.settle();
    let after = stack.start_instance().unwrap();
    let records = stage.settle();

    let places_before = places(&stack, before, &records);
    assert_eq!(places_before, places(&stack, after, &records));
    let masks: BTreeSet<_> =
        places_before.iter().map(|(role, comm, cpus)| (role.as_str(), comm.as_str(), cpus)).collect();
    let expected = BTreeSet::from([
        ("scheduler", "serving-stack", &stage.members),
        ("rpc_proxy", "serving-stack", &stage.members),
        ("worker", "serving-stack", &stage.members),
        ("worker", "forward_0", &stage.forward),
        ("worker", "prefill_0", &stage.forward),
        ("worker", "decode_0", &stage.forward),
    ]);
    assert_eq!(masks, expected);
    let motor = records.iter().rfind(|look| look.role == "motor").unwrap();
    assert_eq!(motor.cpus, stage.members, "Motor is on the background processes' node");
    let hog = records.iter().find(|look| look.role == "hog").unwrap().pid;
    stage.assert_untouched(hog, &stage.all, started);
    agent.stop();
    stack.stop().unwrap();
}

#[test]
fn exec_into_and_out_of_a_matching_program() {
    let Some(stage) = stage("exec") else { return };
    let agent = stage.agent();
    let mut puppet = stage.puppet("idle");
    let (pid, born) = (puppet.pid(), now_ns());
    stage.barrier();
    stage.assert_untouched(pid, &stage.all, born);

    puppet.exec("worker").unwrap();
    stage.settle_on(pid, &stage.members);
    let thread = puppet.thread("decode_7").unwrap();
    stage.settle_on(thread, &stage.forward);

    puppet.exec("idle").unwrap();
    puppet.pin(pid, &stage.all).unwrap();
    let pinned = now_ns();
    stage.barrier();
    puppet.pin(pid, &stage.forward).unwrap();
    stage.barrier();
    stage.settle_on(pid, &stage.forward);
    let records = stage.records();
    let after = records.iter().filter(|look| look.pid == pid && look.at_ns >= pinned);
    assert!(
        after.clone().all(|look| look.cpus == stage.all || look.cpus == stage.forward),
        "nobody but itself pins it"
    );
    agent.stop();
}

#[test]
fn a_thread_follows_its_name() {
    let Some(stage) = stage("rename") else { return };
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("helper").unwrap();
    stage.settle_on(thread, &stage.members);
    for _ in 0..2 {
        puppet.rename(thread, "forward_0").unwrap();
        stage.settle_on(thread, &stage.forward);
        puppet.rename(thread, "helper").unwrap();
        stage.settle_on(thread, &stage.members);
    }
    puppet.rename(thread, "prefill_1").unwrap();
    stage.settle_on(thread, &stage.forward);
    // Born with a forward thread's name and mask, it keeps neither.
    let heir = puppet.order(&Order::Thread { from: thread, name: Some("tokenizer".into()) }).unwrap();
    stage.settle_on(heir, &stage.members);
    stage.settle_on(thread, &stage.forward);
    agent.stop();
}

#[test]
fn a_daemon_and_a_forked_child_are_found() {
    let Some(stage) = stage("daemon") else { return };
    let mut agent = stage.agent();
    let daemon = Puppet::start(&stage.family, "worker", 0, Birth::Daemon).unwrap();
    stage.settle_on(daemon.pid(), &stage.members);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(
        !status.contains(&format!("PPid:\t{}\n", std::process::id())),
        "the daemon has left us: {status}"
    );

    let mut puppet = stage.puppet("worker");
    let mut stranger = stage.puppet("idle");
    stage.settle_on(puppet.pid(), &stage.members);
    let child = puppet.order(&Order::Fork).unwrap();
    stage.settle_on(child, &stage.members);
    // It has its mask by inheritance; only if it is managed is it put back.
    let by = stranger.pid();
    stranger.order(&Order::PinOther { from: by, tid: child, cpus: stage.forward.clone() }).unwrap();
    agent.wait_for("answer to the pinned child", |event| {
        event["tid"] == child && event["cause"] == "setaffinity" && event["caller"]["pid"] == by
    });
    stage.settle_on(child, &stage.members);
    agent.stop();
    daemon.stop().unwrap();
}

#[test]
fn a_thread_that_pins_itself_is_put_back() {
    let Some(stage) = stage("repin") else { return };
    let mut agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let member = puppet.thread("omp_1").unwrap();
    let forward = puppet.thread("forward_0").unwrap();
    for (tid, home, away) in [
        (member, &stage.members, &stage.forward),
        (forward, &stage.forward, &stage.members),
        (puppet.pid(), &stage.members, &stage.all),
    ] {
        stage.settle_on(tid, home);
        puppet.pin(tid, away).unwrap();
        stage.settle_on(tid, home);
        let event = agent
            .wait_for("answer to the pin", |event| event["tid"] == tid && event["cause"] == "setaffinity");
        assert_eq!(event["caller"]["tid"], tid, "{event}");
        assert_eq!(event["caller"]["pid"], puppet.pid(), "{event}");
        assert_eq!(event["caller"]["comm"], event["comm"], "{event}");
    }
    agent.stop();
}

#[test]
fn an_inherited_mask_is_corrected() {
    let Some(stage) = stage("inherited") else { return };
    let one: CpuSet = stage.forward.iter().take(1).collect();
    let agent = stage.agent();
    let mut puppet = stage.puppet("idle");
    let pid = puppet.pid();
    puppet.pin(pid, &one).unwrap();
    stage.settle_on(pid, &one);
    let since = now_ns();
    puppet.exec("worker").unwrap();
    stage.settle_on(pid, &stage.members);
    let records = stage.records();
    let first =
        records.iter().find(|look| look.pid == pid && look.role == "worker" && look.at_ns >= since).unwrap();
    assert!([&one, &stage.members].contains(&&first.cpus), "{first:?}");
    agent.stop();
}

#[test]
fn strangers_are_never_touched() {
    let Some(stage) = stage("strangers") else { return };
    let one: CpuSet = stage.all.iter().skip(1).take(1).collect();
    let mut pinned = stage.puppet("idle");
    pinned.pin(pinned.pid(), &one).unwrap();
    let mut free = stage.puppet("idle");
    // A forward thread's name alone makes nobody a forward thread.
    free.thread("forward_0").unwrap();
    let since = now_ns();
    let agent = stage.agent();
    stage.barrier();
    free.rename(free.pid(), "worker").unwrap();
    free.thread("decode_0").unwrap();
    free.order(&Order::Storm { count: 5, role: "idle".into() }).unwrap();
    stage.barrier();
    stage.assert_untouched(pinned.pid(), &one, since);
    stage.assert_untouched(free.pid(), &stage.all, since);
    let left = agent.stop();
    let theirs = |event: &&Value| event["pid"] == pinned.pid() || event["pid"] == free.pid();
    assert_eq!(left.events.iter().find(theirs), None);
}

#[test]
fn a_storm_of_short_processes_leaves_a_correct_state() {
    let Some(stage) = stage("storm") else { return };
    let agent = stage.agent();
    let mut stack = stage.stack(0);
    std::thread::scope(|scope| {
        for role in ["worker", "idle"] {
            let mut puppet = stage.puppet(role);
            scope.spawn(move || {
                puppet.order(&Order::Storm { count: 150, role: role.into() }).unwrap();
                puppet.stop().unwrap();
            });
        }
        stack.start_instance().unwrap();
        let mut puppet = stage.puppet("worker");
        for index in 0..50 {
            puppet.thread(&format!("forward_{index}")).unwrap();
        }
        puppet.stop().unwrap();
    });
    stack.start_instance().unwrap();
    let records = stage.settle();
    let blinked = records.iter().filter(|look| look.point == Point::End && look.role == "worker").count();
    assert!(blinked >= 150, "the storm took place: {blinked}");
    let summary = agent.stop().events.pop().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["results"]["failed"], Value::Null, "a task that ends early is no failure: {summary}");
    stack.stop().unwrap();
}
