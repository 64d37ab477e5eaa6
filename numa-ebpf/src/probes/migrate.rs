//! Moves between CPUs.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    account::{Account, MATRIX, cause, span},
    place::{Place, UNKNOWN},
    record::{Migrate, kind},
    wake::Urgency,
};

use crate::{
    accounts::{self, place},
    maps::{emit, header},
    task,
};

/// `TASK_WAKING` (`include/linux/sched.h`, the same from 4.14 to 7.x): set while `try_to_wake_up` chooses a CPU.
const TASK_WAKING: u32 = 0x200;

/// `sched_migrate_task(task, dest_cpu)`: any task, before it moves. The scheduler holds the task's lock, so a plain
/// addition to its counters is safe.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn migrate(ctx: BtfTracePointContext) -> i32 {
    let task: task::Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    let Some(account) = accounts::of(unsafe { task::tid(task) }) else { return 0 };
    let to_cpu: u32 = ctx.arg(1);
    // SAFETY: as above.
    let from_cpu = unsafe { task::cpu(task) };
    let cause = cause(account, task, from_cpu, to_cpu);
    account.numa_target = 0;
    account.moves_by_cause[cause] += 1;
    let (Some(from), Some(to)) = (place(from_cpu), place(to_cpu)) else { return 0 };
    account.moves_by_span[span(from, to)] += 1;
    let (row, column) = (from.row as usize, to.row as usize);
    if row < MATRIX && column < MATRIX {
        let index = row * MATRIX + column;
        // Read back so that the bound is checked on the index itself: verifiers do not follow it from its parts.
        // SAFETY: a local.
        let index = unsafe { (&raw const index).read_volatile() };
        if index < MATRIX * MATRIX {
            account.moves[index] += 1;
        }
    }
    // Of an unknown node nothing can be said.
    if from.node != UNKNOWN && to.node != UNKNOWN && from.node != to.node {
        let header = header(kind::MIGRATE, account.tgid, account.tid, account.start_boottime_ns);
        emit(kind::MIGRATE, Urgency::Soon, Migrate { header, from_cpu, to_cpu });
    }
    0
}

/// Why it moves.
#[inline(always)]
fn cause(account: &Account, task: task::Pointer, from_cpu: u32, to_cpu: u32) -> usize {
    // SAFETY: the caller's task is a task_struct of a tracepoint.
    let state = unsafe { task::state(task) };
    if !task::may_run_on(task, from_cpu) {
        cause::AFFINITY
    } else if state & TASK_WAKING != 0 {
        cause::WAKE_UP
    } else if account.numa_target == u64::from(to_cpu) + 1 {
        cause::NUMA_BALANCING
    } else if task::in_execve(task) {
        cause::EXEC
    } else {
        cause::LOAD_BALANCER
    }
}

/// How far.
#[inline(always)]
fn span(from: &Place, to: &Place) -> usize {
    if from.socket != to.socket {
        span::MACHINE
    } else if from.node != to.node {
        span::SOCKET
    } else if from.cluster != to.cluster {
        span::NODE
    } else if from.core != to.core {
        span::CLUSTER
    } else {
        span::CORE
    }
}
