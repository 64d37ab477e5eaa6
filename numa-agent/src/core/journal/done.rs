//! What became of what was to be undone.

use super::Class;
use crate::core::task::TaskId;

/// A thing that was changed, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What sort of thing it is.
    pub class: Class,
    /// Pid and tid, of a task.
    pub task: Option<(u32, TaskId)>,
    /// Its name, or what a file is about. As others chose it.
    pub what: String,
    /// Path of a file.
    pub path: Option<String>,
    /// What it had.
    pub before: String,
    /// What it was given; `None` for a thread that has inherited what it has.
    pub given: Option<String>,
    /// What it has now.
    pub now: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Dry run: it would be undone.
    Planned,
    /// It has what it had.
    Restored,
    /// It had that already.
    AsBefore,
    /// Somebody else has changed it since: it is left alone.
    Changed,
    /// It is no more.
    Gone,
    /// It could not be undone; why.
    Failed(String),
}

impl Outcome {
    /// One word for messages and JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Restored => "restored",
            Self::AsBefore => "unchanged",
            Self::Changed => "changed",
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
        }
    }
}

/// What restoring came to.
#[derive(Debug, Default)]
pub struct Restored {
    /// One for each thing.
    pub rows: Vec<Row>,
    /// Lines of the journal that make no sense.
    pub damaged: usize,
    /// Lines of a kind that is not known here; they stay.
    pub unknown: usize,
    /// Changes of another boot, which ended with it; they are dropped.
    pub over: usize,
}
