//! `memory.apply = "cpuset"`: cgroups v2 that are to allow their group's memory nodes alone. The witness is the workload, which the kernel
//! refuses memory of other nodes.

use std::{thread::sleep, time::Duration};

use numa_agent::core::idset::NodeSet;
use numa_agent_tests::{
    agent::Agent,
    cpuset::Cpuset,
    eventually,
    stack::puppet::{Order, Puppet},
};
use serde_json::json;

use crate::stage::{Stage, stage};

/// Some looks of the agent, which has one every second.
const LOOKS: Duration = Duration::from_secs(4);

const PAGES: u32 = 16;

/// The stage with an agent that fences cgroups in, one group on each socket.
fn fencing(test: &str) -> Option<(Stage, Agent)> {
    let stage = stage(test, &["a3-mini", "2s1n"])?;
    let mut config = stage.config();
    config["groups_per_socket"] = json!(1);
    config["memory"] = json!({ "apply": "cpuset" });
    stage.write_config(&config);
    let agent = stage.agent(&["--reconcile", "1", "--restore-on-exit"]);
    Some((stage, agent))
}

/// The nodes of the socket that the `index`th instance gets.
fn home(stage: &Stage, index: usize) -> NodeSet {
    let sockets: Vec<_> = stage.machine.sockets.values().collect();
    sockets[index].iter().copied().collect()
}

/// Waits until the kernel lets the puppet have memory of `nodes` and of no others.
fn settle_within(puppet: &mut Puppet, nodes: &NodeSet, others: &NodeSet) {
    eventually(|| {
        let mut may =
            |nodes: &NodeSet| puppet.order(&Order::Interleave { nodes: nodes.clone(), pages: PAGES });
        match (may(nodes), may(others)) {
            (Ok(_), Err(_)) => Ok(()),
            (allowed, refused) => Err(format!("{allowed:?} of {nodes}, {refused:?} of {others}")),
        }
    });
}

#[test]
fn cgroups_allow_the_plans_memory_alone_and_are_put_back() {
    let Some((stage, mut agent)) = fencing("fences") else { return };
    let [first, second] = [0, 1].map(|index| home(&stage, index));
    let cpusets =
        ["fence-0", "fence-1"].map(|name| Cpuset::new(name, &stage.machine.all()).expect("a cpuset"));
    let mut puppets = [0, 1].map(|instance| stage.puppet("worker", instance));
    for (index, (puppet, cpuset)) in puppets.iter().zip(&cpusets).enumerate() {
        stage.settle_on_any(puppet.pid(), &stage.member_places(index));
        cpuset.take(puppet.pid());
    }
    settle_within(&mut puppets[0], &first, &second);
    settle_within(&mut puppets[1], &second, &first);
    // In the machine's own cgroup they were left alone, in words.
    assert!(!agent.warnings("not in a cgroup of its own").is_empty(), "{}", agent.stderr());

    // As a container's manager might.
    cpusets[0].allow_memory(&stage.machine.with_memory);
    agent.wait_for("word that it was put back", |event| {
        event["event"] == "cpuset" && event["rewritten"] == 1 && event["effective_mems"] == json!(first)
    });
    settle_within(&mut puppets[0], &first, &second);
    let said = |name: &str| agent.events().iter().filter(|event| event["event"] == name).count();
    assert_eq!(said("cpuset"), 3, "each was set, and one put back: {:#?}", agent.events());
    sleep(LOOKS);
    assert_eq!(said("cpuset"), 3, "and then there was nothing to do");
    agent.stop();
    for puppet in &mut puppets {
        let nodes = stage.machine.with_memory.clone();
        puppet.order(&Order::Interleave { nodes, pages: PAGES }).expect("memory of all nodes, as before");
    }
}

#[test]
fn what_is_not_the_groups_alone_is_left_alone() {
    let Some((stage, agent)) = fencing("fence-strangers") else { return };
    let everywhere = &stage.machine.with_memory;
    let cpuset = Cpuset::new("fence-strangers", &stage.machine.all()).expect("a cpuset");
    let mut stranger = stage.puppet("idle", 7);
    cpuset.take(stranger.pid());
    let mut worker = stage.puppet("worker", 0);
    cpuset.take(worker.pid());
    eventually(|| match agent.warnings(&cpuset.name).pop() {
        Some(warning) if warning.contains("1 other process") => Ok(()),
        other => Err(format!("{other:?}: {}", agent.stderr())),
    });
    sleep(LOOKS);
    assert_eq!(agent.warnings(&cpuset.name).len(), 1, "once: {}", agent.stderr());
    for puppet in [&mut stranger, &mut worker] {
        puppet
            .order(&Order::Interleave { nodes: everywhere.clone(), pages: PAGES })
            .expect("memory of all nodes");
    }
    // Once it is the group's alone, it is fenced in.
    stranger.stop().expect("stop a puppet");
    settle_within(&mut worker, &home(&stage, 0), &home(&stage, 1));
    agent.stop();
}
