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
    /// Each with the number of its bind: those that are not in `binds` any more are passed over.
    order: VecDeque<(TaskId, u64)>,
    binds: BTreeMap<TaskId, (u64, Bind)>,
    number: u64,
}

/// How many of those that wait no more are kept beside those that do.
const SLACK: usize = 64;

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
            Turn::New => self.binds.is_empty() && self.pace.take(now_ns),
            Turn::Next => self.pace.take(now_ns),
            Turn::Held => {
                self.pace.take(now_ns);
                true
            }
        }
    }

    /// Has it wait; who was the next already is so again. Whether it did not wait until now.
    pub(super) fn put_off(&mut self, bind: &Bind, turn: Turn) -> bool {
        if let Some((_, waiting)) = self.binds.get_mut(&bind.task) {
            waiting.clone_from(bind);
            return false;
        }
        self.number += 1;
        self.binds.insert(bind.task, (self.number, bind.clone()));
        match turn {
            Turn::Next => self.order.push_front((bind.task, self.number)),
            Turn::New | Turn::Held => self.order.push_back((bind.task, self.number)),
        }
        turn != Turn::Next
    }

    /// The first that waits.
    pub(super) fn pop(&mut self) -> Option<Bind> {
        while let Some((task, number)) = self.order.pop_front() {
            if self.binds.get(&task).is_some_and(|(waiting, _)| *waiting == number) {
                return self.binds.remove(&task).map(|(_, bind)| bind);
            }
        }
        None
    }

    /// That task has ended.
    pub(super) fn forget(&mut self, task: TaskId) {
        if self.binds.remove(&task).is_some() && self.order.len() > 2 * self.binds.len() + SLACK {
            let binds = &self.binds;
            self.order.retain(|(task, number)| binds.get(task).is_some_and(|(waiting, _)| waiting == number));
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.binds.len()
    }

    /// How long until the next may be done; `None`: none waits.
    pub(super) fn wait_ns(&mut self, now_ns: u64) -> Option<u64> {
        (!self.binds.is_empty()).then(|| self.pace.wait_ns(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{engine::Cause, idset::CpuSet, task::ThreadRole};

    fn bind(tid: u32) -> Bind {
        Bind {
            pid: 1,
            task: TaskId { tid, start_time: 7 },
            comm: "worker".into(),
            role: ThreadRole::Member,
            group: None,
            cpus: CpuSet::new(),
            cause: Cause::Rename,
            at_ns: None,
            seen_ns: 0,
        }
    }

    #[test]
    fn who_ends_waits_no_more_and_takes_no_room() {
        let mut deferred = Deferred::new(Some(1));
        deferred.put_off(&bind(1), Turn::New);
        for tid in 2..10_000 {
            deferred.put_off(&bind(tid), Turn::New);
            deferred.forget(bind(tid).task);
        }
        assert_eq!(deferred.len(), 1);
        assert!(deferred.order.len() <= 2 + SLACK, "{}", deferred.order.len());
        deferred.put_off(&bind(2), Turn::New);
        deferred.put_off(&bind(3), Turn::New);
        // Of an id that waited before, and waits anew.
        deferred.forget(bind(2).task);
        deferred.put_off(&bind(2), Turn::New);
        assert!(!deferred.put_off(&bind(2), Turn::New), "it waits already");
        let tids: Vec<u32> = std::iter::from_fn(|| deferred.pop()).map(|bind| bind.task.tid).collect();
        assert_eq!(tids, [1, 3, 2]);
        assert_eq!((deferred.len(), deferred.wait_ns(0)), (0, None));
        assert!(deferred.put_off(&bind(4), Turn::New));
        deferred.pop();
        assert!(!deferred.put_off(&bind(4), Turn::Next), "once more");
    }
}
