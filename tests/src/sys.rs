//! The system calls that neither std nor nix has, and nothing else: the only place with `unsafe` in this crate.
//!
//! Written anew instead of borrowed from the agent on purpose: a witness that shares code with the accused proves little.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use nix::unistd::Pid;
use numa_agent::core::idset::{CpuSet, NodeSet};

/// Words of the largest CPU mask: 8192 CPUs, the largest `NR_CPUS` (x86_64 `MAXSMP`, 6.18 `arch/x86/Kconfig`).
const MASK_WORDS: usize = 8192 / 64;

/// The CPUs that task `tid` may run on; 0 is the caller.
///
/// # Errors
/// As `sched_getaffinity(2)`.
pub fn affinity(tid: u32) -> io::Result<CpuSet> {
    let mut words = vec![0u64; MASK_WORDS];
    // SAFETY: the buffer is as long as said, writable and alive for the call.
    let written = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, tid, size_of_val(words.as_slice()), words.as_mut_ptr())
    };
    let bytes = usize::try_from(written).map_err(|_| io::Error::last_os_error())?;
    words.truncate(bytes.div_ceil(8));
    Ok(CpuSet::from_words(&words))
}

/// Makes task `tid` (0: the caller) run on `cpus` only.
///
/// # Errors
/// As `sched_setaffinity(2)`.
pub fn set_affinity(tid: u32, cpus: &CpuSet) -> io::Result<()> {
    let words = cpus.words();
    // SAFETY: the buffer is as long as said, readable and alive for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, size_of_val(words), words.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Words of the largest node mask: 1024 nodes, the largest `NODES_SHIFT` (6.18 `arch/x86/Kconfig`).
const NODE_WORDS: usize = 1024 / 64;

/// Makes the caller's new pages come from `nodes` in turn.
///
/// # Errors
/// As `set_mempolicy(2)`.
pub fn interleave(nodes: &NodeSet) -> io::Result<()> {
    let mut words = nodes.words().to_vec();
    words.resize(NODE_WORDS, 0);
    // SAFETY: the buffer has as many bits as said, readable and alive for the call. The kernel looks at one bit less than said.
    let result = unsafe {
        libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_INTERLEAVE, words.as_ptr(), NODE_WORDS * 64 + 1)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The caller's memory policy: its mode's number (`MPOL_*`), and its nodes.
///
/// # Errors
/// As `get_mempolicy(2)`.
pub fn memory_policy() -> io::Result<(i32, NodeSet)> {
    let (mut mode, mut words) = (-1, vec![0u64; NODE_WORDS]);
    // SAFETY: the buffer has as many bits as said; it and the number are writable and alive for the call.
    let result = unsafe {
        let (mode, words) = (&raw mut mode, words.as_mut_ptr());
        libc::syscall(libc::SYS_get_mempolicy, mode, words, NODE_WORDS * 64 + 1, 0usize, 0usize)
    };
    if result == 0 { Ok((mode, NodeSet::from_words(&words))) } else { Err(io::Error::last_os_error()) }
}

/// For each page of `memory` that begins in it, the node where it is; negative: an errno, as of a page that was never touched.
///
/// # Errors
/// As `move_pages(2)`.
pub fn nodes_of_pages(memory: &[u8]) -> io::Result<Vec<i32>> {
    let first = memory.as_ptr().align_offset(page_bytes());
    let pages: Vec<*const u8> =
        memory.iter().skip(first).step_by(page_bytes()).map(std::ptr::from_ref).collect();
    let mut nodes = vec![0i32; pages.len()];
    // SAFETY: both arrays are as long as said and alive for the call; without target nodes nothing moves.
    let result = unsafe {
        let (pages, none) = (pages.as_ptr(), std::ptr::null::<i32>());
        libc::syscall(libc::SYS_move_pages, 0, nodes.len(), pages, none, nodes.as_mut_ptr(), 0)
    };
    if result == 0 { Ok(nodes) } else { Err(io::Error::last_os_error()) }
}

/// Makes the calling thread go before every ordinary one, for as long as it likes (`SCHED_FIFO`).
///
/// # Errors
/// As `sched_setscheduler(2)`.
pub fn go_first() -> io::Result<()> {
    // SAFETY: numbers, for which zero is a value, as musl has more of them than one.
    let mut priority: libc::sched_param = unsafe { std::mem::zeroed() };
    priority.sched_priority = 1;
    // SAFETY: the priority lives for the call.
    done(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) }).map(drop)
}

