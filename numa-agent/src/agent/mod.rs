//! The host agent: one owner of state, fed by one stream of inputs.
//!
//! The loop runs on one thread, `SCHED_FIFO` where allowed, and owns everything. Slow work happens elsewhere: scans on a
//! thread of their own that sends back what it saw, lines of output through a queue. The order at start: attach the
//! programs, scan, carry out the plan, and only then drain the ring, which has kept what happened meanwhile.

mod announce;
mod executor;
mod lines;
mod output;

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use self::{executor::Executor, output::Output};
pub use self::{
    executor::Marks,
    lines::{LineQueue, PATIENCE},
    output::LineFormat,
};
use crate::{
    core::{
        engine::{Action, Cause, Engine},
        event::{EventKind, TaskEvent},
        filter::KernelFilter,
        settings::Settings,
        stats::Stats,
        task::{ProcessFacts, TaskId},
        topology::Topology,
    },
    host::{
        bpf::{DropCounts, LoadOptions, Programs},
        procfs::{self, ProcReader},
        scan::{Scan, Scanner},
        sys::{self, Host, Kernel},
    },
    report::escape,
};

/// Events handled before the loop looks at signals and timers again.
const BATCH: usize = 1024;

/// What the agent is asked to do. Settings and machine come from a function, so that a reload reads them anew.
pub struct Options {
    /// Reads configuration and machine.
    pub load: Box<dyn Fn() -> anyhow::Result<(Settings, Topology)>>,
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
}

/// One thing the loop deals with.
enum Input {
    /// The ring has events.
    Events,
    /// A background scan is done.
    Scanned(Result<Scan, procfs::ProcError>),
    /// Time for the next scan.
    Reconcile,
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start: bad configuration, no plan for this machine, programs that do not load. Once it runs, nothing but
/// a signal ends it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    runtime.block_on(async {
        // Before anything takes long: a signal that comes while we start must not kill us.
        let signals = Signals::new().context("signal handlers")?;
        Agent::start(options)?.run(options, signals).await
    })
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
    engine: Engine,
    executor: Executor<Host, Programs>,
    lost: DropCounts,
    scanning: bool,
    rescan: bool,
}

impl Agent {
    fn start(options: &Options) -> anyhow::Result<Self> {
        let (settings, topology) = (options.load)()?;
        anyhow::ensure!(
            sys::in_initial_pid_namespace(),
            "the agent is in a pid namespace of its own, where the host's pids mean nothing; run it on the host, or with hostPID: true (--pid=host)"
        );
        let own = procfs::own_pids("/proc".as_ref());
        let mut engine = Engine::new(topology, settings, own)?;
        pin_pids(&mut engine);
        let mut programs = Programs::load(&load_options(options, engine.topology()))?;
        programs.set_filter(&KernelFilter::new(engine.rules().settings()))?;
        let executor = Executor {
            kernel: Host,
            marks: programs,
            scanner: scanner(&engine, false),
            dry_run: options.dry_run,
            output: Output::start(options.format, options.messages.clone()),
            stats: Stats::default(),
        };
        let mut agent =
            Self { engine, executor, lost: DropCounts::default(), scanning: false, rescan: false };
        agent.scan_now()?;
        sys::release_freed_memory();
        Ok(agent)
    }

    async fn run(mut self, options: &Options, mut signals: Signals) -> anyhow::Result<()> {
        let ring = sys::watch(self.executor.marks.ring_fd()?).context("ring buffer")?;
        let (scans_tx, mut scans) = mpsc::channel(1);
        let period = options.reconcile.unwrap_or(Duration::from_secs(3600 * 24 * 365));
        let mut reconcile = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        reconcile.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);

