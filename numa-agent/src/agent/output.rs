//! What the agent says while it runs: one line an event, as text or JSON, on standard output.
//!
//! A reader that does not keep up must not hold up the agent: lines go through a bounded queue to a thread of their own,
//! and what does not fit is dropped and counted.

use std::{
    io::Write,
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use serde_json::{Value, json};

use crate::{
    core::{
        engine::{Bind, Cause},
        task::{BindOutcome, ThreadRole},
    },
    report::escape,
};

/// Lines that wait for a slow reader.
const QUEUE: usize = 16_384;

/// How to write lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// For people: only what changed something.
    Text,
    /// One JSON object a line: everything.
    Json,
}

/// The queue's near end.
pub struct Output {
    format: LineFormat,
    queue: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    dropped: u64,
}

impl Output {
    /// Starts the writer.
    #[must_use]
    pub fn start(format: LineFormat) -> Self {
        let (queue, lines) = sync_channel::<String>(QUEUE);
        let writer = std::thread::spawn(move || {
            let mut out = std::io::stdout().lock();
            // A reader that went away ends the output, not the agent.
            while let Ok(line) = lines.recv() {
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        });
        Self { format, queue: Some(queue), writer: Some(writer), dropped: 0 }
    }

    /// One attempt to bind.
    pub fn bound(&mut self, bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) {
        match self.format {
            LineFormat::Json => self.line(bound_json(bind, outcome, latency_ns).to_string()),
            LineFormat::Text if matches!(outcome, BindOutcome::Unchanged(_) | BindOutcome::Gone) => {}
            LineFormat::Text => self.line(bound_text(bind, outcome, latency_ns)),
        }
    }

    /// Anything else: `fields` in JSON, `text` for people.
    pub fn event(&mut self, name: &str, fields: Value, text: impl FnOnce() -> Option<String>) {
        match self.format {
            LineFormat::Json => {
                let mut line = json!({ "schema": 1, "event": name });
                if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
                    line.extend(fields);
                }
                self.line(line.to_string());
            }
            LineFormat::Text => {
                if let Some(text) = text() {
                    self.line(text);
                }
            }
        }
    }

    /// How many lines were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn line(&mut self, line: String) {
        if self.queue.as_ref().is_some_and(|queue| queue.try_send(line).is_err()) {
            self.dropped += 1;
        }
    }

    /// Writes what is queued, then stops. Waits for a reader that keeps reading, at most two seconds for one that does
    /// not.
    pub fn finish(mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            for _ in 0..200 {
                if writer.is_finished() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// The role's word in JSON and text.
#[must_use]
pub fn role_name(role: ThreadRole) -> &'static str {
    match role {
        ThreadRole::Member => "member",
        ThreadRole::Forward => "forward",
        ThreadRole::Other => "other",
    }
}

fn bound_json(bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) -> Value {
    let mut line = json!({
        "schema": 1, "event": "bound", "pid": bind.pid, "tid": bind.task.tid, "start_time": bind.task.start_time,
        "comm": bind.comm, "role": role_name(bind.role), "group": bind.group, "cpus": bind.cpus,
        "actual_cpus": outcome.mask(), "cause": bind.cause.name(), "result": outcome.to_string(),
        "latency_us": latency_ns.map(|ns| ns as f64 / 1000.0),
    });
    if let Cause::SetAffinity(caller) = &bind.cause {
        line["caller"] = json!({ "pid": caller.pid, "tid": caller.tid, "comm": caller.comm });
    }
    line
}

fn bound_text(bind: &Bind, outcome: &BindOutcome, latency_ns: Option<u64>) -> String {
    let place = bind.group.as_deref().unwrap_or("others");
    let (tid, comm, role) = (bind.task.tid, escape::text(&bind.comm), role_name(bind.role));
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
    use crate::core::{engine::Caller, task::TaskId};

    fn repinned() -> Bind {
        Bind {
            pid: 7,
            task: TaskId { tid: 9, start_time: 3 },
            comm: "x\x1b[2J".into(),
            role: ThreadRole::Forward,
            group: Some("socket0_group1".into()),
            cpus: "4-7".parse().unwrap(),
            cause: Cause::SetAffinity(Caller { pid: 7, tid: 8, comm: "omp\n".into() }),
            at_ns: Some(0),
        }
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
        let json = bound_json(&repinned(), &outcome, Some(41_500));
        assert_eq!(json["caller"]["tid"], 8);
        assert_eq!((&json["cpus"], &json["actual_cpus"]), (&json!("4-7"), &json!("4-7")));
        assert_eq!(json["latency_us"], 41.5);
        assert!(!json.to_string().contains('\x1b'));
    }
}
