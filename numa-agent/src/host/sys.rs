//! System calls: the one place in this crate with `unsafe` and libc.
//!
//! Other modules reach the kernel through the [`Kernel`] trait, so that every outcome they must handle can be played by
//! a fake.

use std::{
    convert::Infallible,
    ffi::CString,
    fmt,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
};

pub use nix::sys::signal::Signal;
use nix::{errno::Errno, time::ClockId};
use tokio::io::unix::AsyncFd;

use super::fresh::is_fresh;
use crate::core::{
    idset::{CpuSet, IdSet},
    memory::Policy,
    task::TaskId,
};

/// The system calls on other tasks that the agent makes.
pub trait Kernel {
    /// The CPUs `tid` may run on (`sched_getaffinity`), cut to its cpuset and the online CPUs by the kernel.
    ///
    /// # Errors
    /// `ESRCH` if there is no such task.
    fn affinity(&self, tid: u32) -> Result<CpuSet, SysError>;

    /// Asks the kernel to run `tid` on `cpus` only (`sched_setaffinity`). The kernel cuts the mask to the task's cpuset.
    ///
    /// # Errors
    /// `ESRCH`: no such task. `EINVAL`: none of `cpus` is online and in the task's cpuset, or the task is bound by the
    /// kernel (`PF_NO_SETAFFINITY`). `EPERM`: another user's task and no `CAP_SYS_NICE`.
    fn set_affinity(&self, tid: u32, cpus: &CpuSet) -> Result<(), SysError>;

    /// The task's start time in clock ticks since boot; `None` if there is no such task.
    fn start_time(&self, tid: u32) -> Option<u64>;

    /// The start time of who has this task's tid by now. If it lived at `seen_ns` (`CLOCK_MONOTONIC` nanoseconds; 0: nobody knows), so lately
    /// that this can be nobody else, without a look, also if it has ended.
    fn owner(&self, task: TaskId, seen_ns: u64) -> Option<u64> {
        let _ = seen_ns;
        self.start_time(task.tid)
    }

    /// The task's scheduling class, if that is a real-time or the deadline one.
    fn real_time(&self, tid: u32) -> Option<&'static str>;
}

/// The memory policy of the calling thread, which it keeps over exec and hands on to the threads and processes it creates.
/// There is no system call that sets another task's.
pub trait OwnPolicy {
    /// The policy in force (`get_mempolicy`); `None` where it is one that we do not know.
    ///
    /// # Errors
    /// `ENOSYS`: a kernel without NUMA. `EPERM`: a seccomp filter, as containers have it.
    fn memory_policy(&self) -> Result<Option<Policy>, Errno>;

    /// Sets it (`set_mempolicy`). The kernel leaves out nodes that have no memory or are not in our cpuset.
    ///
    /// # Errors
    /// As [`OwnPolicy::memory_policy`], and `EINVAL`: no node is left, or the kernel does not know the mode.
    fn set_memory_policy(&self, policy: &Policy) -> Result<(), Errno>;
}

/// A system call that failed, and on whom.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} on task {tid}: {errno}")]
pub struct SysError {
    /// Name of the call.
    pub call: &'static str,
    /// The task.
    pub tid: u32,
    /// Why.
    pub errno: Errno,
}

/// The machine we run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

/// Room for 8192 CPUs, the most any 6.18 configuration allows (`CONFIG_NR_CPUS`, `arch/x86/Kconfig`); a buffer smaller
/// than the kernel's own mask is refused with `EINVAL`.
const MASK_WORDS: usize = 8192 / 64;

impl Kernel for Host {
    fn affinity(&self, tid: u32) -> Result<CpuSet, SysError> {
        let mut words = [0u64; MASK_WORDS];
        // SAFETY: the kernel writes at most the given number of bytes into `words`, which outlives the call. The raw
        // call takes any length, unlike libc's fixed `cpu_set_t`.
        let written = unsafe {
            libc::syscall(
                libc::SYS_sched_getaffinity,
                tid as libc::pid_t,
                size_of_val(&words),
                words.as_mut_ptr(),
            )
        };
        let written =
            Errno::result(written).map_err(|errno| SysError { call: "sched_getaffinity", tid, errno })?;
        // The raw call gives the number of bytes that it has written.
        Ok(IdSet::from_words(&words[..MASK_WORDS.min(written as usize / size_of::<u64>())]))
    }

    fn set_affinity(&self, tid: u32, cpus: &CpuSet) -> Result<(), SysError> {
        let words = cpus.words();
        // SAFETY: the kernel reads exactly `words.len() * 8` bytes from `words` and treats missing ones as zero.
        let result = unsafe {
            libc::syscall(libc::SYS_sched_setaffinity, tid as libc::pid_t, size_of_val(words), words.as_ptr())
        };
        Errno::result(result).map(drop).map_err(|errno| SysError { call: "sched_setaffinity", tid, errno })
    }

