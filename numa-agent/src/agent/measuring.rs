//! What is measured, taken in by intervals; drafts of it for reports and recordings.

use std::{collections::BTreeMap, time::Duration};

use tokio::task::JoinHandle;

use super::{Agent, Done, flat, meter::Pass, reports};
use crate::{
    core::{
        jitter::{
            account::missing,
            draft::{Draft, Frame},
            observer::Limits,
            recording::{Run, RunHost, Subject},
            tap::Tap,
        },
        memory::numa_maps::Memory,
        task::TaskId,
    },
    host::{numa_maps, surroundings, sys},
    report::{escape, many},
};

/// How long the memory of all processes may take to read.
const MEMORY_PATIENCE: Duration = Duration::from_secs(10);

/// How it is measured.
#[derive(Debug)]
pub struct Jitter {
    /// Length of an interval.
    pub interval: Duration,
    /// How much is kept.
    pub limits: Limits,
    /// Where reports go, by themselves and when asked for.
    pub reports: Option<reports::Reports>,
    /// Without a plan: what is followed, in words.
    pub processes: Option<String>,
    /// Connections on which sends are timed too.
    pub tap: Option<Tap>,
}

/// A job that reads the memory of processes.
pub type MemoryJob = JoinHandle<anyhow::Result<BTreeMap<TaskId, Memory>>>;

/// Reads the memory of processes on a thread of its own.
#[must_use]
pub fn read_memory(processes: Vec<TaskId>) -> MemoryJob {
    tokio::task::spawn_blocking(move || Ok(numa_maps::read_all(&processes, MEMORY_PATIENCE)))
}

impl Agent {
    /// Reads some more accounts of the pass under way.
    pub(super) fn measure(&mut self) {
        let Some(mut pass) = self.pass.take() else { return };
        if !self.executor.marks.read_some(&mut pass) {
            self.pass = Some(pass);
            return;
        }
        if pass.closes {
            self.executor.marks.close_interval();
            self.progress();
        }
        if let Some(asker) = pass.asker.take() {
            self.give_sample(asker);
        }
        if pass.for_viewers {
            self.show(pass);
        } else if let Some(living) = pass.living {
            let draft = self.executor.marks.observer.draft(living, sys::monotonic_ns());
            self.start_report(draft);
        }
        self.begin_report();
    }

    /// The interval ends: accounts are to be read.
    pub(super) fn tick(&mut self) {
        Pass::close(&mut self.pass);
    }

    /// A report is wanted.
    pub(super) fn want_report(&mut self) {
        if self.options.jitter.reports.is_none() {
            return;
        }
        self.report_wanted = true;
        self.begin_report();
    }

    /// Once it can be: a report under way does not have what happened since it began.
    fn begin_report(&mut self) {
        if self.report_wanted && self.pass.is_none() && self.reporting.is_none() {
            self.report_wanted = false;
            self.pass = Some(Pass::new(false, true));
        }
    }

    fn start_report(&mut self, draft: Draft) {
        let Some(reports) = &self.options.jitter.reports else { return };
        let (path, frame) = (reports.path.clone(), self.frame());
        self.reporting = Some(tokio::task::spawn_blocking(move || reports::write(&path, draft, frame)));
    }

    pub(super) fn finish_report(&mut self, report: Done<()>) {
        let Some(reports) = &self.options.jitter.reports else { return };
        let path = reports.path.display().to_string();
        sys::release_freed_memory();
        self.begin_report();
        match flat(report) {
            Ok(()) => {
                let fields = serde_json::json!({ "path": path });
                self.executor
                    .output
                    .event("report", fields, || Some(format!("jitter report: {}", escape::text(&path))));
            }
            Err(error) => tracing::warn!("jitter report: {}", escape::text(&format!("{error:#}"))),
        }
    }

    /// The memory of processes that are followed without a plan tells where they live.
    pub(super) fn settle(&mut self, memory: Done<BTreeMap<TaskId, Memory>>) {
        for (process, memory) in flat(memory).unwrap_or_default() {
            let Some(node) = memory.most() else { continue };
            for assign in self.executor.marks.observer.settle(process, node) {
                super::Marks::assign(&mut self.executor.marks, assign);
            }
        }
    }

