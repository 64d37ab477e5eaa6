//! Who observes the scheduler while a load runs: nobody, empty programs, the agent, and the tools that come nearest to it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs::process::{Stat, all_processes};
use serde::Serialize;
use serde_json::json;

use super::{
    empty::{Empty, Hooks},
    fdinfo,
    gap::{BPFTRACE, PERF, Tool},
    machine::TICK_NS,
};
use crate::{
    agent,
    sys::{Birth, born},
};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observer {
    /// Nothing is attached.
    Nothing,
    /// Empty programs on `sched_switch` and `sched_wakeup`.
    Empty,
    /// `numa-agent jitter record --pid LOAD`.
    Managed,
    /// `numa-agent run` with a configuration that the load does not match.
    Unmanaged,
    /// libbpf-tools' `runqlat`.
    Runqlat,
    /// bpftrace's `runqlat.bt`.
    Bpftrace,
    /// `perf sched record`.
    PerfSched,
}

/// `runqlat.bt` of bpftrace without its `#include`, which asks for kernel headers: `TASK_RUNNING` is 0.
const RUNQLAT_BT: &str = "tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @qtime[args->pid] = nsecs; } \
     tracepoint:sched:sched_switch { if (args->prev_state == 0) { @qtime[args->prev_pid] = nsecs; } \
     $ns = @qtime[args->next_pid]; if ($ns) { @usecs = hist((nsecs - $ns) / 1000); } delete(@qtime[args->next_pid]); } \
     END { clear(@qtime); }";

/// Runs a command where tracefs is mounted; if the host has not mounted it, in a mount namespace of its own, so that the
/// host is left as it is.
const WITH_TRACEFS: &str =
    "[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";

/// How long an observer may take to attach or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// What has not changed for so long is attached.
const SETTLED: Duration = Duration::from_millis(300);

impl Observer {
    /// All, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Empty,
        Self::Managed,
        Self::Unmanaged,
        Self::Runqlat,
        Self::Bpftrace,
        Self::PerfSched,
    ];

    /// What tables call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing attached",
            Self::Empty => "empty programs",
            Self::Managed => "numa-agent, load managed",
            Self::Unmanaged => "numa-agent, load not managed",
            Self::Runqlat => "libbpf-tools runqlat",
            Self::Bpftrace => "bpftrace runqlat.bt",
            Self::PerfSched => "perf sched record",
        }
    }

    /// What of others it takes.
    #[must_use]
    pub fn tool(self) -> Option<Tool> {
        match self {
            Self::Nothing | Self::Empty | Self::Managed | Self::Unmanaged => None,
            Self::Runqlat => Some(Tool { program: "runqlat", package: "libbpf-tools" }),
            Self::Bpftrace => Some(BPFTRACE),
            Self::PerfSched => Some(PERF),
        }
    }

    /// Starts it for the load with that pid, and waits until it is attached. Its files go into `dir`.
    ///
    /// # Errors
    /// If it does not start or attaches nothing.
    pub fn start(self, load: u32, dir: &Path, hooks: Hooks) -> Result<Running> {
        let recording = dir.join("recording");
        let mut command = match self {
            Self::Nothing => return Ok(Running::idle(self, None)),
            Self::Empty => return Ok(Running::idle(self, Some(Empty::attach(hooks)?))),
            Self::Managed => {
                let pid = load.to_string();
                let mut command = agent::command(["jitter", "record", "--pid", &pid, "-o"]);
                command.arg(&recording);
                command
            }
            Self::Unmanaged => {
                let config = dir.join("unmanaged.json");
                fs::write(&config, json!({ "group_patterns": ["no-such-program-here"] }).to_string())?;
                let mut command = agent::command(["run", "--config"]);
                command.arg(config).arg("--no-socket");
                command
            }
            Self::Runqlat => Command::new("runqlat"),
            Self::Bpftrace => with_tracefs(&["bpftrace", "-e", RUNQLAT_BT]),
            Self::PerfSched => {
                let mut command = with_tracefs(&["perf", "sched", "record", "-o"]);
                command.arg(&recording);
                command
            }
        };
        let log = dir.join("observer.log");
        let out = fs::File::create(&log)?;
        // Reports that nobody asked for go where all is removed.
        command.current_dir(dir).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        born(&mut command, Birth::Plain);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut running = Running { observer: self, process: Some(child), _empty: None, log, recording };
        running.wait_until_attached()?;
        Ok(running)
    }
}

