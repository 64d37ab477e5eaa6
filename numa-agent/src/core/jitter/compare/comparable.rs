//! Whether two recordings can be compared at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use super::{Limits, Side, together};
use crate::core::jitter::{
    recording::{Recording, Run, RunHost, Subject},
    rollup::{Critical, Rollup},
    tokens::{Source, Tokens},
};

/// The threads that matter may be that many times as many on one side.
const MAX_THREADS_RATIO: f64 = 2.0;
/// The share of tokens that come together from which it is worth a word.
const MANY_TOGETHER: f64 = 0.01;
/// What the sides are called.
const NAMES: [&str; 2] = ["base", "bound"];

/// All reasons why a comparison would not mean anything, each with the way out; empty if it does.
#[must_use]
pub fn reasons(sides: &[Side; 2], rollups: &[Rollup; 2], limits: &Limits) -> Vec<String> {
    let recordings = sides.map(|side| side.recording);
    let [base, bound] = recordings;
    let mut reasons = Vec::new();
    if let Some(run) = base.shared_run(bound) {
        let (host, at) = (&run.host.name, &run.started_at);
        return vec![format!(
            "the run on {host} at {at} is in both: give one recording from before and one from after"
        )];
    }
    if let Some(run) = base.runs.iter().find(|run| run.bound) {
        let at = &run.started_at;
        reasons.push(format!(
            "base was recorded at {at} by an agent that bound the threads: are the two files swapped? record it with jitter record and no agent that binds"
        ));
    }
    hosts(base, bound, limits, &mut reasons);
    subjects(base, bound, &mut reasons);
    measured(recordings, &mut reasons);
    threads(recordings, rollups, &mut reasons);
    tokens(sides, limits, &mut reasons);
    reasons
}

/// What the reader should know, though it is no reason not to compare.
pub fn notes(sides: &[Side; 2]) -> Vec<String> {
    let mut notes = Vec::new();
    let versions = sides.map(|side| {
        side.recording.runs.iter().map(|run| run.agent_version.as_str()).collect::<BTreeSet<_>>()
    });
    if versions[0] != versions[1] {
        notes.push(format!(
            "recorded by different versions of numa-agent: {} and {}",
            listed(&versions[0]),
            listed(&versions[1])
        ));
    }
    for missing in sides[1].recording.runs.iter().flat_map(|run| &run.missing).collect::<BTreeSet<_>>() {
        notes.push(format!("not on this kernel: {missing}"));
    }
    for (name, side) in NAMES.iter().zip(sides) {
        let Some(tokens) = side.tokens else { continue };
        notes.extend(tokens.notes.iter().map(|note| format!("{name}: {note}")));
        if tokens.failed > 0 {
            let all = tokens.failed + tokens.requests + tokens.single;
            notes.push(format!("{name}: {} of {all} requests failed, and are left out", tokens.failed));
        }
        let share = together(&tokens.gaps);
        if share > MANY_TOGETHER {
            notes.push(format!(
                "{name}: {:.0} % of the token times are below 0.1 ms: tokens that came together; they make the others look rare",
                share * 100.0
            ));
        }
    }
    notes
}

/// Each host's facts and how long it was recorded, by name.
fn by_host(recording: &Recording) -> BTreeMap<&str, (&RunHost, f64)> {
    let mut hosts: BTreeMap<&str, (&RunHost, f64)> = BTreeMap::new();
    for run in &recording.runs {
        hosts.entry(&run.host.name).or_insert((&run.host, 0.0)).1 += run.seconds;
    }
    hosts
}

fn hosts(base: &Recording, bound: &Recording, limits: &Limits, reasons: &mut Vec<String>) {
    let sides = [by_host(base), by_host(bound)];
    let names = sides.each_ref().map(|hosts| hosts.keys().copied().collect::<BTreeSet<_>>());
    if names[0] != names[1] {
        let [base, bound] = names.each_ref().map(listed);
        reasons
            .push(format!("different hosts: base is of {base}, bound of {bound}; record both on the same"));
    }
    for (name, (before, seconds_before)) in &sides[0] {
        let Some((after, seconds_after)) = sides[1].get(name) else { continue };
        let mut differ = |what: &str, differ: bool, base: &dyn Debug, bound: &dyn Debug| {
            if differ {
                reasons.push(format!(
                    "{name}: another {what}: base has {base:?}, bound {bound:?}; record both on the same"
                ));
            }
        };
        let known = !before.machine_id.is_empty() && !after.machine_id.is_empty();
        let other_machine = known && before.machine_id != after.machine_id;
        differ("machine of that name", other_machine, &before.machine_id, &after.machine_id);
        differ("kernel", before.kernel != after.kernel, &before.kernel, &after.kernel);
        differ("architecture", before.arch != after.arch, &before.arch, &after.arch);
        differ("set of nodes", before.nodes != after.nodes, &before.nodes, &after.nodes);
        differ("set of sockets", before.sockets != after.sockets, &before.sockets, &after.sockets);
        let (short, long) = (seconds_before.min(*seconds_after), seconds_before.max(*seconds_after));
        if long > short * limits.max_length_ratio {
            reasons.push(format!(
                "{name}: of very different length: base {seconds_before:.1} s, bound {seconds_after:.1} s; record both as long, or allow it by --max-length-ratio (now {})",
                limits.max_length_ratio
            ));
        }
    }
    for (side, hosts) in NAMES.iter().zip(&sides) {
        for (name, (_, seconds)) in hosts.iter().filter(|(_, (_, seconds))| *seconds < limits.min_seconds) {
            reasons.push(format!(
                "{side} is too short: {seconds:.1} s on {name}; record at least {} s, or allow less by --min-seconds",
                limits.min_seconds
            ));
        }
    }
}

