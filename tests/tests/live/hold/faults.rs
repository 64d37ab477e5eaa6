//! Whoever dies or hangs, who is held goes on.

use std::collections::BTreeSet;

use nix::sys::ptrace;

use super::*;

#[test]
fn a_killed_agent_leaves_nobody_stopped() {
    let Some(stage) = stage("hold-kill-agent") else { return };
    let holder = hold(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    let guard = holder.guard;
    let _ = holder.agent.end_by(Signal::SIGKILL);
    one.ends_well();
    is_gone(guard);
}

#[test]
fn a_killed_guard_leaves_nobody_stopped_and_is_followed_by_another() {
    let Some(stage) = stage("hold-kill-guard") else { return };
    let mut holder = hold(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    signal(holder.guard, Signal::SIGKILL);
    sleep(Duration::from_millis(100));
    assert_eq!(state(one.pid()), Some('T'), "the agent cannot see it yet");
    holder.thaw();
    one.ends_well();
    let guard = next_guard(&mut holder.agent, holder.guard);
    assert_eq!(holder.agent.warnings("nobody is held until another guard is there").len(), 1);
    let mut other = Held::start(blink(&stage));
    other.ends_well();
    holder.released(other.pid());
    // And while it runs and there is nothing to do.
    signal(guard, Signal::SIGKILL);
    next_guard(&mut holder.agent, guard);
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(summary["hold"]["guards_lost"], 2, "{summary}");
}

#[test]
fn a_guard_that_is_stopped_is_woken() {
    let Some(stage) = stage("hold-stopped-guard") else { return };
    let mut holder = hold_with(&stage, &json!({ "hold_limit_ms": 100 }));
    signal(holder.guard, Signal::SIGSTOP);
    let mut one = Held::start(blink(&stage));
    one.ends_well();
    holder.agent.wait_for("doubt", |event| event["event"] == "guard" && event["state"] == "doubted");
    let ready = |event: &Value| event["event"] == "guard" && event["state"] == "ready";
    eventually(|| match holder.agent.events().iter().filter(|event| ready(event)).count() {
        2 => Ok(()),
        times => Err(format!("ready {times} times")),
    });
    assert_eq!(
        holder.agent.warnings("nobody is held until it answers").len(),
        1,
        "{}",
        holder.agent.stderr()
    );
    let mut other = Held::start(blink(&stage));
    other.ends_well();
    assert_eq!(holder.released(other.pid())["by"], "agent");
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(
        (&summary["hold"]["held"], &summary["hold"]["guards_lost"]),
        (&json!(2), &json!(0)),
        "{summary}"
    );
}

#[test]
fn a_guard_that_hangs_is_replaced() {
    let Some(stage) = stage("hold-hung-guard") else { return };
    let mut holder = hold_with(&stage, &json!({ "hold_limit_ms": 100 }));
    // Stopped by a tracer: nothing but its end or the tracer's word wakes it.
    let guard = Pid::from_raw(holder.guard.cast_signed());
    ptrace::seize(guard, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(guard).unwrap();
    let mut one = Held::start(blink(&stage));
    one.ends_well();
    next_guard(&mut holder.agent, holder.guard);
    assert_eq!(holder.agent.warnings("does not answer").len(), 1, "{}", holder.agent.stderr());
    eventually(|| {
        state(holder.guard)
            .is_none_or(|state| state == 'Z')
            .then_some(())
            .ok_or_else(|| "the hung guard stays".to_owned())
    });
    holder.agent.stop();
}

#[test]
fn without_a_heartbeat_the_limit_lets_go_and_nobody_else_is_held() {
    let Some(stage) = stage("hold-heartbeat") else { return };
    let mut holder = hold_with(&stage, &json!({ "hold_limit_ms": 700 }));
    let mut one = holder.frozen_with_one_held(&stage);
    one.ends_well();
    sleep(Duration::from_millis(300));
    let mut late = Held::start(blink(&stage));
    late.ends_well();
    holder.thaw();
    let release = holder.released(one.pid());
    assert_eq!((&release["by"], &release["end"]), (&json!("limit"), &json!("continued")), "{release}");
    assert!(release["held_us"].as_f64() >= Some(700_000.0), "{release}");
    stage.barrier();
    assert!(!holder.agent.events().iter().any(|event| is_release_of(event, late.pid())));
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(summary["hold"]["released_by"]["limit"], 1, "{summary}");
}

#[test]
fn a_held_process_that_is_killed_is_gone() {
    let Some(stage) = stage("hold-killed") else { return };
    let mut holder = hold(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    signal(one.pid(), Signal::SIGKILL);
    assert!(!one.end().success());
    holder.thaw();
    let release = holder.released(one.pid());
    assert_eq!(release["end"], "gone", "{release}");
    holder.agent.stop();
}

#[test]
fn a_stop_by_somebody_else_stays_theirs() {
    let Some(stage) = stage("hold-stop") else { return };
    let mut holder = hold(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    signal(one.pid(), Signal::SIGSTOP);
    holder.thaw();
    let release = holder.released(one.pid());
    assert_eq!((&release["by"], &release["end"]), (&json!("agent"), &json!("stopped")), "{release}");
    sleep(Duration::from_millis(200));
    assert_eq!((state(one.pid()), program_counter(one.pid())), (Some('T'), elf_entry(one.pid())));
    signal(one.pid(), Signal::SIGCONT);
    one.ends_well();
    assert_on_plan_from_the_first_look(
        &stage,
        stage.records().iter().filter(|look| look.point == Point::Main).count(),
    );
    holder.agent.stop();
}

#[test]
fn of_two_agents_one_holds() {
    let Some(stage) = stage("hold-two") else { return };
    let mut first = hold(&stage);
    let mut second = hold(&stage);
    const STARTS: usize = 20;
    for _ in 0..STARTS {
        let mut one = Held::start(blink(&stage));
        one.ends_well();
    }
    assert_on_plan_from_the_first_look(&stage, STARTS);
    stage.barrier();
    let releases = |holder: &Holder| {
        let events = holder.agent.events();
        let workers =
            events.iter().filter(|event| event["event"] == "released" && event["end"] == "continued");
        workers.map(|event| event["pid"].as_u64().unwrap()).collect::<BTreeSet<u64>>()
    };
    let (first_held, second_held) = (releases(&first), releases(&second));
    assert!(first_held.is_disjoint(&second_held), "{first_held:?} {second_held:?}");
    assert!(first_held.len() + second_held.len() >= STARTS);
    for holder in [&mut first, &mut second] {
        assert_eq!(holder.agent.warnings("guard"), Vec::<String>::new());
    }
    first.agent.stop();
    second.agent.stop();
}
