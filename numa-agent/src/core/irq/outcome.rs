//! What became of a change.

use std::fmt;

use crate::core::idset::CpuSet;

/// What became of an interrupt's or a queue's CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Dry run: would be set.
    Planned,
    /// Was as planned already.
    Unchanged,
    /// Set, read back, and in force.
    Set,
    /// Set and read back, but these CPUs still take it: the chip moves it when it comes next.
    Pending(CpuSet),
    /// The kernel does not let anybody set it.
    Refused(String),
    /// Could not be set.
    Failed(String),
}

impl Outcome {
    /// Whether it is where it should be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Unchanged | Self::Set | Self::Pending(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned => f.write_str("planned"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Set => f.write_str("set"),
            Self::Pending(cpus) => write!(f, "set; still on {cpus} until it comes next"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}
