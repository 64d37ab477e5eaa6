//! A machine that changes under the agent: the tree that stands for `/sys` loses CPUs and gets them back.
//!
//! The CPUs themselves stay online here; what the kernel does to tasks when they go is for the guests' tests.

use nix::sys::signal::Signal;

use super::*;

impl Stage {
    /// The tree has the nodes with these CPUs now; others are offline.
    fn machine_is(&self, nodes: &[&CpuSet]) {
        let topology = one_socket(nodes);
        let offline = self.all.difference(&topology.online());
        write_sysfs(&Topology { offline, ..topology }, &self.dir.path().join("sys")).unwrap();
    }

    fn plan_by(&self, policy: &str) {
        let mut config = self.config();
        config["policy"] = json!(policy);
        self.write_config(&config);
    }
}

fn count(agent: &Agent, name: &str) -> usize {
    agent.events().iter().filter(|event| event["event"] == name).count()
}

#[test]
fn cpus_that_go_offline_and_return_are_planned_for() {
    let Some(stage) = stage("hotplug") else { return };
    stage.plan_by("auto");
    // No reconcile: it is the change that is answered.
    let mut agent = stage.agent_with(&["--reconcile", "0"]);
    let mut puppet = stage.puppet("worker");
    let (pid, thread) = (puppet.pid(), puppet.thread("forward_0").unwrap());
    stage.settle();
    // It is not read before it is asked for.
    let mut config = stage.config();
    config["group_patterns"] = json!(["nobody at all"]);
    stage.write_config(&config);

    stage.machine_is(&[&stage.members, &CpuSet::new()]);
    let replanned = agent.wait_for("new plan", |event| event["event"] == "replanned");
    let changes = replanned["changes"].as_str().unwrap();
    assert!(changes.ends_with(&format!("{} went offline", stage.forward)), "{changes}");
    stage.settle_on(thread, &stage.members);
    stage.settle_on(pid, &stage.members);
    let late = puppet.thread("forward_1").unwrap();
    stage.settle_on(late, &stage.members);

    stage.machine_is(&[&stage.members, &stage.forward]);
    let back = |event: &Value| event["changes"].as_str().is_some_and(|text| text.contains("came online"));
    agent.wait_for("the old plan", back);
    for tid in [thread, late] {
        stage.settle_on(tid, &stage.forward);
    }
    stage.settle();
    let left = agent.stop();
    assert_eq!(left.stderr.matches("went offline").count(), 1, "one message: {}", left.stderr);
    assert_eq!(left.stderr.matches("planned anew").count(), 2, "one each: {}", left.stderr);
}

#[test]
fn a_machine_too_small_for_the_plan_leaves_it_in_force() {
    let Some(stage) = stage("too-small") else { return };
    let mut agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    stage.settle();

    // The paired policy wants two nodes.
    stage.machine_is(&[&stage.members, &CpuSet::new()]);
    let warning = agent.wait_for("warning", |event| event["event"] == "warning");
    let text = warning["warning"].as_str().unwrap();
    assert!(text.contains("went offline") && text.contains("old plan stays in force"), "{text}");
    assert!(text.contains("--policy generic"), "and what to do: {text}");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    assert_eq!(count(&agent, "warning"), 1, "once: {}", agent.stderr());

    // A configuration that is wrong does not make it forget; one that fits does.
    stage.plan_by("all of them");
    agent.signal(Signal::SIGHUP);
    stage.barrier();
    stage.plan_by("auto");
    agent.signal(Signal::SIGHUP);
    agent.wait_for("word of the reload", |event| event["event"] == "reloaded");
    stage.settle_on(thread, &stage.members);

    stage.machine_is(&[&stage.members, &stage.forward]);
    agent.wait_for("the old plan", |event| event["event"] == "replanned");
    stage.settle_on(thread, &stage.forward);
    stage.settle();
    agent.stop();
}

#[test]
fn a_machine_that_cannot_be_read_is_tried_until_it_can() {
    let Some(stage) = stage("unreadable") else { return };
    stage.plan_by("auto");
    let mut agent = stage.agent_with(&["--reconcile", "0"]);
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle();

    let cpu = stage.members.first().unwrap();
    let package =
        stage.dir.path().join(format!("sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"));
    let id = std::fs::read_to_string(&package).unwrap();
    // What no plan is made of, in the middle of a change.
    std::fs::write(&package, "none\n").unwrap();
    let offline = stage.dir.path().join("sys/devices/system/cpu/online");
    std::fs::write(&offline, format!("{}\n", stage.members)).unwrap();
    let warning = agent.wait_for("warning", |event| event["event"] == "warning");
    let text = warning["warning"].as_str().unwrap();
    assert!(text.contains("cannot be read") && text.contains("physical_package_id"), "{text}");
    stage.settle_on(thread, &stage.forward);

    // Nothing else changes any more.
    std::fs::write(&package, id).unwrap();
    agent.wait_for("new plan", |event| event["event"] == "replanned");
    stage.settle_on(thread, &stage.members);
    assert_eq!(count(&agent, "warning"), 1, "once: {}", agent.stderr());
    agent.stop();
}
