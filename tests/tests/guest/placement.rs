//! Who ends up where while the agent runs, on the nodes that this machine really has.

use nix::sys::signal::Signal;
use numa_agent::core::idset::CpuSet;
use numa_agent_tests::{cast::is_forward, eventually, stack::puppet::Order, sys, witness::Point};
use serde_json::Value;

use crate::stage::{FORWARD, Stage, stage};

/// Processes of the storm.
const STORM: u32 = 200;

#[test]
fn instances_take_sockets_in_turn_before_and_after_the_agent() {
    let Some(stage) = stage("turns", &[]) else { return };
    let mut stack = stage.stack();
    stack.start_instance().expect("an instance before the agent");
    stage.settle(|_| Some(stage.machine.all()));

    let agent = stage.agent(&[]);
    for _ in 1..stage.machine.sockets.len() {
        stack.start_instance().expect("an instance after the agent");
    }
    assert_eq!(stage.settle_by_rule(), stage.machine.sockets.len() * FORWARD as usize);
    let used: std::collections::BTreeSet<u32> =
        stage.records().iter().filter(|look| look.role == "worker").map(|look| look.instance).collect();
    assert_eq!(used.len(), stage.machine.sockets.len());
    let left = agent.stop();
    let summary = left.events.last().expect("a summary");
    assert_eq!(summary["lost"]["total"].as_u64(), Some(0), "{summary}");
    assert_eq!(summary["results"]["failed"], Value::Null, "{summary}");
    stack.stop().expect("stop the stack");
}

#[test]
fn created_execd_and_forked() {
    let Some(stage) = stage("births", &[]) else { return };
    let agent = stage.agent(&[]);
    let mut puppet = stage.puppet("idle", 0);
    let pid = puppet.pid();
    puppet.exec("worker").expect("exec");
    stage.settle_on_any(pid, &stage.member_places(0));
    let thread = puppet.thread("helper").expect("a thread");
    stage.settle_on_any(thread, &stage.member_places(0));
    let forward = puppet.thread("forward_0").expect("a thread");
    stage.settle_on_any(forward, &stage.forward_places(0));
    let child = puppet.order(&Order::Fork).expect("fork");
    stage.settle_on_any(child, &stage.member_places(0));
    // Whoever moves one, it is put back: on `one` within the node that both masks are of.
    let own = sys::affinity(forward).expect("its mask");
    let away: CpuSet = stage.machine.all().difference(&own).last().into_iter().collect();
    assert!(!away.is_empty(), "{own} is not all");
    puppet.pin(forward, &away).expect("pin");
    stage.settle_on(forward, &own);
    agent.stop();
}

#[test]
fn renamed_there_and_back_and_not_inherited() {
    // Where a forward thread's node is another than its process's.
    let Some(stage) = stage("renames", &["a3-mini", "a3-half", "a3", "snc"]) else { return };
    let (members, forward) = (stage.member_places(0), stage.forward_places(0));
    assert!(members.intersection(&forward).is_empty());
    let agent = stage.agent(&[]);
    let mut puppet = stage.puppet("worker", 0);
    let thread = puppet.thread("helper").expect("a thread");
    stage.settle_on_any(thread, &members);
    puppet.rename(thread, "decode_0").expect("rename");
    stage.settle_on_any(thread, &forward);
    // Born with a forward thread's mask, it does not keep it.
    let heir =
        puppet.order(&Order::Thread { from: thread, name: Some("tokenizer".into()) }).expect("a thread");
    stage.settle_on_any(heir, &members);
    puppet.rename(thread, "helper").expect("rename");
    stage.settle_on_any(thread, &members);
    agent.stop();
}

