//! Events in words, newest first. What came from other processes is not escaped yet: who draws or prints does that.

use std::collections::VecDeque;

use serde_json::Value;

use super::{
    data::{Track, feed_label},
    filter::About,
};
use crate::core::task::TaskId;

/// Events that are kept.
const KEPT: usize = 1000;

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A thread was put where it belongs.
    Bound,
    /// Somebody set its mask.
    Repinned,
    /// It is on a CPU that it should not be on.
    Drifted,
    /// It ran off its nodes.
    OffNode,
    /// It moved between nodes.
    Moved,
    /// A warning.
    Warning,
    /// The plan was made anew.
    Replanned,
    /// Something could not be done.
    Failed,
    /// Events were lost.
    Lost,
    /// The agent, or the way to it.
    Agent,
    /// What this version does not know.
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Bound,
        Self::Repinned,
        Self::Drifted,
        Self::OffNode,
        Self::Moved,
        Self::Warning,
        Self::Replanned,
        Self::Failed,
        Self::Lost,
        Self::Agent,
        Self::Other,
    ];

    /// One word, at most eight columns.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Repinned => "re-pin",
            Self::Drifted => "drift",
            Self::OffNode => "off-node",
            Self::Moved => "moved",
            Self::Warning => "warning",
            Self::Replanned => "plan",
            Self::Failed => "FAILED",
            Self::Lost => "LOST",
            Self::Agent => "agent",
            Self::Other => "event",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was heard of, UTC.
    pub clock: String,
    /// What it is.
    pub kind: Kind,
    /// The thread that it is about, where known.
    pub task: Option<TaskId>,
    /// What else is known of what it is about.
    pub about: About,
    /// In words.
    pub text: String,
    /// How often in a row.
    pub times: u64,
}

impl Entry {
    /// One.
    #[must_use]
    pub fn new(clock: &str, kind: Kind, task: Option<TaskId>, text: String) -> Self {
        Self { clock: clock.to_owned(), kind, task, about: About::default(), text, times: 1 }
    }

    /// The same, and what it is about.
    #[must_use]
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// A line of `run --format json` in words; `None` for what changed nothing. `known` says what is known of a tid.
    #[must_use]
    pub fn of_event<'a>(
        event: &Value,
        clock: &str,
        known: &dyn Fn(u32) -> Option<(TaskId, &'a Track)>,
    ) -> Option<Self> {
        let tid = number(event, "tid");
        let (seen, track) = tid.and_then(known).unzip();
        let task = tid.and_then(|tid| match event["start_time"].as_u64() {
            Some(start_time) => Some(TaskId { tid, start_time }),
            None => seen,
        });
        let comm = event["comm"].as_str().map(str::to_owned);
        let comm = comm.or_else(|| track.map(|track| track.comm.clone()));
        let who = tid.map_or_else(|| "?".to_owned(), |tid| feed_label(comm.as_deref(), tid));
        let (kind, text) = match event["event"].as_str().unwrap_or_default() {
            "bound" => bound(event, &who)?,
            "migrated" => (Kind::Moved, format!("{who} {}", moved(event))),
            "warning" => (Kind::Warning, word(event, "warning")),
            "replanned" => (Kind::Replanned, format!("{}; planned anew", word(event, "changes"))),
            "reloaded" => (Kind::Replanned, "configuration read again".to_owned()),
            "lost" => (Kind::Lost, format!("events lost in the kernel: {}", event["lost"])),
            "ready" => (Kind::Agent, format!("ready, {}", word(event, "mode"))),
            "report" => (Kind::Agent, format!("jitter report {}", word(event, "path"))),
            "summary" => (Kind::Agent, "the agent has ended".to_owned()),
            other => (Kind::Other, format!("{other} {event}")),
        };
        let known = track.and_then(|track| track.last.as_deref()).map(About::thread).unwrap_or_default();
        let said = |key: &str, known: String| event[key].as_str().map_or(known, str::to_owned);
        let places = |keys: [&str; 2]| keys.iter().filter_map(|key| number(event, key)).collect::<Vec<_>>();
        let (nodes, cpus) = (places(["from_node", "to_node"]), places(["from_cpu", "to_cpu"]));
        let about = About {
            tid,
            pid: number(event, "pid").or(known.pid),
            comm: comm.unwrap_or_default(),
            process: known.process,
            role: said("role", known.role),
            group: said("group", known.group),
            nodes: if nodes.is_empty() { known.nodes } else { nodes },
            cpus: if cpus.is_empty() { known.cpus } else { cpus },
        };
        Some(Self::new(clock, kind, task, text).about(about))
    }
}

fn number(event: &Value, key: &str) -> Option<u32> {
    event[key].as_u64().and_then(|number| u32::try_from(number).ok())
}

fn word(event: &Value, key: &str) -> String {
    event[key].as_str().unwrap_or("?").to_owned()
}

fn bound(event: &Value, who: &str) -> Option<(Kind, String)> {
    let result = event["result"].as_str().unwrap_or("?");
    let (cpus, cause) = (word(event, "cpus"), word(event, "cause"));
    let caller = &event["caller"];
    let by = caller["tid"].as_u64().map(|tid| {
        let comm = caller["comm"].as_str().unwrap_or("?");
        let itself = event["tid"].as_u64() == Some(tid);
        if itself { "itself".to_owned() } else { format!("{comm} ({tid})") }
    });
    if let Some(why) = result.strip_prefix("failed") {
        return Some((Kind::Failed, format!("{who} cannot be put on {cpus}{why}")));
    }
    let after = event["latency_us"].as_f64().map_or(String::new(), |us| format!(", {us:.0} us after it"));
    Some(match (result, by) {
        ("unchanged" | "gone", _) => return None,
        ("planned", Some(by)) => (Kind::Repinned, format!("{who} by {by}; belongs on {cpus}")),
        ("planned", None) => (Kind::Drifted, format!("{who} is not bound to {cpus} ({cause})")),
        (_, Some(by)) => (Kind::Repinned, format!("{who} by {by}; put back on {cpus}{after}")),
        (_, None) => (Kind::Bound, format!("{who} to {cpus}: {cause}{after}")),
    })
}

fn moved(event: &Value) -> String {
    let number = |key: &str| event[key].as_u64().map_or_else(|| "?".to_owned(), |id| id.to_string());
    format!(
        "node {} -> {}, CPU {} -> {}",
        number("from_node"),
        number("to_node"),
        number("from_cpu"),
        number("to_cpu")
    )
}

/// The last events.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    entries: VecDeque<Entry>,
    /// How many there were, repetitions included.
    pub total: u64,
}

impl Feed {
    /// Adds one, to the last if that is the same.
    pub fn push(&mut self, entry: Entry) {
        self.total += 1;
        match self.entries.back_mut() {
            Some(last) if (last.kind, last.task, &last.text) == (entry.kind, entry.task, &entry.text) => {
                (last.times, last.clock) = (last.times + 1, entry.clock);
            }
            _ => self.entries.push_back(entry),
        }
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
