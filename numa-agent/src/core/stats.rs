//! What the agent did, counted.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    engine::{Bind, Cause},
    event::MigrationCounts,
    hold::Tally,
    metrics::steps::Steps,
    task::{BindOutcome, TaskId, ThreadRole},
};

/// Longest event-to-bound time told apart: a minute, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// How many of the most migrated threads a summary names.
const TOP_MIGRATED: usize = 10;

/// An attempt to bind, as it is counted, each in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// What it came to.
    pub result: &'static str,
    /// What led to it.
    pub cause: &'static str,
    /// The thread's role.
    pub role: &'static str,
}

/// Counters from start to now.
#[derive(Debug, Default)]
pub struct Stats {
    attempts: BTreeMap<Attempt, u64>,
    latency: BTreeMap<&'static str, Histogram<u64>>,
    event_to_bound: BTreeMap<&'static str, Steps>,
    migrations: MigrationCounts,
    /// The most migrated threads, worst first; bounded.
    most_migrated: Vec<Migrated>,
    /// Whether the kernel counts migrations for us: without its program there is no figure, which is not zero.
    pub counts_migrations: bool,
    /// Lines of output that a slow reader made us drop.
    pub lines_dropped: u64,
    /// Scans done, the first included.
    pub scans: u64,
    /// What holding processes at exec came to.
    pub holds: Tally,
    /// What the journal was told.
    pub journaled: Journaled,
    /// Binds that `max_bind_rate` has put off.
    pub deferred: u64,
    /// Warnings said.
    pub warnings: u64,
}

/// What the journal was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Journaled {
    /// Entries written.
    pub entries: u64,
    /// Tries to write that failed.
    pub failures: u64,
    /// Entries that wait to be written; the masks that they tell of have been changed already.
    pub waiting: u64,
    /// Entries for which there was no room even to wait.
    pub lost: u64,
}

#[derive(Debug, Clone)]
struct Migrated {
    pid: u32,
    tid: u32,
    comm: String,
    role: &'static str,
    counts: MigrationCounts,
}

impl Stats {
    /// Counts one attempt to bind, answered `latency_ns` after its event where it answers one.
    pub fn bound(&mut self, bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) {
        self.attempted(outcome, &bind.cause, bind.role);
        let cause = bind.cause.name();
        if let (BindOutcome::Bound(_), Some(latency_ns)) = (outcome, latency_ns) {
            let histogram = self.latency.entry(cause).or_insert_with(new_histogram);
            histogram.saturating_record(latency_ns);
            self.event_to_bound.entry(cause).or_default().add(latency_ns);
        }
    }

    /// One that there was nothing to be done for: the thread was gone.
    pub fn gone(&mut self, cause: &Cause, role: ThreadRole) {
        self.attempted(&BindOutcome::Gone, cause, role);
    }

    fn attempted(&mut self, outcome: &BindOutcome, cause: &Cause, role: ThreadRole) {
        let (result, cause, role) = (outcome.name(), cause.name(), role.name());
        *self.attempts.entry(Attempt { result, cause, role }).or_default() += 1;
    }

    /// Adds a thread's migration counts, once for each thread: when it ended, or at the end of it all.
    pub fn migrated(
        &mut self,
        task: TaskId,
        pid: u32,
        comm: &str,
        role: &'static str,
        counts: MigrationCounts,
    ) {
        self.migrations.cpu += counts.cpu;
        self.migrations.node += counts.node;
        let rank = |counts: &MigrationCounts| (counts.node, counts.cpu);
        let place = self.most_migrated.partition_point(|worse| rank(&worse.counts) >= rank(&counts));
        if counts.cpu > 0 && place < TOP_MIGRATED {
            self.most_migrated
                .insert(place, Migrated { pid, tid: task.tid, comm: comm.to_owned(), role, counts });
            self.most_migrated.truncate(TOP_MIGRATED);
        }
    }

    /// How often the attempts to bind came to that result.
    #[must_use]
    pub fn count(&self, result: &str) -> u64 {
        self.results().get(result).copied().unwrap_or(0)
    }

