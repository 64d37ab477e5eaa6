//! Carries out the engine's actions, and brings the outcomes back to it.

use std::collections::BTreeSet;

use super::output::{Output, role_name};
use crate::{
    core::{
        engine::{Action, Bind, Cause, Engine},
        stats::Stats,
        task::{BindOutcome, TaskId},
    },
    host::{binding, scan::Scanner, sys, sys::Kernel},
};

/// The kernel programs' list of managed tasks.
pub trait Marks {
    /// Has them report on this thread of process `pid`. Whether they did not until now.
    fn mark(&mut self, pid: u32, task: TaskId) -> bool;
    /// Has them forget it.
    fn unmark(&mut self, task: TaskId);
}

/// How often a process is read again because one of its threads turned out not to be marked. The threads that it created
/// meanwhile went unreported; once all are marked there are no more of them.
const MAX_LOOKS: usize = 8;

/// The hands of the agent.
pub struct Executor<K, M> {
    /// System calls.
    pub kernel: K,
    /// Kernel programs.
    pub marks: M,
    /// Reads single processes the engine wants to look at.
    pub scanner: Scanner,
    /// Look and report, change nothing.
    pub dry_run: bool,
    /// Lines.
    pub output: Output,
    /// Counters.
    pub stats: Stats,
}

impl<K: Kernel, M: Marks> Executor<K, M> {
    /// Carries out `actions`, and those that follow from them.
    pub fn execute(&mut self, engine: &mut Engine, actions: Vec<Action>) {
        let mut unmarked = self.carry_out(engine, actions);
        for _ in 0..MAX_LOOKS {
            if unmarked.is_empty() {
                return;
            }
            for pid in std::mem::take(&mut unmarked) {
                unmarked.extend(self.look(engine, pid, &Cause::Reconcile, None));
            }
        }
    }

    /// Marks only, for a scan that is to be seen whole before anything is bound. How many marks were missing.
    pub fn mark(&mut self, actions: &[Action]) -> usize {
        let missing = |action: &&Action| match action {
            Action::Mark { pid, task } => self.marks.mark(*pid, *task),
            _ => false,
        };
        actions.iter().filter(missing).count()
    }

    /// The processes that had a thread which was not marked.
    fn carry_out(&mut self, engine: &mut Engine, actions: Vec<Action>) -> BTreeSet<u32> {
        let mut unmarked = BTreeSet::new();
        for action in actions {
            match action {
                Action::Bind(bind) => self.bind(engine, &bind),
                Action::Mark { pid, task } if self.marks.mark(pid, task) => drop(unmarked.insert(pid)),
                Action::Mark { .. } => {}
                Action::Unmark { task } => self.marks.unmark(task),
                Action::Look { pid, cause, at_ns } => {
                    unmarked.extend(self.look(engine, pid, &cause, Some(at_ns)))
                }
            }
        }
        unmarked
    }

    fn bind(&mut self, engine: &mut Engine, bind: &Bind) {
        let outcome = if self.dry_run {
            self.preview(bind)
        } else {
            binding::bind(&self.kernel, bind.task, &bind.cpus)
        };
        let latency_ns = bind.at_ns.map(|at_ns| sys::monotonic_ns().saturating_sub(at_ns));
        self.stats.bound(bind, &outcome, latency_ns);
        self.output.bound(bind, &outcome, latency_ns);
        engine.record(bind, outcome);
    }

    fn preview(&self, bind: &Bind) -> BindOutcome {
        if self.kernel.start_time(bind.task.tid) != Some(bind.task.start_time) {
            return BindOutcome::Gone;
        }
        match self.kernel.affinity(bind.task.tid) {
            Ok(mask) if mask == bind.cpus => BindOutcome::Unchanged(mask),
            Ok(mask) => BindOutcome::Planned(mask),
            Err(_) => BindOutcome::Gone,
        }
    }

    fn look(&mut self, engine: &mut Engine, pid: u32, cause: &Cause, at_ns: Option<u64>) -> BTreeSet<u32> {
        // Gone already: the kernel programs drop a task's mark when it exits.
        let Some(snapshot) = self.scanner.look(pid, &self.kernel) else { return BTreeSet::new() };
        let actions = engine.observe(&snapshot, cause, at_ns);
        if engine.manages(pid) {
            // Snapshots never ask for another look.
            return self.carry_out(engine, actions);
        }
        snapshot.threads.iter().for_each(|thread| self.marks.unmark(thread.id));
        BTreeSet::new()
    }

    /// The role's word of a managed thread, for the statistics.
    #[must_use]
    pub fn describe(engine: &Engine, pid: u32, task: TaskId) -> Option<(String, &'static str)> {
        let thread = engine.process(pid)?.threads.get(&task.tid).filter(|thread| thread.id == task)?;
        Some((thread.comm.clone(), role_name(thread.role)))
    }
}
