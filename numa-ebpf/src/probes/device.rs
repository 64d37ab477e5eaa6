//! Use of a device file by marked tasks: a thread that drives an NPU is known by that, whatever its name is.

use aya_ebpf::{helpers::bpf_get_current_comm, macros::tracepoint, programs::TracePointContext};
use numa_ebpf::{
    record::{UseDevice, kind},
    wake::Urgency,
};

use crate::{
    accounts, file,
    maps::{DEVICE_USERS, DEVICES, emit, header, marked},
    task,
};

/// Offset of a system call's first argument in the tracepoint's record, see [`super::affinity`].
const FIRST_SLOT: usize = 16;

/// The call begins. Whether it succeeds does not matter: who asks a device to do something uses it.
#[tracepoint(category = "syscalls", name = "sys_enter_ioctl")]
pub fn device(ctx: TracePointContext) -> u32 {
    let (pid, tid) = task::current();
    let Some(mark) = marked(tid) else { return 0 };
    let (start, slot) = (mark.start_boottime_ns, mark.slot as u32);
    // SAFETY: the value is copied at once; an element that is replaced meanwhile holds another task's start.
    if unsafe { DEVICE_USERS.get(tid) }.copied() == Some(start) {
        return 0;
    }
    // SAFETY: the slot is inside the record.
    let Ok(fd) = (unsafe { ctx.read_at::<u64>(FIRST_SLOT) }) else { return 0 };
    let Some(device) = file::device(fd as u32) else { return 0 };
    // SAFETY: only whether it is there matters.
    if unsafe { DEVICES.get(device) }.is_none() {
        return 0;
    }
    let header = header(kind::USE_DEVICE, pid, tid, start);
    let comm = bpf_get_current_comm().unwrap_or_default();
    accounts::tell_end(slot);
    // What did not fit is told at the next call.
    if emit(kind::USE_DEVICE, Urgency::Now, UseDevice { header, device, reserved: 0, comm }) {
        let _ = DEVICE_USERS.insert(tid, start, 0);
    }
    0
}
