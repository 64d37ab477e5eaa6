//! The account of a marked task: what the scheduler did with it, added up in the kernel.
//!
//! Accounts live in the map `accounts`, in slots that are handed out from the map `free_slots`. Slot 0 is nobody's. The map
//! `slot_of` gives a tid's slot, `plan_of` the slot's plan set (see [`crate::place`]). A slot belongs to one task until user
//! space has read the account of the task that ended, emptied it and put it back.

use crate::{
    histogram::{Buckets, Summary},
    record::COMM_LEN,
};

/// Slot of tasks without an account.
pub const NO_SLOT: u32 = 0;
/// Nodes told apart in [`Account::node_ns`]; what runs on further ones is added to the last.
pub const NODES: usize = 16;
/// Side of the matrix [`Account::moves`].
pub const MATRIX: usize = 8;
/// CPUs kept in [`Account::early`].
pub const EARLY: usize = 8;
/// Names kept in [`Account::preemptors`].
pub const PREEMPTORS: usize = 8;

/// Why a task was moved to another CPU: index into [`Account::moves_by_cause`].
pub mod cause {
    /// Placed on a CPU as it was woken (`TASK_WAKING`).
    pub const WAKE_UP: usize = 0;
    /// Placed on a CPU by `execve` (`sched_exec`).
    pub const EXEC: usize = 1;
    /// Its mask no longer has the CPU it was on: `sched_setaffinity`, or a changed cpuset. One that sleeps meanwhile moves as
    /// it is woken.
    pub const AFFINITY: usize = 2;
    /// NUMA balancing moved it towards its memory.
    pub const NUMA_BALANCING: usize = 3;
    /// The load balancer, and whatever else moves tasks that can run, such as a CPU that goes offline.
    pub const LOAD_BALANCER: usize = 4;
    /// Number of causes.
    pub const COUNT: usize = 5;
}

/// How far a move went, index into [`Account::moves_by_span`]: the smallest unit that holds both CPUs.
pub mod span {
    /// Between hardware threads of a core.
    pub const CORE: usize = 0;
    /// Between cores of a cluster.
    pub const CLUSTER: usize = 1;
    /// Between clusters (or cores, where there are no clusters) of a node.
    pub const NODE: usize = 2;
    /// Between nodes of a socket.
    pub const SOCKET: usize = 3;
    /// Between sockets.
    pub const MACHINE: usize = 4;
    /// Number of spans.
    pub const COUNT: usize = 5;
}

/// What the scheduler does to a task takes time: index into [`Account::durations`] and [`Account::buckets`].
pub mod duration {
    /// Run-queue wait: from being woken to having a CPU.
    pub const WAKE_WAIT: usize = 0;
    /// Run-queue wait: from being taken off a CPU while it could have gone on (preempted, or it yielded) to having one again.
    pub const PREEMPT_WAIT: usize = 1;
    /// From having a CPU to leaving it.
    pub const SLICE: usize = 2;
    /// From leaving a CPU to having one again, whatever the task did in between.
    pub const GAP: usize = 3;
    /// Number of durations.
    pub const COUNT: usize = 4;
}

/// Waits shorter than this are nobody's in particular: they are in [`Account::preemptors_rest`].
pub const NAMED_WAIT_NS: u64 = 1 << 13;

/// CPU time before the task had a plan set, by CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Early {
    /// CPU plus one; 0: not in use.
    pub cpu: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// Runs outside the nodes of the task's plan set. A run is the time from getting a CPU to leaving it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffNode {
    /// All of them, in nanoseconds.
    pub ns: u64,
    /// How many.
    pub runs: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
    /// When the first ended, in `CLOCK_MONOTONIC` nanoseconds; 0 without one.
    pub first_at_ns: u64,
    /// When the last ended.
    pub last_at_ns: u64,
}

/// Time that interrupts took on the task's CPU while it was the task's turn.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stolen {
    /// Nanoseconds.
    pub ns: u64,
    /// How often.
    pub count: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// Tasks of one name, and the time that they had a CPU somebody else waited for or should have had for itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupant {
    /// Name, NUL-terminated; all zero: not in use.
    pub comm: [u8; COMM_LEN],
    /// Nanoseconds.
    pub ns: u64,
    /// How often.
    pub count: u64,
}

