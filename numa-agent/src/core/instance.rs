//! Serving instances: which processes belong together, and which of the plan's groups each instance has.

mod container;
mod names;
mod slots;

use std::{fmt, str::FromStr};

use regex::Regex;

use super::{
    choice::ChoiceError,
    task::{ProcessFacts, TaskId},
};
pub use container::{ContainerRef, container_of};
pub use names::{Container, Names};
pub use slots::{Assignment, Place, Slots, SlotsError};

/// `--group-by`: what tells one serving instance from another.
#[derive(Debug, Clone, Default)]
pub enum GroupBy {
    /// The container if there is one, else the session, else the topmost matching ancestor.
    #[default]
    Auto,
    /// The cgroup's path.
    Cgroup,
    /// The session id.
    Session,
    /// The topmost matching ancestor.
    Tree,
    /// Every matching process is an instance.
    Pid,
    /// The value of an environment variable.
    Env(String),
    /// Capture 1 of a regular expression searched in the command line.
    Arg(Regex),
}

impl GroupBy {
    /// Those that are a word.
    pub const WORDS: &'static [&'static str] = &["auto", "cgroup", "session", "tree", "pid"];
}

impl FromStr for GroupBy {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let wrong = || ChoiceError::new(text, &[Self::WORDS, &["env:NAME", "arg:REGEX"]].concat());
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::Env(name.to_owned()))
            }
            Some(("env", _)) => Err(wrong().because("env:NAME takes an environment variable's name")),
            Some(("arg", pattern)) => {
                let regex = Regex::new(pattern).map_err(|error| wrong().because(&error.to_string()))?;
                if regex.captures_len() < 2 {
                    let hint = "the part that names the instance must be in parentheses, as in arg:--port[= ]([0-9]+)";
                    return Err(wrong().because(hint));
                }
                Ok(Self::Arg(regex))
            }
            _ => match text {
                "auto" => Ok(Self::Auto),
                "cgroup" => Ok(Self::Cgroup),
                "session" => Ok(Self::Session),
                "tree" => Ok(Self::Tree),
                "pid" => Ok(Self::Pid),
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cgroup => f.write_str("cgroup"),
            Self::Session => f.write_str("session"),
            Self::Tree => f.write_str("tree"),
            Self::Pid => f.write_str("pid"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Arg(regex) => write!(f, "arg:{regex}"),
        }
    }
}

/// What tells an instance from all others. Prints as its name, such as `session:77`; a value from another process is
/// printed with its control characters escaped, and is as unsafe in HTML as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceKey {
    /// A cgroup path; a container's own cgroup where the container was the reason.
    Cgroup(String),
    /// A session id.
    Session(u32),
    /// The topmost group process of a tree.
    Tree(TaskId),
    /// A process by itself.
    Pid(TaskId),
    /// An environment variable and its value.
    Env(String, String),
    /// A part of the command line.
    Arg(String),
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup:{}", printable(path)),
            Self::Session(id) => write!(f, "session:{id}"),
            Self::Tree(top) => write!(f, "tree:{}", top.tid),
            Self::Pid(process) => write!(f, "pid:{}", process.tid),
            Self::Env(name, value) => write!(f, "env:{name}={}", printable(value)),
            Self::Arg(value) => write!(f, "arg:{}", printable(value)),
        }
    }
}

fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// An instance, and what to tell the user about how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The instance.
    pub key: InstanceKey,
    /// Set where the grouping asked for does not tell this process's instance, and `auto` was used.
    pub note: Option<String>,
}

/// The instance of a group process. `is_group` tells of an ancestor whether it is a group process too;
/// `process.ancestors` is what [`super::rules::Needs::ancestors`] made the reader fetch.
#[must_use]
pub fn instance_of(by: &GroupBy, process: &ProcessFacts, is_group: impl Fn(TaskId) -> bool) -> Instance {
    let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let told = match by {
        GroupBy::Auto => Some(auto(process, &is_group)),
        GroupBy::Cgroup => some(process.cgroup.as_deref()).map(InstanceKey::Cgroup),
        GroupBy::Session => session(process),
        GroupBy::Tree => Some(tree(process, &is_group)),
        GroupBy::Pid => Some(InstanceKey::Pid(process.id())),
        GroupBy::Env(name) => some(process.env.as_deref()).map(|value| InstanceKey::Env(name.clone(), value)),
        GroupBy::Arg(regex) => {
            let capture = regex.captures(&process.cmdline).and_then(|captures| captures.get(1));
            some(capture.map(|capture| capture.as_str())).map(InstanceKey::Arg)
        }
    };
    match told {
        Some(key) => Instance { key, note: None },
        None => {
            let key = auto(process, &is_group);
            let note = format!("pid {}: {by} tells nothing of it, so it is grouped by {key}", process.pid);
            Instance { key, note: Some(note) }
        }
    }
}