/// A shell where tracefs is mounted, up to the `-c` before its script.
#[must_use]
pub fn tracefs_shell() -> Command {
    with_tracefs(&["sh", "-c"])
}

fn with_tracefs(words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]).args(words);
    command
}

/// An observer at work. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    observer: Observer,
    process: Option<Child>,
    _empty: Option<Empty>,
    log: PathBuf,
    recording: PathBuf,
}

impl Running {
    fn idle(observer: Observer, empty: Option<Empty>) -> Self {
        Self { observer, process: None, _empty: empty, log: PathBuf::new(), recording: PathBuf::new() }
    }

    /// Its pid, if it is a process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// CPU time that its process has used so far, in nanoseconds.
    ///
    /// # Errors
    /// If it is gone.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.pid().map_or(Ok(0), cpu_ns)
    }

    /// It has attached what it attaches once that does not become more.
    fn wait_until_attached(&mut self) -> Result<()> {
        let start = Instant::now();
        let (mut count, mut since) = (0, start);
        while count == 0 || since.elapsed() < SETTLED {
            thread::sleep(Duration::from_millis(20));
            let child = self.process.as_mut().context("a process")?;
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}: {}", self.observer.title(), self.said());
            }
            let now = fdinfo::attachments(child.id())?;
            if now != count {
                (count, since) = (now, Instant::now());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{} attaches nothing: {}",
                self.observer.title(),
                self.said()
            );
        }
        Ok(())
    }

    /// The end of what it printed.
    fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        if text.trim().is_empty() { "it said nothing".to_owned() } else { text.trim().to_owned() }
    }

    /// Ends it as a user would, by Ctrl-C; where it leaves a recording, that is the path.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(mut self) -> Result<Option<PathBuf>> {
        let Some(child) = &mut self.process else { return Ok(None) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
        let ours = matches!(self.observer, Observer::Managed | Observer::Unmanaged);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                ensure!(!ours, "{} does not end on SIGINT", self.observer.title());
                // bpftrace 0.17 sometimes does not. What it would print is not asked for.
                child.kill()?;
            }
            thread::sleep(Duration::from_millis(10));
        };
        // Ours say whether they did what they were asked; the others' exit codes after Ctrl-C mean nothing.
        ensure!(!ours || status.success(), "{} ended with {status}: {}", self.observer.title(), self.said());
        Ok(Some(self.recording.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process
            && matches!(child.try_wait(), Ok(None))
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// CPU time of a process's threads, in nanoseconds (first field of `schedstat`).
///
/// # Errors
/// If it is gone.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).with_context(|| format!("cannot list {path}"))?;
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Ok(tasks.filter_map(Result::ok).filter_map(of).sum())
}

/// CPU time of a process and of all that has descended from it, in nanoseconds; of those that have ended in clock ticks.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn family_cpu_ns(pid: u32) -> Result<u64> {
    let family = family(pid)?;
    let ended = |stat: &Stat| (stat.cutime + stat.cstime).max(0).cast_unsigned() * TICK_NS;
    let ended: u64 = family.iter().map(ended).sum();
    // One that has just ended is in nobody's account yet.
    let alive = family.iter().filter_map(|stat| cpu_ns(stat.pid.cast_unsigned()).ok());
    Ok(alive.sum::<u64>() + ended)
}

/// A process and all that have descended from it.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn family(pid: u32) -> Result<Vec<Stat>> {
    let all: Vec<Stat> = all_processes()?.flatten().filter_map(|p| p.stat().ok()).collect();
    let mut family = BTreeSet::from([pid.cast_signed()]);
    while let Some(child) = all.iter().find(|one| family.contains(&one.ppid) && !family.contains(&one.pid)) {
        family.insert(child.pid);
    }
    Ok(all.into_iter().filter(|stat| family.contains(&stat.pid)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_that_of_all_threads() {
        let before = cpu_ns(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(cpu_ns(std::process::id()).unwrap() > before);
        assert!(cpu_ns(u32::MAX).is_err());
    }
}
