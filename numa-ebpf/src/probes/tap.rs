//! Sends on the TCP connections of one process or one local port. These programs are loaded only when a tap is asked for.
//!
//! `tap_receive` notes that the process has read from a connection: the next send on it begins an answer. Sends come from
//! `tap_send` where the kernel has its tracepoint (6.3), else from entry and exit of the system calls.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_task, bpf_ktime_get_ns},
    macros::{btf_tracepoint, map, tracepoint},
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
    programs::{BtfTracePointContext, TracePointContext},
};
use numa_ebpf::{
    mark::TICK_NS,
    tap::{Lost, Send, flag, lost},
};

use crate::{
    config::{TAP_PID, TAP_PORT, TAP_RING_BYTES, TAP_START, TASK_GROUP_LEADER, TASK_START},
    socket::{self, Ports},
    task::{self, Pointer, read},
};

/// Offset of a system call's first argument, and of its result, in the tracepoint's record: as in `affinity`.
const FIRST_SLOT: usize = 16;

/// A send under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Call {
    socket: u64,
    ports: Ports,
    reserved: u32,
}

/// Records for user space. The loader sets the size.
#[map(name = "tap_sends")]
static SENDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Connections on which something was received after the last send, by socket. The loader sets the size.
#[map(name = "tap_received")]
static RECEIVED: LruHashMap<u64, u8> = LruHashMap::with_max_entries(1, 0);

/// Sends under way by tid, where system calls are followed. The loader sets the size.
#[map(name = "tap_calls")]
static CALLS: HashMap<u32, Call> = HashMap::with_max_entries(1, 0);

/// See [`numa_ebpf::tap::lost`].
#[map(name = "tap_lost")]
static LOST: PerCpuArray<Lost> = PerCpuArray::with_max_entries(1, 0);

/// `tcp_rcv_space_adjust(sk)`: a task has received data on it.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn tap_receive(ctx: BtfTracePointContext) -> i32 {
    if !is_tapped_process() {
        return 0;
    }
    let sock: Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a sock.
    if unsafe { socket::ports(sock) }.is_some_and(is_tapped_port) {
        note_received(sock as u64);
    }
    0
}

/// `sock_send_length(sk, ret, flags)`: a task has sent on it, by whatever system call or ring; since 6.3.
#[btf_tracepoint(function = "sock_send_length")]
pub fn tap_send(ctx: BtfTracePointContext) -> i32 {
    let sent: i32 = ctx.arg(1);
    if sent <= 0 || !is_tapped_process() {
        return 0;
    }
    let sock: Pointer = ctx.arg(0);
    // SAFETY: argument 0 of this tracepoint is a sock.
    if let Some(ports) = unsafe { socket::ports(sock) }
        && is_tapped_port(ports)
    {
        report(sock as u64, ports, sent as u32);
    }
    0
}

#[tracepoint(category = "syscalls", name = "sys_enter_write")]
pub fn tap_write_enter(ctx: TracePointContext) -> u32 {
    enter(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_write")]
pub fn tap_write_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_enter_writev")]
pub fn tap_writev_enter(ctx: TracePointContext) -> u32 {
    enter(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_writev")]
pub fn tap_writev_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_enter_sendto")]
pub fn tap_sendto_enter(ctx: TracePointContext) -> u32 {
    enter(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_sendto")]
pub fn tap_sendto_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_enter_sendmsg")]
pub fn tap_sendmsg_enter(ctx: TracePointContext) -> u32 {
    enter(&ctx)
}

#[tracepoint(category = "syscalls", name = "sys_exit_sendmsg")]
pub fn tap_sendmsg_exit(ctx: TracePointContext) -> u32 {
    exit(&ctx)
}

/// A call begins whose first argument is a descriptor: remember the connection if it is a tapped one.
#[inline(always)]
fn enter(ctx: &TracePointContext) -> u32 {
    if !is_tapped_process() {
        return 0;
    }
    // SAFETY: the slot is inside the record.
    let Ok(fd) = (unsafe { ctx.read_at::<u64>(FIRST_SLOT) }) else { return 0 };
    let Some(sock) = socket::of_descriptor(fd as u32) else { return 0 };
    if let Some(ports) = socket::read_ports(sock)
        && is_tapped_port(ports)
    {
        let call = Call { socket: sock as u64, ports, reserved: 0 };
        if CALLS.insert(task::current().1, call, 0).is_err() {
            lose(lost::CALLS_FULL, call.socket);
        }
    }
    0
}

/// It ends: report it if it has sent something.
#[inline(always)]
fn exit(ctx: &TracePointContext) -> u32 {
    if !is_tapped_process() {
        return 0;
    }
    let (_, tid) = task::current();
    // SAFETY: the value is copied before the element is deleted, and only this thread deletes it.
    let Some(call) = unsafe { CALLS.get(tid) }.copied() else { return 0 };
    let _ = CALLS.remove(tid);
    // SAFETY: the slot is inside the record.
    if let Ok(sent @ 1..) = unsafe { ctx.read_at::<i64>(FIRST_SLOT) } {
        report(call.socket, call.ports, sent as u32);
    }
    0
}

/// Whether the calling task may be tapped: of the process asked for, or any where a port is. The start time tells the
/// process from a later one with its pid.
#[inline(always)]
fn is_tapped_process() -> bool {
    let (pid, _) = task::current();
    let wanted = TAP_PID.load();
    if wanted == 0 {
        return !task::is_self(pid);
    }
    let started = || read::<u64>(leader()?, TASK_START.load());
    pid == wanted && started().is_some_and(|started_ns| (started_ns / TICK_NS) as u32 == TAP_START.load())
}

#[inline(always)]
fn is_tapped_port(ports: Ports) -> bool {
    let wanted = TAP_PORT.load();
    wanted == 0 || wanted == u32::from(ports.local)
}

/// The calling process's first thread, which has its name and start time.
#[inline(always)]
fn leader() -> Option<Pointer> {
    // SAFETY: the helper has no preconditions.
    let current = unsafe { bpf_get_current_task() } as Pointer;
    read(current, TASK_GROUP_LEADER.load())
}

/// Puts a record into the ring. The reader comes round by itself, and is woken only as the ring becomes half full before.
#[inline(always)]
fn report(socket: u64, ports: Ports, bytes: u32) {
    // Wider than a record: several CPUs may go past the middle at once.
    const MIDDLE: u64 = 1024;
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let comm = leader().map_or([0; _], task::comm);
    let (pid, _) = task::current();
    let Some(mut entry) = SENDS.reserve::<Send>(0) else { return lose(lost::RING_FULL, socket) };
    let flags = if RECEIVED.remove(socket).is_ok() { flag::FIRST } else { 0 };
    let Ports { local: local_port, remote: remote_port } = ports;
    entry.write(Send { at_ns, socket, pid, flags, bytes, local_port, remote_port, comm });
    let half = u64::from(TAP_RING_BYTES.load() / 2);
    let past_half = SENDS.query(BPF_RB_AVAIL_DATA.into()).wrapping_sub(half);
    entry.submit(if past_half < MIDDLE { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }.into());
}

/// Counts a send as lost. What is sent next on the connection begins anew: the time to it would be that of two gaps.
#[inline(always)]
fn lose(index: usize, socket: u64) {
    note_received(socket);
    if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own live element.
        unsafe { (*lost)[index] += 1 };
    }
}

/// What is sent next on the connection is an answer's first. Looks before it writes: each write takes a new element.
#[inline(always)]
fn note_received(socket: u64) {
    if RECEIVED.get_ptr(socket).is_none() {
        let _ = RECEIVED.insert(socket, 1, 0);
    }
}