/// How a thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As all are (`SCHED_OTHER`).
    Ordinary,
    /// `SCHED_FIFO`, priority 1.
    Fifo,
    /// `SCHED_DEADLINE`: 5 ms of each 100. The kernel admits none whose mask leaves out a CPU.
    Deadline,
}

/// Has thread `tid` scheduled so from now on.
///
/// # Errors
/// As `sched_setattr(2)`.
pub fn schedule(tid: u32, class: Class) -> io::Result<()> {
    /// `struct sched_attr` as it was at first (`include/uapi/linux/sched/types.h`).
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let (policy, priority, times) = match class {
        Class::Ordinary => (libc::SCHED_OTHER, 0, [0; 3]),
        Class::Fifo => (libc::SCHED_FIFO, 1, [0; 3]),
        Class::Deadline => (libc::SCHED_DEADLINE, 0, [5_000_000, 100_000_000, 100_000_000]),
    };
    let [runtime_ns, deadline_ns, period_ns] = times;
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: policy.cast_unsigned(),
        flags: 0,
        nice: 0,
        priority,
        runtime_ns,
        deadline_ns,
        period_ns,
    };
    // SAFETY: the attributes live for the call, and say how long they are.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel move all memory of a process from `from` to `to`, in one call; pages that it left behind.
///
/// # Errors
/// As `migrate_pages(2)`.
pub fn migrate_pages(pid: u32, from: &NodeSet, to: &NodeSet) -> io::Result<u64> {
    let words = [from, to].map(|nodes| {
        let mut words = nodes.words().to_vec();
        words.resize(NODE_WORDS, 0);
        words
    });
    // SAFETY: both buffers have as many bits as said, readable and alive for the call. The kernel looks at one bit less than said.
    let left = unsafe {
        let [from, to] = words.each_ref().map(|words| words.as_ptr());
        libc::syscall(libc::SYS_migrate_pages, pid, NODE_WORDS * 64 + 1, from, to)
    };
    u64::try_from(left).map_err(|_| io::Error::last_os_error())
}

/// So many huge pages of the pool, for as long as the process runs; they have 2 MiB each.
///
/// # Errors
/// As `mmap(2)`.
pub fn take_huge_pages(pages: u32) -> io::Result<&'static mut [u64]> {
    let (protection, bytes) = (libc::PROT_READ | libc::PROT_WRITE, pages as usize * (2 << 20));
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    // SAFETY: as many bytes as are mapped, zeros; nobody else has them, and nobody unmaps them.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts_mut(memory.cast(), bytes / size_of::<u64>()))
    }
}

/// Maps a page of memory, and unmaps it.
///
/// # Errors
/// As `mmap(2)`.
pub fn map_and_unmap() -> io::Result<()> {
    let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: nobody has the page but we, who do not touch it.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), page_bytes(), protection, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        done(libc::munmap(page, page_bytes())).map(drop)
    }
}

/// Bytes of a page.
///
/// # Panics
/// Never: the C library knows it from the start.
#[must_use]
pub fn page_bytes() -> usize {
    // SAFETY: no memory.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("_SC_PAGESIZE")
}

/// The CPU the caller runs on.
///
/// # Panics
/// If the kernel has no `getcpu`, which every kernel we run on has.
#[must_use]
pub fn cpu() -> u32 {
    // SAFETY: no arguments, no memory.
    u32::try_from(unsafe { libc::sched_getcpu() }).expect("sched_getcpu")
}

