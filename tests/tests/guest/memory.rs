//! Memory: which nodes the plan names, and what `jitter record` says of where a process's memory is, against what the workload
//! itself asks the kernel; what `exec` gives a program, against what that asks the kernel from the inside.

use std::{collections::BTreeMap, fs, process::Output};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{
    agent,
    cpuset::Cpuset,
    eventually, guest,
    recorder::{self, Recorder},
    stack::puppet::{Order, Puppet},
    sys, verifier,
};
use serde_json::{Value, json};

use crate::stage::{Stage, node_bytes, number_list, read, stage};

/// Machines with more than one node that has memory.
const WITH_NODES: [&str; 5] = ["a3-mini", "2s1n", "snc", "cxl", "sparse"];

/// Enough to be most of what a puppet has.
const PAGES: u32 = 4096;

#[test]
fn the_plan_interleaves_over_the_sockets_own_nodes_that_have_memory() {
    let Some(stage) = stage("plan-memory", &[]) else { return };
    let machine = &stage.machine;
    let plan = stage.bind(&["--groups-per-socket", "1", "--others-socket-index", "0"]);
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
    pub fn roomy(&self) -> NodeSet {
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
    node_bytes(node, "MemFree:")
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
    by_node(read(&format!("/proc/{pid}/numa_maps")).lines())
}

fn by_node<'a>(mappings: impl Iterator<Item = &'a str>) -> BTreeMap<u32, u64> {
    let mut nodes = BTreeMap::<u32, u64>::new();
    for line in mappings {
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

/// `MPOL_*` of `include/uapi/linux/mempolicy.h`.
const PREFERRED: i32 = 1;
const BIND: i32 = 2;
const INTERLEAVE: i32 = 3;
const PREFERRED_MANY: i32 = 5;
const WEIGHTED_INTERLEAVE: i32 = 6;

/// Bytes of the process's own in mappings without a file, by node: what a memory policy governs. The kernel lends every process pages for
/// the time of day, which count on 7.2 (on 6.12 they do not) and lie where the kernel got them.
fn own_bytes_by_node(pid: u32) -> BTreeMap<u32, u64> {
    let listed = read(&format!("/proc/{pid}/numa_maps"));
    by_node(listed.lines().filter(|line| line.contains(" anon=") && !line.contains(" file=")))
}

impl Stage {
    /// A puppet that `exec` starts with these flags, on CPUs of the node between the ends, whose memory it has by default.
    fn started(&self, flags: &[&str]) -> Puppet {
        let between = self.between().to_string();
        let mut command = agent::command(["exec", "--nodes", &between]);
        command.args(flags).arg("--");
        let puppet = Puppet::start_by(command, &self.family, "idle", 0).expect("start a puppet by exec");
        let mask = sys::affinity(puppet.pid()).expect("its mask");
        assert_eq!(mask, self.machine.nodes[&self.between()]);
        puppet
    }

    /// A node with CPUs, another than the last end: than both where there are more.
    fn between(&self) -> u32 {
        let with_cpus: NodeSet = self.machine.nodes.keys().copied().collect();
        let others = with_cpus.difference(&self.ends());
        others.first().or(with_cpus.first()).expect("a node with CPUs")
    }

    /// Has the puppet take pages and find itself with that policy; its memory by node then.
    fn taken(&self, puppet: &mut Puppet, mode: i32, nodes: &NodeSet) -> BTreeMap<u32, u64> {
        let tid = puppet.thread("later").expect("a thread");
        for tid in [puppet.pid(), tid] {
            puppet.order(&Order::CheckPolicy { tid, mode, nodes: nodes.clone() }).expect("its policy");
        }
        puppet.order(&Order::Take { pages: PAGES }).expect("pages");
        own_bytes_by_node(puppet.pid())
    }
}

#[test]
fn exec_interleaves_from_the_first_page() {
    let Some(stage) = stage("exec-interleave", &WITH_NODES) else { return };
    let nodes = stage.ends();
    let mut puppet = stage.started(&["--interleave", &nodes.to_string()]);
    // Before it has taken any: what the kernel and the loader put there for it.
    let first = own_bytes_by_node(puppet.pid());
    assert!(first.keys().all(|node| nodes.contains(*node)), "pages on nodes other than {nodes}: {first:?}");
    let bytes = stage.taken(&mut puppet, INTERLEAVE, &nodes);
    assert!(bytes.keys().all(|node| nodes.contains(*node)), "pages on nodes other than {nodes}: {bytes:?}");
    let (least, most) = (bytes.values().min().expect("pages"), bytes.values().max().expect("pages"));
    let page = sys::page_bytes() as u64;
    assert!(bytes.len() == 2 && most - least < 64 * page, "in turn: {bytes:?}");
    let policy = format!("interleave:{nodes}");
    let listed = read(&format!("/proc/{}/numa_maps", puppet.pid()));
    let by_policy = |line: &str| line.split(' ').nth(1) == Some(policy.as_str());
    assert!(listed.lines().all(by_policy), "not all by {policy}: {listed}");
    puppet.stop().expect("stop a puppet");
}

#[test]
fn exec_takes_memory_from_the_node_that_is_named() {
    let Some(stage) = stage("exec-one-node", &WITH_NODES) else { return };
    // On `cxl` the last node has no CPUs.
    let last = stage.ends().last().expect("a node");
    let only: NodeSet = [last].into_iter().collect();
    for (flag, mode) in [("--membind", BIND), ("--preferred", PREFERRED)] {
        let mut puppet = stage.started(&[flag, &last.to_string()]);
        let bytes = stage.taken(&mut puppet, mode, &only);
        assert_eq!(bytes.keys().collect::<Vec<_>>(), [&last], "{flag}: {bytes:?}");
        assert!(bytes[&last] >= u64::from(PAGES) * sys::page_bytes() as u64, "{flag}: {bytes:?}");
        puppet.stop().expect("stop a puppet");
    }
    // Without a policy it would be elsewhere.
    let home = stage.between();
    assert_ne!(home, last);
    let mut puppet = stage.started(&[]);
    puppet.order(&Order::Take { pages: PAGES }).expect("pages");
    let bytes = own_bytes_by_node(puppet.pid());
    assert!(bytes[&home] > bytes.get(&last).copied().unwrap_or_default(), "node {home}: {bytes:?}");
    puppet.stop().expect("stop a puppet");
}

fn exec(command: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> (Output, String) {
    let output = agent::run(command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

#[test]
fn exec_takes_the_nearest_mode_where_the_kernel_lacks_one() {
    let Some(stage) = stage("exec-modes", &WITH_NODES) else { return };
    let nodes = stage.ends();
    let (list, first) = (nodes.to_string(), nodes.iter().take(1).collect::<NodeSet>());
    for (flag, since, new, old, old_nodes, words) in [
        ("--weighted-interleave", (6, 9), WEIGHTED_INTERLEAVE, INTERLEAVE, &nodes, "weighted interleave"),
        ("--preferred", (5, 15), PREFERRED_MANY, PREFERRED, &first, "prefer (many)"),
    ] {
        let is_old = verifier::version(&read("/proc/sys/kernel/osrelease")).expect("a release") < since;
        let mut puppet = stage.started(&[flag, &list]);
        let (mode, kept) = if is_old { (old, old_nodes) } else { (new, &nodes) };
        let bytes = stage.taken(&mut puppet, mode, kept);
        assert!(bytes.keys().all(|node| nodes.contains(*node)), "{flag}: {bytes:?}");
        puppet.stop().expect("stop a puppet");

        let (output, stderr) = exec(["exec", flag, &list, "true"]);
        assert!(output.status.success() && stderr.contains("warning") == is_old, "{flag}: {stderr}");
        assert!(!is_old || stderr.contains(words), "{flag}: {stderr}");
        let (output, stderr) = exec(["exec", "--strict", flag, &list, "true"]);
        assert_eq!(output.status.code(), Some(i32::from(is_old)), "{flag}: {stderr}");
        assert!(!is_old || stderr.contains(&format!("Linux {}.{}", since.0, since.1)), "{flag}: {stderr}");
    }
}

#[test]
fn exec_names_what_it_cannot_have() {
    let Some(stage) = stage("exec-refused", &["a3-mini", "cxl", "sparse"]) else { return };
    let refused = |args: &[&str], words: &str| {
        let (output, stderr) = exec(["exec"].iter().chain(args).chain(&["echo", "it runs"]));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: no {words:?} in {stderr}");
    };
    refused(&["--interleave", "0,40"], "no node 40");
    let online = stage.machine.all();
    let present: CpuSet = number_list("/sys/devices/system/cpu/present");
    if let Some(offline) = present.difference(&online).first() {
        refused(&["--cpus", &format!("0,{offline}")], &format!("CPU {offline} is offline"));
        refused(&["--interleave", "0-1"], "no node 1");
    }
    if let Some(node) = stage.machine.with_memory.iter().find(|node| !stage.machine.nodes.contains_key(node))
    {
        refused(&["--nodes", &node.to_string()], &format!("node {node} has no CPU"));
    }

    let cpus = &stage.machine.nodes[&stage.between()];
    let cpuset = Cpuset::new("exec-refused", cpus).expect("a cpuset");
    let (inside, outside) = (stage.ends().first().expect("a node"), stage.ends().last().expect("a node"));
    cpuset.allow_memory(&[inside].into_iter().collect());
    let run = |args: &[&str]| {
        let output = cpuset.enter().arg(agent::binary()).args(args).output().expect("run in a cpuset");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let (code, said) = run(&["exec", "--membind", &outside.to_string(), "true"]);
    assert!(code == Some(1) && said.contains(&format!("memory of node {outside}")), "{said}");
    let elsewhere = online.difference(cpus).first().expect("another CPU").to_string();
    let (code, said) = run(&["exec", "--cpus", &elsewhere, "true"]);
    assert!(code == Some(1) && said.contains(&format!("does not allow CPU {elsewhere}")), "{said}");
    // All is all that it may have.
    let (code, said) = run(&["exec", "--cpus", "all", "--interleave", "all", "--show"]);
    assert!(code == Some(0) && said.contains(&format!("memory policy: interleave:{inside}\n")), "{said}");
    assert!(said.contains(&format!("cpus: {cpus}\n")), "{said}");
}

#[test]
fn exec_starts_a_program_in_its_group() {
    let Some(stage) = stage("exec-group", &["a3-mini", "cxl"]) else { return };
    let layout = ["--groups-per-socket", "1", "--others-socket-index", "0"];
    // Each is an instance of its own, and the groups take turns.
    let start = |instance| {
        let mut starter = agent::command(["exec", "--group", "auto"]);
        starter.args(stage.args(&layout)).arg("--");
        Puppet::start_by(starter, &stage.family, "worker", instance).expect("start by exec")
    };
    let mut puppets = [start(0), start(1)];
    let plan = stage.bind(&layout);
    let groups = plan["groups"].as_array().expect("groups");
    assert!(groups.len() >= puppets.len(), "{groups:?}");
    for (puppet, group) in puppets.iter_mut().zip(groups) {
        let pid = puppet.pid();
        let mask = sys::affinity(pid).expect("its mask").to_string();
        assert_eq!(group["primary_cpus"], mask, "{group}");
        let nodes: NodeSet = group["mem_nodes"].as_str().expect("nodes").parse().expect("a list");
        let bytes = stage.taken(puppet, INTERLEAVE, &nodes);
        assert!(bytes.keys().all(|node| nodes.contains(*node)), "{bytes:?} on {nodes}");
        let listed = plan["processes"].as_array().expect("processes").iter().find(|one| one["pid"] == pid);
        let listed = listed.expect("it is in the plan");
        assert_eq!(listed["group"], group["name"], "bind sees it where exec has put it");
        assert_eq!(listed["threads"][0]["result"], "unchanged", "{listed}");
    }
}

/// More than what a verdict needs (`docs/memory.md`).
const ENOUGH_PAGES: u32 = 72 << 8;

#[test]
fn verdicts_follow_policy_and_pages() {
    // Where a node has room for it.
    let Some(stage) = stage("verdicts", &["snc"]) else { return };
    let [first, second] = [0, 1].map(|index| {
        let nodes: NodeSet = stage.machine.sockets[&index].iter().copied().collect();
        nodes
    });
    let by = |flags: &[&str]| {
        let mut starter = agent::command(["exec"]);
        starter.args(flags).arg("--");
        Puppet::start_by(starter, &stage.family, "worker", 0).expect("start by exec")
    };
    let take = |puppet: &mut Puppet, pages| {
        puppet.order(&Order::Take { pages }).expect("pages");
    };

    // Instances take turns on the sockets: the first and third have the first socket's groups, the others the second's.
    let mut on_plan = by(&["--interleave", &first.to_string()]);
    take(&mut on_plan, ENOUGH_PAGES);
    let mut plain = stage.puppet("worker", 0);
    // It takes what is where it runs: on a node with room for it beside the others' pages.
    plain.pin(plain.pid(), &stage.machine.nodes[&second.first().expect("a node")]).expect("pin");
    take(&mut plain, ENOUGH_PAGES);
    let mut off_plan = by(&["--interleave", &second.to_string()]);
    take(&mut off_plan, ENOUGH_PAGES);
    let mut uneven = stage.puppet("worker", 0);
    // The first one has all of the plain one's memory already, and little room left.
    let one: NodeSet = second.last().into_iter().collect();
    uneven.order(&Order::Interleave { nodes: one, pages: ENOUGH_PAGES }).expect("pages on one node");
    uneven.order(&Order::Interleave { nodes: second.clone(), pages: 16 }).expect("the planned policy");
    let puppets = [
        (&on_plan, &first, "ok"),
        (&plain, &second, "default policy"),
        (&off_plan, &first, "off plan"),
        (&uneven, &second, "unbalanced"),
    ];
    puppets.iter().for_each(|(puppet, ..)| stop(puppet));
    let report = stage.bind(&["--memory", "--groups-per-socket", "2", "--others-socket-index", "0"]);
    for (puppet, planned, verdict) in puppets {
        let pid = puppet.pid();
        let processes = report["processes"].as_array().expect("processes");
        let memory = &processes.iter().find(|one| one["pid"] == pid).expect("it is in the report")["memory"];
        assert_eq!(memory["verdict"], verdict, "{memory}");
        assert_eq!(memory["planned"], json!({"policy": "interleave", "nodes": planned}), "{verdict}");
        let kernels = own_bytes_by_node(pid);
        assert_eq!(memory["nodes"], json!(kernels), "{verdict}: as the kernel lists them");
        let total: u64 = kernels.values().sum();
        let on_nodes: u64 = planned.iter().filter_map(|node| kernels.get(&node)).sum();
        let share = memory["on_plan_share"].as_f64().expect("a share");
        assert!((share - on_nodes as f64 / total as f64).abs() < 1e-9, "{verdict}: {share} of {kernels:?}");
    }
    let of = |puppet: &Puppet, field: &str| {
        let pid = puppet.pid();
        let one = report["processes"].as_array().into_iter().flatten().find(|one| one["pid"] == pid);
        one.and_then(|one| one["memory"][field].as_f64()).expect("a figure")
    };
    // Far from what is tolerated.
    let memory = |puppet: &Puppet| {
        let free: Vec<_> = stage.machine.with_memory.iter().map(|node| (node, free_bytes(node))).collect();
        format!("{:?}; free by node: {free:?}", own_bytes_by_node(puppet.pid()))
    };
    assert!(of(&on_plan, "balance") > 0.98, "{}", memory(&on_plan));
    assert!(of(&on_plan, "on_plan_share") > 0.999, "{}", memory(&on_plan));
    assert!(of(&uneven, "balance") < 0.1, "{}", memory(&uneven));
    assert!(of(&off_plan, "on_plan_share") < 0.001, "{}", memory(&off_plan));
    let group = &report["groups"][0]["memory"];
    assert_eq!(report["groups"][0]["name"], "socket0_group0");
    assert!(group["on_plan_share"].as_f64().is_some_and(|share| share > 0.999), "{group}");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("1 default policy, 1 off plan, 1 unbalanced"), "{warnings}");
    for (puppet, ..) in puppets {
        kill(Pid::from_raw(puppet.pid().cast_signed()), Signal::SIGCONT).expect("it is there");
    }
    [on_plan, plain, off_plan, uneven].into_iter().for_each(|puppet| puppet.stop().expect("stop a puppet"));
}

#[test]
fn what_works_against_the_plan_is_named_and_its_fix_helps() {
    const FILE: &str = guest::NUMA_BALANCING;
    // Nobody else is in the guest to mind.
    let Some(stage) = stage("against", &["a3-mini", "2s1n"]) else { return };
    let warnings = || {
        let report = stage.bind(&["--memory", "--groups-per-socket", "1"]);
        let warnings = report["warnings"].as_array().expect("warnings").clone();
        warnings.into_iter().find(|one| one.as_str().is_some_and(|text| text.contains("numa_balancing")))
    };
    assert_eq!((read(FILE).trim(), warnings()), ("0", None), "guests are started without it");
    fs::write(FILE, "1").expect("a kernel with it");
    let warning = warnings().expect("it is warned of");
    let warning = warning.as_str().expect("text");
    assert!(warning.starts_with("kernel.numa_balancing is 1: "), "{warning}");
    let fix = warning.split_once("fix: sysctl -w ").and_then(|(_, fix)| fix.split(' ').next());
    let (name, value) =
        fix.and_then(|fix| fix.split_once('=')).unwrap_or_else(|| panic!("no fix in {warning}"));
    fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).expect("the fix");
    assert_eq!((read(FILE).trim(), warnings()), ("0", None), "the fix helped");
}
