//! `numa-agent jitter record`.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;

use crate::{
    agent::{self, Jitter, LineFormat, LineQueue, Progress, Session, Socket},
    cli::{CommandStatus, Incomplete, UsageError, machine::MachineArgs, plan_args::PlanArgs},
    core::{
        jitter::{
            file,
            observer::Limits,
            recording::{Connection, Recording},
            tap::{Tap, TapArgument},
        },
        rules::Needs,
        settings::Settings,
        task::TaskId,
    },
    host::{
        files,
        procfs::ProcReader,
        sys::{Gated, Host, Kernel},
    },
    report::escape,
};

/// What is kept in memory: an hour of one second intervals and more before they become longer, and every thread that any but
/// a storm of processes has.
const LIMITS: Limits = Limits { ended: 65_536, intervals: 4096 };
/// Time between full scans that catch what no event told.
const RECONCILE: Duration = Duration::from_secs(30);
/// Time between lines of progress where they cannot be written over each other.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Flags of `jitter record`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is recorded: with a configuration or other flags of the plan, the threads that the plan manages; with --pid, these
processes and all that descends from them; with a command, the command and all that descends from it. With both a plan and a
command, the plan's threads while the command (a benchmark, say) runs; with --tap alone, the processes that are tapped. Nothing is changed, and an agent may run beside it.

Recording ends when --duration is over, when the command or all processes given have ended, or on SIGINT, SIGTERM or SIGHUP; in
each case FILE is written. With a command, the first such signal is the command's (it is passed on unless the terminal has sent
it to both), and the second ends the recording. A command that goes on when --duration is over is waited for.

Exit status: the command's, or 128 plus the number of the signal that ended it; without a command 0. 1: the recording failed, or nothing was there to record; 2:
bad usage, or a command that cannot be run.")]
pub struct RecordArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// A process to record, with all that descends from it, without a plan. Repeatable.
    #[arg(long, value_name = "PID", conflicts_with_all = ["config", "group_pattern", "other_pattern", "group_pid", "other_pid", "command"])]
    pid: Vec<u32>,
    /// Record the times between sends on TCP connections: between tokens, where a server streams, with nothing from the
    /// application. `port:8000`: the connections on that local port, of whichever process; `pid:4711`: all those of a process,
    /// the ones that it makes included; 8000 alone is the port if something listens there, else the process.
    ///
    /// Tap the process that streams: a TLS or reverse proxy is one of its own. UNIX sockets are not seen. Before Linux 6.3
    /// (6.5 for sendfile) io_uring, sendfile, sendmmsg and 32-bit programs are not seen either, and every write or send on the
    /// host takes a little longer meanwhile; with later kernels, of TCP only.
    #[arg(long, value_name = "PORT|PID")]
    tap: Option<TapArgument>,
    /// How long to record, like 30s or 5m. Default: until something else ends it.
    #[arg(long, value_name = "DURATION", value_parser = super::period)]
    duration: Option<Duration>,
    /// Length of the intervals that the timeline is made of. They become longer in a recording of more than 4096.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::period)]
    interval: Duration,
    /// Where the recording goes; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Do not read where the processes' memory is: for that the kernel walks their page tables, once at the end (and with --pid
    /// once at the beginning, to know where they live), and holds up who maps memory meanwhile.
    #[arg(long)]
    no_numa_maps: bool,
    /// How many threads can be measured at once; each takes 5 KB of kernel memory. Default: 64 for each CPU, at least 4096.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_threads: Option<u32>,
    /// No progress on standard error.
    #[arg(short, long)]
    quiet: bool,
    /// A command to run and record.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Records; `messages` go to standard error.
pub fn run(args: RecordArgs, messages: LineQueue) -> anyhow::Result<()> {
    check_output(&args)?;
    let planned = args.plan.names_processes();
    let (tap, tapped) = args.tap()?;
    let gated = args.start_command()?;
    let (mut roots, mut what) = (args.roots(&tapped)?, None);
    if !planned {
        if let Some(gated) = &gated {
            roots.push(task_of(gated.pid).context("the command's process is gone")?);
        }
        what = Some(args.subject(&roots));
    }
    let mut progress = Teller::new(&args, messages.clone());
    let (subject, tapping) = (what.clone(), tap);
    let output = args.output.clone();
    let session = Session {
        duration: args.duration,
        processes: if gated.is_none() { roots.clone() } else { Vec::new() },
        command: gated,
        numa_maps: !args.no_numa_maps,
        progress: {
            let mut progress = progress.clone();
            Box::new(move |news| match news {
                Progress::Begun => progress.begin(subject.as_deref(), tapping.as_ref()),
                Progress::Interval(text) => progress.say(text),
            })
        },
        write: Box::new(move |recording| {
            write(&output, &recording)?;
            progress.end(&output, &recording, tap.as_ref());
            match recording.threads.is_empty() {
                true => Err(Incomplete(NOTHING.to_owned()).into()),
                false => Ok(()),
            }
        }),
    };
    let options = agent::Options {
        socket: Socket::None,
        gives_up: false,
        real_time: false,
        metrics: None,
        dry_run: true,
        journal: None,
        restore_on_exit: false,
        format: LineFormat::Silent,
        messages,
        reconcile: Some(RECONCILE),
        bpf_log: false,
        ring_bytes: None,
        max_accounts: args.max_threads,
        jitter: Jitter { interval: args.interval, limits: LIMITS, reports: None, processes: what, tap },
        outline: Box::new(args.machine.outline()),
        topology: Box::new(move || args.machine.topology()),
        settings: Box::new(move || match planned {
            true => args.plan.settings(None),
            false => {
                let forward = args.plan.forward_thread_pattern.clone();
                Ok(Settings::of_descendants(roots.clone(), forward)?)
            }
        }),
    };
    match agent::record(options, session)? {
        Some(status) if !status.success() => Err(CommandStatus(code(status)).into()),
        _ => Ok(()),
    }
}

