//! Opening, finding and closing accounts, and what is entered into them. See [`numa_ebpf::account`].

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel};
use numa_ebpf::{
    account::{Account, EARLY, NAMED_WAIT_NS, NO_SLOT, NODES, Occupant, duration},
    brief::Brief,
    counter, histogram,
    place::{NO_PLAN, Place, UNKNOWN},
};

use crate::{
    maps::{ACCOUNTS, FREE_SLOTS, PLACES, PLAN_OF, PLAN_SETS, SLOT_OF, UNTOLD, count},
    task::{self, Pointer},
};

/// Monotonic nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// The time from `begin` to `end`. The clock may step back by a little from one CPU to another while the kernel
/// adjusts it (`ktime_get_mono_fast_ns`, `kernel/time/timekeeping.c`).
#[inline(always)]
pub fn since(begin: u64, end: u64) -> u64 {
    end.saturating_sub(begin)
}

/// The CPU we are on.
#[inline(always)]
pub fn this_cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Slot of a tid's account.
#[inline(always)]
pub fn slot_of(tid: u32) -> u32 {
    SLOT_OF.get(tid).copied().unwrap_or(NO_SLOT)
}

/// Where a CPU is.
#[inline(always)]
pub fn place(cpu: u32) -> Option<&'static Place> {
    PLACES.get(cpu)
}

/// The account in a slot.
#[inline(always)]
pub fn at(slot: u32) -> Option<&'static mut Account> {
    if slot == NO_SLOT {
        return None;
    }
    // SAFETY: elements of an array live as long as the map. A task's switches and wake-ups are kept apart by the scheduler's
    // locks, its moves and interrupts by fields of their own; where a wake-up meets an interrupt, a wait may be missed.
    ACCOUNTS.get_ptr_mut(slot).map(|account| unsafe { &mut *account })
}

/// A tid's account. It is the account of the task that has this tid now: exit and fork see to that.
#[inline(always)]
pub fn of(tid: u32) -> Option<&'static mut Account> {
    at(slot_of(tid))
}

/// Opens a task's account, with that plan set; its slot. [`NO_SLOT`] if there is none free, which is counted. `hidden`: nobody is told of
/// its birth, nor will be of its end.
#[inline(always)]
pub fn open(pid: u32, tid: u32, start: u64, running_on: Option<u32>, plan: u32, hidden: bool) -> u32 {
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        forget(tid);
        count(counter::NO_ACCOUNT);
        return NO_SLOT;
    };
    let Some(account) = at(slot) else { return NO_SLOT };
    empty(account);
    if let Some(set) = PLAN_OF.get_ptr_mut(slot) {
        // SAFETY: the map's live element; nobody else has the slot.
        unsafe { *set = plan };
    }
    let now = now();
    (account.start_boottime_ns, account.tgid, account.tid) = (start, pid, tid);
    (account.opened_at_ns, account.closed_at_ns) = (now, 0);
    if let Some(cpu) = running_on {
        (account.running_since_ns, account.cpu) = (now, cpu);
    }
    // Before anybody can find it.
    if hidden && let Some(untold) = UNTOLD.get_ptr_mut(slot) {
        count(counter::UNTOLD_BIRTHS);
        // SAFETY: the map's live element, a word that user space may write as well.
        unsafe { untold.write_volatile(1) };
    }
    if SLOT_OF.set(tid, slot, 0).is_err() {
        count(counter::NO_ACCOUNT);
        tell_end(slot);
        let _ = FREE_SLOTS.push(slot, 0);
        return NO_SLOT;
    }
    slot
}

/// Empties an account: what is in a free slot is of who had it last. A copy of slot 0, which nobody has, is one call; stores would be
/// six hundred.
#[inline(always)]
fn empty(account: &mut Account) {
    let Some(nobodys) = ACCOUNTS.get_ptr(NO_SLOT) else { return };
    // SAFETY: both are elements of the map, and not the same one.
    unsafe {
        let account: *mut Account = account;
        bpf_probe_read_kernel(account.cast(), size_of::<Account>() as u32, nobodys.cast());
    }
}

/// The tid's account is in that slot.
#[inline(always)]
pub fn reconnect(tid: u32, slot: u32) {
    let _ = SLOT_OF.set(tid, slot, 0);
}

