//! Which machine to plan for: this one, a captured `/sys`, or a preset.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use clap::Args;

use super::{UsageError, offered};
use crate::{
    core::{outline::Outline, preset::Preset, topology::Topology},
    host::{
        cpuset::{Cpuset, Own},
        sysfs,
    },
};

/// Where the topology comes from.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Read DIR instead of /sys: a captured tree of another machine, all of whose CPUs count as allowed.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    pub sysfs_root: Option<PathBuf>,
    /// Plan for a machine that is not at hand: a2 or a3.
    #[arg(long, value_parser = offered::read(&["a2", "a3"], preset), hide_possible_values = true)]
    pub preset: Option<Preset>,
}

impl MachineArgs {
    /// Reads the machine.
    ///
    /// # Errors
    /// A tree that cannot be read; names the file.
    pub fn topology(&self) -> anyhow::Result<Topology> {
        Ok(match (self.preset, &self.sysfs_root) {
            (Some(preset), _) => preset.topology(),
            (None, Some(root)) => sysfs::read(root, &Cpuset::default())?,
            (None, None) => sysfs::read_host()?,
        })
    }

    /// Whether it is the one we run on, and not one of which we only know the topology.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.preset.is_none() && self.sysfs_root.is_none()
    }

    /// The flags as they would be typed.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let preset = self.preset.map(|preset| ["--preset".to_owned(), preset.name().to_owned()]);
        let root =
            self.sysfs_root.as_ref().map(|root| ["--sysfs-root".to_owned(), root.display().to_string()]);
        preset.into_iter().chain(root).flatten().collect()
    }

    /// Whose topology it is, if not this machine's.
    #[must_use]
    pub fn elsewhere(&self) -> Option<String> {
        let root = || self.sysfs_root.as_ref().map(|root| root.display().to_string());
        self.preset.map(|preset| format!("preset {}", preset.name())).or_else(root)
    }

    /// What reads as much of the machine as may change. A preset does not.
    pub fn outline(&self) -> impl Fn() -> anyhow::Result<Outline> + Send + Sync + use<> {
        let (preset, root) = (self.preset, self.sysfs_root.clone());
        let own = Mutex::new(Own::new(Path::new("/")));
        move || {
            Ok(match (preset, &root) {
                (Some(_), _) => Outline::default(),
                (None, Some(root)) => sysfs::outline(root, &Cpuset::default())?,
                (None, None) => {
                    let cpuset = own.lock().unwrap_or_else(PoisonError::into_inner).read();
                    sysfs::outline(Path::new("/sys"), &cpuset.map_err(sysfs::SysfsError::from)?)?
                }
            })
        }
    }

    /// Whether what is planned for this machine can be done here: a plan for CPUs that are not there must not be applied.
    ///
    /// # Errors
    /// A preset, or a tree with CPUs that are not online here.
    pub fn check_applicable(&self, topology: &Topology) -> anyhow::Result<()> {
        if let Some(preset) = self.preset {
            let name = preset.name();
            return Err(UsageError(format!(
                "--preset {name} is a machine that is not at hand: its plan can be shown, not applied"
            ))
            .into());
        }
        if let Some(root) = &self.sysfs_root {
            let missing = topology.online().difference(&sysfs::read_host()?.online());
            if !missing.is_empty() {
                let root = root.display();
                return Err(UsageError(format!("{root} is another machine's: its CPUs {missing} are not online here, so its plan can be shown, not applied")).into());
            }
        }
        Ok(())
    }
}

fn preset(name: &str) -> Result<Preset, String> {
    let known = Preset::ALL.map(Preset::name).join(" and ");
    Preset::by_name(name).ok_or_else(|| format!("no such machine; {known} are known"))
}
