//! The report for programs: every thread, rolled up too, with percentiles in place of histograms.
//!
//! Field names and meaning are a contract (`"schema": 1`): fields may be added, none may change. Times are nanoseconds where
//! the name ends in `_ns`. `null` is "not measured", or a percentile of nothing; it is never zero.
//!
//! | Field | What |
//! | --- | --- |
//! | `schema`, `kind` | 1, `"numa-agent jitter report"` |
//! | `runs` | hosts, times, subject, `missing`, `lost` and `lost_detail`, as in the recording ([`Run`]) |
//! | `complete` | whether nothing is in any run's `missing` or `lost` |
//! | `planned` | whether a plan told where threads belong; else off node is off a thread's own home |
//! | `critical` | the threads that matter most together; `of`: `forward`, `members` (of groups, there are no forward threads) or `all` |
//! | `total` | all threads together |
//! | `roles` | by role (`forward`, `member`, `other`) |
//! | `groups` | by `group` (`null` for those without one) and `role` |
//! | `processes` | `run` (index into `runs`), `pid`, `start_time`, `comm`, `cmdline`, `role`, `group`, `memory` (bytes by node), and its threads together |
//! | `threads` | `run`, `pid`, `tid`, `start_time`, `comm`, `role`, `group`, `home_nodes`, `ended`, and what was measured; those that waited longest first |
//! | `intervals` | as in the recording ([`Interval`](crate::core::jitter::recording::Interval)) |
//! | `intruders` | by `cpu`: `who` ran on CPUs of critical threads |
//! | `connections` | `run`, `pid`, `comm`, `local_port`, `remote_port`, number of `answers`, percentiles of the `gaps` between sends (exact), without the time to an answer's second send |
//!
//! Threads together have `threads` (how many), and all have these: `followed_ns`, `run_ns`, `node_ns` (by node), `off_node`
//! (`ns`, `share` of the CPU time, `runs`, `longest_ns`, `first_at_ns`, `last_at_ns`), `off_plan_ns`, `before_bind_ns`,
//! `migrations` (`total`, `between_nodes`, `by_cause`, `by_span`, `matrix`), durations (`wait`: both kinds together,
//! `wake_wait`, `preempt_wait`, `slice`, `gap`), `preemptors` (`comm`, `ns`, `count`), `irq` and `softirq` (`ns`, `count`,
//! `max_ns`), `numa_balancing` (`moves`, `swaps`). Durations are `count`, `total_ns`, `mean_ns`, `p50_ns`, `p90_ns`, `p99_ns`,
//! `p999_ns`, `max_ns`.

use serde_json::{Map, Value, json};

use super::{
    digest::{Digest, Part, ThreadView},
    tables::gaps,
};
use crate::{
    core::jitter::{
        distribution::{Distribution, Percentiles},
        recording::{Connection, Recording, Run},
        rollup::{self, Critical, ProcessKey, Rollup},
    },
    report::json::print,
};

/// Version of the format.
pub const SCHEMA: u32 = 1;

/// The report as JSON, safe to print in a terminal.
#[must_use]
pub fn json(recording: &Recording) -> String {
    let digest = Digest::new(recording);
    let roles: Map<String, Value> =
        digest.roles.iter().map(|(role, together)| (role.0.name().into(), part(together))).collect();
    let groups = digest.groups.iter().map(|((group, role), together)| {
        with(json!({"group": group, "role": role.0.name()}), part(together))
    });
    let whole = |run: &Run| run.lost.is_empty() && run.missing.is_empty();
    print(&json!({
        "schema": SCHEMA,
        "kind": "numa-agent jitter report",
        "runs": recording.runs,
        "complete": recording.runs.iter().all(whole),
        "planned": digest.planned(),
        "critical": with(json!({"of": critical_of(digest.critical.0)}), part(&digest.critical.1)),
        "total": part(&digest.all),
        "roles": roles,
        "groups": groups.collect::<Vec<_>>(),
        "processes": processes(recording),
        "threads": digest.threads.iter().map(thread).collect::<Vec<_>>(),
        "intervals": recording.intervals,
        "intruders": recording.intruders,
        "connections": recording.connections.iter().map(connection).collect::<Vec<_>>(),
    }))
}

/// Threads together.
pub(super) fn part(part: &Part) -> Value {
    with(json!({"threads": part.rollup.threads}), figures(&part.rollup, part.wait))
}

/// Each with its threads; a pid without a record too.
fn processes(recording: &Recording) -> Vec<Value> {
    let mut rollups = rollup::by_process(recording);
    for (index, process) in recording.processes.iter().enumerate() {
        let key = ProcessKey { run: process.run, pid: process.pid, process: Some(index) };
        rollups.entry(key).or_default();
    }
    let process = |(key, rollup): (ProcessKey, Rollup)| {
        let record = key.process.and_then(|index| recording.processes.get(index));
        let about = record.map_or_else(|| json!({"run": key.run, "pid": key.pid}), |record| json!(record));
        with(about, part(&rollup.into()))
    };
    rollups.into_iter().map(process).collect()
}