/// All that is kept of a task, what changes most often first.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Since when it has a CPU, in `CLOCK_MONOTONIC` nanoseconds as all times below but one; 0: it has none, or had it before
    /// the account was opened.
    pub running_since_ns: u64,
    /// Since when it waits for a CPU, or did before it got the one it has; 0: it does, and did, not.
    pub waiting_since_ns: u64,
    /// When it last left a CPU; 0: not yet.
    pub stopped_at_ns: u64,
    /// The CPU it has or last had.
    pub cpu: u32,
    /// What that wait is: [`duration::WAKE_WAIT`] or [`duration::PREEMPT_WAIT`].
    pub waits_as: u32,
    /// By [`duration`], of runs that ended and what led to them. The sum of all slices is the CPU time of those runs: with what
    /// `running_since_ns` tells it is the kernel's own `sum_exec_runtime` since the account was opened, plus what interrupts took.
    pub durations: [Summary; duration::COUNT],
    /// CPU time by dense node index, see [`crate::place::Place::node`].
    pub node_ns: [u64; NODES],
    /// CPU time outside the plan set's CPUs, in nanoseconds.
    pub off_plan_ns: u64,
    /// Runs outside the plan set's nodes.
    pub off_node: OffNode,
    /// When the task started, in `CLOCK_BOOTTIME` nanoseconds; where user space opened the account, rounded down to the
    /// clock tick.
    pub start_boottime_ns: u64,
    /// Thread group.
    pub tgid: u32,
    /// The task.
    pub tid: u32,
    /// When the account was opened.
    pub opened_at_ns: u64,
    /// When the task ended; 0 while it lives.
    pub closed_at_ns: u64,
    /// The CPU that NUMA balancing is about to move it to, plus one; 0: none.
    pub numa_target: u64,
    /// CPU time before there was a plan set.
    pub early: [Early; EARLY],
    /// The same on further CPUs, in nanoseconds.
    pub early_rest_ns: u64,
    /// Moves to another CPU by [`cause`].
    pub moves_by_cause: [u64; cause::COUNT],
    /// The same by [`span`].
    pub moves_by_span: [u64; span::COUNT],
    /// Moves from (row) place to (column) place, see [`crate::place::Place::row`].
    pub moves: [u32; MATRIX * MATRIX],
    /// `sched_move_numa` events.
    pub numa_moves: u64,
    /// `sched_swap_numa` events.
    pub numa_swaps: u64,
    /// By hardware interrupts.
    pub irq: Stolen,
    /// By softirqs.
    pub softirq: Stolen,
    /// By [`duration`].
    pub buckets: [Buckets; duration::COUNT],
    /// Who had the CPU until it got it, by name: its waits of [`NAMED_WAIT_NS`] and more, attributed to the task it took over
    /// from. The name with the least time gives way to a new one.
    pub preemptors: [Occupant; PREEMPTORS],
    /// Those that gave way, and shorter waits, together; idle time is not in it.
    pub preemptors_rest: Occupant,
}

/// An account as the words that user space reads and writes.
pub type Words = [u64; size_of::<Account>() / 8];

impl Account {
    /// Of a task of which nothing is known yet.
    pub const EMPTY: Self = {
        // SAFETY: integers only.
        unsafe { core::mem::zeroed() }
    };

    /// CPU time of runs that ended, in nanoseconds.
    #[must_use]
    pub const fn run_ns(&self) -> u64 {
        self.durations[duration::SLICE].total_ns
    }

    /// From words, laid out as the struct is.
    #[must_use]
    pub fn from_words(words: &Words) -> &Self {
        // SAFETY: same size and alignment, no padding (asserted below); every bit pattern is valid.
        unsafe { &*core::ptr::from_ref(words).cast() }
    }

    /// As words.
    #[must_use]
    pub fn as_words(&self) -> &Words {
        // SAFETY: as above.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// As words to be filled.
    #[must_use]
    pub fn as_words_mut(&mut self) -> &mut Words {
        // SAFETY: as above.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }
}

const _: () = {
    const OCCUPANT: usize = COMM_LEN + 16;
    let hot = 3 * 8 + 2 * 4 + duration::COUNT * 24 + NODES * 8 + 8 + 5 * 8;
    let cold = 8 + 2 * 4 + 2 * 8 + 8 + EARLY * 16 + 8;
    let counts = (cause::COUNT + span::COUNT) * 8 + MATRIX * MATRIX * 4 + 2 * 8 + 2 * 24;
    let tables = duration::COUNT * size_of::<Buckets>() + (PREEMPTORS + 1) * OCCUPANT;
    assert!(size_of::<Account>() == hot + cold + counts + tables, "padding");
    assert!(align_of::<Account>() == 8);
    // As one bit, the programs tell them apart.
    assert!(duration::WAKE_WAIT == 0 && duration::PREEMPT_WAIT == 1);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_struct() {
        let mut account = Account { start_boottime_ns: 1, tgid: 2, tid: 3, ..Account::EMPTY };
        account.preemptors_rest.count = 9;
        let words = *account.as_words();
        let start = core::mem::offset_of!(Account, start_boottime_ns) / 8;
        assert_eq!((words[start], *words.last().unwrap()), (1, 9));
        assert_eq!(*Account::from_words(&words), account);
    }
}
