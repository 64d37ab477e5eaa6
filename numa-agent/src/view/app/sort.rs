//! In which order threads are listed.

use std::cmp::Ordering;

use crate::core::view::Thread;

/// By what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// As the agent does: critical ones first, then who is off node, moves or waits.
    #[default]
    Trouble,
    /// The longest wait.
    Longest,
    /// 99th percentile of waits.
    Waits,
    /// Share of CPU time off node.
    OffNode,
    /// Moves between CPUs.
    Moves,
    /// CPU time.
    Busy,
    /// Name.
    Name,
    /// Group, then role.
    Group,
    /// Thread id.
    Tid,
}

/// The order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sort {
    /// By what.
    pub by: By,
    /// The other way round.
    pub reversed: bool,
}

impl By {
    /// All of them, in the order that keys lead through.
    pub const ALL: [Self; 9] = [
        Self::Trouble,
        Self::Longest,
        Self::Waits,
        Self::OffNode,
        Self::Moves,
        Self::Busy,
        Self::Name,
        Self::Group,
        Self::Tid,
    ];

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Longest => "longest wait",
            Self::Waits => "wait p99",
            Self::OffNode => "time off node",
            Self::Moves => "moves",
            Self::Busy => "CPU time",
            Self::Name => "name",
            Self::Group => "group",
            Self::Tid => "tid",
        }
    }
}

impl Sort {
    /// The next one, or with -1 the one before, in its usual direction.
    #[must_use]
    pub fn turned(self, by: isize) -> Self {
        let at = By::ALL.iter().position(|other| *other == self.by).unwrap_or(0);
        let count = By::ALL.len();
        Self { by: By::ALL[(at + count).saturating_add_signed(by) % count], reversed: false }
    }

    /// Puts threads in order: figures from the highest, those that were not measured last, names from A.
    pub fn apply(self, threads: &mut [&Thread]) {
        match self.by {
            By::Trouble => {}
            By::Longest => highest(threads, |thread| thread.waited_ns().map(|(_, max)| max as f64)),
            By::Waits => highest(threads, |thread| thread.waited_ns().map(|(p99, _)| p99 as f64)),
            By::OffNode => highest(threads, |thread| thread.off_node_share()),
            By::Moves => highest(threads, |thread| thread.migrations.map(|count| count as f64)),
            By::Busy => highest(threads, |thread| thread.run_ns.map(|ns| ns as f64)),
            By::Name => threads.sort_by(|a, b| (&a.comm, a.tid).cmp(&(&b.comm, b.tid))),
            By::Group => threads.sort_by(|a, b| {
                (a.group.is_none(), &a.group, a.role, a.tid).cmp(&(
                    b.group.is_none(),
                    &b.group,
                    b.role,
                    b.tid,
                ))
            }),
            By::Tid => threads.sort_by_key(|thread| thread.tid),
        }
        if self.reversed {
            threads.reverse();
        }
    }
}

/// Stable: what is equal stays in the agent's order.
fn highest(threads: &mut [&Thread], of: impl Fn(&Thread) -> Option<f64>) {
    threads.sort_by(|a, b| match (of(a), of(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()).then(Ordering::Equal),
    });
}
