//! Processes held between exec and their first instruction: what they see of it, and that nobody stays stopped, whoever dies.

mod cases;
mod faults;
mod first;
mod memory;
mod storm;

use std::{
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use numa_agent_tests::{
    holder::{Held, Holder, LONG_MS, blink, is_gone, is_release_of, next_guard, signal},
    stopped::{elf_entry, program_counter, state},
};

use super::*;

/// An agent that holds, with more keys.
fn hold_with(stage: &Stage, keys: &Value) -> Holder {
    Holder::start(stage, stage.config(), keys, || stage.agent())
}

/// The same for as long as any test waits.
fn hold(stage: &Stage) -> Holder {
    hold_with(stage, &json!({}))
}

/// An agent that sets memory policies too.
fn inject(stage: &Stage) -> Holder {
    hold_with(stage, &json!({ "memory": { "apply": "inject" } }))
}

/// The nodes of this machine that have memory: the made-up machine of the plan has two, and the kernel leaves out those that it lacks.
fn nodes() -> NodeSet {
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory").unwrap();
    nodes.trim().parse::<NodeSet>().unwrap().intersection(&"0-1".parse().unwrap())
}

/// The policy that workers get, as the kernel says it.
fn injected() -> String {
    format!("interleave:{}", nodes())
}

/// The first look of each worker, which has to be on plan: mask and CPU.
fn assert_on_plan_from_the_first_look(stage: &Stage, workers: usize) {
    let records = stage.records();
    let first = records.iter().filter(|look| look.role == "worker" && look.point == Point::Main);
    let mut seen = 0;
    for look in first {
        assert!(look.cpus == stage.members && stage.members.contains(look.cpu), "{look:?}");
        seen += 1;
    }
    assert_eq!(seen, workers);
}
