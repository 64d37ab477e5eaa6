//! Which threads or events are listed: words that all have to be found.

use super::feed::{Entry, Kind};
use crate::{
    core::{task::ThreadRole, view::Thread},
    view::draw::words::group_short,
};

/// `forward s0.g1 node:3`: each word is searched in a name, process, group and role, of an event also in its kind and text; with a
/// field's name and a colon only there. Upper and lower case are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    words: Vec<(Field, String)>,
    problem: Option<String>,
}

/// What is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Threads.
    Threads,
    /// Events.
    Events,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Any,
    Name,
    Process,
    Group,
    Role,
    Kind,
    Tid,
    Pid,
    Node,
    Cpu,
}

const FIELDS: [(&str, Field); 9] = [
    ("name", Field::Name),
    ("process", Field::Process),
    ("group", Field::Group),
    ("role", Field::Role),
    ("kind", Field::Kind),
    ("tid", Field::Tid),
    ("pid", Field::Pid),
    ("node", Field::Node),
    ("cpu", Field::Cpu),
];

/// What an event or a row of the table is about, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Thread.
    pub tid: Option<u32>,
    /// Process.
    pub pid: Option<u32>,
    /// The thread's name.
    pub comm: String,
    /// Its process's.
    pub process: String,
    /// Its role's.
    pub role: String,
    /// Its group's.
    pub group: String,
    /// Nodes that it has to do with.
    pub nodes: Vec<u32>,
    /// CPUs likewise.
    pub cpus: Vec<u32>,
}

impl About {
    /// A thread: where it belongs, and is.
    #[must_use]
    pub fn thread(thread: &Thread) -> Self {
        let planned = thread.planned.iter().flat_map(|place| &place.nodes);
        Self {
            tid: Some(thread.tid),
            pid: Some(thread.pid),
            comm: thread.comm.clone(),
            process: thread.process.clone(),
            role: thread.role.name().to_owned(),
            group: thread.group.clone().unwrap_or_default(),
            nodes: planned.chain(&thread.node).copied().collect(),
            cpus: thread.cpu.into_iter().collect(),
        }
    }

    /// Several threads: what they have in common, and all of their places.
    #[must_use]
    pub fn threads(threads: &[&Thread]) -> Self {
        let all: Vec<Self> = threads.iter().map(|thread| Self::thread(thread)).collect();
        let common = |of: fn(&Self) -> &String| {
            let first = all.first().map(of).cloned().unwrap_or_default();
            if all.iter().all(|about| *of(about) == first) { first } else { String::new() }
        };
        Self {
            tid: None,
            pid: None,
            comm: common(|about| &about.comm),
            process: common(|about| &about.process),
            role: common(|about| &about.role),
            group: common(|about| &about.group),
            nodes: all.iter().flat_map(|about| about.nodes.clone()).collect(),
            cpus: all.iter().flat_map(|about| about.cpus.clone()).collect(),
        }
    }
}

impl Filter {
    /// Reads one.
    #[must_use]
    pub fn new(text: &str, of: Of) -> Self {
        let words: Vec<_> = text.split_whitespace().map(word).collect();
        let problem = words.iter().find_map(|(field, word)| problem(*field, word, of));
        Self { text: text.to_owned(), words, problem }
    }

    /// As it was typed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What of it cannot have been meant so, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether a thread is listed.
    #[must_use]
    pub fn matches(&self, thread: &Thread) -> bool {
        self.is_empty() || self.fits(&About::thread(thread), None)
    }

    /// Whether an event is.
    #[must_use]
    pub fn matches_event(&self, entry: &Entry) -> bool {
        self.fits(&entry.about, Some(entry))
    }

