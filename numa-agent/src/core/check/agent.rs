//! What the agent that answers tells: whether it goes by the plan that is checked, and who is a forward thread.

use std::collections::BTreeMap;

use crate::core::{
    engine::Engine,
    idset::CpuSet,
    task::{TaskId, ThreadRole},
    view::{self, Snapshot, Status},
};

/// What differs, in words; nothing if it goes by this plan. `lives`: whether a process that the agent does not know is still there.
///
/// An agent that was told of processes which no plan here knows is no other plan's: it remembers what they were at exec.
#[must_use]
pub fn differences(status: &Status, engine: &Engine, lives: impl Fn(TaskId) -> bool) -> Vec<String> {
    let plan = engine.plan();
    let Some(policy) = &status.agent.policy else { return vec!["it has none".to_owned()] };
    let mut differs = Vec::new();
    let mut differ = |what: &str, theirs: &str, ours: &str| {
        if theirs != ours {
            differs.push(format!("{what}: {theirs} there, {ours} here"));
        }
    };
    differ("policy", policy, &plan.policy.to_string());
    let theirs: BTreeMap<&str, &view::Group> =
        status.groups.iter().map(|group| (group.name.as_str(), group)).collect();
    for group in &plan.groups {
        let known = theirs.get(group.name.as_str());
        let cpus =
            |of: fn(&view::Group) -> &CpuSet| known.map_or("none".to_owned(), |group| of(group).to_string());
        differ(&group.name, &cpus(|group| &group.members.cpus), &group.primary_cpus.to_string());
        let Some(known) = known else { continue };
        differ(
            &format!("forward threads of {}", group.name),
            &known.forward.cpus.to_string(),
            &group.forward_cpus.to_string(),
        );
        let memory = |policy: Option<String>| policy.unwrap_or_else(|| "none".to_owned());
        differ(
            &format!("memory of {}", group.name),
            &memory(known.memory.clone()),
            &memory(group.memory_policy().map(|policy| policy.to_string())),
        );
    }
    let is_ours = |name: &str| plan.groups.iter().any(|group| group.name == name);
    for group in status.groups.iter().filter(|group| !is_ours(&group.name)) {
        differ(&group.name, &group.members.cpus.to_string(), "none");
    }
    let others = status.others.as_ref().map_or("none".to_owned(), |others| others.cpus.to_string());
    differ("background processes", &others, &plan.others.cpus.to_string());
    differs.extend(seats(status, engine, lives));
    differs
}

/// The processes of the plan that the agent has elsewhere, or does not know. Groups of the same CPUs are one place.
fn seats(status: &Status, engine: &Engine, lives: impl Fn(TaskId) -> bool) -> Vec<String> {
    type Seat<'a> = (&'a str, [&'a CpuSet; 2]);
    let background = |cpus| -> Seat { ("background", [cpus, cpus]) };
    let none = CpuSet::new();
    let in_groups = status.groups.iter().flat_map(|group| {
        let seat: Seat = (&group.name, [&group.members.cpus, &group.forward.cpus]);
        group.processes.iter().map(move |process| (process, seat))
    });
    let others = background(status.others.as_ref().map_or(&none, |others| &others.cpus));
    let seats: BTreeMap<TaskId, Seat> = in_groups
        .chain(status.background.iter().map(|process| (process, others)))
        .map(|(process, seat)| (TaskId { tid: process.pid, start_time: process.start_time }, seat))
        .collect();
    let mut differs = Vec::new();
    for process in engine.processes() {
        let id = process.facts.id();
        let (name, cpus): Seat = match engine.group_of(process) {
            Some(group) => (&group.name, [&group.primary_cpus, &group.forward_cpus]),
            None => background(&engine.plan().others.cpus),
        };
        let there = match seats.get(&id) {
            Some((_, theirs)) if *theirs == cpus => continue,
            Some((there, _)) if *there == name => continue,
            Some((there, _)) => there,
            None if lives(id) => "unknown",
            None => continue,
        };
        differs.push(format!("pid {} ({}): {there} there, {name} here", id.tid, process.facts.comm));
    }
    differs
}

/// Takes over who is a forward thread by the device that it uses, which only the agent has seen. How many more of those it counts than it lists.
pub fn learn_forward(engine: &mut Engine, snapshot: &Snapshot) -> u64 {
    let listed = snapshot.threads.iter().filter(|thread| thread.role == ThreadRole::Forward);
    listed.for_each(|thread| engine.uses_device(thread.pid, thread.task()));
    if engine.settings().forward_thread_devices.is_empty() {
        return 0;
    }
    let threads = engine.processes().flat_map(|process| process.threads.values());
    let known = threads.filter(|thread| thread.role == ThreadRole::Forward).count() as u64;
    snapshot.critical.threads.saturating_sub(known)
}
