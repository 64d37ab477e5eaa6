//! Walking the automaton of [`numa_ebpf::filter`].

use numa_ebpf::{
    filter::{BANKS, MATCH, TRANSITIONS, Table},
    record::{ARGS_MAX, COMM_LEN, Exec, flag},
};

use crate::maps::{FILTER, FILTER_BANK};

/// Bytes that are read at once.
const WORD: usize = 8;
const _: () = assert!(core::mem::offset_of!(Exec, args) % WORD == 0 && ARGS_MAX.is_power_of_two());

struct Walk {
    table: &'static Table,
    state: u32,
}

impl Walk {
    /// Takes one byte; [`MATCH`] if a match is reached, else 0.
    #[inline(always)]
    fn step(&mut self, byte: u8) -> u32 {
        let class = u32::from(self.table.classes[byte as usize]);
        let index = self.state.wrapping_mul(self.table.class_count).wrapping_add(class);
        // The mask is for the verifier: user space never loads a table that leaves it.
        let next = self.table.transitions[index as usize & (TRANSITIONS - 1)];
        self.state = next & !MATCH;
        next & MATCH
    }

    /// Takes what was read of the arguments, and what is behind them up to the next word; whether a match is reached. By whole words, and
    /// to the end of one in which a match is reached: the verifier goes through each turn of a loop, and through each way out of it
    /// again, and the start of the agent waits for that.
    #[inline(always)]
    fn takes(&mut self, args: &[u8; ARGS_MAX], length: usize) -> bool {
        for index in 0..ARGS_MAX / WORD {
            if index * WORD >= length {
                break;
            }
            // Read back so that the bound is set here: the loop's own is not enough for 5.10's verifier.
            // SAFETY: a local.
            let at = unsafe { (&raw const index).read_volatile() } * WORD & (ARGS_MAX - WORD);
            // SAFETY: inside the arguments, which are aligned as the record is, to words.
            let mut word = u64::from_le(unsafe { args.as_ptr().add(at).cast::<u64>().read() });
            let mut matches = 0;
            for _ in 0..WORD {
                matches |= self.step(word as u8);
                word >>= 8;
            }
            if matches != 0 {
                return true;
            }
        }
        false
    }
}

/// Whether the record's "comm SPACE arguments" may match a rule. Arguments that were not read whole pass.
/// Nothing passes before user space has loaded a table: the scan it does after that finds what it missed.
#[inline(always)]
pub fn passes(record: &Exec) -> bool {
    let Some(bank) = FILTER_BANK.get(0) else { return false };
    let Some(table) = FILTER.get(*bank % BANKS) else { return false };
    if table.class_count == 0 {
        return false;
    }
    if table.pass_all != 0 || table.start & MATCH != 0 || record.header.flags & flag::TRUNCATED != 0 {
        return true;
    }
    let mut walk = Walk { table, state: table.start };
    for index in 0..COMM_LEN {
        let byte = record.comm[index];
        if byte == 0 {
            break;
        }
        if walk.step(byte) != 0 {
            return true;
        }
    }
    if walk.step(b' ') != 0 {
        return true;
    }
    walk.takes(&record.args, record.args_len as usize)
}
