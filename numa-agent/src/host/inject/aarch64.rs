//! What a system call is on aarch64, and what the kernel keeps of one that was interrupted.
//!
//! At the stop the registers are those of a thread about to begin the call anew, but for one thing: whether the call is to go on by
//! `restart_syscall`, with what is left of its time, is in a variable of the kernel's (`do_signal` of `arch/arm64/kernel/signal.c`), and is
//! lost if the thread is sent elsewhere. It shows in `x8` at the call's beginning.

use crate::host::sys::{Registers, number};

/// `svc #0`.
pub const CALL: [u8; 4] = 0xd400_0001_u32.to_le_bytes();
/// Where instructions may begin.
pub const ALIGNMENT: usize = 4;

const EINTR: u64 = 4_u64.wrapping_neg();
/// What the last branch asks of the instruction that it leads to (`BTYPE`): our call is none that may be branched to.
const BRANCH_TYPE: u64 = 0b11 << 10;

/// Calls that wait, change nothing if they are interrupted, and fail with `EINTR` though no handler ran (signal(7)).
const WAITS: [i64; 6] = [
    number::EPOLL_PWAIT,
    number::EPOLL_PWAIT2,
    number::IO_GETEVENTS,
    number::RT_SIGTIMEDWAIT,
    number::SEMOP,
    number::SEMTIMEDOP,
];

/// The system call that a thread waits in: its first argument, which the result takes the place of, and what it is told by.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting(Option<Call>);

#[derive(Debug, PartialEq, Eq)]
struct Call {
    number: u64,
    first: u64,
    stack: u64,
    place: u64,
}

impl Waiting {
    pub fn of(tid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{tid}/task/{tid}/syscall"));
        Self(text.ok().and_then(|text| Call::parse(&text)))
    }
}

impl Call {
    /// Number, six arguments, stack pointer and place; `running` or less of one that does not wait.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let words: Vec<u64> = words.map_while(hex).collect();
        let [first, _, _, _, _, _, stack, place] = words.try_into().ok()?;
        Some(Self { number, first, stack, place })
    }
}

/// The registers of a thread that is about to make a system call at `instruction`.
pub fn calling(own: &Registers, instruction: u64, number: u64, arguments: [u64; 6]) -> Registers {
    let mut registers = *own;
    registers.pc = instruction;
    registers.regs[8] = number;
    registers.regs[..6].copy_from_slice(&arguments);
    registers.pstate &= !BRANCH_TYPE;
    registers
}

/// The registers before a call, of a thread that is at its beginning.
pub fn before_call(at: &Registers) -> Registers {
    Registers { pc: at.pc.wrapping_sub(CALL.len() as u64), ..*at }
}

/// What a system call returned.
pub fn result(registers: &Registers) -> u64 {
    registers.regs[0]
}

/// The address of the next instruction.
pub fn place(registers: &Registers) -> u64 {
    registers.pc
}

/// The same, to be changed.
pub fn place_mut(registers: &mut Registers) -> &mut u64 {
    &mut registers.pc
}

/// Has a call begun anew that the interruption alone has ended.
pub fn restart(own: &mut Registers, waiting: &Waiting, code: impl Fn(u64) -> [u8; 4]) {
    let Waiting(Some(call)) = waiting else { return };
    let same = (call.number, call.stack, call.place) == (own.regs[8], own.sp, own.pc);
    let before = own.pc.wrapping_sub(CALL.len() as u64);
    if same && own.regs[0] == EINTR && WAITS.contains(&call.number.cast_signed()) && code(before) == CALL {
        own.regs[0] = call.first;
        own.pc = before;
    }
}

/// Whether the registers say all: not where a call is about to begin.
pub fn settled(own: &Registers, code: impl Fn(u64) -> [u8; 4]) -> bool {
    code(own.pc) != CALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_call_is_known_by_its_line() {
        let line = "22 0x5 0xffff1 0x10 0x7d0 0x0 0x8 0xffffd000 0xaaaa0004\n";
        let expected = Call { number: 22, first: 5, stack: 0xffff_d000, place: 0xaaaa_0004 };
        assert_eq!(Call::parse(line), Some(expected));
        assert_eq!(Call::parse("running\n"), None);
        assert_eq!(Call::parse("-1 0xffffd000 0xaaaa0004\n"), None);
    }
}