/// The tid has no account (any more).
#[inline(always)]
pub fn forget(tid: u32) {
    if slot_of(tid) != NO_SLOT {
        let _ = SLOT_OF.set(tid, NO_SLOT, 0);
    }
}

/// Gives back the slot of an account that was opened just now.
#[inline(always)]
pub fn abandon(tid: u32, slot: u32) {
    forget(tid);
    if slot != NO_SLOT {
        tell_end(slot);
        let _ = FREE_SLOTS.push(slot, 0);
    }
}

/// The task, which runs now, goes on under the tid of its leader, and with its start time.
#[inline(always)]
pub fn take_over(old_tid: u32, slot: u32, tid: u32, start: u64) {
    forget(old_tid);
    tell_end(slot);
    if let Some(account) = at(slot) {
        (account.tid, account.start_boottime_ns) = (tid, start);
        reconnect(tid, slot);
    }
}

/// What becomes of an account that is closed.
pub enum Closed {
    /// Nobody has heard of its task: its CPU time, in nanoseconds, is added to others'.
    Untold {
        /// That.
        run_ns: u64,
    },
    /// All that it says can go along with the word of the end.
    Brief(Brief),
    /// User space is to read it, if there is one.
    Long,
}

/// The task, which runs now, ends `now`: nothing is entered any more.
#[inline(always)]
pub fn close(tid: u32, slot: u32, now: u64) -> Closed {
    forget(tid);
    let Some(account) = at(slot) else { return Closed::Long };
    let place = place(account.cpu);
    end_run(account, slot, now, place);
    account.waiting_since_ns = 0;
    if reveal(slot) {
        return Closed::Untold { run_ns: account.durations[duration::SLICE].total_ns };
    }
    match Brief::of(account, place.map_or(UNKNOWN, |place| place.node)) {
        Some(brief) => Closed::Brief(brief),
        None => Closed::Long,
    }
}

/// Whether nobody is told of the task with that slot.
#[inline(always)]
pub fn is_hidden(slot: u32) -> bool {
    // SAFETY: the map's live element, a word that user space may write as well.
    slot != NO_SLOT && UNTOLD.get_ptr(slot).is_some_and(|untold| unsafe { untold.read_volatile() } != 0)
}

/// Whether that was so; it is not any more.
#[inline(always)]
fn reveal(slot: u32) -> bool {
    let hidden = is_hidden(slot);
    if hidden && let Some(untold) = UNTOLD.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe { untold.write_volatile(0) };
    }
    hidden
}

/// The end of the task with that slot is told, whether its birth was or not.
#[inline(always)]
pub fn tell_end(slot: u32) {
    if reveal(slot) {
        count(counter::UNTOLD_HEARD);
    }
}

/// Nobody has been told of the end yet: who looks for closed accounts finds this one. From then on the slot is for user space to give back.
#[inline(always)]
pub fn leave_to_be_found(slot: u32, closed_at_ns: u64) {
    if let Some(account) = at(slot) {
        account.closed_at_ns = closed_at_ns;
    }
}

/// Gives back the slot of an account that has nothing to say any more, and that nobody finds closed.
#[inline(always)]
pub fn give_back(slot: u32) {
    if slot != NO_SLOT {
        let _ = FREE_SLOTS.push(slot, 0);
    }
}

/// The task gets a CPU from `prev`. Its account has not been looked at for long and is in no cache: only who had the CPU is
/// entered now, the rest when it leaves, see [`end_run`].
///
/// # Safety
/// As [`task::field`], for `prev`.
#[inline(always)]
pub unsafe fn arrive(account: &mut Account, now: u64, cpu: u32, prev: Pointer, prev_tid: u32) {
    // Idle is nobody.
    if account.waiting_since_ns != 0 && prev_tid != 0 {
        let waited = since(account.waiting_since_ns, now);
        if waited >= NAMED_WAIT_NS {
            // SAFETY: as the caller promises.
            let comm = unsafe { task::name(prev) };
            charge(&mut account.preemptors, &mut account.preemptors_rest, comm, waited);
        } else {
            account.preemptors_rest.ns += waited;
            account.preemptors_rest.count += 1;
        }
    }
    (account.running_since_ns, account.cpu) = (now, cpu);
}

