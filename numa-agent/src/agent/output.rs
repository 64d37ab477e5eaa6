//! What the agent says while it runs: one line an event, as text or JSON, on standard output.
//!
//! A reader that does not keep up must not hold up the agent: lines go through a [`LineQueue`].

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    lines::{LineQueue, PATIENCE},
    viewers::Feed,
};
use crate::{
    core::{
        engine::{Bind, Caller, Cause},
        idset::CpuSet,
        task::BindOutcome,
    },
    report::escape,
};

/// How to write lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// For people: only what changed something.
    Text,
    /// One JSON object a line: everything.
    Json,
    /// None: standard output is for something else.
    Silent,
}

/// Writes lines.
pub struct Output {
    format: LineFormat,
    lines: LineQueue,
    messages: LineQueue,
    /// To viewers, who get all of them as JSON.
    feed: Option<Feed>,
}

impl Output {
    /// Lines to standard output in `format`, and to `feed`; `messages` lead to standard error.
    #[must_use]
    pub fn start(format: LineFormat, messages: LineQueue, feed: Option<Feed>) -> Self {
        Self { format, lines: LineQueue::start(std::io::stdout()), messages, feed }
    }

    /// Whether somebody hears of each attempt to bind, also of those that changed nothing.
    fn is_heard(&self) -> bool {
        self.format == LineFormat::Json || self.is_watched()
    }

    /// Whether nobody hears of what is done.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.format == LineFormat::Silent && !self.is_watched()
    }

    fn is_watched(&self) -> bool {
        self.feed.as_ref().is_some_and(Feed::is_watched)
    }

    /// A line of JSON, to all who want it.
    fn json(&self, value: impl FnOnce() -> Value) {
        if !self.is_heard() {
            return;
        }
        let line = json_line(&value());
        if let Some(feed) = self.feed.as_ref().filter(|feed| feed.is_watched()) {
            feed.event(&line);
        }
        if self.format == LineFormat::Json {
            self.lines.line(line);
        }
    }

    /// A line for people, beside the log.
    pub fn message(&self, text: &str) {
        self.messages.line(text);
    }

    /// One attempt to bind. Who was moved may wait for the CPU that we have: the line is put into words by who writes it.
    pub fn bound(&mut self, bind: Bind, outcome: BindOutcome, latency_ns: Option<u64>) {
        if let Some(feed) = self.feed.as_ref().filter(|feed| feed.is_watched()) {
            feed.event(&bound_json(&bind, &outcome, latency_ns));
        }
        let changed = !matches!(outcome, BindOutcome::Unchanged(_) | BindOutcome::Gone);
        match self.format {
            LineFormat::Json => self.lines.later(move || bound_json(&bind, &outcome, latency_ns)),
            LineFormat::Text if changed => self.lines.later(move || bound_text(&bind, &outcome, latency_ns)),
            LineFormat::Text | LineFormat::Silent => {}
        }
    }

    /// Anything else: `fields` in JSON, `text` for people.
    pub fn event(&mut self, name: &str, fields: Value, text: impl FnOnce() -> Option<String>) {
        self.json(|| {
            let mut line = json!({ "schema": 1, "event": name });
            if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
                line.extend(fields);
            }
            line
        });
        if let Some(text) = (self.format == LineFormat::Text).then(text).flatten() {
            self.lines.line(text);
        }
    }

    /// How many lines of standard output, and how many messages, were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        (self.lines.dropped(), self.messages.dropped())
    }

    /// Writes what is queued, as far as the reader keeps reading.
    pub fn finish(&self) {
        self.lines.flush_within(PATIENCE);
    }
}

/// A finished JSON line: what a terminal could take for a command is escaped.
fn json_line(line: &Value) -> String {
    escape::json(&line.to_string())
}

/// An attempt to bind as a line of JSON. In a storm there are thousands a second: they are not put together as values first.
#[derive(Serialize)]
struct BoundLine<'a> {
    schema: u32,
    event: &'static str,
    pid: u32,
    tid: u32,
    start_time: u64,
    comm: &'a str,
    role: &'static str,
    group: Option<&'a str>,
    cpus: &'a CpuSet,
    actual_cpus: Option<&'a CpuSet>,
    cause: &'static str,
    result: String,
    latency_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<CallerFields<'a>>,
}

