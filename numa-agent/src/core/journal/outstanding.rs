//! What a journal adds up to: for each task and file what it had before us, and what it was given last.
//!
//! What it had before us is the first value that was told, until somebody else sets another: the value that is in force right before a
//! change of ours, and that we have not given, is what it gets back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Entry, FileChange, TaskChange};
use crate::core::{
    idset::{CpuSet, IdSet},
    irq::balancer::{list, listed},
    task::TaskId,
};

/// How many earlier values of a thing are kept; more than a few are changes of the plan that nobody can still have.
const MAX_EARLIER: usize = 8;

/// Whom or what an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A task.
    Task(TaskId),
    /// A file, by its path.
    File(String),
}

/// All that was changed and has not been undone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outstanding {
    /// Of which boot that is; `None`: no line tells.
    pub boot: Option<String>,
    /// Masks.
    pub tasks: BTreeMap<TaskId, Owed<TaskChange>>,
    /// Files, by path.
    pub files: BTreeMap<String, Owed<FileChange>>,
    /// Entries that make no sense here, to be kept.
    pub unknown: Vec<String>,
    /// How many lines made no sense anywhere: what was changed as they told may still be so.
    pub lost: usize,
}

/// What an entry tells of a value.
pub trait Change: Clone {
    /// The value.
    type Value: Clone + Ord;

    /// What it was until then.
    fn before(&mut self) -> &mut Self::Value;

    /// What it was about to become.
    fn given(&self) -> &Self::Value;

    /// The same, but that was about to become another.
    #[must_use]
    fn giving(self, given: Self::Value) -> Self;

    /// Whether somebody else is known to have set it until then, who was not given it by one of these changes. Of a mask nobody knows: it
    /// may be another because a cpuset became narrower or a CPU went offline, and threads that are born meanwhile have it too.
    fn is_foreign<'a>(&self, _gifts: impl Iterator<Item = &'a Self::Value>) -> bool
    where
        Self: 'a,
    {
        false
    }

    /// Whether it is about somebody else than that one, who is no more then.
    fn is_of_another(&self, _last: &Self) -> bool {
        false
    }

    /// Makes it what it and the change before it add up to.
    fn go_on_from(&mut self, last: &mut Self) {
        self.before().clone_from(last.before());
    }
}

impl Change for TaskChange {
    type Value = CpuSet;

    fn before(&mut self) -> &mut CpuSet {
        &mut self.before
    }

    fn given(&self) -> &CpuSet {
        &self.given
    }

    fn giving(self, given: CpuSet) -> Self {
        Self { given, ..self }
    }
}

impl Change for FileChange {
    type Value = String;

    fn before(&mut self) -> &mut String {
        &mut self.before
    }

    fn given(&self) -> &String {
        &self.given
    }

    fn giving(self, given: String) -> Self {
        Self { given, ..self }
    }

    fn is_foreign<'a>(&self, mut gifts: impl Iterator<Item = &'a String>) -> bool {
        !self.is_ban() && gifts.all(|gift| !same_value(gift, &self.before))
    }

    fn is_of_another(&self, last: &Self) -> bool {
        self.is_anothers(last.whose.as_deref())
    }

    fn go_on_from(&mut self, last: &mut Self) {
        if self.is_ban() {
            // To a ban list we only add: what others have put on it in between is not ours to take away.
            let added = &listed(&self.given) - &listed(&self.before);
            self.given = list(&(&listed(&last.given) | &added));
        }
        self.before.clone_from(&last.before);
    }
}

/// A task or file that is owed what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed<C: Change> {
    /// `before` is what it is owed, the rest is of the last change.
    pub change: C,
    /// What it was given before that, in order: who dies after telling of a change and before making it leaves one of these behind.
    pub earlier: Vec<C::Value>,
}

impl<C: Change> Owed<C> {
    fn new(change: C) -> Self {
        Self { change, earlier: Vec::new() }
    }

    /// All that it was given.
    pub fn gifts(&self) -> impl Iterator<Item = &C::Value> {
        self.earlier.iter().chain([self.change.given()])
    }

