//! The exec filter: a byte automaton in a map decides in the kernel whether "comm SPACE cmdline" may match a rule.
//!
//! It may pass too much, never too little. There are [`BANKS`] tables; the map `filter_bank` holds the index of the one
//! in force, so that a new table is written beside it and switched to at once.

/// Number of tables in the map `filter`.
pub const BANKS: u32 = 2;
/// Room for transitions, a power of two: states x classes must not exceed it.
pub const TRANSITIONS: usize = 1 << 16;
/// In a transition and in [`Table::start`]: a match is reached, whatever follows.
pub const MATCH: u32 = 1 << 31;

/// One automaton. State `s` goes with a byte of class `c` to `transitions[s * class_count + c]`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Not zero: everything passes.
    pub pass_all: u32,
    /// Number of classes. Zero, as before user space has loaded a table: nothing passes.
    pub class_count: u32,
    /// State before the first byte, perhaps with [`MATCH`].
    pub start: u32,
    /// Zero.
    pub reserved: u32,
    /// Class of each byte value.
    pub classes: [u8; 256],
    /// Next states, perhaps with [`MATCH`].
    pub transitions: [u32; TRANSITIONS],
}

/// Number of 32-bit words before [`Table::transitions`].
pub const HEAD_WORDS: usize = 4 + 256 / 4;
/// A table as the 32-bit words that user space writes.
pub const WORDS: usize = HEAD_WORDS + TRANSITIONS;

const _: () = {
    assert!(core::mem::offset_of!(Table, classes) == 16);
    assert!(core::mem::offset_of!(Table, transitions) == HEAD_WORDS * 4);
    assert!(size_of::<Table>() == WORDS * 4);
};
