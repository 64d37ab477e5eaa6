//! Constants that the loader sets before the programs are loaded. The verifier knows their values and drops the
//! branches they rule out.

use aya_ebpf::Global;

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(0);
    )+ };
}

globals! {
    /// The agent's pid: its own doings are no events.
    SELF_TGID,
    /// Not zero: log by aya-log.
    DEBUG_LOG,
    /// CPUs that there can be (`nr_cpu_ids`): the first so many bits of a mask mean something.
    CPU_IDS,
    /// Offset of `task_struct.pid`.
    TASK_PID,
    /// Offset of `task_struct.tgid`.
    TASK_TGID,
    /// Offset of `task_struct.start_boottime` (`real_start_time` before 5.5).
    TASK_START,
    /// Offset of `task_struct.real_parent`.
    TASK_REAL_PARENT,
    /// Offset of `task_struct.comm`.
    TASK_COMM,
    /// Offset of `task_struct.mm`.
    TASK_MM,
    /// Offset of the CPU the task is on.
    TASK_CPU,
    /// Offset of `task_struct.cpus_mask`, an array of longs.
    TASK_CPUS_MASK,
    /// Offset of the byte that holds the bit `task_struct.in_execve`.
    TASK_IN_EXECVE,
    /// That bit's mask in the byte; 0 where the kernel has no such bit.
    TASK_IN_EXECVE_MASK,
    /// Offset of `task_struct.__state` (`state` before 5.14), of which the low 32 bits are all that is used.
    TASK_STATE,
    /// Offset of `mm_struct.arg_start`.
    MM_ARG_START,
    /// Offset of `mm_struct.arg_end`.
    MM_ARG_END,
    /// Not zero: tasks may be held at exec, and the offsets that it takes are known.
    HOLD,
    /// Offset of `task_struct.ptrace`.
    TASK_PTRACE,
    /// Offset of `task_struct.signal`.
    TASK_SIGNAL,
    /// Offset of `signal_struct.tty`.
    SIGNAL_TTY,
    /// Offset of `signal_struct.shared_pending.signal`, of which the first 64 bits are all that is used.
    SIGNAL_PENDING,
    /// Offset of `signal_struct.flags`.
    SIGNAL_FLAGS,
    /// Offset of `signal_struct.pids`, pointers to struct pid.
    SIGNAL_PIDS,
    /// Offset of `task_struct.thread_pid`; 0 if this or any of those below is not known.
    TASK_THREAD_PID,
    /// Offset of `pid.level`.
    PID_LEVEL,
    /// Offset of `pid.numbers`, of struct upid.
    PID_NUMBERS,
    /// Offset of `upid.nr`.
    UPID_NR,
    /// Offset of `upid.ns`.
    UPID_NS,
    /// Size of struct upid.
    UPID_SIZE,
    /// Offset of `pid_namespace.idr.idr_rt.xa_head`.
    NS_TREE,
    /// Offset of `xa_node.shift`.
    NODE_SHIFT,
    /// Offset of `xa_node.slots`.
    NODE_SLOTS,
    /// Tap: the process; 0 for any.
    TAP_PID,
    /// Tap: when the process started, in clock ticks, the low half of the number.
    TAP_START,
    /// Tap: the local port; 0 for any.
    TAP_PORT,
    /// Tap: size of the ring.
    TAP_RING_BYTES,
    /// Offset of `task_struct.group_leader`.
    TASK_GROUP_LEADER,
    /// Offset of `task_struct.files`.
    TASK_FILES,
    /// Offset of `files_struct.fdt`.
    FILES_FDT,
    /// Offset of `fdtable.max_fds`.
    FDTABLE_MAX_FDS,
    /// Offset of `fdtable.fd`.
    FDTABLE_FD,
    /// Offset of `file.f_inode`.
    FILE_INODE,
    /// Offset of `file.private_data`.
    FILE_PRIVATE,
    /// Offset of `inode.i_mode`.
    INODE_MODE,
    /// Offset of `inode.i_rdev`.
    INODE_RDEV,
    /// Offset of `socket.sk`.
    SOCKET_SK,
    /// Offset of `sock.sk_protocol`.
    SOCK_PROTOCOL,
    /// Offset of `sock.__sk_common.skc_family`.
    SOCK_FAMILY,
    /// Offset of `sock.__sk_common.skc_num`.
    SOCK_LOCAL_PORT,
    /// Offset of `sock.__sk_common.skc_dport`.
    SOCK_REMOTE_PORT,
}
