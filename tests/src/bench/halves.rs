//! The stage of all that is about binding: this machine's CPUs as two nodes of one socket, so that members and forward threads belong
//! on different CPUs also where there are only two.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use numa_agent::core::idset::CpuSet;
use serde_json::{Value, json};

use super::target::FORWARD;
use crate::{
    cast::utf8,
    sys,
    sysfs_tree::{one_socket, write_sysfs},
};

/// Where who belongs.
#[derive(Debug, Clone)]
pub struct Halves {
    /// Members, background processes and whoever binds.
    pub members: CpuSet,
    /// Forward threads; and where everybody starts, who is to be moved.
    pub forward: CpuSet,
}

impl Halves {
    /// Of the CPUs that the bench may use: we, or our parent, where we are one of those that are bound.
    ///
    /// # Errors
    /// If there are fewer than two.
    pub fn of(bench: Pid) -> Result<Self> {
        let all = sys::affinity(bench.as_raw().cast_unsigned()).context("the bench's CPU mask")?;
        ensure!(all.len() >= 2, "it takes two CPUs to tell where a task belongs");
        let members: CpuSet = all.iter().take(all.len() / 2).collect();
        Ok(Self { forward: all.difference(&members), members })
    }

    /// All of them for everybody, for what must not be slowed down by where it runs.
    ///
    /// # Errors
    /// If our own mask cannot be read.
    pub fn whole() -> Result<Self> {
        let all = sys::affinity(0).context("our own CPU mask")?;
        Ok(Self { members: all.clone(), forward: all })
    }

    /// Writes the machine as a sysfs tree.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_tree(&self, dir: &Path) -> Result<PathBuf> {
        let tree = dir.join("sys");
        let nodes = [&self.members, &self.forward];
        let machine = one_socket(if self.is_whole() { &nodes[..1] } else { &nodes });
        write_sysfs(&machine, &tree).with_context(|| format!("cannot write {}", tree.display()))?;
        Ok(tree)
    }

    fn is_whole(&self) -> bool {
        self.members == self.forward
    }

    /// Arguments of `run` and `bind` for one group that has all of the machine, with a configuration in `dir`: processes that match
    /// `pattern` are its members, threads called [`FORWARD`] its forward threads; `more` keys go over that.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn arguments(&self, dir: &Path, pattern: &str, more: &Value) -> Result<Vec<String>> {
        let mut config = json!({
            "group_patterns": [pattern], "forward_thread_patterns": [format!("^{FORWARD}")], "layout": "shared",
            "policy": if self.is_whole() { "generic" } else { "paired" }, "groups_per_socket": 1, "report": dir.join("report.md"),
        });
        let keys = config.as_object_mut().context("an object")?;
        keys.extend(more.as_object().cloned().unwrap_or_default());
        let path = dir.join("halves.json");
        fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        let tree = self.write_tree(dir)?;
        Ok(vec!["--config".to_owned(), utf8(&path), "--sysfs-root".to_owned(), utf8(&tree)])
    }
}
