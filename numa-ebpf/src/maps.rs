//! The maps, and how records and losses get into them.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, Stack},
};
use numa_ebpf::{
    account::{Account, NO_SLOT},
    counter,
    filter::{BANKS, Table},
    hold::{Control, Held},
    mark::{Mark, TICK_NS},
    pace,
    place::{CpuState, Place, PlanSet},
    record::{Exec, Header},
    wake::Urgency,
};

use crate::accounts;

/// Records for user space. The loader sets the size.
#[map(name = "events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// When user space was last woken for them, in `CLOCK_MONOTONIC` nanoseconds; see [`numa_ebpf::wake`].
#[map(name = "woken")]
pub static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

/// How far births that were told of are ahead of their pace, see [`numa_ebpf::pace`].
#[map(name = "paced")]
pub static PACED: Array<u64> = Array::with_max_entries(1, 0);

/// Marked tasks by tid. The loader sets the size.
#[map(name = "tasks")]
pub static TASKS: HashMap<u32, Mark> = HashMap::with_max_entries(1 << 16, 0);

/// Tid on which a thread's `sched_setaffinity` call under way acts, by the calling tid; calls on marked tasks only. 0: a
/// marked task's call on a task that could not be found.
#[map(name = "calls")]
pub static CALLS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Numbers of the device files whose users are told of ([`numa_ebpf::record::device_number`]); the values mean nothing.
#[map(name = "devices")]
pub static DEVICES: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Start times of the tasks, by tid, whose use of a device has been told. Who falls out is told of again.
#[map(name = "device_users")]
pub static DEVICE_USERS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// See [`numa_ebpf::account`]; by slot. The loader sets the size of this and the following.
#[map(name = "accounts")]
pub static ACCOUNTS: Array<Account> = Array::with_max_entries(1, 0);

/// Slots that nobody has. Their accounts are of who had them last, and emptied as they are opened.
#[map(name = "free_slots")]
pub static FREE_SLOTS: Stack<u32> = Stack::with_max_entries(1, 0);

/// Slot of each tid's account. An array, so that the scheduler's programs find out in a few instructions that a task is
/// none of ours: 8 bytes for each tid there can be.
#[map(name = "slot_of")]
pub static SLOT_OF: Array<u32> = Array::with_max_entries(1, 0);

/// Plan set of each slot's task. Who is born where its creator's plan set has it gets that one; after that user space says.
#[map(name = "plan_of")]
pub static PLAN_OF: Array<u32> = Array::with_max_entries(1, 0);

/// Not zero, by slot: nobody has been told of the birth of its task, see [`counter::UNTOLD_BIRTHS`]. Zero in slots that nobody has.
#[map(name = "untold")]
pub static UNTOLD: Array<u32> = Array::with_max_entries(1, 0);

/// See [`PlanSet`].
#[map(name = "plan_sets")]
pub static PLAN_SETS: Array<PlanSet> = Array::with_max_entries(1, 0);

/// By CPU.
#[map(name = "places")]
pub static PLACES: Array<Place> = Array::with_max_entries(1, 0);

/// By CPU.
#[map(name = "cpus")]
pub static CPUS: Array<CpuState> = Array::with_max_entries(1, 0);

/// See [`numa_ebpf::filter`].
#[map(name = "filter")]
pub static FILTER: Array<Table> = Array::with_max_entries(BANKS, 0);

/// Index of the table in force.
#[map(name = "filter_bank")]
pub static FILTER_BANK: Array<u32> = Array::with_max_entries(1, 0);

/// Whether tasks are to be held at exec.
#[map(name = "hold")]
pub static HOLD_CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// Tasks that were stopped at exec, by tid. The loader sets the size of this and the following.
#[map(name = "held")]
pub static HELD: HashMap<u32, Held> = HashMap::with_max_entries(1, 0);

/// Word of them for the guard.
#[map(name = "holds")]
pub static HOLDS: RingBuf = RingBuf::with_byte_size(4096, 0);

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
    add(index, 1);
}

/// Adds to a counter of [`counter`].
#[inline(always)]
pub fn add(index: usize, number: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own live element.
        unsafe { (*counters)[index] += number };
    }
}

