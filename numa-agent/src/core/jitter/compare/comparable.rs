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
    threads(recordings, &mut reasons);
    work(sides, rollups, limits, &mut reasons);
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
        let details = side.recording.runs.iter().flat_map(|run| &run.lost_detail).collect::<BTreeSet<_>>();
        notes.extend(details.iter().map(|detail| format!("{name}: {detail}")));
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

/// A host's runs, in a recording.
struct Host<'a> {
    runs: Vec<&'a Run>,
    seconds: f64,
}

impl Host<'_> {
    /// What runs say of one thing; several, where they differ.
    fn all<T: Ord>(&self, of: impl Fn(&RunHost) -> &T) -> BTreeSet<&T> {
        self.runs.iter().map(|run| of(&run.host)).collect()
    }
}

/// Each host's runs, by name.
fn by_host(recording: &Recording) -> BTreeMap<&str, Host<'_>> {
    let mut hosts: BTreeMap<&str, Host<'_>> = BTreeMap::new();
    for run in &recording.runs {
        let host = hosts.entry(&run.host.name).or_insert_with(|| Host { runs: Vec::new(), seconds: 0.0 });
        host.runs.push(run);
        host.seconds += run.seconds;
    }
    hosts
}

/// One thing that must be the same in all runs of a host, those of one side included.
fn same<T: Ord + Debug>(name: &str, what: &str, [base, bound]: [BTreeSet<&T>; 2], reasons: &mut Vec<String>) {
    if base.union(&bound).count() > 1 {
        let said =
            |all: BTreeSet<&T>| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" and ");
        let (base, bound) = (said(base), said(bound));
        reasons
            .push(format!("{name}: another {what}: base has {base}, bound {bound}; record both on the same"));
    }
}

fn hosts(base: &Recording, bound: &Recording, limits: &Limits, reasons: &mut Vec<String>) {
    let sides = [by_host(base), by_host(bound)];
    let names = sides.each_ref().map(|hosts| hosts.keys().copied().collect::<BTreeSet<_>>());
    if names[0] != names[1] {
        let [base, bound] = names.each_ref().map(listed);
        reasons
            .push(format!("different hosts: base is of {base}, bound of {bound}; record both on the same"));
    }
    for (name, before) in &sides[0] {
        let Some(after) = sides[1].get(name) else { continue };
        let both = [before, after];
        let ids = both.map(|host| {
            let ids = host.all(|host| &host.machine_id);
            ids.into_iter().filter(|id| !id.is_empty()).collect()
        });
        same(name, "machine of that name", ids, reasons);
        same(name, "kernel", both.map(|host| host.all(|host| &host.kernel)), reasons);
        same(name, "architecture", both.map(|host| host.all(|host| &host.arch)), reasons);
        same(name, "set of nodes", both.map(|host| host.all(|host| &host.nodes)), reasons);
        same(name, "set of sockets", both.map(|host| host.all(|host| &host.sockets)), reasons);
        let [seconds_before, seconds_after] = both.map(|host| host.seconds);
        let (short, long) = (seconds_before.min(seconds_after), seconds_before.max(seconds_after));
        if long > short * limits.max_length_ratio {
            reasons.push(format!(
                "{name}: of very different length: base {seconds_before:.1} s, bound {seconds_after:.1} s; record both as long, or allow it by `jitter compare --max-length-ratio` (now {})",
                limits.max_length_ratio
            ));
        }
    }
    for (side, hosts) in NAMES.iter().zip(&sides) {
        for (name, Host { seconds, .. }) in hosts.iter().filter(|(_, host)| host.seconds < limits.min_seconds)
        {
            reasons.push(format!(
                "{side} is too short: {seconds:.1} s on {name}; record at least {} s, or allow less by `jitter compare --min-seconds`",
                limits.min_seconds
            ));
        }
    }
}

/// What was followed, host by host and in any order.
fn subjects(base: &Recording, bound: &Recording, reasons: &mut Vec<String>) {
    let sides = [by_host(base), by_host(bound)];
    for (host, before) in &sides[0] {
        let Some(after) = sides[1].get(host) else { continue };
        let [before, after] =
            [before, after].map(|host| host.runs.iter().map(|run| &run.subject).collect::<BTreeSet<_>>());
        let Some(reason) = subjects_of(&before, &after, || names(base, host) == names(bound, host)) else {
            continue;
        };
        reasons.push(if sides[0].len() > 1 { format!("{host}: {reason}") } else { reason });
    }
}

