//! Carries out the engine's actions, and brings the outcomes back to it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    deferred::{Deferred, Turn},
    holding::{Holding, note_release},
    journaling::Journaling,
    output::Output,
    unread::Unread,
};
use crate::{
    core::{
        engine::{Action, Bind, Cause, Engine},
        jitter::observer::Assign,
        stats::Stats,
        task::{BindOutcome, TaskId},
    },
    host::{
        binding,
        scan::{Look, Scanner},
        sys,
        sys::Kernel,
    },
};

/// The kernel programs' list of managed tasks.
pub trait Marks {
    /// Has them report on this thread of process `pid`. Whether they did not until now.
    fn mark(&mut self, pid: u32, task: TaskId) -> bool;
    /// Has them forget it.
    fn unmark(&mut self, task: TaskId);
    /// Takes note of what the engine knows of this thread; what they are to be told once it has been put there.
    fn follow(&mut self, engine: &Engine, pid: u32, task: TaskId) -> Option<Assign>;
    /// Tells them.
    fn assign(&mut self, assign: Assign);
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
    /// Those that are held at exec.
    pub holding: Holding,
    /// Reads single processes the engine wants to look at.
    pub scanner: Scanner,
    /// Those that could not be read.
    pub unread: Unread,
    /// A scan is wanted: a process was too large to look at.
    pub rescan: bool,
    /// What was before it changes something.
    pub journaling: Journaling,
    /// Binds that have to wait.
    pub deferred: Deferred,
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
    pub fn mark(&mut self, engine: &Engine, actions: &[Action]) -> usize {
        let mut missing = 0;
        for action in actions {
            if let Action::Mark { pid, task } = action {
                missing += usize::from(self.marks.mark(*pid, *task));
                self.follow(engine, *pid, *task);
            }
        }
        missing
    }

    /// Takes note of what the engine knows of a thread, and tells the kernel side where it belongs.
    pub fn follow(&mut self, engine: &Engine, pid: u32, task: TaskId) {
        if let Some(assign) = self.marks.follow(engine, pid, task) {
            self.marks.assign(assign);
        }
    }

    /// The processes that had a thread which was not marked.
    fn carry_out(&mut self, engine: &mut Engine, actions: Vec<Action>) -> BTreeSet<u32> {
        let mut unmarked = BTreeSet::new();
        // CPU time counts as before the bind until the bind has been tried.
        let mut unbound = BTreeMap::new();
        let release = |action: &Action| match action {
            Action::Release { hold, .. } => Some(hold.task),
            _ => None,
        };
        let held: BTreeSet<TaskId> = actions.iter().filter_map(release).collect();
        for action in actions {
            match action {
                Action::Bind(bind) => {
                    let turn = if held.contains(&bind.task) { Turn::Held } else { Turn::New };
                    let done = self.bind(engine, &bind, turn);
                    // Only now: until it is bound it runs where it does not belong.
                    let assign = self.marks.follow(engine, bind.pid, bind.task);
                    let task = bind.task;
                    self.note(engine, bind, done);
                    unbound.remove(&task).or(assign).into_iter().for_each(|assign| self.marks.assign(assign));
                }
                Action::Mark { pid, task } => {
                    if self.marks.mark(pid, task) {
                        unmarked.insert(pid);
                    }
                    unbound.extend(self.marks.follow(engine, pid, task).map(|assign| (task, assign)));
                }
                Action::Unmark { task } => self.marks.unmark(task),
                Action::Release { hold, memory } => {
                    if let Some(release) = self.holding.release(hold, memory.as_ref()) {
                        note_release(&mut self.stats, &mut self.output, &release);
                    }
                }
                Action::Look { pid, cause, at_ns } => {
                    unmarked.extend(self.look(engine, pid, &cause, Some(at_ns)))
                }
            }
        }
        unbound.into_values().for_each(|assign| self.marks.assign(assign));
        unmarked
    }

