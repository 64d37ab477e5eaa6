//! The guard's own process: who is held goes on when the agent says so, when it has taken too long, and when the agent is gone.

use std::{
    collections::BTreeSet,
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
    release::{is_stopped, is_stopped_by_others, release, release_again},
    wire::{Heard, Wire},
};
use crate::{
    core::hold::{Answer, By, End, Hold, HoldSettings, MemoryResult, Order, Release},
    host::{
        bpf::{HeldTasks, HoldRing},
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
/// Time between two looks at the end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Serves until the agent ends it, or is gone.
///
/// # Errors
/// If it cannot begin.
pub fn serve(ring: OwnedFd, held: OwnedFd, socket: OwnedFd) -> anyhow::Result<()> {
    sys::stand_alone()?;
    anyhow::ensure!(sys::may_signal_all(), "without CAP_KILL nobody could be let go on");
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
        due: BTreeSet::new(),
        early: BTreeSet::new(),
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
    /// Who is held, the longest first.
    due: BTreeSet<ByTime>,
    /// Let go on before the ring had word of them.
    early: BTreeSet<ByTime>,
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
                    Heard::Message(Order::Release { hold, memory }) => self.obey(hold, memory),
                }
            }
            self.release_overdue();
            self.wait();
        }
    }

    /// Word of those who have been stopped.
    fn take_in(&mut self) {
        while let Some(hold) = self.ring.next_hold() {
            if !self.early.remove(&(hold.at_ns, hold)) {
                self.due.insert((hold.at_ns, hold));
            }
        }
    }

    fn obey(&mut self, hold: Hold, memory: Option<String>) {
        self.take_in();
        if !self.due.contains(&(hold.at_ns, hold)) {
            if !self.held.has(&hold) {
                self.wire.tell(&Answer::Late { hold });
                return;
            }
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
        let end = if theirs { End::Stopped } else { release(&Host, &hold) };
        self.note(hold, By::Agent, end, memory);
    }

    fn release_overdue(&mut self) {
        let now_ns = monotonic_ns();
        while let Some((at_ns, hold)) = self.due.first().copied() {
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

    fn let_go(&mut self, hold: Hold, by: By) {
        let end = release(&Host, &hold);
        self.note(hold, by, end, MemoryResult::Unasked);
    }

    fn note(&mut self, hold: Hold, by: By, end: End, memory: MemoryResult) {
        self.due.remove(&(hold.at_ns, hold));
        self.held.forget(&hold);
        let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
        self.wire.tell(&Answer::Released(Release { hold, by, end, memory, held_ns }));
    }

    /// Until something is to be done.
    fn wait(&self) {
        let timeout = self.due.first().map_or(PollTimeout::NONE, |(at_ns, _)| {
            let left_ns = (at_ns + self.limit_ns).saturating_sub(monotonic_ns());
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
        while monotonic_ns().saturating_sub(busy_ns) < quiet_ns {
            self.take_in();
            while let Some((_, hold)) = self.due.first().copied() {
                busy_ns = monotonic_ns();
                self.let_go(hold, By::Farewell);
            }
            let wire = &self.wire;
            // Who would hear of it is gone, most likely.
            let tell = |release| _ = wire.tell(&Answer::Released(release));
            if free_all(&mut self.held, tell) > 0 {
                busy_ns = monotonic_ns();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Lets all go on that are in the map; how many there are. Those that may not have got their stop yet stay in it, and are told of when
/// they leave it.
pub fn free_all(held: &mut HeldTasks, mut tell: impl FnMut(Release)) -> usize {
    let holds = held.all();
    for hold in &holds {
        let end = release_again(&Host, hold);
        let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
        if held_ns > SETTLED_NS {
            held.forget(hold);
            tell(Release { hold: *hold, by: By::Farewell, end, memory: MemoryResult::Unasked, held_ns });
        }
    }
    holds.len()
}

/// Lets one go on; what became of it, if it was held.
pub fn free(held: &mut HeldTasks, hold: Hold) -> Option<Release> {
    if !held.has(&hold) {
        return None;
    }
    let end = release(&Host, &hold);
    held.forget(&hold);
    let held_ns = monotonic_ns().saturating_sub(hold.at_ns);
    Some(Release { hold, by: By::Agent, end, memory: MemoryResult::Unasked, held_ns })
}
