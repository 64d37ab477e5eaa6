//! The kernel programs and the observer of what they measure: accounts go from the one to the other here.

use std::{collections::HashMap, sync::Arc};

use numa_ebpf::{
    account::{Account, span},
    brief::Brief,
    mark::TICK_NS,
};

use super::{executor::Marks, metrics::Asker};
use crate::{
    core::{
        decode::start_ticks,
        engine::Engine,
        event::{EventKind, MigrationCounts, TaskEvent},
        idset::CpuSet,
        jitter::{
            account::{Measured, intruders},
            draft::Kept,
            homes::{Homes, critical_cpus},
            observer::{Assign, Labels, Limits, Observer},
            places::Places,
            recording::Intruders,
        },
        task::{TaskId, ThreadRole},
    },
    host::{
        bpf::{BpfError, Marked, PLAN_SETS, Programs, Untold},
        sys::{self, Host, Kernel},
    },
};

/// Accounts that are read before the loop looks at events again: half a millisecond's worth.
const CHUNK: usize = 256;
/// Threads that `/proc` is asked about before that.
const QUESTIONS: usize = 16;

/// The programs, and the observer of what they measure.
pub struct Meter {
    /// The programs.
    pub programs: Programs,
    /// The observer.
    pub observer: Observer,
    planned: bool,
    critical: CpuSet,
    /// How many groups the plan had that the kernel side knows.
    groups: usize,
    /// Of whose birth was heard last: its account, and the plan set that the kernel side has given it.
    born: Option<(TaskId, u32, Option<u32>)>,
    /// Threads of which nothing has been heard since their accounts were opened, and the CPU that each had then, if it had one.
    unheard: HashMap<TaskId, Option<u32>>,
    /// Those of whose birth nobody was told, by the last look.
    untold: Untold,
    sweep: Option<Sweep>,
}

/// All slots being looked at, some at a time, for the accounts of tasks of whose end the ring had no room to tell.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    next_slot: u32,
    /// Later ends are in the ring.
    as_of_ns: u64,
    /// There were losses meanwhile.
    again: bool,
}

impl Sweep {
    fn new() -> Self {
        Self { next_slot: 1, as_of_ns: sys::monotonic_ns(), again: false }
    }
}

/// All accounts being read, some at a time.
#[derive(Debug)]
pub struct Pass {
    last: Option<TaskId>,
    /// The interval ends with it.
    pub closes: bool,
    /// For a draft or for viewers: the threads that live.
    pub living: Option<Vec<Arc<Kept>>>,
    /// It is viewers who wait for it.
    pub for_viewers: bool,
    /// Who waits for metrics.
    pub asker: Option<Asker>,
}

impl Pass {
    /// One that begins.
    #[must_use]
    pub fn new(closes: bool, drafts: bool) -> Self {
        Self { last: None, closes, living: drafts.then(Vec::new), for_viewers: false, asker: None }
    }

    /// One for viewers.
    #[must_use]
    pub fn for_viewers() -> Self {
        Self { for_viewers: true, ..Self::new(false, true) }
    }

    /// One for metrics.
    #[must_use]
    pub fn for_metrics(asker: Asker) -> Self {
        Self { asker: Some(asker), ..Self::new(false, false) }
    }

    /// The interval ends: with the pass under way, as each measures all, or else with one of its own. One that takes longer than an
    /// interval goes on.
    pub fn close(under_way: &mut Option<Self>) {
        under_way.get_or_insert_with(|| Self::new(true, false)).closes = true;
    }
}

impl Meter {
    /// Tells the programs about machine and plan. `planned`: threads belong where the plan says, not where their process
    /// turns out to live.
    pub fn start(mut programs: Programs, engine: &Engine, planned: bool, limits: Limits) -> Self {
        let places = Places::new(engine.topology());
        let homes = homes(engine, &places, planned);
        let critical = critical_of(engine, planned);
        define(&mut programs, &places, &homes, &critical);
        let measured = Measured::of(programs.health());
        let observer = Observer::new(sys::monotonic_ns(), places, homes, measured, limits);
        let groups = engine.plan().groups.len();
        Self {
            programs,
            observer,
            planned,
            critical,
            groups,
            born: None,
            unheard: HashMap::new(),
            untold: Untold::default(),
            sweep: None,
        }
    }

