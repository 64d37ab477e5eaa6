//! Processes held between exec and their first instruction: what is asked for, what agent and guard tell each other, and what it
//! came to.

mod tally;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::tally::Tally;
use super::task::TaskId;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldSettings {
    /// `hold`, or what implies it.
    pub hold: bool,
    /// `hold_terminal`: hold processes with a controlling terminal, and jobs of shells without one, too.
    pub terminals: bool,
    /// `hold_limit_ms`: for how long a process waits, held, for what is to be done.
    pub limit: Duration,
    /// `memory.apply = "inject"`: a held process gets its group's memory policy.
    pub inject: bool,
}

impl Default for HoldSettings {
    fn default() -> Self {
        Self { hold: false, terminals: false, limit: Duration::from_millis(100), inject: false }
    }
}

/// One process, stopped at one exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hold {
    /// Its leader, the only thread that it has.
    pub task: TaskId,
    /// The exec event's time: the same process may be held again at its next exec.
    pub at_ns: u64,
}

/// What the agent tells the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// Let it go on.
    Release {
        /// Whom.
        hold: Hold,
        /// With this memory policy, in the kernel's words; `None`: as it is.
        memory: Option<String>,
    },
    /// From now on, let go on by yourself whoever is held for so long.
    Limit {
        /// Nanoseconds.
        ns: u64,
    },
    /// Say that you are there.
    Speak,
    /// Let all go on, and end.
    End,
}

/// What the guard tells the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Answer {
    /// It is there: tasks may be held.
    Ready,
    /// A task is not held any more.
    Released(Release),
    /// The parent of one that was held had stopped itself over it, and goes on.
    Parent {
        /// Which.
        parent: TaskId,
    },
    /// The order to let that task go on came too late: it was told before what became of it.
    Late {
        /// Whom it was about.
        hold: Hold,
    },
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which.
    pub hold: Hold,
    /// Who ended it.
    pub by: By,
    /// How.
    pub end: End,
    /// What became of its memory policy.
    pub memory: MemoryResult,
    /// How long it was held.
    pub held_ns: u64,
}

/// Who ends a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The agent has said so.
    Agent,
    /// It was held for too long.
    Limit,
    /// The guard ends, or the agent lets all go because there is no guard.
    Farewell,
}

/// How a hold ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The process goes on.
    Continued,
    /// It has ended meanwhile.
    Gone,
    /// Somebody else has stopped it meanwhile, and has to let it go on.
    Stopped,
    /// The kernel does not let us continue it: it stays stopped.
    Refused,
}

/// What became of a memory policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "what", rename_all = "lowercase")]
pub enum MemoryResult {
    /// None was to be set.
    Unasked,
    /// This one is in force, in the kernel's words: it leaves out nodes that have no memory or are not in the process's cpuset.
    Set(String),
    /// It is not; why.
    Refused(String),
}

impl By {
    /// One word for messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Limit => "limit",
            Self::Farewell => "farewell",
        }
    }
}

impl End {
    /// One word for messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continued => "continued",
            Self::Gone => "gone",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
        }
    }
}
