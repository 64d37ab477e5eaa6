//! The host agent: one owner of state, fed by one stream of inputs.
//!
//! The loop runs on one thread, `SCHED_FIFO` where allowed, and owns everything. Slow work happens elsewhere: scans and
//! reloads on threads of their own that give back what they read, lines of output through a queue. The order at start: attach the
//! programs, scan, carry out the plan, and only then drain the ring, which has kept what happened meanwhile.

mod announce;
mod executor;
mod lines;
mod output;
mod reload;
mod scans;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use numa_ebpf::place::Place;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinHandle},
};

use self::{executor::Executor, output::Output, reload::Reload};
pub use self::{
    executor::Marks,
    lines::{LineQueue, PATIENCE},
    output::LineFormat,
};
use crate::{
    core::{
        engine::Engine,
        event::{EventKind, TaskEvent},
        filter::KernelFilter,
        settings::Settings,
        stats::Stats,
        task::{ProcessFacts, TaskId},
        topology::{Cpu, Topology},
    },
    host::{
        bpf::{DropCounts, LoadOptions, Marked, Programs},
        procfs::{self, ProcReader},
        scan::{Scan, Scanner},
        sys::{self, Host, Kernel},
    },
};

/// Events handled before the loop looks at signals and timers again.
const BATCH: usize = 1024;
/// How often the kernel's loss counters are read.
const LOSS_PERIOD: Duration = Duration::from_secs(1);
/// The least time from one scan's start to the next: where losses go on, scans must not be all there is.
const SCAN_PAUSE: Duration = Duration::from_secs(1);
/// A period that no run lives to see the end of.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// What the agent is asked to do. Settings and machine come from a function, so that a reload reads them anew.
pub struct Options {
    /// Reads configuration and machine.
    pub load: Box<dyn Fn() -> anyhow::Result<(Settings, Topology)> + Send + Sync>,
    /// Look and report, change nothing.
    pub dry_run: bool,
    /// Format of the lines on standard output.
    pub format: LineFormat,
    /// Where messages for people go.
    pub messages: LineQueue,
    /// Time between scans; `None`: only after losses.
    pub reconcile: Option<Duration>,
    /// Have the kernel programs log what they do.
    pub bpf_log: bool,
    /// Size of the ring buffer, as [`LoadOptions::ring_bytes`].
    pub ring_bytes: u32,
}

/// One thing the loop deals with.
enum Input {
    /// The ring has events.
    Events,
    /// A background scan is done.
    Scanned(Done<Scan>),
    /// Configuration, machine and processes have been read anew.
    Reloaded(Done<Box<Reload>>),
    /// Time for the next scan.
    Reconcile,
    /// Time to see whether the kernel programs lost something.
    Losses,
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// What a thread of its own gave back; the outer error is its panic.
type Done<T> = Result<anyhow::Result<T>, JoinError>;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start: bad configuration, no plan for this machine, programs that do not load. Once it runs, nothing but
/// a signal ends it.
pub fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    let result = runtime.block_on(async {
        // Before anything takes long: a signal that comes while we start must not kill us.
        let signals = Signals::new().context("signal handlers")?;
        Agent::start(options)?.run(signals).await
    });
    // A scan that is under way is of no use any more.
    runtime.shutdown_background();
    result
}

struct Signals {
    stop: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

struct Agent {
    options: Arc<Options>,
    engine: Engine,
    executor: Executor<Host, Programs>,
    lost: DropCounts,
    /// A scan is wanted.
    rescan: bool,
    /// The next scan follows a loss, see [`Scanner::after_loss`].
    after_loss: bool,
    scan_started: Instant,
    scan: Option<JoinHandle<anyhow::Result<Scan>>>,
    reload: Option<JoinHandle<anyhow::Result<Box<Reload>>>>,
}

impl Agent {
    fn start(options: Options) -> anyhow::Result<Self> {
        let (settings, topology) = (options.load)()?;
        anyhow::ensure!(
            sys::in_initial_pid_namespace(),
            "the agent is in a pid namespace of its own, where the host's pids mean nothing; run it on the host, or with hostPID: true (--pid=host)"
        );
        let own = procfs::own_processes("/proc".as_ref());
        let mut engine = Engine::new(topology, settings, own)?;
        pin_pids(&mut engine);
        let mut programs = Programs::load(&load_options(&options, engine.topology()))?;
        programs.set_filter(&KernelFilter::new(engine.rules().settings()))?;
        let mut stats = Stats::default();
        stats.counts_migrations = programs.health().has("migrate");
        let executor = Executor {
            kernel: Host,
            marks: programs,
            scanner: scanner(&engine, false),
            dry_run: options.dry_run,
            output: Output::start(options.format, options.messages.clone()),
            stats,
        };
        let mut agent = Self {
            options: Arc::new(options),
            engine,
            executor,
            lost: DropCounts::default(),
            rescan: false,
            after_loss: false,
            scan_started: Instant::now(),
            scan: None,
            reload: None,
        };
        agent.scan_now()?;
        agent.step_aside();
        sys::release_freed_memory();
        Ok(agent)
    }

