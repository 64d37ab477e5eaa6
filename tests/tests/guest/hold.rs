//! Programs held at exec, on every kernel: they have not run when they are let go on, they are always let go on, and what they
//! allocate comes from the nodes of their group from the first page on.

use std::{thread::sleep, time::Duration};

use nix::sys::signal::Signal;
use numa_agent::core::idset::NodeSet;
use numa_agent_tests::{
    holder::{Held, Holder, blink, is_gone, next_guard, signal},
    stack::puppet::Order,
    stopped::{elf_entry, program_counter, state},
    witness::Point,
};
use serde_json::{Value, json};

use crate::stage::{Stage, read, stage};

fn hold(stage: &Stage, keys: &Value) -> Holder {
    Holder::start(stage, stage.config(), keys, || stage.agent(&[]))
}

/// Each worker's first look has to be on plan.
fn assert_on_plan_from_the_first_look(stage: &Stage) {
    let records = stage.records();
    let first = records.iter().filter(|look| look.role == "worker" && look.point == Point::Main);
    let (places, all) = (stage.member_places(0), stage.machine.all());
    for look in first {
        assert!(look.cpus.is_subset(&places) && look.cpus != all && look.cpus.contains(look.cpu), "{look:?}");
    }
}

#[test]
fn a_held_program_has_not_run_its_first_instruction() {
    let Some(stage) = stage("hold-first", &[]) else { return };
    let mut holder = hold(&stage, &json!({}));
    let mut one = holder.frozen_with_one_held(&stage);
    let pid = one.pid();
    assert_eq!(program_counter(pid), elf_entry(pid), "where the kernel has put it");
    holder.thaw();
    one.ends_well();
    let release = holder.released(pid);
    assert_eq!((&release["by"], &release["end"]), (&json!("agent"), &json!("continued")), "{release}");
    assert_on_plan_from_the_first_look(&stage);
    let guard = holder.guard;
    holder.agent.stop();
    is_gone(guard);
}

#[test]
fn whoever_dies_nobody_stays_stopped() {
    let Some(stage) = stage("hold-deaths", &[]) else { return };
    let mut holder = hold(&stage, &json!({}));
    let mut one = holder.frozen_with_one_held(&stage);
    signal(holder.guard, Signal::SIGKILL);
    sleep(Duration::from_millis(100));
    assert_eq!(state(one.pid()), Some('T'), "the agent cannot see it yet");
    holder.thaw();
    one.ends_well();
    let guard = next_guard(&mut holder.agent, holder.guard);
    let mut other = holder.frozen_with_one_held(&stage);
    let _ = holder.agent.end_by(Signal::SIGKILL);
    other.ends_well();
    is_gone(guard);
    // Nobody is there any more, and nobody is held.
    Held::start(blink(&stage)).ends_well();
}

/// `MPOL_INTERLEAVE`.
const INTERLEAVE: i32 = 3;
/// Pages that a program takes.
const PAGES: u32 = 1024;

#[test]
fn an_injected_program_has_its_pages_from_its_sockets_nodes_in_turn() {
    let Some(stage) = stage("hold-inject", &["a3-mini", "snc"]) else { return };
    let mut holder = hold(&stage, &json!({ "memory": { "apply": "inject" } }));
    // The first socket's first node may be full of what the machine was started with.
    let first = stage.puppet("worker", 0);
    let mut puppet = stage.puppet("worker", 1);
    let pid = puppet.pid();
    let nodes: NodeSet = stage.home(1).iter().copied().collect();
    let release = holder.released(pid);
    assert_eq!(release["memory"], format!("interleave:{nodes}"), "{release}");
    let thread = puppet.thread("forward_0").expect("a thread");
    for tid in [pid, thread] {
        let order = Order::CheckPolicy { tid, mode: INTERLEAVE, nodes: nodes.clone() };
        puppet.order(&order).expect("its own word");
    }
    puppet.order(&Order::Take { pages: PAGES }).expect("pages");
    let mut on = |node| puppet.order(&Order::PagesOn { node }).expect("its pages");
    let pages: Vec<u32> = nodes.iter().map(&mut on).collect();
    assert!(pages.len() == 2 && pages.iter().sum::<u32>() == PAGES, "{pages:?} on nodes {nodes}");
    assert!(pages[0].abs_diff(pages[1]) * 10 < PAGES, "in turn: {pages:?}");
    let listed = read(&format!("/proc/{pid}/numa_maps"));
    let policy = format!("interleave:{nodes}");
    assert!(listed.lines().all(|line| line.split(' ').nth(1) == Some(&policy)), "{listed}");
    stage.settle_on_any(pid, &stage.member_places(1));
    puppet.stop().expect("stop a puppet");
    first.stop().expect("stop a puppet");
    let summary = holder.agent.stop().events.pop().expect("a summary");
    assert_eq!(summary["hold"]["refused"], json!({}), "{summary}");
}
