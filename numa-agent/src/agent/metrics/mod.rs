//! The metrics endpoint: where it listens, and the loop's part of it.
//!
//! A thread of its own serves HTTP ([`serve`]). It asks the loop for a sample when it is scraped, and not more often than the loop
//! can give one for a tenth of its time; a scrape in between gets the last sample. The loop reads all accounts for it, as it does
//! for viewers, with events first, and hands over numbers; text and connections are not its business. Without a scrape it does nothing
//! but to say once a second that it is there.

mod serve;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use super::{Agent, meter::Pass};
use crate::{core::metrics::Sample, host::sys};

/// Who asked for a sample.
pub(super) type Asker = oneshot::Sender<Sample>;

/// How long the loop may be silent before `/healthz` says so, and a scrape may take to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Where to listen; `None`: where the configuration says, if it does.
    pub address: Option<SocketAddr>,
    /// How many threads are listed one by one.
    pub threads: usize,
}

/// The loop's end. Dropped, it ends the serving thread.
#[derive(Debug)]
pub(super) struct Metering {
    asked: mpsc::Receiver<Asker>,
    alive: Arc<Pulse>,
}

/// When the loop was last seen at it, in monotonic nanoseconds.
#[derive(Debug, Default)]
struct Pulse(AtomicU64);

impl Pulse {
    fn beat(&self) {
        self.0.store(sys::monotonic_ns(), Ordering::Relaxed);
    }

    /// How long ago.
    fn since(&self) -> Duration {
        Duration::from_nanos(sys::monotonic_ns().saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

/// Listens where that is wanted.
///
/// # Errors
/// If nobody can listen there: an endpoint that was asked for is not done without.
pub(super) fn listen(
    metrics: Option<Metrics>,
    configured: Option<SocketAddr>,
) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = metrics.and_then(|metrics| metrics.address.or(configured)) else { return Ok(None) };
    let listener = TcpListener::bind(address).with_context(|| {
        format!("metrics: cannot listen at {address}; choose another address and port with --metrics (port 0: any that is free)")
    })?;
    let address = listener.local_addr().context("metrics: the listening socket")?;
    tracing::info!("metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!(
            "metrics: everybody who reaches {address} can read them: there is no authentication; a firewall or a loopback address keeps others out"
        );
    }
    Ok(Some(listener))
}

/// Has a thread serve who comes.
///
/// # Errors
/// If it cannot be started.
pub(super) fn serve(listener: TcpListener) -> io::Result<Metering> {
    listener.set_nonblocking(true)?;
    let (asks, asked) = mpsc::channel(1);
    let alive = Arc::new(Pulse::default());
    alive.beat();
    serve::start(listener, asks, Arc::clone(&alive), PATIENCE)?;
    Ok(Metering { asked, alive })
}

impl Metering {
    /// Until somebody wants a sample.
    pub(super) fn poll_asked(&mut self, context: &mut Context<'_>) -> Poll<Asker> {
        match ready!(self.asked.poll_recv(context)) {
            Some(asker) => Poll::Ready(asker),
            // The serving thread is gone.
            None => Poll::Pending,
        }
    }
}

impl Agent {
    /// The loop is at it.
    pub(super) fn be_alive(&self) {
        if let Some(metering) = &self.metering {
            metering.alive.beat();
        }
    }

    /// Somebody wants a sample, and no pass is under way.
    pub(super) fn begin_sample(&mut self, asker: Asker) {
        // Who does not wait any more needs none.
        if !asker.is_closed() {
            self.pass = Some(Pass::for_metrics(asker));
        }
    }

    /// All accounts have been read.
    pub(super) fn give_sample(&mut self, asker: Asker) {
        let mut sample = Sample::new(&self.engine, &self.executor.stats);
        let observer = &self.executor.marks.observer;
        sample.enforcing = !self.options.dry_run;
        sample.missing_programs = self.executor.marks.programs.health().failed().count() as u64;
        sample.measured = observer.measured();
        sample.lost = self.lost;
        sample.unreadable = self.unreadable;
        sample.lines_dropped = self.executor.output.dropped().0;
        sample.unattributed = observer.unattributed();
        sample.untold = observer.untold();
        sample.waiting = self.executor.deferred.len() as u64;
        sample.journaled = self.executor.journaling.counts();
        for (place, total) in observer.totals().into_iter().flat_map(|totals| totals.iter()) {
            sample.totals.insert(place, total.clone());
        }
        if let Some(most) = self.options.metrics.map(|metrics| metrics.threads).filter(|most| *most > 0) {
            (sample.listed, sample.unlisted) = observer.list(most);
        }
        // Who has gone does not take it.
        drop(asker.send(sample));
    }
}
