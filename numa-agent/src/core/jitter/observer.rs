//! Who is followed, what was measured of those that ended, and how it all becomes a [`Recording`].
//!
//! The observer reads no account itself: it says which to read, and is given what was read. What it keeps of a thread is
//! small, because there may be thousands: labels and place in the timeline while it lives, the account without its zeros
//! when it has ended.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
};

use numa_ebpf::{
    account::{Account, MATRIX, NODES},
    place::NO_PLAN,
};

use super::{
    account::{Measured, Reader, current_run_ns},
    draft::{Draft, Kept},
    figures::Figures,
    homes::Homes,
    packed::Packed,
    places::Places,
    recording::IntervalFigures,
    timeline::{Seen, Timeline},
    totals::{ThreadTotal, Totals},
};
use crate::core::{
    engine::Engine,
    task::{ProcessRole, TaskId, ThreadRole},
};

/// The most that is kept of a process's arguments, in bytes.
const ARGUMENTS: usize = 1024;
/// CPU time that tells on which node a process lives, in nanoseconds.
const TELLING_NS: u64 = 10_000_000;

/// What a process is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessLabels {
    /// Its leader.
    pub id: TaskId,
    /// Name.
    pub comm: String,
    /// Arguments, the beginning.
    pub cmdline: String,
    /// Role in the plan.
    pub role: ProcessRole,
    /// Its group.
    pub group: Option<String>,
}

/// What a thread is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Its process.
    pub process: Arc<ProcessLabels>,
    /// Name.
    pub comm: String,
    /// Role.
    pub role: ThreadRole,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Threads that ended; the oldest are added up by group and role then.
    pub ended: usize,
    /// Intervals; each two become one then.
    pub intervals: usize,
}

/// The kernel side is to be told that the account in this slot is of a task with this home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assign {
    /// The task, if it still has it.
    pub task: TaskId,
    /// Slot.
    pub slot: u32,
    /// Index among [`Homes`].
    pub home: u32,
}

/// Threads that ended and are not kept one by one.
pub type Rest = BTreeMap<(Option<String>, ThreadRole), (u64, Figures)>;

/// Moves from (row) place to (column) place, see [`Places::row`].
pub type Moves = [u64; MATRIX * MATRIX];

/// Threads that were measured, and are nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unattributed {
    /// How many.
    pub threads: u64,
    /// Their CPU time.
    pub run_ns: u64,
}

/// The one owner of what is measured.
#[derive(Debug)]
pub struct Observer {
    began_ns: u64,
    places: Arc<Places>,
    measured: Measured,
    limits: Limits,
    homes: Homes,
    followed: BTreeMap<TaskId, Followed>,
    /// By slot: an account may go on under another tid.
    seen: BTreeMap<u32, Seen>,
    processes: BTreeMap<TaskId, Weak<ProcessLabels>>,
    /// Without a plan: the node that each process lives on, by dense index, or its CPU time by node until that is known.
    dwellings: BTreeMap<TaskId, Dwelling>,
    ended: VecDeque<Arc<Kept>>,
    rest: Rest,
    /// Of all that ended.
    moves_of_ended: Moves,
    /// Those that have ended since somebody began to read all accounts.
    ends: Option<BTreeSet<TaskId>>,
    timeline: Timeline,
    /// `None`: nobody wants them.
    totals: Option<Totals>,
    unmeasured: u64,
    unattributed: Unattributed,
    untold: Unattributed,
}

#[derive(Debug)]
struct Followed {
    labels: Labels,
    /// `None`: there was no room for its account.
    slot: Option<u32>,
    home: u32,
}

#[derive(Debug)]
enum Dwelling {
    Known(u32),
    Unknown([u64; NODES]),
}

