//! Processes in containers' walls: cpusets and pid namespaces.

use std::{thread::sleep, time::Duration};

use numa_agent_tests::{agent, cpuset::Cpuset};

use super::*;

/// A cpuset of `cpus`, or `None` with a word why not.
fn cpuset(test: &str, cpus: &CpuSet) -> Option<Cpuset> {
    Cpuset::new(test, cpus).map_err(|why| skip(test, &why)).ok()
}

/// An agent that takes the machine for one of one node: everybody's plan is all CPUs.
fn one_node(stage: &Stage, more: &[&str]) -> Agent {
    write_sysfs(&one_socket(&[&stage.all]), &stage.dir.path().join("sys")).unwrap();
    let mut config = stage.config();
    config["policy"] = json!("generic");
    stage.write_config(&config);
    stage.agent_with(more)
}

/// Through three reconciles at least, of an agent that has one every second.
const RECONCILES: Duration = Duration::from_millis(3500);

#[test]
fn a_cpuset_that_changes_is_followed_and_said_once_each_time() {
    let Some(stage) = stage("cpuset-changes") else { return };
    let Some(cpuset) = cpuset("cpuset-changes", &stage.all) else { return };
    let mut agent = one_node(&stage, &["--reconcile", "1"]);
    let mut puppet = stage.puppet("worker");
    let (pid, thread) = (puppet.pid(), puppet.thread("forward_0").unwrap());
    cpuset.take(pid);
    let everybody_on = |cpus: &CpuSet| [pid, thread].iter().for_each(|tid| stage.settle_on(*tid, cpus));
    everybody_on(&stage.all);
    let mut said = 0;
    for part in [&stage.members, &stage.forward, &stage.members] {
        cpuset.allow(part);
        said += 1;
        eventually(|| match agent.warnings(&cpuset.name).len() {
            count if count >= said => Ok(()),
            count => Err(format!("{count} warnings, not {said}: {}", agent.stderr())),
        });
        everybody_on(part);
        sleep(RECONCILES);
        let warnings = agent.warnings(&cpuset.name);
        assert_eq!(warnings.len(), said, "once each time: {warnings:#?}");
        assert!(warnings[said - 1].contains(&format!("only {part}")), "{warnings:#?}");
    }
    cpuset.allow(&stage.all);
    everybody_on(&stage.all);
    agent.wait_for("word that all is well", |event| {
        event["event"] == "bound" && event["tid"] == thread && event["actual_cpus"] == json!(stage.all)
    });
    sleep(RECONCILES);
    let left = agent.stop();
    let summary = left.events.last().unwrap();
    assert!(!summary["warnings"].to_string().contains(&cpuset.name), "it is over: {summary}");
    // Two threads, and a few attempts for each change: it does not spin.
    let attempts =
        left.events.iter().filter(|event| event["event"] == "bound" && event["pid"] == pid).count();
    assert!(attempts <= 2 * 3 * 5, "{attempts} attempts");
}

#[test]
fn a_cpuset_that_excludes_the_plan_is_a_failure_said_once_and_over_when_it_widens() {
    let Some(stage) = stage("cpuset-excludes") else { return };
    let Some(cpuset) = cpuset("cpuset-excludes", &stage.all) else { return };
    let agent = stage.agent_with(&["--reconcile", "1"]);
    let puppet = stage.puppet("worker");
    let pid = puppet.pid();
    cpuset.take(pid);
    stage.settle_on(pid, &stage.members);
    let failures = |agent: &Agent| {
        let failed =
            |event: &Value| event["result"].as_str().is_some_and(|result| result.starts_with("failed"));
        agent.events().iter().filter(|event| event["pid"] == pid && failed(event)).count()
    };
    for round in 1..=2 {
        cpuset.allow(&stage.forward);
        eventually(|| match agent.warnings(&cpuset.name).len() {
            count if count >= round => Ok(()),
            count => Err(format!("{count} warnings, not {round}: {}", agent.stderr())),
        });
        stage.settle_on(pid, &stage.forward);
        sleep(RECONCILES);
        let warnings = agent.warnings(&cpuset.name);
        assert_eq!((warnings.len(), failures(&agent)), (round, round), "once each time: {warnings:#?}");
        let last = &warnings[round - 1];
        assert!(last.contains(&format!("none of the planned {}", stage.members)), "{last}");
        cpuset.allow(&stage.all);
        stage.settle_on(pid, &stage.members);
        // The agent has seen that it is over, or the next time is no news to it.
        sleep(RECONCILES);
    }
    let left = agent.stop();
    let summary = left.events.last().unwrap();
    assert!(!summary["warnings"].to_string().contains(&cpuset.name), "it is over: {summary}");
}

