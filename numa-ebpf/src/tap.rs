//! A tap: sends on the TCP connections of one process or one local port, as records of the ring buffer `tap_sends`.
//!
//! They have a ring of their own, which nobody is woken for: they come by the thousand, and nothing waits for them.

use crate::record::COMM_LEN;

/// Bits of [`Send::flags`].
pub mod flag {
    /// The process has received something on the connection since it last sent, or a record in between was lost.
    pub const FIRST: u32 = 1;
}

/// Indexes into the map `tap_lost`.
pub mod lost {
    /// Sends that the full ring refused.
    pub const RING_FULL: usize = 0;
    /// Sends that were not followed: the table of calls under way was full.
    pub const CALLS_FULL: usize = 1;
    /// Number of counters.
    pub const COUNT: usize = 2;
}

/// All counters of one CPU.
pub type Lost = [u64; lost::COUNT];

/// A send that succeeded, in part at least.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// When it was done, in `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The kernel's socket: equal for sends on one connection, and free for another when that is closed.
    pub socket: u64,
    /// Sending process.
    pub pid: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// How many bytes the kernel took.
    pub bytes: u32,
    /// Port on our side.
    pub local_port: u16,
    /// Port on the other side.
    pub remote_port: u16,
    /// Name of the process, NUL-terminated.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Send>() == 48);
