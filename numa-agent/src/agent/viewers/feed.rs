//! The loop's end: what viewers want of it, and what it tells them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified, mpsc},
    time::Instant,
};

use super::NEWS;
use crate::agent::inputs::Alarm;
use crate::core::view::{Agent, SCHEMA, Status, build::Reading};

/// The least time between two statuses, however many ask; more where one takes long.
const STATUS_PAUSE: Duration = Duration::from_millis(50);
/// The loop reads accounts for viewers at most for one part in so many of its time, and tells the state for another.
const SHARE: u32 = 10;

/// What the loop tells.
#[derive(Debug)]
pub enum News {
    /// An event: a line of JSON.
    Event(String),
    /// The state, for those who asked.
    Status(Box<Status>),
    /// All accounts.
    Reading(Box<Reading>),
}

/// What is shared between the loop and the server: numbers and signals, no lock that could be held for long.
#[derive(Debug, Default)]
pub struct Demand {
    /// Milliseconds between readings that the fastest viewer wants; 0: nobody watches.
    pace_ms: AtomicU64,
    /// Somebody asks for the state.
    status: AtomicBool,
    /// A reading is on its way: they are large, and there is never more than one.
    reading: AtomicBool,
    /// The last viewer has gone, and no other can come.
    over: AtomicBool,
    /// Something of this has changed.
    changed: Arc<Notify>,
    /// Events for which there was no room on the way.
    missed: AtomicU64,
}

impl Demand {
    /// From now on somebody wants readings so often; `None`: nobody any more.
    pub fn set_pace(&self, pace: Option<Duration>) {
        let pace_ms = pace.map_or(0, |pace| pace.as_millis().try_into().unwrap_or(u64::MAX));
        if self.pace_ms.swap(pace_ms, Ordering::Relaxed) != pace_ms {
            self.changed.notify_one();
        }
    }

    /// Asks for the state.
    pub fn ask_status(&self) {
        self.status.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// There will be no viewers any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.set_pace(None);
        self.changed.notify_one();
    }

    /// A reading has arrived.
    pub fn took_reading(&self) {
        self.reading.store(false, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Events that went missing since the last call.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }

    fn pace(&self) -> Option<Duration> {
        Some(self.pace_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Duration::from_millis)
    }
}

/// The loop's end of the way to viewers; clones lead to the same server.
#[derive(Debug, Clone)]
pub struct Feed {
    demand: Arc<Demand>,
    news: mpsc::Sender<News>,
}

impl Feed {
    /// Both ends.
    pub fn new() -> (Self, Arc<Demand>, mpsc::Receiver<News>) {
        let (news, arriving) = mpsc::channel(NEWS);
        let demand = Arc::new(Demand::default());
        (Self { demand: Arc::clone(&demand), news }, demand, arriving)
    }

    /// Whether anybody hears of events.
    pub fn is_watched(&self) -> bool {
        self.demand.pace_ms.load(Ordering::Relaxed) > 0
    }

    /// Tells of an event: a JSON object, printed.
    pub fn event(&self, json: &str) {
        let line = format!("{{\"kind\":\"event\",\"schema\":{SCHEMA},\"event\":{json}}}");
        if !self.tell(News::Event(line)) {
            self.demand.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether there was room. Without a server there is nobody to want more.
    fn tell(&self, news: News) -> bool {
        match self.news.try_send(news) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => false,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.demand.end();
                false
            }
        }
    }
}

/// What viewers want now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The state.
    Status,
    /// All accounts.
    Reading,
    /// Nothing any more, ever.
    Nothing,
}

/// What the loop knows of its viewers.
#[derive(Debug)]
pub struct Viewing {
    feed: Feed,
    /// What the agent is.
    agent: Agent,
    /// When the last status was begun, and how long it took.
    told: Option<(Instant, Duration)>,
    /// When the last reading began, and how long it took.
    read: Option<(Instant, Duration)>,
    /// Another change of what they want.
    changed: Pin<Box<OwnedNotified>>,
    /// Time for the next of it.
    alarm: Alarm,
}

impl Viewing {
    /// Nobody has asked anything yet.
    pub fn new(feed: Feed, agent: Agent) -> Self {
        let changed = Box::pin(Arc::clone(&feed.demand.changed).notified_owned());
        Self { feed, agent, told: None, read: None, changed, alarm: Alarm::default() }
    }

    /// What the agent is.
    pub fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// The state, for those who asked. Where there is no room for it, they ask still.
    pub fn tell_status(&mut self, status: Status, began: Instant) {
        self.told = Some((began, began.elapsed()));
        self.feed.demand.status.store(false, Ordering::Relaxed);
        if !self.feed.tell(News::Status(Box::new(status))) {
            self.feed.demand.status.store(true, Ordering::Relaxed);
        }
    }

    /// A reading begins.
    pub fn begin(&mut self) {
        self.read = Some((Instant::now(), Duration::ZERO));
    }

    /// It is over.
    pub fn tell_reading(&mut self, reading: Reading) {
        if let Some((began, took)) = &mut self.read {
            *took = began.elapsed();
        }
        self.feed.demand.reading.store(true, Ordering::Relaxed);
        if !self.feed.tell(News::Reading(Box::new(reading))) {
            self.feed.demand.reading.store(false, Ordering::Relaxed);
        }
    }

    /// What is wanted next, and when.
    fn next(&self) -> Option<(Instant, Want)> {
        let demand = &self.feed.demand;
        let now = Instant::now();
        if demand.over.load(Ordering::Relaxed) {
            return Some((now, Want::Nothing));
        }
        let status = demand.status.load(Ordering::Relaxed);
        let status = status.then(|| {
            let due = self.told.map_or(now, |(began, took)| began + STATUS_PAUSE.max(SHARE * took));
            (due, Want::Status)
        });
        let may_read = !demand.reading.load(Ordering::Relaxed);
        let reading = demand.pace().filter(|_| may_read).map(|pace| {
            let due = self.read.map_or(now, |(began, took)| began + pace.max(SHARE * took));
            (due, Want::Reading)
        });
        [status, reading].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}

impl Viewing {
    /// Until viewers want something.
    pub fn poll_wanted(&mut self, context: &mut Context<'_>) -> Poll<Want> {
        // Before the look: what changes after it makes this ready.
        while self.changed.as_mut().poll(context).is_ready() {
            self.changed = Box::pin(Arc::clone(&self.feed.demand.changed).notified_owned());
        }
        let next = self.next();
        ready!(self.alarm.poll(next.map(|(due, _)| due), context));
        next.map_or(Poll::Pending, |(_, want)| Poll::Ready(want))
    }
}
