//! What the loop waits for: the ring first, then signals, timers, finished jobs, viewers.
//!
//! All are polled in place. Futures made anew for each wait would be dropped between the wake-up and the first event, and their timers
//! taken out of the runtime's wheel: a third of the time that a thread waits for its place.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::Context as _;
use numa_ebpf::wake;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
    task::{JoinError, JoinHandle, yield_now},
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep_until},
};

use super::{
    Agent, cgroups::Fenced, holding::Due, journaling::Opened, machine, machine::Survey, metrics::Asker,
    reload::Reload, tapped, viewers::Want,
};
use crate::{
    core::{memory::numa_maps::Memory, outline::Outline, task::TaskId},
    host::{scan::Scan, sys},
};

/// So long after each wake-up the ring is looked at again: for some records nobody is woken ([`wake`]).
const LOOK_AGAIN: Duration = Duration::from_nanos(wake::LOOK_AGAIN_NS);
/// How often the kernel's loss counters are read.
const LOSS_PERIOD: Duration = Duration::from_secs(1);
/// A period that no run lives to see the end of.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// One thing the loop deals with.
pub(super) enum Input {
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
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<sys::Signal> {
        let Self { stop, interrupt, hangup, .. } = self;
        for (signal, which) in
            [(stop, sys::Signal::SIGTERM), (interrupt, sys::Signal::SIGINT), (hangup, sys::Signal::SIGHUP)]
        {
            if signal.poll_recv(context).is_ready() {
                return Poll::Ready(which);
            }
        }
        Poll::Pending
    }
}

/// What there is to wait for, beside what the agent has begun.
pub(super) struct Inputs {
    ring: AsyncFd<OwnedFd>,
    sends: Option<tapped::Signal>,
    changes: UnboundedReceiver<Outline>,
    reconcile: Interval,
    losses: Interval,
    ticks: Interval,
    reports: Interval,
    due: Alarm,
    again: Alarm,
    /// When the ring is to be looked at again.
    look_again: Option<Instant>,
    /// What was dealt with last were events: then the others have their turn before more of them.
    fed: bool,
}

impl Inputs {
    pub(super) fn new(agent: &Agent) -> anyhow::Result<Self> {
        let Agent { options, machine, .. } = agent;
        let every = options.jitter.reports.as_ref().and_then(|reports| reports.every);
        Ok(Self {
            ring: sys::watch(agent.executor.marks.programs.ring_fd()?).context("ring buffer")?,
            sends: agent.tapped.as_ref().map(tapped::Tapped::signal).transpose()?,
            changes: machine::watch(Arc::clone(options), machine),
            reconcile: interval(options.reconcile.unwrap_or(NEVER)),
            losses: interval(LOSS_PERIOD),
            ticks: interval(options.jitter.interval),
            reports: interval(every.unwrap_or(NEVER)),
            due: Alarm::default(),
            again: Alarm::default(),
            look_again: None,
            fed: false,
        })
    }

