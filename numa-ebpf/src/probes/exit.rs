//! Task end.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    record::{BriefExit, Exit, flag, kind},
    wake::Urgency,
};

use crate::{
    accounts,
    maps::{TASKS, emit, header, marked},
    task,
};

/// `sched_process_exit(task)`: the calling task.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit(ctx: BtfTracePointContext) -> i32 {
    let (pid, tid) = task::current();
    let Some(mark) = marked(tid) else { return 0 };
    let slot = mark.slot as u32;
    let _ = TASKS.remove(tid);
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    let (_, _, start) = unsafe { task::identity(ctx.arg(0)) };
    let mut header = header(kind::EXIT, pid, tid, start);
    match accounts::close(tid, slot, header.at_ns) {
        Some(brief) => {
            header.flags = flag::BRIEF;
            emit(kind::EXIT, Urgency::Soon, BriefExit { exit: Exit { header, slot, reserved: 0 }, brief });
        }
        None => {
            emit(kind::EXIT, Urgency::Soon, Exit { header, slot, reserved: 0 });
        }
    }
    0
}
