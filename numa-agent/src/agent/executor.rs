//! Carries out the engine's actions, and brings the outcomes back to it.

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
    /// Report on this thread of process `pid`.
    fn mark(&mut self, pid: u32, task: TaskId);
    /// Forget it.
    fn unmark(&mut self, tid: u32);
}

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
        for action in actions {
            match action {
                Action::Bind(bind) => self.bind(engine, &bind),
                Action::Mark { pid, task } => self.marks.mark(pid, task),
                Action::Unmark { tid } => self.marks.unmark(tid),
                Action::Look { pid, cause, at_ns } => self.look(engine, pid, &cause, at_ns),
            }
        }
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
        match self.kernel.affinity(bind.task.tid) {
            Ok(mask) if mask == bind.cpus => BindOutcome::Unchanged(mask),
            Ok(mask) => BindOutcome::Planned(mask),
            Err(_) => BindOutcome::Gone,
        }
    }

    fn look(&mut self, engine: &mut Engine, pid: u32, cause: &Cause, at_ns: u64) {
        // Gone already: the kernel programs drop a task's mark when it exits.
        let Some(snapshot) = self.scanner.look(pid, &self.kernel) else { return };
        let actions = engine.observe(&snapshot, cause, Some(at_ns));
        if engine.manages(pid) {
            // Looking again cannot ask for another look: snapshots never do.
            self.execute(engine, actions);
        } else {
            snapshot.threads.iter().for_each(|thread| self.marks.unmark(thread.id.tid));
        }
    }

    /// The role's word of a managed thread, for the statistics.
    #[must_use]
    pub fn describe(engine: &Engine, pid: u32, task: TaskId) -> Option<(String, &'static str)> {
        let thread = engine.process(pid)?.threads.get(&task.tid).filter(|thread| thread.id == task)?;
        Some((thread.comm.clone(), role_name(thread.role)))
    }
}
