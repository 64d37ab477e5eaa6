//! Task creation. The child has not run yet (clone fires this before `wake_up_new_task`), so its mark is there before
//! anything it does.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    place::NO_PLAN,
    record::{Fork, kind},
    wake::Urgency,
};

use crate::{
    config::CPU_IDS,
    maps::{PLAN_OF, PLAN_SETS, emit, header, mark, marked, unmark_earlier},
    task,
};

/// `sched_process_fork(parent, child)`: the parent is the calling task.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork(ctx: BtfTracePointContext) -> i32 {
    let child: task::Pointer = ctx.arg(1);
    // SAFETY: argument 1 of this tracepoint is a task_struct.
    let (pid, tid, start) = unsafe { task::identity(child) };
    unmark_earlier(tid, start);
    let (parent_pid, parent_tid) = task::current();
    let Some(parent) = marked(parent_tid) else { return 0 };
    let slot = parent.slot as u32;
    mark(pid, tid, start, None);
    let header = header(kind::FORK, pid, tid, start);
    // Where its creator belongs is where it will most likely belong: same name, same process or one of the same group.
    let urgency = if is_on_plan(child, slot) { Urgency::Soon } else { Urgency::Now };
    emit(kind::FORK, urgency, Fork { header, parent_pid, parent_tid, comm: task::comm(child) });
    0
}

/// Whether the task may run only where the plan has the task whose account is in `slot`.
#[inline(always)]
fn is_on_plan(task: task::Pointer, slot: u32) -> bool {
    let plan = PLAN_OF.get(slot).copied().unwrap_or(NO_PLAN);
    if plan == NO_PLAN {
        return false;
    }
    let Some(set) = PLAN_SETS.get(plan) else { return false };
    let cpus = CPU_IDS.load();
    let mut word = 0;
    while word < cpus.div_ceil(64) {
        if !set.has_word(word, task::mask_word(task, word), cpus) {
            return false;
        }
        word += 1;
    }
    true
}
