//! What the user asked for: the configuration file's keys and the flags over them, as one checked value.

use std::{collections::BTreeSet, fmt, str::FromStr};

use regex::Regex;

use super::{
    config::{ConfigError, Overrides, Partial, Pattern, suggest},
    instance::GroupBy,
    rules::{Rule, RuleRole},
};

/// Thread names that a group's forward threads have, where neither file nor flags name any.
pub const FORWARD_THREAD_PATTERNS: [&str; 3] = ["forward", "prefill", "decode"];

/// Where `bind` writes its report, where neither file nor flags say.
pub const REPORT_PATH: &str = "workflow_visualization/numa_binding_report.md";

/// A word that is none of the few that a key or flag takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not one of {words}{hint}")]
pub struct ChoiceError {
    given: String,
    words: String,
    /// Starts with its separator; empty for none.
    hint: String,
}

impl ChoiceError {
    pub(super) fn new(given: &str, words: &[&'static str]) -> Self {
        let near = suggest(given, words.iter().copied());
        let hint = near.map(|word| format!("; did you mean {word}?")).unwrap_or_default();
        Self { given: given.to_owned(), words: words.join(", "), hint }
    }

    /// With a hint that is more than a word.
    pub(super) fn because(self, hint: &str) -> Self {
        Self { hint: format!("; {hint}"), ..self }
    }
}

/// Gives a setting that is one word of a few its `FromStr` and `Display`, one the inverse of the other.
macro_rules! words {
    ($type:ident: $($word:literal $variant:ident),+) => {
        impl FromStr for $type {
            type Err = ChoiceError;

            fn from_str(text: &str) -> Result<Self, ChoiceError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ChoiceError::new(text, &[$($word),+])),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(PolicyChoice: "auto" Auto, "paired" Paired, "generic" Generic);
words!(Layout: "split" Split, "shared" Shared);
words!(Align: "none" None, "core" Core, "cluster" Cluster);
words!(RuleRole: "group" Group, "other" Other, "ignore" Ignore);

/// Plan policy as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyChoice {
    /// [`Policy::Paired`] where every socket has exactly two nodes with CPUs, else [`Policy::Generic`].
    #[default]
    Auto,
    /// As asked.
    Paired,
    /// As asked.
    Generic,
}

/// Plan policy in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Groups on the socket's first node, forward threads on its second (A2/A3).
    Paired,
    /// Groups dealt over the socket's nodes, forward threads on the nearest other node.
    Generic,
}

/// How groups share a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// The node's CPUs are divided between its groups.
    #[default]
    Split,
    /// Every group has the whole node.
    Shared,
}

/// The unit that a split never cuts, from small to large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Align {
    /// A CPU (hardware thread).
    None,
    /// A physical core.
    Core,
    /// A cluster.
    Cluster,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Paired => "paired",
            Self::Generic => "generic",
        })
    }
}

/// The layout part of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayoutSettings {
    /// `policy`.
    pub policy: PolicyChoice,
    /// `layout`.
    pub layout: Layout,
    /// `align`; `None`: the largest unit of which the node has at least one per group.
    pub align: Option<Align>,
    /// `groups_per_socket`; `None`: 4 for paired, as many as needed for generic. `Some(0)`: as many as needed.
    pub groups_per_socket: Option<u32>,
    /// `others_socket_index`, into the sorted socket ids; `None`: 2 for paired, 0 for generic, or the last socket.
    pub others_socket_index: Option<u32>,
}