#[derive(Serialize)]
struct CallerFields<'a> {
    pid: u32,
    tid: u32,
    comm: &'a str,
}

fn bound_json(bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) -> String {
    let caller = match &bind.cause {
        Cause::SetAffinity(Caller { pid, tid, comm }) => Some(CallerFields { pid: *pid, tid: *tid, comm }),
        _ => None,
    };
    let line = BoundLine {
        schema: 1,
        event: "bound",
        pid: bind.pid,
        tid: bind.task.tid,
        start_time: bind.task.start_time,
        comm: &bind.comm,
        role: bind.role.name(),
        group: bind.group.as_deref(),
        cpus: &bind.cpus,
        actual_cpus: outcome.mask(),
        cause: bind.cause.name(),
        result: outcome.to_string(),
        latency_us: latency_ns.map(|ns| ns as f64 / 1000.0),
        caller,
    };
    // Strings and numbers: nothing that has no JSON.
    escape::json(&serde_json::to_string(&line).unwrap_or_default())
}

fn bound_text(bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) -> String {
    let place = bind.group.as_deref().unwrap_or("others");
    let (tid, comm, role) = (bind.task.tid, escape::text(&bind.comm), bind.role.name());
    let after = latency_ns.map_or(String::new(), |ns| format!(", {:.0} us after it", ns as f64 / 1000.0));
    let by = match &bind.cause {
        Cause::SetAffinity(caller) => format!(" by {} ({})", caller.tid, escape::text(&caller.comm)),
        _ => String::new(),
    };
    format!("{outcome} {tid} {comm} ({role} of {place}) on {}: {}{by}{after}", bind.cpus, bind.cause.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::viewers::News,
        core::task::{TaskId, ThreadRole},
    };

    fn repinned() -> Bind {
        Bind {
            pid: 7,
            task: TaskId { tid: 9, start_time: 3 },
            comm: "x\x1b[2J\u{9b}2J\u{202e}".into(),
            role: ThreadRole::Forward,
            group: Some("socket0_group1".into()),
            cpus: "4-7".parse().unwrap(),
            cause: Cause::SetAffinity(Caller { pid: 7, tid: 8, comm: "omp\n".into() }),
            at_ns: Some(0),
            seen_ns: 0,
        }
    }

    #[test]
    fn viewers_hear_of_everything_whatever_is_printed() {
        let (feed, demand, mut news) = Feed::new();
        let messages = LineQueue::start(std::io::sink());
        let mut output = Output::start(LineFormat::Silent, messages, Some(feed));
        let say = |output: &mut Output| {
            output.bound(repinned(), BindOutcome::Gone, None);
            output.event("lost", json!({ "lost": 3 }), || None);
        };
        say(&mut output);
        assert!(output.is_silent() && news.try_recv().is_err(), "nobody watches");
        demand.set_pace(Some(std::time::Duration::from_secs(1)));
        say(&mut output);
        assert!(!output.is_silent());
        let mut next = || -> Value {
            match news.try_recv() {
                Ok(News::Event(line)) => serde_json::from_str(&line).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let (bound, lost) = (next(), next());
        assert_eq!((&bound["kind"], &bound["schema"]), (&json!("event"), &json!(1)));
        let same: Value = serde_json::from_str(&bound_json(&repinned(), &BindOutcome::Gone, None)).unwrap();
        assert_eq!(bound["event"], same);
        assert_eq!(lost["event"], json!({ "schema": 1, "event": "lost", "lost": 3 }));
    }

    #[test]
    fn names_the_caller_and_escapes_what_others_named() {
        let outcome = BindOutcome::Bound("4-7".parse().unwrap());
        let text = bound_text(&repinned(), &outcome, Some(41_500));
        assert!(!text.contains(['\x1b', '\n']), "{text:?}");
        assert!(
            text.contains("socket0_group1") && text.contains("by 8 (omp") && text.contains("42 us"),
            "{text}"
        );
        let line = bound_json(&repinned(), &outcome, Some(41_500));
        assert!(!line.chars().any(escape::is_hidden), "{line:?}");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["comm"], &json["caller"]["comm"]), (&json!(repinned().comm), &json!("omp\n")));
        assert_eq!(json["caller"]["tid"], 8);
        assert_eq!((&json["cpus"], &json["actual_cpus"]), (&json!("4-7"), &json!("4-7")));
        assert_eq!(json["latency_us"], 41.5);
    }
}