    fn fits(&self, about: &About, event: Option<&Entry>) -> bool {
        self.words.iter().all(|(field, word)| {
            let within = |text: &str| text.to_lowercase().contains(word);
            let group = || within(&about.group) || within(&group_short(&about.group));
            let kind = || event.is_some_and(|event| within(event.kind.word()));
            let is = |number: &u32| number.to_string() == *word;
            match field {
                // Half typed.
                _ if word.is_empty() => true,
                Field::Any => {
                    let words =
                        within(&about.comm) || within(&about.process) || within(&about.role) || group();
                    let numbers = about.tid.iter().chain(&about.pid).any(is);
                    words || numbers || kind() || event.is_some_and(|event| within(&event.text))
                }
                Field::Name => within(&about.comm),
                Field::Process => within(&about.process),
                Field::Group => group(),
                Field::Role => within(&about.role),
                Field::Kind => kind(),
                Field::Tid => about.tid.iter().any(is),
                Field::Pid => about.pid.iter().any(is),
                Field::Node => about.nodes.iter().any(is),
                Field::Cpu => about.cpus.iter().any(is),
            }
        })
    }
}

fn word(word: &str) -> (Field, String) {
    let word = word.to_lowercase();
    let field = word.split_once(':').and_then(|(name, rest)| {
        FIELDS.iter().find(|(field, _)| *field == name).map(|(_, field)| (*field, rest.to_owned()))
    });
    field.unwrap_or((Field::Any, word))
}

/// What of a word cannot have been meant so.
fn problem(field: Field, word: &str, of: Of) -> Option<String> {
    let name = FIELDS.iter().find(|(_, other)| *other == field).map_or("", |(name, _)| name);
    match field {
        _ if word.is_empty() => None,
        Field::Tid | Field::Pid | Field::Node | Field::Cpu => {
            word.parse::<u32>().is_err().then(|| format!("{name}: wants a number"))
        }
        Field::Role => {
            let roles = [ThreadRole::Forward, ThreadRole::Member, ThreadRole::Other].map(ThreadRole::name);
            let known = roles.iter().any(|role| role.contains(word));
            (!known).then(|| format!("role: is one of {}", roles.join(", ")))
        }
        Field::Kind if of == Of::Threads => Some("kind: is for events; tab leads there".to_owned()),
        Field::Kind => {
            let kinds = Kind::ALL.map(|kind| kind.word().to_lowercase());
            let known = kinds.iter().any(|kind| kind.contains(word));
            (!known).then(|| format!("kind: is one of {}", kinds.join(", ")))
        }
        // A name may have a colon too: it is searched.
        Field::Any => {
            let (field, _) = word.split_once(':')?;
            let is_field = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_lowercase());
            let fields = FIELDS.iter().filter(|(_, field)| of == Of::Events || *field != Field::Kind);
            let fields: Vec<&str> = fields.map(|(name, _)| *name).collect();
            is_field.then(|| format!("{field}: is none of {}", fields.join(", ")))
        }
        Field::Name | Field::Process | Field::Group => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_have_been_meant_is_said() {
        let problem = |text: &str, of| Filter::new(text, of).problem().map(str::to_owned);
        for (text, words) in [
            ("node:x", "node: wants a number"),
            ("forward tid:4a", "tid: wants a number"),
            ("role:frwd", "forward, member, other"),
            ("kind:moved", "kind: is for events"),
            ("colour:red", "colour: is none of name, process, group, role, tid, pid, node, cpu"),
        ] {
            assert!(problem(text, Of::Threads).is_some_and(|said| said.contains(words)), "{text}");
        }
        assert!(problem("kind:mvd", Of::Events).unwrap().contains("re-pin, drift"));
        for fine in ["", "node:", "node:3 role:forw", "kworker/3:1", "cpu:1", "name:a:b", "::"] {
            assert_eq!(problem(fine, Of::Threads), None, "{fine}");
        }
        assert_eq!(problem("kind:lost kind:RE-PIN", Of::Events), None);
    }

    #[test]
    fn a_word_with_a_colon_that_is_no_field_is_searched() {
        let mut thread = crate::view::synthetic::quiet(&crate::core::preset::a2(), 1).threads.remove(0);
        thread.comm = "Motor:io".into();
        let matches = |text: &str| Filter::new(text, Of::Threads).matches(&thread);
        assert!(matches("motor:io") && !matches("motor:cpu"));
        assert!(matches(&format!("cpu:{}", thread.cpu.unwrap())) && !matches("cpu:9999"));
    }
}
