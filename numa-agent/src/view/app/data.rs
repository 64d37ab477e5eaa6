//! What came in, kept for as long as it can be looked at: the last snapshot, what each thread did in the intervals before, events.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    feed::{Entry, Feed, Kind},
    filter::About,
    id,
};
use crate::core::{
    task::TaskId,
    view::{CriticalWaits, Line, Snapshot, Status, Thread},
};

/// Intervals that are kept of a thread.
pub const KEPT: usize = 240;
/// Threads that are kept: those heard of last.
const MAX_TRACKS: usize = 4096;
/// Names that are kept of those who had the CPU.
const MAX_PREEMPTORS: usize = 32;
/// Threads of which each gets an event of its own where many do the same in one interval.
const SINGLE: usize = 5;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Data {
    /// The last one; without an interval if there was none.
    pub snapshot: Option<Box<Snapshot>>,
    /// How many there were.
    pub intervals: u64,
    /// The last one with moves between nodes.
    pub moved: Option<u64>,
    /// By thread.
    tracks: HashMap<TaskId, Track>,
    /// What happened.
    pub feed: Feed,
    /// Events that the agent left out because we did not keep up.
    pub missed: u64,
    /// What the agent said last of a request that it refused.
    pub refused: Option<String>,
}

/// What a thread did.
#[derive(Debug, Clone, Default)]
pub struct Track {
    /// Its last name.
    pub comm: String,
    /// The thread as it was last seen.
    pub last: Option<Box<Thread>>,
    /// Interval by interval, the newest last.
    pub samples: VecDeque<Sample>,
    /// Who had the CPU longest while it waited: time and times, summed up.
    /// Those with least are summed up in `None`.
    pub preemptors: Preemptors,
}

/// What it did in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Which one: intervals in which it was not listed are missing.
    pub interval: u64,
    /// Longest but for one in a hundred waits; `None` without one.
    pub wait_p99_ns: Option<u64>,
    /// Longest wait; `None` without one.
    pub wait_max_ns: Option<u64>,
    /// Moves between CPUs a second.
    pub moves: Option<f64>,
    /// Share of its CPU time off its nodes.
    pub off_node: Option<f64>,
    /// CPU time as a share of the interval.
    pub busy: Option<f64>,
    /// Node of its last CPU.
    pub node: Option<u32>,
    /// Whether that CPU is one that it should not be on.
    pub off_plan: bool,
}

impl Sample {
    fn of(thread: &Thread, interval: u64, seconds: f64) -> Self {
        let waited = thread.waited_ns();
        Self {
            interval,
            wait_p99_ns: waited.map(|(p99, _)| p99),
            wait_max_ns: waited.map(|(_, max)| max),
            moves: per_second(thread.migrations, seconds),
            off_node: thread.off_node_share(),
            busy: thread.busy_share(seconds),
            node: thread.node,
            off_plan: thread.is_off_plan(),
        }
    }
}

impl Data {
    /// Takes in what came at `clock`; what is new in the feed.
    pub fn take(&mut self, line: Line, clock: &str) -> Vec<Entry> {
        let news = match line {
            Line::Snapshot(snapshot) => self.take_snapshot(snapshot, clock),
            Line::Event { event, .. } => {
                let known = |tid| self.thread_of(tid);
                Entry::of_event(&event, clock, &known).into_iter().collect()
            }
            Line::Missed { events, .. } => {
                self.missed += events;
                let text = format!("{events} events left out: this view did not keep up");
                vec![Entry::new(clock, Kind::Lost, None, text)]
            }
            Line::Error { error, .. } => {
                self.refused = Some(error.clone());
                vec![Entry::new(clock, Kind::Failed, None, error)]
            }
            Line::Status(status) => {
                // Until the first interval is over.
                if self.intervals == 0 {
                    self.snapshot = Some(Box::new(unmeasured(*status)));
                }
                Vec::new()
            }
        };
        for entry in &news {
            self.feed.push(entry.clone());
        }
        news
    }

    /// What is known of a thread.
    #[must_use]
    pub fn track(&self, task: TaskId) -> Option<&Track> {
        self.tracks.get(&task)
    }

    /// The thread that had that tid last.
    fn thread_of(&self, tid: u32) -> Option<(TaskId, &Track)> {
        let had = self.tracks.iter().filter(|(task, _)| task.tid == tid);
        had.max_by_key(|(task, _)| task.start_time).map(|(task, track)| (*task, track))
    }

    fn take_snapshot(&mut self, snapshot: Box<Snapshot>, clock: &str) -> Vec<Entry> {
        self.intervals += 1;
        self.refused = None;
        if snapshot.moves.iter().flatten().any(|step| step.from != step.to && step.count > 0) {
            self.moved = Some(self.intervals);
        }
        let (mut left, mut strayed) = (Vec::new(), Vec::new());
        for thread in &snapshot.threads {
            let sample = Sample::of(thread, self.intervals, snapshot.seconds);
            let track = self.tracks.entry(id(thread)).or_default();
            let before = track.samples.back().copied().unwrap_or_default();
            if sample.off_plan && !before.off_plan {
                left.push((thread, drifted(thread)));
            } else if sample.off_node.is_some_and(|share| share > 0.0)
                && before.off_node.is_none_or(|share| share == 0.0)
            {
                strayed.push((thread, strayed_text(thread)));
            }
            track.add(sample, thread);
        }
        let mut news = told(left, Kind::Drifted, "are on CPUs that they should not be on", clock);
        news.extend(told(strayed, Kind::OffNode, "ran off their nodes", clock));
        self.snapshot = Some(snapshot);
        self.forget();
        news
    }