    /// Waits for the next; `backlog`: there are events left.
    pub(super) async fn next(
        &mut self,
        agent: &mut Agent,
        signals: &mut Signals,
        backlog: bool,
    ) -> anyhow::Result<Input> {
        let due = agent.next_due();
        let busy = backlog || agent.pass.is_some() || agent.executor.marks.is_sweeping();
        // Yielding lets the runtime look at signals and timers, which what is ready at once does not.
        let mut turn = pin!(yield_now());
        let input = poll_fn(|context| {
            if !self.fed {
                // First, so that a task that waits for its place does not wait for a look at all the others, too.
                if let ready @ Poll::Ready(_) = self.poll_ring(context) {
                    return ready;
                }
            }
            if let Poll::Ready(input) = self.poll_others(agent, signals, due, context) {
                return Poll::Ready(Ok(input));
            }
            if busy && turn.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(if backlog { Input::Events } else { Input::Measure }));
            }
            if self.fed { self.poll_ring(context) } else { Poll::Pending }
        });
        let input = input.await?;
        self.fed = matches!(input, Input::Events);
        if self.fed {
            self.look_again = Some(Instant::now() + LOOK_AGAIN);
        }
        Ok(input)
    }

    /// The ring has events.
    fn poll_ring(&self, context: &mut Context<'_>) -> Poll<anyhow::Result<Input>> {
        ready!(poll_cleared(&self.ring, context)).context("ring buffer")?;
        Poll::Ready(Ok(Input::Events))
    }

    fn poll_others(
        &mut self,
        agent: &mut Agent,
        signals: &mut Signals,
        due: Option<Instant>,
        context: &mut Context<'_>,
    ) -> Poll<Input> {
        macro_rules! look {
            ($ready:expr => $input:expr) => {
                if let Poll::Ready(ready) = $ready {
                    return Poll::Ready($input(ready));
                }
            };
        }
        let executor = &mut agent.executor;
        look!(signals.stop.poll_recv(context) => |_| Input::Stop(sys::Signal::SIGTERM));
        look!(signals.interrupt.poll_recv(context) => |_| Input::Stop(sys::Signal::SIGINT));
        look!(signals.hangup.poll_recv(context) => |_| match agent.session {
            None => Input::Reload,
            Some(_) => Input::Stop(sys::Signal::SIGHUP),
        });
        look!(signals.report.poll_recv(context) => |_| Input::Report);
        if let Some(session) = &mut agent.session {
            look!(session.poll_over(context) => |()| Input::Over);
        }
        look!(executor.holding.poll_next(context) => Input::Hold);
        look!(poll_job(&mut agent.reload, context) => Input::Reloaded);
        if let Poll::Ready(Some(outline)) = self.changes.poll_recv(context) {
            return Poll::Ready(Input::Changed(outline));
        }
        look!(poll_job(&mut agent.machine.survey, context) => Input::Surveyed);
        look!(poll_job(&mut agent.scan, context) => Input::Scanned);
        look!(poll_job(&mut agent.reporting, context) => Input::Reported);
        look!(poll_job(&mut agent.memory, context) => Input::Settled);
        look!(poll_job(&mut agent.cgroups.job, context) => Input::Fenced);
        look!(poll_job(&mut executor.journaling.opening, context) => Input::Opened);
        look!(self.due.poll(due, context) => |()| Input::Due);
        if self.again.poll(self.look_again, context).is_ready() {
            self.look_again = None;
            return Poll::Ready(Input::LookAgain);
        }
        look!(self.reconcile.poll_tick(context) => |_| Input::Reconcile);
        look!(self.losses.poll_tick(context) => |_| Input::Losses);
        if let Some(sends) = &self.sends {
            look!(poll_cleared(sends, context) => |_| Input::Sends);
        }
        look!(self.ticks.poll_tick(context) => |_| Input::Tick);
        look!(self.reports.poll_tick(context) => |_| Input::Report);
        if agent.pass.is_none() {
            if let Some(viewing) = &mut agent.viewing {
                look!(viewing.poll_wanted(context) => Input::Wanted);
            }
            if let Some(metering) = &mut agent.metering {
                look!(metering.poll_asked(context) => Input::Asked);
            }
        }
        Poll::Pending
    }
}

/// A timer that is told each time for when it is set. To move it costs only where it would ring too late; where it rings too early it is set
/// anew.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready at that time; for ever pending without one.
    pub(super) fn poll(&mut self, at: Option<Instant>, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        // Timers ring a millisecond late.
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

/// The descriptor is readable. Cleared before anybody reads: what comes meanwhile makes it ready again.
pub(super) fn poll_cleared(
    watched: &AsyncFd<OwnedFd>,
    context: &mut Context<'_>,
) -> Poll<std::io::Result<()>> {
    let ready = ready!(watched.poll_read_ready(context));
    Poll::Ready(ready.map(|mut ready| ready.clear_ready()))
}

/// The job's result, once there is one; for ever pending without a job.
fn poll_job<T>(job: &mut Option<JoinHandle<T>>, context: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
    let Some(handle) = job else { return Poll::Pending };
    let result = ready!(Pin::new(handle).poll(context));
    *job = None;
    Poll::Ready(result)
}

pub(super) fn interval(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone<T>(what: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(what)
    }

    async fn look(alarm: &mut Alarm, at: Option<Instant>) -> Poll<()> {
        poll_fn(|context| Poll::Ready(alarm.poll(at, context))).await
    }

    #[test]
    fn an_alarm_rings_when_it_was_told_last() {
        let (soon, later) = (Duration::from_millis(30), Duration::from_millis(90));
        alone(async {
            let (mut alarm, start) = (Alarm::default(), Instant::now());
            assert!(look(&mut alarm, None).await.is_pending(), "it is not set");
            // Set, put off, and put forward again.
            for at in [soon, later, soon] {
                assert!(look(&mut alarm, Some(start + at)).await.is_pending());
            }
            poll_fn(|context| alarm.poll(Some(start + soon), context)).await;
            assert!(start.elapsed() >= soon && start.elapsed() < later);
            // Set for what is over by then, it goes on to the time that it is told now.
            poll_fn(|context| alarm.poll(Some(start + later), context)).await;
            assert!(start.elapsed() >= later);
            assert!(look(&mut alarm, Some(start)).await.is_ready(), "what is over rings at once");
        });
    }

    #[test]
    fn a_jobs_result_comes_once() {
        alone(async {
            let mut job = Some(tokio::task::spawn_blocking(|| 7));
            assert_eq!(poll_fn(|context| poll_job(&mut job, context)).await.expect("no panic"), 7);
            let mut none = pin!(poll_fn(|context| Poll::Ready(poll_job(&mut job, context))));
            assert!(none.as_mut().await.is_pending());
            let mut job = Some(tokio::task::spawn_blocking(|| panic!("as it may")));
            assert!(poll_fn(|context| poll_job::<()>(&mut job, context)).await.is_err());
        });
    }
}
