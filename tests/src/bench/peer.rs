//! Who puts tasks where they belong: the agent, and what else people use for that.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use numa_agent::core::idset::CpuSet;
use serde::Serialize;
use serde_json::json;

use super::{
    gap::{self, Tool},
    halves::Halves,
    observer::{family_cpu_ns, tracefs_shell},
    target::{FORWARD, MEMBER, PROGRAM, Stayer},
};
use crate::{
    agent::Agent,
    holder,
    sys::{Birth, born},
};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// `numa-agent run`, as it is by default.
    Agent,
    /// The same with `--no-real-time`.
    AgentOrdinary,
    /// The same with `hold`.
    AgentHold,
    /// A listener on the process events connector, `SCHED_FIFO`.
    Connector,
    /// The same with ordinary priority.
    ConnectorOrdinary,
    /// TuneD with a profile that has the scheduler plugin alone, `runtime=1`.
    Tuned,
    /// bpftrace, and a shell that calls taskset on what it prints.
    Bpftrace,
    /// A shell that calls `ps` every second, and taskset on what matches.
    Ps,
}

/// Whom a peer is to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The programs and threads that the bench starts.
    Targets,
    /// Nobody that there is.
    Nobody,
}

/// How long a peer may take until it binds, or ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to bind somebody; then the next one is started.
const TO_BIND: Duration = Duration::from_secs(2);

/// TuneD with its own configuration, state and log, in a mount namespace of its own: `$1` is the directory with the profile, which may be one
/// of those that are not seen there.
const TUNED: &str = "mount --bind \"$1\" /etc/tuned && mount -t tmpfs tmpfs /run && \
     { ! [ -d /var/lib/tuned ] || mount -t tmpfs tmpfs /var/lib/tuned; } && \
     exec tuned --no-dbus --no-socket --log /etc/tuned/tuned.log --pid /etc/tuned/tuned.pid --profile bench";

/// What bpftrace prints, and a shell that binds: `$1` is the program, `$2` where programs and members belong, `$3` where forward threads do.
const BPFTRACE: &str = "bpftrace -B line -e 'tracepoint:sched:sched_process_exec { printf(\"%d %s\\n\", args->pid, str(args->filename)); } \
     tracepoint:task:task_rename { printf(\"%d %s\\n\", args->pid, args->newcomm); }' | while read -r tid name; do case $name in \
     */\"$1\"|\"$4\") taskset -pc \"$2\" \"$tid\" ;; \"$5\") taskset -pc \"$3\" \"$tid\" ;; esac; done";

/// The script that people begin with; arguments as above.
const PS: &str = "while sleep 1; do ps -eLo tid=,comm= | while read -r tid name; do case $name in \
     \"$1\"|\"$4\") taskset -pc \"$2\" \"$tid\" ;; \"$5\") taskset -pc \"$3\" \"$tid\" ;; esac; done; done";

impl Peer {
    /// All, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Agent,
        Self::AgentOrdinary,
        Self::AgentHold,
        Self::Connector,
        Self::ConnectorOrdinary,
        Self::Tuned,
        Self::Bpftrace,
        Self::Ps,
    ];

    /// What tables call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Agent => "numa-agent",
            Self::AgentOrdinary => "numa-agent --no-real-time",
            Self::AgentHold => "numa-agent, hold",
            Self::Connector => "proc connector, SCHED_FIFO",
            Self::ConnectorOrdinary => "proc connector, SCHED_OTHER",
            Self::Tuned => "TuneD scheduler plugin",
            Self::Bpftrace => "bpftrace, taskset",
            Self::Ps => "ps every second, taskset",
        }
    }

    /// Whether it is the agent.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Agent | Self::AgentOrdinary | Self::AgentHold)
    }

    /// What of others it takes.
    #[must_use]
    pub fn tool(self) -> Option<Tool> {
        match self {
            Self::Tuned => Some(Tool { program: "tuned", package: "tuned" }),
            Self::Bpftrace => Some(gap::BPFTRACE),
            _ => None,
        }
    }

    /// Starts it, and waits until it binds. Its files go into `dir`.
    ///
    /// # Errors
    /// If it does not start, or does not bind.
    pub fn start(self, whom: Whom, halves: &Halves, dir: &Path) -> Result<Binding> {
        self.start_with(whom, halves, dir, &[])
    }

    /// The same; `more` are further arguments of the agent's, if it is one.
    ///
    /// # Errors
    /// As [`Peer::start`].
    pub fn start_with(self, whom: Whom, halves: &Halves, dir: &Path, more: &[String]) -> Result<Binding> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let program = if whom == Whom::Targets { PROGRAM } else { "no-such-program" };
        let log = dir.join("peer.log");
        if self.is_ours() {
            let agent = self.agent(program, halves, dir, more)?;
            return Ok(Binding { peer: self, agent: Some(agent), child: None, log });
        }
        let out = File::create(&log)?;
        let mut command = self.command(program, halves, dir)?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        // A group of its own, which ends as a whole.
        born(&mut command, Birth::Session);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut binding = Binding { peer: self, agent: None, child: Some(child), log };
        binding.wait_until_it_binds(whom, halves)?;
        Ok(binding)
    }

    fn agent(self, program: &str, halves: &Halves, dir: &Path, more: &[String]) -> Result<Agent> {
        let hold = self == Self::AgentHold;
        // Programs by name, and the loads whose threads rename themselves.
        let pattern = match (program, hold) {
            (PROGRAM, false) => format!("^{PROGRAM} |bench-load (renames|births|born)"),
            _ => format!("^{program} "),
        };
        let mut arguments = halves.arguments(dir, &pattern, &json!({ "hold": hold }))?;
        if self == Self::AgentOrdinary {
            arguments.push("--no-real-time".to_owned());
        }
        arguments.extend_from_slice(more);
        let mut agent = Agent::start(arguments);
        if hold {
            holder::next_guard(&mut agent, 0);
        }
        Ok(agent)
    }

    fn command(self, program: &str, halves: &Halves, dir: &Path) -> Result<Command> {
        let Halves { members, forward } = halves;
        let places = [members.to_string(), forward.to_string()];
        let script = |mut shell: Command, script: &str| {
            let [members, forward] = &places;
            shell.args([script, "sh", program, members, forward, MEMBER, FORWARD]);
            shell
        };
        let shell = || {
            let mut shell = Command::new("sh");
            shell.arg("-c");
            shell
        };
        Ok(match self {
            Self::Connector | Self::ConnectorOrdinary => {
                let mut command = Command::new(std::env::current_exe()?.with_file_name("bench-connector"));
                let [members, forward] = &places;
                command.args(["--program", program, "--members", members, "--forward", forward]);
                command.args((self == Self::Connector).then_some("--first"));
                command
            }
            Self::Tuned => {
                let etc = tuned_profile(program, members, dir)?;
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", TUNED, "sh"]).arg(etc);
                command
            }
            Self::Bpftrace => script(tracefs_shell(), BPFTRACE),
            Self::Ps => script(shell(), PS),
            Self::Agent | Self::AgentOrdinary | Self::AgentHold => bail!("the agent is started otherwise"),
        })
    }
}

