//! The machine that is measured on, and what else goes on there meanwhile.

use std::{env, fs, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::scratch::is_in_memory;
use crate::sys;

/// What a reader of the figures has to know of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Kernel release.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub arch: &'static str,
    /// The CPU's name as the kernel gives it.
    pub cpu: String,
    /// CPUs that we may use.
    pub cpus: usize,
    /// Whether there is a hypervisor below us.
    pub virtual_machine: bool,
    /// When, in UTC.
    pub date: String,
    /// Whether the agent's journal is in memory, as on hosts.
    pub files_in_memory: bool,
}

impl Facts {
    /// Of this machine.
    ///
    /// # Errors
    /// If procfs cannot be read.
    pub fn gather() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            arch: std::env::consts::ARCH,
            cpu: field("model name").or_else(|| field("CPU part")).unwrap_or_else(|| "unknown".to_owned()),
            cpus: sys::affinity(0)?.len(),
            virtual_machine: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            date: date(now.as_secs()),
            files_in_memory: is_in_memory(&env::temp_dir()),
        })
    }
}

/// `YYYY-MM-DD` of seconds since 1970, in the Gregorian calendar.
fn date(seconds: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, seconds / 86_400);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, day + 1)
}

/// CPU time of the whole machine since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// Not idle, not stolen.
    busy: u64,
    /// The hypervisor gave it to others.
    stolen: u64,
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and guest times that are part
/// of user time.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields = line.split_whitespace().map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let [user, nice, system, _, _, irq, softirq, stolen, ..] = fields[..] else { return None };
    Some(Ticks { busy: user + nice + system + irq + softirq, stolen })
}

/// A stretch of time of which it will be told how quiet the machine was.
#[derive(Debug)]
pub struct Stretch {
    start: Instant,
    before: Ticks,
}

/// How quiet it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Noise {
    /// Share of all CPUs' time that the hypervisor gave to others.
    pub stolen: f64,
    /// Share of all CPUs' time that went to what is not measured here.
    pub foreign: f64,
}

impl Noise {
    /// Whether a measurement is worth keeping: at most 1 % stolen and 5 % used by others.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.stolen <= 0.01 && self.foreign <= 0.05
    }
}

/// A clock tick of procfs (`USER_HZ`).
pub const TICK_NS: u64 = 10_000_000;

impl Stretch {
    /// Begins now.
    ///
    /// # Errors
    /// If `/proc/stat` cannot be read.
    pub fn begin() -> Result<Self> {
        Ok(Self { start: Instant::now(), before: read_ticks()? })
    }

    /// Ends now; `own_ns` of the CPU time was ours.
    ///
    /// # Errors
    /// As [`Stretch::begin`].
    pub fn end(self, own_ns: u64) -> Result<Noise> {
        let after = read_ticks()?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let all_ns = self.start.elapsed().as_nanos() as f64 * cpus as f64;
        let share = |ticks: u64, less_ns: f64| (((ticks * TICK_NS) as f64 - less_ns) / all_ns).max(0.0);
        Ok(Noise {
            stolen: share(after.stolen - self.before.stolen, 0.0),
            foreign: share(after.busy - self.before.busy, own_ns as f64),
        })
    }
}

fn read_ticks() -> Result<Ticks> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    ticks(&stat).context("/proc/stat does not begin with the CPU times")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_798_761_599), "2026-12-31");
        assert_eq!(date(1_798_761_600), "2027-01-01");
    }

    #[test]
    fn stolen_time_is_neither_busy_nor_idle() {
        let stat = "cpu  10 20 30 1000 500 1 2 7 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 63, stolen: 7 }));
        assert_eq!(ticks("cpu  10 20 30\n"), None);
        assert_eq!(ticks("intr 1\n"), None);
    }

    #[test]
    fn noise_is_flagged() {
        let quiet = |stolen, foreign| Noise { stolen, foreign }.is_quiet();
        assert!(quiet(0.0, 0.05) && !quiet(0.02, 0.0) && !quiet(0.0, 0.2));
    }
}
