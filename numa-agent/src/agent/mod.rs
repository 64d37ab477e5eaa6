//! The host agent: one owner of state, fed by one stream of inputs.
//!
//! The loop runs on one thread, `SCHED_FIFO` where allowed, and owns everything. Slow work happens elsewhere: scans and
//! reloads on threads of their own that give back what they read, lines of output through a queue. The order at start: attach the
//! programs, scan, carry out the plan, and only then drain the ring, which has kept what happened meanwhile.

mod announce;
mod births;
mod cgroups;
mod deferred;
mod executor;
mod holding;
mod inputs;
mod journaling;
mod lines;
mod machine;
mod measuring;
mod meter;
mod metrics;
mod options;
mod output;
mod privileges;
mod reload;
mod reports;
mod scans;
mod session;
mod tapped;
mod turn;
mod unread;
mod viewers;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::errno::Errno;
use tokio::task::JoinHandle;

use self::{
    cgroups::Cgroups,
    deferred::Deferred,
    executor::Executor,
    holding::Holding,
    inputs::{Done, Signals},
    journaling::Journaling,
    machine::Machine,
    measuring::MemoryJob,
    meter::{Meter, Pass},
    metrics::Metering,
    output::Output,
    reload::{Reload, Reloads},
    session::Watched,
    tapped::Tapped,
    turn::flat,
    unread::Unread,
    viewers::{Server, Viewing},
};
pub use self::{
    executor::Marks,
    lines::{LineQueue, PATIENCE},
    measuring::Jitter,
    metrics::Metrics,
    options::{Options, Socket, Source},
    output::LineFormat,
    reports::Reports,
    session::{CannotRun, Progress, Session, observe, record},
};
use crate::{
    core::{
        births::Births,
        engine::{Action, Engine},
        event::{EventKind, TaskEvent},
        filter::KernelFilter,
        idset::CpuSet,
        instance::InstanceKey,
        jitter::places::Places,
        stats::Stats,
        task::{ProcessFacts, ProcessRole},
        topology::Topology,
    },
    host::{
        bpf::{DropCounts, LoadOptions, Programs, Sends, TapOptions},
        capabilities, device_files, fresh,
        notify::Word,
        procfs::{self, ProcReader},
        scan::{Scan, Scanner},
        sys::{self, Host, Kernel, SysError},
    },
};

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

