//! What the agent writes down before it changes a mask. It never stands in the way of that: what cannot be written is kept and written
//! later, counted, and said once.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::JoinHandle;

use super::{Agent, Done, flat};
use crate::{
    core::{
        engine::{Bind, Engine},
        idset::CpuSet,
        journal::{Class, Entry, Lineage, TaskChange, Told, Who},
        stats::Journaled,
        task::{BindOutcome, TaskId},
    },
    host::{
        journal::{self, Attendance, Here, Journal, JournalError},
        restore::{self, Asked},
        sys::{self, Host, Kernel},
    },
    report::{self, escape},
};

/// How long a bind waits for others who write to the journal.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long it waits for them at its end.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long the agent waits at its start for a `restore` that is under way.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// After a failure nothing is tried for so long.
const PAUSE_NS: u64 = 100_000_000;
/// Others may have the journal for so long: `restore` takes seconds for thousands of threads. Nothing is lost meanwhile.
const LOCKED_LONG_NS: u64 = 10_000_000_000;
/// What is kept to be written later.
const MAX_LATE_BYTES: usize = 4 << 20;

/// A journal that has been opened, and what it told of.
#[derive(Debug)]
pub(super) struct Opened {
    journal: Journal,
    earlier: Lineage,
    told: Told,
}

/// The journal as the loop has it.
#[derive(Debug, Default)]
pub struct Journaling {
    path: Option<PathBuf>,
    journal: Option<Journal>,
    lineage: Lineage,
    told: Told,
    here: Here,
    /// Lines that could not be written yet, and how many.
    late: (String, u64),
    retry_at_ns: u64,
    /// It could not be written since then.
    failing_since_ns: Option<u64>,
    /// What the user should know for as long as that lasts, and what has been said.
    warning: Option<String>,
    said: Option<String>,
    counts: Journaled,
    /// It is being opened, which may wait for others and rewrite it: never on the event loop.
    pub(super) opening: Option<JoinHandle<anyhow::Result<Opened>>>,
    /// So that nobody undoes what the agent would do again at once.
    attendance: Option<Attendance>,
}

impl Journaling {
    /// Opens the journal at `path`; `None`: nothing is written down.
    ///
    /// # Errors
    /// If somebody undoes what it tells, and does not end.
    pub(super) fn start(path: Option<PathBuf>) -> Result<Self, JournalError> {
        let mut journaling = Self { path, ..Self::default() };
        if let Some(path) = journaling.path.clone() {
            // Whose folder there is not yet nobody undoes.
            journaling.attendance = journal::attend(&path, START_PATIENCE)?;
            match open(&path) {
                Ok(Opened { journal, earlier, told }) => {
                    (journaling.journal, journaling.lineage, journaling.told) =
                        (Some(journal), earlier, told);
                }
                Err(error) => journaling.failed(&error, sys::monotonic_ns()),
            }
            if journaling.attendance.is_none() {
                journaling.attendance = journal::attend(&path, START_PATIENCE)?;
            }
        }
        Ok(journaling)
    }

    /// A thread is about to be given another mask.
    pub(super) fn before(&mut self, engine: &Engine, bind: &Bind, mask: &CpuSet) {
        if self.path.is_some() && !self.has(bind) {
            let change = self.lineage.change(&mut self.here, &Who::of(bind, engine), mask, &bind.cpus);
            self.write(change);
        }
    }

    /// A scan has found that process; none of its threads has been bound since.
    pub(super) fn found(&mut self, engine: &Engine, pid: u32) {
        if self.path.is_some() {
            let changes = self.lineage.found(&mut self.here, engine, pid);
            changes.into_iter().for_each(|change| self.write(change));
        }
    }

    /// Whether its lines tell already that this thread may be given that mask.
    fn has(&mut self, bind: &Bind) -> bool {
        if !self.told.covers(bind.task, &bind.cpus) {
            return false;
        }
        // `restore` may have struck them.
        let unchanged = self.journal.as_ref().is_some_and(Journal::is_as_we_left_it);
        if !unchanged {
            self.told.forget_all();
        }
        unchanged
    }