    fn start_time(&self, tid: u32) -> Option<u64> {
        stat_field(tid, 22)?.parse().ok()
    }

    fn owner(&self, task: TaskId, seen_ns: u64) -> Option<u64> {
        // A look opens, reads and closes a file, which takes ten times what a bind does; most binds answer an event of this moment.
        if is_fresh(seen_ns) { Some(task.start_time) } else { self.start_time(task.tid) }
    }

    fn real_time(&self, tid: u32) -> Option<&'static str> {
        // SAFETY: numbers only.
        let policy = unsafe { libc::sched_getscheduler(tid as libc::pid_t) };
        match policy & !libc::SCHED_RESET_ON_FORK {
            _ if policy < 0 => None,
            libc::SCHED_FIFO => Some("SCHED_FIFO"),
            libc::SCHED_RR => Some("SCHED_RR"),
            libc::SCHED_DEADLINE => Some("SCHED_DEADLINE"),
            _ => None,
        }
    }
}

/// Room for 1024 nodes, the most any configuration allows (`CONFIG_NODES_SHIFT`, `arch/x86/Kconfig` and
/// `arch/arm64/Kconfig`, 6.18).
pub(super) const NODE_WORDS: usize = 1024 / 64;

/// The kernel takes off one from the number of bits that it is given before it looks at so many (`get_nodes` and
/// `copy_nodes_to_user` of `mm/mempolicy.c`, 5.10 to 6.18).
pub(super) const NODE_BITS: usize = NODE_WORDS * 64 + 1;

impl OwnPolicy for Host {
    fn memory_policy(&self) -> Result<Option<Policy>, Errno> {
        let (mut mode, mut words) = (0, [0u64; NODE_WORDS]);
        // SAFETY: `words` has room for as many bits as said; it and `mode` outlive the call. Without flags the address is not
        // looked at.
        let result = unsafe {
            let (mode, words) = (&raw mut mode, words.as_mut_ptr());
            libc::syscall(libc::SYS_get_mempolicy, mode, words, NODE_BITS, 0usize, 0usize)
        };
        Errno::result(result)?;
        let mode: libc::c_int = mode;
        Ok(Policy::from_number(mode.cast_unsigned(), IdSet::from_words(&words)))
    }

    fn set_memory_policy(&self, policy: &Policy) -> Result<(), Errno> {
        let mut words = policy.nodes.words().to_vec();
        if words.len() > NODE_WORDS {
            return Err(Errno::EINVAL);
        }
        words.resize(NODE_WORDS, 0);
        let mode = policy.number().cast_signed();
        // SAFETY: the kernel reads at most as many bits as said from `words`, which outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, words.as_ptr(), NODE_BITS) };
        Errno::result(result).map(drop)
    }
}

/// What a page's number is where there was nothing to say about it (`move_pages(2)` left it alone).
pub const UNTOLD: i32 = i32::MIN;

/// `move_pages(2)`: where the pages of a process are at those addresses, or with `to` after they were to be moved to those nodes; with `shared` also
/// those that other processes have mapped. Negative: an errno; [`UNTOLD`]: the call ended before.
///
/// # Errors
/// `ESRCH`: it is gone. `EPERM`: not ours to move. `ENODEV`, `EACCES`: there is no such node, or its cpuset has it not.
pub fn move_pages(pid: u32, pages: &[u64], to: Option<&[i32]>, shared: bool) -> Result<Vec<i32>, Errno> {
    // Of `include/uapi/linux/mempolicy.h`.
    const MPOL_MF_MOVE: libc::c_int = 1 << 1;
    const MPOL_MF_MOVE_ALL: libc::c_int = 1 << 2;
    let count = to.map_or(pages.len(), |to| to.len().min(pages.len()));
    let to = to.map_or(std::ptr::null(), <[i32]>::as_ptr);
    let mut status = vec![UNTOLD; count];
    let flags = if shared { MPOL_MF_MOVE_ALL } else { MPOL_MF_MOVE };
    // SAFETY: all three have room for `count` and outlive the call, which takes the pages' addresses as numbers of another process.
    let result = unsafe {
        libc::syscall(libc::SYS_move_pages, pid, count, pages.as_ptr(), to, status.as_mut_ptr(), flags)
    };
    // A positive number: so many have not been moved.
    Errno::result(result).map(|_| status)
}

