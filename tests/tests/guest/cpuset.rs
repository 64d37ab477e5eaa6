//! Cgroup v2 cpusets that do not go with the plan, and change: kernels before 6.2 wipe the masks of their tasks then, later ones
//! restore them as far as they can.

use numa_agent::core::idset::CpuSet;
use numa_agent_tests::{agent::Agent, cpuset::Cpuset, eventually};
use serde_json::json;

use crate::stage::{Stage, stage};

/// The stage with an agent on the machine's own nodes, one group on each socket; a cpuset that allows everything.
fn confined(test: &str) -> Option<(Stage, Agent, Cpuset)> {
    let stage = stage(test, &["a3-mini", "2s1n"])?;
    let mut config = stage.config();
    config["groups_per_socket"] = json!(1);
    stage.write_config(&config);
    let agent = stage.agent(&["--reconcile", "1"]);
    let cpuset = Cpuset::new(test, &stage.machine.all()).expect("a cpuset");
    Some((stage, agent, cpuset))
}

/// Waits until that many have been said, and through some reconciles that say no more; the last.
fn warned(agent: &Agent, cpuset: &Cpuset, count: usize) -> String {
    eventually(|| match agent.warnings(&cpuset.name).len() {
        so_far if so_far >= count => Ok(()),
        so_far => Err(format!("{so_far} warnings, not {count}: {}", agent.stderr())),
    });
    agent.wait_for_scans();
    let mut warnings = agent.warnings(&cpuset.name);
    assert_eq!(warnings.len(), count, "each change once: {warnings:#?}");
    warnings.pop().expect("a warning")
}

fn assert_over(agent: Agent, cpuset: &Cpuset) {
    let summary = agent.stop().events.pop().expect("a summary");
    assert!(!summary["warnings"].to_string().contains(&cpuset.name), "it is over: {summary}");
}

fn one(cpu: Option<u32>) -> CpuSet {
    cpu.into_iter().collect()
}

#[test]
fn a_cpuset_that_cuts_the_plan_is_followed_as_it_changes() {
    let Some((stage, agent, cpuset)) = confined("cpuset-cuts") else { return };
    let plan = stage.member_places(0);
    let elsewhere = stage.machine.all().difference(&plan).difference(&stage.forward_places(0));
    let mut puppet = stage.puppet("worker", 0);
    let (pid, thread) = (puppet.pid(), puppet.thread("helper").expect("a thread"));
    let everybody_on = |cpus: &CpuSet| [pid, thread].iter().for_each(|tid| stage.settle_on(*tid, cpus));
    cpuset.take(pid);
    everybody_on(&plan);
    for (count, part) in [(1, one(plan.first())), (2, one(plan.last())), (3, one(plan.first()))] {
        // With CPUs that are not planned: a wiped mask has them.
        cpuset.allow(&part.union(&elsewhere));
        let warning = warned(&agent, &cpuset, count);
        assert!(warning.contains(&format!("only {part} of the planned {plan}")), "{warning}");
        everybody_on(&part);
        let late = puppet.thread("late").expect("a thread");
        stage.settle_on(late, &part);
    }
    cpuset.allow(&stage.machine.all());
    everybody_on(&plan);
    agent.wait_for_scans();
    assert_over(agent, &cpuset);
}

#[test]
fn a_cpuset_without_the_plan_is_a_failure_until_it_widens() {
    let Some((stage, agent, cpuset)) = confined("cpuset-without") else { return };
    let plan = stage.member_places(0);
    let elsewhere = stage.member_places(1);
    let puppet = stage.puppet("worker", 0);
    let pid = puppet.pid();
    cpuset.take(pid);
    stage.settle_on(pid, &plan);
    for round in 1..=2 {
        cpuset.allow(&elsewhere);
        let warning = warned(&agent, &cpuset, round);
        assert!(warning.contains(&format!("none of the planned {plan}")), "{warning}");
        stage.settle_on(pid, &elsewhere);
        let failed = agent.events().into_iter().filter(|event| {
            event["pid"] == pid && event["result"].as_str().is_some_and(|result| result.starts_with("failed"))
        });
        let failed: Vec<_> = failed.collect();
        assert_eq!(failed.len(), round, "each change once: {failed:#?}");
        assert!(failed[0]["result"].as_str().is_some_and(|result| result.contains("cpuset")), "{failed:#?}");
        cpuset.allow(&stage.machine.all());
        stage.settle_on(pid, &plan);
        agent.wait_for_scans();
    }
    assert_over(agent, &cpuset);
}

#[test]
fn a_move_into_another_cpuset_is_noticed_and_so_is_the_exec_in_one() {
    let Some((stage, mut agent, wide)) = confined("cpuset-wide") else { return };
    let plan = stage.member_places(0);
    let part = one(plan.last());
    let narrow = Cpuset::new("cpuset-narrow", &part.union(&stage.member_places(1))).expect("a cpuset");
    let mut puppet = stage.puppet("idle", 0);
    let pid = puppet.pid();
    narrow.take(pid);
    puppet.exec("worker").expect("exec");
    let answer = agent.wait_for("answer to exec", |event| event["event"] == "bound" && event["pid"] == pid);
    assert_eq!((&answer["cause"], &answer["actual_cpus"]), (&json!("exec"), &json!(part)), "{answer}");
    stage.settle_on(pid, &part);
    let warning = warned(&agent, &narrow, 1);
    assert!(warning.contains(&format!("only {part} of the planned {plan}")), "{warning}");

    wide.take(pid);
    stage.settle_on(pid, &plan);
    narrow.take(pid);
    stage.settle_on(pid, &part);
    wide.take(pid);
    stage.settle_on(pid, &plan);
    agent.wait_for_scans();
    assert!(agent.warnings(&wide.name).is_empty(), "{}", agent.stderr());
    assert_over(agent, &narrow);
}

#[test]
fn the_agents_own_cpuset_limits_the_plan() {
    let Some((stage, mut agent, cpuset)) = confined("cpuset-own") else { return };
    let plan = stage.forward_places(1);
    let mut puppet = stage.puppet("worker", 0);
    stage.settle_on(puppet.pid(), &stage.member_places(0));
    let mut puppet_1 = stage.puppet("worker", 1);
    let thread = puppet_1.thread("forward_0").expect("a thread");
    stage.settle_on(thread, &plan);
    cpuset.take(agent.pid());
    let last = one(plan.last());
    let rest = plan.difference(&last);
    cpuset.allow(&stage.machine.all().difference(&last));
    let replanned = |agent: &mut Agent, what: &str| {
        agent.wait_for(what, |event| {
            event["event"] == "replanned" && event["changes"] == json!(format!("CPU {last} {what}"))
        });
    };
    replanned(&mut agent, "not allowed by our cgroup any more");
    stage.settle_on(thread, &rest);
    let late = puppet_1.thread("forward_1").expect("a thread");
    stage.settle_on(late, &rest);
    cpuset.allow(&stage.machine.all());
    replanned(&mut agent, "allowed by our cgroup now");
    [thread, late].iter().for_each(|tid| stage.settle_on(*tid, &plan));
    let bystander = puppet.thread("helper").expect("a thread");
    stage.settle_on(bystander, &stage.member_places(0));
    agent.stop();
}
