//! What the agent exports as metrics: values at one moment. `report::metrics` makes them into text.
//!
//! Counters only grow while the agent lives: what a thread adds counts for the group and role that it has by then, and stays there
//! when the thread or the group is gone.

pub mod steps;

use std::collections::BTreeMap;

use super::{
    engine::{Cause, Drifted, Engine},
    health::DropCounts,
    hold::{By, End, Tally},
    jitter::{
        account::Measured,
        observer::Unattributed,
        totals::{ThreadTotal, Total},
    },
    stats::{Attempt, Journaled, Stats},
    task::{BindOutcome, ThreadRole},
};
use steps::Steps;

/// A group, `None` for background processes, and a role within it.
pub type Place = (Option<String>, ThreadRole);

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Whether it binds, or only looks.
    pub enforcing: bool,
    /// Kernel programs that this kernel did not take.
    pub missing_programs: u64,
    /// What is measured.
    pub measured: Measured,
    /// Managed processes by group.
    pub processes: BTreeMap<Option<String>, u64>,
    /// Their threads.
    pub threads: BTreeMap<Place, u64>,
    /// What was measured of threads, those that ended included.
    pub totals: BTreeMap<Place, Total>,
    /// Attempts to bind.
    pub attempts: BTreeMap<Attempt, u64>,
    /// Threads that stay where they are because they are real-time or deadline threads.
    pub spared: BTreeMap<Place, u64>,
    /// Masks that others changed, and what came of it.
    pub drifted: BTreeMap<Place, Drifted>,
    /// Binds that were put off, because there were too many a second.
    pub deferred: u64,
    /// Those of them that wait now.
    pub waiting: u64,
    /// What the journal was told; `None` without one.
    pub journaled: Option<Journaled>,
    /// From an event to the mask in force, by what the event was.
    pub event_to_bound: BTreeMap<&'static str, Steps>,
    /// What was lost in the kernel.
    pub lost: DropCounts,
    /// Events that made no sense.
    pub unreadable: u64,
    /// Lines of output that a slow reader made the agent drop.
    pub lines_dropped: u64,
    /// Scans done.
    pub scans: u64,
    /// What holding processes at exec came to.
    pub holds: Tally,
    /// Threads that ended before it was known whose they were.
    pub unattributed: Unattributed,
    /// Threads that were born where they belong, and ended before anybody was told of them.
    pub untold: Unattributed,
    /// Warnings said.
    pub warnings: u64,
    /// Places of the plan that cpusets cut now.
    pub cuts: u64,
    /// Threads one by one, where that was asked for.
    pub listed: Vec<ThreadTotal>,
    /// Those for which there was no room among them.
    pub unlisted: u64,
}

/// What the agent's own process takes, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// CPU time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Virtual memory in bytes.
    pub virtual_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The most of these that it may have.
    pub max_fds: Option<u64>,
    /// Its threads.
    pub threads: Option<u64>,
    /// When it started, in seconds since 1970.
    pub started_at_seconds: Option<f64>,
}

impl Sample {
    /// What engine and counters say; the caller adds what is measured and lost.
    #[must_use]
    pub fn new(engine: &Engine, stats: &Stats) -> Self {
        let mut sample = Self {
            attempts: stats.attempts().clone(),
            drifted: engine.drifted().clone(),
            deferred: stats.deferred,
            event_to_bound: stats.event_to_bound().clone(),
            lines_dropped: stats.lines_dropped,
            scans: stats.scans,
            holds: stats.holds.clone(),
            warnings: stats.warnings,
            cuts: engine.cuts() as u64,
            ..Self::default()
        };
        // From the beginning, what people are to hear of is there: a rate needs a zero to start from.
        for (result, cause) in
            ["bound", "failed"].into_iter().flat_map(|result| Cause::NAMES.map(|cause| (result, cause)))
        {
            for role in [ThreadRole::Member, ThreadRole::Forward, ThreadRole::Other] {
                sample.attempts.entry(Attempt { result, cause, role: role.name() }).or_default();
            }
        }
        for by in [By::Limit, By::Farewell] {
            sample.holds.released_by.entry(by.name().to_owned()).or_default();
        }
        for end in [End::Gone, End::Stopped, End::Refused] {
            sample.holds.ended.entry(end.name().to_owned()).or_default();
        }
        let mut places = vec![(None, ThreadRole::Other)];
        for group in &engine.plan().groups {
            places.extend(
                [ThreadRole::Member, ThreadRole::Forward].map(|role| (Some(group.name.clone()), role)),
            );
        }
        for place in places {
            sample.processes.insert(place.0.clone(), 0);
            sample.drifted.entry(place.clone()).or_default();
            sample.totals.insert(place.clone(), Total::default());
            sample.spared.insert(place.clone(), 0);
            sample.threads.insert(place, 0);
        }
        for process in engine.processes() {
            let group = engine.group_of(process).map(|group| group.name.clone());
            // Not a look into the maps for each thread: there are thousands, and the loop waits.
            let mut roles = BTreeMap::<ThreadRole, [u64; 2]>::new();
            for thread in process.threads.values() {
                let [threads, spared] = roles.entry(thread.role).or_default();
                *threads += 1;
                *spared += u64::from(matches!(thread.outcome, Some(BindOutcome::Spared { .. })));
            }
            for (role, [threads, spared]) in roles {
                *sample.threads.entry((group.clone(), role)).or_default() += threads;
                *sample.spared.entry((group.clone(), role)).or_default() += spared;
            }
            *sample.processes.entry(group).or_default() += 1;
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        config::Overrides,
        engine::{Action, Snapshot},
        idset::CpuSet,
        preset,
        settings::Settings,
        task::{ProcessFacts, TaskId, ThreadFacts},
    };

    #[test]
    fn threads_are_counted_where_they_belong_and_the_spared_once_more() {
        let file = Some(("t.toml", "group_pids = [7]"));
        let settings = Settings::from_sources(file, Overrides::default()).unwrap();
        let mut engine = Engine::new(preset::a3(), settings, []).unwrap();
        let id = |tid| TaskId { tid, start_time: 1 };
        let names = ["worker", "forward_0", "forward_1", "forward_2"];
        let threads = (7..).zip(names).map(|(tid, comm)| ThreadFacts {
            id: id(tid),
            comm: comm.to_owned(),
            allowed: None,
        });
        let snapshot = Snapshot {
            facts: ProcessFacts {
                pid: 7,
                start_time: 1,
                comm: "worker".to_owned(),
                ..ProcessFacts::default()
            },
            threads: threads.collect(),
            as_of_ns: 1,
            after_loss: false,
        };
        for action in engine.observe(&snapshot, &Cause::Scan, None) {
            if let Action::Bind(bind) = action {
                let outcome = match bind.task.tid {
                    9 => BindOutcome::Spared { class: "SCHED_FIFO", actual: CpuSet::new() },
                    _ => BindOutcome::Bound(bind.cpus.clone()),
                };
                engine.record(&bind, outcome, 0);
            }
        }
        let sample = Sample::new(&engine, &Stats::default());
        let of = |role| (Some("socket0_group0".to_owned()), role);
        let counts = |role| (sample.threads[&of(role)], sample.spared[&of(role)]);
        assert_eq!(counts(ThreadRole::Member), (1, 0));
        assert_eq!(counts(ThreadRole::Forward), (3, 1));
        assert_eq!(sample.processes[&Some("socket0_group0".to_owned())], 1);
        // Whoever is to be rated begins at zero.
        assert_eq!(sample.drifted[&of(ThreadRole::Forward)], Drifted::default());
        assert_eq!(sample.threads.values().sum::<u64>(), 4);
    }
}
