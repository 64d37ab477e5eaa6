//! Puts the layers together: flags over file over defaults.

use std::{collections::BTreeSet, time::Duration};

use regex::Regex;

use super::{ConfigError, Overrides, Partial, Pattern};
use crate::core::{
    hold::HoldSettings,
    settings::{
        FORWARD_THREAD_DEVICES, FORWARD_THREAD_PATTERNS, LayoutSettings, MemoryApply, REPORT_PATH, Settings,
    },
};

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
        let hold = hold(&given)?;
        let forward = match given.forward_thread_patterns {
            Some(patterns) => forward_patterns(patterns, &mut warnings)?,
            None => FORWARD_THREAD_PATTERNS.iter().filter_map(|text| Regex::new(text).ok()).collect(),
        };
        let regexes = |patterns: Option<Vec<Pattern>>| {
            patterns.unwrap_or_default().into_iter().map(|pattern| pattern.regex).collect::<Vec<_>>()
        };
        let rules = given.rules.unwrap_or_default();
        let source = file.map_or_else(|| "flags".to_owned(), |(path, _)| path.to_owned());
        let open = rules.iter().filter(|rule| rule.is_open());
        warnings.extend(open.map(|rule| format!("{source}: {}", rule.open_text())));
        let settings = Self {
            source,
            layout: LayoutSettings {
                policy: given.policy.unwrap_or_default(),
                layout: given.layout.unwrap_or_default(),
                align: given.align,
                groups_per_socket: given.groups_per_socket,
                others_socket_index: given.others_socket_index,
                reserve: given.reserve.unwrap_or_default(),
                use_isolated: given.use_isolated.unwrap_or_default(),
            },
            group_by: given.group_by.unwrap_or_default(),
            rules,
            group_patterns: regexes(given.group_patterns),
            other_patterns: regexes(given.other_patterns),
            forward_thread_patterns: forward,
            devices_asked: given.forward_thread_devices.is_some(),
            forward_thread_devices: given
                .forward_thread_devices
                .unwrap_or_else(|| FORWARD_THREAD_DEVICES.map(str::to_owned).to_vec()),
            hold,
            cpusets: given.memory_apply == Some(MemoryApply::Cpuset),
            metrics: given.metrics,
            drift: given.drift.unwrap_or_default(),
            max_bind_rate: given.max_bind_rate,
            group_pids,
            other_pids,
            descends_from: Vec::new(),
            report_asked: given.report.is_some(),
            report: given.report.unwrap_or_else(|| REPORT_PATH.to_owned()),
            warnings,
        };
        Ok(settings.warn_if_idle())
    }
}

/// Policies are set one after the other, each in a millisecond or so: of the workers that a service starts in one moment the last waits for
/// all others, and would be without for as long as it lives.
const INJECT_LIMIT: Duration = Duration::from_secs(1);

/// A memory policy can be set in a process that is held alone.
fn hold(given: &Partial) -> Result<HoldSettings, ConfigError> {
    let inject = given.memory_apply == Some(MemoryApply::Inject);
    let hold = match &given.hold {
        Some((at, false)) if inject => {
            let problem =
                "it is false, but memory.apply = \"inject\" sets the policy in processes that are held";
            return Err(at.wrong(problem.into(), "leave it out, or set memory.apply to \"none\"".into()));
        }
        Some((_, hold)) => *hold,
        None => inject,
    };
    let limit = if inject { INJECT_LIMIT } else { HoldSettings::default().limit };
    let limit = given.hold_limit_ms.map_or(limit, |ms| Duration::from_millis(ms.into()));
    Ok(HoldSettings { hold, terminals: given.hold_terminal.unwrap_or_default(), limit, inject })
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