/// The task leaves its CPU; `waits`: it could have gone on.
#[inline(always)]
pub fn leave(account: &mut Account, slot: u32, now: u64, place: Option<&Place>, waits: bool) {
    end_run(account, slot, now, place);
    account.stopped_at_ns = now;
    account.waiting_since_ns = if waits { now } else { 0 };
    account.waits_as = duration::PREEMPT_WAIT as u32;
}

#[inline(always)]
fn enter(account: &mut Account, duration: usize, ns: u64) {
    histogram::record(&mut account.durations[duration], &mut account.buckets[duration], ns);
}

/// The task can run; it waits unless it has a CPU already.
#[inline(always)]
pub fn wake(account: &mut Account, now: u64) {
    if account.running_since_ns == 0 && account.waiting_since_ns == 0 {
        (account.waiting_since_ns, account.waits_as) = (now, duration::WAKE_WAIT as u32);
    }
}

/// Enters the run that ends now, and the times that led to it.
#[inline(always)]
fn end_run(account: &mut Account, slot: u32, now: u64, place: Option<&Place>) {
    let begin = match account.running_since_ns {
        // The first that is heard of it: it has had the CPU since before its account was opened.
        0 if account.stopped_at_ns == 0 => account.opened_at_ns,
        0 => return,
        begin => begin,
    };
    account.running_since_ns = 0;
    let ran = since(begin, now);
    enter(account, duration::SLICE, ran);
    // A task that was woken while nobody knew that it runs began to wait after its run did: it does not.
    if account.waiting_since_ns != 0 && account.waiting_since_ns <= begin {
        // One or the other, without a branch: which it will be is not for a processor to predict.
        let duration = (account.waits_as & duration::PREEMPT_WAIT as u32) as usize;
        enter(account, duration, begin - account.waiting_since_ns);
    }
    if account.stopped_at_ns != 0 {
        enter(account, duration::GAP, since(account.stopped_at_ns, begin));
    }
    let (cpu, node) = (account.cpu, place.map_or(UNKNOWN, |place| place.node));
    if node != UNKNOWN {
        let index = if node as usize >= NODES { NODES - 1 } else { node as usize };
        account.node_ns[index] += ran;
    }
    let plan = PLAN_OF.get(slot).copied().unwrap_or(NO_PLAN);
    if plan == NO_PLAN {
        return too_early(account, cpu, ran);
    }
    let Some(set) = PLAN_SETS.get(plan) else { return };
    if !set.has_cpu(cpu) {
        account.off_plan_ns += ran;
    }
    if node != UNKNOWN && !set.has_node(node) {
        let off = &mut account.off_node;
        off.ns += ran;
        off.runs += 1;
        if ran > off.longest_ns {
            off.longest_ns = ran;
        }
        if off.first_at_ns == 0 {
            off.first_at_ns = now;
        }
        off.last_at_ns = now;
    }
}

/// Nobody has said yet where the task belongs.
#[inline(always)]
fn too_early(account: &mut Account, cpu: u32, ran: u64) {
    let key = u64::from(cpu) + 1;
    for index in 0..EARLY {
        let early = &mut account.early[index];
        if early.cpu == key || early.cpu == 0 {
            early.cpu = key;
            early.ns += ran;
            return;
        }
    }
    account.early_rest_ns += ran;
}

/// Adds to the occupant of that name. Without one, the one with the least time gives way to it.
#[inline(always)]
pub fn charge<const N: usize>(occupants: &mut [Occupant; N], rest: &mut Occupant, comm: [u64; 2], ns: u64) {
    let (mut least, mut least_ns) = (0, u64::MAX);
    for index in 0..N {
        let occupant = &mut occupants[index];
        // SAFETY: 16 bytes, aligned as the struct is.
        let known = unsafe { (&raw const occupant.comm).cast::<[u64; 2]>().read() };
        if known[0] == comm[0] && known[1] == comm[1] {
            occupant.ns += ns;
            occupant.count += 1;
            return;
        }
        if occupant.ns < least_ns {
            (least, least_ns) = (index, occupant.ns);
        }
    }
    if least < N {
        let occupant = &mut occupants[least];
        rest.ns += occupant.ns;
        rest.count += occupant.count;
        // SAFETY: as above.
        unsafe { (&raw mut occupant.comm).cast::<[u64; 2]>().write(comm) };
        (occupant.ns, occupant.count) = (ns, 1);
    }
}
