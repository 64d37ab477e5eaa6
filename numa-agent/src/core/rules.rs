//! Rules: which processes are part of a serving instance, which are background, which are left alone.

use regex::Regex;

use super::{
    settings::Settings,
    task::{ProcessFacts, ProcessRole, ThreadRole},
};

/// What a rule makes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleRole {
    /// Part of a serving instance.
    Group,
    /// Background.
    Other,
    /// Left alone, whatever later rules and patterns say.
    Ignore,
}

/// One entry of `rules`: all conditions given must hold.
#[derive(Debug, Clone)]
pub struct Rule {
    /// For messages; `rules[2]` if the user gave none.
    pub name: String,
    /// What it makes of a process.
    pub role: RuleRole,
    /// Searched in the leader's comm.
    pub comm: Option<Regex>,
    /// Searched in the command line.
    pub cmdline: Option<Regex>,
    /// Searched in the target of `/proc/PID/exe`.
    pub exe: Option<Regex>,
    /// Searched in the cgroup path.
    pub cgroup: Option<Regex>,
    /// Real user ids, any of which.
    pub uid: Option<Vec<u32>>,
    /// Searched in the parent's "comm cmdline".
    pub parent: Option<Regex>,
}

/// The matcher: one for the scan and for live events.
#[derive(Debug, Clone)]
pub struct Rules {
    settings: Settings,
}

impl Rules {
    /// The matcher for those settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The role of a process; `None`: not ours. Explicit pids come first, then `rules` in order, then group patterns,
    /// then other patterns. Kernel threads never match.
    #[must_use]
    pub fn process_role(&self, _process: &ProcessFacts) -> Option<ProcessRole> {
        None
    }

    /// The role of a thread named `comm` in a process of that role.
    #[must_use]
    pub fn thread_role(&self, process: ProcessRole, comm: &str) -> ThreadRole {
        match process {
            ProcessRole::Other => ThreadRole::Other,
            ProcessRole::Group if self.settings.forward_thread_patterns.iter().any(|r| r.is_match(comm)) => {
                ThreadRole::Forward
            }
            ProcessRole::Group => ThreadRole::Member,
        }
    }
}

/// The facts that rules and grouping look at beyond identity, name and arguments: a reader fetches no others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`ProcessFacts::exe`].
    pub exe: bool,
    /// [`ProcessFacts::cgroup`].
    pub cgroup: bool,
    /// [`ProcessFacts::parent`].
    pub parent: bool,
    /// [`ProcessFacts::env`] of that variable.
    pub env: Option<String>,
    /// [`ProcessFacts::ancestors`].
    pub ancestors: bool,
}
