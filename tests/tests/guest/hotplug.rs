//! CPUs that go offline and come back while the agent runs. What the kernel does to masks then is the kernel's; what the agent
//! makes of it is what the workload sees of itself.

use std::{thread::sleep, time::Duration};

use numa_agent::core::idset::CpuSet;
use numa_agent_tests::{agent::Agent, eventually, guest, sys};
use serde_json::json;

use crate::stage::{Stage, stage};

/// Takes CPUs offline, or brings them back. What a test leaves offline, the guest brings back after it.
fn set_online(cpus: &CpuSet, online: bool) {
    cpus.iter().try_for_each(|cpu| guest::set_online(cpu, online)).expect("a CPU that can go");
}

/// Configures a CPU for each group: none can go without the plan.
fn a_cpu_for_each_group(stage: &Stage, node: &CpuSet) {
    let mut config = stage.config();
    (config["groups_per_socket"], config["align"]) = (json!(node.len()), json!("none"));
    stage.write_config(&config);
}

/// Waits for the plan that answers a change, in words that begin like that.
fn replanned(agent: &mut Agent, changes: &str) {
    agent.wait_for(&format!("new plan after `{changes}`"), |event| {
        event["event"] == "replanned" && event["changes"].as_str().is_some_and(|text| text.contains(changes))
    });
}

/// `CPU 3 went offline`.
fn words(cpus: &CpuSet, what: &str) -> String {
    format!("CPU{} {cpus} {what}", if cpus.len() == 1 { "" } else { "s" })
}

#[test]
fn a_plan_follows_cpus_that_go_offline_and_return() {
    let Some(stage) = stage("hotplug", &["a3-mini", "snc"]) else { return };
    let mut config = stage.config();
    config["groups_per_socket"] = json!(1);
    stage.write_config(&config);
    let (members, forward) = (stage.member_places(0), stage.forward_places(0));
    // Nothing but the change itself makes it look.
    let mut agent = stage.agent(&["--reconcile", "0"]);
    let mut puppet = stage.puppet("worker", 0);
    let (pid, first) = (puppet.pid(), puppet.thread("forward_0").expect("a thread"));
    stage.settle_on(first, &forward);
    stage.settle_on(pid, &members);

    // One of the node's CPUs.
    let last: CpuSet = forward.last().into_iter().collect();
    set_online(&last, false);
    replanned(&mut agent, &words(&last, "went offline"));
    let rest = forward.difference(&last);
    let second = puppet.thread("forward_1").expect("a thread");
    [first, second].iter().for_each(|tid| stage.settle_on(*tid, &rest));

    // All of them: the kernel lets the threads loose, the plan has another place for them.
    set_online(&rest, false);
    [pid, first, second].iter().for_each(|tid| stage.settle_on(*tid, &members));
    let third = puppet.thread("forward_2").expect("a thread");
    stage.settle_on(third, &members);

    set_online(&forward, true);
    [first, second, third].iter().for_each(|tid| stage.settle_on(*tid, &forward));
    stage.settle_on(pid, &members);
    let left = agent.stop();
    // Several CPUs may take so long that they are several changes.
    let answers = left.events.iter().filter(|event| event["event"] == "replanned").count();
    assert!((3..=1 + 2 * forward.len()).contains(&answers), "{answers} new plans: {}", left.stderr);
    assert_eq!(left.stderr.matches("planned anew").count(), answers, "one message each: {}", left.stderr);
    // Between a change and its answer a scan may have tried in vain: that is over.
    let summary = left.events.last().expect("a summary");
    assert!(!summary["warnings"].to_string().contains("of the planned"), "{summary}");
}

#[test]
fn a_plan_that_does_not_fit_any_more_stays_until_it_does() {
    let Some(stage) = stage("too-few", &["a3-mini", "2s1n"]) else { return };
    let node = stage.member_places(1);
    a_cpu_for_each_group(&stage, &node);
    let mut agent = stage.agent(&["--reconcile", "1"]);
    let bystander = stage.puppet("worker", 0);
    stage.settle_on_any(bystander.pid(), &stage.member_places(0));
    let its_place =
        stage.records().iter().rfind(|look| look.pid == bystander.pid()).expect("a look").cpus.clone();
    let puppet = stage.puppet("worker", 1);
    let own: CpuSet = node.first().into_iter().collect();
    stage.settle_on(puppet.pid(), &own);

    set_online(&own, false);
    let warning = agent.wait_for("warning", |event| {
        event["event"] == "warning" && event["warning"].to_string().contains("old plan stays in force")
    });
    let text = warning["warning"].as_str().expect("a text");
    assert!(text.contains(&words(&own, "went offline")), "{text}");
    // Through some reconciles, each of which tries to put it back.
    agent.wait_for("word of the failure", |event| {
        event["event"] == "bound"
            && event["pid"] == puppet.pid()
            && event["result"].as_str().is_some_and(|result| result.starts_with("failed"))
    });
    agent.wait_for_scans();
    for (what, count) in [("stays in force", 1), (&*format!("none of the planned {own}"), 1)] {
        assert_eq!(agent.warnings(what).len(), count, "{what}: {}", agent.stderr());
    }
    stage.settle_on(bystander.pid(), &its_place);

    set_online(&own, true);
    replanned(&mut agent, &words(&own, "came online"));
    stage.settle_on(puppet.pid(), &own);
    stage.settle_on(bystander.pid(), &its_place);
    let summary = agent.stop().events.pop().expect("a summary");
    assert!(!summary["warnings"].to_string().contains("none of the planned"), "it is over: {summary}");
}

#[test]
fn a_cpu_that_is_gone_for_a_moment_leaves_nobody_loose() {
    let Some(stage) = stage("flicker", &["a3-mini", "2s1n"]) else { return };
    let node = stage.member_places(1);
    a_cpu_for_each_group(&stage, &node);
    // No reconcile: it is the change that is answered.
    let agent = stage.agent(&["--reconcile", "0"]);
    let first = stage.puppet("worker", 0);
    stage.settle_on_any(first.pid(), &stage.member_places(0));
    let puppet = stage.puppet("worker", 1);
    let own: CpuSet = node.first().into_iter().collect();
    stage.settle_on(puppet.pid(), &own);
    let is_put_back = || {
        set_online(&own, false);
        // The kernel has given it another mask, and will not take it back.
        eventually(|| {
            let mask = sys::affinity(puppet.pid()).expect("its mask");
            if mask.intersection(&own).is_empty() { Ok(()) } else { Err(format!("still there: {mask}")) }
        });
        // Long enough for a look at the machine, and hardly for two, after which it would count as settled.
        sleep(Duration::from_millis(1200));
        set_online(&own, true);
        (0..100).any(|_| {
            sleep(Duration::from_millis(100));
            sys::affinity(puppet.pid()).is_ok_and(|mask| mask == own)
        })
    };
    // On a slow machine no look may fall into it, and then there is nothing to answer: docs/architecture.md, what is not seen.
    assert!((0..5).any(|_| is_put_back()), "five times: {}", agent.stderr());
    stage.settle_on(puppet.pid(), &own);
    agent.stop();
}