/// Everything the user asked for, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it came from, for messages: the config file's path, or `flags`.
    pub source: String,
    /// How groups are laid out.
    pub layout: LayoutSettings,
    /// Which processes share a group.
    pub group_by: GroupBy,
    /// `rules`, in order; the first that matches a process decides.
    pub rules: Vec<Rule>,
    /// `group_patterns`, searched in "comm cmdline".
    pub group_patterns: Vec<Regex>,
    /// `other_patterns`, searched in "comm cmdline".
    pub other_patterns: Vec<Regex>,
    /// `forward_thread_patterns`, searched in a thread's comm.
    pub forward_thread_patterns: Vec<Regex>,
    /// `group_pids`.
    pub group_pids: Vec<u32>,
    /// `other_pids`.
    pub other_pids: Vec<u32>,
    /// `report`: where `bind` writes its report.
    pub report: String,
    /// Whether the report's path was asked for (an unwritable default is only a warning).
    pub report_asked: bool,
    /// What was doubtful but not wrong, in words for the user.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Puts the flags over the configuration file (its path and its text), and the defaults under both.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong, naming file, line and key or flag, and saying what to do.
    pub fn from_sources(file: Option<(&str, &str)>, overrides: Overrides) -> Result<Self, ConfigError> {
        let below = file.map(|(path, text)| Partial::from_file(path, text)).transpose()?.unwrap_or_default();
        let given = Partial::from_flags(overrides)?.or(below);
        let mut warnings = Vec::new();
        let (group_pids, other_pids) = pids(&given)?;
        let forward = match given.forward_thread_patterns {
            Some(patterns) => forward_patterns(patterns, &mut warnings)?,
            None => FORWARD_THREAD_PATTERNS.iter().filter_map(|text| Regex::new(text).ok()).collect(),
        };
        let regexes = |patterns: Option<Vec<Pattern>>| {
            patterns.unwrap_or_default().into_iter().map(|pattern| pattern.regex).collect::<Vec<_>>()
        };
        let settings = Self {
            source: file.map_or_else(|| "flags".to_owned(), |(path, _)| path.to_owned()),
            layout: LayoutSettings {
                policy: given.policy.unwrap_or_default(),
                layout: given.layout.unwrap_or_default(),
                align: given.align,
                groups_per_socket: given.groups_per_socket,
                others_socket_index: given.others_socket_index,
            },
            group_by: given.group_by.unwrap_or_default(),
            rules: given.rules.unwrap_or_default(),
            group_patterns: regexes(given.group_patterns),
            other_patterns: regexes(given.other_patterns),
            forward_thread_patterns: forward,
            group_pids,
            other_pids,
            report_asked: given.report.is_some(),
            report: given.report.unwrap_or_else(|| REPORT_PATH.to_owned()),
            warnings,
        };
        Ok(settings.warn_if_idle())
    }

    fn warn_if_idle(mut self) -> Self {
        let rules = self.rules.iter().any(|rule| rule.role != RuleRole::Ignore);
        let patterns = !self.group_patterns.is_empty() || !self.other_patterns.is_empty();
        let pids = !self.group_pids.is_empty() || !self.other_pids.is_empty();
        if !(rules || patterns || pids) {
            self.warnings.push(format!(
                "{}: no rule, pattern or pid given: nothing will be managed; give group_patterns (--group-pattern) or rules",
                self.source
            ));
        }
        self
    }
}

/// The pids of both lists, each once. A pid cannot be both.
fn pids(given: &Partial) -> Result<(Vec<u32>, Vec<u32>), ConfigError> {
    let (group, other) =
        (given.group_pids.as_deref().unwrap_or(&[]), given.other_pids.as_deref().unwrap_or(&[]));
    if let Some((at, pid, group)) = other
        .iter()
        .find_map(|(at, pid)| group.iter().find(|(_, group)| group == pid).map(|(group, _)| (at, pid, group)))
    {
        let problem = format!("pid {pid} is also given by {group}");
        return Err(at.wrong(problem, "a process is either in a group or a background process".into()));
    }
    let each_once = |list: &[(_, u32)]| {
        let mut seen = BTreeSet::new();
        list.iter().map(|(_, pid)| *pid).filter(|pid| seen.insert(*pid)).collect()
    };
    Ok((each_once(group), each_once(other)))
}

/// Some dead pattern among live ones is a slip and a warning; where all are dead no thread could ever be bound as a
/// forward thread, and that is an error.
fn forward_patterns(patterns: Vec<Pattern>, warnings: &mut Vec<String>) -> Result<Vec<Regex>, ConfigError> {
    let dead = patterns.iter().filter(|pattern| pattern.never_fits_comm()).collect::<Vec<_>>();
    match dead.first() {
        Some(first) if dead.len() == patterns.len() => {
            let hint = "shorten it to a part of the thread's name as in /proc/PID/task/TID/comm".into();
            return Err(first.origin.wrong(first.why_never(), hint));
        }
        _ => {
            warnings.extend(dead.iter().map(|pattern| format!("{}: {}", pattern.origin, pattern.why_never())))
        }
    }
    Ok(patterns.into_iter().map(|pattern| pattern.regex).collect())
}
