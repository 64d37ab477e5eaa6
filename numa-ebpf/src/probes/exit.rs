//! Task end.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    account::NO_SLOT,
    counter,
    record::{BriefExit, Exit, flag, kind},
    wake::Urgency,
};

use crate::{
    accounts::{self, Closed},
    maps::{TASKS, add, count, emit, header, marked},
    task,
};

/// `sched_process_exit(task)`: the calling task.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit(ctx: BtfTracePointContext) -> i32 {
    let (pid, tid) = task::current();
    let Some(mark) = marked(tid) else { return 0 };
    let mut slot = mark.slot as u32;
    if TASKS.remove(tid).is_err() {
        // User space has just taken the mark, and the slot with it.
        accounts::forget(tid);
        slot = NO_SLOT;
    }
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    let (_, _, start) = unsafe { task::identity(ctx.arg(0)) };
    let mut header = header(kind::EXIT, pid, tid, start);
    match accounts::close(tid, slot, header.at_ns) {
        Closed::Untold { run_ns } => {
            count(counter::UNTOLD_ENDS);
            add(counter::UNTOLD_RUN_NS, run_ns);
            accounts::give_back(slot);
        }
        Closed::Brief(brief) => {
            header.flags = flag::BRIEF;
            let exit = Exit { header, slot, reserved: 0 };
            // Nobody has to read the account any more, unless nobody has been told.
            if emit(kind::EXIT, Urgency::Soon, BriefExit { exit, brief }) {
                accounts::give_back(slot);
            } else {
                accounts::leave_to_be_found(slot, header.at_ns);
            }
        }
        Closed::Long => {
            accounts::leave_to_be_found(slot, header.at_ns);
            emit(kind::EXIT, Urgency::Soon, Exit { header, slot, reserved: 0 });
        }
    }
    0
}
