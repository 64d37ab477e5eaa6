//! The kernel's NUMA balancing: it is about to move a task towards its memory (`kernel/sched/fair.c`).

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{accounts, task};

/// `sched_move_numa(task, source_cpu, target_cpu)`.
#[btf_tracepoint(function = "sched_move_numa")]
pub fn numa_move(ctx: BtfTracePointContext) -> i32 {
    let task: task::Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    if let Some(account) = accounts::of(unsafe { task::tid(task) }) {
        account.numa_moves += 1;
        account.numa_target = u64::from(ctx.arg::<u32>(2)) + 1;
    }
    0
}

/// `sched_swap_numa(task, source_cpu, other_task, target_cpu)`: the two change places.
#[btf_tracepoint(function = "sched_swap_numa")]
pub fn numa_swap(ctx: BtfTracePointContext) -> i32 {
    swap(ctx.arg(0), ctx.arg(3));
    swap(ctx.arg(2), ctx.arg(1));
    0
}

#[inline(always)]
fn swap(task: task::Pointer, target_cpu: u32) {
    // The kernel passes no second task where it gave up.
    if task.is_null() {
        return;
    }
    // SAFETY: arguments 0 and 2 of this tracepoint are task_structs.
    if let Some(account) = accounts::of(unsafe { task::tid(task) }) {
        account.numa_swaps += 1;
        account.numa_target = u64::from(target_cpu) + 1;
    }
}
