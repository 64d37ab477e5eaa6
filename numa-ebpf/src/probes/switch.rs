//! The scheduler gives a CPU to another task, and wakes tasks.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::account::NO_SLOT;

use crate::{
    accounts::{self, charge, slot_of},
    maps::CPUS,
    task,
};

/// `sched_switch(preempt, prev, next)`, with interrupts off and the run queue locked; later kernels pass more.
#[btf_tracepoint(function = "sched_switch")]
pub fn switch(ctx: BtfTracePointContext) -> i32 {
    let (prev, next): (task::Pointer, task::Pointer) = (ctx.arg(1), ctx.arg(2));
    // SAFETY: arguments 1 and 2 of this tracepoint are task_structs.
    let (prev_tid, next_tid, cpu) = unsafe { (task::tid(prev), task::tid(next), task::cpu(prev)) };
    let (leaving, coming) = (slot_of(prev_tid), slot_of(next_tid));
    let place = accounts::place(cpu);
    let critical = place.is_some_and(|place| place.critical != 0);
    if leaving | coming == NO_SLOT && !critical {
        return 0;
    }
    let now = accounts::now();
    if let Some(account) = accounts::at(leaving) {
        let preempted = ctx.arg::<u8>(0) != 0;
        // SAFETY: as above.
        let can_run = preempted || unsafe { task::state(prev) } == 0;
        accounts::leave(account, leaving, now, place, can_run);
    }
    if let Some(account) = accounts::at(coming) {
        // SAFETY: as above.
        unsafe { accounts::arrive(account, now, cpu, prev, prev_tid) };
    }
    if critical {
        // SAFETY: as above.
        let leaves = (leaving == NO_SLOT).then(|| unsafe { task::name(prev) });
        intrude(now, cpu, leaves, coming == NO_SLOT && next_tid != 0);
    }
    0
}

/// On a CPU of critical threads: the intruder that leaves is charged, the one that comes is timed. A marked task is none, also
/// where nobody has told that it came.
#[inline(always)]
fn intrude(now: u64, cpu: u32, leaves: Option<[u64; 2]>, comes: bool) {
    let Some(state) = CPUS.get_ptr_mut(cpu) else { return };
    // SAFETY: this CPU's own live element; nothing else on it touches these fields.
    let state = unsafe { &mut *state };
    if state.intruded_since_ns != 0
        && let Some(name) = leaves
    {
        let ran = accounts::since(state.intruded_since_ns, now);
        charge(&mut state.intruders, &mut state.intruders_rest, name, ran);
    }
    state.intruded_since_ns = if comes { now } else { 0 };
}

/// `sched_wakeup(task)`: it is on a run queue now, whose lock is held.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn wakeup(ctx: BtfTracePointContext) -> i32 {
    wake(ctx.arg(0))
}

/// `sched_wakeup_new(task)`: the same for a task that has never run.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn wakeup_new(ctx: BtfTracePointContext) -> i32 {
    wake(ctx.arg(0))
}

#[inline(always)]
fn wake(task: task::Pointer) -> i32 {
    // SAFETY: argument 0 of both tracepoints is a task_struct.
    if let Some(account) = accounts::of(unsafe { task::tid(task) }) {
        accounts::wake(account, accounts::now());
    }
    0
}