struct Agent {
    options: Arc<Options>,
    engine: Engine,
    executor: Executor<Host, Meter>,
    births: Births,
    started_at: String,
    lost: DropCounts,
    /// Events of the kernel programs that made no sense.
    unreadable: u64,
    /// A scan is wanted.
    rescan: bool,
    /// The next scan follows a loss, see [`Scanner::after_loss`].
    after_loss: bool,
    scan_started: Instant,
    /// How long the last one took, until the loop came to its result.
    scan_took: Duration,
    scan: Option<JoinHandle<anyhow::Result<Scan>>>,
    reload: Option<JoinHandle<anyhow::Result<Box<Reload>>>>,
    reloads: Reloads,
    machine: Machine,
    /// Accounts are being read.
    pass: Option<Pass>,
    /// A report follows that pass.
    report_wanted: bool,
    reporting: Option<JoinHandle<anyhow::Result<()>>>,
    memory: Option<MemoryJob>,
    cgroups: Cgroups,
    /// Recording, and not for ever.
    session: Option<Watched>,
    tapped: Option<Tapped>,
    /// Who looks on, if anybody can.
    viewing: Option<Viewing>,
    /// Who asks for metrics, if anybody can.
    metering: Option<Metering>,
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
        fresh::look_for_room();
        let devices = device_files::numbers(&engine.settings().forward_thread_devices);
        let looks_for_users = engine.settings().devices_asked || !devices.is_empty();
        let mut programs = Programs::load(&LoadOptions {
            devices: looks_for_users,
            ..load_options(&options, engine.topology())
        })?;
        programs.set_filter(&KernelFilter::new(engine.rules().settings()))?;
        programs.set_devices(&devices)?;
        if !programs.health().has("switch") && options.jitter.reports.take().is_some() {
            tracing::warn!(
                "no jitter reports: without the program `switch` no times are measured; see `numa-agent doctor`"
            );
        }
        let able = programs.health().hold == Some(Ok(())) && capabilities::may_signal_all();
        let holds = programs.take_holds().filter(|_| able);
        let tapped = programs.take_tap().map(Tapped::new);
        // Before anything is bound: another agent may be at it already.
        let door = viewers::door(&options.socket, door)?;
        let endpoint = metrics::listen(options.metrics, engine.settings().metrics)?;
        if options.gives_up {
            privileges::give_up(&options, engine.settings());
        }
        let (server, feed) = door.map(Server::start).transpose().context("a thread for viewers")?.unzip();
        let metering = endpoint.map(metrics::serve).transpose().context("a thread for metrics")?;
        let started_at = sys::now_rfc3339();
        let about = viewers::about(&options, programs.health(), &started_at);
        let viewing = feed.clone().map(|feed| Viewing::new(feed, about));
        let mut stats = Stats::default();
        stats.counts_migrations = programs.health().has("migrate");
        let planned = options.jitter.processes.is_none();
        let mut executor = Executor {
            kernel: Host,
            marks: Meter::start(programs, &engine, planned, options.jitter.limits),
            holding: Holding::new(holds),
            deferred: Deferred::new(engine.settings().max_bind_rate),
            journaling: Journaling::start(options.journal.clone().filter(|_| !options.dry_run))?,
            scanner: scanner(&engine, ProcReader::new("/proc", engine.rules().needs()).in_a_hurry()),
            unread: Unread::default(),
            rescan: false,
            dry_run: options.dry_run,
            output: Output::start(options.format, options.messages.clone(), feed),
            stats,
        };
        if metering.is_some() {
            executor.marks.observer.keep_totals();
        }
        let mut agent = Self {
            options: Arc::new(options),
            engine,
            executor,
            births: Births::default(),
            started_at,
            lost: DropCounts::default(),
            unreadable: 0,
            rescan: false,
            after_loss: false,
            scan_started: Instant::now(),
            scan_took: Duration::ZERO,
            scan: None,
            reload: None,
            reloads: Reloads::default(),
            machine: Machine::new(outline),
            pass: None,
            report_wanted: false,
            reporting: None,
            memory: None,
            cgroups: Cgroups::default(),
            session: None,
            tapped,
            viewing,
            metering,
            _server: server,
        };
        agent.scan_now()?;
        agent.step_aside();
        agent.fence_cgroups();
        sys::release_freed_memory();
        Ok(agent)
    }

    /// The last report and the last words.
    async fn finish(&mut self) {
        self.tell_manager(Word::Stopping);
        self.end_holding();
        // What is left may take long, and nobody waits for it.
        if let Err(error) = sys::leave_real_time() {
            tracing::warn!("the event thread keeps its priority until it ends: {error}");
        }
        // Binds that are still to come of what has happened, or of a look that is under way, would not be undone after it.
        let draft = self.conclude();
        while let Some(fenced) = self.cgroups.job.take() {
            self.finish_fencing(fenced.await);
        }
        self.executor.journaling.end().await;
        self.restore_on_exit();
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

    fn handle(&mut self, event: &TaskEvent) {
        match &event.kind {
            EventKind::Exit { slot, brief } => {
                self.executor.deferred.forget(event.task);
                self.note_ended(event, *slot, brief.as_ref());
            }
            EventKind::Fork { slot: Some(slot), plan, .. } => {
                self.executor.marks.note_born(event.task, *slot, *plan)
            }
            EventKind::Migrate { from_cpu, to_cpu } => self.say_migrated(event, *from_cpu, *to_cpu),
            _ => {}
        }
        let facts = self.engine.wants_facts(event).then(|| self.facts_at_exec(event)).flatten();
        let renames_all = matches!(event.kind, EventKind::Rename { .. }) && event.task.tid == event.pid;
        let before = renames_all.then(|| self.place_of(event.pid)).flatten();
        let actions = self.engine.apply(event, facts);
        let binds_it = |action: &Action| matches!(action, Action::Bind(bind) if bind.task == event.task);
        let followed = actions.iter().any(binds_it);
        self.executor.marks.keep_up(&self.engine);
        self.executor.execute(&mut self.engine, actions);
        if let EventKind::Exec { .. } = event.kind {
            self.cgroups.expect();
        }
        if let EventKind::UseDevice { .. } = event.kind {
            self.executor.follow(&self.engine, event.pid, event.task);
        }
        if let EventKind::Rename { .. } = event.kind {
            // A role may have changed without a bind, and those of all threads with the process's.
            let threads = match renames_all && self.place_of(event.pid) != before {
                true => self.engine.threads_of(event.pid),
                false if followed => BTreeSet::new(),
                false => [event.task].into(),
            };
            threads.into_iter().for_each(|task| self.executor.follow(&self.engine, event.pid, task));
        }
        self.rescan |= std::mem::take(&mut self.executor.rescan);
    }

    /// What the places of a process's threads follow from, beside their names.
    fn place_of(&self, pid: u32) -> Option<(ProcessRole, Option<InstanceKey>)> {
        self.engine.process(pid).map(|process| (process.role, process.instance.clone()))
    }

    /// What `/proc` adds to an exec event.
    fn facts_at_exec(&mut self, event: &TaskEvent) -> Option<ProcessFacts> {
        let facts = self.read_at_exec(event);
        if facts.is_none() {
            let unread = self.executor.scanner.reader.stuck(event.pid);
            unread.into_iter().for_each(|process| self.executor.unread.note(process));
        }
        facts
    }

    fn read_at_exec(&self, event: &TaskEvent) -> Option<ProcessFacts> {
        let EventKind::Exec { ppid, uid, comm, cmdline, truncated, .. } = &event.kind else { return None };
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
        let moved = moved.and_then(|()| Ok(self.guard_steps_aside()?));
        if let Err(error) = moved {
            tracing::warn!("the agent stays where it is, not with the background processes: {error:#}");
        }
    }
}

/// A later process with a recycled pid is not the one that was asked for.
fn pin_pids(engine: &mut Engine) {
    for pid in engine.pin_pids(|pid| Host.start_time(pid)) {
        engine.warn_of_settings(format!("pid {pid} was asked for, but no such process runs"));
    }
}

fn load_options(options: &Options, topology: &Topology) -> LoadOptions {
    let cpus = topology.cpus.len() as u32;
    LoadOptions {
        self_pid: std::process::id(),
        debug_log: options.bpf_log,
        places: Places::new(topology).to_vec(&CpuSet::new()),
        max_accounts: options.max_accounts.unwrap_or((64 * cpus).max(4096)),
        ring_bytes: options.ring_bytes.unwrap_or((cpus << 17).next_power_of_two().clamp(1 << 20, 2 << 20)),
        hold: !options.dry_run,
        tap: options.jitter.tap.map(|tap| TapOptions { tap, sends: Sends::Best }),
        ..LoadOptions::default()
    }
}

/// `reader` has been made for the engine's rules.
fn scanner(engine: &Engine, reader: ProcReader) -> Scanner {
    let managed = engine.processes().map(|process| process.facts.pid).collect();
    Scanner { reader, rules: engine.rules().clone(), managed, after_loss: false }
}