    async fn run(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let ring = sys::watch(self.executor.marks.ring_fd()?).context("ring buffer")?;
        let mut reconcile = interval(self.options.reconcile.unwrap_or(NEVER));
        let mut losses = interval(LOSS_PERIOD);
        let priority = sys::prioritise_event_thread();
        self.say_ready(&priority.to_string());
        let mut backlog = false;
        loop {
            let input = tokio::select! {
                biased;
                _ = signals.stop.recv() => Input::Stop,
                _ = signals.interrupt.recv() => Input::Stop,
                _ = signals.hangup.recv() => Input::Reload,
                reload = finished(&mut self.reload) => Input::Reloaded(reload),
                scan = finished(&mut self.scan) => Input::Scanned(scan),
                _ = reconcile.tick() => Input::Reconcile,
                _ = losses.tick() => Input::Losses,
                // Yielding lets the runtime look at signals and timers, which a future that is ready at once does not.
                () = tokio::task::yield_now(), if backlog => Input::Events,
                ready = ring.readable() => {
                    let mut ready = ready.context("ring buffer")?;
                    // Cleared before reading: what comes while we drain makes it ready again.
                    ready.clear_ready();
                    Input::Events
                }
            };
            match input {
                Input::Stop => break,
                Input::Reload => self.start_reload(),
                Input::Reloaded(reload) => self.finish_reload(reload),
                Input::Events => backlog = self.drain(),
                Input::Scanned(scan) => self.finish_scan(scan),
                Input::Reconcile => self.rescan = true,
                Input::Losses => self.note_losses(),
            }
            self.say_news();
            if self.rescan && self.scan.is_none() && self.scan_started.elapsed() >= SCAN_PAUSE {
                self.start_scan();
            }
        }
        self.finish();
        Ok(())
    }

    /// Handles what the ring holds, up to a batch; whether there may be more. Signals, timers and scans get their turn
    /// between batches, whatever storm is on.
    fn drain(&mut self) -> bool {
        for _ in 0..BATCH {
            match self.executor.marks.next_event() {
                None => return false,
                Some(Ok(event)) => self.handle(&event),
                Some(Err(error)) => tracing::warn!("event from the kernel programs: {error}"),
            }
        }
        true
    }

    fn handle(&mut self, event: &TaskEvent) {
        match &event.kind {
            EventKind::Exit { slot: Some(slot) } => self.note_ended(event, *slot),
            EventKind::Migrate { from_cpu, to_cpu } => self.say_migrated(event, *from_cpu, *to_cpu),
            _ => {}
        }
        let facts = self.engine.wants_facts(event).then(|| self.facts_at_exec(event)).flatten();
        let actions = self.engine.apply(event, facts);
        self.executor.execute(&mut self.engine, actions);
    }

    /// What `/proc` adds to an exec event.
    fn facts_at_exec(&self, event: &TaskEvent) -> Option<ProcessFacts> {
        let EventKind::Exec { ppid, uid, comm, cmdline, truncated } = &event.kind else { return None };
        let reader = &self.executor.scanner.reader;
        let cmdline = if *truncated { reader.brief(event.pid)?.cmdline } else { cmdline.clone() };
        reader.complete(ProcessFacts {
            pid: event.pid,
            start_time: event.task.start_time,
            ppid: *ppid,
            uid: *uid,
            comm: comm.clone(),
            cmdline,
            ..ProcessFacts::default()
        })
    }

    /// Puts the agent itself where background processes go: it must not be what disturbs a forward thread.
    fn step_aside(&self) {
        if self.options.dry_run {
            return;
        }
        if let Err(error) = Host.set_affinity(0, &self.engine.plan().others.cpus) {
            tracing::warn!("the agent stays where it is, not with the background processes: {error}");
        }
    }
}

impl Marks for Programs {
    fn mark(&mut self, pid: u32, task: TaskId) -> bool {
        match Programs::mark(self, pid, task) {
            Ok(marked) => marked == Marked::New,
            Err(error) => {
                tracing::warn!(
                    pid,
                    tid = task.tid,
                    "cannot mark the thread for the kernel programs: {error}"
                );
                false
            }
        }
    }

    fn unmark(&mut self, task: TaskId) {
        if let Err(error) = Programs::unmark(self, task) {
            tracing::warn!(tid = task.tid, "cannot unmark the thread: {error}");
        }
    }
}

/// The job's result, once there is one; for ever pending without a job.
async fn finished<T>(job: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let Some(handle) = job else { return std::future::pending().await };
    let result = handle.await;
    *job = None;
    result
}

fn flat<T>(done: Done<T>) -> anyhow::Result<T> {
    done.unwrap_or_else(|panic| Err(panic.into()))
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// A later process with a recycled pid is not the one that was asked for.
fn pin_pids(engine: &mut Engine) {
    for pid in engine.pin_pids(|pid| Host.start_time(pid)) {
        engine.warn(format!("pid {pid} was asked for, but no such process runs"));
    }
}

fn load_options(options: &Options, topology: &Topology) -> LoadOptions {
    LoadOptions {
        self_pid: std::process::id(),
        debug_log: options.bpf_log,
        places: places(topology),
        ring_bytes: options.ring_bytes,
        ..LoadOptions::default()
    }
}

fn places(topology: &Topology) -> Vec<(u32, Place)> {
    let nodes: Vec<u32> =
        topology.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| node.id).collect();
    let place = |cpu: &Cpu| {
        let node = nodes.binary_search(&cpu.node).unwrap_or(0) as u32;
        let core = cpu.core.first().unwrap_or(cpu.id);
        let cluster = cpu.cluster.as_ref().and_then(|cluster| cluster.first()).unwrap_or(core);
        (cpu.id, Place { node, row: node, socket: cpu.socket, cluster, core, critical: 0 })
    };
    topology.cpus.iter().map(place).collect()
}

fn scanner(engine: &Engine, after_loss: bool) -> Scanner {
    Scanner {
        reader: ProcReader::new("/proc", engine.rules().needs()),
        rules: engine.rules().clone(),
        managed: engine.processes().map(|process| process.facts.pid).collect(),
        after_loss,
    }
}
