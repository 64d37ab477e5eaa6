//! A whole running stack, as a test or the demo holds it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::{
    Actor, Family, Load, token_file,
    tokens::{Gaps, Token, rounds_per_millisecond},
};
use crate::{
    sys::Birth,
    witness::{self, Point, Record},
};

/// A running serving stack. Dropped, it kills all of its processes.
#[derive(Debug)]
pub struct Stack {
    family: Family,
    load: Load,
    schedulers: Vec<Actor>,
    others: Vec<Actor>,
}

/// One thread since some time, as the kernel counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadMoves {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Role of the process.
    pub role: String,
    /// Serving instance of the process.
    pub instance: u32,
    /// Thread's name.
    pub comm: String,
    /// CPUs it may run on.
    pub cpus: String,
    /// Moves from CPU to CPU in its life (`se.nr_migrations`); `None` on kernels that do not show it.
    pub migrations: Option<u64>,
}

impl Stack {
    /// Starts Motor and the hogs; [`Stack::start_instance`] starts the rest.
    ///
    /// # Errors
    /// If a process does not start.
    pub fn start(family: Family, mut load: Load, hogs: u32) -> Result<Self> {
        fs::create_dir_all(&family.out).with_context(|| format!("cannot create {}", family.out.display()))?;
        if load.work == 0 {
            load.work = rounds_per_millisecond();
        }
        let mut motor = family.command("motor", 0);
        motor.args(["--work", &load.work.to_string()]);
        let mut others = vec![Actor::start(motor, Birth::Session)?];
        for _ in 0..hogs {
            others.push(Actor::start(family.command("hog", 0), Birth::Plain)?);
        }
        Ok(Self { family, load, schedulers: Vec::new(), others })
    }

    /// Starts one more serving instance, in a session of its own; it makes tokens when this returns. Returns its number.
    ///
    /// # Errors
    /// If a process of it does not start.
    pub fn start_instance(&mut self) -> Result<u32> {
        let instance = self.schedulers.len() as u32;
        let mut scheduler = self.family.command("scheduler", instance);
        for (flag, value) in [
            ("--workers", u64::from(self.load.workers)),
            ("--forward", u64::from(self.load.forward)),
            ("--tick-ms", self.load.tick_ms),
            ("--work", self.load.work),
        ] {
            scheduler.args([flag, &value.to_string()]);
        }
        self.schedulers.push(Actor::start(scheduler, Birth::Session)?);
        Ok(instance)
    }

    /// The pids of an instance: scheduler, workers, rpc_proxy.
    #[must_use]
    pub fn pids(&self, instance: u32) -> Vec<u32> {
        let scheduler = &self.schedulers[instance as usize].hello;
        std::iter::once(scheduler.pid).chain(scheduler.children.iter().copied()).collect()
    }

    /// How many instances run.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.schedulers.len() as u32
    }

    /// What all processes of the stack have in common.
    #[must_use]
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Times between tokens of every instance from `since_ns` on.
    ///
    /// # Errors
    /// If a token file cannot be read.
    pub fn gaps(&self, since_ns: u64) -> Result<Vec<Gaps>> {
        let gaps = (0..self.instances()).map(|instance| Gaps::read(&self.family.out, instance, since_ns));
        gaps.filter_map(Result::transpose).collect()
    }

    /// The tokens of every instance that came out from `since_ns` on: JSON lines of `request` (the instance) and
    /// `timestamp_ns`, as `numa-agent jitter compare` reads them.
    ///
    /// # Errors
    /// If a token file cannot be read.
    pub fn token_lines(&self, since_ns: u64) -> Result<String> {
        let mut lines = String::new();
        for instance in 0..self.instances() {
            let tokens: Vec<Token> = witness::lines(&token_file(&self.family.out, instance))?;
            for token in tokens.iter().filter(|token| token.at_ns >= since_ns) {
                lines += &json!({ "request": instance, "timestamp_ns": token.at_ns }).to_string();
                lines.push('\n');
            }
        }
        Ok(lines)
    }

    /// Every living thread's place and migrations so far.
    ///
    /// # Errors
    /// If the witness records cannot be read.
    pub fn moves(&self) -> Result<Vec<ThreadMoves>> {
        let records = witness::read(&self.family.out)?;
        let last = witness::by_thread(&records, 0).into_values().filter_map(|looks| looks.last().copied());
        Ok(last.filter(|look| look.point != Point::End).map(ThreadMoves::of).collect())
    }

    /// Ends all processes and waits for them.
    ///
    /// # Errors
    /// If one does not end by itself, or ends badly.
    pub fn stop(self) -> Result<()> {
        self.schedulers.into_iter().chain(self.others).try_for_each(Actor::stop)
    }
}

impl ThreadMoves {
    fn of(look: &Record) -> Self {
        Self {
            pid: look.pid,
            tid: look.tid,
            role: look.role.clone(),
            instance: look.instance,
            comm: look.comm.clone(),
            cpus: look.cpus.to_string(),
            migrations: migrations(format!("/proc/{}/task/{}/sched", look.pid, look.tid)),
        }
    }
}

/// `se.nr_migrations` of a task by its file `sched`; shown by kernels with `CONFIG_SCHED_DEBUG`, from 6.15 on by all.
pub fn migrations(path: impl AsRef<Path>) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with("se.nr_migrations"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}