    fn follow(&mut self, mut next: C) {
        if !next.is_foreign(self.gifts()) {
            next.go_on_from(&mut self.change);
        }
        let last = std::mem::replace(&mut self.change, next);
        self.earlier.retain(|given| ![last.given(), self.change.given()].contains(&given));
        if last.given() != self.change.given() {
            self.earlier.push(last.given().clone());
        }
        if self.earlier.len() > MAX_EARLIER {
            self.earlier.remove(0);
        }
    }

    /// Changes that add up to it.
    fn changes(&self) -> impl Iterator<Item = C> {
        self.gifts().map(|given| self.change.clone().giving(given.clone()))
    }
}

impl Outstanding {
    /// Takes one more entry in.
    pub fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Boot { id } => {
                self.enter_boot(&id);
            }
            Entry::Task(change) => match self.tasks.get_mut(&change.task) {
                Some(owed) => owed.follow(change),
                None => drop(self.tasks.insert(change.task, Owed::new(change))),
            },
            Entry::File(change) => match self.files.get_mut(&change.path) {
                Some(owed) if !change.is_of_another(&owed.change) => owed.follow(change),
                _ => drop(self.files.insert(change.path.clone(), Owed::new(change))),
            },
            Entry::Struck { subject } => self.forget(&[subject].into()),
            Entry::Lost { lines } => self.lost = self.lost.saturating_add(lines),
            Entry::Unknown(body) => self.unknown.push(body),
        }
    }

    /// Drops all of it if it is about another boot than that. How much that was.
    pub fn enter_boot(&mut self, id: &str) -> usize {
        let over = self.boot.as_deref().is_some_and(|boot| boot != id);
        self.boot = Some(id.to_owned());
        if !over {
            return 0;
        }
        self.lost = 0;
        std::mem::take(&mut self.tasks).len() + std::mem::take(&mut self.files).len()
    }

    /// Forgets those that are no more.
    pub fn forget(&mut self, gone: &BTreeSet<Subject>) {
        for subject in gone {
            match subject {
                Subject::Task(task) => drop(self.tasks.remove(task)),
                Subject::File(path) => drop(self.files.remove(path)),
            }
        }
    }

    /// All that it is about.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> {
        let tasks = self.tasks.keys().map(|task| Subject::Task(*task));
        tasks.chain(self.files.keys().cloned().map(Subject::File))
    }

    /// A journal that adds up to the same.
    #[must_use]
    pub fn encode(&self) -> String {
        let boot = self.boot.iter().map(|id| Entry::Boot { id: id.clone() });
        let tasks = self.tasks.values().flat_map(Owed::changes).map(Entry::Task);
        let files = self.files.values().flat_map(Owed::changes).map(Entry::File);
        let unknown = self.unknown.iter().cloned().map(Entry::Unknown);
        let lost = (self.lost > 0).then_some(Entry::Lost { lines: self.lost });
        boot.chain(lost).chain(tasks).chain(files).chain(unknown).map(|entry| entry.encode()).collect()
    }

    /// Whether there is nothing to undo, as far as is known here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.files.is_empty()
    }
}

impl FromIterator<Entry> for Outstanding {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut outstanding = Self::default();
        entries.into_iter().for_each(|entry| outstanding.add(entry));
        outstanding
    }
}

/// Whether two texts of one file say the same: the kernel prints lists and masks in its own way, whatever was written.
#[must_use]
pub fn same_value(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim(), other.trim());
    let as_list = |text: &str| text.parse::<IdSet>().ok();
    let as_mask = |text: &str| IdSet::from_mask(text).ok();
    let agree = |read: &dyn Fn(&str) -> Option<IdSet>| read(one).is_some_and(|set| read(other) == Some(set));
    // A group of eight digits is a mask's, on machines with more than 32 CPUs; it would read as a list too. One group of fewer says the same of
    // both if it says the same of either; more of them are a list's.
    let is_mask = [one, other].iter().any(|text| text.split(',').any(|group| group.len() == 8));
    let is_list = !is_mask && [one, other].iter().any(|text| as_list(text).is_some());
    one == other || if is_list { agree(&as_list) } else { agree(&as_mask) }
}