    /// It was asked to take it.
    pub(super) fn after(&mut self, engine: &Engine, bind: &Bind, outcome: &BindOutcome) {
        let worth_a_look = match outcome {
            BindOutcome::Bound(mask) => *mask != bind.cpus,
            BindOutcome::Unchanged(_) => bind.task.tid == bind.pid,
            _ => false,
        };
        if self.path.is_some() && worth_a_look {
            let change = self.lineage.outcome(&mut self.here, &Who::of(bind, engine), &bind.cpus, outcome);
            change.into_iter().for_each(|change| self.write(change));
        }
    }

    fn write(&mut self, change: TaskChange) {
        self.told.note(&change);
        let line = Entry::Task(change).encode();
        if self.late.0.len() + line.len() > MAX_LATE_BYTES {
            self.counts.lost += 1;
            self.told.forget_all();
            return;
        }
        self.late.0 += &line;
        self.late.1 += 1;
        self.flush(sys::monotonic_ns());
    }

    /// Writes what is to be written, unless that has just failed.
    pub(super) fn flush(&mut self, now_ns: u64) {
        if self.late.1 == 0 || now_ns < self.retry_at_ns {
            return;
        }
        match self.journal.as_mut().map(|journal| journal.append(&self.late.0)) {
            Some(Ok(())) => {
                self.counts.entries += self.late.1;
                self.late.0.clear();
                self.late.1 = 0;
                self.works();
            }
            // What has taken its place is not opened here.
            Some(Err(JournalError::Moved(_))) => {
                self.journal = None;
                self.open_if_needed();
            }
            Some(Err(error)) => {
                self.retry_at_ns = now_ns.saturating_add(PAUSE_NS);
                self.failed(&error, now_ns);
            }
            // Why not has been said, or it is too early for that.
            None => {}
        }
        self.counts.waiting = self.late.1;
    }

    /// Writes all that is left, and takes its time; nothing else is to be done any more.
    pub(super) async fn end(&mut self) {
        if let Some(job) = self.opening.take() {
            self.opened(job.await, sys::monotonic_ns());
        }
        // It may have been written anew, and now there is time to see.
        let journal = self.path.as_deref().and_then(|path| Journal::open(path).ok());
        let journal = journal.or_else(|| self.journal.take());
        self.journal = journal.map(|journal| journal.with_patience(END_PATIENCE));
        self.flush(u64::MAX);
        if self.late.1 > 0 {
            tracing::error!("{} changes could not be written down, and cannot be undone", self.late.1);
        }
    }

    fn failed(&mut self, error: &JournalError, now_ns: u64) {
        let since_ns = *self.failing_since_ns.get_or_insert(now_ns);
        if matches!(error, JournalError::Busy(_)) && now_ns.saturating_sub(since_ns) < LOCKED_LONG_NS {
            return;
        }
        self.counts.failures += 1;
        self.warning.get_or_insert_with(|| {
            format!("what is changed is not written down for now, and could not be undone: {error}")
        });
    }

    fn works(&mut self) {
        (self.failing_since_ns, self.warning) = (None, None);
    }

    /// Has it opened on a thread of its own if it is not open, or if it has grown: it is rewritten then.
    fn open_if_needed(&mut self) {
        let needed = self.journal.as_ref().is_none_or(Journal::is_long);
        if let Some(path) = self.path.clone().filter(|_| needed && self.opening.is_none()) {
            self.opening = Some(tokio::task::spawn_blocking(move || Ok(open(&path)?)));
        }
    }

    /// Goes on with what has been opened.
    fn opened(&mut self, done: Done<Opened>, now_ns: u64) {
        match flat(done).map_err(|error| error.downcast::<JournalError>()) {
            Ok(Opened { journal, earlier, told }) => {
                self.journal = Some(journal);
                self.lineage.go_on_from(earlier);
                // What waits is told once more.
                self.told = told;
                match self.late.1 {
                    0 => self.works(),
                    _ => self.flush(now_ns),
                }
            }
            // It is appended to all the same.
            Err(Ok(JournalError::Busy(_))) if self.journal.is_some() => {}
            Err(Ok(error)) if self.journal.is_none() => self.failed(&error, now_ns),
            Err(Ok(error)) => tracing::warn!("{error}"),
            Err(Err(error)) => tracing::warn!("{error:#}"),
        }
    }