fn auto(process: &ProcessFacts, is_group: &impl Fn(TaskId) -> bool) -> InstanceKey {
    let container = process.cgroup.as_deref().and_then(container_of);
    container
        .map(|container| InstanceKey::Cgroup(container.cgroup))
        .or_else(|| session(process))
        .unwrap_or_else(|| tree(process, is_group))
}

fn session(process: &ProcessFacts) -> Option<InstanceKey> {
    (process.session != 0).then_some(InstanceKey::Session(process.session))
}

/// The topmost ancestor that is a group process, whatever stands between; the process itself if there is none.
fn tree(process: &ProcessFacts, is_group: &impl Fn(TaskId) -> bool) -> InstanceKey {
    let mut child = process.id();
    // A parent that started after its child is another process by now that got a recycled pid.
    let real = process.ancestors.iter().copied().take_while(|parent| {
        let older = parent.start_time <= child.start_time;
        child = *parent;
        older
    });
    InstanceKey::Tree(real.filter(|ancestor| is_group(*ancestor)).last().unwrap_or_else(|| process.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4a5b6c7d8e9f00112233445566778899aabbccddeeff00112233445566778a";

    fn task(tid: u32, start_time: u64) -> TaskId {
        TaskId { tid, start_time }
    }

    fn process() -> ProcessFacts {
        ProcessFacts {
            pid: 100,
            start_time: 50,
            session: 77,
            cmdline: "serve --port 8001 --name \u{1b}[31m".into(),
            cgroup: Some(format!("/docker/{ID}/inner")),
            env: Some("blue".into()),
            ancestors: vec![task(90, 40), task(80, 30), task(70, 20), task(1, 0)],
            ..Default::default()
        }
    }

    fn name(by: &str, process: &ProcessFacts) -> (String, Option<String>) {
        let instance =
            instance_of(&by.parse().unwrap(), process, |ancestor| [90, 70].contains(&ancestor.tid));
        (instance.key.to_string(), instance.note)
    }

    #[test]
    fn each_grouping_names_the_instance_by_its_own_means() {
        for (by, expected) in [
            ("auto", format!("cgroup:/docker/{ID}")),
            ("cgroup", format!("cgroup:/docker/{ID}/inner")),
            ("session", "session:77".into()),
            ("tree", "tree:70".into()),
            ("pid", "pid:100".into()),
            ("env:COLOUR", "env:COLOUR=blue".into()),
            ("arg:--port[= ]([0-9]+)", "arg:8001".into()),
            ("arg:--name (.*)", "arg:\\u{1b}[31m".into()),
        ] {
            assert_eq!(name(by, &process()), (expected, None), "{by}");
            assert_eq!(by.parse::<GroupBy>().unwrap().to_string(), by);
        }
    }

    #[test]
    fn auto_goes_from_container_to_session_to_tree() {
        let plain = ProcessFacts { cgroup: Some("/system.slice/x.service".into()), ..process() };
        assert_eq!(name("auto", &plain).0, "session:77");
        assert_eq!(name("auto", &ProcessFacts { cgroup: None, session: 0, ..process() }).0, "tree:70");
    }

    #[test]
    fn what_tells_nothing_falls_back_to_auto_with_a_note() {
        let mute = ProcessFacts { cgroup: None, env: Some(String::new()), ..process() };
        for by in ["cgroup", "env:COLOUR", "arg:--rank ([0-9]+)", "arg:port(x?)"] {
            let (key, note) = name(by, &mute);
            assert_eq!(key, "session:77", "{by}");
            let note = note.expect("a note");
            assert!(note.contains("pid 100") && note.contains(by) && note.contains("session:77"), "{note}");
        }
        let (key, note) = name("session", &ProcessFacts { session: 0, ..mute });
        assert_eq!((key.as_str(), note.is_some()), ("tree:70", true));
    }

    #[test]
    fn a_tree_ends_where_a_parents_pid_was_recycled() {
        let recycled = ProcessFacts { ancestors: vec![task(90, 40), task(70, 45)], ..process() };
        assert_eq!(name("tree", &recycled).0, "tree:90");
        let orphan = ProcessFacts { ancestors: vec![task(1, 0)], ..process() };
        assert_eq!(name("tree", &orphan).0, "tree:100");
    }

    #[test]
    fn recycled_pids_are_other_instances() {
        let key =
            |start_time| instance_of(&GroupBy::Pid, &ProcessFacts { start_time, ..process() }, |_| false).key;
        assert_ne!(key(50), key(51));
        assert_eq!(key(50).to_string(), key(51).to_string());
    }

    #[test]
    fn bad_groupings_are_refused_with_a_hint() {
        for (text, words) in [
            ("contaner", "auto, cgroup, session, tree, pid, env:NAME, arg:REGEX"),
            ("sessions", "did you mean session?"),
            ("env:", "variable's name"),
            ("env:A=B", "variable's name"),
            ("arg:(", "unclosed group"),
            ("arg:port", "in parentheses"),
            ("arg", "arg:REGEX"),
        ] {
            let error = text.parse::<GroupBy>().expect_err(text).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
