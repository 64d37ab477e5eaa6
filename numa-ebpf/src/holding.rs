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
    config::{
        HOLD, SIGNAL_FLAGS, SIGNAL_PENDING, SIGNAL_PIDS, SIGNAL_TTY, TASK_PTRACE, TASK_REAL_PARENT,
        TASK_SIGNAL,
    },
    maps::{HELD, HOLD_CONTROL, HOLDS},
    task::{self, Pointer},
};

/// The same on x86_64 and aarch64 (`include/uapi/asm-generic/signal.h`, `arch/x86/include/uapi/asm/signal.h`).
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
/// In `signal_struct.flags` of a process that is stopped (`include/linux/sched/signal.h`, 5.10 to 6.18).
const SIGNAL_STOP_STOPPED: u32 = 1;
/// Process group and session in `signal_struct.pids` (`enum pid_type` of `include/linux/pid.h` or `pid_types.h`, 5.10 to 6.18).
const PIDTYPE_PGID: u32 = 2;
const PIDTYPE_SID: u32 = 3;

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

/// Not what a debugger follows, nor, unless asked for, what a shell with job control may: it would take the stop for the job's. Nor what
/// somebody else has just stopped: another agent, or a person, whose stop is not ours to end; nor whose parent is stopped: the guard lets
/// parents go on that stop over the hold.
#[inline(always)]
fn may_be_held(task: Pointer) -> bool {
    let traced = task::read::<u32>(task, TASK_PTRACE.load());
    let Some(signal) = task::read::<Pointer>(task, TASK_SIGNAL.load()) else { return false };
    let Some(parent) = task::read::<Pointer>(task, TASK_REAL_PARENT.load()) else { return false };
    let Some(parent) = task::read::<Pointer>(parent, TASK_SIGNAL.load()) else { return false };
    let pending = task::read::<u64>(signal, SIGNAL_PENDING.load());
    let parents = task::read::<u32>(parent, SIGNAL_FLAGS.load());
    let Some(control) = HOLD_CONTROL.get(0) else { return false };
    // SAFETY: a plain word; user space writes it at any time.
    let terminals = unsafe { (&raw const control.terminals).read_volatile() };
    traced == Some(0)
        && (terminals != 0 || has_no_job_control(signal, parent))
        && pending.is_some_and(|pending| pending >> (SIGSTOP - 1) & 1 == 0)
        && parents.is_some_and(|flags| flags & SIGNAL_STOP_STOPPED == 0)
}

/// Whether it has no controlling terminal, and is no job: in its parent's session, with a process group of its own (`set -m` of shells
/// that have no terminal).
#[inline(always)]
fn has_no_job_control(signal: Pointer, parent: Pointer) -> bool {
    let id = |of: Pointer, kind: u32| task::read::<u64>(of, SIGNAL_PIDS.load() + 8 * kind);
    let terminal = task::read::<u64>(signal, SIGNAL_TTY.load());
    let same = |kind: u32| id(signal, kind) == id(parent, kind);
    terminal == Some(0) && (same(PIDTYPE_PGID) || !same(PIDTYPE_SID))
}