fn critical_of(critical: Critical) -> &'static str {
    match critical {
        Critical::Forward => "forward",
        Critical::Members => "members",
        Critical::All => "all",
    }
}

fn thread(view: &ThreadView) -> Value {
    let thread = view.thread;
    let about = json!({
        "run": thread.run,
        "pid": thread.pid,
        "tid": thread.tid,
        "start_time": thread.start_time,
        "comm": thread.comm,
        "role": thread.role,
        "group": thread.group,
        "home_nodes": thread.home_nodes,
        "ended": thread.ended,
    });
    with(about, figures(&Rollup::of([thread]), view.wait))
}

fn figures(rollup: &Rollup, wait: Option<Percentiles>) -> Value {
    let of = &rollup.figures;
    let off_node = of.off_node.map(|off| with(json!({"share": rollup.off_node_share()}), json!(off)));
    let migrations = of.migrations.as_ref().map(|moves| {
        with(json!({"total": moves.total(), "between_nodes": moves.between_nodes()}), json!(moves))
    });
    json!({
        "followed_ns": of.followed_ns,
        "run_ns": of.run_ns,
        "node_ns": of.node_ns,
        "off_node": off_node,
        "off_plan_ns": of.off_plan_ns,
        "before_bind_ns": of.before_bind_ns,
        "migrations": migrations,
        "wait": durations(&of.wait(), wait),
        "wake_wait": durations(&of.wake_wait, of.wake_wait.percentiles()),
        "preempt_wait": durations(&of.preempt_wait, of.preempt_wait.percentiles()),
        "slice": durations(&of.slice, of.slice.percentiles()),
        "gap": durations(&of.gap, of.gap.percentiles()),
        "preemptors": of.preemptors,
        "irq": of.irq,
        "softirq": of.softirq,
        "numa_balancing": of.numa_balancing,
    })
}

fn durations(of: &Distribution, percentiles: Option<Percentiles>) -> Value {
    let sum = json!({"count": of.count, "total_ns": of.total_ns, "mean_ns": of.mean_ns()});
    with(sum, all_of(percentiles))
}

fn connection(of: &Connection) -> Value {
    let count = of.token_gaps().flatten().count();
    json!({
        "run": of.run,
        "pid": of.pid,
        "comm": of.comm,
        "local_port": of.local_port,
        "remote_port": of.remote_port,
        "answers": of.answers.len(),
        "gaps": with(json!({"count": count}), all_of(gaps(of))),
    })
}

/// All of them, `null` each where there is none.
fn all_of(percentiles: Option<Percentiles>) -> Value {
    let at = |of: fn(&Percentiles) -> u64| percentiles.as_ref().map(of);
    json!({
        "p50_ns": at(|of| of.p50_ns),
        "p90_ns": at(|of| of.p90_ns),
        "p99_ns": at(|of| of.p99_ns),
        "p999_ns": at(|of| of.p999_ns),
        "max_ns": at(|of| of.max_ns),
    })
}

/// The fields of both.
fn with(mut these: Value, those: Value) -> Value {
    if let (Value::Object(these), Value::Object(those)) = (&mut these, those) {
        these.extend(those);
    }
    these
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    fn parsed(recording: &Recording) -> Value {
        serde_json::from_str(&json(recording)).expect("JSON")
    }

    #[test]
    fn every_thread_is_there_and_parts_add_up() {
        let recording = synthetic::a3();
        let report = parsed(&recording);
        assert_eq!((&report["schema"], &report["complete"]), (&json!(1), &json!(false)));
        let run_ns = |list: &Value| -> u64 {
            list.as_array().unwrap().iter().map(|part| part["run_ns"].as_u64().unwrap()).sum()
        };
        let total = recording.threads.iter().map(|thread| thread.figures.run_ns).sum::<u64>();
        assert_eq!(report["threads"].as_array().unwrap().len(), recording.threads.len());
        assert_eq!(report["total"]["run_ns"], json!(total));
        assert_eq!(["threads", "processes", "groups"].map(|list| run_ns(&report[list])), [total; 3]);
        let forward = &report["roles"]["forward"];
        let waits = recording.threads.iter().filter(|t| t.role.name() == "forward");
        let waits: Vec<Distribution> = waits.map(|thread| thread.figures.wait()).collect();
        assert_eq!(forward["wait"]["count"], json!(waits.iter().map(|wait| wait.count).sum::<u64>()));
        assert_eq!(forward["wait"]["max_ns"], json!(waits.iter().map(|wait| wait.max_ns).max()));
        assert!(!json(&recording).contains("buckets"));
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let report = parsed(&synthetic::two_cpus());
        assert_eq!(report["roles"]["member"]["irq"], Value::Null);
        assert_eq!(report["threads"][0]["off_plan_ns"], Value::Null);
        let nothing = parsed(&synthetic::nothing());
        assert_eq!((&nothing["critical"]["of"], &nothing["critical"]["threads"]), (&json!("all"), &json!(0)));
        assert_eq!(nothing["total"]["wait"]["p999_ns"], Value::Null);
        assert_eq!(nothing["total"]["wait"]["count"], json!(0));
    }
}