/// Whether the ring has little room left, see [`counter::is_crowded`].
#[inline(always)]
pub fn is_crowded() -> bool {
    let [used, size] = [BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE].map(|what| EVENTS.query(what.into()));
    counter::is_crowded(used, size)
}

/// Whether a birth that nothing is to be done about is told, see [`pace`].
#[inline(always)]
pub fn admits_birth() -> bool {
    let Some(paced) = PACED.get_ptr_mut(0) else { return false };
    // SAFETY: the map's live element, a word that other CPUs write as well.
    match pace::admit(unsafe { paced.read_volatile() }, accounts::now()) {
        Some(due_ns) => {
            // SAFETY: as above.
            unsafe { paced.write_volatile(due_ns) };
            true
        }
        None => false,
    }
}

/// Counts a record of that kind as dropped.
#[inline(always)]
pub fn count_drop(kind: u32) {
    count(kind as usize);
}

/// Puts a record into the ring buffer, or counts it as dropped; whether it is there.
#[inline(always)]
pub fn emit<T: 'static>(kind: u32, urgency: Urgency, record: T) -> bool {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        count_drop(kind);
        return false;
    };
    entry.write(record);
    entry.submit(wake_up(urgency));
    true
}

/// The flag with which a record goes into the ring: whether user space is woken. To be asked when there is room for the record
/// only: whoever relies on a wake-up relies on that it comes.
#[inline(always)]
pub fn wake_up(urgency: Urgency) -> u64 {
    let Some(woken) = WOKEN.get_ptr_mut(0) else { return u64::from(BPF_RB_FORCE_WAKEUP) };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the map's live element, a word that other CPUs write as well.
    if unsafe { !urgency.wakes(woken.read_volatile(), now_ns) } {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    // SAFETY: as above.
    unsafe { woken.write_volatile(now_ns) };
    u64::from(BPF_RB_FORCE_WAKEUP)
}

/// A header for something that happens now.
#[inline(always)]
pub fn header(kind: u32, pid: u32, tid: u32, start_boottime_ns: u64) -> Header {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    Header { kind, flags: 0, at_ns, pid, tid, start_boottime_ns }
}

/// Marks a task and opens its account, with that plan set, or counts that there was no room; the account's slot. `running_on`: the CPU it
/// has now. `hidden`: nobody is told of its birth.
#[inline(always)]
pub fn mark(pid: u32, tid: u32, start: u64, running_on: Option<u32>, plan: u32, hidden: bool) -> u32 {
    let slot = accounts::open(pid, tid, start, running_on, plan, hidden);
    if TASKS.insert(tid, &Mark::new(pid, start, slot), BPF_NOEXIST.into()).is_ok() {
        return slot;
    }
    accounts::abandon(tid, slot);
    if let Some(mark) = marked(tid) {
        // User space was faster.
        let slot = mark.slot as u32;
        accounts::reconnect(tid, slot);
        return slot;
    }
    count(counter::MARKS_FULL);
    NO_SLOT
}

/// Removes a mark of which nobody has been told, or that a task left as it ended, and its account.
#[inline(always)]
pub fn unmark(tid: u32) {
    if let Some(mark) = marked(tid) {
        let slot = mark.slot as u32;
        let _ = TASKS.remove(tid);
        accounts::abandon(tid, slot);
    }
}

/// Removes what user space left on a task of that tid as it ended: it would pass to the task that has the tid now.
#[inline(always)]
pub fn unmark_earlier(tid: u32, start: u64) {
    match marked(tid) {
        // User space has seen the new task already, in `/proc`, where start times are rounded down.
        Some(mark) if mark.start_boottime_ns == start / TICK_NS * TICK_NS => {}
        Some(_) => unmark(tid),
        None => accounts::forget(tid),
    }
}

/// The mark of a task.
#[inline(always)]
pub fn marked(tid: u32) -> Option<&'static Mark> {
    // SAFETY: elements live as long as the map; one that is deleted meanwhile may be reused by another task.
    unsafe { TASKS.get(tid) }
}
