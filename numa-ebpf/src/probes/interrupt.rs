//! Interrupts: the time they take from the task whose turn it is.
//!
//! Hardware interrupts do not nest, and neither do softirqs; a hardware interrupt may come in the middle of a softirq, whose
//! time then does not count it. What runs in the thread ksoftirqd is that thread's.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use numa_ebpf::{
    account::{Account, Stolen},
    place::CpuState,
};

use crate::{accounts, maps::CPUS, task};

/// `irq_handler_entry(irq, action)`.
#[btf_tracepoint(function = "irq_handler_entry")]
pub fn irq_enter(_: BtfTracePointContext) -> i32 {
    enter(|cpu, now| cpu.irq_since_ns = now)
}

/// `irq_handler_exit(irq, action, result)`.
#[btf_tracepoint(function = "irq_handler_exit")]
pub fn irq_exit(_: BtfTracePointContext) -> i32 {
    exit_irq()
}

/// `local_timer_entry(vector)`: x86's timer tick is no `irq_handler` there.
#[btf_tracepoint(function = "local_timer_entry")]
pub fn timer_enter(_: BtfTracePointContext) -> i32 {
    enter(|cpu, now| cpu.irq_since_ns = now)
}

/// `local_timer_exit(vector)`.
#[btf_tracepoint(function = "local_timer_exit")]
pub fn timer_exit(_: BtfTracePointContext) -> i32 {
    exit_irq()
}

/// `softirq_entry(number)`.
#[btf_tracepoint(function = "softirq_entry")]
pub fn softirq_enter(_: BtfTracePointContext) -> i32 {
    enter(|cpu, now| (cpu.softirq_since_ns, cpu.irq_in_softirq_ns) = (now, 0))
}

/// `softirq_exit(number)`.
#[btf_tracepoint(function = "softirq_exit")]
pub fn softirq_exit(_: BtfTracePointContext) -> i32 {
    let Some(cpu) = this_cpu_state() else { return 0 };
    let since = cpu.softirq_since_ns;
    if since == 0 {
        return 0;
    }
    cpu.softirq_since_ns = 0;
    let took = accounts::since(since + cpu.irq_in_softirq_ns, accounts::now());
    if let Some(account) = current() {
        steal(&mut account.softirq, took);
    }
    0
}

#[inline(always)]
fn exit_irq() -> i32 {
    let Some(cpu) = this_cpu_state() else { return 0 };
    let since = cpu.irq_since_ns;
    if since == 0 {
        return 0;
    }
    cpu.irq_since_ns = 0;
    let took = accounts::since(since, accounts::now());
    if cpu.softirq_since_ns != 0 {
        cpu.irq_in_softirq_ns += took;
    }
    if let Some(account) = current() {
        steal(&mut account.irq, took);
    }
    0
}

/// The interrupt is timed if the task it came upon has an account.
#[inline(always)]
fn enter(begin: impl FnOnce(&mut CpuState, u64)) -> i32 {
    let Some(account) = current() else { return 0 };
    let now = accounts::now();
    if account.running_since_ns == 0 && account.closed_at_ns == 0 {
        // It runs since before its account was opened, or no tracepoint told: from now on that is known.
        (account.running_since_ns, account.cpu) = (now, accounts::this_cpu());
        account.waiting_since_ns = 0;
    }
    if let Some(cpu) = this_cpu_state() {
        begin(cpu, now);
    }
    0
}

#[inline(always)]
fn this_cpu_state() -> Option<&'static mut CpuState> {
    // SAFETY: this CPU's own live element; an interrupt and the task it came upon use different fields.
    CPUS.get_ptr_mut(accounts::this_cpu()).map(|state| unsafe { &mut *state })
}

/// The account of the task whose turn it is.
#[inline(always)]
fn current() -> Option<&'static mut Account> {
    accounts::of(task::current().1)
}

#[inline(always)]
fn steal(stolen: &mut Stolen, ns: u64) {
    stolen.ns += ns;
    stolen.count += 1;
    if ns > stolen.max_ns {
        stolen.max_ns = ns;
    }
}