    /// Whether threads belong where the plan says.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.planned
    }

    /// Follows a plan that may have grown.
    pub fn keep_up(&mut self, engine: &Engine) {
        if self.planned && engine.plan().groups.len() != self.groups {
            self.replan(engine);
        }
    }

    /// Follows a plan that has changed.
    pub fn replan(&mut self, engine: &Engine) {
        let places = Places::following(engine.topology(), self.observer.places());
        let homes = homes(engine, &places, self.planned);
        (self.critical, self.groups) = (critical_of(engine, self.planned), engine.plan().groups.len());
        define(&mut self.programs, &places, &homes, &self.critical);
        for assign in self.observer.replan(engine, places, homes) {
            self.assign(assign);
        }
    }

    /// That task has been born, with an account in that slot, and with that plan set, if the kernel side has given it one.
    pub fn note_born(&mut self, task: TaskId, slot: u32, plan: Option<u32>) {
        self.born = Some((task, slot, plan));
    }

    /// A thread of which nothing was heard but its birth has ended. Its role, if it is one of a process of ours, nobody has seen it, and it
    /// belongs where the kernel side took it to belong.
    pub fn over(&mut self, engine: &Engine, birth: &TaskEvent, end: &TaskEvent) -> Option<ThreadRole> {
        let EventKind::Fork { comm, plan: Some(plan), .. } = &birth.kind else { return None };
        let EventKind::Exit { slot: Some(slot), brief: Some(brief) } = &end.kind else { return None };
        let (pid, task) = (birth.pid, birth.task);
        let role = self.observer.follow_born(engine, pid, task, comm, (*slot, *plan))?;
        self.close(task, *slot, &whole(pid, task, brief, end.at_ns));
        Some(role)
    }

    /// A task has ended, says the ring: its account is read, where it did not come along, and given back.
    pub fn ended(
        &mut self,
        engine: &Engine,
        end: &TaskEvent,
        slot: Option<u32>,
        brief: Option<&Brief>,
    ) -> Option<(Labels, Account)> {
        let (pid, task) = (end.pid, end.task);
        let Some(slot) = slot else {
            self.observer.end(task, None, sys::monotonic_ns());
            self.unheard.remove(&task);
            return None;
        };
        let account = match brief {
            Some(brief) => whole(pid, task, brief, end.at_ns),
            // After a loss we may have found the account before we got to the word of it.
            None if self.programs.is_given_back(slot, end.at_ns) => return None,
            None => told(self.programs.read_account(slot)).filter(|account| is_of(account, task))?,
        };
        self.observer.follow(engine, pid, task, || Some(slot));
        let labels = self.close(task, slot, &account);
        if brief.is_none() {
            told(self.programs.give_back(slot, account.closed_at_ns));
        }
        Some((labels?, account))
    }

    /// Takes in the account of a task that ended; what the task was called.
    fn close(&mut self, task: TaskId, slot: u32, account: &Account) -> Option<Labels> {
        self.observer.adopt(task, slot, account);
        let labels = self.observer.labels(task).cloned();
        self.observer.end(task, Some((slot, account)), sys::monotonic_ns());
        self.unheard.remove(&task);
        labels
    }

    /// Adds up the threads that have ended untold; how many live of whom nobody has heard.
    pub fn note_untold(&mut self) -> u64 {
        let (before, now) = (self.untold, self.programs.untold());
        self.observer.note_untold(now.ended - before.ended, now.run_ns - before.run_ns);
        self.untold = now;
        now.living
    }

    /// The ring had no room to tell of the end of some tasks: their accounts are to be found.
    pub fn sweep_closed(&mut self) {
        match &mut self.sweep {
            Some(sweep) => sweep.again = true,
            None => self.sweep = Some(Sweep::new()),
        }
    }

    /// Whether there are slots to be looked at.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Looks at some more slots, once the ring is empty; those that ended: pid, task, labels and account.
    pub fn sweep_some(&mut self) -> Vec<(u32, TaskId, Labels, Account)> {
        let Some(sweep) = self.sweep else { return Vec::new() };
        let end = self.programs.slots().min(sweep.next_slot.saturating_add(CHUNK as u32));
        let mut ended = Vec::new();
        for slot in sweep.next_slot..end {
            let Some(account) = told(self.programs.read_account(slot)) else { continue };
            let closed_at_ns = account.closed_at_ns;
            if closed_at_ns == 0
                || closed_at_ns > sweep.as_of_ns
                || self.programs.is_given_back(slot, closed_at_ns)
            {
                continue;
            }
            let task = TaskId { tid: account.tid, start_time: start_ticks(account.start_boottime_ns) };
            let labels = self.close(task, slot, &account);
            told(self.programs.give_back(slot, closed_at_ns));
            ended.extend(labels.map(|labels| (account.tgid, task, labels, account)));
        }
        self.sweep = match end < self.programs.slots() {
            true => Some(Sweep { next_slot: end, ..sweep }),
            false => sweep.again.then(Sweep::new),
        };
        ended
    }

    /// Reads some more accounts; `true` when that were all.
    pub fn read_some(&mut self, pass: &mut Pass) -> bool {
        let chunk = self.observer.slots_after(pass.last, CHUNK);
        let mut questions = 0;
        for (task, slot) in &chunk {
            if questions == QUESTIONS {
                return false;
            }
            pass.last = Some(*task);
            let account = told(self.programs.read_account(*slot)).filter(|account| is_of(account, *task));
            let Some(mut account) = account else { continue };
            let now_ns = sys::monotonic_ns();
            if !is_unheard(&account) {
                self.unheard.remove(task);
            } else if let Some(cpu) = *self.unheard.entry(*task).or_insert_with(|| {
                questions += 1;
                Host.running_on(task.tid)
            }) {
                // Whoever stops to run, or wakes up, is heard of: it still does what it did when we asked.
                (account.running_since_ns, account.cpu) = (account.opened_at_ns, cpu);
            }
            self.observer.measure(*task, &account, now_ns);
            if let Some(living) = &mut pass.living {
                living.extend(self.observer.keep(*task, &account, now_ns));
            }
        }
        chunk.len() < CHUNK
    }

    /// The interval is over.
    pub fn close_interval(&mut self) {
        for assign in self.observer.close_interval(sys::monotonic_ns()) {
            self.assign(assign);
        }
    }

    /// Who else ran on critical CPUs.
    #[must_use]
    pub fn intruders(&self) -> Vec<Intruders> {
        let of = |cpu| {
            let who = intruders(&self.programs.cpu_state(cpu)?);
            (!who.is_empty()).then_some(Intruders { run: 0, cpu, who })
        };
        self.critical.iter().filter_map(of).collect()
    }
}

