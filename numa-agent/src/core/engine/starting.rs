//! Where a program belongs that is about to start.

use super::Engine;
use crate::core::{
    plan::{Group, Others},
    task::{ProcessFacts, ProcessRole},
};

/// Where a process belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// In a group.
    Group(Group),
    /// With the background processes.
    Others(Others),
}

impl Engine {
    /// Where the rules would have a process with these facts, if it ran now beside those that run; `None`: they do not match it.
    #[must_use]
    pub fn seat_of(&self, facts: &ProcessFacts) -> Option<Seat> {
        let mut then = self.clone();
        // The agent's own process, until it runs the program.
        then.own.remove(&facts.id());
        if !then.admit(facts.clone(), u64::MAX) {
            return None;
        }
        let process = then.process(facts.pid)?;
        Some(match (process.role, then.group_of(process)) {
            (ProcessRole::Group, Some(group)) => Seat::Group(group.clone()),
            _ => Seat::Others(then.plan.others.clone()),
        })
    }

    /// The first group, in the order that instances take them, that has no instance and that nobody else sits in; the first of
    /// all if there is none.
    #[must_use]
    pub fn free_group(&self, is_taken: impl Fn(&Group) -> bool) -> Option<&Group> {
        let is_free = |group: &&&Group| {
            let of_it = |process| self.group_of(process).is_some_and(|own| own.name == group.name);
            !self.processes().any(of_it) && !is_taken(group)
        };
        let slots = self.plan.slots();
        slots.iter().find(is_free).or(slots.first()).copied()
    }
}