#[test]
fn a_storm_leaves_a_correct_state_and_loses_nothing_uncounted() {
    let Some(stage) = stage("storm", &[]) else { return };
    // No scan but the first and those that losses ask for.
    let agent = stage.agent(&["--reconcile", "0"]);
    let mut stack = stage.stack();
    let mut puppet = stage.puppet("idle", 99);
    puppet.order(&Order::Storm { count: STORM, role: "worker".into() }).expect("a storm");
    puppet.stop().expect("stop a puppet");
    stack.start_instance().expect("an instance");
    // The storm's processes were an instance too, so which socket the other one is on is not known here; that it is on one is.
    let nodes = eventually(|| {
        let nodes = stage.instance_nodes(0);
        let on = stage.machine.sockets.values().find(|of| nodes.iter().all(|node| of.contains(&node)));
        on.cloned().ok_or_else(|| format!("instance 0 is on nodes {nodes}"))
    });
    let (first, last) = (&stage.machine.nodes[&nodes[0]], &stage.machine.nodes[&nodes[nodes.len() - 1]]);
    let forward = stage.settle_within(|look| match look.role.as_str() {
        "motor" => Some(stage.others()),
        "worker" if look.instance == 0 && is_forward(&look.comm) => Some(last.clone()),
        "scheduler" | "worker" | "rpc_proxy" if look.instance == 0 => Some(first.clone()),
        _ => None,
    });
    assert_eq!(forward, FORWARD as usize);
    let blinked =
        stage.records().iter().filter(|look| look.point == Point::End && look.role == "worker").count();
    assert_eq!(blinked, STORM as usize, "the storm took place");
    let summary = agent.stop().events.pop().expect("a summary");
    let (lost, scans) = (summary["lost"]["total"].as_u64(), summary["scans"].as_u64());
    assert!(lost == Some(0) || scans > Some(1), "{summary}");
    assert_eq!(summary["results"]["failed"], Value::Null, "a task that ends early is no failure: {summary}");
    stack.stop().expect("stop the stack");
}

#[test]
fn a_loss_is_counted_and_made_up_for() {
    let Some(stage) = stage("loss", &["a3-mini", "2s1n"]) else { return };
    // No scan but those that losses ask for; and a ring of one page, of 64 KiB at most.
    let mut agent = stage.agent(&["--reconcile", "0", "--ring-bytes", "4096"]);
    let mut puppet = stage.puppet("worker", 0);
    let thread = puppet.thread("helper").expect("a thread");
    stage.settle_on_any(thread, &stage.member_places(0));
    agent.signal(Signal::SIGSTOP);
    puppet.order(&Order::Storm { count: 100, role: "worker".into() }).expect("a storm");
    puppet.rename(thread, "forward_0").expect("rename");
    let late = puppet.thread("decode_0").expect("a thread");
    agent.signal(Signal::SIGCONT);
    let lost = agent.wait_for("word of the loss", |event| event["event"] == "lost");
    assert!(lost["lost"]["total"].as_u64() > Some(0), "{lost}");
    for tid in [thread, late] {
        stage.settle_on_any(tid, &stage.forward_places(0));
    }
    agent.stop();
}

#[test]
fn a_killed_agent_leaves_masks_and_is_followed_by_one_that_catches_up() {
    let Some(stage) = stage("kill-9", &["a3-mini", "2s1n"]) else { return };
    let agent = stage.agent(&[]);
    let mut puppet = stage.puppet("worker", 0);
    let thread = puppet.thread("forward_0").expect("a thread");
    stage.settle_on_any(thread, &stage.forward_places(0));
    let _ = agent.end_by(Signal::SIGKILL);
    // Nothing of it is in the kernel any more: names and masks are the threads' own affair.
    puppet.rename(thread, "helper").expect("rename");
    let away = stage.machine.all();
    puppet.pin(puppet.pid(), &away).expect("pin");
    stage.settle_on(puppet.pid(), &away);
    stage.settle_on_any(thread, &stage.forward_places(0));

    let agent = stage.agent(&[]);
    stage.settle_on_any(puppet.pid(), &stage.member_places(0));
    stage.settle_on_any(thread, &stage.member_places(0));
    agent.stop();
}

impl Stage {
    /// Waits until every thread of the stack is where the policy puts its role, name and instance; how many forward threads are.
    fn settle_by_rule(&self) -> usize {
        self.settle_within(|look| match look.role.as_str() {
            "scheduler" | "worker" | "rpc_proxy" if is_forward(&look.comm) => {
                Some(self.forward_places(look.instance as usize))
            }
            "scheduler" | "worker" | "rpc_proxy" => Some(self.member_places(look.instance as usize)),
            "motor" => Some(self.others()),
            _ => None,
        })
    }
}
