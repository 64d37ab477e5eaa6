//! Where a stopped process stands: its state, its program counter, and where its program begins.
//!
//! Made for tests: what goes wrong is a panic that says what.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

/// `AT_BASE` and `AT_ENTRY` of `include/uapi/linux/auxvec.h`.
const BASE: u64 = 7;
const ENTRY: u64 = 9;
/// Offset of `e_entry` in a 64-bit ELF header (elf(5)).
const E_ENTRY: u64 = 24;

/// The state's letter in `/proc/PID/stat`; `None` once it has been waited for.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The address of the instruction that it would run next.
///
/// # Panics
/// If it is gone, or runs.
#[must_use]
pub fn program_counter(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).expect("a stopped process's registers");
    let last = text.split_whitespace().last().and_then(|word| word.strip_prefix("0x"));
    let address = last.and_then(|word| u64::from_str_radix(word, 16).ok());
    address.unwrap_or_else(|| panic!("{pid} runs: {text}"))
}

/// The address of its program's first instruction: the dynamic linker's, if it has one.
///
/// # Panics
/// If it is gone.
#[must_use]
pub fn elf_entry(pid: u32) -> u64 {
    let auxv = fs::read(format!("/proc/{pid}/auxv")).expect("what the kernel told the program");
    let words: Vec<u64> = auxv.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let value = |key: u64| words.as_chunks::<2>().0.iter().find(|pair| pair[0] == key).map(|pair| pair[1]);
    match value(BASE) {
        None | Some(0) => value(ENTRY).expect("AT_ENTRY"),
        Some(base) => {
            let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
            let mut entry = [0; 8];
            memory.read_exact_at(&mut entry, base + E_ENTRY).expect("the linker's ELF header");
            base + u64::from_ne_bytes(entry)
        }
    }
}
