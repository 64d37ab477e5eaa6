//! What was measured by some moment, small and detached from what goes on, and how it becomes a [`Recording`].

use std::{collections::BTreeMap, sync::Arc};

use super::{
    account::{Measured, Reader},
    figures::Figures,
    homes::Home,
    observer::{Labels, Rest},
    packed::Packed,
    places::Places,
    recording::{Connection, Interval, Intruders, KIND, ProcessRecord, Recording, Run, SCHEMA, ThreadRecord},
};
use crate::core::task::TaskId;

/// A thread as it was when its account was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The task.
    pub task: TaskId,
    /// What it is called.
    pub labels: Labels,
    /// Where it belongs.
    pub home: Option<Arc<Home>>,
    /// It has ended.
    pub ended: bool,
    /// When, in monotonic nanoseconds.
    pub read_at_ns: u64,
    /// What was read.
    pub account: Packed,
}

impl Kept {
    /// Its figures.
    #[must_use]
    pub fn figures(&self, reader: &Reader<'_>) -> Figures {
        reader.figures(&self.account.account(), self.home.as_deref(), self.read_at_ns)
    }
}

/// All that was measured by some moment.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(super) began_ns: u64,
    pub(super) now_ns: u64,
    pub(super) places: Arc<Places>,
    pub(super) measured: Measured,
    pub(super) threads: Vec<Arc<Kept>>,
    pub(super) rest: Rest,
    pub(super) intervals: Vec<Interval>,
    pub(super) unmeasured: u64,
}

/// What a recording says beside what was measured of threads.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where and when; how long, and what is lost because it is not kept, is added.
    pub run: Run,
    /// Memory by node of processes, by leader.
    pub memory: BTreeMap<TaskId, BTreeMap<u32, u64>>,
    /// Who else ran on critical CPUs.
    pub intruders: Vec<Intruders>,
    /// Sends on tapped sockets.
    pub connections: Vec<Connection>,
}

impl Draft {
    /// How long it was recorded, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.now_ns.saturating_sub(self.began_ns) as f64 / 1e9
    }

    /// The threads that live.
    #[must_use]
    pub fn living_threads(&self) -> Vec<Arc<Kept>> {
        self.threads.iter().filter(|thread| !thread.ended).cloned().collect()
    }

    /// The leaders of the processes that have a thread that lives.
    #[must_use]
    pub fn living(&self) -> Vec<TaskId> {
        let living = self.threads.iter().filter(|thread| !thread.ended);
        let mut leaders: Vec<TaskId> = living.map(|thread| thread.labels.process.id).collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// The recording. Threads that are not kept one by one stand in it as one for each group and role, with neither tid nor
    /// process.
    #[must_use]
    pub fn recording(self, frame: Frame) -> Recording {
        let Frame { mut run, memory, intruders, connections } = frame;
        run.seconds = self.seconds();
        let rest: u64 = self.rest.values().map(|(threads, _)| threads).sum();
        if rest > 0 {
            run.lost_detail.push(format!("{rest} of the threads that ended are not listed one by one: they are added up by group and role"));
        }
        if self.unmeasured > 0 {
            run.lost.push(format!(
                "{} threads were not measured: there was no room for their accounts",
                self.unmeasured
            ));
        }
        let planned = matches!(run.subject, super::recording::Subject::Plan { .. });
        let reader = Reader { places: &self.places, measured: self.measured, began_ns: self.began_ns };
        let threads = self.threads.iter().map(|kept| thread_record(kept, &reader));
        let rest = self.rest.into_iter().map(|((group, role), (threads, figures))| ThreadRecord {
            run: 0,
            pid: 0,
            tid: 0,
            start_time: 0,
            comm: format!("{threads} ended"),
            role,
            group,
            home_nodes: Vec::new(),
            ended: true,
            figures,
        });
        let threads = threads.chain(rest).collect();
        // The last that is said of a process is what holds.
        let processes: BTreeMap<TaskId, _> =
            self.threads.iter().map(|thread| (thread.labels.process.id, &thread.labels.process)).collect();
        let process = |(id, labels): (TaskId, &Arc<super::observer::ProcessLabels>)| ProcessRecord {
            run: 0,
            pid: id.tid,
            start_time: id.start_time,
            comm: labels.comm.clone(),
            cmdline: labels.cmdline.clone(),
            role: planned.then_some(labels.role),
            group: labels.group.clone(),
            memory: memory.get(&id).cloned(),
        };
        Recording {
            schema: SCHEMA,
            kind: KIND.to_owned(),
            runs: vec![run],
            processes: processes.into_iter().map(process).collect(),
            threads,
            intervals: self.intervals,
            intruders,
            connections,
        }
    }
}

fn thread_record(kept: &Kept, reader: &Reader<'_>) -> ThreadRecord {
    let Kept { task, labels, home, ended, .. } = kept;
    ThreadRecord {
        run: 0,
        pid: labels.process.id.tid,
        tid: task.tid,
        start_time: task.start_time,
        comm: labels.comm.clone(),
        role: labels.role,
        group: labels.process.group.clone(),
        home_nodes: home.as_ref().map_or_else(Vec::new, |home| reader.places.nodes_of(&home.set)),
        ended: *ended,
        figures: kept.figures(reader),
    }
}