fn subjects_of(
    before: &BTreeSet<&Subject>,
    after: &BTreeSet<&Subject>,
    same_names: impl FnOnce() -> bool,
) -> Option<String> {
    let processes = |all: &BTreeSet<&Subject>| -> Option<String> {
        let what = all.iter().map(|subject| match subject {
            Subject::Processes { what } => Some(what.as_str()),
            Subject::Plan { .. } => None,
        });
        what.collect::<Option<Vec<_>>>().map(|all| all.join(" and "))
    };
    // A pid may be another's by now: what counts is the names.
    if let (Some(before), Some(after)) = (processes(before), processes(after)) {
        return (!same_names()).then(|| format!(
            "of different processes: base of {before}, bound of {after}, and their names differ; record the same service"
        ));
    }
    if before == after {
        return None;
    }
    let (mut first, mut second) = (before.iter(), after.iter());
    let (
        Some(Subject::Plan { policy, groups, others }),
        Some(Subject::Plan { policy: policy_after, groups: groups_after, others: others_after }),
        None,
        None,
    ) = (first.next(), second.next(), first.next(), second.next())
    else {
        let words =
            "one has a plan and the other has another or none; record both with the same configuration";
        return Some(words.to_owned());
    };
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
    Some(format!("different plans: {what}; record both with the same configuration"))
}

/// The names of all processes of a host.
fn names<'a>(recording: &'a Recording, host: &str) -> BTreeSet<&'a str> {
    let of_host = |run: usize| recording.runs.get(run).is_some_and(|run| run.host.name == host);
    let processes = recording.processes.iter().filter(|process| of_host(process.run));
    processes.map(|process| process.comm.as_str()).collect()
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

fn threads(recordings: [&Recording; 2], reasons: &mut Vec<String>) {
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
}

/// Whether both did the same, by what they did in a second. A service with less to do has less jitter, bound or not.
fn work(sides: &[Side; 2], rollups: &[Rollup; 2], limits: &Limits, reasons: &mut Vec<String>) {
    let seconds = sides.map(|side| side.recording.runs.iter().map(|run| run.seconds).sum::<f64>().max(1e-9));
    let rate = |of: [f64; 2]| [of[0] / seconds[0], of[1] / seconds[1]];
    let ratio = limits.max_work_ratio;
    let apart = |[base, bound]: [f64; 2]| base.max(bound) > base.min(bound) * ratio;
    let mut check = |[base, bound]: [f64; 2], what: &str, way_out: &str| {
        if apart([base, bound]) {
            reasons.push(format!(
                "not the same work: {base:.1} {what} in base, {bound:.1} in bound; {way_out}, or allow it by `jitter compare --max-work-ratio` (now {ratio})"
            ));
        }
    };
    // On average over the time: threads may come and go.
    let followed = rate(rollups.each_ref().map(|rollup| rollup.figures.followed_ns as f64 / 1e9));
    check(followed, "threads that matter at a time", "record the same number of instances");
    let ran = rate(rollups.each_ref().map(|rollup| rollup.figures.run_ns as f64 / 1e7));
    check(ran, "% of a CPU used by the threads that matter", "record both under the same load");
    let [Some(base), Some(bound)] = sides.map(|side| side.tokens) else { return };
    let requests = [base, bound].map(|tokens| tokens.requests as f64);
    // As many in another time, or as many a second for another time, may be the same work.
    if apart(rate(requests)) {
        check(requests, "requests", "run the same benchmark");
    }
    let gaps = rate([base, bound].map(|tokens| tokens.gaps.count() as f64));
    check(gaps, "times between tokens a second", "record both under the same load, for as long as it lasts");
}

/// Requests that failed, as a share of all.
fn failed(tokens: &Tokens) -> f64 {
    tokens.failed as f64 / (tokens.failed + tokens.requests + tokens.single).max(1) as f64
}

fn tokens(sides: &[Side; 2], limits: &Limits, reasons: &mut Vec<String>) {
    let given = |side: usize| sides[side].tokens.filter(|tokens: &&Tokens| tokens.source != Source::Tap);
    for (side, name) in NAMES.iter().enumerate() {
        let Some(tokens) = given(side).filter(|tokens| tokens.gaps.count() < limits.min_gaps) else {
            continue;
        };
        reasons.push(format!(
            "{name} has {} times between tokens, too few for percentiles; run the benchmark for longer, or allow fewer by `jitter compare --min-gaps` (now {})",
            tokens.gaps.count(),
            limits.min_gaps
        ));
    }
    for (name, tokens) in NAMES.iter().zip(sides.map(|side| side.tokens)) {
        let Some(tokens) = tokens.filter(|tokens| failed(tokens) > limits.max_failed) else { continue };
        reasons.push(format!(
            "{:.1} % of {name}'s requests failed; find out why and run the benchmark again, or allow it by `jitter compare --max-failed` (now {}%)",
            failed(tokens) * 100.0,
            limits.max_failed * 100.0
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