/// Bytes of an ordinary page.
#[must_use]
pub fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// Numbers of system calls.
pub mod number {
    #[cfg(target_arch = "x86_64")]
    pub use libc::SYS_epoll_wait as EPOLL_WAIT;
    pub use libc::{
        SYS_epoll_pwait as EPOLL_PWAIT, SYS_epoll_pwait2 as EPOLL_PWAIT2, SYS_get_mempolicy as GET_MEMPOLICY,
        SYS_io_getevents as IO_GETEVENTS, SYS_mmap as MMAP, SYS_munmap as MUNMAP,
        SYS_rt_sigtimedwait as RT_SIGTIMEDWAIT, SYS_semop as SEMOP, SYS_semtimedop as SEMTIMEDOP,
        SYS_set_mempolicy as SET_MEMPOLICY,
    };
}

/// Arguments of `mmap(2)` for a page of one's own: what may be done with it, and what it is.
pub const PAGE_OF_ONES_OWN: [u64; 2] =
    [(libc::PROT_READ | libc::PROT_WRITE) as u64, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64];

/// The registers of a 64-bit thread (`NT_PRSTATUS`).
pub type Registers = libc::user_regs_struct;

/// A thread that the calling thread traces (`ptrace(2)`). The kernel lets it go when this is dropped while it is stopped, and when the
/// calling thread ends.
#[derive(Debug)]
pub struct Tracee {
    tid: u32,
    // Calls from any other thread fail.
    _here: std::marker::PhantomData<*const ()>,
}

/// Where a traced thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// On its way to user mode, before signals are looked at: it was interrupted, or its process is stopped.
    Held,
    /// It is about to get this signal.
    Signal(i32),
    /// It is at one of the ends of a system call.
    Call,
    /// It is no more.
    Ended,
}

/// How far a traced thread may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// To the next stop that has another reason.
    Stop,
    /// To the next end of a system call.
    Call,
}

/// `struct ptrace_rseq_configuration` of `include/uapi/linux/ptrace.h`; since 5.13.
#[repr(C)]
struct RseqConfiguration {
    address: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

impl Tracee {
    /// Begins to trace a thread, which goes on meanwhile.
    ///
    /// # Errors
    /// As `PTRACE_SEIZE`: `EPERM` also if somebody else traces it.
    pub fn seize(tid: u32) -> Result<Self, Errno> {
        let tracee = Self { tid, _here: std::marker::PhantomData };
        // SAFETY: no memory; the options are a number.
        unsafe { tracee.ptrace(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_TRACESYSGOOD as usize)? };
        Ok(tracee)
    }

    /// Has it stop as soon as it would next be in user mode, and once more if it is stopped.
    ///
    /// # Errors
    /// As `PTRACE_INTERRUPT`; `ESRCH`: it is no more.
    pub fn interrupt(&self) -> Result<(), Errno> {
        // SAFETY: no memory.
        unsafe { self.ptrace(libc::PTRACE_INTERRUPT, 0, 0) }.map(drop)
    }

    /// Lets it go on from a stop; from [`Stop::Signal`] with that signal, or another, or (0) none.
    ///
    /// # Errors
    /// `ESRCH`: it is not stopped, or no more.
    pub fn resume(&self, until: Until, signal: i32) -> Result<(), Errno> {
        let request = match until {
            Until::Stop => libc::PTRACE_CONT,
            Until::Call => libc::PTRACE_SYSCALL,
        };
        // SAFETY: no memory; the signal is a number.
        unsafe { self.ptrace(request, 0, signal.cast_unsigned() as usize) }.map(drop)
    }

    /// Writes a word into its memory. Who traces may, also without the rights that `/proc/PID/mem` of another user's process takes.
    ///
    /// # Errors
    /// `EIO` or `EFAULT`: nothing is mapped there. `ESRCH`: it is not stopped, or no more.
    pub fn write(&self, address: u64, word: u64) -> Result<(), Errno> {
        // SAFETY: memory of the tracee alone; both are numbers.
        unsafe { self.ptrace(libc::PTRACE_POKEDATA, address as usize, word as usize) }.map(drop)
    }

