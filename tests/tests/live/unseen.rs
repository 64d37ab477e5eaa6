//! What no event told: the scans find it.

use nix::sys::signal::Signal;

use super::*;

#[test]
fn the_reconcile_finds_who_became_a_match_unseen() {
    let Some(stage) = stage("retitle") else { return };
    let mut agent = stage.agent_with(&["--reconcile", "1"]);
    let mut puppet = stage.puppet("idle");
    let (pid, born) = (puppet.pid(), now_ns());
    let thread = puppet.thread("forward_0").unwrap();
    // Through two scans at least: as it is, it is nobody's business.
    stage.barrier();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    stage.assert_untouched(pid, &stage.all, born);

    puppet.order(&Order::Retitle { role: "worker".into() }).unwrap();
    stage.settle_on(pid, &stage.members);
    stage.settle_on(thread, &stage.forward);
    let event =
        agent.wait_for("word of the bind", |event| event["event"] == "bound" && event["tid"] == thread);
    assert_eq!((&event["cause"], &event["result"]), (&json!("reconcile"), &json!("bound")), "{event}");
    agent.stop();
}

#[test]
fn a_ring_that_overflows_is_made_up_for() {
    let Some(stage) = stage("ring-loss") else { return };
    // No scan but those that losses ask for; and a ring of one page, of 64 KiB at most.
    let mut agent = stage.agent_with(&["--reconcile", "0", "--ring-bytes", "4096"]);
    let mut stack = stage.stack(0);
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("helper").unwrap();
    stage.settle();

    // While nobody drains it, far more happens than it holds.
    agent.signal(Signal::SIGSTOP);
    puppet.order(&Order::Storm { count: 300, role: "worker".into() }).unwrap();
    stack.start_instance().unwrap();
    let late = stage.puppet("worker");
    puppet.rename(thread, "forward_0").unwrap();
    agent.signal(Signal::SIGCONT);

    let lost = agent.wait_for("word of the loss", |event| event["event"] == "lost");
    assert!(lost["lost"]["total"].as_u64() > Some(0), "{lost}");
    stage.settle();
    stage.settle_on(late.pid(), &stage.members);
    stage.settle_on(thread, &stage.forward);
    let summary = agent.stop().events.pop().unwrap();
    assert!(summary["lost"]["total"].as_u64() >= lost["lost"]["total"].as_u64(), "{summary}");
    // Nobody knows any more whose some of the storm's processes were; what they took is counted.
    let unattributed = &summary["unattributed"];
    assert!(unattributed["threads"].as_u64() > Some(0), "{summary}");
    assert!(unattributed["run_ns"].as_u64() > Some(0), "{summary}");
    stack.stop().unwrap();
}
