//! The maps, and how records and losses get into them.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use numa_ebpf::{
    counter,
    filter::{BANKS, Table},
    mark::Mark,
    record::{Exec, Header},
};

/// Records for user space. The loader sets the size.
#[map(name = "events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Marked tasks by tid. The loader sets the size.
#[map(name = "tasks")]
pub static TASKS: HashMap<u32, Mark> = HashMap::with_max_entries(1 << 16, 0);

/// Tid on which a thread's `sched_setaffinity` call under way acts, by the calling tid; calls on marked tasks only. 0: a
/// marked task's call on a task that could not be found.
#[map(name = "calls")]
pub static CALLS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Node of each CPU, plus one; 0: unknown. The loader sets the size.
#[map(name = "cpu_node")]
pub static CPU_NODE: Array<u32> = Array::with_max_entries(1, 0);

/// See [`numa_ebpf::filter`].
#[map(name = "filter")]
pub static FILTER: Array<Table> = Array::with_max_entries(BANKS, 0);

/// Index of the table in force.
#[map(name = "filter_bank")]
pub static FILTER_BANK: Array<u32> = Array::with_max_entries(1, 0);

/// See [`numa_ebpf::counter`].
#[map(name = "counters")]
pub static COUNTERS: PerCpuArray<counter::Counters> = PerCpuArray::with_max_entries(1, 0);

/// Where the exec program puts its record together: too large for the stack of 512 bytes. A program's runs do not nest on
/// one CPU (the tracepoint disables preemption, or the kernel's recursion check does it: `prog->active`).
#[map(name = "exec_scratch")]
pub static EXEC_SCRATCH: PerCpuArray<Exec> = PerCpuArray::with_max_entries(1, 0);

/// The same for the rename program, which can run while the exec program of another task is preempted.
#[map(name = "rename_scratch")]
pub static RENAME_SCRATCH: PerCpuArray<Exec> = PerCpuArray::with_max_entries(1, 0);

/// Adds one to a counter of [`counter`].
#[inline(always)]
pub fn count(index: usize) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own live element.
        unsafe { (*counters)[index] += 1 };
    }
}

/// Counts a record of that kind as dropped.
#[inline(always)]
pub fn count_drop(kind: u32) {
    count(kind as usize);
}

/// Puts a record into the ring buffer, or counts it as dropped; whether it is there.
#[inline(always)]
pub fn emit<T: 'static>(kind: u32, record: T) -> bool {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count_drop(kind);
        return false;
    };
    entry.write(record);
    entry.submit(0);
    true
}

/// A header for something that happens now.
#[inline(always)]
pub fn header(kind: u32, pid: u32, tid: u32, start_boottime_ns: u64) -> Header {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    Header { kind, flags: 0, at_ns, pid, tid, start_boottime_ns }
}

/// Marks a task, or counts that there was no room.
#[inline(always)]
pub fn mark(tid: u32, mark: &Mark) {
    if TASKS.insert(tid, mark, 0).is_err() {
        count(counter::MARKS_FULL);
    }
}

/// The mark of a task.
#[inline(always)]
pub fn marked(tid: u32) -> Option<&'static Mark> {
    // SAFETY: elements live as long as the map; one that is deleted meanwhile may be reused, which at worst mixes up
    // counters of two tasks.
    unsafe { TASKS.get(tid) }
}
