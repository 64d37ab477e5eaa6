//! The flags and the configuration file that say what to manage and how to lay it out.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::offered::words;
use crate::{
    core::{
        config::Overrides,
        instance::GroupBy,
        settings::{Align, Layout, PolicyChoice, Settings},
    },
    host::{
        files::{self, Opened},
        sys, trust,
    },
};

/// Flags stand over the configuration file; a list given by flag replaces the file's.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Configuration file, JSON or TOML (keys: docs/config.md).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Regular expression searched in "comm cmdline": processes of serving instances. Repeatable.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub group_pattern: Vec<String>,
    /// Regular expression searched in "comm cmdline": background processes. Repeatable.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub other_pattern: Vec<String>,
    /// Regular expression searched in a thread's comm (15 bytes): forward threads. Repeatable; replaces the default
    /// forward, prefill, decode.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub forward_thread_pattern: Vec<String>,
    /// A process of a serving instance, by pid. Repeatable.
    #[arg(long, value_name = "PID")]
    pub group_pid: Vec<u32>,
    /// A background process, by pid. Repeatable.
    #[arg(long, value_name = "PID")]
    pub other_pid: Vec<u32>,
    /// Groups on each socket; 0: as many as the instances found need. Default: 4 for paired, 0 for generic.
    #[arg(long, value_name = "N")]
    pub groups_per_socket: Option<u32>,
    /// Socket of the background processes, as an index into the sorted socket ids. Default: 2 for paired, 0 for generic.
    #[arg(long, value_name = "N")]
    pub others_socket_index: Option<u32>,
    /// auto, paired (A2/A3: groups on a socket's first node, forward threads on its second) or generic.
    #[arg(long, value_parser = words::<PolicyChoice>(PolicyChoice::WORDS), hide_possible_values = true)]
    pub policy: Option<PolicyChoice>,
    /// split (a node's CPUs are divided between its groups) or shared (every group has the whole node).
    #[arg(long, value_parser = words::<Layout>(Layout::WORDS), hide_possible_values = true)]
    pub layout: Option<Layout>,
    /// What a split never cuts: none, core or cluster. Default: the largest of which there is one per group.
    #[arg(long, value_parser = words::<Align>(Align::WORDS), hide_possible_values = true)]
    pub align: Option<Align>,
    /// What tells one serving instance from another: auto, cgroup, session, tree, pid, env:NAME or arg:REGEX.
    #[arg(long, value_name = "HOW", value_parser = words::<GroupBy>(GroupBy::WORDS), hide_possible_values = true)]
    pub group_by: Option<GroupBy>,
    /// Plan isolated CPUs (isolcpus=) too, between which the scheduler does not balance load.
    #[arg(long)]
    pub use_isolated: bool,
}

impl PlanArgs {
    /// Whether any of them was given.
    pub fn any(&self) -> bool {
        let Self { config, group_pattern, other_pattern, forward_thread_pattern, .. } = self;
        let Self { group_pid, other_pid, groups_per_socket, others_socket_index, .. } = self;
        let Self { policy, layout, align, group_by, use_isolated, .. } = self;
        let lists =
            [group_pattern, other_pattern, forward_thread_pattern].iter().any(|list| !list.is_empty());
        let pids = [group_pid, other_pid].iter().any(|pids| !pids.is_empty());
        let numbers = groups_per_socket.is_some() || others_socket_index.is_some();
        let words = policy.is_some() || layout.is_some() || align.is_some() || group_by.is_some();
        config.is_some() || lists || pids || numbers || words || *use_isolated
    }

    /// Whether they say who is managed.
    pub fn names_processes(&self) -> bool {
        let lists = [&self.group_pattern, &self.other_pattern].iter().any(|list| !list.is_empty());
        self.config.is_some() || lists || !self.group_pid.is_empty() || !self.other_pid.is_empty()
    }

