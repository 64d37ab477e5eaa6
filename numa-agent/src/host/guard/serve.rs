//! The guard's own process: who is held goes on when the agent says so, when it has taken too long, and when the agent is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    memory,
    parents::{Forebears, Parents, forebears},
    release::{is_stopped, is_stopped_by_others, is_traced, release, release_again},
    wire::{Heard, Wire},
};
use crate::{
    core::{
        hold::{Answer, By, End, Hold, HoldSettings, MemoryResult, Order, Release},
        task::TaskId,
    },
    host::{
        bpf::{HeldTasks, HoldRing},
        capabilities,
        sys::{self, Host, monotonic_ns},
    },
};

/// How long nobody may be held before a guard whose agent is gone ends: the programs hold as long as the agent's last heartbeat is
/// fresh, and a task that is about to be stopped may wait for a CPU.
const QUIET_NS: u64 = 1_000_000_000;
/// The same where the agent has seen to it that nobody is held any more.
const ORDERLY_QUIET_NS: u64 = 50_000_000;
/// A task in the map gets its stop within this time. Until then it is told to go on again and again.
const SETTLED_NS: u64 = 100_000_000;
/// So long a tracer has to end with which one is held.
const TRACED_NS: u64 = 10_000_000_000;
/// Time between two looks at the end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Serves until the agent ends it, or is gone.
///
/// # Errors
/// If it cannot begin.
pub fn serve(ring: OwnedFd, held: OwnedFd, socket: OwnedFd) -> anyhow::Result<()> {
    sys::stand_alone()?;
    anyhow::ensure!(capabilities::may_signal_all(), "without CAP_KILL nobody could be let go on");
    // Who lets others go on is the last to be taken for its memory. Refused without rights.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = fs::write("/proc/self/comm", "numa-guard");
    // With the threads that it has trace others.
    sys::prioritise_thread(false);
    let mut guard = Guard {
        ring: HoldRing::of_fd(ring)?,
        held: HeldTasks::of_fd(held)?,
        wire: Wire::of_fd(socket),
        limit_ns: HoldSettings::default().limit.as_nanos() as u64,
        due: BTreeMap::new(),
        early: BTreeSet::new(),
        parents: Parents::default(),
    };
    guard.wire.tell(&Answer::Ready);
    let quiet_ns = guard.watch();
    guard.clear_up(quiet_ns);
    Ok(())
}

struct Guard {
    ring: HoldRing,
    held: HeldTasks,
    wire: Wire<Order>,
    limit_ns: u64,
    /// Who is held, the longest first, and whose parents are to be looked after then.
    due: BTreeMap<ByTime, Forebears>,
    /// Let go on before the ring had word of them.
    early: BTreeSet<ByTime>,
    /// Of those who were let go on a moment ago.
    parents: Parents,
}

/// A hold and its time, by which they are ordered.
type ByTime = (u64, Hold);

impl Guard {
    /// Until the agent is gone or wants the end; how long it is to be quiet then.
    fn watch(&mut self) -> u64 {
        loop {
            self.take_in();
            loop {
                match self.wire.hear() {
                    Heard::Nothing => break,
                    Heard::End => return QUIET_NS,
                    Heard::Message(Order::End) => return ORDERLY_QUIET_NS,
                    Heard::Message(Order::Limit { ns }) => self.limit_ns = ns,
                    Heard::Message(Order::Speak) => _ = self.wire.tell(&Answer::Ready),
                    Heard::Message(Order::Release { hold, memory }) => self.obey(hold, memory),
                }
            }
            self.release_overdue();
            self.attend_parents();
            self.wait();
        }
    }

    /// Word of those who have been stopped.
    fn take_in(&mut self) {
        while let Some(hold) = self.ring.next_hold() {
            if !self.early.remove(&(hold.at_ns, hold)) {
                // While the agent binds it.
                self.due.insert((hold.at_ns, hold), forebears(&Host, hold.task.tid));
            }
        }
    }

    fn obey(&mut self, hold: Hold, memory: Option<String>) {
        self.take_in();
        // The agent has let it go on itself, or the kernel side has taken it back.
        if !self.held.has(&hold) {
            self.due.remove(&(hold.at_ns, hold));
            self.wire.tell(&Answer::Late { hold });
            return;
        }
        let known = self.due.remove(&(hold.at_ns, hold));
        if known.is_none() {
            self.early.insert((hold.at_ns, hold));
            // Word that never came: the program was interrupted for good.
            while self.early.len() > 1024 {
                self.early.pop_first();
            }
        }
        let left = Duration::from_nanos((hold.at_ns + self.limit_ns).saturating_sub(monotonic_ns()));
        // Tracing it takes a stop that is still pending.
        let theirs = is_stopped_by_others(&Host, &hold);
        let memory = memory.map_or(MemoryResult::Unasked, |policy| memory::set(hold.task, &policy, left));
        let forebears = known.unwrap_or_else(|| forebears(&Host, hold.task.tid));
        let end = if theirs { End::Stopped } else { self.release(&hold, &forebears) };
        self.note(hold, By::Agent, end, memory);
    }

