//! The mark of a task the plan cares about: value of the map `tasks`, whose key is the tid.

/// Whose events reach user space. Threads and children that a marked task creates are marked before they run.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// When the task started, in `CLOCK_BOOTTIME` nanoseconds; user space knows it to the clock tick only.
    pub start_boottime_ns: u64,
    /// Thread group.
    pub tgid: u32,
    /// Bits: [`CANDIDATE`].
    pub flags: u32,
    /// Moves to another CPU since the mark was set.
    pub cpu_moves: u64,
    /// Of those, moves to a CPU of another node.
    pub node_moves: u64,
}

/// The kernel's filter set the mark, or a candidate created the task; user space has not confirmed it.
pub const CANDIDATE: u32 = 1;

/// A mark as the words that user space reads and writes.
pub type Words = [u64; size_of::<Mark>() / 8];

impl Mark {
    /// As words in native byte order, laid out as the struct is.
    #[must_use]
    pub const fn to_words(self) -> Words {
        let pair = if cfg!(target_endian = "little") {
            self.tgid as u64 | (self.flags as u64) << 32
        } else {
            (self.tgid as u64) << 32 | self.flags as u64
        };
        [self.start_boottime_ns, pair, self.cpu_moves, self.node_moves]
    }

    /// From such words.
    #[must_use]
    pub const fn from_words(words: Words) -> Self {
        let [start_boottime_ns, pair, cpu_moves, node_moves] = words;
        let (low, high) = (pair as u32, (pair >> 32) as u32);
        let (tgid, flags) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        Self { start_boottime_ns, tgid, flags, cpu_moves, node_moves }
    }
}

const _: () = assert!(size_of::<Mark>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_struct() {
        let mark = Mark { start_boottime_ns: 1, tgid: 2, flags: 3, cpu_moves: 4, node_moves: 5 };
        // SAFETY: same size, no padding, every bit pattern is valid for words.
        let raw: Words = unsafe { core::mem::transmute(mark) };
        assert_eq!(mark.to_words(), raw);
        assert_eq!(Mark::from_words(raw), mark);
    }
}