fn subjects(base: &Recording, bound: &Recording, reasons: &mut Vec<String>) {
    let of = |recording: &Recording| -> Vec<Subject> {
        let mut subjects: Vec<Subject> = Vec::new();
        for run in &recording.runs {
            if !subjects.contains(&run.subject) {
                subjects.push(run.subject.clone());
            }
        }
        subjects
    };
    let (before, after) = (of(base), of(bound));
    let same_names = || names(base) == names(bound);
    match (&before[..], &after[..]) {
        _ if before == after => {}
        ([Subject::Processes { .. }], [Subject::Processes { .. }]) if same_names() => {}
        ([Subject::Processes { what: before }], [Subject::Processes { what: after }]) => reasons.push(format!(
            "of different processes: base of {before}, bound of {after}, and their names differ; record the same service"
        )),
        (
            [Subject::Plan { policy, groups, others }],
            [Subject::Plan { policy: policy_after, groups: groups_after, others: others_after }],
        ) => {
            let changed = groups
                .iter()
                .find(|(name, cpus)| groups_after.get(*name) != Some(*cpus))
                .or_else(|| groups_after.iter().find(|(name, _)| !groups.contains_key(*name)));
            let what = match changed {
                _ if policy != policy_after => format!("{policy} and {policy_after} policy"),
                Some((name, _)) => {
                    let on = |groups: &BTreeMap<String, String>| {
                        groups.get(name).map_or("nowhere".to_owned(), |cpus| format!("on {cpus}"))
                    };
                    format!("{name} is {} in base, {} in bound", on(groups), on(groups_after))
                }
                None => format!("background processes on {others} in base, on {others_after} in bound"),
            };
            reasons.push(format!("different plans: {what}; record both with the same configuration"));
        }
        _ => reasons.push("one has a plan and the other has another or none; record both with the same configuration".to_owned()),
    }
}

/// The names of all processes.
fn names(recording: &Recording) -> BTreeSet<&str> {
    recording.processes.iter().map(|process| process.comm.as_str()).collect()
}

fn measured(recordings: [&Recording; 2], reasons: &mut Vec<String>) {
    let all = |side: usize, list: fn(&Run) -> &Vec<String>| -> BTreeSet<&str> {
        recordings[side].runs.iter().flat_map(list).map(String::as_str).collect()
    };
    let missing = [0, 1].map(|side| all(side, |run| &run.missing));
    for (side, other) in [(0, 1), (1, 0)] {
        for what in missing[side].difference(&missing[other]) {
            let (name, other) = (NAMES[side], NAMES[other]);
            reasons.push(format!("{name} lacks what {other} has measured: {what}; record both with the same numa-agent and kernel"));
        }
        for what in all(side, |run| &run.lost) {
            let name = NAMES[side];
            reasons.push(format!("{name} is not complete: {what}; record again"));
        }
    }
}

fn threads(recordings: [&Recording; 2], rollups: &[Rollup; 2], reasons: &mut Vec<String>) {
    let critical = recordings.map(Critical::of);
    for side in 0..2 {
        if recordings[side].threads.is_empty() {
            reasons.push(format!("{} has no threads; record while the service runs", NAMES[side]));
            return;
        }
    }
    if critical[0] != critical[1] {
        reasons.push(format!(
            "the threads that matter are the {} in base, the {} in bound; record both with the same thread patterns",
            critical[0], critical[1]
        ));
    }
    // On average over the time: threads may come and go.
    let followed = [0, 1].map(|side| {
        let seconds: f64 = recordings[side].runs.iter().map(|run| run.seconds).sum();
        let rollup: &Rollup = &rollups[side];
        rollup.figures.followed_ns as f64 / 1e9 / seconds.max(1e-9)
    });
    let (few, many) = (followed[0].min(followed[1]), followed[0].max(followed[1]));
    if many > few * MAX_THREADS_RATIO {
        reasons.push(format!(
            "not the same work: {:.1} threads that matter at a time in base, {:.1} in bound; record the same number of instances",
            followed[0], followed[1]
        ));
    }
}

fn tokens(sides: &[Side; 2], limits: &Limits, reasons: &mut Vec<String>) {
    let given = |side: usize| sides[side].tokens.filter(|tokens: &&Tokens| tokens.source != Source::Tap);
    for (side, name) in NAMES.iter().enumerate() {
        let Some(tokens) = given(side).filter(|tokens| tokens.gaps.count() < limits.min_gaps) else {
            continue;
        };
        reasons.push(format!(
            "{name} has {} times between tokens, too few for percentiles; run the benchmark for longer, or allow fewer by --min-gaps (now {})",
            tokens.gaps.count(),
            limits.min_gaps
        ));
    }
    if let (Some(base), Some(bound)) = (given(0), given(1))
        && base.source != bound.source
    {
        let (base, bound) = (base.source, bound.source);
        reasons.push(format!(
            "token times are measured in different ways: base's by {base}, bound's by {bound}; measure both in the same"
        ));
    }
}

fn listed(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}
