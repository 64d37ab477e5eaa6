//! Task creation. The child has not run yet (clone fires this before `wake_up_new_task`), so its mark is there before
//! anything it does.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    place::NO_PLAN,
    record::{Fork, kind},
    wake::Urgency,
};

use crate::{
    accounts,
    config::CPU_IDS,
    maps::{PLAN_OF, PLAN_SETS, admits_birth, emit, header, is_crowded, mark, marked, unmark_earlier},
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
    // Where its creator belongs is where it will most likely belong: same name, same process or one of the same group.
    let plan = plan_of(child, parent.slot as u32);
    // Nothing is to be done about a thread that is where it belongs; in a storm most end before anybody could look.
    let hidden = plan != NO_PLAN && pid != tid && (is_crowded() || !admits_birth());
    let slot = mark(pid, tid, start, None, plan, hidden);
    // User space may have found it meanwhile, or before us.
    if hidden && accounts::is_hidden(slot) {
        return 0;
    }
    let header = header(kind::FORK, pid, tid, start);
    let urgency = if plan == NO_PLAN { Urgency::Now } else { Urgency::Soon };
    emit(kind::FORK, urgency, Fork { header, parent_pid, parent_tid, slot, plan, comm: task::comm(child) });
    0
}

/// The plan set of the task whose account is in `slot`, if `task` may run only there; else [`NO_PLAN`].
#[inline(always)]
fn plan_of(task: task::Pointer, slot: u32) -> u32 {
    let plan = PLAN_OF.get(slot).copied().unwrap_or(NO_PLAN);
    if plan == NO_PLAN {
        return NO_PLAN;
    }
    let Some(set) = PLAN_SETS.get(plan) else { return NO_PLAN };
    let cpus = CPU_IDS.load();
    let mut word = 0;
    while word < cpus.div_ceil(64) {
        if !set.has_word(word, task::mask_word(task, word), cpus) {
            return NO_PLAN;
        }
        word += 1;
    }
    plan
}
