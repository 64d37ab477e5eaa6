//! What a system call is on x86_64, and what the kernel keeps of one that was interrupted.
//!
//! All of it is in the registers: `orig_rax` has the number, `rax` why it was interrupted. The kernel looks at both after the stop, when no
//! signal is left to be delivered, and begins the call anew (`arch_do_signal_or_restart` of `arch/x86/kernel/signal.c`).

use crate::host::sys::{Registers, number};

/// `syscall`.
pub const CALL: [u8; 2] = [0x0f, 0x05];
/// Where instructions may begin.
pub const ALIGNMENT: usize = 1;

/// `orig_rax` of a thread that is in no system call.
const NO_CALL: u64 = u64::MAX;
const EINTR: u64 = 4_u64.wrapping_neg();
/// Begun anew, unless a signal's handler runs first: `EINTR` then (`include/linux/errno.h`).
const ERESTARTNOHAND: u64 = 514_u64.wrapping_neg();

/// Calls that wait, change nothing if they are interrupted, and fail with `EINTR` though no handler ran (signal(7)).
const WAITS: [i64; 7] = [
    number::EPOLL_WAIT,
    number::EPOLL_PWAIT,
    number::EPOLL_PWAIT2,
    number::IO_GETEVENTS,
    number::RT_SIGTIMEDWAIT,
    number::SEMOP,
    number::SEMTIMEDOP,
];

/// Nothing is needed here but registers.
#[derive(Debug)]
pub struct Waiting;

impl Waiting {
    pub fn of(_tid: u32) -> Self {
        Self
    }
}

/// The registers of a thread that is about to make a system call at `instruction`.
pub fn calling(own: &Registers, instruction: u64, number: u64, arguments: [u64; 6]) -> Registers {
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    Registers { rip: instruction, rax: number, orig_rax: NO_CALL, rdi, rsi, rdx, r10, r8, r9, ..*own }
}

/// What a system call returned.
pub fn result(registers: &Registers) -> u64 {
    registers.rax
}

/// The address of the next instruction.
pub fn place(registers: &Registers) -> u64 {
    registers.rip
}

/// The same, to be changed.
pub fn place_mut(registers: &mut Registers) -> &mut u64 {
    &mut registers.rip
}

/// Has a call begun anew that the interruption alone has ended.
pub fn restart(own: &mut Registers, _waiting: &Waiting, code: impl Fn(u64) -> [u8; 4]) {
    let waits = WAITS.contains(&own.orig_rax.cast_signed());
    // Not by `int 0x80`, which has other numbers.
    if waits && own.rax == EINTR && code(own.rip.wrapping_sub(2)).starts_with(&CALL) {
        own.rax = ERESTARTNOHAND;
    }
}

/// Whether the registers say all.
pub fn settled(_own: &Registers, _code: impl Fn(u64) -> [u8; 4]) -> bool {
    true
}