    /// Its next stop; `None`: it has not stopped yet. With `block` waits for it.
    ///
    /// # Errors
    /// As `waitpid(2)`.
    pub fn wait(&self, block: bool) -> Result<Option<Stop>, Errno> {
        let mut status = 0;
        let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
        // SAFETY: the kernel writes one number into `status`. Not by nix, which has no real-time signals.
        let result = unsafe { libc::waitpid(self.tid.cast_signed(), &mut status, flags) };
        match Errno::result(result) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            // Another thread of its process has taken its place by exec.
            Err(Errno::ECHILD) => return Ok(Some(Stop::Ended)),
            Err(errno) => return Err(errno),
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Some(Stop::Ended));
        }
        Ok(Some(match (status >> 16, libc::WSTOPSIG(status)) {
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
            (0, signal) => Stop::Signal(signal),
            _ => Stop::Held,
        }))
    }

    /// Its registers; `None`: it is a 32-bit one.
    ///
    /// # Errors
    /// `ESRCH`: it is not stopped, or no more.
    pub fn registers(&self) -> Result<Option<Registers>, Errno> {
        let mut registers = std::mem::MaybeUninit::<Registers>::zeroed();
        let iov_len = size_of::<Registers>();
        let mut place = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len };
        // SAFETY: the kernel writes no more than `iov_len` bytes into `registers`, and how many into `place`.
        unsafe {
            self.ptrace(
                libc::PTRACE_GETREGSET,
                libc::NT_PRSTATUS as usize,
                (&raw mut place).expose_provenance(),
            )?;
        }
        // SAFETY: all of them are numbers, which may be zero.
        Ok((place.iov_len == iov_len).then(|| unsafe { registers.assume_init() }))
    }

    /// Sets them.
    ///
    /// # Errors
    /// `ESRCH`: it is not stopped, or no more.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), Errno> {
        self.set(libc::NT_PRSTATUS, registers)
    }

    /// At the beginning of a system call: has the kernel leave it out.
    ///
    /// # Errors
    /// `ESRCH`: it is not stopped, or no more.
    #[cfg(target_arch = "aarch64")]
    pub fn leave_call_out(&self) -> Result<(), Errno> {
        const NT_ARM_SYSTEM_CALL: libc::c_int = 0x404;
        self.set(NT_ARM_SYSTEM_CALL, &-1i32)
    }

    fn set<T>(&self, what: libc::c_int, value: &T) -> Result<(), Errno> {
        let place =
            libc::iovec { iov_base: std::ptr::from_ref(value).cast_mut().cast(), iov_len: size_of::<T>() };
        // SAFETY: the kernel reads as many bytes as `value` has.
        unsafe {
            self.ptrace(libc::PTRACE_SETREGSET, what as usize, (&raw const place).expose_provenance())?;
        }
        Ok(())
    }

    /// Where its restartable sequences (`rseq(2)`) are registered; `None`: nowhere, or the kernel is older than 5.13 and does not tell.
    #[must_use]
    pub fn restartable_sequences(&self) -> Option<u64> {
        const PTRACE_GET_RSEQ_CONFIGURATION: Request = 0x420f;
        let mut found = RseqConfiguration { address: 0, size: 0, signature: 0, flags: 0, pad: 0 };
        // SAFETY: the kernel writes no more than that size into `found`.
        let result = unsafe {
            let size = size_of::<RseqConfiguration>();
            self.ptrace(PTRACE_GET_RSEQ_CONFIGURATION, size, (&raw mut found).expose_provenance())
        };
        result.ok().map(|_| found.address).filter(|address| *address != 0)
    }

    /// Before a signal: the address of the instruction or memory that it is about, for one that the thread brought about itself.
    #[must_use]
    pub fn fault_address(&self) -> Option<u64> {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the kernel writes one `siginfo_t`.
        unsafe {
            self.ptrace(libc::PTRACE_GETSIGINFO, 0, info.as_mut_ptr().expose_provenance()).ok()?;
        }
        // SAFETY: all of it are numbers, which may be zero; the address is where `si_call_addr` of SIGSYS is too.
        let (code, address) = unsafe {
            let info = info.assume_init();
            (info.si_code, info.si_addr())
        };
        (code > 0).then_some(address.addr() as u64)
    }

    /// Has no seccomp filter judge its system calls for as long as it is traced; or has them judged again.
    ///
    /// # Errors
    /// `EPERM`: no `CAP_SYS_ADMIN`, or we have a filter ourselves. `EINVAL`: a kernel without `CONFIG_CHECKPOINT_RESTORE`.
    pub fn suspend_seccomp(&self, suspended: bool) -> Result<(), Errno> {
        const PTRACE_O_SUSPEND_SECCOMP: libc::c_int = 1 << 21;
        let suspend = if suspended { PTRACE_O_SUSPEND_SECCOMP } else { 0 };
        let options = libc::PTRACE_O_TRACESYSGOOD | suspend;
        // SAFETY: no memory; the options are a number.
        unsafe { self.ptrace(libc::PTRACE_SETOPTIONS, 0, options as usize) }.map(drop)
    }

    /// # Safety
    /// As the request says of its address and data.
    unsafe fn ptrace(&self, request: Request, address: usize, data: usize) -> Result<libc::c_long, Errno> {
        // SAFETY: by the caller.
        let result = unsafe { libc::ptrace(request, self.tid.cast_signed(), address, data) };
        Errno::result(result)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // One that is not stopped cannot be let go so.
        // SAFETY: no memory.
        let _ = unsafe { self.ptrace(libc::PTRACE_DETACH, 0, 0) };
    }
}

