//! Moves between CPUs.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::record::{Migrate, kind};

use crate::{
    maps::{CPU_NODE, TASKS, emit, header},
    task,
};

/// `sched_migrate_task(task, dest_cpu)`: any task, before it moves. The scheduler holds the task's lock, so a plain
/// addition to its counters is safe.
#[btf_tracepoint(function = "sched_migrate_task")]
pub fn migrate(ctx: BtfTracePointContext) -> i32 {
    let task: task::Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a task_struct.
    let (pid, tid, start) = unsafe { task::identity(task) };
    let Some(mark) = TASKS.get_ptr_mut(tid) else { return 0 };
    let to_cpu: u32 = ctx.arg(1);
    // SAFETY: as above.
    let from_cpu = unsafe { task::cpu(task) };
    // SAFETY: a live element of the map.
    let mark = unsafe { &mut *mark };
    mark.cpu_moves += 1;
    // 0 is an unknown node, which nothing can be said about.
    let (from, to) = (node(from_cpu), node(to_cpu));
    if from != 0 && to != 0 && from != to {
        mark.node_moves += 1;
        let header = header(kind::MIGRATE, pid, tid, start);
        emit(kind::MIGRATE, Migrate { header, from_cpu, to_cpu });
    }
    0
}

#[inline(always)]
fn node(cpu: u32) -> u32 {
    CPU_NODE.get(cpu).copied().unwrap_or(0)
}
