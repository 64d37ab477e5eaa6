//! One rule: conditions on a process, and what it makes of one that meets them all.

use regex::Regex;

use super::{
    choice::words,
    task::{ProcessFacts, ProcessRole},
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

impl RuleRole {
    pub(super) fn process_role(self) -> Option<ProcessRole> {
        match self {
            Self::Group => Some(ProcessRole::Group),
            Self::Other => Some(ProcessRole::Other),
            Self::Ignore => None,
        }
    }
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

impl Rule {
    /// Whether it looks as if it kept strangers out, and does not: a user may show any path as a program's (mount namespaces), and have a
    /// cgroup of any name below their own.
    pub(super) fn is_open(&self) -> bool {
        let anchored = |regex: &Regex| ["^", "\\A"].iter().any(|anchor| regex.as_str().starts_with(anchor));
        self.role == RuleRole::Group
            && self.uid.is_none()
            && (self.exe.is_some() || self.cgroup.is_some())
            && !self.cgroup.as_ref().is_some_and(anchored)
    }

    /// What is said of one that is.
    pub(super) fn open_text(&self) -> String {
        format!(
            "rule {}: exe and cgroup alone keep no user out who runs programs here, because a program's path is what its mount namespace shows, \
             and cgroup is searched anywhere in the path; add uid, or begin cgroup with ^",
            self.name
        )
    }

    /// Whether all conditions hold; `None` where that hangs on a fact that is not there.
    pub(super) fn holds(&self, process: &ProcessFacts, cmdline_known: bool) -> Option<bool> {
        let text = |condition: &Option<Regex>, fact: Option<&str>| match (condition, fact) {
            (None, _) => Some(true),
            (Some(regex), Some(fact)) => Some(regex.is_match(fact)),
            (Some(_), None) => None,
        };
        let conditions = [
            Some(self.uid.as_ref().is_none_or(|uids| uids.contains(&process.uid))),
            text(&self.comm, Some(&process.comm)),
            text(&self.cmdline, cmdline_known.then_some(&process.cmdline)),
            text(&self.exe, process.exe.as_deref()),
            text(&self.cgroup, process.cgroup.as_deref()),
            text(&self.parent, process.parent.as_deref()),
        ];
        if conditions.contains(&Some(false)) {
            return Some(false);
        }
        conditions.iter().copied().collect::<Option<Vec<_>>>().map(|_| true)
    }
}

words!(RuleRole: "group" Group, "other" Other, "ignore" Ignore);
