//! What tests that run the agent against played processes have in common: a directory, a configuration, the processes, and what these see
//! of themselves. Where they belong is for the tests to say: a `Stage` of theirs has a cast, and a machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use numa_agent::core::idset::CpuSet;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    eventually,
    stack::{Family, puppet::Puppet},
    sys::Birth,
    witness::{self, Point, Record, now_ns},
};

/// The processes of one test, and where they write.
pub struct Cast {
    /// What they have in common.
    pub family: Family,
    /// All files of the test are in here.
    pub dir: TempDir,
}

impl Cast {
    /// A cast whose processes are told from others' by `tag`, played by the program `exe`.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    #[must_use]
    pub fn new(exe: &str, tag: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = dir.path().join("witness");
        fs::create_dir(&out).expect("a directory for the witness");
        Self { family: Family { exe: exe.into(), out, tag: tag.to_owned() }, dir }
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("numa.json")
    }

    /// A configuration for these processes only, everything else as it is by default.
    #[must_use]
    pub fn config(&self) -> Value {
        json!({
            "group_patterns": [format!("--role (scheduler|worker|rpc_proxy) --tag {} ", self.family.tag)],
            "other_patterns": [format!("--role motor --tag {} ", self.family.tag)],
            "report": self.dir.path().join("report.md"),
        })
    }

    /// Writes a configuration.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_config(&self, config: &Value) {
        fs::write(self.config_path(), config.to_string()).expect("write the configuration");
    }

    /// Arguments that lead a command to the configuration.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        vec!["--config".to_owned(), utf8(&self.config_path())]
    }

    /// A process that does as it is told.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn puppet(&self, role: &str, instance: u32) -> Puppet {
        Puppet::start(&self.family, role, instance, Birth::Session).expect("start a puppet")
    }

    /// All looks so far.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        witness::read(&self.family.out).expect("read the witness records")
    }

    /// Waits until thread `tid` has seen itself as it should be, twice in a row from now on.
    ///
    /// # Panics
    /// If that takes too long; says where it belongs, `place`.
    pub fn settle_thread(&self, tid: u32, place: &CpuSet, fits: impl Fn(&Record) -> bool) {
        let since = now_ns();
        eventually(|| {
            let records = self.records();
            let looks: Vec<_> =
                records.iter().filter(|look| look.tid == tid && look.at_ns >= since).collect();
            if looks.iter().rev().take_while(|look| fits(look)).count() >= 2 {
                return Ok(());
            }
            Err(format!("{tid} is not on {place}: {:?}", looks.last()))
        });
    }

    /// Waits until every living thread that has a place by `plan` has seen itself there, `times` in a row from now on: its mask as it
    /// `fits` the place, its CPU in it. All looks.
    ///
    /// # Panics
    /// If that takes too long, or nobody has a place; says who belongs where.
    pub fn settle_all(
        &self,
        plan: impl Fn(&Record) -> Option<CpuSet>,
        fits: impl Fn(&CpuSet, &CpuSet) -> bool,
        times: usize,
    ) -> Vec<Record> {
        let since = now_ns();
        eventually(|| {
            let records = self.records();
            let mut settled = 0;
            for ((pid, tid), looks) in witness::by_thread(&records, 0) {
                let last = looks[looks.len() - 1];
                let lives = last.point != Point::End && lives(pid, tid);
                let Some(place) = plan(last).filter(|_| lives) else { continue };
                let there = |look: &&&Record| {
                    look.at_ns >= since && fits(&look.cpus, &place) && look.cpus.contains(look.cpu)
                };
                if looks.iter().rev().take_while(there).count() < times {
                    return Err(format!("belongs on {place}: {last:?}"));
                }
                settled += 1;
            }
            if settled > 0 { Ok(records) } else { Err("nobody has a place".to_owned()) }
        })
    }
}

/// A path of ours as an argument.
///
/// # Panics
/// If it is not UTF-8, which temporary directories are.
#[must_use]
pub fn utf8(path: &Path) -> String {
    path.to_str().expect("a temporary directory in UTF-8").to_owned()
}

/// Whether there is such a thread.
#[must_use]
pub fn lives(pid: u32, tid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/task/{tid}")).exists()
}

/// Whether the guide's default patterns call a thread of that name a forward thread.
#[must_use]
pub fn is_forward(comm: &str) -> bool {
    ["forward", "prefill", "decode"].iter().any(|name| comm.contains(name))
}