    fn release_overdue(&mut self) {
        let now_ns = monotonic_ns();
        while let Some((at_ns, hold)) = self.due.keys().next().copied() {
            if now_ns < at_ns + self.limit_ns {
                break;
            }
            // The kernel side has taken it back: nobody was told of it.
            if !self.held.has(&hold) && !is_stopped(&Host, &hold) {
                self.due.remove(&(at_ns, hold));
                continue;
            }
            self.let_go(hold, By::Limit);
        }
    }

    /// Lets it go on, and its parent if that has stopped; who then has its parent looked after.
    fn release(&mut self, hold: &Hold, forebears: &[TaskId]) -> End {
        let mut continued = None;
        let end = release(&Host, hold, || {
            continued = self.parents.watch(&Host, forebears, monotonic_ns());
        });
        if let Some(parent) = continued {
            self.wire.tell(&Answer::Parent { parent });
        }
        end
    }

    fn attend_parents(&mut self) {
        for parent in self.parents.look(&Host, monotonic_ns()) {
            self.wire.tell(&Answer::Parent { parent });
        }
    }

    fn let_go(&mut self, hold: Hold, by: By) {
        let forebears = self.due.remove(&(hold.at_ns, hold)).unwrap_or_default();
        let end = self.release(&hold, &forebears);
        self.note(hold, by, end, MemoryResult::Unasked);
    }

    fn note(&mut self, hold: Hold, by: By, end: End, memory: MemoryResult) {
        let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
        let release = Release { hold, by, end, memory, held_ns };
        // The agent may have lost patience with us meanwhile, and counted it.
        let answer = if self.held.forget(&hold) { Answer::Released(release) } else { Answer::Late { hold } };
        self.wire.tell(&answer);
    }

    /// Until something is to be done.
    fn wait(&self) {
        let overdue_ns = self.due.keys().next().map(|(at_ns, _)| at_ns + self.limit_ns);
        let timeout =
            overdue_ns.into_iter().chain(self.parents.next_ns()).min().map_or(PollTimeout::NONE, |at_ns| {
                let left_ns = at_ns.saturating_sub(monotonic_ns());
                PollTimeout::try_from(Duration::from_nanos(left_ns) + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX)
            });
        let readable = PollFlags::POLLIN;
        let mut polled = [PollFd::new(self.ring.as_fd(), readable), PollFd::new(self.wire.as_fd(), readable)];
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Not to happen; not to spin either.
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }

    /// Lets all go on, until nobody has been held for so long.
    fn clear_up(&mut self, quiet_ns: u64) {
        let mut busy_ns = monotonic_ns();
        while monotonic_ns().saturating_sub(busy_ns) < quiet_ns || self.parents.next_ns().is_some() {
            self.take_in();
            while let Some((_, hold)) = self.due.keys().next().copied() {
                busy_ns = monotonic_ns();
                self.let_go(hold, By::Farewell);
            }
            let wire = &self.wire;
            // Who would hear of it is gone, most likely.
            let tell = |release| _ = wire.tell(&Answer::Released(release));
            if free_all(&mut self.held, &mut self.parents, tell) > 0 {
                busy_ns = monotonic_ns();
            }
            self.attend_parents();
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Lets all go on that are in the map; how many there are. Those that may not have got their stop yet stay in it, and are told of when
/// they leave it.
pub fn free_all(held: &mut HeldTasks, parents: &mut Parents, mut tell: impl FnMut(Release)) -> usize {
    let holds = held.all();
    for hold in &holds {
        let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
        // A tracer that ends gives a stop back that was taken before.
        if held_ns < TRACED_NS && is_traced(&Host, hold) {
            continue;
        }
        let end = release_again(&Host, hold, || watch_parent(parents, hold));
        if held_ns > SETTLED_NS {
            held.forget(hold);
            tell(Release { hold: *hold, by: By::Farewell, end, memory: MemoryResult::Unasked, held_ns });
        }
    }
    holds.len()
}

/// Looks after the parent of one that nobody has heard of while it was held.
fn watch_parent(parents: &mut Parents, hold: &Hold) {
    parents.watch(&Host, &forebears(&Host, hold.task.tid), monotonic_ns());
}

/// Lets one go on; what became of it, if it was held.
pub fn free(held: &mut HeldTasks, parents: &mut Parents, hold: Hold) -> Option<Release> {
    if !held.has(&hold) {
        return None;
    }
    let end = release(&Host, &hold, || watch_parent(parents, &hold));
    held.forget(&hold);
    let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
    Some(Release { hold, by: By::Agent, end, memory: MemoryResult::Unasked, held_ns })
}