    /// Does what had to wait, as far as it may be done now.
    pub fn catch_up(&mut self, engine: &mut Engine) {
        for _ in 0..self.deferred.len() {
            if self.deferred.wait_ns(sys::monotonic_ns()).is_none_or(|wait_ns| wait_ns > 0) {
                return;
            }
            let Some(bind) = self.deferred.pop() else { return };
            // What was put off may have ended, or belong elsewhere by now.
            for action in engine.again(bind.pid, bind.task, bind.cause, bind.at_ns) {
                if let Action::Bind(bind) = action {
                    let done = self.bind(engine, &bind, Turn::Next);
                    self.note(engine, bind, done);
                }
            }
        }
    }

    /// What came of it, and how long after what it answers; `None`: it has to wait.
    fn bind(&mut self, engine: &Engine, bind: &Bind, turn: Turn) -> Option<(BindOutcome, Option<u64>)> {
        let mut too_soon = false;
        let outcome = if self.dry_run {
            self.preview(bind)
        } else {
            let (journaling, deferred) = (&mut self.journaling, &mut self.deferred);
            let outcome = binding::place(&self.kernel, (bind.task, bind.seen_ns), &bind.cpus, |mask| {
                if !deferred.may(turn, sys::monotonic_ns()) {
                    too_soon = true;
                    return Err("too many binds a second");
                }
                journaling.before(engine, bind, mask);
                Ok(())
            });
            if too_soon {
                self.stats.deferred += u64::from(self.deferred.put_off(bind, turn));
                return None;
            }
            outcome
        };
        Some((outcome, bind.at_ns.map(|at_ns| sys::monotonic_ns().saturating_sub(at_ns))))
    }

    /// Takes note of what came of it.
    fn note(&mut self, engine: &mut Engine, bind: Bind, done: Option<(BindOutcome, Option<u64>)>) {
        let Some((outcome, latency_ns)) = done else { return };
        if !self.dry_run {
            self.journaling.after(engine, &bind, &outcome);
        }
        let is_news = engine.is_news(&bind, &outcome);
        // A real-time thread counts once, however often a scan finds that it is one still.
        if is_news || !matches!(outcome, BindOutcome::Spared { .. }) {
            self.stats.bound(&bind, &outcome, latency_ns);
        }
        let news = is_news.then(|| outcome.clone());
        engine.record(&bind, outcome, sys::monotonic_ns());
        if let Some(outcome) = news {
            self.output.bound(bind, outcome, latency_ns);
        }
    }

    fn preview(&self, bind: &Bind) -> BindOutcome {
        if self.output.is_silent() {
            // Nobody will hear of it: not worth a look.
            return BindOutcome::Planned(bind.cpus.clone());
        }
        if self.kernel.start_time(bind.task.tid) != Some(bind.task.start_time) {
            return BindOutcome::Gone;
        }
        match self.kernel.affinity(bind.task.tid) {
            Ok(mask) if mask == bind.cpus => BindOutcome::Unchanged(mask),
            Ok(mask) => match self.kernel.real_time(bind.task.tid) {
                Some(class) => BindOutcome::Spared { class, actual: mask },
                None => BindOutcome::Planned(mask),
            },
            Err(_) => BindOutcome::Gone,
        }
    }

    fn look(&mut self, engine: &mut Engine, pid: u32, cause: &Cause, at_ns: Option<u64>) -> BTreeSet<u32> {
        let snapshot = match self.scanner.look(pid, engine.manages(pid), &self.kernel) {
            // The kernel programs drop a task's mark when it exits.
            Look::Gone => return BTreeSet::new(),
            Look::Unread(process) => {
                self.unread.note(process);
                return BTreeSet::new();
            }
            Look::Foreign(process) => {
                // Threads that it has created since it was marked are told of one by one, and unmarked then.
                self.marks.unmark(process);
                return BTreeSet::new();
            }
            Look::Large => {
                self.rescan = true;
                return BTreeSet::new();
            }
            Look::Seen(snapshot) => snapshot,
        };
        let actions = engine.observe(&snapshot, cause, at_ns);
        if engine.manages(pid) {
            self.journaling.found(engine, pid);
            // Snapshots never ask for another look.
            return self.carry_out(engine, actions);
        }
        snapshot.threads.iter().for_each(|thread| self.marks.unmark(thread.id));
        BTreeSet::new()
    }
}