#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

impl Host {
    /// The CPU that a task has; `None` if it has none, or is gone.
    #[must_use]
    pub fn running_on(&self, tid: u32) -> Option<u32> {
        // The state first: one that stops to run meanwhile has been on that CPU.
        (stat_field(tid, 3)? == "R").then(|| stat_field(tid, 39)?.parse().ok()).flatten()
    }

    /// Whether a task is a kernel thread, or a worker of `io_uring`.
    #[must_use]
    pub fn never_in_user_mode(&self, tid: u32) -> bool {
        // `PF_KTHREAD` and `PF_IO_WORKER` of `include/linux/sched.h` (5.10 to 6.18).
        const FLAGS: u64 = 0x0020_0000 | 0x10;
        let flags = stat_field(tid, 9).and_then(|flags| flags.parse::<u64>().ok());
        flags.is_some_and(|flags| flags & FLAGS != 0)
    }
}

/// The process that started a process; 0 if that is in another pid namespace, `None` if there is no such process.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

/// A field of a thread's `stat`, numbered as in proc_pid_stat(5), from the third on.
fn stat_field(tid: u32, number: usize) -> Option<String> {
    // `/proc/TID/stat` has the same of the thread, and times summed up over all threads of its process, under a lock: 3 ms with ten
    // thousand of them. One read of what never exceeds a page: this is done twice for every bind. The fields stand after the comm, which may
    // itself hold blanks and parentheses.
    let mut stat = [0; 1024];
    let length = std::fs::File::open(format!("/proc/{tid}/task/{tid}/stat")).ok()?.read(&mut stat).ok()?;
    let stat = stat.get(..length)?;
    let after_comm = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let field = stat.get(after_comm..)?.split(|byte| *byte == b' ').nth(number.checked_sub(3)?)?;
    Some(std::str::from_utf8(field).ok()?.to_owned())
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the kernel programs' `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_BOOTTIME` in nanoseconds, the clock of start times.
#[must_use]
pub fn boottime_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_BOOTTIME)
}

fn nanoseconds(clock: ClockId) -> u64 {
    clock.now().map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64).unwrap_or(0)
}

/// How the calling thread is scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPriority {
    /// `SCHED_FIFO`, priority 1: ahead of every ordinary task, behind every other real-time one.
    Fifo,
    /// Ordinary, and why real-time was refused.
    Normal(Errno),
}

impl fmt::Display for EventPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fifo => f.write_str("SCHED_FIFO 1"),
            Self::Normal(errno) => write!(f, "SCHED_OTHER (real-time refused: {})", errno.desc()),
        }
    }
}

/// Makes the calling thread `SCHED_FIFO` 1, so that a busy machine does not delay binding (the tail in
/// `docs/architecture.md`). Threads and processes it creates from now on are ordinary again (`SCHED_RESET_ON_FORK`).
pub fn prioritise_event_thread() -> EventPriority {
    prioritise_thread(true)
}

/// The same; `alone`: not the threads and processes that it creates from now on.
pub fn prioritise_thread(alone: bool) -> EventPriority {
    let param = libc::sched_param { sched_priority: 1 };
    let alone = if alone { libc::SCHED_RESET_ON_FORK } else { 0 };
    // SAFETY: `param` outlives the call; pid 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | alone, &param) };
    match Errno::result(result) {
        Ok(_) => EventPriority::Fifo,
        Err(errno) => EventPriority::Normal(errno),
    }
}