/// The caller's thread name. Not by nix 0.30, whose `get_name` hands the kernel an immutable buffer and in optimized
/// builds returns nothing.
///
/// # Panics
/// If the kernel does not tell, which it always does.
#[must_use]
pub fn thread_name() -> String {
    let mut buffer = [0u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of them zero (`TASK_COMM_LEN`).
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, buffer.as_mut_ptr()) };
    assert_eq!(result, 0, "PR_GET_NAME: {}", io::Error::last_os_error());
    let name = buffer.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// How a new process stands to its creator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// In the creator's session.
    Plain,
    /// Leader of a session of its own before it execs, as `setsid(1)` does it.
    Session,
    /// Forked twice with a new session in between, and so a child of init: a daemon of the old school.
    Daemon,
}

/// Makes `command` start as `birth` says, and die with the thread that starts it (a daemon has no such parent: it ends,
/// as all roles do, at the end of its standard input).
pub fn born(command: &mut Command, birth: Birth) {
    let creator = std::process::id();
    // SAFETY: the closure runs between fork and exec and makes async-signal-safe system calls only.
    unsafe {
        command.pre_exec(move || {
            match birth {
                Birth::Plain => {}
                Birth::Session => drop(nix::unistd::setsid()?),
                Birth::Daemon => {
                    nix::unistd::setsid()?;
                    // The intermediate leaves at once; its creator reaps it in place of the daemon.
                    if libc::fork() > 0 {
                        libc::_exit(0);
                    }
                    return Ok(());
                }
            }
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // A creator that died before the line above sends no signal any more.
            if nix::unistd::getppid().as_raw().cast_unsigned() != creator {
                libc::_exit(1);
            }
            Ok(())
        });
    }
}

/// Has `command` be traced by the thread that starts it, from its first instruction on, and stop where a thread of it makes
/// system call `number` with first argument `first`. Needs `CAP_SYS_ADMIN`.
pub fn traced(command: &mut Command, number: libc::c_long, first: u32) {
    // Of `struct seccomp_data`: the number, and the lower half of argument 0.
    const NUMBER: u32 = 0;
    const FIRST: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k: u32, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let filter = [
        statement(load, NUMBER),
        unless(number as u32, 3),
        statement(load, FIRST),
        unless(first, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRACE),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: the closure runs between fork and exec and makes async-signal-safe system calls only; the filter, which it
    // owns, is as long as said and alive for the call.
    unsafe {
        command.pre_exec(move || {
            nix::sys::ptrace::traceme()?;
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Has `command` run with a seccomp filter that allows everything. Needs `CAP_SYS_ADMIN`.
pub fn filtered(command: &mut Command) {
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let allow = libc::sock_filter { code, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    // SAFETY: the closure runs between fork and exec and makes one system call; the filter, which it owns, is as long as said and
    // alive for the call.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Has `command` be traced by the thread that starts it, and stop at its first instruction.
pub fn traced_from_exec(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe { command.pre_exec(|| Ok(nix::sys::ptrace::traceme()?)) };
}

/// `set_mempolicy(2)`.
pub const SET_MEMPOLICY: libc::c_long = libc::SYS_set_mempolicy;

/// Has the kernel kill `command` for system call `number`. Needs `CAP_SYS_ADMIN`.
pub fn killed_for(command: &mut Command, number: libc::c_long) {
    let filter = [
        libc::sock_filter {
            code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
            jt: 0,
            jf: 0,
            // The number, of `struct seccomp_data`.
            k: 0,
        },
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: number as u32,
        },
        libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_KILL_PROCESS,
        },
        libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        },
    ];
    // SAFETY: as in [`traced`].
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)).map(drop)
        });
    }
}

/// Where in a system call a traced task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyscallStop {
    /// Before it, by the filter of [`traced`].
    Filter {
        /// Its arguments.
        arguments: [u64; 6],
        /// The task's stack pointer.
        stack: u64,
    },
    /// After it.
    Exit {
        /// What it returned; an error is negative.
        result: i64,
    },
}