    /// Attempts to bind, by what they came to.
    #[must_use]
    pub fn results(&self) -> BTreeMap<&'static str, u64> {
        summed(self.attempts.iter().map(|(attempt, count)| (attempt.result, count)))
    }

    /// Masks set, by what led to it.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<&'static str, u64> {
        let bound = self.attempts.iter().filter(|(attempt, _)| attempt.result == "bound");
        summed(bound.map(|(attempt, count)| (attempt.cause, count)))
    }

    /// Attempts to bind.
    #[must_use]
    pub fn attempts(&self) -> &BTreeMap<Attempt, u64> {
        &self.attempts
    }

    /// From an event to the mask in force, by what the event was.
    #[must_use]
    pub fn event_to_bound(&self) -> &BTreeMap<&'static str, Steps> {
        &self.event_to_bound
    }

    /// All of it as JSON: times in microseconds.
    #[must_use]
    pub fn json(&self) -> Value {
        let latency = self.latency.iter().map(|(cause, histogram)| {
            let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            let figures = json!({
                "count": histogram.len(), "p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "max": histogram.max() as f64 / 1000.0,
            });
            ((*cause).to_owned(), figures)
        });
        json!({
            "results": self.results(),
            "bound_by_cause": self.causes(),
            "event_to_bound_us": latency.collect::<serde_json::Map<_, _>>(),
            "migrations": self.migrations_json(),
            "scans": self.scans,
            "hold": self.holds,
            "journal": self.journaled,
            "deferred": self.deferred,
            "output_lines_dropped": self.lines_dropped,
        })
    }

    /// For people: what [`Stats::json`] says, in a few lines. Names are as their owners chose them: escape the lines.
    #[must_use]
    pub fn text(&self) -> String {
        let results: Vec<String> =
            self.results().iter().map(|(result, count)| format!("{count} {result}")).collect();
        let mut lines = vec![format!(
            "summary: {}",
            if results.is_empty() { "nothing to bind".into() } else { results.join(", ") }
        )];
        for (cause, histogram) in &self.latency {
            let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            let (count, p50, p99, max) =
                (histogram.len(), us(0.5), us(0.99), histogram.max() as f64 / 1000.0);
            lines.push(format!(
                "  {cause}: {count} bound, event to bound p50 {p50:.0} us, p99 {p99:.0} us, max {max:.0} us"
            ));
        }
        let Journaled { entries, failures, waiting, lost } = self.journaled;
        if failures > 0 {
            lines.push(format!(
                "  journal: {entries} entries, {failures} failures, {waiting} never written, {lost} dropped"
            ));
        }
        lines.extend(self.holds.text().map(|text| format!("  at exec: {text}")));
        if !self.counts_migrations {
            lines.push("  migrations: not counted on this kernel, see `numa-agent doctor`".to_owned());
            return lines.join("\n");
        }
        let MigrationCounts { cpu, node } = self.migrations;
        lines.push(format!("  migrations while managed: {cpu} between CPUs, {node} of them between nodes"));
        lines.extend(self.most_migrated.iter().take(3).map(|migrated| {
            let MigrationCounts { cpu, node } = migrated.counts;
            // A name may have a line's end in it; who prints the lines escapes the rest.
            let (tid, comm, role) = (migrated.tid, migrated.comm.replace('\n', "\\n"), migrated.role);
            format!("    {tid} {comm} ({role}): {cpu}, of them {node}")
        }));
        lines.join("\n")
    }

    /// `null` where they are not counted.
    fn migrations_json(&self) -> Value {
        if !self.counts_migrations {
            return Value::Null;
        }
        let top = self.most_migrated.iter().map(|migrated| {
            json!({
                "pid": migrated.pid, "tid": migrated.tid, "comm": migrated.comm, "role": migrated.role,
                "cpu": migrated.counts.cpu, "node": migrated.counts.node,
            })
        });
        json!({ "cpu": self.migrations.cpu, "node": self.migrations.node, "top": top.collect::<Vec<_>>() })
    }
}

fn summed<'a>(counts: impl Iterator<Item = (&'static str, &'a u64)>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    counts.for_each(|(name, count)| *sums.entry(name).or_default() += count);
    sums
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("constant bounds that hdrhistogram accepts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{engine::Cause, idset::CpuSet, task::ThreadRole};

    fn bind(cause: Cause) -> Bind {
        Bind {
            pid: 1,
            task: TaskId { tid: 1, start_time: 1 },
            comm: "worker".into(),
            role: ThreadRole::Member,
            group: None,
            cpus: CpuSet::new(),
            cause,
            at_ns: Some(0),
            seen_ns: 0,
        }
    }

    #[test]
    fn percentiles_are_of_what_was_bound_by_an_event() {
        let mut stats = Stats::default();
        for us in 1..=100 {
            stats.bound(&bind(Cause::Exec), &BindOutcome::Bound(CpuSet::new()), Some(us * 1000));
        }
        stats.bound(&bind(Cause::Exec), &BindOutcome::Unchanged(CpuSet::new()), Some(9_000_000));
        stats.bound(&bind(Cause::Scan), &BindOutcome::Bound(CpuSet::new()), None);
        let json = stats.json();
        assert_eq!(json["results"], serde_json::json!({"bound": 101, "unchanged": 1}));
        assert_eq!(json["event_to_bound_us"]["exec"]["count"], 100);
        let p50 = json["event_to_bound_us"]["exec"]["p50"].as_f64().unwrap();
        assert!((49.9..50.2).contains(&p50), "{p50}");
        assert!(json["event_to_bound_us"].get("scan").is_none());
    }

    #[test]
    fn migrations_are_summed_and_the_worst_come_first() {
        let mut stats = Stats::default();
        assert_eq!(stats.json()["migrations"], Value::Null, "no program, no figure");
        assert!(stats.text().contains("not counted"), "{}", stats.text());
        stats.counts_migrations = true;
        for tid in 1..=12 {
            let counts = MigrationCounts { cpu: 100, node: u64::from(tid) };
            stats.migrated(TaskId { tid, start_time: 0 }, 1, "t", "member", counts);
        }
        let json = stats.json();
        assert_eq!(
            (json["migrations"]["cpu"].as_u64(), json["migrations"]["node"].as_u64()),
            (Some(1200), Some(78))
        );
        assert_eq!(json["migrations"]["top"][0]["tid"], 12);
        assert_eq!(json["migrations"]["top"].as_array().unwrap().len(), 10);
    }
}
