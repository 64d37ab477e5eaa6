//! Task creation. The child has not run yet (clone fires this before `wake_up_new_task`), so its mark is there before
//! anything it does.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::record::{Fork, kind};

use crate::{
    maps::{emit, header, mark, marked, unmark_earlier},
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
    if marked(parent_tid).is_none() {
        return 0;
    }
    mark(pid, tid, start, None);
    let header = header(kind::FORK, pid, tid, start);
    emit(kind::FORK, Fork { header, parent_pid, parent_tid, comm: task::comm(child) });
    0
}
