//! Holding a task at exec: what the kernel side is told, and what it says of the tasks that it has stopped.

/// A heartbeat that is older is none: nobody would answer.
pub const FRESH_NS: u64 = 200_000_000;

/// What user space says: value of the map `hold`, at index 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// When the agent was last alive, in `CLOCK_MONOTONIC` nanoseconds; 0: nothing is to be held.
    pub heartbeat_ns: u64,
    /// Not zero: hold what a shell with job control may follow too: processes with a controlling terminal, and jobs.
    pub terminals: u64,
}

/// A task that the kernel side has stopped, and that nobody has let go on yet: value of the map `held`, whose key is the tid.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// When the task started, in `CLOCK_BOOTTIME` nanoseconds.
    pub start_boottime_ns: u64,
    /// The exec record's time, in `CLOCK_MONOTONIC` nanoseconds: tells this exec of the task from its next.
    pub at_ns: u64,
}

/// A task has been stopped: record of the ring buffer `holds`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hold {
    /// As in the map.
    pub held: Held,
    /// The task, leader of its process.
    pub tid: u32,
    /// Zero.
    pub reserved: u32,
}

/// A [`Control`] as the words that user space writes.
pub type ControlWords = [u64; size_of::<Control>() / 8];
/// A [`Held`] as the words that user space reads.
pub type HeldWords = [u64; size_of::<Held>() / 8];

impl Control {
    /// As words, laid out as the struct is.
    #[must_use]
    pub const fn to_words(self) -> ControlWords {
        [self.heartbeat_ns, self.terminals]
    }
}

impl Held {
    /// From words.
    #[must_use]
    pub const fn from_words(words: HeldWords) -> Self {
        let [start_boottime_ns, at_ns] = words;
        Self { start_boottime_ns, at_ns }
    }
}

const _: () = assert!(size_of::<Control>() == 16 && size_of::<Held>() == 16 && size_of::<Hold>() == 24);
