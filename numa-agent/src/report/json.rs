//! The machine-readable form of `bind`. Field names, order and meaning are a contract (`"schema": 1`): fields may be
//! added behind the others, none may change.

use serde_json::{Value, json};

use super::{BindReport, ProcessRow, cgroups, escape, memory};
use crate::core::{instance::Container, plan::Group};

/// The report as JSON. Print it by [`print`].
#[must_use]
pub fn bind(report: &BindReport) -> Value {
    let plan = &report.plan;
    let sockets: Vec<Value> = report
        .topology
        .sockets
        .iter()
        .map(|socket| {
            let nodes = socket.nodes.iter().map(|node| json!({"id": node.id, "cpus": node.cpus}));
            json!({"id": socket.id, "nodes": nodes.collect::<Vec<_>>()})
        })
        .collect();
    let counts = report.counts();
    json!({
        "schema": 1,
        "policy": plan.policy.to_string(),
        "topology": {"sockets": sockets, "source": report.topology.source},
        "groups": plan.groups.iter().map(|one| group(report, one)).collect::<Vec<_>>(),
        "others": {"socket": plan.others.socket, "node": plan.others.node, "cpus": plan.others.cpus},
        "processes": report.processes.iter().map(process).collect::<Vec<_>>(),
        "warnings": report.warnings,
        "layout": plan.layout.to_string(),
        "applied": report.applied,
        "threads": {
            "planned": counts.planned,
            "bound": counts.bound,
            "unchanged": counts.unchanged,
            "spared": counts.spared,
            "off_plan": counts.off_plan,
            "failed": counts.failed,
        },
        "host": {
            "hostname": report.host.hostname,
            "kernel": report.host.kernel,
            "time": report.host.time,
            "version": report.host.version,
        },
        "cpusets": report.fences.iter().map(cgroups::json).collect::<Vec<_>>(),
    })
}

/// A JSON value as indented text that is safe to print in a terminal, with a closing line break.
#[must_use]
pub fn print(value: &Value) -> String {
    escape::json(&format!("{value:#}\n"))
}

fn group(report: &BindReport, group: &Group) -> Value {
    json!({
        "name": group.name,
        "socket": group.socket,
        "index": group.index,
        "primary_node": group.primary_node,
        "secondary_node": group.secondary_node,
        "primary_cpus": group.primary_cpus,
        "forward_cpus": group.forward_cpus,
        "mem_nodes": group.mem_nodes,
        "memory_policy": super::memory_policy(group),
        "align": group.align.to_string(),
        "memory": memory::json_of_group(report, group),
    })
}

fn process(process: &ProcessRow) -> Value {
    let threads = process.threads.iter().map(|thread| {
        json!({
            "tid": thread.id.tid,
            "comm": thread.comm,
            "role": thread.role,
            "planned_cpus": thread.planned_cpus,
            "actual_cpus": thread.actual_cpus,
            "result": thread.outcome.to_string(),
            "start_time": thread.id.start_time,
        })
    });
    json!({
        "pid": process.id.tid,
        "start_time": process.id.start_time,
        "comm": process.comm,
        "cmdline": process.cmdline,
        "role": process.role,
        "group": process.group,
        "instance": process.instance,
        "threads": threads.collect::<Vec<_>>(),
        "memory": process.memory.as_ref().map(memory::json),
        "container": process.container.as_ref().map(Container::json),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn fields_are_the_contracts_in_its_order() {
        let value = bind(&sample::a3());
        let first = ["schema", "policy", "topology", "groups", "others", "processes", "warnings"];
        assert_eq!(keys(&value)[..7], first);
        let group = [
            "name",
            "socket",
            "index",
            "primary_node",
            "secondary_node",
            "primary_cpus",
            "forward_cpus",
            "mem_nodes",
            "memory_policy",
        ];
        assert_eq!(keys(&value["groups"][0])[..9], group);
        let process = ["pid", "start_time", "comm", "cmdline", "role", "group", "instance", "threads"];
        assert_eq!(keys(&value["processes"][0])[..8], process);
        let thread = ["tid", "comm", "role", "planned_cpus", "actual_cpus", "result"];
        assert_eq!(keys(&value["processes"][0]["threads"][0])[..6], thread);
    }

    #[test]
    fn values_are_spelled_as_in_the_contract() {
        let value = bind(&sample::a3());
        assert_eq!(value["schema"], 1);
        assert_eq!(value["policy"], "paired");
        assert_eq!(
            value["topology"]["sockets"][0],
            json!({"id": 0, "nodes": [{"id": 0, "cpus": "0-39"}, {"id": 1, "cpus": "40-79"}]})
        );
        let group = json!({
            "name": "socket0_group0", "socket": 0, "index": 0, "primary_node": 0, "secondary_node": 1,
            "primary_cpus": "0-11", "forward_cpus": "40-79", "mem_nodes": "0-1", "memory_policy": "interleave",
            "align": "cluster", "memory": null,
        });
        assert_eq!(value["groups"][0], group);
        assert_eq!(value["others"], json!({"socket": 2, "node": 4, "cpus": "160-199"}));

        let worker = &value["processes"][1];
        assert_eq!((&worker["role"], &worker["group"]), (&json!("group"), &json!("socket0_group0")));
        assert_eq!(worker["instance"], "session:77");
        let results: Vec<&str> = worker["threads"]
            .as_array()
            .expect("threads")
            .iter()
            .filter_map(|t| t["result"].as_str())
            .collect();
        assert_eq!(results[..3], ["bound", "unchanged", "failed: EPERM (Operation not permitted)"]);
        assert_eq!(worker["threads"][2]["role"], "forward");

        let motor = value["processes"].as_array().and_then(|all| all.last()).expect("motor");
        assert_eq!(
            (&motor["role"], &motor["group"], &motor["instance"]),
            (&json!("other"), &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn printed_json_is_the_same_value_and_safe() {
        let value = bind(&sample::hostile());
        let printed = print(&value);
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), value);
        assert!(!printed.contains(['\u{1b}', '\u{9b}', '\u{202e}']));
    }
}