    fn forget(&mut self) {
        let oldest = self.intervals.saturating_sub(KEPT as u64);
        self.tracks.retain(|_, track| track.heard() > oldest);
        if self.tracks.len() > MAX_TRACKS {
            let mut heard: Vec<u64> = self.tracks.values().map(Track::heard).collect();
            heard.sort_unstable_by(|a, b| b.cmp(a));
            let limit = heard[MAX_TRACKS];
            self.tracks.retain(|_, track| track.heard() > limit);
        }
    }
}

/// An event for each thread; one for all of them where they are many.
fn told(threads: Vec<(&Thread, String)>, kind: Kind, what: &str, clock: &str) -> Vec<Entry> {
    let label = |thread: &Thread| feed_label(Some(&thread.comm), thread.tid);
    if threads.len() > SINGLE {
        let names: Vec<String> = threads.iter().map(|(thread, _)| label(thread)).collect();
        let text = format!("{} threads {what}: {} and others", threads.len(), names[..SINGLE].join(", "));
        let all: Vec<&Thread> = threads.into_iter().map(|(thread, _)| thread).collect();
        return vec![Entry::new(clock, kind, None, text).about(About::threads(&all))];
    }
    let entry = |(thread, text)| {
        let text = format!("{} {text}", label(thread));
        Entry::new(clock, kind, Some(id(thread)), text).about(About::thread(thread))
    };
    threads.into_iter().map(entry).collect()
}

impl Track {
    fn add(&mut self, sample: Sample, thread: &Thread) {
        self.comm.clone_from(&thread.comm);
        self.last = Some(Box::new(thread.clone()));
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|first| first.interval + KEPT as u64 <= sample.interval) {
            self.samples.pop_front();
        }
        if let Some(who) = &thread.preemptor {
            add_to(&mut self.preemptors, who.comm.clone(), (who.ns, who.count));
            if self.preemptors.len() > MAX_PREEMPTORS {
                let named = self.preemptors.iter().filter(|(comm, _)| comm.is_some());
                let least = named.min_by_key(|(_, (ns, _))| *ns).map(|(comm, _)| comm.clone());
                if let Some(sum) = least.and_then(|comm| self.preemptors.remove(&comm)) {
                    add_to(&mut self.preemptors, None, sum);
                }
            }
        }
    }

    fn heard(&self) -> u64 {
        self.samples.back().map_or(0, |sample| sample.interval)
    }

    /// What `of` makes of the samples of the last `count` intervals up to `interval`, oldest first; `None` where there was none.
    pub fn series<T>(
        &self,
        interval: u64,
        count: usize,
        of: impl Fn(&Sample) -> Option<T>,
    ) -> Vec<Option<T>> {
        let mut series: Vec<Option<T>> = (0..count).map(|_| None).collect();
        for sample in self.samples.iter().rev() {
            let Some(age) = interval.checked_sub(sample.interval).and_then(|age| usize::try_from(age).ok())
            else {
                continue;
            };
            match count.checked_sub(age + 1) {
                Some(at) => series[at] = of(sample),
                None => break,
            }
        }
        series
    }
}

type Preemptors = BTreeMap<Option<String>, (u64, u64)>;

fn add_to(sums: &mut Preemptors, comm: Option<String>, (ns, count): (u64, u64)) {
    let sum = sums.entry(comm).or_default();
    *sum = (sum.0.saturating_add(ns), sum.1.saturating_add(count));
}

/// What is known without an interval.
fn unmeasured(status: Status) -> Snapshot {
    Snapshot {
        status,
        seconds: 0.0,
        load: None,
        matrix_of: String::new(),
        moves: None,
        threads: Vec::new(),
        unlisted: 0,
        off_plan: 0,
        critical: CriticalWaits::default(),
    }
}

/// `count` in so many seconds.
#[must_use]
pub fn per_second(count: Option<u64>, seconds: f64) -> Option<f64> {
    count.filter(|_| seconds > 0.0).map(|count| count as f64 / seconds)
}

/// `name (tid)`.
pub(super) fn feed_label(comm: Option<&str>, tid: u32) -> String {
    comm.map_or_else(|| tid.to_string(), |comm| format!("{comm} ({tid})"))
}

fn drifted(thread: &Thread) -> String {
    let place = thread.cpu.map_or(String::new(), |cpu| format!("CPU {cpu}"));
    let node = thread.node.map_or(String::new(), |node| format!(" of node {node}"));
    let planned = thread.planned.as_ref().map_or(String::new(), |place| place.cpus.to_string());
    format!("is on {place}{node}, belongs on {planned}")
}

fn strayed_text(thread: &Thread) -> String {
    let ms = thread.off_node_ns.unwrap_or(0) as f64 / 1e6;
    let share = thread.off_node_share().unwrap_or(0.0) * 100.0;
    format!("ran {ms:.1} ms off its nodes, {share:.1} % of its time")
}
