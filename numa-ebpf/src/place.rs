//! Where a CPU is, and where tasks belong: what user space tells the kernel side of the machine and the plan.

use crate::account::Occupant;

/// CPUs told apart in a [`PlanSet`]: those from this number on are in no plan.
pub const CPUS: usize = 2048;
/// Nodes told apart in a [`PlanSet`].
pub const NODES: usize = 64;
/// [`Place::node`] of a CPU of which nothing is known.
pub const UNKNOWN: u32 = u32::MAX;
/// Plan set of tasks without one.
pub const NO_PLAN: u32 = 0;
/// Names kept in [`CpuState::intruders`].
pub const INTRUDERS: usize = 16;

/// A CPU's place in the machine: value of the map `places`, whose index is the CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Dense index of its node: nodes with CPUs, by ascending id. [`UNKNOWN`]: no such CPU.
    pub node: u32,
    /// Its row in [`crate::account::Account::moves`]: that of its node where there are no more nodes than rows, else that
    /// of its socket.
    pub row: u32,
    /// Number of its socket, node, cluster and core, of any numbering: equal or not is all that counts.
    pub socket: u32,
    /// See `socket`; the core's where there are no clusters.
    pub cluster: u32,
    /// See `socket`.
    pub core: u32,
    /// Not zero: critical threads belong here, and tasks that are not marked are intruders.
    pub critical: u32,
}

/// Where tasks belong: value of the map `plan_sets`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanSet {
    /// Bit mask of CPUs.
    pub cpus: [u64; CPUS / 64],
    /// Bit mask of dense node indexes.
    pub nodes: u64,
}

/// What the kernel side keeps of a CPU: value of the map `cpus`, whose index is the CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuState {
    /// Since when a task that is not marked has this critical CPU, in `CLOCK_MONOTONIC` nanoseconds; 0: none has.
    pub intruded_since_ns: u64,
    /// When the hardware interrupt under way began; 0: there is none.
    pub irq_since_ns: u64,
    /// When the softirq under way began; 0: there is none.
    pub softirq_since_ns: u64,
    /// Hardware interrupts' share of it, in nanoseconds.
    pub irq_in_softirq_ns: u64,
    /// Tasks that are not marked, and ran here while the CPU was critical.
    pub intruders: [Occupant; INTRUDERS],
    /// Those that gave way to others, together.
    pub intruders_rest: Occupant,
}

/// Words of a [`Place`] that user space writes.
pub type PlaceWords = [u32; size_of::<Place>() / 4];
/// Words of a [`PlanSet`] that user space writes.
pub type PlanSetWords = [u64; size_of::<PlanSet>() / 8];
/// Words of a [`CpuState`] that user space reads.
pub type CpuWords = [u64; size_of::<CpuState>() / 8];

impl Place {
    /// Of a CPU that is not there.
    pub const NOWHERE: Self =
        Self { node: UNKNOWN, row: UNKNOWN, socket: UNKNOWN, cluster: UNKNOWN, core: UNKNOWN, critical: 0 };

    /// Which of the words is `critical`.
    pub const CRITICAL: usize = 5;

    /// As words.
    #[must_use]
    pub const fn to_words(self) -> PlaceWords {
        let Self { node, row, socket, cluster, core, critical } = self;
        [node, row, socket, cluster, core, critical]
    }
}

impl PlanSet {
    /// No CPU, no node.
    pub const EMPTY: Self = Self { cpus: [0; CPUS / 64], nodes: 0 };

    /// As words.
    #[must_use]
    pub fn to_words(self) -> PlanSetWords {
        let mut words = [self.nodes; size_of::<Self>() / 8];
        words[..self.cpus.len()].copy_from_slice(&self.cpus);
        words
    }

    /// Whether the CPU is in it.
    #[inline(always)]
    #[must_use]
    pub const fn has_cpu(&self, cpu: u32) -> bool {
        let word = cpu as usize / 64;
        word < self.cpus.len() && self.cpus[word] >> (cpu % 64) & 1 != 0
    }

    /// Whether all CPUs of a mask's word are in it, those from number `cpus` on aside: what a mask has there means nothing.
    #[inline(always)]
    #[must_use]
    pub const fn has_word(&self, word: u32, bits: u64, cpus: u32) -> bool {
        let meant = match cpus.saturating_sub(word * 64) {
            count @ 0..64 => (1 << count) - 1,
            _ => u64::MAX,
        };
        let index = word as usize;
        index < self.cpus.len() && bits & meant & !self.cpus[index] == 0
    }

    /// Whether the node is in it, by dense index.
    #[inline(always)]
    #[must_use]
    pub const fn has_node(&self, node: u32) -> bool {
        (node as usize) < NODES && self.nodes >> (node & 63) & 1 != 0
    }
}

impl CpuState {
    /// From words, laid out as the struct is.
    #[must_use]
    pub fn from_words(words: &CpuWords) -> &Self {
        // SAFETY: same size and alignment, no padding (asserted below); every bit pattern is valid.
        unsafe { &*core::ptr::from_ref(words).cast() }
    }
}

const _: () = {
    assert!(size_of::<Place>() == 24);
    assert!(size_of::<PlanSet>() == CPUS / 8 + 8);
    assert!(size_of::<CpuState>() == 32 + (INTRUDERS + 1) * 32 && align_of::<CpuState>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_set_knows_its_cpus_and_nodes() {
        let mut set = PlanSet::EMPTY;
        (set.cpus[1], set.nodes) = (1 << 3, 1 << 5);
        assert!(set.has_cpu(67) && !set.has_cpu(3) && !set.has_cpu(CPUS as u32 + 67));
        assert!(
            set.has_word(1, 1 << 3, 128) && !set.has_word(0, 1 << 3, 128) && !set.has_word(1, 3 << 3, 128)
        );
        assert!(
            set.has_word(1, u64::MAX << 3, 68) && !set.has_word(1, u64::MAX << 3, 69),
            "of CPUs there can be"
        );
        assert!(set.has_word(0, 0, 128) && !set.has_word((CPUS / 64) as u32, 0, 4096));
        assert!(set.has_node(5) && !set.has_node(0) && !set.has_node(69));
        let words = set.to_words();
        assert_eq!((words[1], words[CPUS / 64]), (1 << 3, 1 << 5));
    }
}