/// Makes the calling thread an ordinary one again.
///
/// # Errors
/// As `sched_setscheduler(2)`.
pub fn leave_real_time() -> Result<(), Errno> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` outlives the call; pid 0 is the calling thread.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, &param) };
    Errno::result(result).map(drop)
}

/// Registers `descriptor` with the calling thread's event loop.
///
/// # Errors
/// As `epoll_ctl(2)`.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and always the same descriptor, until it is dropped; the result owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// A command that has been started and waits before its first instruction.
#[derive(Debug)]
pub struct Gated {
    /// Its pid.
    pub pid: u32,
    /// What it runs.
    pub program: String,
    gate: io::PipeWriter,
    starter: std::thread::JoinHandle<io::Result<Child>>,
}

impl Gated {
    /// Creates the command's process. It waits: for [`Gated::open`], or to end should it be dropped.
    ///
    /// # Errors
    /// If no process can be created.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (mut hello, mut child_hello) = io::pipe()?;
        let (mut child_gate, gate) = io::pipe()?;
        let own_end = gate.as_raw_fd();
        let program = command.get_program().to_string_lossy().into_owned();
        let wait = move || {
            // Else the gate could never be found closed: our copy of its other end would keep it open.
            nix::unistd::close(own_end)?;
            child_hello.write_all(&std::process::id().to_ne_bytes())?;
            child_gate.read_exact(&mut [0])
        };
        // SAFETY: the closure runs between fork and exec and makes async-signal-safe system calls only: close, write, getpid,
        // read. It allocates nothing.
        unsafe { command.pre_exec(wait) };
        // `spawn` comes back when the program has been replaced.
        let starter = std::thread::spawn(move || command.spawn());
        let mut pid = [0; 4];
        match hello.read_exact(&mut pid) {
            Ok(()) => Ok(Self { pid: u32::from_ne_bytes(pid), program, gate, starter }),
            Err(error) => match starter.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(error),
            },
        }
    }

    /// Lets it run; comes back when it does.
    ///
    /// # Errors
    /// If there is no such program, or it cannot be run.
    pub fn open(mut self) -> io::Result<Child> {
        self.gate.write_all(&[1])?;
        self.starter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Whether SIGPIPE was ignored when this process began. Rust's runtime has it ignored before `main`, so that only what runs
/// earlier can tell.
static IGNORED_SIGPIPE: AtomicBool = AtomicBool::new(false);

extern "C" fn note_sigpipe() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only fills the old one in; all of it are numbers, which may be zero.
    let handler = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    IGNORED_SIGPIPE.store(handler == libc::SIG_IGN, Ordering::Relaxed);
}

#[used]
// SAFETY: the C library calls what is in this section once, before `main`; the function makes one system call and needs nothing
// of Rust's runtime.
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Becomes another program, as `execvp(3)` looks it up: the process stays the same, with all that it has. Comes back only if
/// that failed.
///
/// # Errors
/// As `execve(2)`; `ENOENT`: there is no such program.
pub fn exec(program: &CString, arguments: &[CString]) -> Result<Infallible, Errno> {
    if !IGNORED_SIGPIPE.load(Ordering::Relaxed) {
        // SAFETY: no handler of ours is set or replaced.
        unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl)? };
    }
    let error = nix::unistd::execvp(program, arguments);
    // Who reads our messages may be gone.
    // SAFETY: as above.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigIgn)? };
    error
}

/// Whether a signal from the terminal's keys goes to this process and those it started alike.
#[must_use]
pub fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| nix::unistd::tcgetpgrp(&terminal) == Ok(nix::unistd::getpgrp()))
}

/// Locks a file for this descriptor alone (`flock(2)`), or gives it up again; never waits.
///
/// # Errors
/// `EWOULDBLOCK`: somebody else has it.
pub fn lock(file: &impl AsFd, locked: bool) -> Result<(), Errno> {
    flock(file, if locked { libc::LOCK_EX } else { libc::LOCK_UN })
}

/// The same for this descriptor and others that do the same.
///
/// # Errors
/// `EWOULDBLOCK`: somebody has it alone.
pub fn lock_shared(file: &impl AsFd) -> Result<(), Errno> {
    flock(file, libc::LOCK_SH)
}

fn flock(file: &impl AsFd, operation: libc::c_int) -> Result<(), Errno> {
    let operation = operation | libc::LOCK_NB;
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::flock(file.as_fd().as_raw_fd(), operation) }).map(drop)
}

/// Sends a signal to a process.
///
/// # Errors
/// As `kill(2)`.
pub fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal)?)
}

/// The user whose rights we have.
#[must_use]
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Who is at the other end of a UNIX socket, as of `connect(2)`; for who has connected, of `listen(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective and supplementary groups.
    pub groups: Vec<u32>,
}

/// Who that is.
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let known = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)?;
    // As many as anybody can have (`NGROUPS_MAX`), and one that is not the kernel's to fill.
    let mut groups = vec![0u32; 65_536];
    let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `bytes` bytes into `groups`, and how many into `bytes`; both outlive the call.
    let result = unsafe {
        let descriptor = socket.as_fd().as_raw_fd();
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    match Errno::result(result) {
        Ok(_) => groups.truncate(bytes as usize / size_of::<u32>()),
        // It had no credentials yet.
        Err(Errno::ENODATA) => groups.clear(),
        Err(errno) => return Err(errno.into()),
    }
    groups.push(known.gid());
    Ok(Peer { pid: known.pid().cast_unsigned(), uid: known.uid(), groups })
}