/// Asks about a task that is stopped so; since 5.3.
///
/// # Errors
/// As `ptrace(2)` with `PTRACE_GET_SYSCALL_INFO`, or if it is stopped elsewhere.
pub fn syscall_stop(task: Pid) -> io::Result<SyscallStop> {
    // Not by nix 0.30, which leaves the size out, and so gets nothing.
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    // SAFETY: the kernel writes no more than the size that it is given.
    let bytes = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, task.as_raw(), size_of_val(&info), info.as_mut_ptr())
    };
    if bytes < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it are numbers, which may be zero.
    let info = unsafe { info.assume_init() };
    match info.op {
        libc::PTRACE_SYSCALL_INFO_SECCOMP => {
            // SAFETY: `op` says that this member of the union is set.
            let arguments = unsafe { info.u.seccomp }.args;
            Ok(SyscallStop::Filter { arguments, stack: info.stack_pointer })
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: `op` says that this member of the union is set.
            let result = unsafe { info.u.exit }.sval;
            Ok(SyscallStop::Exit { result })
        }
        other => Err(io::Error::other(format!("thread {task} is at neither end of a call: {other}"))),
    }
}

/// Forks without exec, as Python's multiprocessing does; runs `child` in the child, which ends with it and dies with
/// its creator.
///
/// # Errors
/// As `fork(2)`.
pub fn fork(child: impl FnOnce()) -> io::Result<u32> {
    // SAFETY: the child runs on a copy of this thread only. It must not wait for a lock another thread held; `child` here
    // writes to its own file and reads its own pipe, and glibc repairs the allocator's locks at fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            child();
            // SAFETY: ends the process without running the parent's exit handlers twice.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid.cast_unsigned()),
    }
}

/// A socket on which the kernel tells of each fork, exec, rename and exit, a message each (`connector`, `CN_IDX_PROC`).
///
/// # Errors
/// As `socket(2)`; `EPERM` without `CAP_NET_ADMIN`, or outside of the host's namespaces.
pub fn process_events() -> io::Result<OwnedFd> {
    /// `struct nlmsghdr`, `struct cn_msg`, and `PROC_CN_MCAST_LISTEN` (`include/uapi/linux/cn_proc.h`).
    #[repr(C)]
    struct Listen {
        header: libc::nlmsghdr,
        id: [u32; 2],
        sequence: [u32; 2],
        length: u16,
        flags: u16,
        operation: u32,
    }
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the descriptor is the kernel's and given to nobody else.
    let socket =
        unsafe { OwnedFd::from_raw_fd(done(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR))?) };
    // SAFETY: structures of plain numbers, for which zero is a value.
    let (mut address, mut listen) = unsafe { std::mem::zeroed::<(libc::sockaddr_nl, Listen)>() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = libc::CN_IDX_PROC;
    listen.header.nlmsg_len = size_of::<Listen>() as u32;
    listen.header.nlmsg_type = libc::NLMSG_DONE as u16;
    listen.id = [libc::CN_IDX_PROC, libc::CN_VAL_PROC];
    listen.length = size_of_val(&listen.operation) as u16;
    listen.operation = 1;
    // SAFETY: both structures are as large as said, and alive for the calls.
    unsafe {
        let length = size_of_val(&address) as u32;
        done(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length))?;
        let sent = libc::send(socket.as_raw_fd(), (&raw const listen).cast(), size_of_val(&listen), 0);
        done(sent as i32)?;
    }
    Ok(socket)
}

/// Brings the loopback interface of our network namespace up.
///
/// # Errors
/// As `socket(2)` and `netdevice(7)`.
pub fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is the one that this command reads, and alive for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Head of `union bpf_attr` for `BPF_PROG_LOAD` (`include/uapi/linux/bpf.h`, 5.10); the kernel takes a shorter one than its own.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Loads a BPF program that does nothing but return, for the tracepoint whose BTF type is `btf_id`; as the agent's
/// programs, it takes the tracepoint's own arguments (`BPF_TRACE_RAW_TP`).
///
/// # Errors
/// As `bpf(2)`.
pub fn load_empty_program(name: &str, btf_id: u32) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_TRACING: u32 = 26;
    const BPF_TRACE_RAW_TP: u32 = 23;
    // `r0 = 0; exit`.
    const CODE: [u64; 2] = [0xb7, 0x95];
    let mut load = ProgramLoad {
        prog_type: BPF_PROG_TYPE_TRACING,
        insn_cnt: CODE.len() as u32,
        insns: CODE.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_RAW_TP,
        attach_btf_id: btf_id,
        ..ProgramLoad::default()
    };
    // The last byte stays zero.
    let length = name.len().min(load.prog_name.len() - 1);
    load.prog_name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // The attributes, the code and the license are as long as said and alive for the call.
    bpf(BPF_PROG_LOAD, &raw const load as u64, size_of::<ProgramLoad>())
}

