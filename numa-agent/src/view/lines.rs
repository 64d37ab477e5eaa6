//! The view where there is no terminal: a line an event.

use super::app::{
    Link,
    data::Data,
    feed::{Entry, Kind},
    filter::Filter,
};
use crate::{
    core::view::Line,
    report::{escape, many},
};

/// Makes lines of what comes.
#[derive(Debug, Default)]
pub struct Writer {
    data: Data,
    /// Which events have lines.
    filter: Filter,
    /// Whether it has said whose view it is.
    began: bool,
    link: Option<Link>,
}

impl Writer {
    /// Of such events alone.
    #[must_use]
    pub fn new(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }

    /// The lines, each with its end, that say what `line` tells; `at` is the time, RFC 3339.
    pub fn line(&mut self, line: Line, at: &str) -> String {
        let mut out = String::new();
        if let (false, Line::Status(status)) = (self.began, &line) {
            self.began = true;
            let agent = &status.agent;
            let counts = &status.counts;
            let text = format!(
                "numa-agent {} on {}, {}: {} of {}",
                agent.version,
                agent.host,
                agent.mode(),
                many(counts.threads, "thread", "s"),
                many(counts.processes, "process", "es")
            );
            out += &self.wanted(Entry::new(at, Kind::Agent, None, text));
        }
        for entry in self.data.take(line, at) {
            out += &self.wanted(entry);
        }
        out
    }

    fn wanted(&self, entry: Entry) -> String {
        if self.filter.matches_event(&entry) { printed(&entry) } else { String::new() }
    }

    /// The line that says that the connection is another, if it is, whatever the filter.
    pub fn link(&mut self, link: Link, at: &str) -> Option<String> {
        let text = match &link {
            _ if self.link.as_ref() == Some(&link) => None,
            Link::Lost(why) => Some(format!("no agent: {why}; trying again")),
            Link::Agent => match self.link {
                None => None,
                Some(Link::Own(_)) => Some("an agent has come: connected to it".to_owned()),
                Some(_) => Some("connected to the agent again".to_owned()),
            },
            Link::Own(path) if self.link.is_none() => {
                Some(format!("no agent on {path}: observing with programs of our own"))
            }
            Link::Silent(why) => Some(why.clone()),
            _ => None,
        };
        self.link = Some(link);
        text.map(|text| printed(&Entry::new(at, Kind::Agent, None, text)))
    }
}

/// `2026-11-20T12:00:39Z moved    forward_2 (21158) node 1 -> 7, CPU 40 -> 293`.
fn printed(entry: &Entry) -> String {
    format!("{} {:8} {}\n", entry.clock, entry.kind.word(), escape::text(&entry.text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::{
        app::filter::Of,
        synthetic::{a3, event},
    };

    #[test]
    fn each_event_is_a_line_that_no_name_breaks() {
        let mut writer = Writer::default();
        let said: String = a3(30).into_iter().map(|line| writer.line(line, "2026-11-20T12:00:00Z")).collect();
        assert!(said.lines().all(|line| line.starts_with("2026-11-20T12:00:00Z ")), "{said}");
        for words in ["agent    ready", "drift    6 threads are", "re-pin   forward_2", "moved    forward_2"]
        {
            assert!(said.contains(words), "no {words} in {said}");
        }
        let evil = event(&json!({ "event": "warning", "warning": "a\nb\u{1b}[2J" }));
        let line = writer.line(evil, "now");
        assert_eq!(line, "now warning  a\\nb\\u{1b}[2J\n");
    }

    #[test]
    fn a_filter_leaves_the_events_that_fit() {
        let said = |filter: &str| -> Vec<String> {
            let mut writer = Writer::new(Filter::new(filter, Of::Events));
            let said: String = a3(30).into_iter().map(|line| writer.line(line, "now")).collect();
            said.lines().map(str::to_owned).collect()
        };
        let all = said("");
        for (filter, words) in [
            ("kind:moved", " moved "),
            ("kind:moved forward_2", "forward_2"),
            ("group:s0.g2 kind:re-pin", "put back on 40-79"),
            ("group:socket0_group2 role:forward kind:drift", "threads are on CPUs"),
            ("node:7 kind:moved", " -> 7"),
            ("cgroup", "/kubepods/pod7"),
        ] {
            let some = said(filter);
            assert!(!some.is_empty() && some.len() < all.len(), "{filter}: {} of {}", some.len(), all.len());
            assert!(some.iter().all(|line| line.contains(words) && all.contains(line)), "{filter}: {some:?}");
        }
        assert!(said("group:s1.g0 kind:drift").is_empty(), "none of theirs");
    }

    #[test]
    fn the_same_twice_is_said_twice_and_the_connection_once() {
        let mut writer = Writer::default();
        let warning = || event(&json!({ "event": "warning", "warning": "x" }));
        assert_eq!(writer.line(warning(), "now"), writer.line(warning(), "now"));
        assert_eq!(writer.link(Link::Agent, "now"), None);
        let lost = Link::Lost("gone".into());
        assert!(writer.link(lost.clone(), "now").unwrap().contains("no agent: gone"));
        assert_eq!(writer.link(lost, "now"), None);
        assert!(writer.link(Link::Agent, "now").unwrap().contains("again"));
        writer.link(Link::Own("/run/a.sock".into()), "now");
        let came = writer.link(Link::Agent, "now").unwrap();
        assert!(came.contains("an agent has come") && !came.contains("again"), "{came}");
    }
}
