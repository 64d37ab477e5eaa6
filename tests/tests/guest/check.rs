//! The acceptance checklist on a machine of the guide's shape: all of it, and each precondition broken on purpose. Fixes are what a
//! person would paste, and have to help.

use std::{fs, process::Command};

use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{
    agent::{self, Agent},
    cpuset::Cpuset,
    eventually, guest,
    stack::puppet::{Order, Puppet},
    sys,
};
use serde_json::{Value, json};

use crate::stage::{Stage, node_bytes, read, stage};

/// Four sockets of two nodes.
const ON: [&str; 1] = ["a3-mini"];

/// The stage with a plan that fits without a warning, and an agent.
fn accepted(test: &str) -> Option<(Stage, Agent)> {
    let stage = stage(test, &ON)?;
    let mut config = stage.config();
    config["groups_per_socket"] = json!(1);
    stage.write_config(&config);
    let agent = stage.agent(&["--reconcile", "1"]);
    Some((stage, agent))
}

impl Stage {
    /// What `check` says, which has to agree with its exit code.
    fn check(&self, agent: &Agent, more: &[&str]) -> Value {
        let (report, socket) = (self.dir.path().join("check.md"), agent.socket());
        let mut command = agent::command(["check", "--format", "json", "--expect", "4x2"]);
        command.arg("--report").arg(report).arg("--socket").arg(socket);
        let output = command.args(self.args(more)).output().expect("numa-agent starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(output.status.code(), Some(if value["passed"] == true { 0 } else { 1 }), "{stderr}");
        value
    }
}

fn items(report: &Value) -> impl Iterator<Item = &Value> {
    let sections = report["sections"].as_array().expect("sections").iter();
    sections.flat_map(|section| section["items"].as_array().expect("items"))
}

fn item<'a>(report: &'a Value, id: &str) -> &'a Value {
    items(report).find(|item| item["id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

/// The items that fail.
fn failed(report: &Value) -> Vec<&str> {
    let failed = items(report).filter(|item| item["verdict"] == "fail");
    failed.map(|item| item["id"].as_str().expect("an id")).collect()
}

/// Expects that this item fails, besides those that are `known` to, and says this of it.
fn assert_fails(report: &Value, known: &[&str], id: &str, found: &str, fix: &str) {
    let failed: Vec<&str> = failed(report).into_iter().filter(|id| !known.contains(id)).collect();
    let all: Vec<&Value> = items(report).filter(|item| item["verdict"] == "fail").collect();
    assert_eq!(failed, [id], "{all:?}");
    let item = item(report, id);
    assert!(item["found"].to_string().contains(found), "no {found:?} in {item:#}");
    assert!(item["fixes"].to_string().contains(fix), "no {fix:?} in {item:#}");
}

#[test]
fn an_accepted_machine_has_full_evidence() {
    let Some((stage, agent)) = accepted("check") else { return };
    let mut stack = stage.stack();
    stack.start_instance().expect("an instance");
    stage.settle(|look| match look.role.as_str() {
        "motor" => Some(stage.others()),
        _ if numa_agent_tests::cast::is_forward(&look.comm) => Some(stage.forward_places(0)),
        _ => Some(stage.member_places(0)),
    });
    // Nobody gave a policy to what was started by somebody else.
    let before = stage.check(&agent, &["--section", "B", "--observe", "3s"]);
    assert_eq!(failed(&before), ["B5"], "{before:#}");
    let fix = item(&before, "B5")["fixes"][0].as_str().expect("a fix").to_owned();
    let words: Vec<&str> = fix.split('#').next().expect("a command").split_whitespace().collect();
    assert_eq!(words[..3], ["numa-agent", "repair", "--apply"], "{fix}");
    // A page that was busy is left where it is, and the next call has it: what counts is what `check` says then.
    let after = eventually(|| {
        let output = agent::run(&words[1..]);
        let after = stage.check(&agent, &["--section", "A,B", "--observe", "3s"]);
        match failed(&after).is_empty() {
            true => Ok(after),
            false => Err(format!("{}{after:#}", String::from_utf8_lossy(&output.stderr))),
        }
    });
    assert_eq!(after["passed"], true);
    for id in [
        "A1", "A2", "A3", "A5", "A6", "A7", "A9", "A12", "A13", "A14", "A19", "A20", "A21", "B1", "B2", "B3",
        "B4", "B5", "B6", "B7",
    ] {
        assert_eq!(item(&after, id)["verdict"], "pass", "{:#}", item(&after, id));
    }
    let report = fs::read_to_string(stage.dir.path().join("check.md")).expect("the report");
    for words in [
        "# NUMA acceptance check: PASS",
        "SHA-256",
        &format!("socket 3: node 6 (CPUs {})", stage.machine.nodes[&6]),
        "## Evidence: memory",
        "interleave:0-1",
        "## Signatures",
    ] {
        assert!(report.contains(words), "no {words} in {report}");
    }
    for pid in stack.pids(0) {
        assert!(report.contains(&format!("| {pid} | {pid} |")), "no {pid} in {report}");
    }
    stack.stop().expect("stop the stack");
    agent.stop();
}

#[test]
fn each_precondition_that_is_broken_is_told() {
    let Some((stage, agent)) = accepted("check-broken") else { return };
    let mut puppet = bound_by_itself(&stage);
    let pid = puppet.pid();
    puppet.thread("forward_0").expect("a thread");
    let check = || stage.check(&agent, &["--section", "A"]);
    let (good, own) = (check(), "A14");
    let process = format!("pid {pid} (");
    assert_fails(&good, &[], own, &process, "env -u OMP_PROC_BIND");
    assert!(item(&good, own)["found"].to_string().contains("OMP_PROC_BIND=close"), "{good:#}");
    let fails = |id, found: &str, fix| assert_fails(&check(), &[own], id, found, fix);

    fs::write(guest::NUMA_BALANCING, "1").expect("a kernel with it");
    fails("A9", "kernel.numa_balancing is 1", "sysctl -w kernel.numa_balancing=0");
    fs::write(guest::NUMA_BALANCING, "0").expect("a kernel with it");

    let cpu = stage.machine.all().last().expect("a CPU");
    guest::set_online(cpu, false).expect("a CPU that can go");
    let offline = check();
    assert_eq!(item(&offline, "A2")["verdict"], "fail", "{offline:#}");
    let fix = item(&offline, "A2")["fixes"][0].as_str().expect("a fix").to_owned();
    assert!(fix.contains(&format!("for cpu in {cpu};")), "{fix}");
    guest::set_online(cpu, true).expect("a CPU that can come");
    eventually(|| match check() {
        online if item(&online, "A2")["verdict"] == "pass" => Ok(()),
        online => Err(online.to_string()),
    });

    let narrow = Cpuset::new("check-cut", &stage.member_places(0)).expect("a cpuset");
    narrow.take(pid);
    fails("A7", &narrow.name, "/cpuset.cpus # ");
    let wide: CpuSet = stage.machine.all();
    narrow.allow(&wide);
    let home: NodeSet = stage.home(0).iter().copied().take(1).collect();
    narrow.allow_memory(&home);
    fails("A7", "leaves out 1 of the planned ones", "/cpuset.mems # ");
    narrow.allow_memory(&stage.machine.with_memory);
    assert_eq!(failed(&check()), [own]);

    let mut other = stage.puppet("idle", 1);
    let idle = other.pid();
    other.rename(idle, "irqbalance").expect("rename");
    let second = stage.machine.sockets.values().map(|nodes| &stage.machine.nodes[&nodes[1]]);
    let forward: CpuSet = second.flat_map(CpuSet::iter).collect();
    let banned = format!("IRQBALANCE_BANNED_CPULIST={forward} in");
    fails("A12", &format!("irqbalance runs (pid {idle})"), &banned);
    other.rename(idle, "numad").expect("rename");
    fails("A13", &format!("numad runs (pid {idle})"), "systemctl disable --now numad");
    other.rename(idle, "idle").expect("rename");

    // With huge pages the kernel keeps as much free as would be too little on a machine this small.
    let (keeps, kept) = ("/proc/sys/vm/min_free_kbytes", read("/proc/sys/vm/min_free_kbytes"));
    fs::write(keeps, "1024").expect("less is kept free");
    let node = stage.home(1)[1];
    // The kernel may give up cached pages over it, and have more free than before.
    let full = eventually(|| {
        fill(&mut other, node);
        let full = check();
        if failed(&full).contains(&"A8") { Ok(full) } else { Err(item(&full, "A8").to_string()) }
    });
    assert_fails(&full, &[own], "A8", &format!("node {node} has"), "");
    other.stop().expect("stop a puppet");
    fs::write(keeps, kept).expect("as it was");
    eventually(|| match check() {
        roomy if failed(&roomy) == [own] => Ok(()),
        still => Err(still.to_string()),
    });
    puppet.stop().expect("stop a puppet");
    agent.stop();
}

/// A worker whose libraries were told to bind its threads.
fn bound_by_itself(stage: &Stage) -> Puppet {
    let mut starter: Command = agent::command(["exec", "--local", "--"]);
    starter.env("OMP_PROC_BIND", "close");
    Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker")
}

/// Takes what the node has, but for a little.
fn fill(puppet: &mut Puppet, node: u32) {
    let (free, total) = (node_bytes(node, "MemFree:"), node_bytes(node, "MemTotal:"));
    let pages = free.saturating_sub(total / 50) / sys::page_bytes() as u64;
    let pages = u32::try_from(pages).expect("a small machine");
    if pages > 0 {
        let nodes = [node].into_iter().collect();
        puppet.order(&Order::Interleave { nodes, pages }).expect("pages of that node");
    }
}
