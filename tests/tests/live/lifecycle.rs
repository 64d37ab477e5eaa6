//! The agent's own life: start, reload, end, crash.

use std::{
    collections::BTreeMap,
    io::{PipeWriter, Write},
    os::fd::AsFd,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};

use super::*;

#[test]
fn sigterm_ends_it_with_a_summary_and_leaves_masks_as_they_are() {
    let Some(stage) = stage("sigterm") else { return };
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    puppet.thread("forward_0").unwrap();
    stage.settle();
    let left = agent.stop();
    assert_eq!(
        left.stderr.lines().filter(|line| line.contains("enforcing")).count(),
        1,
        "one start line: {}",
        left.stderr
    );
    let summary = left.events.last().unwrap();
    assert_eq!(summary["event"], "summary", "{summary}");
    let bound = left.events.iter().filter(|event| event["event"] == "bound" && event["result"] == "bound");
    assert_eq!(summary["results"]["bound"], bound.count(), "the summary counts what was said: {summary}");
    assert_eq!(summary["lost"]["total"].as_u64(), Some(0), "{summary}");
    assert!(
        summary["event_to_bound_us"]["exec"]["count"].as_u64().unwrap_or(0) >= 1,
        "{summary}: {:#?}",
        left.events
    );
    stage.settle();
    stack.stop().unwrap();
}

/// The scheduling policies of its threads, by tid (field 41 of `stat`).
fn policies(pid: u32) -> BTreeMap<u32, i32> {
    let policy = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        // What is behind the name begins with field 3.
        let policy = stat.rsplit_once(") ")?.1.split(' ').nth(41 - 3)?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, policy))
    };
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().filter_map(policy).collect()
}

#[test]
fn the_event_thread_alone_goes_first_unless_told_not_to() {
    const SCHED_OTHER: i32 = 0;
    const SCHED_FIFO: i32 = 1;
    let Some(stage) = stage("real-time") else { return };
    for (more, policy, told) in [
        (&[][..], SCHED_FIFO, "SCHED_FIFO 1"),
        (&["--no-real-time"], SCHED_OTHER, "SCHED_OTHER (--no-real-time)"),
    ] {
        let mut agent = stage.agent_with(more);
        let ready = agent.wait_for("ready", |event| event["event"] == "ready");
        assert_eq!(ready["priority"], told);
        let mut policies = policies(agent.pid());
        // The event thread is the first one.
        assert_eq!(policies.remove(&agent.pid()), Some(policy));
        assert!(
            !policies.is_empty() && policies.values().all(|policy| *policy == SCHED_OTHER),
            "{policies:?}"
        );
        agent.stop();
    }
}

#[test]
fn sighup_takes_a_valid_configuration_and_refuses_a_broken_one() {
    let Some(stage) = stage("sighup") else { return };
    let mut agent = stage.agent();
    let mut late = stage.puppet("latecomer");
    let (pid, born) = (late.pid(), now_ns());
    stage.barrier();
    stage.assert_untouched(pid, &stage.all, born);

    let mut config = stage.config();
    let pattern = format!("--role latecomer --tag {} ", stage.family.tag);
    config["group_patterns"].as_array_mut().unwrap().push(json!(pattern));
    stage.write_config(&config);
    agent.signal(Signal::SIGHUP);
    agent.wait_for("word of the reload", |event| event["event"] == "reloaded");
    stage.settle_on(pid, &stage.members);
    let thread = late.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);

    config["group_patern"] = json!(["x"]);
    stage.write_config(&config);
    agent.signal(Signal::SIGHUP);
    eventually(|| {
        let stderr = agent.stderr();
        let told = stderr.contains("numa.json") && stderr.contains("group_patern");
        told.then_some(()).ok_or_else(|| format!("not told which file and key: {stderr}"))
    });
    // The old one is in force, for who is there and for who comes.
    late.rename(thread, "helper").unwrap();
    stage.settle_on(thread, &stage.members);
    stage.settle_on(stage.puppet("latecomer").pid(), &stage.members);
    let left = agent.stop();
    assert_eq!(left.events.iter().filter(|event| event["event"] == "reloaded").count(), 1);
}

