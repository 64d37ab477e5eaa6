//! Tids of nested pid namespaces: a system call takes a tid as its caller sees it, the maps know tasks by their tid in the
//! initial namespace.

use aya_ebpf::helpers::bpf_get_current_task;

use crate::{
    config::{
        NODE_SHIFT, NODE_SLOTS, NS_TREE, PID_LEVEL, PID_NUMBERS, TASK_THREAD_PID, UPID_NR, UPID_NS, UPID_SIZE,
    },
    task::{self, Pointer, read},
};

/// The tid in the initial namespace of the task that the calling task knows as `asked`; `None` if there is no such task,
/// or it cannot be found. Where the kernel's structs are not known, `asked` itself.
#[inline(always)]
pub fn initial_tid(asked: u32) -> Option<u32> {
    if TASK_THREAD_PID.load() == 0 {
        return Some(asked);
    }
    // SAFETY: the helper has no preconditions.
    let current = unsafe { bpf_get_current_task() } as Pointer;
    let own: Pointer = read(current, TASK_THREAD_PID.load())?;
    let level: u32 = read(own, PID_LEVEL.load())?;
    if level == 0 {
        return Some(asked);
    }
    let (own_nr, namespace) = number(own, level)?;
    // Most calls are by a thread on itself (glibc passes its tid, not 0).
    if own_nr == asked {
        return Some(task::current().1);
    }
    let pid = find(namespace, asked)?;
    // The tree may change while we walk it: only a number that reads back is the one.
    if number(pid, level)? != (asked, namespace) {
        return None;
    }
    Some(number(pid, 0)?.0)
}

/// `pid->numbers[level]`: number and namespace.
#[inline(always)]
fn number(pid: Pointer, level: u32) -> Option<(u32, Pointer)> {
    let at = PID_NUMBERS.load() + level * UPID_SIZE.load();
    Some((read(pid, at + UPID_NR.load())?, read(pid, at + UPID_NS.load())?))
}

/// `find_pid_ns` (`kernel/pid.c`): the namespace's IDR is an XArray (`include/linux/xarray.h`, since 4.20), whose entries
/// are nodes where their low bits are 10, and here else pids. Numbers are below 2^22: four nodes deep at most.
#[inline(always)]
fn find(namespace: Pointer, nr: u32) -> Option<Pointer> {
    const DEPTH: usize = 4;
    /// `XA_CHUNK_SIZE`. Kernels with CONFIG_BASE_SMALL have 16: nothing is found there.
    const SLOTS: u32 = 64;
    /// Smaller ones with the same low bits mean something else (`xa_is_node`).
    const NODE_MIN: u64 = 4096;
    let mut entry: u64 = read(namespace, NS_TREE.load())?;
    let mut index = nr;
    for _ in 0..=DEPTH {
        if entry & 3 != 2 {
            return (entry != 0).then_some(entry as Pointer);
        }
        if entry <= NODE_MIN {
            return None;
        }
        let node = (entry - 2) as Pointer;
        let shift = u32::from(read::<u8>(node, NODE_SHIFT.load())?) & 31;
        let slot = index >> shift;
        if slot >= SLOTS {
            return None;
        }
        index &= (1 << shift) - 1;
        entry = read(node, NODE_SLOTS.load() + slot * size_of::<u64>() as u32)?;
    }
    None
}
