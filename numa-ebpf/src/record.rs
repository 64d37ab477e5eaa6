//! Records of the ring buffer: what happened to a task. One struct per [`kind`], each beginning with a [`Header`].

use crate::brief::Brief;

/// `TASK_COMM_LEN` (`include/linux/sched.h`), 16 since long before 5.10: 15 bytes and a NUL.
pub const COMM_LEN: usize = 16;
/// How many bytes of the argument area an exec record holds at most.
pub const ARGS_MAX: usize = 1024;

/// Values of [`Header::kind`].
pub mod kind {
    /// [`super::Fork`].
    pub const FORK: u32 = 1;
    /// [`super::Exec`].
    pub const EXEC: u32 = 2;
    /// [`super::Rename`].
    pub const RENAME: u32 = 3;
    /// [`super::Exit`].
    pub const EXIT: u32 = 4;
    /// [`super::SetAffinity`].
    pub const SET_AFFINITY: u32 = 5;
    /// [`super::Migrate`].
    pub const MIGRATE: u32 = 6;
    /// [`super::UseDevice`].
    pub const USE_DEVICE: u32 = 7;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// Exec: there are more arguments than the record holds, or they could not be read.
    pub const TRUNCATED: u32 = 1;
    /// Exec: the task has been stopped before its first instruction, until it is released.
    pub const HELD: u32 = 2;
    /// Exit: the record is a [`super::BriefExit`], and the slot has been given back.
    pub const BRIEF: u32 = 4;
}

/// What every record begins with. `pid` and `tid` are those of the initial pid namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Thread group of the task it happened to.
    pub pid: u32,
    /// The task it happened to.
    pub tid: u32,
    /// When that task started, in `CLOCK_BOOTTIME` nanoseconds.
    pub start_boottime_ns: u64,
}

/// A marked task created the task.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// About the new task.
    pub header: Header,
    /// Creator's thread group.
    pub parent_pid: u32,
    /// Creator.
    pub parent_tid: u32,
    /// Slot of its account; [`crate::account::NO_SLOT`] without one.
    pub slot: u32,
    /// Its plan set: its creator's, if it may run only there, else [`crate::place::NO_PLAN`].
    pub plan: u32,
    /// New task's name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

/// The task replaced its program. In the ring buffer it ends after `args_len` bytes of `args`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exec {
    /// About the task, which is its group's leader from now on.
    pub header: Header,
    /// Parent's thread group.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
    /// How many bytes of `args` are there.
    pub args_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Arguments as they stand in memory, each NUL-terminated.
    pub args: [u8; ARGS_MAX],
}

/// The task is about to be renamed.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rename {
    /// About the task.
    pub header: Header,
    /// New name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

/// The task ended.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// About the task.
    pub header: Header,
    /// Slot of its account, which waits to be read and given back; [`crate::account::NO_SLOT`]: it has none, or it goes on
    /// as the account of the leader whose tid the task took over.
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// The task ended, and this is what its account says: [`flag::BRIEF`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BriefExit {
    /// At the time when the account was closed.
    pub exit: Exit,
    /// The account, which need not be read.
    pub brief: Brief,
}

/// `sched_setaffinity` on the task succeeded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAffinity {
    /// About the task whose mask was set.
    pub header: Header,
    /// Caller's thread group.
    pub caller_pid: u32,
    /// Caller.
    pub caller_tid: u32,
    /// Caller's name, NUL-terminated.
    pub caller_comm: [u8; COMM_LEN],
}

/// The scheduler moves the task to a CPU of another node.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrate {
    /// About the task.
    pub header: Header,
    /// CPU it was on.
    pub from_cpu: u32,
    /// CPU it goes to.
    pub to_cpu: u32,
}

/// The task has used a device file that was asked about: `ioctl`. Told once of each task and program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseDevice {
    /// About the task.
    pub header: Header,
    /// The device's number, as [`device_number`] makes it.
    pub device: u32,
    /// Zero.
    pub reserved: u32,
    /// The task's name, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

/// A device's number as the kernel keeps it (`MKDEV`, `include/linux/kdev_t.h`).
#[must_use]
pub const fn device_number(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

/// Size of an exec record without arguments.
pub const EXEC_FIXED: usize = core::mem::offset_of!(Exec, args);

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Fork>() == 64);
    assert!(EXEC_FIXED == 64 && size_of::<Exec>() == EXEC_FIXED + ARGS_MAX);
    assert!(size_of::<Rename>() == 48);
    assert!(size_of::<Exit>() == 40);
    assert!(size_of::<BriefExit>() == size_of::<Exit>() + size_of::<Brief>());
    assert!(size_of::<SetAffinity>() == 56);
    assert!(size_of::<Migrate>() == 40);
    assert!(size_of::<UseDevice>() == 56);
};