impl Marks for Meter {
    fn mark(&mut self, pid: u32, task: TaskId) -> bool {
        match self.programs.mark(pid, task) {
            Ok(Marked::New) => {
                // What ended before it was marked leaves no mark behind, and has an account that says more than this one.
                if Host.start_time(task.tid) != Some(task.start_time) {
                    told(self.programs.unmark(task));
                }
                true
            }
            Ok(Marked::Known) => false,
            Err(error) => {
                tracing::warn!(
                    pid,
                    tid = task.tid,
                    "cannot mark the thread for the kernel programs: {error}"
                );
                false
            }
        }
    }

    fn unmark(&mut self, task: TaskId) {
        if self.observer.follows(task) {
            // Up to now it was ours.
            let marked = self.programs.slot_of(task);
            if marked.is_none() && self.observer.slot_of(task).is_some() {
                // It has ended: word of it is on its way, and has the slot.
                return;
            }
            let account = marked.and_then(|slot| Some((slot, told(self.programs.read_account(slot))?)));
            let account = account.as_ref().filter(|(_, account)| is_of(account, task));
            let account = account.map(|(slot, account)| (*slot, account));
            self.observer.end(task, account, sys::monotonic_ns());
            self.unheard.remove(&task);
        }
        if let Err(error) = self.programs.unmark(task) {
            tracing::warn!(tid = task.tid, "cannot unmark the thread: {error}");
        }
    }

