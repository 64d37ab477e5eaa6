//! What the agent says of the machine, against what the kernel shows and what the shape was asked to be.

use std::collections::{BTreeMap, BTreeSet};

use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{agent, guest};
use serde_json::{Value, json};

use crate::stage::{Machine, node_bytes, number_list, read, stage};

const NODE: &str = "/sys/devices/system/node";
const CPU: &str = "/sys/devices/system/cpu";

fn set<T: std::str::FromStr>(value: &Value) -> T {
    let list = value.as_str().and_then(|list| list.parse().ok());
    list.unwrap_or_else(|| panic!("{value} is no list"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no array"))
}

fn id(value: &Value) -> u32 {
    value["id"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or_else(|| panic!("no id in {value}"))
}

#[test]
fn the_machine_is_what_the_kernel_shows() {
    let Some(stage) = stage("topology", &[]) else { return };
    let machine = &stage.machine;
    let shown = agent::json(["topology", "--format", "json"]);

    let online: CpuSet = number_list(&format!("{CPU}/online"));
    let present: CpuSet = number_list(&format!("{CPU}/present"));
    assert_eq!(set::<CpuSet>(&shown["online"]), online);
    assert_eq!(set::<CpuSet>(&shown["offline"]), present.difference(&online));
    assert_eq!(machine.all(), online, "every CPU is on a node");
    let sockets: BTreeMap<i64, BTreeMap<u32, CpuSet>> = list(&shown["sockets"])
        .iter()
        .map(|socket| {
            let nodes = list(&socket["nodes"]).iter().map(|node| (id(node), set(&node["cpus"])));
            (i64::from(id(socket)), nodes.collect())
        })
        .collect();
    assert_eq!(sockets, sockets_of(machine));

    let nodes: NodeSet = number_list(&format!("{NODE}/online"));
    assert_eq!(list(&shown["nodes"]).iter().map(id).collect::<Vec<_>>(), nodes.iter().collect::<Vec<_>>());
    for node in list(&shown["nodes"]) {
        let id = id(node);
        let cpus = machine.nodes.get(&id).cloned().unwrap_or_default();
        assert_eq!(set::<CpuSet>(&node["cpus"]), cpus, "{node}");
        assert_eq!(node["memory_bytes"], json!(node_bytes(id, "MemTotal:")), "{node}");
        assert_eq!(
            machine.with_memory.contains(id),
            node_bytes(id, "MemTotal:") > 0,
            "the kernel agrees with itself"
        );
        // A column for each node that is online, whatever its id.
        let row = read(&format!("{NODE}/node{id}/distance"));
        let row: Vec<u64> =
            row.split_whitespace().map(|distance| distance.parse().expect("a number")).collect();
        assert_eq!(row.len(), nodes.len());
        let distances: serde_json::Map<String, Value> =
            nodes.iter().zip(row).map(|(to, distance)| (to.to_string(), json!(distance))).collect();
        assert_eq!(node["distances"], Value::Object(distances), "node {id}");
        let clusters: BTreeSet<String> =
            cpus.iter().filter_map(|cpu| machine.cluster_of(cpu)).map(|cpus| cpus.to_string()).collect();
        let named: BTreeSet<String> =
            list(&node["clusters"]).iter().map(|cpus| set::<CpuSet>(cpus).to_string()).collect();
        assert_eq!(named, clusters, "node {id}");
        // No hardware threads here.
        assert_eq!(list(&node["cores"]).len(), cpus.len(), "node {id}");
    }
    assert_eq!(set::<NodeSet>(&shown["allowed_mems"]), machine.with_memory);
    assert_eq!(shown["warnings"], json!([]));
}

fn sockets_of(machine: &Machine) -> BTreeMap<i64, BTreeMap<u32, CpuSet>> {
    let cpus = |node: &u32| (*node, machine.nodes[node].clone());
    machine.sockets.iter().map(|(id, nodes)| (*id, nodes.iter().map(cpus).collect())).collect()
}

/// All nodes of an A3.
const EIGHT: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The kernel shows the shape that was asked for: without this, the test above could compare two empty machines.
#[test]
fn the_kernel_shows_the_shape_that_was_asked_for() {
    let Some(stage) = stage("shape", &[]) else { return };
    let machine = &stage.machine;
    let shape = std::env::var(guest::TOPOLOGY).expect("the stage has looked");
    let aarch64 = cfg!(target_arch = "aarch64");
    let with_cpus: Vec<u32> = machine.nodes.keys().copied().collect();
    let memory_only: Vec<u32> =
        machine.with_memory.iter().filter(|node| !machine.nodes.contains_key(node)).collect();
    let offline = set::<CpuSet>(&agent::json(["topology", "--format", "json"])["offline"]);
    // Sockets; nodes with CPUs, and how many of them are online; nodes without; CPUs offline.
    let (sockets, nodes, cpus, bare, taken): (usize, &[u32], &[usize], &[u32], &[u32]) = match shape.as_str()
    {
        "a3-mini" => (4, &EIGHT, &[if aarch64 { 4 } else { 2 }; 8], &[], &[]),
        "a3-half" => (4, &EIGHT, &[20; 8], &[], &[]),
        "a3" => (4, &EIGHT, &[40; 8], &[], &[]),
        "2s1n" => (2, &[0, 1], &[4; 2], &[], &[]),
        "snc" => (2, &[0, 1, 2, 3], &[if aarch64 { 8 } else { 4 }; 4], &[], &[]),
        "cxl" => (2, &[0, 1], &[4; 2], &[2], &[]),
        "sparse" if aarch64 => (3, &[0, 2, 3], &[3, 3, 4], &[], &[1, 6]),
        "sparse" => (2, &[0, 2], &[3, 3], &[], &[1, 6]),
        "one" => (1, &[0], &[4], &[], &[]),
        other => panic!("what is {other}?"),
    };
    // From node 0 to these nodes and those without CPUs: the die beside it, sockets near and far, a link of its own.
    let distances: &[u64] = match shape.as_str() {
        "a3-mini" | "a3-half" | "a3" => &[10, 16, 32, 32, 33, 33, 32, 32],
        "snc" => &[10, 16, 32, 32],
        "cxl" => &[10, 32, 40],
        "sparse" if aarch64 => &[10, 20, 20],
        "2s1n" | "sparse" => &[10, 32],
        _ => &[10],
    };
    assert_eq!(with_cpus, nodes);
    assert_eq!(machine.nodes.values().map(CpuSet::len).collect::<Vec<_>>(), cpus, "CPUs by node");
    let shown: BTreeMap<u32, u64> = {
        let row = read(&format!("{NODE}/node0/distance"));
        let row: Vec<u64> = row.split_whitespace().map(|one| one.parse().expect("a number")).collect();
        number_list::<NodeSet>(&format!("{NODE}/online")).iter().zip(row).collect()
    };
    assert_eq!(nodes.iter().chain(bare).map(|node| shown[node]).collect::<Vec<_>>(), distances, "{shown:?}");
    assert_eq!(memory_only, bare);
    assert_eq!(offline.iter().collect::<Vec<_>>(), taken);
    assert_eq!(machine.sockets.len(), sockets);
    let clusters: BTreeSet<String> =
        machine.all().iter().filter_map(|cpu| machine.cluster_of(cpu)).map(|cpus| cpus.to_string()).collect();
    // Only there is a node larger than a cluster.
    let in_clusters = aarch64 && ["snc", "a3-half", "a3"].contains(&shape.as_str());
    assert_eq!(!clusters.is_empty(), in_clusters, "{clusters:?}");
    assert!(clusters.iter().all(|cpus| cpus.parse::<CpuSet>().is_ok_and(|cpus| cpus.len() == 4)));
}

#[test]
fn no_plan_names_what_is_offline_or_missing() {
    let Some(stage) = stage("plan-online", &[]) else { return };
    let online: CpuSet = number_list(&format!("{CPU}/online"));
    for more in [&[][..], &["--policy", "generic"], &["--layout", "shared"], &["--align", "none"]] {
        let plan = stage.bind(more);
        let groups = list(&plan["groups"]);
        assert!(!groups.is_empty());
        for group in groups {
            for cpus in ["primary_cpus", "forward_cpus"] {
                let cpus: CpuSet = set(&group[cpus]);
                assert!(!cpus.is_empty() && cpus.is_subset(&online), "{group}");
            }
            let primary = group["primary_node"].as_u64().and_then(|node| u32::try_from(node).ok());
            let cpus = &stage.machine.nodes[&primary.expect("a node")];
            assert!(set::<CpuSet>(&group["primary_cpus"]).is_subset(cpus), "{group}");
            assert!(set::<NodeSet>(&group["mem_nodes"]).is_subset(&stage.machine.with_memory), "{group}");
        }
        let others: CpuSet = set(&plan["others"]["cpus"]);
        assert!(!others.is_empty() && others.is_subset(&online), "{plan}");
    }
}
