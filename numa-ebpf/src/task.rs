//! Reading `task_struct`.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
};
use numa_ebpf::record::COMM_LEN;

use crate::config::{
    SELF_TGID, TASK_COMM, TASK_CPU, TASK_CPUS_MASK, TASK_IN_EXECVE, TASK_IN_EXECVE_MASK, TASK_MM, TASK_PID,
    TASK_REAL_PARENT, TASK_START, TASK_STATE, TASK_TGID,
};

/// A `task_struct` as a tracepoint's argument.
pub type Pointer = *const c_void;

/// Pid and tid of the calling task.
#[inline(always)]
pub fn current() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

/// Whether the calling task is the agent.
#[inline(always)]
pub fn is_self(pid: u32) -> bool {
    pid == SELF_TGID.load()
}

/// A field by a direct load. Only for pointers that the verifier knows as a `task_struct` (BTF tracepoints): a third
/// cheaper than [`read`].
///
/// # Safety
/// `task` is such a pointer, `offset` one of [`crate::config`] for a field of type `T`.
#[inline(always)]
pub unsafe fn field<T: Copy>(task: Pointer, offset: u32) -> T {
    // SAFETY: the verifier checks the access against the running kernel's BTF; the kernel handles a fault.
    unsafe { task.cast::<u8>().add(offset as usize).cast::<T>().read_volatile() }
}

/// A field by the helper, for any pointer.
#[inline(always)]
pub fn read<T>(base: Pointer, offset: u32) -> Option<T> {
    // SAFETY: the helper handles any address.
    unsafe { bpf_probe_read_kernel(base.cast::<u8>().wrapping_add(offset as usize).cast::<T>()).ok() }
}

/// Identity by direct loads.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn identity(task: Pointer) -> (u32, u32, u64) {
    // SAFETY: as the caller promises.
    unsafe { (field(task, TASK_TGID.load()), field(task, TASK_PID.load()), field(task, TASK_START.load())) }
}

/// CPU the task is on, by a direct load.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn cpu(task: Pointer) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { field(task, TASK_CPU.load()) }
}

/// Tid, by a direct load.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn tid(task: Pointer) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { field(task, TASK_PID.load()) }
}

/// Its state's low bits, by a direct load; 0: it can run.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn state(task: Pointer) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { field(task, TASK_STATE.load()) }
}

/// Name, by direct loads.
///
/// # Safety
/// As [`field`].
#[inline(always)]
pub unsafe fn name(task: Pointer) -> [u64; 2] {
    let at = TASK_COMM.load();
    // SAFETY: as the caller promises; the name is 16 bytes long.
    unsafe { [field(task, at), field(task, at + 8)] }
}

/// Pid, tid and start time by the helper.
#[inline(always)]
pub fn read_identity(task: Pointer) -> Option<(u32, u32, u64)> {
    Some((read(task, TASK_TGID.load())?, read(task, TASK_PID.load())?, read(task, TASK_START.load())?))
}

/// Name.
#[inline(always)]
pub fn comm(task: Pointer) -> [u8; COMM_LEN] {
    read(task, TASK_COMM.load()).unwrap_or([0; COMM_LEN])
}

/// Thread group of the parent; 0 if it cannot be read.
#[inline(always)]
pub fn parent_pid(task: Pointer) -> u32 {
    read::<Pointer>(task, TASK_REAL_PARENT.load())
        .and_then(|parent| read(parent, TASK_TGID.load()))
        .unwrap_or(0)
}

/// `task_struct.mm`.
#[inline(always)]
pub fn mm(task: Pointer) -> Option<Pointer> {
    read::<Pointer>(task, TASK_MM.load()).filter(|mm| !mm.is_null())
}

/// Whether the task's mask has that CPU; so it is taken where the kernel does not say.
#[inline(always)]
pub fn may_run_on(task: Pointer, cpu: u32) -> bool {
    let word: Option<u64> = read(task, TASK_CPUS_MASK.load() + cpu / 64 * 8);
    word.is_none_or(|word| word >> (cpu % 64) & 1 != 0)
}

/// Word of the task's mask; all CPUs where the kernel does not say.
#[inline(always)]
pub fn mask_word(task: Pointer, word: u32) -> u64 {
    read(task, TASK_CPUS_MASK.load() + word * 8).unwrap_or(u64::MAX)
}

/// Whether the task is inside `execve`; false where the kernel does not say.
#[inline(always)]
pub fn in_execve(task: Pointer) -> bool {
    let mask = TASK_IN_EXECVE_MASK.load();
    mask != 0 && read::<u8>(task, TASK_IN_EXECVE.load()).is_some_and(|byte| u32::from(byte) & mask != 0)
}
