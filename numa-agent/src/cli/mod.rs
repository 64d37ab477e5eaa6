//! The command line: one file per subcommand; [`main`] maps results to exit codes.
//!
//! Exit codes: 0 done and verified; 1 the thing asked for failed; 2 bad usage or bad configuration; 126 and 127 as a shell's,
//! for a program that cannot be run or is not there.

mod bind;
mod check;
mod completions;
mod doctor;
mod exec;
mod guard;
mod irq;
mod jitter;
mod journal_args;
mod machine;
mod man;
mod offered;
mod plan_args;
mod repair;
mod report_file;
mod restore;
mod run;
mod status;
mod topology;
mod watch;

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    agent::{CannotRun, LineQueue, PATIENCE},
    core::{config::ConfigError, plan::PlanError},
    view::terminal::Messages,
};

/// Puts every process and thread of an inference server on the right NUMA node, and keeps it there.
#[derive(Debug, Parser)]
#[command(
    name = "numa-agent",
    version,
    max_term_width = 110,
    after_help = "\
Exit status: 0 done and verified; 1 what was asked for failed, or a check did not pass; 2 bad usage or bad configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show sockets, NUMA nodes, clusters, caches, distances and memory.
    Topology(topology::TopologyArgs),
    /// Plan, and bind what runs now: a dry run with a report unless --apply is given.
    Bind(bind::BindArgs),
    /// Run the host agent: bind processes and threads the moment they are born, until stopped.
    Run(run::RunArgs),
    /// Show the running agent: its plan, who is in which group, what was done and what was lost.
    Status(status::StatusArgs),
    /// Watch it live: nodes, moves between them, the threads that matter and what happens to them; changes nothing.
    Watch(watch::WatchArgs),
    /// Start a program inside the plan: CPUs and memory policy are set before its first instruction.
    Exec(exec::ExecArgs),
    /// Move the pages of what runs to where the plan has them, a few at a time: a dry run unless --apply is given.
    Repair(repair::RepairArgs),
    /// Interrupts and network queues of devices: plan them onto their sockets and off the threads that matter; apply, restore.
    #[command(subcommand)]
    Irq(irq::IrqCommand),
    /// Undo what was changed: masks, cpusets and interrupts get back what they had, unless others have changed them since.
    Restore(restore::RestoreArgs),
    /// Scheduling jitter and tokens: record, report, compare before and after.
    #[command(subcommand)]
    Jitter(jitter::JitterCommand),
    /// Go through the acceptance checklist, with evidence: the host, the plan and who is where, before and after.
    Check(Box<check::CheckArgs>),
    /// Say what this kernel and host can and cannot do for the agent, with the fix.
    Doctor(doctor::DoctorArgs),
    /// Print what a shell needs to complete the command line.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write it and those of all subcommands into a directory.
    Man(man::ManArgs),
    /// What `run` starts to look after processes that are held at exec.
    #[command(hide = true, name = guard::SUBCOMMAND)]
    Guard(guard::GuardArgs),
}

/// For people, or for programs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What was asked for makes no sense, independent of the machine: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Some of what was asked for did not succeed, and has been reported already: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Incomplete(String);

/// The command that was run ended so: not our failure, but our exit status.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with {0}")]
struct CommandStatus(u8);

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Guard(args) = &cli.command {
        return guard::run(args);
    }
    let messages = LineQueue::start(Messages);
    start_logging(messages.clone());
    // Commands that end by themselves write all they have to say; the agent ends when told to.
    let patience = if matches!(cli.command, Command::Run(_)) { PATIENCE } else { Duration::MAX };
    let result = match cli.command {
        Command::Topology(args) => topology::run(&args),
        Command::Bind(args) => bind::run(&args),
        Command::Run(args) => run::run(args, messages.clone()),
        Command::Status(args) => status::run(&args),
        Command::Watch(args) => watch::run(args, messages.clone()),
        Command::Exec(args) => exec::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Irq(command) => irq::run(&command),
        Command::Restore(args) => restore::run(&args),
        Command::Jitter(command) => jitter::run(command, messages.clone()),
        Command::Check(args) => check::run(&args, messages.clone()),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Guard(args) => return guard::run(&args),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<CommandStatus>() => exit_code(&error),
        Err(error) => {
            // Each line by itself: messages may have several, but hold names from other processes too.
            let message = format!("{error:#}");
            let lines: Vec<String> = message.lines().map(crate::report::escape::text).collect();
            messages.line(format!("numa-agent: {}", lines.join("\n")));
            exit_code(&error)
        }
    };
    messages.flush_within(patience);
    code
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(CommandStatus(status)) = error.downcast_ref() {
        return ExitCode::from(*status);
    }
    if let Some(error) = error.downcast_ref::<exec::CannotExec>() {
        return ExitCode::from(error.status());
    }
    // A plan that cannot be made is bad usage, but for a machine that has no CPUs for anybody.
    let plan =
        error.downcast_ref::<PlanError>().is_some_and(|error| !matches!(error, PlanError::NoCpus { .. }));
    let usage = plan || error.is::<UsageError>() || error.is::<ConfigError>() || error.is::<CannotRun>();
    ExitCode::from(if usage { 2 } else { 1 })
}

/// Messages go to standard error; `NUMA_AGENT_LOG=debug` shows more.
fn start_logging(messages: LineQueue) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("NUMA_AGENT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || messages.clone())
        // Its own complaints go to standard error by `eprintln!`, which panics where nobody reads.
        .log_internal_errors(false)
        .with_ansi(colour)
        .with_target(false)
        .init();
}

/// Writes a message to standard error at once, whether or not anybody reads it.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "numa-agent: {message}");
}

/// Writes `text` to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}