/// Has `work` done by a thread that can open no file: each is as if it were not there. Where the kernel cannot have that, by one that can.
pub fn without_files<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let refused = || {
        if let Err(errno) = refuse_to_open() {
            tracing::debug!("files are opened that need not be: {errno}");
        }
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(refused).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// From now on `openat`, by which the standard library opens all files, finds none for this thread and those it creates. There is no way
/// back.
fn refuse_to_open() -> Result<(), Errno> {
    // What a filter needs of one without privileges; a thread's own, as the filter is (seccomp(2)).
    nix::sys::prctl::set_no_new_privs()?;
    let refuse = libc::SECCOMP_RET_ERRNO | Errno::ENOENT as u32;
    let instruction =
        |code: u32, jump_if_not, k| libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_not, k };
    let mut filter = [
        // The number of the system call is the first that there is to load. It is ours: nobody here makes calls of another architecture.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_openat as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, refuse),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until then.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(result).map(drop)
}

/// Gives memory that was freed back to the kernel. The C library keeps it otherwise: for a daemon, forever.
pub fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, touches only what is free, and is safe to call from any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the threads that this one creates share one heap beside its own: with one for each, what they free stays in pieces
/// that cannot be given back (5 MB after reports on 1 000 threads). Of use before the first of them.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that later allocations look at (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Stops this process and its group as ctrl-z does, until they are let go on; where nobody could do that, they do at once.
///
/// # Errors
/// As `kill(2)`.
pub fn suspend_group() -> io::Result<()> {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(0), Signal::SIGTSTP)?;
    // Any of our threads may be the one that the signal finds.
    std::thread::sleep(std::time::Duration::from_millis(50));
    Ok(())
}

/// A process, by a descriptor: whatever becomes of its pid, signals go to it or to nobody.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has that pid now; since 5.3.
    ///
    /// # Errors
    /// `ESRCH`: there is none, or it is a thread of one.
    pub fn open(pid: u32) -> Result<Self, Errno> {
        // SAFETY: numbers only; the result is a new descriptor that nobody else knows.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        let descriptor = Errno::result(descriptor)?;
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }))
    }

    /// Sends it a signal; since 5.1.
    ///
    /// # Errors
    /// `ESRCH`: it has ended. `EPERM`: it is not ours to signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let info = std::ptr::null::<libc::siginfo_t>();
        let descriptor = self.0.as_raw_fd();
        // SAFETY: without an info the call takes numbers only.
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal as i32, info, 0) };
        Errno::result(result).map(drop)
    }
}

/// Starts a command that gets these descriptors beside its standard ones, and their numbers as its last arguments.
///
/// # Errors
/// If there is no such program, or it cannot be run.
pub fn spawn_with(mut command: Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    command.args(numbers.iter().map(RawFd::to_string));
    let keep = move || {
        // SAFETY: numbers only; of this process, which is about to become another program.
        let keep = |number: &RawFd| Errno::result(unsafe { libc::fcntl(*number, libc::F_SETFD, 0) });
        numbers.iter().try_for_each(|number| keep(number).map(drop)).map_err(io::Error::from)
    };
    // SAFETY: the closure runs between fork and exec and makes async-signal-safe system calls only. It allocates nothing.
    unsafe { command.pre_exec(keep) };
    command.spawn()
}

/// The descriptor of that number, which this process was started with.
///
/// # Errors
/// If there is none, or it is a standard one.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: whether it is open is what is asked.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: open, as was just seen, and given to this process by who started it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Leaves our creator's session, and ignores the signals by which people and service managers end programs.
///
/// # Errors
/// As `sigaction(2)`.
pub fn stand_alone() -> io::Result<()> {
    // Refused to a leader, who has a session already.
    let _ = nix::unistd::setsid();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        // SAFETY: no handler of ours is set or replaced.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn)? };
    }
    Ok(())
}

/// Inode of the initial pid namespace: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h` (5.10 to 6.18).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The tids of this kernel are below this (`/proc/sys/kernel/pid_max`); where that cannot be read, what they can be at most (`PID_MAX_LIMIT`,
/// `include/linux/threads.h`, 6.18).
#[must_use]
pub fn pid_max() -> u32 {
    let read = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    read.and_then(|text| text.trim().parse().ok()).unwrap_or(4 << 20)
}

/// Whether pids mean the same to us as to the kernel programs, which see the initial namespace's.
#[must_use]
pub fn in_initial_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// Host name and kernel release.
///
/// # Errors
/// As `uname(2)`.
pub fn uname() -> io::Result<(String, String)> {
    let name = nix::sys::utsname::uname()?;
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    Ok((text(name.nodename()), text(name.release())))
}

