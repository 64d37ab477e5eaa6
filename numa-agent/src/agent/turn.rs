//! The loop's one wait: signals, timers, finished jobs, viewers and the ring, each an input that the agent deals with.
//!
//! It decides whose turn it is and takes events off the ring; what they mean is the business of the file that has the subject.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::Context;
use numa_ebpf::wake;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinHandle},
    time::Instant,
};

use super::{
    Agent, cgroups::Fenced, holding::Due, journaling::Opened, machine, machine::Survey, metrics,
    metrics::Asker, reload::Reload, session, tapped, tapped::Tapped, viewers, viewers::Want,
};
use crate::{
    core::{memory::numa_maps::Memory, outline::Outline, task::TaskId},
    host::{fresh, notify::Word, scan::Scan, sys},
};

/// Events handled before the loop looks at signals and timers again.
const BATCH: usize = 1024;
/// So long after each wake-up the ring is looked at again: for some records nobody is woken ([`wake`]).
const LOOK_AGAIN: Duration = Duration::from_nanos(wake::LOOK_AGAIN_NS);
/// How often the kernel's loss counters are read.
const LOSS_PERIOD: Duration = Duration::from_secs(1);
/// The least time from one scan's start to the next: where losses go on, scans must not be all there is.
const SCAN_PAUSE: Duration = Duration::from_secs(1);
/// A period that no run lives to see the end of.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// One thing the loop deals with.
enum Input {
    /// The ring has events.
    Events,
    /// It may have some for which nobody was woken.
    LookAgain,
    /// A background scan is done.
    Scanned(Done<Scan>),
    /// Configuration, machine and processes have been read anew.
    Reloaded(Done<Box<Reload>>),
    /// The machine is another now.
    Changed(Outline),
    /// It has been read anew.
    Surveyed(Done<Survey>),
    /// Something is due of holding processes at exec.
    Hold(Due),
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
    /// Cgroups have been looked at.
    Fenced(Done<Fenced>),
    /// A thread is due to be bound that had to wait.
    Due,
    /// The journal has been opened, and rewritten if it was long.
    Opened(Done<Opened>),
    /// Viewers want something.
    Wanted(Want),
    /// Metrics are asked for.
    Asked(Asker),
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop(sys::Signal),
    /// The command that is recorded has ended, or the time is over.
    Over,
}

/// What a thread of its own gave back; the outer error is its panic.
pub(super) type Done<T> = Result<anyhow::Result<T>, JoinError>;

pub(super) struct Signals {
    stop: Signal,
    interrupt: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    /// Any that asks for the end of a command.
    pub(super) async fn end(&mut self) -> sys::Signal {
        tokio::select! {
            _ = self.stop.recv() => sys::Signal::SIGTERM,
            _ = self.interrupt.recv() => sys::Signal::SIGINT,
            _ = self.hangup.recv() => sys::Signal::SIGHUP,
        }
    }
}

