//! Which threads are listed: words that all have to be found.

use crate::{core::view::Thread, view::draw::words::group_short};

/// `forward s0.g1 node:3`: each word is searched in a thread's name, process, group and role; with `name:`, `process:`, `group:`,
/// `role:` only there; `tid:`, `pid:` and `node:` want a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    words: Vec<(Field, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Any,
    Name,
    Process,
    Group,
    Role,
    Tid,
    Pid,
    Node,
}

const FIELDS: [(&str, Field); 7] = [
    ("name:", Field::Name),
    ("process:", Field::Process),
    ("group:", Field::Group),
    ("role:", Field::Role),
    ("tid:", Field::Tid),
    ("pid:", Field::Pid),
    ("node:", Field::Node),
];

impl Filter {
    /// Reads one; upper and lower case are the same.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let word = |word: &str| {
            let word = word.to_lowercase();
            let found = FIELDS
                .iter()
                .find_map(|(prefix, field)| Some((*field, word.strip_prefix(prefix)?.to_owned())));
            found.unwrap_or((Field::Any, word))
        };
        Self { text: text.to_owned(), words: text.split_whitespace().map(word).collect() }
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

    /// Whether a thread is listed.
    #[must_use]
    pub fn matches(&self, thread: &Thread) -> bool {
        self.words.iter().all(|(field, word)| {
            let within = |text: &str| text.to_lowercase().contains(word);
            let group =
                || thread.group.as_deref().is_some_and(|group| within(group) || within(&group_short(group)));
            let is = |number: u32| number.to_string() == *word;
            match field {
                // Half typed.
                _ if word.is_empty() => true,
                Field::Any => {
                    within(&thread.comm)
                        || within(&thread.process)
                        || group()
                        || within(thread.role.name())
                        || is(thread.tid)
                        || is(thread.pid)
                }
                Field::Name => within(&thread.comm),
                Field::Process => within(&thread.process),
                Field::Group => group(),
                Field::Role => within(thread.role.name()),
                Field::Tid => is(thread.tid),
                Field::Pid => is(thread.pid),
                Field::Node => {
                    let planned = thread.planned.iter().flat_map(|place| &place.nodes);
                    planned.chain(&thread.node).any(|node| is(*node))
                }
            }
        })
    }
}
