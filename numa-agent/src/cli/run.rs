//! `numa-agent run`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{Format, journal_args::JournalArgs, machine::MachineArgs, offered::words, plan_args::PlanArgs};
use crate::{
    agent::{self, Jitter, LineFormat, LineQueue, Metrics, Reports, Socket},
    core::{
        jitter::observer::Limits,
        settings::{DriftPolicy, Settings},
    },
};

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    journal: JournalArgs,
    /// At the end give back all masks and cpusets that are in the journal, as `numa-agent restore` does.
    #[arg(long, conflicts_with = "no_journal")]
    restore_on_exit: bool,
    /// What is done when somebody else changes the mask of a managed thread: observe, reapply (put it back up to 8 times in 10 s, then
    /// at reconcile) or enforce (always, each time after a longer wait). Over the configuration's `drift`.
    #[arg(long, value_parser = words::<DriftPolicy>(DriftPolicy::WORDS), hide_possible_values = true)]
    drift: Option<DriftPolicy>,
    /// Observe and report only: change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Lines on standard output: text for people, json for everything.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Seconds between full scans that catch what no event told; 0: only after lost events.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    reconcile: u64,
    /// Leave the event thread among the ordinary ones, not SCHED_FIFO 1. On a busy machine new processes then run off plan for
    /// milliseconds until it is the event thread's turn.
    #[arg(long)]
    no_real_time: bool,
    /// Log what the kernel programs do (slow; for debugging).
    #[arg(long)]
    bpf_log: bool,
    /// How many threads can be measured at once; each takes 5 KB of kernel memory. Those beyond are bound all the same, and
    /// counted. Default: 64 for each CPU, at least 4096.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_threads: Option<u32>,
    /// Size of the ring buffer between kernel and agent; tests make it too small.
    #[arg(long, value_name = "BYTES", hide = true)]
    ring_bytes: Option<u32>,
    /// Where reports of scheduling jitter go: at the end, on SIGUSR1 and every --report-every. The ending (.md, .html, .txt,
    /// .json) says in which format; beside it goes the recording for `jitter report` and `jitter compare`.
    #[arg(long, value_name = "PATH", default_value = "workflow_visualization/numa_jitter_report.md")]
    jitter_report: PathBuf,
    /// Time between reports of scheduling jitter, like 10m.
    #[arg(long, value_name = "DURATION", value_parser = super::jitter::period)]
    report_every: Option<Duration>,
    /// Where `numa-agent status` and `watch` connect: a UNIX socket, for root and the members of the group numa-agent. One agent
    /// listens there; another has to have its own. Default: /run/numa-agent/agent.sock, and none where it cannot be made.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// No socket: nobody can look at this agent.
    #[arg(long, conflicts_with = "socket")]
    no_socket: bool,
    /// Where Prometheus finds metrics: an IP address and a port, like 127.0.0.1:9464 or [::1]:9464; port 0 is any that is free.
    /// There is no authentication. Default: the configuration's `metrics`, or nowhere.
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint)]
    metrics: Option<SocketAddr>,
    /// Also metrics of up to N single threads, forward threads first: time series that come and go with the threads.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    metrics_threads: u32,
}

fn endpoint(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, like 127.0.0.1:9464 or [::1]:9464")
}

impl RunArgs {
    fn socket(&self) -> Socket {
        match &self.socket {
            _ if self.no_socket => Socket::None,
            Some(path) => Socket::At(path.clone()),
            None => Socket::Default,
        }
    }
}

/// Length of an interval of the timeline.
const INTERVAL: Duration = Duration::from_secs(10);
/// What is kept in memory: four hours of intervals before they become longer, the last threads that ended.
const LIMITS: Limits = Limits { ended: 2048, intervals: 1440 };

/// Runs the agent until it is stopped; its `messages` go to standard error.
pub fn run(args: RunArgs, messages: LineQueue) -> anyhow::Result<()> {
    let socket = args.socket();
    let options = agent::Options {
        socket,
        gives_up: true,
        real_time: !args.no_real_time,
        metrics: Some(Metrics { address: args.metrics, threads: args.metrics_threads as usize }),
        dry_run: args.dry_run,
        journal: args.journal.path(),
        restore_on_exit: args.restore_on_exit,
        format: match args.format {
            Format::Text => LineFormat::Text,
            Format::Json => LineFormat::Json,
        },
        messages,
        reconcile: (args.reconcile > 0).then(|| Duration::from_secs(args.reconcile)),
        bpf_log: args.bpf_log,
        ring_bytes: args.ring_bytes,
        max_accounts: args.max_threads,
        jitter: Jitter {
            interval: INTERVAL,
            limits: LIMITS,
            reports: Some(Reports { path: args.jitter_report.clone(), every: args.report_every }),
            processes: None,
            tap: None,
        },
        outline: Box::new(args.machine.outline()),
        topology: Box::new(move || {
            let topology = args.machine.topology()?;
            if !args.dry_run {
                args.machine.check_applicable(&topology)?;
            }
            Ok(topology)
        }),
        settings: Box::new(move || {
            let settings = args.plan.settings(None)?;
            Ok(Settings { drift: args.drift.unwrap_or(settings.drift), ..settings })
        }),
    };
    agent::run(options)
}
