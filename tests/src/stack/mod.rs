//! A serving stack of real processes: scheduler, workers with forward threads, rpc_proxy, Motor, hogs.
//!
//! All roles are one program that re-executes itself with a role's name as `argv[0]`. Every process says hello on its
//! standard output when it is ready and ends at the end of its standard input, so whoever holds the other ends knows
//! when it is up and leaves nothing behind by dying.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::sys::{Birth, born};

pub mod crew;
pub mod occupation;
pub mod puppet;
pub mod roles;
pub mod tokens;

/// How long a process may take to say hello, to answer or to end. Generous: the machine may be an emulated one.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The arguments of a process of the stack.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleArgs {
    /// What the process plays: scheduler, worker, rpc_proxy, motor, hog; any name for a puppet.
    #[arg(long)]
    pub role: String,
    /// Tells this stack from others on the machine.
    #[arg(long, default_value = "stack")]
    pub tag: String,
    /// Serving instance.
    #[arg(long, default_value_t = 0)]
    pub instance: u32,
    /// Directory of the witness records.
    #[arg(long)]
    pub out: PathBuf,
    /// Do as told on standard input instead of playing the role.
    #[arg(long)]
    pub puppet: bool,
    /// End after the first look: one of a storm of short processes.
    #[arg(long)]
    pub blink: bool,
    /// Ports to connect to.
    #[arg(long)]
    pub connect: Vec<u16>,
    /// How much there is to do.
    #[command(flatten)]
    pub load: Load,
}

/// How much an instance has to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Workers per instance.
    #[arg(long, default_value_t = 1)]
    pub workers: u32,
    /// Forward threads per worker.
    #[arg(long, default_value_t = 3)]
    pub forward: u32,
    /// Milliseconds between two tokens.
    #[arg(long, default_value_t = 10)]
    pub tick_ms: u64,
    /// Rounds of work a forward thread does per token; about a millisecond's worth by default.
    #[arg(long, default_value_t = 0)]
    pub work: u64,
}

impl Load {
    /// Time between two tokens.
    #[must_use]
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }
}

/// What all processes of a stack have in common.
#[derive(Debug, Clone)]
pub struct Family {
    /// The program.
    pub exe: PathBuf,
    /// Directory of the witness records.
    pub out: PathBuf,
    /// Tells this stack from others on the machine.
    pub tag: String,
}

impl Family {
    /// The family of a process started with `args`.
    ///
    /// # Errors
    /// If the program's own path is unknown.
    pub fn of(args: &RoleArgs) -> Result<Self> {
        let exe = std::env::current_exe().context("cannot tell my own path")?;
        Ok(Self { exe, out: args.out.clone(), tag: args.tag.clone() })
    }

    /// The command of a role: `ROLE --role ROLE --tag TAG --instance N --out DIR`.
    #[must_use]
    pub fn command(&self, role: &str, instance: u32) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg0(role).args(["--role", role, "--tag", &self.tag, "--instance", &instance.to_string()]);
        command.arg("--out").arg(&self.out);
        command
    }
}

/// First line of every process: it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Its pid, which its creator does not know of a daemon.
    pub pid: u32,
    /// Port it listens on; 0 for none.
    pub port: u16,
    /// Processes it started in turn.
    pub children: Vec<u32>,
}

/// Says hello, listening on `port`, with `children` started.
///
/// # Errors
/// If nobody listens.
pub fn say_hello(port: u16, children: Vec<u32>) -> Result<()> {
    say(&Hello { pid: std::process::id(), port, children })
}

/// Writes one JSON line to standard output.
///
/// # Errors
/// If nobody listens.
pub fn say(message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Whether there is something to read from `source` (also its end) before `patience` is over.
///
/// # Errors
/// As `poll(2)`.
pub fn readable(source: impl AsFd, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            result => return Ok(result.context("poll")? > 0),
        }
    }
}

/// A running process of the stack, as its creator sees it.
#[derive(Debug)]
pub struct Actor {
    /// What it said when it was ready.
    pub hello: Hello,
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts `command` and waits for its hello.
    ///
    /// # Errors
    /// If it does not start, or does not say hello.
    pub fn start(mut command: Command, birth: Birth) -> Result<Self> {
        born(&mut command, birth);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let name = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("standard output was piped")?);
        let hello = Hello { pid: child.id(), port: 0, children: Vec::new() };
        let mut actor = Self { hello, name, child, stdin, stdout };
        if birth == Birth::Daemon {
            actor.child.wait().context("cannot reap a daemon's intermediate process")?;
        }
        actor.hello = actor.hear()?;
        Ok(actor)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.hello.pid
    }

    /// Sends it one JSON line.
    ///
    /// # Errors
    /// If it is gone.
    pub fn tell(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        stdin.write_all(&line).with_context(|| format!("cannot tell {}", self.name))
    }

    /// Waits for one JSON line from it.
    ///
    /// # Errors
    /// If it ends, or is silent for [`PATIENCE`].
    pub fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T> {
        if !readable(self.stdout.get_ref(), PATIENCE)? {
            bail!("{} said nothing for {PATIENCE:?}", self.name);
        }
        let mut line = String::new();
        self.stdout.read_line(&mut line).with_context(|| format!("cannot hear {}", self.name))?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Errors
    /// If it does not end by itself in time, or ends badly.
    pub fn stop(mut self) -> Result<()> {
        drop(self.stdin.take());
        // Nobody writes any more: what becomes readable is the end, which comes with the process's.
        if !readable(self.stdout.get_ref(), PATIENCE)? {
            bail!("{} did not end within {PATIENCE:?}", self.name);
        }
        let status = self.child.wait().with_context(|| format!("cannot reap {}", self.name))?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Who was started by another program, or is a daemon, whose intermediate has been reaped, ends by itself as its standard input closes.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Where tokens of `instance` are recorded.
fn token_file(out: &Path, instance: u32) -> PathBuf {
    out.join(format!("tokens-{instance}.jsonl"))
}