    /// The flags as they would be typed.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |flag: &str, value: String| {
            // A value that begins with a dash is one by the equals sign alone.
            match value.starts_with('-') {
                true => words.push(format!("{flag}={value}")),
                false => words.extend([flag.to_owned(), value]),
            }
        };
        let Self { config, group_pattern, other_pattern, forward_thread_pattern, .. } = self;
        let Self { group_pid, other_pid, groups_per_socket, others_socket_index, .. } = self;
        let Self { policy, layout, align, group_by, .. } = self;
        config.iter().for_each(|path| add("--config", path.display().to_string()));
        group_pattern.iter().for_each(|pattern| add("--group-pattern", pattern.clone()));
        other_pattern.iter().for_each(|pattern| add("--other-pattern", pattern.clone()));
        forward_thread_pattern.iter().for_each(|pattern| add("--forward-thread-pattern", pattern.clone()));
        group_pid.iter().for_each(|pid| add("--group-pid", pid.to_string()));
        other_pid.iter().for_each(|pid| add("--other-pid", pid.to_string()));
        groups_per_socket.iter().for_each(|count| add("--groups-per-socket", count.to_string()));
        others_socket_index.iter().for_each(|index| add("--others-socket-index", index.to_string()));
        policy.iter().for_each(|policy| add("--policy", policy.to_string()));
        layout.iter().for_each(|layout| add("--layout", layout.to_string()));
        align.iter().for_each(|align| add("--align", align.to_string()));
        group_by.iter().for_each(|how| add("--group-by", how.to_string()));
        words.extend(self.use_isolated.then(|| "--use-isolated".to_owned()));
        words
    }

    /// Reads the configuration file, if any, and puts the flags over it. `report` is `--report`'s.
    ///
    /// # Errors
    /// A file that cannot be read, or a configuration that makes no sense.
    pub fn settings(&self, report: Option<&Path>) -> anyhow::Result<Settings> {
        let file = self.config.as_deref().map(read_config).transpose()?;
        let (file, warning) = file.map_or((None, None), |(file, warning)| (Some(file), warning));
        let overrides = Overrides {
            policy: self.policy,
            layout: self.layout,
            align: self.align,
            groups_per_socket: self.groups_per_socket,
            others_socket_index: self.others_socket_index,
            group_by: self.group_by.clone(),
            use_isolated: self.use_isolated.then_some(true),
            group_patterns: self.group_pattern.clone(),
            other_patterns: self.other_pattern.clone(),
            forward_thread_patterns: self.forward_thread_pattern.clone(),
            group_pids: self.group_pid.clone(),
            other_pids: self.other_pid.clone(),
            report: report.map(|path| path.to_string_lossy().into_owned()),
        };
        let file = file.as_ref().map(|(path, text)| (path.as_str(), text.as_str()));
        let mut settings = Settings::from_sources(file, overrides)?;
        settings.warnings.extend(warning);
        Ok(settings)
    }
}

/// The most that a configuration file holds, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Its path and text, and what is to be said of whose it is.
fn read_config(path: &Path) -> anyhow::Result<((String, String), Option<String>)> {
    let read = || -> anyhow::Result<(String, Option<String>)> {
        let Opened { facts, place, text } = files::read_regular(path, MAX_CONFIG)?;
        // What is somebody's own may be as they like.
        let why = match sys::own_uid() {
            0 => match trust::distrust(&facts) {
                Some(why) => Some(format!(" {why}")),
                None => trust::distrust_place(path, &place)?.map(|why| format!(": {why}")),
            },
            _ => None,
        };
        let warning =
            why.map(|why| format!("{}{why}: whoever may write it says what is bound", path.display()));
        Ok((text, warning))
    };
    let (text, warning) = read()
        .with_context(|| format!("cannot read the configuration file {}", path.display()))
        .map_err(|error| super::UsageError(format!("{error:#}")))?;
    Ok(((path.display().to_string(), text), warning))
}
