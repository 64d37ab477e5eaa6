//! The host agent: one owner of state, fed by one stream of inputs.
//!
//! The loop runs on one thread, `SCHED_FIFO` where allowed, and owns everything. Slow work happens elsewhere: scans and
//! reloads on threads of their own that give back what they read, lines of output through a queue. The order at start: attach the
//! programs, scan, carry out the plan, and only then drain the ring, which has kept what happened meanwhile.

mod announce;
mod executor;
mod lines;
mod machine;
mod measuring;
mod output;
mod reload;
mod reports;
mod scans;
mod session;
mod tapped;
mod viewers;
mod watch;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::errno::Errno;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinHandle},
};

use self::{
    executor::Executor,
    machine::{Machine, Survey},
    measuring::MemoryJob,
    output::Output,
    reload::Reload,
    session::Watched,
    tapped::Tapped,
    viewers::{Server, Viewing, Want},
    watch::{Pass, Watch},
};
pub use self::{
    executor::Marks,
    lines::{LineQueue, PATIENCE},
    measuring::Jitter,
    output::LineFormat,
    reports::Reports,
    session::{CannotRun, Progress, Session, observe, record},
};
use crate::{
    core::{
        engine::Engine,
        event::{EventKind, TaskEvent},
        filter::KernelFilter,
        idset::CpuSet,
        jitter::places::Places,
        memory::numa_maps::Memory,
        outline::Outline,
        settings::Settings,
        stats::Stats,
        task::{ProcessFacts, TaskId},
        topology::Topology,
    },
    host::{
        bpf::{DropCounts, LoadOptions, Programs, Sends, TapOptions},
        procfs::{self, ProcReader},
        scan::{Scan, Scanner},
        sys::{self, Host, Kernel, SysError},
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

/// Reads something, as often as it is asked to.
pub type Source<T> = Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>;

/// What the agent is asked to do.
pub struct Options {
    /// The configuration.
    pub settings: Source<Settings>,
    /// The machine.
    pub topology: Source<Topology>,
    /// As much of it as may change.
    pub outline: Source<Outline>,
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
    /// How many threads can be measured at once; by default 64 for each CPU, and 4096 at least.
    pub max_accounts: Option<u32>,
    /// What to do with what is measured.
    pub jitter: Jitter,
    /// Where viewers connect.
    pub socket: Socket,
}

/// Where viewers connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// At [`view::SOCKET`]; nowhere, with a warning, where it cannot be made.
    Default,
    /// There, or the agent does not start.
    At(PathBuf),
    /// Nowhere.
    None,
}

/// One thing the loop deals with.
enum Input {
    /// The ring has events.
    Events,
    /// A background scan is done.
    Scanned(Done<Scan>),
    /// Configuration, machine and processes have been read anew.
    Reloaded(Done<Box<Reload>>),
    /// The machine is another now.
    Changed(Outline),
    /// It has been read anew.
    Surveyed(Done<Survey>),
    /// Time for the next scan.
    Reconcile,
    /// Time to see whether the kernel programs lost something.
    Losses,
    /// The tap's ring is half full.
    Sends,
    /// The interval is over.
    Tick,
    /// More accounts are to be read.
    Measure,
    /// SIGUSR1, or time for a report.
    Report,
    /// A report has been written.
    Reported(Done<()>),
    /// The memory of processes has been read.
    Settled(Done<BTreeMap<TaskId, Memory>>),
    /// Viewers want something.
    Wanted(Want),
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop(sys::Signal),
    /// The command that is recorded has ended, or the time is over.
    Over,
}

/// What a thread of its own gave back; the outer error is its panic.
type Done<T> = Result<anyhow::Result<T>, JoinError>;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start: bad configuration, no plan for this machine, programs that do not load. Once it runs, nothing but
/// a signal ends it.
pub fn run(options: Options) -> anyhow::Result<()> {
    sys::share_heaps();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    let result = runtime.block_on(async {
        // Before anything takes long: a signal that comes while we start must not kill us.
        let mut signals = Signals::new().context("signal handlers")?;
        let mut agent = Agent::start(options, None)?;
        agent.turn(&mut signals).await?;
        agent.finish().await;
        Ok(())
    });
    // A scan that is under way is of no use any more.
    runtime.shutdown_background();
    result
}

struct Signals {
    stop: Signal,
    interrupt: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    /// Any that asks for the end of a command.
    async fn end(&mut self) -> sys::Signal {
        tokio::select! {
            _ = self.stop.recv() => sys::Signal::SIGTERM,
            _ = self.interrupt.recv() => sys::Signal::SIGINT,
            _ = self.hangup.recv() => sys::Signal::SIGHUP,
        }
    }
}

struct Agent {
    options: Arc<Options>,
    engine: Engine,
    executor: Executor<Host, Watch>,
    started_at: String,
    lost: DropCounts,
    /// Events of the kernel programs that made no sense.
    unreadable: u64,
    /// A scan is wanted.
    rescan: bool,
    /// The next scan follows a loss, see [`Scanner::after_loss`].
    after_loss: bool,
    scan_started: Instant,
    scan: Option<JoinHandle<anyhow::Result<Scan>>>,
    reload: Option<JoinHandle<anyhow::Result<Box<Reload>>>>,
    machine: Machine,
    /// Accounts are being read.
    pass: Option<Pass>,
    /// A report follows that pass.
    report_wanted: bool,
    reporting: Option<JoinHandle<anyhow::Result<()>>>,
    memory: Option<MemoryJob>,
    /// Recording, and not for ever.
    session: Option<Watched>,
    tapped: Option<Tapped>,
    /// Who looks on, if anybody can.
    viewing: Option<Viewing>,
    /// Goes last: it waits until nobody has anything to tell viewers any more.
    _server: Option<Server>,
}

impl Agent {
    /// `door` is where viewers come from if not by the socket.
    fn start(mut options: Options, door: Option<viewers::Door>) -> anyhow::Result<Self> {
        let settings = (options.settings)()?;
        // What changes while the rest is read is seen later.
        let outline = (options.outline)()?;
        let topology = (options.topology)()?;
        anyhow::ensure!(
            sys::in_initial_pid_namespace(),
            "the agent is in a pid namespace of its own, where the host's pids mean nothing; run it on the host, or with hostPID: true (--pid=host)"
        );
        let own = procfs::own_processes("/proc".as_ref());
        let mut engine = Engine::new(topology, settings, own)?;
        pin_pids(&mut engine);
        let mut programs = Programs::load(&load_options(&options, engine.topology()))?;
        programs.set_filter(&KernelFilter::new(engine.rules().settings()))?;
        if !programs.health().has("switch") && options.jitter.reports.take().is_some() {
            tracing::warn!(
                "no jitter reports: without the program `switch` no times are measured; see `numa-agent doctor`"
            );
        }
        let tapped = programs.take_tap().map(Tapped::new);
        // Before anything is bound: another agent may be at it already.
        let (server, feed) = viewers::open(&options.socket, door)?.unzip();
        let started_at = sys::now_rfc3339();
        let about = viewers::about(&options, programs.health(), &started_at);
        let viewing = feed.clone().map(|feed| Viewing::new(feed, about));
        let mut stats = Stats::default();
        stats.counts_migrations = programs.health().has("migrate");
        let planned = options.jitter.processes.is_none();
        let executor = Executor {
            kernel: Host,
            marks: Watch::start(programs, &engine, planned, options.jitter.limits),
            scanner: scanner(&engine, false),
            dry_run: options.dry_run,
            output: Output::start(options.format, options.messages.clone(), feed),
            stats,
        };
        let mut agent = Self {
            options: Arc::new(options),
            engine,
            executor,
            started_at,
            lost: DropCounts::default(),
            unreadable: 0,
            rescan: false,
            after_loss: false,
            scan_started: Instant::now(),
            scan: None,
            reload: None,
            machine: Machine::new(outline),
            pass: None,
            report_wanted: false,
            reporting: None,
            memory: None,
            session: None,
            tapped,
            viewing,
            _server: server,
        };
        agent.scan_now()?;
        agent.step_aside();
        sys::release_freed_memory();
        Ok(agent)
    }

    /// Runs until it is told to stop, or the session is over.
    async fn turn(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let ring = sys::watch(self.executor.marks.programs.ring_fd()?).context("ring buffer")?;
        let sends = self.tapped.as_ref().map(Tapped::signal).transpose()?;
        let mut reconcile = interval(self.options.reconcile.unwrap_or(NEVER));
        let mut losses = interval(LOSS_PERIOD);
        let mut ticks = interval(self.options.jitter.interval);
        let every = self.options.jitter.reports.as_ref().and_then(|reports| reports.every);
        let mut reports = interval(every.unwrap_or(NEVER));
        let mut changes = machine::watch(Arc::clone(&self.options), &self.machine);
        if self.session.is_none() {
            let priority = sys::prioritise_event_thread();
            self.say_ready(&priority.to_string());
        }
        // Who only records is in no hurry, and must not be what the recorded threads wait for.
        let mut backlog = false;
        loop {
            let busy = backlog || self.pass.is_some() || self.executor.marks.is_sweeping();
            let input = tokio::select! {
                biased;
                _ = signals.stop.recv() => Input::Stop(sys::Signal::SIGTERM),
                _ = signals.interrupt.recv() => Input::Stop(sys::Signal::SIGINT),
                _ = signals.hangup.recv() => match self.session {
                    None => Input::Reload,
                    Some(_) => Input::Stop(sys::Signal::SIGHUP),
                },
                _ = signals.report.recv() => Input::Report,
                () = session::over(&mut self.session) => Input::Over,
                reload = finished(&mut self.reload) => Input::Reloaded(reload),
                Some(outline) = changes.recv() => Input::Changed(outline),
                survey = finished(&mut self.machine.survey) => Input::Surveyed(survey),
                scan = finished(&mut self.scan) => Input::Scanned(scan),
                report = finished(&mut self.reporting) => Input::Reported(report),
                memory = finished(&mut self.memory) => Input::Settled(memory),
                _ = reconcile.tick() => Input::Reconcile,
                _ = losses.tick() => Input::Losses,
                () = tapped::half_full(sends.as_ref()) => Input::Sends,
                _ = ticks.tick() => Input::Tick,
                _ = reports.tick() => Input::Report,
                want = viewers::wanted(&self.viewing), if self.pass.is_none() => Input::Wanted(want),
                // Yielding lets the runtime look at signals and timers, which a future that is ready at once does not.
                () = tokio::task::yield_now(), if busy => if backlog { Input::Events } else { Input::Measure },
                ready = ring.readable() => {
                    let mut ready = ready.context("ring buffer")?;
                    // Cleared before reading: what comes while we drain makes it ready again.
                    ready.clear_ready();
                    Input::Events
                }
            };
            match input {
                Input::Stop(signal) if self.ends_by(signal) => break,
                Input::Stop(_) => {}
                Input::Over => break,
                Input::Reload => self.start_reload(),
                Input::Reloaded(reload) => self.finish_reload(reload),
                Input::Changed(outline) => self.note_change(outline),
                Input::Surveyed(survey) => self.finish_survey(survey),
                Input::Events => backlog = self.drain(),
                Input::Scanned(scan) => self.finish_scan(scan),
                Input::Reconcile => self.rescan = true,
                Input::Losses => {
                    self.note_losses();
                    self.drain_sends();
                    self.survey_if_changed();
                }
                Input::Sends => self.drain_sends(),
                Input::Tick => self.tick(),
                Input::Measure => {
                    // Events come first.
                    backlog = self.drain();
                    self.measure();
                    if !backlog {
                        self.sweep();
                    }
                }
                Input::Report => self.want_report(),
                Input::Wanted(Want::Nothing) if self.session.is_some() => break,
                Input::Wanted(want) => self.look(want),
                Input::Reported(report) => self.finish_report(report),
                Input::Settled(memory) => self.settle(memory),
            }
            self.say_news();
            if self.is_over() {
                break;
            }
            if self.rescan && self.scan.is_none() && self.scan_started.elapsed() >= SCAN_PAUSE {
                self.start_scan();
            }
        }
        Ok(())
    }

    /// The last report and the last words.
    async fn finish(&mut self) {
        let draft = self.conclude();
        if let Some(report) = &mut self.reporting {
            let report = report.await;
            self.reporting = None;
            self.finish_report(report);
        }
        let living = draft.living_threads();
        if let Some(reports) = &self.options.jitter.reports {
            let (path, frame) = (reports.path.clone(), self.frame());
            let report = tokio::task::spawn_blocking(move || reports::write(&path, draft, frame)).await;
            self.finish_report(report);
        }
        self.say_summary(&living);
        self.executor.output.finish();
    }

    /// Handles what the ring holds, up to a batch; whether there may be more. Signals, timers and scans get their turn
    /// between batches, whatever storm is on.
    fn drain(&mut self) -> bool {
        self.drain_until(u64::MAX)
    }

    /// The same up to the first event that is later than `end_ns`.
    fn drain_until(&mut self, end_ns: u64) -> bool {
        for _ in 0..BATCH {
            match self.executor.marks.programs.next_event() {
                None => return false,
                Some(Ok(event)) => {
                    self.handle(&event);
                    if event.at_ns > end_ns {
                        return false;
                    }
                }
                Some(Err(error)) => {
                    self.unreadable += 1;
                    tracing::warn!("event from the kernel programs: {error}");
                }
            }
        }
        true
    }

    fn drain_sends(&mut self) {
        if let Some(tapped) = &mut self.tapped {
            tapped.drain();
        }
    }

    fn handle(&mut self, event: &TaskEvent) {
        match &event.kind {
            EventKind::Exit { slot } => self.note_ended(event, *slot),
            EventKind::Migrate { from_cpu, to_cpu } => self.say_migrated(event, *from_cpu, *to_cpu),
            _ => {}
        }
        let facts = self.engine.wants_facts(event).then(|| self.facts_at_exec(event)).flatten();
        let actions = self.engine.apply(event, facts);
        self.executor.marks.keep_up(&self.engine);
        self.executor.execute(&mut self.engine, actions);
        if let EventKind::Rename { .. } = event.kind {
            // A role may have changed without a bind.
            let threads = match event.task.tid == event.pid {
                true => self.engine.threads_of(event.pid),
                false => [event.task].into(),
            };
            threads.into_iter().for_each(|task| self.executor.follow(&self.engine, event.pid, task));
        }
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

    /// Puts the agent itself, with all its threads, where background processes go: it must not be what disturbs a forward
    /// thread.
    fn step_aside(&self) {
        if self.options.dry_run {
            return;
        }
        let cpus = &self.engine.plan().others.cpus;
        let moved = procfs::own_threads().context("/proc/self/task").and_then(|tids| {
            tids.into_iter().try_for_each(|tid| match Host.set_affinity(tid, cpus) {
                Err(SysError { errno: Errno::ESRCH, .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            })
        });
        if let Err(error) = moved {
            tracing::warn!("the agent stays where it is, not with the background processes: {error:#}");
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
        places: Places::new(topology).to_vec(&CpuSet::new()),
        max_accounts: options.max_accounts.unwrap_or((64 * topology.cpus.len() as u32).max(4096)),
        ring_bytes: options.ring_bytes,
        tap: options.jitter.tap.map(|tap| TapOptions { tap, sends: Sends::Best }),
        ..LoadOptions::default()
    }
}

fn scanner(engine: &Engine, after_loss: bool) -> Scanner {
    Scanner {
        reader: ProcReader::new("/proc", engine.rules().needs()),
        rules: engine.rules().clone(),
        managed: engine.processes().map(|process| process.facts.pid).collect(),
        after_loss,
    }
}
