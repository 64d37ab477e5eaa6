//! `sched_setaffinity` on marked tasks by anybody but the agent. Threads re-pin themselves (OpenMP, NCCL), and others
//! re-pin them.

use aya_ebpf::{helpers::bpf_get_current_comm, macros::tracepoint, programs::TracePointContext};
use numa_ebpf::{
    counter,
    record::{SetAffinity, kind},
    wake::Urgency,
};

use crate::{
    maps::{CALLS, count, emit, header, marked},
    namespace, task,
};

/// Offset of a system call's first argument, and of its result, in the tracepoint's record: after 8 common bytes and the
/// call's number in a slot of 8 (`syscall_trace_enter` and `_exit`, `kernel/trace/trace.h`, the same from 5.10 to 7.x).
const FIRST_SLOT: usize = 16;
/// No task's tid.
const NOT_FOUND: u32 = 0;

/// The call begins: remember on whom.
#[tracepoint(category = "syscalls", name = "sys_enter_sched_setaffinity")]
pub fn affinity_enter(ctx: TracePointContext) -> u32 {
    let (pid, tid) = task::current();
    if task::is_self(pid) {
        return 0;
    }
    // SAFETY: the slot is inside the record.
    let Ok(asked) = (unsafe { ctx.read_at::<u64>(FIRST_SLOT) }) else { return 0 };
    let target = match asked as u32 {
        0 => Some(tid),
        asked => namespace::initial_tid(asked),
    };
    // Not found is no task, most likely: how the call ends will tell. Our threads re-pin each other.
    let relevant = marked(target.unwrap_or(tid)).is_some();
    if relevant && CALLS.insert(tid, target.unwrap_or(NOT_FOUND), 0).is_err() {
        count(counter::UNSEEN_CALLS);
    }
    0
}

/// The call ends: tell if it succeeded.
#[tracepoint(category = "syscalls", name = "sys_exit_sched_setaffinity")]
pub fn affinity_exit(ctx: TracePointContext) -> u32 {
    let (caller_pid, caller_tid) = task::current();
    // SAFETY: the value is copied before the element is deleted, and only this thread deletes it.
    let Some(target) = unsafe { CALLS.get(caller_tid) }.copied() else { return 0 };
    let _ = CALLS.remove(caller_tid);
    // SAFETY: the slot is inside the record.
    if unsafe { ctx.read_at::<i64>(FIRST_SLOT) } != Ok(0) {
        return 0;
    }
    if target == NOT_FOUND {
        count(counter::UNSEEN_CALLS);
        return 0;
    }
    let Some(mark) = marked(target) else { return 0 };
    let header = header(kind::SET_AFFINITY, mark.tgid as u32, target, mark.start_boottime_ns);
    let caller_comm = bpf_get_current_comm().unwrap_or_default();
    emit(kind::SET_AFFINITY, Urgency::Now, SetAffinity { header, caller_pid, caller_tid, caller_comm });
    0
}