#[test]
fn a_cpuset_that_allows_part_of_the_plan_is_named() {
    let Some(stage) = stage("cpuset-part") else { return };
    let Some(cpuset) = cpuset("cpuset-part", &stage.forward) else { return };
    let mut agent = one_node(&stage, &[]);

    let puppet = stage.puppet("idle");
    cpuset.take(puppet.pid());
    let mut puppet = puppet;
    puppet.exec("worker").unwrap();
    let pid = puppet.pid();
    let event = agent.wait_for("answer to exec", |event| event["event"] == "bound" && event["pid"] == pid);
    assert_eq!(
        (&event["cpus"], &event["actual_cpus"]),
        (&json!(stage.all), &json!(stage.forward)),
        "{event}"
    );
    let result = event["result"].as_str().unwrap();
    assert!(["bound", "unchanged"].contains(&result), "it is as good as can be: {event}");
    let warning = agent.wait_for("warning", |event| event["event"] == "warning");
    let text = warning["warning"].as_str().unwrap();
    assert!(text.contains(&cpuset.name) && text.contains("cpuset"), "{text}");
    // It has a way of its own.
    eventually(|| match agent.stderr() {
        said if said.contains(&cpuset.name) => Ok(()),
        said => Err(format!("not for people: {said}")),
    });
    stage.settle_on(pid, &stage.forward);
    agent.stop();
}

#[test]
fn a_cpuset_beside_the_plan_is_a_failure() {
    let Some(stage) = stage("cpuset-beside") else { return };
    let Some(cpuset) = cpuset("cpuset-beside", &stage.forward) else { return };
    let puppet = stage.puppet("worker");
    cpuset.take(puppet.pid());
    stage.settle_on(puppet.pid(), &stage.forward);

    let args = ["bind", "--apply", "--format", "json"].map(str::to_owned);
    let output = agent::run(args.into_iter().chain(stage.args()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let process = &report["processes"][0];
    assert_eq!(process["pid"], puppet.pid(), "{report}");
    let result = process["threads"][0]["result"].as_str().unwrap();
    assert!(result.starts_with("failed: ") && result.contains("cpuset"), "{result}");
    assert!(result.contains(&stage.members.to_string()), "what was asked for: {result}");

    let mut agent = stage.agent();
    let event = agent.wait_for("failure", |event| event["event"] == "bound" && event["pid"] == puppet.pid());
    let result = event["result"].as_str().unwrap();
    assert!(result.starts_with("failed: ") && result.contains("cpuset"), "{event}");
    stage.settle_on(puppet.pid(), &stage.forward);
    agent.stop();
}

#[test]
fn a_thread_re_pinned_inside_a_pid_namespace_is_put_back() {
    let Some(stage) = stage("pid-namespace") else { return };
    let mut agent = stage.agent();
    let mut puppet = Puppet::start_in_pid_namespace(&stage.family, "worker").unwrap();
    assert_eq!(puppet.pid(), 1, "its number in there");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(1, &stage.members);
    stage.settle_on(thread, &stage.forward);
    // By the number in there, which out here is somebody else's or nobody's.
    puppet.order(&Order::PinOther { from: 1, tid: thread, cpus: stage.members.clone() }).unwrap();
    let event = agent.wait_for("answer to the pin", |event| {
        event["event"] == "bound" && event["cause"] == "setaffinity" && event["comm"] == "forward_0"
    });
    assert_eq!(event["caller"]["pid"], event["pid"], "by its own process: {event}");
    assert_ne!(event["tid"], thread, "the number out here: {event}");
    stage.settle_on(thread, &stage.forward);
    puppet.stop().unwrap();
    agent.stop();
}

#[test]
fn bind_looks_at_the_cgroups_whose_memory_nodes_it_is_to_set() {
    let Some(stage) = stage("fences") else { return };
    let Some(cpuset) = cpuset("fences", &stage.all) else { return };
    let mut config = stage.config();
    config["memory"] = json!({ "apply": "cpuset" });
    stage.write_config(&config);
    let bind = |more: &[&str]| {
        let mut args = vec!["bind".to_owned(), "--format".into(), "json".into()];
        args.extend(stage.args().into_iter().chain(more.iter().map(|&arg| arg.to_owned())));
        let output = agent::run(args);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report["cpusets"].as_array().expect("cgroups").clone(), output.status.code())
    };
    let worker = stage.puppet("worker");
    let (cgroups, code) = bind(&["--apply"]);
    // Everybody's cgroup, wherever this test runs.
    let result = cgroups[0]["result"].as_str().unwrap();
    assert!(result.starts_with("failed: ") && code == Some(1) && cgroups.len() == 1, "{cgroups:?}");

    // This machine has fewer nodes than the stage's: what the cgroup above has of the planned ones is in force already.
    cpuset.take(worker.pid());
    let (cgroups, code) = bind(&["--apply"]);
    assert_eq!((cgroups.len(), code), (1, Some(0)), "{cgroups:?}");
    let cgroup = &cgroups[0];
    assert!(cgroup["cgroup"].as_str().unwrap().ends_with(&cpuset.name), "{cgroup}");
    assert_eq!(
        (&cgroup["planned_mems"], &cgroup["result"]),
        (&json!("0-1"), &json!("unchanged")),
        "{cgroup}"
    );
    assert_eq!(cgroup["groups"], json!(["socket0_group0"]), "{cgroup}");

    let stranger = stage.puppet("idle");
    cpuset.take(stranger.pid());
    let (cgroups, code) = bind(&[]);
    assert_eq!(code, Some(0), "a dry run says so, and no more");
    assert!(cgroups[0]["result"].as_str().unwrap().starts_with("failed: 1 other process"), "{cgroups:?}");
    worker.stop().unwrap();
    stranger.stop().unwrap();
}
