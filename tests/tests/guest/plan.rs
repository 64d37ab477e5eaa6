//! The guide's policy on the guide's machine: what is planned, and where `bind --apply` puts who runs already.

use numa_agent::core::idset::CpuSet;
use numa_agent_tests::cast::is_forward;
use serde_json::{Value, json};

use crate::stage::{FORWARD, stage};

fn cpus(value: &Value) -> CpuSet {
    value.as_str().unwrap_or_else(|| panic!("no CPUs in {value}")).parse().expect("a CPU list")
}

#[test]
fn groups_are_on_the_first_node_forward_threads_on_the_second() {
    let Some(stage) = stage("guide", &["a3-mini", "a3-half", "a3", "snc"]) else { return };
    let plan = stage.bind(&[]);
    assert_eq!(plan["policy"], "paired");
    let sockets: Vec<_> = stage.machine.sockets.iter().collect();
    for group in plan["groups"].as_array().expect("groups") {
        let socket = group["socket"].as_i64().expect("a socket");
        let nodes = &stage.machine.sockets[&socket];
        let (first, second) = (&stage.machine.nodes[&nodes[0]], &stage.machine.nodes[&nodes[1]]);
        assert!(cpus(&group["primary_cpus"]).is_subset(first), "{group}");
        assert_eq!(cpus(&group["forward_cpus"]), *second, "{group}");
        assert_eq!(group["memory_policy"], "interleave", "{group}");
        assert_eq!(group["mem_nodes"], json!(format!("{}-{}", nodes[0], nodes[1])), "{group}");
    }
    // Every socket has as many groups, and they share its first node out.
    for (socket, nodes) in &sockets {
        let of_socket: Vec<CpuSet> = plan["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .filter(|group| group["socket"] == json!(socket))
            .map(|group| cpus(&group["primary_cpus"]))
            .collect();
        let all = of_socket.iter().fold(CpuSet::default(), |all, part| all.union(part));
        assert_eq!(all, stage.machine.nodes[&nodes[0]], "socket {socket}");
        assert_eq!(
            of_socket.iter().map(CpuSet::len).sum::<usize>(),
            all.len(),
            "no CPU twice: {of_socket:?}"
        );
    }
    let others = sockets[2.min(sockets.len() - 1)].1[0];
    assert_eq!(plan["others"]["node"], json!(others));
    assert_eq!(cpus(&plan["others"]["cpus"]), stage.machine.nodes[&others]);
}

#[test]
fn bind_puts_who_runs_where_the_guide_says() {
    let Some(stage) = stage("bind-apply", &["a3-mini", "a3-half", "a3", "snc"]) else { return };
    let mut stack = stage.stack();
    stack.start_instance().expect("an instance");
    stack.start_instance().expect("an instance");
    stage.settle(|_| Some(stage.machine.all()));

    let applied = stage.bind(&["--apply"]);
    let sockets: Vec<_> = stage.machine.sockets.values().collect();
    let forward = stage.settle(|look| {
        // Instances take sockets in turn.
        let nodes = sockets[look.instance as usize % sockets.len()];
        match look.role.as_str() {
            "scheduler" | "worker" | "rpc_proxy" if is_forward(&look.comm) => {
                Some(stage.machine.nodes[&nodes[1]].clone())
            }
            "scheduler" | "worker" | "rpc_proxy" => Some(group_cpus(&applied, nodes[0], look.pid)),
            "motor" => Some(stage.others()),
            _ => None,
        }
    });
    assert_eq!(forward, 2 * FORWARD as usize, "of two instances");
    stack.stop().expect("stop the stack");
}

/// The CPUs of the group that `pid` was given, which has to be on `node`.
fn group_cpus(report: &Value, node: u32, pid: u32) -> CpuSet {
    let find = |list: &str, key: &str, value: &Value| {
        let all = report[list].as_array().expect("a list");
        all.iter()
            .find(|one| one[key] == *value)
            .unwrap_or_else(|| panic!("no {key} {value} in {list}"))
            .clone()
    };
    let process = find("processes", "pid", &json!(pid));
    let group = find("groups", "name", &process["group"]);
    assert_eq!(group["primary_node"], json!(node), "{process}");
    cpus(&group["primary_cpus"])
}