        let priority = sys::prioritise_event_thread();
        self.say_ready(options, &priority.to_string());
        let mut backlog = false;
        loop {
            let input = tokio::select! {
                biased;
                _ = signals.stop.recv() => Input::Stop,
                _ = signals.interrupt.recv() => Input::Stop,
                _ = signals.hangup.recv() => Input::Reload,
                Some(scan) = scans.recv() => Input::Scanned(scan),
                _ = reconcile.tick() => Input::Reconcile,
                () = std::future::ready(()), if backlog => Input::Events,
                ready = ring.readable() => {
                    let mut ready = ready.context("ring buffer")?;
                    // Cleared before reading: what comes while we drain makes it ready again.
                    ready.clear_ready();
                    Input::Events
                }
            };
            match input {
                Input::Stop => break,
                Input::Reload => self.reload(options),
                Input::Events => backlog = self.drain(),
                Input::Scanned(scan) => {
                    self.scanning = false;
                    match scan {
                        Ok(scan) => self.take_in(&scan),
                        Err(error) => tracing::warn!("reconcile: {error}"),
                    }
                }
                Input::Reconcile => self.rescan = true,
            }
            self.note_losses();
            self.say_news();
            if self.rescan && !self.scanning {
                self.start_scan(&scans_tx);
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
            EventKind::Exit { migrations } => self.note_migrations(event.pid, event.task, *migrations),
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

    fn take_in(&mut self, scan: &Scan) {
        self.executor.stats.scans += 1;
        for snapshot in &scan.snapshots {
            let actions = self.engine.observe(snapshot, &Cause::Reconcile, None);
            self.executor.execute(&mut self.engine, actions);
        }
        self.engine.sweep(&scan.alive, scan.as_of_ns);
    }

    /// Scans on this thread, then carries out the plan as a whole: nothing is bound twice while instances are still being
    /// counted. Scans again until nothing new turns up: a thread may be created by one that was not marked yet.
    fn scan_now(&mut self) -> anyhow::Result<()> {
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let scan = scanner(&self.engine, false).scan(&Host)?;
            self.executor.stats.scans += 1;
            let mut fresh = false;
            for snapshot in &scan.snapshots {
                let mut actions = self.engine.observe(snapshot, &Cause::Scan, None);
                actions.retain(|action| !matches!(action, Action::Bind(_)));
                fresh |= !actions.is_empty();
                self.executor.execute(&mut self.engine, actions);
            }
            self.engine.sweep(&scan.alive, scan.as_of_ns);
            let pending = self.engine.pending(&Cause::Scan);
            fresh |= !pending.is_empty();
            self.executor.execute(&mut self.engine, pending);
            if !fresh {
                break;
            }
        }
        self.executor.scanner = scanner(&self.engine, false);
        Ok(())
    }

    fn start_scan(&mut self, done: &mpsc::Sender<Result<Scan, procfs::ProcError>>) {
        let scanner = scanner(&self.engine, self.executor.scanner.after_loss);
        self.executor.scanner.after_loss = false;
        (self.rescan, self.scanning) = (false, true);
        let done = done.clone();
        tokio::task::spawn_blocking(move || done.blocking_send(scanner.scan(&Host)));
    }

    /// New losses mean that the state may be wrong: say so, and look at everything again.
    fn note_losses(&mut self) {
        let lost = self.executor.marks.drops();
        if lost != self.lost {
            let new = lost.since(&self.lost);
            self.lost = lost;
            let mut text = format!("events lost in the kernel: {new}");
            if new.state_lost() {
                (self.rescan, self.executor.scanner.after_loss) = (true, true);
                text.push_str("; scanning again");
            }
            self.executor.output.event("lost", json!({ "lost": new.json() }), || Some(text));
        }
    }

    fn reload(&mut self, options: &Options) {
        let next = (options.load)().and_then(|(settings, topology)| {
            let mut engine = self.engine.reconfigured(topology, settings)?;
            pin_pids(&mut engine);
            self.executor.marks.set_filter(&KernelFilter::new(engine.rules().settings()))?;
            Ok(engine)
        });
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!("reload: {}; the old configuration stays in force", escape::text(&error));
                return;
            }
        };
        let before = std::mem::replace(&mut self.engine, next);
        let managed = |pid: u32, tid: u32| {
            self.engine.process(pid).is_some_and(|process| process.threads.contains_key(&tid))
        };
        for process in before.processes() {
            for tid in process.threads.keys().filter(|tid| !managed(process.facts.pid, **tid)) {
                Marks::unmark(&mut self.executor.marks, *tid);
            }
        }
        // What is known is bound anew at once; what matches only now is for a scan to find.
        self.executor.scanner = scanner(&self.engine, false);
        self.rescan = true;
        let pending = self.engine.pending(&Cause::Replan);
        self.executor.execute(&mut self.engine, pending);
        self.say_warnings();
        let managed = self.managed_json();
        let text = format!("reloaded: {}", self.plan_text());
        tracing::info!("{text}");
        self.executor.output.event("reloaded", json!({ "managed": managed }), || Some(text));
    }
}

impl Marks for Programs {
    fn mark(&mut self, pid: u32, task: TaskId) {
        if let Err(error) = Programs::mark(self, pid, task) {
            tracing::warn!(pid, tid = task.tid, "cannot mark the thread for the kernel programs: {error}");
        }
    }

    fn unmark(&mut self, tid: u32) {
        if let Err(error) = Programs::unmark(self, tid) {
            tracing::warn!(tid, "cannot unmark the thread: {error}");
        }
    }
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
        cpu_nodes: topology.cpus.iter().map(|cpu| (cpu.id, cpu.node)).collect(),
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
