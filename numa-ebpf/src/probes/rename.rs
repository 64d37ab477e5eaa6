//! Name changes: `prctl`, `pthread_setname_np`, a write to `/proc/PID/comm`.

use aya_ebpf::{
    helpers::{bpf_get_current_task, bpf_probe_read_kernel_str_bytes},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use numa_ebpf::{
    place::NO_PLAN,
    record::{COMM_LEN, Rename, kind},
    wake::Urgency,
};

use crate::{
    accounts, automaton,
    maps::{RENAME_SCRATCH, count_drop, emit, header, mark, marked, unmark},
    subject, task,
};

/// `task_rename(task, new_name)`. A raw tracepoint without BTF types: the verifiers of some kernels refuse a
/// BTF-typed program the `const char *` argument. Any thread may rename any other of its process.
#[raw_tracepoint(tracepoint = "task_rename")]
pub fn rename(ctx: RawTracePointContext) -> i32 {
    let task: task::Pointer = ctx.arg(0);
    let name: *const u8 = ctx.arg(1);
    let Some((pid, tid, start)) = task::read_identity(task) else { return 0 };
    if task::is_self(pid) {
        return 0;
    }
    let its_mark = marked(tid);
    let known = its_mark.is_some();
    // A thread of a process that is not ours stays so; exec renames too, and its own event follows.
    if (!known && pid != tid) || task::in_execve(task) {
        return 0;
    }
    let mut comm = [0; COMM_LEN];
    // SAFETY: the helper handles any address.
    if unsafe { bpf_probe_read_kernel_str_bytes(name, &mut comm) }.is_err() {
        count_drop(kind::RENAME);
        return 0;
    }
    if !known {
        if !may_match(task, pid, &comm) {
            return 0;
        }
        mark(pid, tid, start, is_current(task).then(accounts::this_cpu), NO_PLAN, false);
    }
    if let Some(mark) = its_mark {
        accounts::tell_end(mark.slot as u32);
    }
    let sent =
        emit(kind::RENAME, Urgency::Now, Rename { header: header(kind::RENAME, pid, tid, start), comm });
    if !sent && !known {
        // Nobody will judge the candidate: the re-scan that follows a drop marks it if it is one of ours.
        unmark(tid);
    }
    0
}

#[inline(always)]
fn is_current(task: task::Pointer) -> bool {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() == task as u64 }
}

/// Runs the new name with the arguments through the filter. Arguments can be read of the calling task only; a leader
/// renamed by another thread of its process passes. Whoever names a task of another process makes a kernel thread
/// (`kthread_create`; `comm_write` in `fs/proc/base.c` takes one's own process alone), which is never managed.
#[inline(always)]
fn may_match(task: task::Pointer, pid: u32, comm: &[u8; COMM_LEN]) -> bool {
    if !is_current(task) {
        return task::current().0 == pid;
    }
    let Some(subject) = RENAME_SCRATCH.get_ptr_mut(0) else { return true };
    // SAFETY: this CPU's own element, see RENAME_SCRATCH.
    let subject = unsafe { &mut *subject };
    subject.header.flags = 0;
    subject.comm = *comm;
    subject::read_args(subject, task);
    automaton::passes(subject)
}
