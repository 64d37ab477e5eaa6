//! `repair`: pages of a process that keeps using them, on other nodes than the plan's. It finds out by itself that its data is right, and
//! `numa_maps` says where the pages are.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::NodeSet;
use numa_agent_tests::{
    agent, eventually,
    stack::{
        occupation::{Occupation, TOUCHED_PAGES},
        puppet::{Order, Puppet},
    },
    sys,
};
use serde_json::Value;

use crate::stage::{Stage, read, stage};

/// Machines whose sockets have two nodes.
const ON: [&str; 2] = ["a3-mini", "snc"];

/// `MPOL_INTERLEAVE`.
const INTERLEAVE: i32 = 3;

/// Bytes by node of what a policy governs, as the kernel lists it.
fn governed(pid: u32) -> BTreeMap<u32, u64> {
    let mut nodes = BTreeMap::new();
    for line in read(&format!("/proc/{pid}/numa_maps")).lines().filter(|line| !line.contains(" file=")) {
        for (node, pages) in line.split(' ').filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            let (node, pages): (u32, u64) = (node.parse().expect("a node"), pages.parse().expect("pages"));
            *nodes.entry(node).or_default() += pages * sys::page_bytes() as u64;
        }
    }
    nodes
}

/// A worker whose memory is all on a node that the plan has not for it, and a thread of it that is busy with some.
struct Strayed {
    puppet: Puppet,
    busy: u32,
    planned: NodeSet,
    off_plan: u32,
}

fn strayed(stage: &Stage) -> Strayed {
    let planned: NodeSet = stage.machine.sockets.values().next().expect("a socket").iter().copied().collect();
    let off_plan = stage.roomy().difference(&planned).last().expect("another node with room");
    let starter = agent::command(["exec", "--membind", &off_plan.to_string(), "--"]);
    let mut puppet = Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker");
    let busy = puppet.occupied(Occupation::Touch).expect("a busy thread");
    let mut strayed = Strayed { puppet, busy, planned, off_plan };
    strayed.go_on();
    strayed
}

impl Strayed {
    /// Waits until it has been through its memory twice more, and found it right.
    fn go_on(&mut self) {
        let rounds =
            |puppet: &mut Puppet, tid| puppet.order(&Order::Rounds { tid }).expect("its data is right");
        let since = rounds(&mut self.puppet, self.busy);
        eventually(|| match rounds(&mut self.puppet, self.busy) {
            done if done >= since + 2 => Ok(()),
            done => Err(format!("{done} rounds, {since} of them before")),
        });
    }

    fn longest_touch_us(&mut self) -> u32 {
        self.puppet.order(&Order::LongestTouch { tid: self.busy }).expect("it touches")
    }
}

#[test]
fn repair_moves_pages_that_are_in_use() {
    let Some(stage) = stage("repair", &ON) else { return };
    let mut it = strayed(&stage);
    let pid = it.puppet.pid();
    let (taken, before) = ((TOUCHED_PAGES * sys::page_bytes()) as u64, governed(pid));
    assert!(before.get(&it.off_plan).is_some_and(|bytes| *bytes >= taken), "{before:?}");

    let repair = |more: &[&str]| agent::json(std::iter::once("repair".to_owned()).chain(stage.args(more)));
    let dry = repair(&["--format", "json"]);
    let process = &dry["processes"][0];
    assert_eq!(
        (process["pid"].as_u64(), &process["result"]),
        (Some(pid.into()), &Value::from("planned")),
        "{dry}"
    );
    assert!(process["wrong_bytes"].as_u64().is_some_and(|bytes| bytes >= taken), "{dry}");
    assert_eq!((&process["moved_bytes"], process["batches"].as_u64()), (&Value::from(0), Some(0)), "{dry}");
    assert!(governed(pid)[&it.off_plan] >= taken, "nothing has moved");

    let calm_us = it.longest_touch_us();
    let report = repair(&["--apply", "--set-policy", "--format", "json"]);
    let during_us = it.longest_touch_us();
    it.go_on();
    let process = &report["processes"][0];
    assert_eq!(process["result"], "moved", "{report}");
    assert_eq!(process["threads"]["refused"], Value::Array(Vec::new()), "{report}");
    // The kernel's word, not the agent's.
    let after = governed(pid);
    let on = |node: u32| after.get(&node).copied().unwrap_or(0);
    let total: u64 = after.values().sum();
    let planned: Vec<u64> = it.planned.iter().map(on).collect();
    assert!(planned.iter().sum::<u64>() * 100 >= total * 95, "{after:?}");
    assert!(planned.iter().min() >= Some(&(total * 2 / 5)), "even: {after:?}");
    for tid in [pid, it.busy] {
        let order = Order::CheckPolicy { tid, mode: INTERLEAVE, nodes: it.planned.clone() };
        it.puppet.order(&order).expect("the plan's policy");
    }
    println!(
        "longest touch: {calm_us} us before, {during_us} us during the repair; longest batch {} us of {}",
        process["longest_batch_ns"].as_u64().expect("a figure") / 1000,
        process["batches"]
    );
    // Nothing is left to do.
    let again = repair(&["--apply", "--format", "json"]);
    assert_eq!(again["processes"][0]["result"], "on plan", "{again}");
    it.puppet.stop().expect("stop a puppet");
}

#[test]
fn repair_ends_between_two_batches() {
    let Some(stage) = stage("repair-stopped", &ON) else { return };
    let mut it = strayed(&stage);
    let mut args = vec!["repair".to_owned()];
    // A batch now and then.
    args.extend(stage.args(&["--apply", "--duty", "1", "--max-pause", "2ms", "--format", "json"]));
    let mut repair = agent::command(args);
    let mut repair = repair.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("numa-agent starts");
    let mut progress = BufReader::new(repair.stderr.take().expect("piped")).lines();
    let line = progress.find(|line| line.as_ref().is_ok_and(|line| line.contains(" of "))).expect("progress");
    let line = line.expect("a line");
    assert!(line.starts_with(&format!("process {}: [", it.puppet.pid())), "{line}");
    kill(Pid::from_raw(repair.id().cast_signed()), Signal::SIGINT).expect("it is there");
    // Who reads no more must not hold it up.
    drop(progress);
    let output = repair.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON, also then");
    let process = &report["processes"][0];
    assert_eq!(process["result"], "stopped: interrupted", "{report}");
    let bytes = |key: &str| process[key].as_u64().expect("a figure");
    assert!(bytes("moved_bytes") > 0 && bytes("moved_bytes") < bytes("wrong_bytes"), "{report}");
    let pid = it.puppet.pid();
    let planned: u64 =
        governed(pid).iter().filter(|(node, _)| it.planned.contains(**node)).map(|(_, bytes)| bytes).sum();
    assert!(planned >= bytes("moved_bytes"), "what was moved stays: {planned} of {report}");
    it.go_on();
    it.puppet.stop().expect("stop a puppet");
}
