//! Stopping a task between exec and its first instruction. See [`numa_ebpf::hold`].
//!
//! Whoever is stopped here is in the map `held` before it gets the signal, and in the ring buffer `holds` after: the guard, which
//! lets it go on, finds it in one or the other whenever it looks.

use aya_ebpf::helpers::generated::bpf_send_signal;
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

/// Stops the calling task as it returns from exec, unless that would disturb somebody; whether it will stop. No record is reserved over
/// the calls: where the compiler asks again whether there is one, older verifiers take it for possible that there is none by then, and miss
/// its release (`reg_type_not_null` of `kernel/bpf/verifier.c`, 5.10).
#[inline(always)]
pub fn hold(task: Pointer, header: &Header) -> bool {
    if !may_be_held(task) {
        return false;
    }
    let held = Held { start_boottime_ns: header.start_boottime_ns, at_ns: header.at_ns };
    if HELD.insert(header.tid, held, 0).is_err() {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        // Process 1, which nobody may stop.
        let _ = HELD.remove(header.tid);
        return false;
    }
    if HOLDS.output::<Hold>(Hold { held, tid: header.tid, reserved: 0 }, 0).is_err() {
        let_go(header.tid);
        return false;
    }
    true
}

/// Takes the stop of the calling task back, which is still pending. Word of it, if there was any, is of no meaning then.
#[inline(always)]
pub fn let_go(tid: u32) {
    // SAFETY: the helper has no preconditions.
    let _ = unsafe { bpf_send_signal(SIGCONT) };
    let _ = HELD.remove(tid);
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