    /// What it was told; `None`: there is none.
    pub(super) fn counts(&self) -> Option<Journaled> {
        self.path.is_some().then_some(self.counts)
    }

    /// Tells what the user should know, once, and takes it back when it is over.
    fn tell(&mut self, engine: &mut Engine) {
        if self.said != self.warning {
            self.said.take().into_iter().for_each(|over| engine.take_back(&over));
            self.warning.clone().into_iter().for_each(|warning| engine.warn(warning));
            self.said.clone_from(&self.warning);
        }
    }

    /// Forgets processes that have ended. Those that run a program which is none of ours have children that may be. Who is not in `alive`
    /// may have come since.
    pub(super) fn sweep(&mut self, engine: &Engine, alive: &BTreeSet<TaskId>) {
        let is_managed = |id: TaskId| engine.process(id.tid).is_some_and(|process| process.facts.id() == id);
        let lives = |id: TaskId| Host.start_time(id.tid) == Some(id.start_time);
        self.lineage.retain(|id| alive.contains(&id) || is_managed(id) || lives(id));
        let threads = engine.processes().flat_map(|process| process.threads.values());
        let managed: HashSet<TaskId> = threads.map(|thread| thread.id).collect();
        self.told.retain(|task| managed.contains(&task));
    }
}

impl Agent {
    /// Writes what could not be written before, and has the journal opened where that is needed.
    pub(super) fn keep_journal(&mut self) {
        self.executor.journaling.flush(sys::monotonic_ns());
        self.executor.journaling.open_if_needed();
        if self.executor.journaling.lineage.is_long() {
            // Scans do that too, where there are some.
            self.executor.journaling.sweep(&self.engine, &BTreeSet::new());
        }
        self.executor.journaling.tell(&mut self.engine);
    }

    /// Undoes what is in the journal, if that is asked for; interrupts are not the agent's.
    pub(super) fn restore_on_exit(&mut self) {
        let Some(path) = self.options.journal.clone().filter(|_| self.options.restore_on_exit) else {
            return;
        };
        let journaling = &mut self.executor.journaling;
        // So that no other starts meanwhile; one that runs beside this one has chosen to.
        journaling.attendance = None;
        let _alone = journal::keep_agents_out(&path).ok();
        let classes = Class::ALL.into_iter().filter(|class| class.is_the_agents()).collect();
        match restore::restore(&path, &Asked { classes, dry_run: self.options.dry_run }) {
            Ok(restored) => {
                let (troubles, summary) =
                    (report::restore::troubles(&restored), report::restore::summary(&restored));
                let text = format!("{troubles}restored: {summary}");
                let fields =
                    report::restore::json(&restored, &path.display().to_string(), self.options.dry_run);
                self.executor.output.event("restored", fields, || Some(text));
            }
            Err(error) => tracing::error!("nothing is restored: {}", escape::text(&error.to_string())),
        }
    }

    pub(super) fn finish_opening(&mut self, done: Done<Opened>) {
        self.executor.journaling.opened(done, sys::monotonic_ns());
    }
}

/// Opens it, and reads what it tells of this boot.
fn open(path: &Path) -> Result<Opened, JournalError> {
    let journal = Journal::open(path)?.with_patience(PATIENCE).staying();
    let decoded = journal::read(path)?.unwrap_or_default();
    if decoded.damaged > 0 {
        tracing::warn!("the journal {} has {} damaged lines", path.display(), decoded.damaged);
    }
    let known = journal::this_boots(decoded).0;
    Ok(Opened { journal, earlier: Lineage::of(&known), told: Told::of(&known) })
}

#[cfg(test)]
mod tests;
