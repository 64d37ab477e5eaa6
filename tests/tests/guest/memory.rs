//! Memory: which nodes the plan names, and what `jitter record` says of where a process's memory is, against what the workload
//! itself asks the kernel.

use std::collections::BTreeMap;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::NodeSet;
use numa_agent_tests::{
    agent, eventually,
    recorder::{self, Recorder},
    stack::puppet::{Order, Puppet},
    sys,
};
use serde_json::Value;

use crate::stage::{Stage, read, stage};

/// Machines with more than one node that has memory.
const WITH_NODES: [&str; 6] = ["a3-mini", "a3", "2s1n", "snc", "cxl", "sparse"];

/// Enough to be most of what a puppet has.
const PAGES: u32 = 4096;

#[test]
fn the_plan_interleaves_over_the_sockets_own_nodes_that_have_memory() {
    let Some(stage) = stage("plan-memory", &[]) else { return };
    let machine = &stage.machine;
    let mut args = vec!["bind".to_owned(), "--format".into(), "json".into()];
    args.extend(stage.args(&["--groups-per-socket", "1", "--others-socket-index", "0"]));
    let plan = agent::json(args);
    let groups = plan["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), machine.sockets.len(), "one a socket");
    for group in groups {
        let socket = &machine.sockets[&group["socket"].as_i64().expect("a socket")];
        // Its first node, and the next one where there is one; all of them have memory on the shapes that are tested.
        let own: NodeSet = socket.iter().copied().take(2).collect();
        assert!(own.is_subset(&machine.with_memory), "nodes {own} have memory");
        let named: NodeSet = group["mem_nodes"].as_str().and_then(|nodes| nodes.parse().ok()).expect("nodes");
        assert_eq!(named, own, "{group}");
        assert_eq!(group["memory_policy"], "interleave", "{group}");
        for node in ["primary_node", "secondary_node"] {
            let node = group[node].as_u64().and_then(|node| u32::try_from(node).ok()).expect("a node");
            assert!(machine.nodes.contains_key(&node), "node {node} has CPUs: {group}");
        }
    }
    assert_eq!(plan["warnings"], Value::Array(Vec::new()), "nothing is amiss");
}

impl Stage {
    /// The nodes with more room than a test takes: the first may be full of what the machine was started with, and the kernel
    /// takes other nodes' pages then.
    fn roomy(&self) -> NodeSet {
        let twice = 2 * u64::from(PAGES) * sys::page_bytes() as u64;
        self.machine.with_memory.iter().filter(|node| free_bytes(*node) > twice).collect()
    }

    /// The first and the last of them: on `cxl` the last is one without CPUs.
    fn ends(&self) -> NodeSet {
        let nodes = self.roomy();
        assert!(nodes.len() > 1, "only nodes {nodes} have room");
        [nodes.first(), nodes.last()].into_iter().flatten().collect()
    }
}

/// What the kernel could still give of a node.
fn free_bytes(node: u32) -> u64 {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = read(&path);
    let line =
        text.lines().find(|line| line.contains(" MemFree:")).unwrap_or_else(|| panic!("{path}: {text}"));
    let kib = line.split_whitespace().nth(3).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("{path}: {line}")) * 1024
}

/// Stops a puppet for a while, so that neither its memory nor where it is changes.
fn stop(puppet: &Puppet) {
    let pid = puppet.pid();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).expect("it is there");
    eventually(|| {
        let stat = read(&format!("/proc/{pid}/stat"));
        if stat.contains(") T ") { Ok(()) } else { Err(format!("{stat} is not stopped")) }
    });
}

/// Bytes of a process by node, as the kernel lists its mappings.
fn bytes_by_node(pid: u32) -> BTreeMap<u32, u64> {
    let mut nodes = BTreeMap::<u32, u64>::new();
    for line in read(&format!("/proc/{pid}/numa_maps")).lines() {
        let words: BTreeMap<&str, &str> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
        for (node, pages) in &words {
            let Some(Ok(node)) = node.strip_prefix('N').map(str::parse) else { continue };
            let of = |number: &str| number.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {line}"));
            *nodes.entry(node).or_default() += of(pages) * of(words["kernelpagesize_kB"]) * 1024;
        }
    }
    nodes
}