/// Attaches such a program, until the returned link is closed.
///
/// # Errors
/// As `bpf(2)`.
pub fn attach_program(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
    // No name: the program knows its tracepoint.
    let open = [0, u64::from(program.as_raw_fd().cast_unsigned())];
    bpf(BPF_RAW_TRACEPOINT_OPEN, open.as_ptr() as u64, size_of_val(&open))
}

/// `bpf(2)` with a command that returns a descriptor and reads its attributes only; they lie at that address and live
/// for the call.
fn bpf(command: libc::c_int, attributes: u64, bytes: usize) -> io::Result<OwnedFd> {
    // SAFETY: as said above.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, bytes) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sleeps, and returns early if a signal's handler has run, unlike std's.
///
/// # Errors
/// As `nanosleep(2)`.
pub fn nanosleep(time: Duration) -> io::Result<()> {
    let time = timespec(time);
    // SAFETY: the time lives for the call; what is left is not asked for.
    done(unsafe { libc::nanosleep(&time, std::ptr::null_mut()) }).map(drop)
}

/// Waits while `word` is `value`, as `FUTEX_WAIT` does.
///
/// # Errors
/// As `futex(2)`: `ETIMEDOUT` after `time`, `EAGAIN` if it is another value already.
pub fn futex_wait(word: &AtomicU32, value: u32, time: Option<Duration>) -> io::Result<()> {
    let time = time.map(timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the time live for the call.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, time) };
    done(result as i32).map(drop)
}

/// Wakes who waits so.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is only an address here.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// How many descriptors of an epoll instance that has `readable` are ready within `time`.
///
/// # Errors
/// As `epoll_wait(2)`.
pub fn epoll_once(readable: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<usize> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    let time = time.map_or(-1, |time| time.as_millis() as i32);
    // SAFETY: the descriptors are open, the event lives for the calls and has room for the one that is asked for.
    let ready = unsafe {
        let epoll = OwnedFd::from_raw_fd(done(libc::epoll_create1(libc::EPOLL_CLOEXEC))?);
        done(libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, readable.as_raw_fd(), &mut event))?;
        done(libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, time))?
    };
    Ok(ready as usize)
}

/// Waits for a blocked signal for that long, in vain.
///
/// # Errors
/// As `sigtimedwait(2)`; `EAGAIN`: none came.
pub fn wait_for_signal(signal: i32, time: Duration) -> io::Result<i32> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    let time = timespec(time);
    // SAFETY: the set is filled in before it is read; both live for the calls.
    done(unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &time)
    })
}

/// Has the calling thread's signals blocked, all that can be.
pub fn block_signals() {
    nix::sys::signal::SigSet::all().thread_block().expect("a set of all signals");
}

/// Waits for `time` in an uninterruptible sleep: for a child that was created by `vfork`, but on a copy of the memory.
///
/// # Errors
/// As `clone(2)`.
pub fn sleep_uninterruptibly(time: Duration) -> io::Result<()> {
    let time = timespec(time);
    // SAFETY: the child runs on a copy of this thread, as after `fork`, and makes system calls only.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
    if done(pid as i32)? == 0 {
        // SAFETY: as above.
        unsafe {
            libc::nanosleep(&time, std::ptr::null_mut());
            libc::_exit(0)
        }
    }
    nix::sys::wait::waitpid(Pid::from_raw(pid as i32), None)?;
    Ok(())
}

/// The sum of the values that came with the signals of [`queue_signal`], and how many did.
static QUEUED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

extern "C" fn note_queued(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid one.
    let value = unsafe { (*info).si_value() }.sival_ptr.addr() as u64;
    QUEUED[0].fetch_add(value, Ordering::Relaxed);
    QUEUED[1].fetch_add(1, Ordering::Relaxed);
}

