//! What the user asked for: the configuration file's keys and the flags over them, as one checked value.

use core::net::SocketAddr;
use std::fmt;

use regex::Regex;

use super::{
    choice::words,
    config::{ConfigError, Overrides},
    hold::HoldSettings,
    instance::GroupBy,
    irq::reserve::Reserve,
    rule::{Rule, RuleRole},
    task::TaskId,
};

/// Thread names that a group's forward threads have, where neither file nor flags name any.
pub const FORWARD_THREAD_PATTERNS: [&str; 3] = ["forward", "prefill", "decode"];

/// Device files that forward threads use, where the file names none: an NPU's each. Not `davinci_manager`, which whoever looks for an NPU
/// opens.
pub const FORWARD_THREAD_DEVICES: [&str; 1] = ["/dev/davinci[0-9]*"];

/// Where `bind` writes its report, where neither file nor flags say.
pub const REPORT_PATH: &str = "workflow_visualization/numa_binding_report.md";

words!(PolicyChoice: "auto" Auto, "paired" Paired, "generic" Generic);
words!(Layout: "split" Split, "shared" Shared);
words!(MemoryApply: "none" None, "inject" Inject, "cpuset" Cpuset);
words!(DriftPolicy: "observe" Observe, "reapply" Reapply, "enforce" Enforce);
words!(Align: "none" None, "core" Core, "cluster" Cluster);

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

/// How the memory of processes that others start follows the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryApply {
    /// Not at all.
    #[default]
    None,
    /// A process that is held at exec gets it before its first instruction.
    Inject,
    /// The cgroups of group processes allow the group's memory nodes alone. A fence, not a policy.
    Cpuset,
}

/// What is done when somebody else changes the mask of a managed thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriftPolicy {
    /// Nothing: it is counted and named.
    Observe,
    /// It is put back, a few times in a row at once, then by the next reconcile.
    #[default]
    Reapply,
    /// It is always put back, each time after a longer wait.
    Enforce,
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
    /// `irq`: the CPUs that are left to interrupts.
    pub reserve: Reserve,
    /// `use_isolated`: CPUs that the scheduler leaves out of its balancing are planned too.
    pub use_isolated: bool,
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
    /// `forward_thread_devices`: device files that only forward threads use, with `*`, `?` and `[...]` in their paths.
    pub forward_thread_devices: Vec<String>,
    /// Whether they were asked for: their users are then looked for though there is no such file yet.
    pub devices_asked: bool,
    /// `hold` and what belongs to it.
    pub hold: HoldSettings,
    /// `memory.apply = "cpuset"`: the cgroups of group processes are to allow the plan's memory nodes.
    pub cpusets: bool,
    /// `metrics`: where the endpoint listens.
    pub metrics: Option<SocketAddr>,
    /// `drift`.
    pub drift: DriftPolicy,
    /// `max_bind_rate`: masks set in a second; `None`: any number.
    pub max_bind_rate: Option<u32>,
    /// `group_pids`.
    pub group_pids: Vec<u32>,
    /// `other_pids`.
    pub other_pids: Vec<u32>,
    /// These processes and all that descend from them are group processes. No key: `jitter record` without a plan.
    pub descends_from: Vec<TaskId>,
    /// `report`: where `bind` writes its report.
    pub report: String,
    /// Whether the report's path was asked for (an unwritable default is only a warning).
    pub report_asked: bool,
    /// What was doubtful but not wrong, in words for the user.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Whoever descends from `roots`, and without a plan: all share one group, whose CPUs mean nothing.
    ///
    /// # Errors
    /// If a pattern of forward threads makes no sense.
    pub fn of_descendants(roots: Vec<TaskId>, forward_threads: Vec<String>) -> Result<Self, ConfigError> {
        let flags = Overrides {
            policy: Some(PolicyChoice::Generic),
            layout: Some(Layout::Shared),
            groups_per_socket: Some(1),
            group_by: Some(GroupBy::Tree),
            forward_thread_patterns: forward_threads,
            ..Overrides::default()
        };
        let settings = Self::from_sources(None, flags)?;
        Ok(Self { descends_from: roots, warnings: Vec::new(), ..settings })
    }

    /// Whether a program could be managed by what it is, and not just by its pid.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        let rules = self.rules.iter().any(|rule| rule.role != RuleRole::Ignore);
        rules || !self.group_patterns.is_empty() || !self.other_patterns.is_empty()
    }

    /// Says so if nothing is asked to be managed.
    pub(super) fn warn_if_idle(mut self) -> Self {
        let pids = !self.group_pids.is_empty() || !self.other_pids.is_empty();
        if !(self.has_rules() || pids) {
            self.warnings.push(format!(
                "{}: no rule, pattern or pid given: nothing will be managed; give group_patterns (--group-pattern) or rules",
                self.source
            ));
        }
        self
    }
}
