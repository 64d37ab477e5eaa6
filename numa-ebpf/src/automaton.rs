//! Walking the automaton of [`numa_ebpf::filter`].

use numa_ebpf::{
    filter::{BANKS, MATCH, TRANSITIONS, Table},
    record::{ARGS_MAX, COMM_LEN, Exec, flag},
};

use crate::maps::{FILTER, FILTER_BANK};

struct Walk {
    table: &'static Table,
    state: u32,
}

impl Walk {
    /// Takes one byte; whether a match is reached.
    #[inline(always)]
    fn step(&mut self, byte: u8) -> bool {
        let class = u32::from(self.table.classes[byte as usize]);
        let index = self.state.wrapping_mul(self.table.class_count).wrapping_add(class);
        // The mask is for the verifier: user space never loads a table that leaves it.
        let next = self.table.transitions[index as usize & (TRANSITIONS - 1)];
        self.state = next & !MATCH;
        next & MATCH != 0
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
        if walk.step(byte) {
            return true;
        }
    }
    if walk.step(b' ') {
        return true;
    }
    let length = record.args_len as usize;
    for index in 0..ARGS_MAX {
        if index >= length {
            break;
        }
        // Read back so that the bound is checked here: the loop's own is not enough for 5.10's verifier.
        // SAFETY: a local.
        let index = unsafe { (&raw const index).read_volatile() };
        if index >= ARGS_MAX {
            break;
        }
        if walk.step(record.args[index]) {
            return true;
        }
    }
    false
}