    fn follow(&mut self, engine: &Engine, pid: u32, task: TaskId) -> Option<Assign> {
        let born = self.born.filter(|(born, ..)| *born == task && !self.observer.follows(task));
        let programs = &mut self.programs;
        let slot = || match born {
            Some((_, slot, _)) => Some(slot),
            None => {
                told(programs.hear_of(task));
                programs.slot_of(task)
            }
        };
        let assign = self.observer.follow(engine, pid, task, slot);
        // What it has by birth.
        assign.filter(|assign| born.and_then(|(.., plan)| plan) != Some(assign.home))
    }

    fn assign(&mut self, assign: Assign) {
        // The slot of a short life is another's before we have heard of its end.
        if assign.home < PLAN_SETS && self.programs.slot_of(assign.task) == Some(assign.slot) {
            told(self.programs.assign(assign.slot, assign.home));
        }
    }
}

/// Moves of an account.
#[must_use]
pub fn moves(account: &Account) -> MigrationCounts {
    let by_span = &account.moves_by_span;
    MigrationCounts { cpu: by_span.iter().sum(), node: by_span[span::SOCKET] + by_span[span::MACHINE] }
}

/// The account of a task that ended, from what came along with the word of it.
fn whole(pid: u32, task: TaskId, brief: &Brief, closed_at_ns: u64) -> Account {
    // Not by `..`, which would copy all of it once more.
    let mut account = brief.account();
    (account.tgid, account.tid, account.start_boottime_ns) = (pid, task.tid, task.start_time * TICK_NS);
    account.closed_at_ns = closed_at_ns;
    account
}

fn is_of(account: &Account, task: TaskId) -> bool {
    account.tid == task.tid && start_ticks(account.start_boottime_ns) == task.start_time
}

/// Nothing has happened to it since its account was opened: it sleeps, or has had a CPU all the time.
fn is_unheard(account: &Account) -> bool {
    let heard =
        [account.running_since_ns, account.waiting_since_ns, account.stopped_at_ns, account.closed_at_ns];
    heard == [0; 4]
}

fn homes(engine: &Engine, places: &Places, planned: bool) -> Homes {
    if planned { Homes::of_plan(engine.plan(), places) } else { Homes::of_nodes(places) }
}

fn critical_of(engine: &Engine, planned: bool) -> CpuSet {
    if planned { critical_cpus(engine.plan()) } else { CpuSet::new() }
}

fn define(programs: &mut Programs, places: &Places, homes: &Homes, critical: &CpuSet) {
    told(programs.set_places(&places.to_vec(critical)));
    for (index, home) in homes.iter().take_while(|(index, _)| *index < PLAN_SETS) {
        told(programs.set_plan_set(index, &home.set));
    }
    if homes.iter().any(|(index, _)| index >= PLAN_SETS) {
        tracing::warn!(
            "the plan has more groups than the kernel side can tell apart: off-node runs of some are not measured"
        );
    }
}

fn told<T>(result: Result<T, BpfError>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("{error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_ends_with_the_pass_under_way_whoever_it_is_for() {
        let closed = |mut pass| {
            Pass::close(&mut pass);
            let pass = pass.unwrap();
            (pass.closes, pass.living.is_some(), pass.for_viewers)
        };
        assert_eq!(closed(None), (true, false, false));
        assert_eq!(closed(Some(Pass::for_viewers())), (true, true, true));
        assert_eq!(closed(Some(Pass::new(false, true))), (true, true, false), "a report's");
        assert_eq!(closed(Some(Pass::new(true, false))), (true, false, false));
    }
}
