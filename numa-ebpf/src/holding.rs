//! Stopping a task between exec and its first instruction. See [`numa_ebpf::hold`].
//!
//! Whoever is stopped here is in the map `held` before it gets the signal, and in the ring buffer `holds` after: the guard, which
//! lets it go on, finds it in one or the other whenever it looks.

use aya_ebpf::{helpers::generated::bpf_send_signal, maps::ring_buf::RingBufEntry};
use numa_ebpf::{
    hold::{FRESH_NS, Held, Hold},
    record::Header,
};

use crate::{
    accounts,
    config::{HOLD, SIGNAL_PENDING, SIGNAL_TTY, TASK_PTRACE, TASK_SIGNAL},
    maps::{HELD, HOLD_CONTROL, HOLDS},
    task::{self, Pointer},
};

/// The same on x86_64 and aarch64 (`include/uapi/asm-generic/signal.h`, `arch/x86/include/uapi/asm/signal.h`).
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;

/// Whether tasks are to be held, and somebody is there to let them go on.
#[inline(always)]
pub fn is_on() -> bool {
    if HOLD.load() == 0 {
        return false;
    }
    let Some(control) = HOLD_CONTROL.get(0) else { return false };
    // SAFETY: a plain word; user space writes it at any time.
    let heartbeat_ns = unsafe { (&raw const control.heartbeat_ns).read_volatile() };
    accounts::since(heartbeat_ns, accounts::now()) < FRESH_NS
}

/// Stops the calling task as it returns from exec, unless that would disturb somebody. To be [`kept`] or [`let_go`].
#[inline(always)]
pub fn hold(task: Pointer, header: &Header) -> Option<RingBufEntry<Hold>> {
    if !may_be_held(task) {
        return None;
    }
    let mut entry = HOLDS.reserve::<Hold>(0)?;
    let held = Held { start_boottime_ns: header.start_boottime_ns, at_ns: header.at_ns };
    entry.write(Hold { held, tid: header.tid, reserved: 0 });
    if HELD.insert(header.tid, held, 0).is_err() {
        entry.discard(0);
        return None;
    }
    // SAFETY: the helper has no preconditions.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        // Process 1, which nobody may stop.
        let _ = HELD.remove(header.tid);
        entry.discard(0);
        return None;
    }
    Some(entry)
}

/// The agent has been told: the task stays stopped until the guard lets it go on.
#[inline(always)]
pub fn kept(entry: Option<RingBufEntry<Hold>>) {
    if let Some(entry) = entry {
        entry.submit(0);
    }
}

/// The agent could not be told: the task does not stop.
#[inline(always)]
pub fn let_go(entry: Option<RingBufEntry<Hold>>, tid: u32) {
    if let Some(entry) = entry {
        // Takes back the stop, which is still pending.
        // SAFETY: the helper has no preconditions.
        let _ = unsafe { bpf_send_signal(SIGCONT) };
        let _ = HELD.remove(tid);
        entry.discard(0);
    }
}

/// Not what a debugger follows, nor, unless asked for, what a shell with job control may: it would show the stop. Nor what somebody
/// else has just stopped: another agent, or a person, whose stop is not ours to end.
#[inline(always)]
fn may_be_held(task: Pointer) -> bool {
    let traced = task::read::<u32>(task, TASK_PTRACE.load());
    let Some(signal) = task::read::<Pointer>(task, TASK_SIGNAL.load()) else { return false };
    let terminal = task::read::<u64>(signal, SIGNAL_TTY.load());
    let pending = task::read::<u64>(signal, SIGNAL_PENDING.load());
    let Some(control) = HOLD_CONTROL.get(0) else { return false };
    // SAFETY: a plain word; user space writes it at any time.
    let terminals = unsafe { (&raw const control.terminals).read_volatile() };
    traced == Some(0)
        && (terminals != 0 || terminal == Some(0))
        && pending.is_some_and(|pending| pending >> (SIGSTOP - 1) & 1 == 0)
}