impl Observer {
    /// One that begins now, and knows nobody.
    #[must_use]
    pub fn new(now_ns: u64, places: Places, homes: Homes, measured: Measured, limits: Limits) -> Self {
        Self {
            began_ns: now_ns,
            places: Arc::new(places),
            measured,
            limits,
            homes,
            followed: BTreeMap::new(),
            seen: BTreeMap::new(),
            processes: BTreeMap::new(),
            dwellings: BTreeMap::new(),
            ended: VecDeque::new(),
            rest: Rest::new(),
            moves_of_ended: [0; MATRIX * MATRIX],
            ends: None,
            timeline: Timeline::new(now_ns, limits.intervals, measured.migrations),
            totals: None,
            unmeasured: 0,
            unattributed: Unattributed::default(),
            untold: Unattributed::default(),
        }
    }

    /// Where threads belong.
    #[must_use]
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// How many threads are followed.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.followed.len()
    }

    /// How many have ended.
    #[must_use]
    pub fn threads_ended(&self) -> u64 {
        self.ended.len() as u64
            + self.rest.values().map(|(threads, _)| threads).sum::<u64>()
            + self.unmeasured
    }

    /// The last interval, all threads together.
    #[must_use]
    pub fn last_interval(&self) -> Option<IntervalFigures> {
        self.timeline.last()
    }

    /// Takes over what the engine knows of a thread, if it does; `slot_of` tells the account of one that is new.
    pub fn follow(
        &mut self,
        engine: &Engine,
        pid: u32,
        task: TaskId,
        slot_of: impl FnOnce() -> Option<u32>,
    ) -> Option<Assign> {
        let process = engine.process(pid)?;
        let thread = process.threads.get(&task.tid).filter(|thread| thread.id == task)?;
        let group = self.homes.planned().then(|| engine.group_of(process)).flatten();
        let labels = ProcessLabels {
            id: process.facts.id(),
            comm: process.facts.comm.clone(),
            cmdline: beginning(&process.facts.cmdline).to_owned(),
            role: process.role,
            group: group.map(|group| group.name.clone()),
        };
        let process = self.shared(labels);
        let labels = Labels { process, comm: thread.comm.clone(), role: thread.role };
        let home = self.home_of(&labels);
        let known = self.followed.get(&task).map(|known| (known.slot, known.home));
        let slot = known.and_then(|(slot, _)| slot).or_else(slot_of);
        self.followed.insert(task, Followed { labels, slot, home });
        let told = known.map_or(NO_PLAN, |(_, home)| home);
        slot.filter(|_| home != told).map(|slot| Assign { task, slot, home })
    }

    /// Follows a thread of which nothing has been heard but its birth, called `comm`, up to its end, which has come. The kernel side measured
    /// it in that slot, by that plan set. Its role; `None`, and nothing is done, if its process is not known, or somebody has seen it, or
    /// that is not where it belonged.
    pub fn follow_born(
        &mut self,
        engine: &Engine,
        pid: u32,
        task: TaskId,
        comm: &str,
        (slot, plan): (u32, u32),
    ) -> Option<ThreadRole> {
        let process = engine.process(pid)?;
        if process.threads.contains_key(&task.tid) || self.followed.contains_key(&task) {
            return None;
        }
        let role = engine.rules().thread_role(process.role, comm, false);
        let process = self.processes.get(&process.facts.id()).and_then(Weak::upgrade)?;
        let labels = Labels { process, comm: comm.to_owned(), role };
        let home = self.home_of(&labels);
        if home != plan {
            return None;
        }
        self.followed.insert(task, Followed { labels, slot: Some(slot), home });
        Some(role)
    }

    /// Whether that thread is followed.
    #[must_use]
    pub fn follows(&self, task: TaskId) -> bool {
        self.followed.contains_key(&task)
    }

    /// A followed thread has ended, or is not ours any more, and this is its account, with the slot; `None`: it has none, or
    /// its account goes on as its leader's.
    pub fn end(&mut self, task: TaskId, account: Option<(u32, &Account)>, now_ns: u64) {
        let Some(followed) = self.followed.remove(&task) else { return };
        let Some((slot, account)) = account else {
            self.unmeasured += u64::from(followed.slot.is_none());
            return;
        };
        let home = self.homes.get(followed.home).cloned();
        let before = self.seen.remove(&slot).map(|mut before| {
            before.come_home(&self.reader(), account, home.as_deref());
            before
        });
        let before = before.unwrap_or_default();
        let seen = Seen::new(&self.reader(), account, home.as_deref(), now_ns);
        self.timeline.add(followed.labels.role, &before, &seen, true);
        if let Some(totals) = &mut self.totals {
            totals.add(&followed.labels.process.group, followed.labels.role, &before, &seen);
        }
        self.tally(&followed.labels, account, now_ns);
        self.moves_of_ended.iter_mut().zip(account.moves).for_each(|(sum, count)| *sum += u64::from(count));
        if let Some(ends) = &mut self.ends {
            ends.insert(task);
        }
        let Followed { labels, .. } = followed;
        let ended =
            Kept { task, labels, home, ended: true, read_at_ns: now_ns, account: Packed::new(account) };
        self.ended.push_back(Arc::new(ended));
        if self.ended.len() > self.limits.ended
            && let Some(oldest) = self.ended.pop_front()
        {
            let figures = oldest.figures(&self.reader());
            let key = (oldest.labels.process.group.clone(), oldest.labels.role);
            let (threads, sum) = self.rest.entry(key).or_default();
            *threads += 1;
            sum.merge(&figures);
        }
    }

    /// Up to `most` followed threads that have an account, those after `last`, with its slot.
    #[must_use]
    pub fn slots_after(&self, last: Option<TaskId>, most: usize) -> Vec<(TaskId, u32)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let begin = last.map_or(Unbounded, Excluded);
        let followed = self.followed.range((begin, Unbounded));
        followed.filter_map(|(task, followed)| Some((*task, followed.slot?))).take(most).collect()
    }

    /// Takes note of what an account says now.
    pub fn measure(&mut self, task: TaskId, account: &Account, now_ns: u64) {
        let Some((followed, slot)) = self.followed.get(&task).and_then(|known| Some((known, known.slot?)))
        else {
            return;
        };
        let labels = followed.labels.clone();
        let home = self.homes.get(followed.home).map(Arc::as_ref);
        let mut seen = Seen::new(&self.reader(), account, home, now_ns);
        let mut before = self.seen.remove(&slot);
        if let Some(before) = &mut before {
            before.come_home(&self.reader(), account, home);
        }
        let before = before.unwrap_or_default();
        self.timeline.add(labels.role, &before, &seen, false);
        if let Some(totals) = &mut self.totals {
            totals.add(&labels.process.group, labels.role, &before, &seen);
        }
        seen.off_node_sum_ns = before.off_node_sum_ns + seen.off_node_since(&before).unwrap_or(0);
        self.seen.insert(slot, seen);
        self.tally(&labels, account, now_ns);
    }

    /// All accounts have been measured: the interval is over. Without a plan, homes may have turned out.
    pub fn close_interval(&mut self, now_ns: u64) -> Vec<Assign> {
        self.timeline.close(now_ns, self.followed.values().map(|followed| followed.labels.role));
        self.processes.retain(|_, labels| labels.strong_count() > 0);
        self.dwellings.retain(|process, _| self.processes.contains_key(process));
        for dwelling in self.dwellings.values_mut() {
            let Dwelling::Unknown(tally) = dwelling else { continue };
            let most = tally.iter().enumerate().max_by_key(|(index, ns)| (**ns, usize::MAX - index));
            if let Some((index, _)) = most.filter(|_| tally.iter().sum::<u64>() >= TELLING_NS) {
                *dwelling = Dwelling::Known(index as u32);
            } else {
                *tally = [0; NODES];
            }
        }
        self.reassign()
    }

    /// Without a plan: that process lives on that node, where most of its memory is.
    pub fn settle(&mut self, process: TaskId, node: u32) -> Vec<Assign> {
        if let Some(index) = self.places.index_of(node).filter(|_| !self.homes.planned()) {
            self.dwellings.insert(process, Dwelling::Known(index));
        }
        self.reassign()
    }

    /// Where each CPU is.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The plan, or the machine, has changed; `engine` has the new one.
    pub fn replan(&mut self, engine: &Engine, places: Places, homes: Homes) -> Vec<Assign> {
        self.places = Arc::new(places);
        self.homes = homes;
        // The plan sets of these indexes are others now.
        self.followed.values_mut().for_each(|followed| followed.home = NO_PLAN);
        let all = self.followed.iter().map(|(task, followed)| (followed.labels.process.id.tid, *task));
        let all: Vec<(u32, TaskId)> = all.collect();
        all.into_iter().filter_map(|(pid, task)| self.follow(engine, pid, task, || None)).collect()
    }

    /// This is the account of a thread that has ended, and is to be followed up to its end. If nobody heard of it while it lived,
    /// it is one of its process's; whether we know, or have just known, of such a process.
    pub fn adopt(&mut self, task: TaskId, slot: u32, account: &Account) -> bool {
        if self.followed.contains_key(&task) {
            return true;
        }
        // The last that had this pid before the thread began.
        let pid = account.tgid;
        let first = TaskId { tid: pid, start_time: 0 };
        let last = TaskId { tid: pid, start_time: task.start_time };
        let process = self.processes.range(first..=last).next_back().and_then(|(_, known)| known.upgrade());
        let Some(process) = process else {
            self.unattributed.threads += 1;
            self.unattributed.run_ns += account.run_ns();
            return false;
        };
        let role = match process.role {
            ProcessRole::Group => ThreadRole::Member,
            ProcessRole::Other => ThreadRole::Other,
        };
        let labels = Labels { comm: process.comm.clone(), process, role };
        let home = self.home_of(&labels);
        self.followed.insert(task, Followed { labels, slot: Some(slot), home });
        true
    }

    /// So many threads have ended of whose birth where they belong nobody was told, with that CPU time.
    pub fn note_untold(&mut self, threads: u64, run_ns: u64) {
        self.untold.threads += threads;
        self.untold.run_ns += run_ns;
    }

    /// Those, all together: processes that we manage have started them, but they are nobody's in particular.
    #[must_use]
    pub fn untold(&self) -> Unattributed {
        self.untold
    }

    /// Threads that ended before it was known whose they were.
    #[must_use]
    pub fn unattributed(&self) -> Unattributed {
        self.unattributed
    }

    /// The slot of a followed thread's account.
    #[must_use]
    pub fn slot_of(&self, task: TaskId) -> Option<u32> {
        self.followed.get(&task)?.slot
    }

    /// Name and role of a followed thread, and its process.
    #[must_use]
    pub fn labels(&self, task: TaskId) -> Option<&Labels> {
        self.followed.get(&task).map(|followed| &followed.labels)
    }

    /// A living thread for [`Observer::draft`].
    #[must_use]
    pub fn keep(&self, task: TaskId, account: &Account, now_ns: u64) -> Option<Arc<Kept>> {
        let followed = self.followed.get(&task)?;
        let home = self.homes.get(followed.home).cloned();
        let (labels, account) = (followed.labels.clone(), Packed::new(account));
        Some(Arc::new(Kept { task, labels, home, ended: false, read_at_ns: now_ns, account }))
    }

    /// What there is by now; `living` are the threads that live.
    #[must_use]
    pub fn draft(&self, living: Vec<Arc<Kept>>, now_ns: u64) -> Draft {
        let unmeasured = self.followed.values().filter(|followed| followed.slot.is_none()).count() as u64;
        Draft {
            began_ns: self.began_ns,
            now_ns,
            places: Arc::clone(&self.places),
            measured: self.measured,
            threads: self.ended.iter().cloned().chain(living).collect(),
            rest: self.rest.clone(),
            intervals: self.timeline.intervals(self.began_ns),
            unmeasured: self.unmeasured + unmeasured,
        }
    }

    /// Where each CPU is, for who wants to keep it.
    #[must_use]
    pub fn shared_places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// What is measured.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measured
    }

    /// All moves of all threads that ended.
    #[must_use]
    pub fn moves_of_ended(&self) -> &Moves {
        &self.moves_of_ended
    }

    /// From now on, who ends is noted for [`Observer::take_ends`].
    pub fn note_ends(&mut self) {
        self.ends = Some(BTreeSet::new());
    }

    /// The threads that ended since they are noted, and whose accounts are among [`Observer::moves_of_ended`]; no more are.
    pub fn take_ends(&mut self) -> BTreeSet<TaskId> {
        self.ends.take().unwrap_or_default()
    }

    /// From now on, what threads do is added up by group and role.
    pub fn keep_totals(&mut self) {
        self.totals = Some(Totals::default());
    }

    /// What has been added up; `None`: nothing was to be.
    #[must_use]
    pub fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Up to `most` living threads one by one, as they were measured last: forward threads first, older ones first, so that the
    /// same are listed the next time; and how many there are beside them.
    #[must_use]
    pub fn list(&self, most: usize) -> (Vec<ThreadTotal>, u64) {
        let mut all: Vec<(&TaskId, &Followed)> = self.followed.iter().collect();
        let unlisted = all.len().saturating_sub(most) as u64;
        let rank = |(task, followed): &(&TaskId, &Followed)| {
            (followed.labels.role != ThreadRole::Forward, task.start_time, task.tid)
        };
        if unlisted > 0 {
            all.select_nth_unstable_by_key(most, rank);
            all.truncate(most);
        }
        all.sort_by_key(rank);
        let listed = all.into_iter().map(|(task, followed)| {
            let seen = followed.slot.and_then(|slot| self.seen.get(&slot));
            let of = |value: fn(&Seen) -> u64| seen.map_or(0, value);
            ThreadTotal {
                pid: followed.labels.process.id.tid,
                task: *task,
                comm: followed.labels.comm.clone(),
                place: (followed.labels.process.group.clone(), followed.labels.role),
                run_ns: of(|seen| seen.run_ns),
                off_node_ns: of(|seen| seen.off_node_sum_ns),
                moves: of(Seen::moves),
                wait_ns: of(|seen| seen.wait_ns),
            }
        });
        (listed.collect(), unlisted)
    }

    fn reader(&self) -> Reader<'_> {
        Reader { places: &self.places, measured: self.measured, began_ns: self.began_ns }
    }

    /// Labels that all threads of a process have together.
    fn shared(&mut self, labels: ProcessLabels) -> Arc<ProcessLabels> {
        let known = self.processes.get(&labels.id).and_then(Weak::upgrade);
        known.filter(|known| **known == labels).unwrap_or_else(|| {
            let shared = Arc::new(labels);
            self.processes.insert(shared.id, Arc::downgrade(&shared));
            shared
        })
    }

    fn home_of(&self, labels: &Labels) -> u32 {
        match self.dwellings.get(&labels.process.id) {
            _ if self.homes.planned() => self.homes.of_thread(labels.process.group.as_deref(), labels.role),
            Some(Dwelling::Known(index)) => self.homes.of_node(*index),
            _ => NO_PLAN,
        }
    }

    fn reassign(&mut self) -> Vec<Assign> {
        let mut changes = Vec::new();
        for (task, followed) in &self.followed {
            let home = self.home_of(&followed.labels);
            if home != followed.home {
                changes.push((*task, home));
            }
        }
        let mut told = Vec::new();
        for (task, home) in changes {
            let Some(followed) = self.followed.get_mut(&task) else { continue };
            followed.home = home;
            told.extend(followed.slot.map(|slot| Assign { task, slot, home }));
        }
        told
    }

    /// Without a plan: where a process runs, until its home is known.
    fn tally(&mut self, labels: &Labels, account: &Account, now_ns: u64) {
        if self.homes.planned() {
            return;
        }
        let dwelling = self.dwellings.entry(labels.process.id).or_insert(Dwelling::Unknown([0; NODES]));
        let Dwelling::Unknown(tally) = dwelling else { return };
        tally.iter_mut().zip(account.node_ns).for_each(|(sum, ns)| *sum += ns);
        let current = self.places.node_of(account.cpu).and_then(|node| tally.get_mut(node as usize));
        if let Some(sum) = current {
            *sum += current_run_ns(account, now_ns);
        }
    }
}

/// The beginning of a text, whole characters.
fn beginning(text: &str) -> &str {
    let end = (0..=text.len().min(ARGUMENTS)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
#[path = "observer_tests.rs"]
pub(crate) mod tests;
