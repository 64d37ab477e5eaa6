//! The tap's programs, attached only when a tap is asked for, and its ring.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
};
use numa_ebpf::tap::Lost;

use super::{error::BpfError, load::Hook, offsets::Constant, take, unfit};
use crate::core::{
    decode::{self, DecodeError},
    health::ProgramResult,
    jitter::tap::{Send, Tap},
};

/// What is tapped, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapOptions {
    /// What.
    pub tap: Tap,
    /// By which programs.
    pub sends: Sends,
}

/// How sends are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// By their tracepoint; where the kernel has none (before 6.3), by system calls.
    Best,
    /// By system calls, also where the kernel has that tracepoint.
    BySyscalls,
    /// Both ways, each send twice: to find out what the kernel takes.
    Every,
}

/// Size of the ring in bytes: room for 74 000 sends, more than a second of 1000 streams at 50 tokens a second.
const RING_BYTES: u32 = 4 << 20;
/// Connections of which the kernel side knows that something was received.
const MAX_RECEIVED: u32 = 1 << 14;
/// Sends under way at once.
const MAX_CALLS: u32 = 1 << 12;

/// Where it attaches by type.
pub(super) const TRACEPOINTS: [&str; 2] = ["tcp_rcv_space_adjust", "sock_send_length"];

/// Exit comes before entry, so that no call is remembered for ever.
const SYSCALLS: [(&str, &str); 8] = [
    ("tap_write_exit", "sys_exit_write"),
    ("tap_write_enter", "sys_enter_write"),
    ("tap_writev_exit", "sys_exit_writev"),
    ("tap_writev_enter", "sys_enter_writev"),
    ("tap_sendto_exit", "sys_exit_sendto"),
    ("tap_sendto_enter", "sys_enter_sendto"),
    ("tap_sendmsg_exit", "sys_exit_sendmsg"),
    ("tap_sendmsg_enter", "sys_enter_sendmsg"),
];

/// Sizes of the tap's maps: as small as can be where nothing is tapped.
pub(super) fn map_sizes(tap: Option<&TapOptions>) -> [(&'static str, u32); 3] {
    let size = |asked: u32, least: u32| if tap.is_some() { asked } else { least };
    [
        ("tap_sends", size(RING_BYTES, 4096)),
        ("tap_received", size(MAX_RECEIVED, 1)),
        ("tap_calls", size(MAX_CALLS, 1)),
    ]
}

/// The programs' constants that say what is tapped.
pub(super) fn constants(options: &TapOptions) -> [Constant; 4] {
    let (pid, start, port) = match options.tap {
        Tap::Port(port) => (0, 0, u32::from(port)),
        // Half of it tells one owner of a pid from the next: the whole comes round after 497 days.
        Tap::Process(task) => (task.tid, task.start_time as u32, 0),
    };
    [("TAP_PID", pid), ("TAP_START", start), ("TAP_PORT", port), ("TAP_RING_BYTES", RING_BYTES)]
}

/// Attaches what tells receives and sends, by `attach`, unless the kernel's types are not known; what that is worth is for
/// [`Health::tap_verdict`](crate::core::health::Health::tap_verdict) to say.
pub(super) fn attach_all(
    options: &TapOptions,
    known: &Result<(), String>,
    mut attach: impl FnMut(&'static str, bool, &Hook) -> ProgramResult,
) -> Vec<ProgramResult> {
    let mut attach = |name, required, hook| match known {
        Ok(()) => attach(name, required, &hook),
        Err(why) => ProgramResult { name, required, result: Err(why.clone()), verified: None },
    };
    let mut programs = vec![attach("tap_receive", true, Hook::Btf(TRACEPOINTS[0]))];
    if options.sends != Sends::BySyscalls {
        programs.push(attach("tap_send", false, Hook::Btf(TRACEPOINTS[1])));
    }
    let direct = programs.iter().any(|program| program.name == "tap_send" && program.result.is_ok());
    if !direct || options.sends == Sends::Every {
        programs.extend(SYSCALLS.map(|(name, hook)| attach(name, false, Hook::Syscall(hook))));
    }
    programs
}

/// The ring of sends. To be read now and then: nobody is told of them before it is half full.
pub struct TapRing {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, Lost>,
}

impl TapRing {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            ring: RingBuf::try_from(take(ebpf, "tap_sends")?).map_err(unfit("tap_sends"))?,
            lost: PerCpuArray::try_from(take(ebpf, "tap_lost")?).map_err(unfit("tap_lost"))?,
        })
    }

    /// A descriptor that becomes readable when the ring is half full, for an event loop.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn fd(&self) -> Result<OwnedFd, BpfError> {
        self.ring.as_fd().try_clone_to_owned().map_err(BpfError::Ring)
    }

    /// The next send, if there is one.
    pub fn next_send(&mut self) -> Option<Result<Send, DecodeError>> {
        self.ring.next().map(|record| decode::decode_send(&record))
    }

    /// Sends that the kernel side could not tell of.
    #[must_use]
    pub fn lost(&self) -> u64 {
        match self.lost.get(&0, 0) {
            Ok(cpus) => cpus.iter().flatten().sum(),
            // Reading an array element that exists cannot fail; if it does, nothing is known to be lost.
            Err(error) => {
                tracing::error!("counters of the tap: {error}");
                0
            }
        }
    }
}
