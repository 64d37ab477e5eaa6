//! What was changed on this machine, in lines that are written before each change: so that it can be undone, also after a crash.
//! Encoding and decoding are functions of bytes.
//!
//! A line is a checksum (CRC-32 in hexadecimal), a blank, and a JSON object. A line that is torn or damaged is counted and left
//! out; a kind of line that is not known here is kept as it is: a later version may have written it. The first line says which boot of
//! the machine it is about: start times begin anew with each, and nothing that was changed outlasts one.

pub mod done;
mod lineage;
mod outstanding;
mod told;
pub mod undo;

use serde::{Deserialize, Serialize};

pub use self::{
    lineage::{Cpus, Lineage, Machine, Who},
    outstanding::{Change, Outstanding, Owed, Subject, same_value},
    told::Told,
};
use super::{
    idset::{CpuSet, IdSet},
    task::TaskId,
};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// What follows is about this boot, and what went before is over if that was another.
    Boot {
        /// The kernel's name for it.
        id: String,
    },
    /// A task is about to get another mask.
    Task(TaskChange),
    /// A file is about to get another value.
    File(FileChange),
    /// What was told of this one before has been undone, or is not to be.
    Struck {
        /// Whom or what it is about.
        subject: Subject,
    },
    /// So many lines before this one were damaged, and are gone since the journal was written anew.
    Lost {
        /// How many.
        lines: usize,
    },
    /// Something else, word for word.
    #[serde(skip)]
    Unknown(String),
}

/// The CPUs that a task may run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskChange {
    /// Its process.
    pub pid: u32,
    /// Itself.
    #[serde(flatten)]
    pub task: TaskId,
    /// Its name.
    pub comm: String,
    /// Its mask until now; or, if that was inherited, what its forebear had before it was ours. All CPUs there can be, if it was none of its
    /// own, but what its cpuset and the CPUs that were online made of that.
    pub before: CpuSet,
    /// What it is about to be given.
    pub given: CpuSet,
}

/// The value of a file in `/proc` or `/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// What sort of thing it is.
    pub class: FileClass,
    /// Where.
    pub path: String,
    /// What it is about, in words: `irq 34 eth0-rx-0`.
    pub what: String,
    /// What it held until now.
    pub before: String,
    /// What is about to be written.
    pub given: String,
    /// Whom it is about, in the machine's words: the path may lead to another's later. `None`: nobody can tell, or it is of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whose: Option<String>,
}

impl FileChange {
    /// Whether it is of a list that irqbalance keeps: the path is its socket then.
    #[must_use]
    pub fn is_ban(&self) -> bool {
        is_socket(&self.path)
    }

    /// Whether it is about somebody else than that: an interrupt about none of those that it had.
    #[must_use]
    pub fn is_anothers(&self, whose: Option<&str>) -> bool {
        let (Some(one), Some(other)) = (self.whose.as_deref(), whose) else { return false };
        one.split(',').all(|one| other.split(',').all(|other| one != other))
    }

    /// Whether it is of an interrupt.
    fn is_interrupt(&self) -> bool {
        is_interrupt(&self.path)
    }

    /// The CPUs or nodes that a text of this file says: `None` if it makes no sense.
    fn set(&self, text: &str) -> Option<IdSet> {
        let is_mask = self.name() == "smp_affinity" || self.name().ends_with("ps_cpus");
        let set = if is_mask { IdSet::from_mask(text.trim()) } else { text.trim().parse() };
        set.ok()
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether such a path is of an interrupt.
#[must_use]
pub fn is_interrupt(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("smp_affinity"))
}

/// Whether such a path is irqbalance's socket.
#[must_use]
pub fn is_socket(path: &str) -> bool {
    path.ends_with(".sock")
}

/// Sorts of things that are changed, and can be undone apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Masks of threads.
    Task,
    /// Values of files.
    File(FileClass),
}

impl Class {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Task, Self::File(FileClass::Cpuset), Self::File(FileClass::Irq)];

    /// One word for flags, messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::File(class) => class.name(),
        }
    }

    /// Whether it is the running agent that changes such things, and would do so again.
    #[must_use]
    pub const fn is_the_agents(self) -> bool {
        !matches!(self, Self::File(FileClass::Irq))
    }
}

/// Sorts of files, each with commands of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileClass {
    /// Where interrupts and network queues are handled.
    Irq,
    /// What a cgroup allows.
    Cpuset,
}

impl FileClass {
    /// One word for messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Irq => "irq",
            Self::Cpuset => "cpuset",
        }
    }
}

/// What a journal's bytes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// The lines that make sense, in order.
    pub entries: Vec<Entry>,
    /// How many do not.
    pub damaged: usize,
}

impl Entry {
    /// As a line, with its end.
    ///
    /// # Panics
    /// Never: an entry has nothing that JSON cannot say.
    #[must_use]
    pub fn encode(&self) -> String {
        let body = match self {
            Self::Unknown(body) => body.clone(),
            known => serde_json::to_string(known).expect("strings and numbers"),
        };
        format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes()))
    }

    /// Of a line without its end; `None` if it is damaged.
    fn decode(line: &[u8]) -> Option<Self> {
        let (sum, body) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let intact = sum == format!("{:08x}", crc32fast::hash(body.as_bytes()));
        intact.then(|| serde_json::from_str(body).unwrap_or_else(|_| Self::Unknown(body.to_owned())))
    }
}

/// Whether these bytes, the first of a file, may be a journal's: nothing, or a checksum.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    let (sum, rest) = bytes.split_at(bytes.len().min(8));
    sum.iter().all(u8::is_ascii_hexdigit) && rest.first().is_none_or(|byte| *byte == b' ')
}

/// Reads a journal.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut lines = bytes.split(|byte| *byte == b'\n');
    // What follows the last end of a line is one that was torn, or nothing.
    let torn = lines.next_back().is_some_and(|rest| !rest.is_empty());
    for line in lines.filter(|line| !line.is_empty()) {
        match Entry::decode(line) {
            Some(entry) => decoded.entries.push(entry),
            None => decoded.damaged += 1,
        }
    }
    decoded.damaged += usize::from(torn);
    decoded
}

#[cfg(test)]
mod tests;