/// Has the real-time signal of [`queue_signal`] handled, and interrupted calls begun anew (`SA_RESTART`).
///
/// # Errors
/// As `sigaction(2)`.
pub fn count_queued_signals() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all of it are numbers, which may be zero; the handler adds to atomics only.
    done(unsafe {
        let action = action.as_mut_ptr();
        (*action).sa_sigaction = note_queued as *const () as usize;
        (*action).sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGRTMIN(), action, std::ptr::null_mut())
    })
    .map(drop)
}

/// Sends thread `tid` of this process a real-time signal with a value: none of them gets lost or is joined with another.
///
/// # Errors
/// As `rt_tgsigqueueinfo(2)`; `EAGAIN`: too many wait to be delivered.
pub fn queue_signal(tid: u32, value: u64) -> io::Result<()> {
    let mut info = [0u64; 16];
    // `si_signo`, `si_errno`; `si_code`; pid and uid; the value (`siginfo_t` of 64-bit kernels).
    info[0] = libc::SIGRTMIN() as u64;
    info[1] = u64::from(libc::SI_QUEUE.cast_unsigned());
    info[3] = value;
    // SAFETY: the information is as large as the kernel's, and lives for the call.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), tid, libc::SIGRTMIN(), info.as_ptr())
    };
    done(result as i32).map(drop)
}

/// The sum of the values that came with those signals, and how many did.
#[must_use]
pub fn queued_signals() -> (u64, u64) {
    (QUEUED[0].load(Ordering::Relaxed), QUEUED[1].load(Ordering::Relaxed))
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

fn done(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Spins in a restartable sequence (`rseq(2)`) until the kernel aborts it, as it does when the thread gets a signal or loses its CPU.
///
/// # Errors
/// As `rseq(2)`, where the C library has not registered the thread.
#[cfg(target_arch = "x86_64")]
pub fn spin_in_sequence() -> io::Result<()> {
    /// What the kernel wants to find before the place that an aborted sequence goes to.
    const SIGNATURE: u32 = 0x5305_3053;
    /// `struct rseq` of `include/uapi/linux/rseq.h`, as of 4.18.
    #[repr(C, align(32))]
    struct Area([u64; 4]);
    #[repr(C, align(32))]
    struct Sequence([u64; 4]);
    thread_local!(static OWN: std::cell::RefCell<Option<Box<Area>>> = const { std::cell::RefCell::new(None) });
    // SAFETY: looks a name up.
    let offset: *mut isize = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) }.cast();
    let area: *mut u64 = if offset.is_null() {
        OWN.with_borrow_mut(|own| {
            if own.is_none() {
                let area = own.insert(Box::new(Area([0; 4])));
                // SAFETY: the area is the thread's own, and lives as long as it does: the thread never ends.
                let result = unsafe { libc::syscall(libc::SYS_rseq, area.0.as_mut_ptr(), 32, 0, SIGNATURE) };
                done(result as i32)?;
            }
            Ok::<_, io::Error>(own.as_mut().map_or(std::ptr::null_mut(), |area| area.0.as_mut_ptr()))
        })?
    } else {
        let thread: usize;
        // SAFETY: the first word of what `fs` points to is its address; the C library's area is that far from it.
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly));
            std::ptr::with_exposed_provenance_mut(thread.wrapping_add_signed(*offset))
        }
    };
    let mut sequence = Sequence([0; 4]);
    // SAFETY: writes the sequence, and the area's second word, which is for that; the kernel clears it again as it aborts the
    // sequence, which ends after the spin.
    unsafe {
        std::arch::asm!(
            "lea {a}, [rip + 22f]",
            "mov [{sequence} + 8], {a}",
            "lea {b}, [rip + 23f]",
            "sub {b}, {a}",
            "mov [{sequence} + 16], {b}",
            "lea {a}, [rip + 24f]",
            "mov [{sequence} + 24], {a}",
            "mov [{area} + 8], {sequence}",
            "22:",
            "pause",
            "jmp 22b",
            "23:",
            ".long {signature}",
            "24:",
            a = out(reg) _,
            b = out(reg) _,
            sequence = in(reg) sequence.0.as_mut_ptr(),
            area = in(reg) area,
            signature = const SIGNATURE,
        );
    }
    Ok(())
}
