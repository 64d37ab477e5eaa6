//! Binds beyond `max_bind_rate`: put off, not dropped.

use std::collections::{BTreeMap, VecDeque};

use crate::core::{engine::Bind, pace::Pace, task::TaskId};

/// Whose turn a bind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has just come up.
    New,
    /// It has waited for this.
    Next,
    /// It is of a process that is held until then, and goes on right after.
    Held,
}

/// Those that wait, the first put off first.
#[derive(Debug, Default)]
pub struct Deferred {
    pub(super) pace: Pace,
    order: VecDeque<TaskId>,
    binds: BTreeMap<TaskId, Bind>,
}

impl Deferred {
    /// `rate`: binds a second.
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self { pace: Pace::new(rate), ..Self::default() }
    }

    /// The same ones at another rate.
    pub(super) fn at(&mut self, rate: Option<u32>) {
        self.pace = Pace::new(rate);
    }

    /// Whether a mask may be set now. Nobody overtakes those that wait, but for who is held; that counts all the same.
    pub(super) fn may(&mut self, turn: Turn, now_ns: u64) -> bool {
        match turn {
            Turn::New => self.order.is_empty() && self.pace.take(now_ns),
            Turn::Next => self.pace.take(now_ns),
            Turn::Held => {
                self.pace.take(now_ns);
                true
            }
        }
    }

    /// Has it wait; who was the next already is so again.
    pub(super) fn put_off(&mut self, bind: &Bind, turn: Turn) {
        if self.binds.insert(bind.task, bind.clone()).is_none() {
            match turn {
                Turn::Next => self.order.push_front(bind.task),
                Turn::New | Turn::Held => self.order.push_back(bind.task),
            }
        }
    }

    /// The first that waits.
    pub(super) fn pop(&mut self) -> Option<Bind> {
        self.binds.remove(&self.order.pop_front()?)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// How long until the next may be done; `None`: none waits.
    pub(super) fn wait_ns(&mut self, now_ns: u64) -> Option<u64> {
        (!self.order.is_empty()).then(|| self.pace.wait_ns(now_ns))
    }
}
