//! The mark of a task the plan cares about: value of the map `tasks`, whose key is the tid.

use crate::account::NO_SLOT;

/// Nanoseconds in a clock tick of `USER_HZ`, 100 on every architecture we run on: `/proc` rounds start times down to it.
pub const TICK_NS: u64 = 10_000_000;

/// Whose events reach user space. Threads and children that a marked task creates are marked before they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// When the task started, in `CLOCK_BOOTTIME` nanoseconds; where user space set the mark, rounded down to the clock
    /// tick.
    pub start_boottime_ns: u64,
    /// Thread group; a word, as all of it.
    pub tgid: u64,
    /// Its account's slot; [`NO_SLOT`] where there was none free.
    pub slot: u64,
}

/// A mark as the words that user space reads and writes.
pub type Words = [u64; size_of::<Mark>() / 8];

impl Mark {
    /// Of a task with that account.
    #[must_use]
    pub const fn new(tgid: u32, start_boottime_ns: u64, slot: u32) -> Self {
        Self { start_boottime_ns, tgid: tgid as u64, slot: slot as u64 }
    }

    /// As words, laid out as the struct is.
    #[must_use]
    pub const fn to_words(self) -> Words {
        [self.start_boottime_ns, self.tgid, self.slot]
    }

    /// From such words.
    #[must_use]
    pub const fn from_words(words: Words) -> Self {
        let [start_boottime_ns, tgid, slot] = words;
        Self { start_boottime_ns, tgid, slot }
    }

    /// The slot of its account, if it has one.
    #[must_use]
    pub fn account(&self) -> Option<u32> {
        (self.slot != NO_SLOT as u64).then_some(self.slot as u32)
    }
}

const _: () = assert!(size_of::<Mark>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_struct() {
        let mark = Mark { start_boottime_ns: 1, tgid: 2, slot: 3 };
        // SAFETY: same size, no padding, every bit pattern is valid for words.
        let raw: Words = unsafe { core::mem::transmute(mark) };
        assert_eq!(mark.to_words(), raw);
        assert_eq!(Mark::from_words(raw), mark);
        assert_eq!((mark.account(), Mark::new(2, 1, NO_SLOT).account()), (Some(3), None));
    }
}