#[test]
fn memory_by_node_is_where_the_workload_finds_it() {
    let Some(stage) = stage("memory", &WITH_NODES) else { return };
    let nodes = stage.ends();
    let mut puppet = stage.puppet("idle", 0);
    let pid = puppet.pid();
    let recorder = Recorder::start(["--pid", &pid.to_string()]);
    // It asks the kernel for its policy itself, and fails if that is another.
    puppet.order(&Order::Interleave { nodes: nodes.clone(), pages: PAGES }).expect("interleave");
    let own: BTreeMap<u32, u64> = nodes
        .iter()
        .map(|node| (node, u64::from(puppet.order(&Order::PagesOn { node }).expect("its pages"))))
        .collect();
    assert_eq!(own.values().sum::<u64>(), u64::from(PAGES), "all pages are on these nodes: {own:?}");
    assert!(own.values().all(|pages| pages.abs_diff(u64::from(PAGES / 2)) <= 8), "in turn: {own:?}");
    let policy = format!("interleave:{nodes}");
    let listed = read(&format!("/proc/{pid}/numa_maps"));
    let by_policy = |line: &str| line.split(' ').nth(1) == Some(policy.as_str());
    assert!(listed.lines().all(by_policy), "not all new pages by {policy}: {listed}");

    stop(&puppet);
    let kernels = bytes_by_node(pid);
    let recording = recorder.stop();
    assert_eq!(bytes_by_node(pid), kernels, "nothing moved meanwhile");
    let process = recording.processes.iter().find(|process| process.pid == pid).expect("it is recorded");
    let memory = process.memory.clone().expect("its memory was read");
    assert_eq!(memory, kernels);
    // And beside what the workload knows of, there is but a small program.
    let page = sys::page_bytes() as u64;
    for (node, bytes) in &memory {
        let known = own.get(node).copied().unwrap_or_default() * page;
        assert!(
            *bytes >= known && bytes - known < 8 << 20,
            "node {node}: {bytes}, of which {known} are known"
        );
    }
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).expect("it is there");
    puppet.stop().expect("stop a puppet");
}

#[test]
fn without_a_plan_home_is_where_the_memory_is() {
    let Some(stage) = stage("memory-home", &WITH_NODES) else { return };
    let machine = &stage.machine;
    let roomy = stage.roomy();
    let first = machine.nodes.keys().next().expect("a node");
    let last = machine.nodes.keys().rfind(|node| roomy.contains(**node)).expect("a node with room");
    assert_ne!(first, last, "a thread away from its memory");
    let mut puppet = stage.puppet("idle", 0);
    let pid = puppet.pid();
    puppet.pin(pid, &machine.nodes[first]).expect("pin");
    let nodes = [*last].into_iter().collect();
    puppet.order(&Order::Interleave { nodes, pages: PAGES }).expect("interleave");
    let own = puppet.order(&Order::PagesOn { node: *last }).expect("its pages");
    assert_eq!(own, PAGES, "all pages are on node {last}");

    let recorder = Recorder::start(["--pid", &pid.to_string()]);
    stage.settle_on(pid, &machine.nodes[first]);
    let recording = recorder.stop();
    let thread = recorder::thread(&recording, pid);
    assert_eq!(thread.home_nodes, [*last]);
    assert_eq!(thread.figures.node_ns.keys().collect::<Vec<_>>(), [first]);
    let off = thread.figures.off_node.expect("it has a home");
    assert!(off.ns > 0 && off.ns == thread.figures.run_ns, "all of it is off node: {off:?}");
    puppet.stop().expect("stop a puppet");
}