/// What stands for `/etc/tuned`: one profile, with one plugin that has one rule, which nobody but ours matches.
fn tuned_profile(program: &str, place: &CpuSet, dir: &Path) -> Result<PathBuf> {
    let etc = dir.join("tuned");
    let profile = etc.join("bench");
    fs::create_dir_all(&profile).with_context(|| format!("cannot make {}", profile.display()))?;
    let mask: String = place.words().iter().rev().map(|word| format!("{word:016x}")).collect();
    // Priority of the rule, scheduler and its priority as they are, mask, regular expression for the command line.
    let text = format!(
        "[main]\nsummary=bench\n[scheduler]\nruntime=1\ngroup.bench=0:*:*:{mask}:/{program}( .*)?$\n"
    );
    fs::write(profile.join("tuned.conf"), text)?;
    fs::write(etc.join("tuned-main.conf"), "daemon = 1\ndynamic_tuning = 0\nreapply_sysctl = 0\n")?;
    Ok(etc)
}

/// A peer at work. Dropping it ends it.
#[derive(Debug)]
pub struct Binding {
    peer: Peer,
    agent: Option<Agent>,
    child: Option<Child>,
    log: PathBuf,
}

impl Binding {
    /// CPU time that it and what it has started have used so far, in nanoseconds.
    ///
    /// # Errors
    /// If it is gone.
    pub fn cpu_ns(&self) -> Result<u64> {
        let pid = self.agent.as_ref().map(Agent::pid).or_else(|| self.child.as_ref().map(Child::id));
        family_cpu_ns(pid.context("it has ended")?)
    }

    /// The agent, if it is one.
    #[must_use]
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Whether it notices what it has lost.
    #[must_use]
    pub fn counts_losses(&self) -> bool {
        self.peer.is_ours() || matches!(self.peer, Peer::Connector | Peer::ConnectorOrdinary)
    }

    /// What it printed.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).trim().to_owned()
    }

    fn last_line(&self) -> String {
        self.said().lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// It binds once it has bound somebody. Who binds nobody is given some time.
    fn wait_until_it_binds(&mut self, whom: Whom, halves: &Halves) -> Result<()> {
        let start = Instant::now();
        if whom == Whom::Nobody {
            thread::sleep(Duration::from_secs(3));
        }
        loop {
            let child = self.child.as_mut().context("a process")?;
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}: {}", self.peer.title(), self.last_line());
            }
            if whom == Whom::Nobody {
                return Ok(());
            }
            let (probe, begin) = (Stayer::start(halves)?, Instant::now());
            while !probe.is_bound() && begin.elapsed() < TO_BIND {
                thread::sleep(Duration::from_millis(5));
            }
            let bound = probe.is_bound();
            probe.end()?;
            if bound {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "{} binds nobody: {}", self.peer.title(), self.last_line());
        }
    }

    /// Ends it; the agent's last words, if it is one.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn stop(mut self) -> Result<Option<serde_json::Value>> {
        let Some(agent) = self.agent.take() else { return Ok(None) };
        let left = agent.stop();
        Ok(Some(left.events.last().context("no summary")?.clone()))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // What they would still print is not asked for.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_has_one_plugin_with_one_rule_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let etc = tuned_profile("bench-target", &"0-1,64".parse().unwrap(), dir.path()).unwrap();
        let text = fs::read_to_string(etc.join("bench/tuned.conf")).unwrap();
        assert_eq!(text.matches('[').count(), 2, "{text}");
        assert!(
            text.contains("group.bench=0:*:*:00000000000000010000000000000003:/bench-target( .*)?$"),
            "{text}"
        );
    }
}
