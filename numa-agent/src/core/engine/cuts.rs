//! What cpusets leave of the plan: said once for each change, and true as long as it is listed.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_WARNINGS;
use crate::core::{
    idset::CpuSet,
    task::{BindOutcome, ProcessFacts},
};

/// The cgroups whose tasks the kernel does not let use all of the CPUs that are planned for them; [`MAX_WARNINGS`] at most.
#[derive(Debug, Clone, Default)]
pub(super) struct Cuts {
    /// By cgroup and planned CPUs, in words.
    texts: BTreeMap<(String, String), String>,
    /// There were more, and that has been said.
    full: bool,
}

impl Cuts {
    /// Takes note of what became of binding a task of `process` to `planned`; a warning, if that is news.
    pub(super) fn note(
        &mut self,
        process: &ProcessFacts,
        planned: &CpuSet,
        outcome: &BindOutcome,
    ) -> Option<String> {
        let rest = match outcome {
            BindOutcome::Bound(mask) | BindOutcome::Unchanged(mask) if mask != planned => {
                format!(
                    "only {mask} of the planned {planned}: its cpuset allows no more, or CPUs are offline"
                )
            }
            BindOutcome::Failed { excluded: true, actual: Some(mask), .. } => {
                format!(
                    "none of the planned {planned}: its cpuset allows none, or they are offline; they run on {mask}"
                )
            }
            BindOutcome::Bound(_) | BindOutcome::Unchanged(_) => {
                if !self.texts.is_empty() {
                    self.texts.remove(&(owner(process), planned.to_string()));
                }
                return None;
            }
            _ => return None,
        };
        let owner = owner(process);
        let text = format!("tasks of {owner} can use {rest}");
        let key = (owner, planned.to_string());
        if self.texts.get(&key) == Some(&text) {
            return None;
        }
        if self.texts.len() >= MAX_WARNINGS && !self.texts.contains_key(&key) {
            let first = !std::mem::replace(&mut self.full, true);
            return first.then(|| {
                format!("cpusets cut {MAX_WARNINGS} places of the plan so far; further ones are not shown")
            });
        }
        self.texts.insert(key, text.clone());
        Some(text)
    }

    /// Forgets those that no thread is cut by any more: `cut` are the processes with what is planned for their threads that
    /// are.
    pub(super) fn keep_those_of<'a>(&mut self, cut: impl Iterator<Item = (&'a ProcessFacts, &'a CpuSet)>) {
        if !self.texts.is_empty() {
            let keys: BTreeSet<(String, String)> =
                cut.map(|(process, planned)| (owner(process), planned.to_string())).collect();
            self.texts.retain(|key, _| keys.contains(key));
        }
        self.full &= self.texts.len() >= MAX_WARNINGS;
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &String> {
        self.texts.values()
    }
}

/// Whose cpuset it is. Which cgroup a process is in is read only where the grouping, or a rule, wants to know.
fn owner(process: &ProcessFacts) -> String {
    match &process.cgroup {
        Some(cgroup) => format!("cgroup {cgroup}"),
        None => format!("process {}", process.pid),
    }
}