#[test]
fn a_reload_that_drops_a_pattern_lets_go() {
    let Some(stage) = stage("let-go") else { return };
    let mut agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    stage.settle_on(puppet.pid(), &stage.members);
    let mut config = stage.config();
    config["group_patterns"] = json!([format!("--role scheduler --tag {} ", stage.family.tag)]);
    stage.write_config(&config);
    agent.signal(Signal::SIGHUP);
    agent.wait_for("word of the reload", |event| event["event"] == "reloaded");
    puppet.pin(puppet.pid(), &stage.forward).unwrap();
    let pinned = now_ns();
    let scheduler = stage.puppet("scheduler");
    stage.settle_on(scheduler.pid(), &stage.members);
    stage.assert_untouched(puppet.pid(), &stage.forward, pinned);
    agent.stop();
}

#[test]
fn a_dry_run_changes_nothing() {
    let Some(stage) = stage("dry-run") else { return };
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    let mut args = stage.args();
    args.push("--dry-run".into());
    let mut agent = Agent::start(args);
    stack.start_instance().unwrap();
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("forward_0").unwrap();
    puppet.pin(thread, &stage.members).unwrap();
    let pinned = now_ns();
    let event = agent
        .wait_for("plan for the thread", |event| event["tid"] == thread && event["cause"] == "setaffinity");
    assert_eq!((&event["result"], &event["cpus"]), (&json!("planned"), &json!(stage.forward)), "{event}");
    for pid in stack.pids(0).into_iter().chain(stack.pids(1)) {
        agent.wait_for("plan for the stack", |event| event["pid"] == pid && event["result"] == "planned");
    }
    let left = agent.stop();
    let results: Vec<_> = left.events.iter().filter(|event| event["event"] == "bound").collect();
    assert!(results.iter().all(|event| event["result"] != "bound"), "{results:#?}");
    stage.settle_on(thread, &stage.members);
    for look in stage.records() {
        let expected = if look.tid == thread && look.at_ns >= pinned { &stage.members } else { &stage.all };
        if look.tid != thread || look.at_ns >= pinned {
            assert_eq!(look.cpus, *expected, "somebody touched {look:?}");
        }
    }
    stack.stop().unwrap();
}

#[test]
fn a_killed_agent_is_followed_by_one_that_catches_up() {
    let Some(stage) = stage("kill-9") else { return };
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle();
    let _ = agent.end_by(Signal::SIGKILL);
    // Nobody answers any more, and nothing of the agent is left in the way.
    puppet.rename(thread, "helper").unwrap();
    puppet.pin(puppet.pid(), &stage.forward).unwrap();
    let orphan = stage.puppet("worker");
    stage.settle_on(orphan.pid(), &stage.all);
    stage.settle_on(thread, &stage.forward);
    stage.settle_on(puppet.pid(), &stage.forward);

    let agent = stage.agent();
    stage.settle();
    stage.settle_on(thread, &stage.members);
    agent.stop();
}

/// An agent that cannot get rid of its messages: it does its work all the same, and ends when told to.
fn mute(test: &str, stderr: PipeWriter) -> Option<Value> {
    let stage = stage(test)?;
    let mut agent = Agent::start_saying(stage.args(), stderr);
    stage.settle_on(stage.puppet("worker").pid(), &stage.members);
    let config = stage.config();
    stage.write_config(&json!({ "group_patern": ["x"] }));
    // Both answers to a reload are messages of the event thread.
    agent.signal(Signal::SIGHUP);
    stage.barrier();
    stage.write_config(&config);
    agent.signal(Signal::SIGHUP);
    agent.wait_for("word of the reload", |event| event["event"] == "reloaded");
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    agent.stop().events.pop()
}

#[test]
fn nobody_at_standard_error_stops_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let Some(summary) = mute("stderr-closed", writer) else { return };
    assert!(summary["messages_dropped"].as_u64() >= Some(2), "ready and reloaded: {summary}");
}

#[test]
fn a_standard_error_that_is_never_read_stops_nothing() {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    let has_room = |writer: &PipeWriter| {
        let mut polled = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
    };
    while has_room(&writer) {
        // A page, which fits whole or not at all.
        writer.write_all(&[b'x'; 4096]).unwrap();
    }
    let Some(summary) = mute("stderr-full", writer) else { return };
    assert_eq!(summary["event"], "summary", "{summary}");
}