impl Agent {
    /// Runs until it is told to stop, or the session is over.
    pub(super) async fn turn(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let ring = sys::watch(self.executor.marks.programs.ring_fd()?).context("ring buffer")?;
        let sends = self.tapped.as_ref().map(Tapped::signal).transpose()?;
        let mut reconcile = interval(self.options.reconcile.unwrap_or(NEVER));
        let mut losses = interval(LOSS_PERIOD);
        let mut ticks = interval(self.options.jitter.interval);
        let every = self.options.jitter.reports.as_ref().and_then(|reports| reports.every);
        let mut reports = interval(every.unwrap_or(NEVER));
        let mut changes = machine::watch(Arc::clone(&self.options), &self.machine);
        if self.session.is_none() {
            let priority = match self.options.real_time {
                true => sys::prioritise_event_thread().to_string(),
                false => "SCHED_OTHER (--no-real-time)".to_owned(),
            };
            self.say_ready(&priority);
            self.tell_manager(Word::Ready);
        }
        self.configure_holding();
        // Who only records is in no hurry, and must not be what the recorded threads wait for.
        let mut backlog = false;
        let mut look_again = None;
        // What was dealt with last were events: then the others have their turn before more of them.
        let mut fed = false;
        loop {
            let due = self.next_due();
            let busy = backlog || self.pass.is_some() || self.executor.marks.is_sweeping();
            let input = tokio::select! {
                biased;
                // First, so that a task that waits for its place does not wait for a look at all the others, too.
                ready = readable(&ring), if !fed => ready?,
                _ = signals.stop.recv() => Input::Stop(sys::Signal::SIGTERM),
                _ = signals.interrupt.recv() => Input::Stop(sys::Signal::SIGINT),
                _ = signals.hangup.recv() => match self.session {
                    None => Input::Reload,
                    Some(_) => Input::Stop(sys::Signal::SIGHUP),
                },
                _ = signals.report.recv() => Input::Report,
                () = session::over(&mut self.session) => Input::Over,
                due = self.executor.holding.next() => Input::Hold(due),
                reload = finished(&mut self.reload) => Input::Reloaded(reload),
                Some(outline) = changes.recv() => Input::Changed(outline),
                survey = finished(&mut self.machine.survey) => Input::Surveyed(survey),
                scan = finished(&mut self.scan) => Input::Scanned(scan),
                report = finished(&mut self.reporting) => Input::Reported(report),
                memory = finished(&mut self.memory) => Input::Settled(memory),
                fenced = finished(&mut self.cgroups.job) => Input::Fenced(fenced),
                journal = finished(&mut self.executor.journaling.opening) => Input::Opened(journal),
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => Input::Due,
                () = at(look_again) => Input::LookAgain,
                _ = reconcile.tick() => Input::Reconcile,
                _ = losses.tick() => Input::Losses,
                () = tapped::half_full(sends.as_ref()) => Input::Sends,
                _ = ticks.tick() => Input::Tick,
                _ = reports.tick() => Input::Report,
                want = viewers::wanted(&self.viewing), if self.pass.is_none() => Input::Wanted(want),
                asker = metrics::asked(&mut self.metering), if self.pass.is_none() => Input::Asked(asker),
                // Yielding lets the runtime look at signals and timers, which a future that is ready at once does not.
                () = tokio::task::yield_now(), if busy => if backlog { Input::Events } else { Input::Measure },
                ready = readable(&ring), if fed => ready?,
            };
            fed = matches!(input, Input::Events);
            match input {
                Input::Stop(signal) if self.ends_by(signal) => break,
                Input::Stop(_) => {}
                Input::Over => break,
                Input::Reload => self.start_reload(),
                Input::Reloaded(reload) => self.finish_reload(reload),
                Input::Changed(outline) => self.note_change(outline),
                Input::Surveyed(survey) => self.finish_survey(survey),
                Input::Events => {
                    look_again = Some(Instant::now() + LOOK_AGAIN);
                    backlog = self.drain();
                    self.fence_if_due();
                }
                Input::LookAgain => {
                    look_again = None;
                    backlog = self.drain();
                    self.fence_if_due();
                }
                Input::Scanned(scan) => self.finish_scan(scan),
                Input::Hold(due) => self.hold(&due),
                Input::Reconcile => self.rescan = true,
                Input::Losses => {
                    self.be_alive();
                    fresh::look_for_room();
                    // Should a record have been submitted so late after it was judged that nobody looked again.
                    backlog = self.drain();
                    self.note_losses();
                    self.note_unread();
                    self.drain_sends();
                    self.give_up_late_reload();
                    self.survey_if_changed();
                    self.fence_cgroups();
                    self.keep_journal();
                }
                Input::Due => self.do_what_is_due(),
                Input::Opened(done) => self.finish_opening(done),
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
                Input::Asked(asker) => self.begin_sample(asker),
                Input::Reported(report) => self.finish_report(report),
                Input::Settled(memory) => self.settle(memory),
                Input::Fenced(fenced) => self.finish_fencing(fenced),
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

    /// When the next thread is due to be bound that had to wait.
    fn next_due(&mut self) -> Option<Duration> {
        let now_ns = sys::monotonic_ns();
        let put_back = self.engine.next_due_ns().map(|at_ns| at_ns.saturating_sub(now_ns));
        let deferred = self.executor.deferred.wait_ns(now_ns);
        [put_back, deferred].into_iter().flatten().min().map(Duration::from_nanos)
    }

    fn do_what_is_due(&mut self) {
        let actions = self.engine.take_due(sys::monotonic_ns());
        self.executor.execute(&mut self.engine, actions);
        self.executor.catch_up(&mut self.engine);
    }

    /// Handles what the ring holds, up to a batch; whether there may be more. Signals, timers and scans get their turn
    /// between batches, whatever storm is on.
    pub(super) fn drain(&mut self) -> bool {
        self.drain_until(u64::MAX)
    }

    /// The same up to the first event that is later than `end_ns`.
    pub(super) fn drain_until(&mut self, end_ns: u64) -> bool {
        // Whatever else the loop does: it gets here, so who is held is answered.
        self.executor.holding.keep_alive();
        for _ in 0..BATCH {
            match self.executor.marks.programs.next_event() {
                None => {
                    self.handle_births();
                    return false;
                }
                Some(Ok(event)) => {
                    let is_last = event.at_ns > end_ns;
                    self.receive(event);
                    if is_last {
                        self.handle_births();
                        return false;
                    }
                }
                Some(Err(error)) => {
                    self.unreadable += 1;
                    tracing::warn!("event from the kernel programs: {error}");
                }
            }
        }
        self.handle_births();
        true
    }

    pub(super) fn drain_sends(&mut self) {
        if let Some(tapped) = &mut self.tapped {
            tapped.drain();
        }
    }
}

/// Until the ring has events.
async fn readable(ring: &AsyncFd<OwnedFd>) -> anyhow::Result<Input> {
    let mut ready = ring.readable().await.context("ring buffer")?;
    // Cleared before reading: what comes while we drain makes it ready again.
    ready.clear_ready();
    Ok(Input::Events)
}

/// Until then; for ever pending without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The job's result, once there is one; for ever pending without a job.
async fn finished<T>(job: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    let Some(handle) = job else { return std::future::pending().await };
    let result = handle.await;
    *job = None;
    result
}

pub(super) fn flat<T>(done: Done<T>) -> anyhow::Result<T> {
    done.unwrap_or_else(|panic| Err(panic.into()))
}

pub(super) fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