    /// Everything that has happened by now, taken in. Nothing else gets a turn meanwhile.
    pub(super) fn conclude(&mut self) -> Draft {
        // A storm does not end because we do.
        let now_ns = sys::monotonic_ns();
        while self.drain_until(now_ns) {}
        self.note_losses();
        while self.executor.marks.is_sweeping() {
            self.sweep();
        }
        let mut pass = Pass::new(true, true);
        while !self.executor.marks.read_some(&mut pass) {}
        self.executor.marks.close_interval();
        self.executor.marks.observer.draft(pass.living.unwrap_or_default(), sys::monotonic_ns())
    }

    /// Where and when, and what about.
    pub(super) fn frame(&self) -> Frame {
        let programs = &self.executor.marks.programs;
        let [mut lost, mut lost_detail] = self.lost.apart().map(|lost| {
            let words = (lost.total() > 0).then(|| format!("events lost in the kernel: {lost}"));
            words.into_iter().collect::<Vec<String>>()
        });
        if self.unreadable > 0 {
            lost.push(format!("events that could not be read: {}", self.unreadable));
        }
        let untold = self.executor.marks.observer.untold();
        if untold.threads > 0 {
            lost_detail.push(format!(
                "{} threads were born where they belong, in a storm, and ended before anybody was told of them: all that is known of them is \
                 their CPU time, {:.1} ms together",
                untold.threads,
                untold.run_ns as f64 / 1e6
            ));
        }
        let (missing_programs, missing) = missing(programs.health());
        let unattributed = self.executor.marks.observer.unattributed();
        if unattributed.threads > 0 {
            let (threads, ms) = (unattributed.threads, unattributed.run_ns as f64 / 1e6);
            lost.push(format!(
                "threads that ended before it was known whose they were: {threads}, with {ms:.1} ms of CPU time"
            ));
        }
        let run = Run {
            host: self.host(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at.clone(),
            seconds: 0.0,
            subject: self.subject(),
            bound: !self.options.dry_run,
            missing,
            missing_programs,
            lost,
            lost_detail,
        };
        let intruders = self.executor.marks.intruders();
        Frame { run, memory: BTreeMap::new(), intruders, connections: Vec::new() }
    }

    fn subject(&self) -> Subject {
        if let Some(what) = &self.options.jitter.processes {
            return Subject::Processes { what: what.clone() };
        }
        let plan = self.engine.plan();
        let groups = plan
            .groups
            .iter()
            .map(|group| (group.name.clone(), format!("{} / {}", group.primary_cpus, group.forward_cpus)));
        Subject::Plan {
            policy: plan.policy.to_string(),
            groups: groups.collect(),
            others: plan.others.cpus.to_string(),
        }
    }

    fn host(&self) -> RunHost {
        let topology = self.engine.topology();
        let (name, kernel) = sys::uname().unwrap_or_default();
        RunHost {
            name,
            machine_id: surroundings::machine_id("/".as_ref()),
            kernel,
            arch: std::env::consts::ARCH.to_owned(),
            nodes: topology.nodes.iter().map(|node| (node.id, node.cpus.to_string())).collect(),
            sockets: topology
                .sockets
                .iter()
                .map(|socket| (socket.id, socket.nodes.iter().map(|node| node.id).collect()))
                .collect(),
            matrix_of: self.executor.marks.observer.places().matrix_of().to_owned(),
        }
    }

    /// One line on how it goes.
    pub(super) fn progress_text(&self) -> String {
        let observer = &self.executor.marks.observer;
        let (threads, ended) = (observer.threads(), observer.threads_ended());
        let processes = self.engine.processes().count();
        let mut text = format!(
            "{} of {}, {ended} ended",
            many(threads, "thread", "s"),
            many(processes, "process", "es")
        );
        let Some(last) = observer.last_interval() else { return text };
        if let Some(off_ns) = last.off_node_ns.filter(|_| last.run_ns > 0) {
            text += &format!("; off node {:.1} %", 100.0 * off_ns as f64 / last.run_ns as f64);
        }
        if last.waits > 0 {
            text += &format!("; wait p99 {:.3} ms", last.wait_p99_ns as f64 / 1e6);
        }
        if let Some(moves) = last.migrations {
            text += &format!("; {}", many(moves, "migration", "s"));
        }
        text
    }
}
