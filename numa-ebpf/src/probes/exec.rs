//! Program replacement. The new program's arguments are in memory, and it has not run its first instruction.

use aya_ebpf::{helpers::bpf_get_current_uid_gid, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use numa_ebpf::{
    account::NO_SLOT,
    counter,
    mark::Mark,
    place::NO_PLAN,
    record::{ARGS_MAX, EXEC_FIXED, Exec, Exit, flag, kind},
    wake::Urgency,
};

use crate::{
    accounts, automaton,
    config::DEBUG_LOG,
    holding,
    maps::{
        DEVICE_USERS, EVENTS, EXEC_SCRATCH, TASKS, count, count_drop, emit, header, mark, marked, unmark,
        wake_up,
    },
    subject, task,
};

/// `sched_process_exec(task, old_pid, bprm)`: the calling task.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec(ctx: BtfTracePointContext) -> i32 {
    let (pid, tid) = task::current();
    if task::is_self(pid) {
        return 0;
    }
    let task: task::Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    let (_, _, start) = unsafe { task::identity(task) };
    take_over(ctx.arg(1), tid, start);
    let Some(record) = EXEC_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own element, see EXEC_SCRATCH.
    let record = unsafe { &mut *record };
    record.header = header(kind::EXEC, pid, tid, start);
    record.ppid = task::parent_pid(task);
    record.uid = bpf_get_current_uid_gid() as u32;
    record.comm = task::comm(task);
    record.reserved = 0;
    subject::read_args(record, task);
    let judged = marked(tid).is_none() || holding::is_on();
    // Read back, and the mark looked up again below: else the verifier goes through the automaton for each way to get here.
    // SAFETY: a local.
    let judged = unsafe { (&raw const judged).read_volatile() };
    let matches = judged && automaton::passes(record);
    let known = !judged || marked(tid).is_some();
    if !known {
        if !matches {
            if DEBUG_LOG.load() != 0 {
                debug!(&ctx, "exec of {} filtered", pid);
            }
            return 0;
        }
        // Before user space knows: threads created from the first instruction on are marked too.
        mark(pid, tid, start, Some(accounts::this_cpu()), NO_PLAN, false);
    }
    if DEBUG_LOG.load() != 0 {
        debug!(&ctx, "exec of {} passed, {} bytes of arguments", pid, record.args_len);
    }
    // Another program: what the last one used says nothing of it.
    let _ = DEVICE_USERS.remove(tid);
    let held = matches && holding::is_on() && holding::hold(task, &record.header);
    if held {
        record.header.flags |= flag::HELD;
    }
    if !send(record) {
        if held {
            holding::let_go(tid);
        }
        count_drop(kind::EXEC);
        if !known {
            // Nobody will judge the candidate: the re-scan that follows a drop marks it if it is one of ours.
            unmark(tid);
        }
    }
    0
}

/// A thread that execs takes over the pid of its leader, which has ended: its mark and account move, and its old tid ends.
#[inline(always)]
fn take_over(old_tid: u32, tid: u32, start: u64) {
    if old_tid == tid {
        return;
    }
    let Some(old) = marked(old_tid) else { return };
    let old = *old;
    let _ = TASKS.remove(old_tid);
    let slot = old.slot as u32;
    // The leader's mark went as it ended, so there is room.
    if TASKS.insert(tid, Mark { start_boottime_ns: start, ..old }, 0).is_ok() {
        accounts::take_over(old_tid, slot, tid, start);
    } else {
        count(counter::MARKS_FULL);
        accounts::abandon(old_tid, slot);
    }
    let header = header(kind::EXIT, old.tgid as u32, old_tid, old.start_boottime_ns);
    emit(kind::EXIT, Urgency::Soon, Exit { header, slot: NO_SLOT, reserved: 0 });
}

/// Puts the used part of the record into the ring buffer.
#[inline(always)]
fn send(record: &mut Exec) -> bool {
    // Read back so that the bound is checked here: before 5.16 or so the verifier forgets bounds of spilled values.
    // SAFETY: a plain field.
    let mut args_len = unsafe { (&raw const record.args_len).read_volatile() } as usize;
    if args_len > ARGS_MAX {
        args_len = ARGS_MAX;
    }
    // SAFETY: the slice is inside the record.
    let used =
        unsafe { core::slice::from_raw_parts((&raw const *record).cast::<u8>(), EXEC_FIXED + args_len) };
    // A full ring wakes nobody, but user space has been woken for what fills it, and reads a drop from the counters.
    EVENTS.output::<[u8]>(used, wake_up(Urgency::Now)).is_ok()
}