/// The time as RFC 3339, UTC, to the second.
#[must_use]
pub fn now_rfc3339() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{idset::NodeSet, memory::Mode};

    #[test]
    fn sets_and_reads_back_its_own_mask() {
        let tid = nix::unistd::gettid().as_raw() as u32;
        let before = Host.affinity(tid).unwrap();
        let one: CpuSet = before.first().into_iter().collect();
        Host.set_affinity(tid, &one).unwrap();
        assert_eq!(Host.affinity(tid).unwrap(), one);
        Host.set_affinity(tid, &before).unwrap();
        assert_eq!(Host.affinity(tid).unwrap(), before);
    }

    #[test]
    fn a_real_time_thread_becomes_an_ordinary_one() {
        std::thread::spawn(|| {
            let tid = nix::unistd::gettid().as_raw() as u32;
            if let EventPriority::Fifo = prioritise_event_thread() {
                assert_eq!(Host.real_time(tid), Some("SCHED_FIFO"));
            }
            leave_real_time().unwrap();
            assert_eq!(Host.real_time(tid), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn names_the_call_the_task_and_the_error() {
        let error = Host.affinity(u32::MAX >> 1).unwrap_err();
        assert_eq!((error.call, error.errno), ("sched_getaffinity", Errno::ESRCH));
        let nowhere: CpuSet = [8191].into_iter().collect();
        let error = Host.set_affinity(0, &nowhere).unwrap_err();
        assert_eq!((error.call, error.errno), ("sched_setaffinity", Errno::EINVAL));
    }

    #[test]
    fn a_gated_command_runs_when_it_is_let() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$"]).stdout(std::process::Stdio::piped());
        let gated = Gated::start(command).unwrap();
        let pid = gated.pid;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_ne!(name, "sh\n");
        let output = gated.open().unwrap().wait_with_output().unwrap();
        assert_eq!(output.stdout, format!("{pid}\n").into_bytes());
    }

    #[test]
    fn a_gated_command_that_cannot_run_says_why_and_one_that_is_dropped_does_not_run() {
        let error = Gated::start(Command::new("/nonexistent/program")).unwrap().open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("touch");
        command.arg(dir.path().join("ran"));
        let Gated { gate, starter, .. } = Gated::start(command).unwrap();
        drop(gate);
        assert!(starter.join().unwrap().is_err());
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn a_peer_is_who_it_is() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer(&near).unwrap();
        assert_eq!((peer.pid, peer.uid), (std::process::id(), nix::unistd::geteuid().as_raw()));
        let ours = nix::unistd::getgroups().unwrap().into_iter().chain([nix::unistd::getegid()]);
        let ours: std::collections::BTreeSet<u32> = ours.map(|group| group.as_raw()).collect();
        assert_eq!(peer.groups.into_iter().collect::<std::collections::BTreeSet<u32>>(), ours);
    }

    #[test]
    fn sets_and_reads_back_its_own_memory_policy() {
        // On a thread of its own: the policy ends with it.
        let done = std::thread::spawn(|| {
            let before = match Host.memory_policy() {
                Err(Errno::ENOSYS | Errno::EPERM) => return None,
                before => before.unwrap(),
            };
            assert_eq!(before, Some(Policy::default()));
            let maps = std::fs::read_to_string("/proc/thread-self/numa_maps").unwrap();
            let node = maps.split_whitespace().find_map(|word| word.strip_prefix('N')?.split_once('='));
            let node: NodeSet = node.unwrap().0.parse().unwrap();
            let policy = Policy::new(Mode::Interleave, node);
            Host.set_memory_policy(&policy).unwrap();
            assert_eq!(Host.memory_policy(), Ok(Some(policy.clone())));
            let maps = std::fs::read_to_string("/proc/thread-self/numa_maps").unwrap();
            assert!(
                maps.lines().all(
                    |line| line.contains(&format!(" {policy} ")) || line.ends_with(&format!(" {policy}"))
                ),
                "{maps}"
            );
            Host.set_memory_policy(&Policy::new(Mode::Local, NodeSet::new())).unwrap();
            assert_eq!(Host.memory_policy().unwrap().unwrap().mode, Mode::Local);
            let beyond = Policy::new(Mode::Bind, [1024].into_iter().collect());
            assert_eq!(Host.set_memory_policy(&beyond), Err(Errno::EINVAL));
            let nowhere = Policy::new(Mode::Bind, [1023].into_iter().collect());
            assert_eq!(Host.set_memory_policy(&nowhere), Err(Errno::EINVAL), "all bits are looked at");
            Some(())
        });
        if done.join().unwrap().is_none() {
            eprintln!("SKIP: sets_and_reads_back_its_own_memory_policy: no memory policies here");
        }
    }

    #[test]
    fn start_times_are_those_of_proc() {
        let me = std::process::id();
        let theirs = procfs::process::Process::myself().unwrap().stat().unwrap().starttime;
        assert_eq!(Host.start_time(me), Some(theirs));
        assert_eq!(Host.start_time(u32::MAX >> 1), None);
    }
}