impl RecordArgs {
    /// In words.
    fn subject(&self, roots: &[TaskId]) -> String {
        if self.command.is_empty() {
            let pids: Vec<String> = roots.iter().map(|root| root.tid.to_string()).collect();
            return format!("pid {}", pids.join(", "));
        }
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    /// What is tapped, and the processes that are.
    fn tap(&self) -> anyhow::Result<(Option<Tap>, Vec<TaskId>)> {
        let Some(asked) = self.tap else { return Ok((None, Vec::new())) };
        let reader = ProcReader::new("/proc", Needs::default());
        let listens = |port| !reader.listeners(port).is_empty();
        let tap = asked
            .resolve(listens, |pid| reader.process_of(pid))
            .map_err(|error| UsageError(error.to_string()))?;
        let tapped = match tap {
            Tap::Port(port) => reader.listeners(port),
            Tap::Process(task) => vec![task],
        };
        Ok((Some(tap), tapped))
    }

    fn roots(&self, tapped: &[TaskId]) -> anyhow::Result<Vec<TaskId>> {
        if self.pid.is_empty() && self.command.is_empty() && !self.plan.names_processes() {
            if !tapped.is_empty() {
                return Ok(tapped.to_vec());
            }
            let what = "give --config (or other flags of the plan), --pid, or a command after --";
            let why = match self.tap {
                Some(_) => "nothing to record: nothing listens on the tapped port yet",
                None => "nothing to record",
            };
            return Err(UsageError(format!("{why}; {what}")).into());
        }
        let root = |pid: &u32| {
            let task =
                task_of(*pid).filter(|_| Path::new("/proc").join(pid.to_string()).join("task").exists());
            task.ok_or_else(|| UsageError(format!("--pid {pid}: no such process runs")).into())
        };
        self.pid.iter().map(root).collect()
    }

    /// The command's process, which waits.
    fn start_command(&self) -> anyhow::Result<Option<Gated>> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(Some(Gated::start(command).with_context(|| format!("cannot run {}", program.to_string_lossy()))?))
    }
}

fn task_of(pid: u32) -> Option<TaskId> {
    Some(TaskId { tid: pid, start_time: Host.start_time(pid)? })
}

/// Finds out that the recording cannot be written before there is one.
fn check_output(args: &RecordArgs) -> anyhow::Result<()> {
    if args.output == Path::new("-") {
        if args.command.is_empty() {
            return Ok(());
        }
        return Err(UsageError("-o -: standard output is the command's; name a file".to_owned()).into());
    }
    files::check_writable(&args.output).with_context(|| format!("cannot write {}", args.output.display()))
}

fn write(path: &Path, recording: &Recording) -> anyhow::Result<()> {
    if path == Path::new("-") {
        return crate::cli::print(&escape::json(&file::print(recording)));
    }
    super::write_recording(path, recording)
}

/// As a shell gives it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// What is there to look at may be elsewhere: a recording of nothing is no success.
const NOTHING: &str = "nothing was recorded: no process matched (`numa-agent bind` with the same flags shows which do), or it was a kernel thread";

/// How it goes, on standard error: on a terminal one line that is written over.
#[derive(Clone)]
struct Teller {
    messages: LineQueue,
    quiet: bool,
    terminal: bool,
    begun: Instant,
    said: Option<Instant>,
}

impl Teller {
    fn new(args: &RecordArgs, messages: LineQueue) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { messages, quiet: args.quiet, terminal, begun: Instant::now(), said: None }
    }

    fn begin(&self, what: Option<&str>, tap: Option<&Tap>) {
        if !self.quiet {
            let what = escape::text(what.unwrap_or("the threads that the plan manages"));
            let tap = tap.map(|tap| format!("; tapping {tap}")).unwrap_or_default();
            self.messages.line(format!("recording {what}{tap}"));
        }
    }

    fn say(&mut self, text: &str) {
        let due = self.terminal || self.said.is_none_or(|said| said.elapsed() >= LINE_PERIOD);
        if self.quiet || !due {
            return;
        }
        self.said = Some(Instant::now());
        let line = format!("{} s: {text}", self.begun.elapsed().as_secs());
        if self.terminal {
            // To the beginning of the line, which is cleared. A full queue drops it.
            let _ = write!(self.messages, "\r\x1b[K{line}");
        } else {
            self.messages.line(line);
        }
    }

    fn end(&mut self, output: &Path, recording: &Recording, tap: Option<&Tap>) {
        let seconds = recording.runs.first().map_or(0.0, |run| run.seconds);
        let gaps: usize =
            recording.connections.iter().flat_map(Connection::token_gaps).map(<[u64]>::len).sum();
        let begin = if self.terminal { "\r\x1b[K" } else { "" };
        if let Some(tap) = tap.filter(|_| gaps == 0) {
            self.messages.line(format!(
                "{begin}warning: nothing was streamed on {tap}: no answer of three sends or more"
            ));
        }
        for lost in recording.runs.iter().flat_map(|run| &run.lost) {
            self.messages.line(format!("{begin}warning: {}", escape::text(lost)));
        }
        if !self.quiet {
            let output = escape::text(&output.display().to_string());
            let (threads, connections) = (recording.threads.len(), recording.connections.len());
            let tapped =
                tap.map(|_| format!(", {gaps} token times on {connections} connections")).unwrap_or_default();
            self.messages
                .line(format!("{begin}recorded {threads} threads{tapped} in {seconds:.1} s: {output}"));
        }
    }
}
