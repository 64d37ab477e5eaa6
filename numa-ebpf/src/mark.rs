//! The mark of a task the plan cares about: value of the map `tasks`, whose key is the tid.

/// Whose events reach user space. Threads and children that a marked task creates are marked before they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// When the task started, in `CLOCK_BOOTTIME` nanoseconds; where user space set the mark, rounded down to the clock
    /// tick.
    pub start_boottime_ns: u64,
    /// Thread group; a word, as all of it.
    pub tgid: u64,
    /// Moves to another CPU since the mark was set.
    pub cpu_moves: u64,
    /// Of those, moves to a CPU of another node.
    pub node_moves: u64,
}

/// A mark as the words that user space reads and writes.
pub type Words = [u64; size_of::<Mark>() / 8];

impl Mark {
    /// Of a task that has not moved yet.
    #[must_use]
    pub const fn new(tgid: u32, start_boottime_ns: u64) -> Self {
        Self { start_boottime_ns, tgid: tgid as u64, cpu_moves: 0, node_moves: 0 }
    }

    /// As words, laid out as the struct is.
    #[must_use]
    pub const fn to_words(self) -> Words {
        [self.start_boottime_ns, self.tgid, self.cpu_moves, self.node_moves]
    }

    /// From such words.
    #[must_use]
    pub const fn from_words(words: Words) -> Self {
        let [start_boottime_ns, tgid, cpu_moves, node_moves] = words;
        Self { start_boottime_ns, tgid, cpu_moves, node_moves }
    }
}

const _: () = assert!(size_of::<Mark>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_struct() {
        let mark = Mark { start_boottime_ns: 1, tgid: 2, cpu_moves: 3, node_moves: 4 };
        // SAFETY: same size, no padding, every bit pattern is valid for words.
        let raw: Words = unsafe { core::mem::transmute(mark) };
        assert_eq!(mark.to_words(), raw);
        assert_eq!(Mark::from_words(raw), mark);
    }
}
