//! Runs from before and after that prove nothing, or that prove that nothing became better.

use super::Finding;
use crate::core::jitter::compare::Name;

/// A run of another host.
#[must_use]
pub fn elsewhere(found: String) -> Finding {
    Finding::new(
        "runs",
        found,
        "numa-agent jitter record --config FILE -o RUN.json # both here and now; or check on the host that they are of",
    )
}

/// Runs that cannot be compared.
#[must_use]
pub fn not_comparable(reason: &str) -> Finding {
    Finding::new(
        "runs",
        reason,
        "numa-agent jitter record --config FILE -o RUN.json # of the same work, once without an agent that binds, once with it; `numa-agent jitter compare BASE BOUND` has flags that allow more",
    )
}

/// A criterion that is not met, or was not measured.
#[must_use]
pub fn criterion(name: Name, not_measured: bool, found: String) -> Finding {
    let fix = match name {
        Name::Fluctuation if not_measured => {
            "numa-agent check --tokens-base FILE --tokens-bound FILE # a benchmark's results; or record with --tap PORT"
        }
        _ if not_measured => {
            "sudo numa-agent doctor # says which kernel program is missing; record again with it"
        }
        Name::Fluctuation | Name::Wait | Name::WaitLimit => {
            "numa-agent jitter report BOUND # says which threads wait and who runs instead; make A and B pass, and record again"
        }
        Name::OffNode | Name::NodeMoves | Name::Moves => {
            "numa-agent run --config FILE # make B pass while it runs, and record again"
        }
    };
    Finding::new("runs", found, fix)
}
