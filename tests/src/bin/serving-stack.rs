//! The synthetic serving stack as a program: launcher without `--role`, one process of the stack with it.

use std::{
    io::{self, BufRead},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use numa_agent_tests::{
    stack::{Family, Load, RoleArgs, crew::Stack, readable, roles, say},
    witness::{Look, now_ns},
};
use serde_json::json;

/// Plays one role.
#[derive(Debug, Parser)]
struct Role {
    #[command(flatten)]
    args: RoleArgs,
}

/// Runs a synthetic serving stack: per instance a scheduler, workers with forward threads and an rpc_proxy, and one Motor.
///
/// Reads commands from standard input and answers each with one JSON line: `start` starts one more instance, `mark`
/// tells the times between tokens since the mark before and every thread's migrations. Stops at the end of its input,
/// or after --seconds.
#[derive(Debug, Parser)]
struct Launch {
    /// Serving instances to start with.
    #[arg(long, default_value_t = 1)]
    instances: u32,
    /// Stop after this many seconds, whatever comes on standard input.
    #[arg(long)]
    seconds: Option<u64>,
    /// Directory for the witness records, one JSON-lines file per process.
    #[arg(long)]
    out: PathBuf,
    /// Processes that only burn CPU and belong to nobody.
    #[arg(long, default_value_t = 0)]
    hogs: u32,
    /// Tells this stack from others on the machine.
    #[arg(long, default_value = "stack")]
    tag: String,
    #[command(flatten)]
    load: Load,
}

fn main() -> Result<()> {
    let first = Look::now();
    if std::env::args().any(|argument| argument == "--role") {
        return roles::play(&Role::parse().args, first);
    }
    launch(Launch::parse())
}

fn launch(args: Launch) -> Result<()> {
    let exe = std::env::current_exe().context("cannot tell my own path")?;
    let family = Family { exe, out: args.out, tag: args.tag };
    let mut stack = Stack::start(family, args.load, args.hogs)?;
    for _ in 0..args.instances {
        stack.start_instance()?;
    }
    say(
        &json!({"ready": true, "instances": (0..stack.instances()).map(|i| stack.pids(i)).collect::<Vec<_>>()}),
    )?;
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut mark_ns = now_ns();
    while let Some(command) = next_command(end)? {
        match command.as_str() {
            "start" => {
                let instance = stack.start_instance()?;
                say(&json!({"started": instance, "pids": stack.pids(instance)}))?;
            }
            "mark" => {
                let now = now_ns();
                say(&json!({"seconds": (now - mark_ns) as f64 / 1e9, "gaps": stack.gaps(mark_ns)?,
                    "threads": stack.moves()?}))?;
                mark_ns = now;
            }
            command => bail!("no such command: {command:?}; there are start and mark"),
        }
    }
    if let Some(seconds) = args.seconds {
        let gaps = stack.gaps(mark_ns)?;
        say(&json!({"seconds": seconds, "gaps": gaps, "threads": stack.moves()?}))?;
    }
    stack.stop()
}

/// The next line of standard input; `None` when it is time to stop.
fn next_command(end: Option<Instant>) -> Result<Option<String>> {
    let mut line = String::new();
    if let Some(end) = end {
        let left = || end.saturating_duration_since(Instant::now());
        if readable(io::stdin(), left())? && io::stdin().lock().read_line(&mut line)? == 0 {
            // No more commands will come: what is left is the time.
            std::thread::sleep(left());
        }
    } else {
        io::stdin().lock().read_line(&mut line)?;
    }
    Ok(Some(line.trim().to_owned()).filter(|line| !line.is_empty()))
}
