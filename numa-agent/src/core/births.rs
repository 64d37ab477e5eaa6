//! Births that can wait: threads that were born where they belong, as far as the kernel side can tell. Many have ended by the time all that
//! has happened is read, and nothing is to be done for them any more.
//!
//! They wait until something else happens than births and such ends, and no longer than a batch of events.

use std::collections::HashMap;

use super::{
    event::{EventKind, TaskEvent},
    task::TaskId,
};

/// Those that wait, in their order.
#[derive(Debug, Default)]
pub struct Births {
    waiting: HashMap<TaskId, (usize, TaskEvent)>,
    next: usize,
}

/// What to do about an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet: it waits.
    Waits,
    /// It is the end of a life of which nothing has been heard but its birth.
    Ends {
        /// The birth.
        birth: TaskEvent,
        /// The end.
        end: TaskEvent,
    },
    /// It is to be handled, after those who wait.
    Handle(TaskEvent),
}

impl Births {
    /// What is to be done about that event.
    pub fn answer(&mut self, event: TaskEvent) -> Answer {
        match event.kind {
            EventKind::Fork { slot: Some(_), plan: Some(_), .. } if event.task.tid != event.pid => {
                self.waiting.insert(event.task, (self.next, event));
                self.next += 1;
                Answer::Waits
            }
            EventKind::Exit { brief: Some(_), .. } => match self.waiting.remove(&event.task) {
                Some((_, birth)) => Answer::Ends { birth, end: event },
                None => Answer::Handle(event),
            },
            _ => Answer::Handle(event),
        }
    }

    /// Those who wait, the first first; nobody waits after that.
    pub fn take(&mut self) -> Vec<TaskEvent> {
        self.next = 0;
        let mut waiting: Vec<_> = self.waiting.drain().map(|(_, waits)| waits).collect();
        waiting.sort_unstable_by_key(|(order, _)| *order);
        waiting.into_iter().map(|(_, event)| event).collect()
    }
}

#[cfg(test)]
mod tests {
    use numa_ebpf::{account::Account, brief::Brief};

    use super::*;

    fn event(pid: u32, tid: u32, kind: EventKind) -> TaskEvent {
        TaskEvent { at_ns: 1, pid, task: TaskId { tid, start_time: 7 }, kind }
    }

    fn birth(pid: u32, tid: u32, plan: Option<u32>) -> TaskEvent {
        let kind =
            EventKind::Fork { parent_pid: 10, parent_tid: 10, comm: "python3".into(), slot: Some(tid), plan };
        event(pid, tid, kind)
    }

    fn end(tid: u32, brief: Option<Brief>) -> TaskEvent {
        event(10, tid, EventKind::Exit { slot: Some(tid), brief })
    }

    fn brief() -> Option<Brief> {
        Brief::of(&Account::EMPTY, 0)
    }

    #[test]
    fn who_was_born_on_plan_and_ends_is_told_of_as_one() {
        let mut births = Births::default();
        let born: Vec<TaskEvent> = [13, 11, 12].map(|tid| birth(10, tid, Some(1))).into();
        for birth in &born {
            assert_eq!(births.answer(birth.clone()), Answer::Waits);
        }
        let short = end(11, brief());
        assert_eq!(births.answer(short.clone()), Answer::Ends { birth: born[1].clone(), end: short.clone() });
        assert_eq!(births.answer(short.clone()), Answer::Handle(short), "once");
        for (event, why) in
            [(end(12, None), "there is an account to read"), (end(14, brief()), "it was heard of before")]
        {
            assert_eq!(births.answer(event.clone()), Answer::Handle(event), "{why}");
        }
        assert_eq!(births.take(), [born[0].clone(), born[2].clone()], "in their order");
        assert_eq!(births.take(), []);
        let taken = end(13, brief());
        assert_eq!(births.answer(taken.clone()), Answer::Handle(taken));
    }

    #[test]
    fn processes_and_who_may_be_elsewhere_do_not_wait() {
        let mut births = Births::default();
        let mut unmeasured = birth(10, 13, Some(1));
        let EventKind::Fork { slot, .. } = &mut unmeasured.kind else { unreachable!() };
        *slot = None;
        let rename = event(10, 10, EventKind::Rename { comm: "x".into() });
        for event in [birth(10, 11, None), birth(12, 12, Some(1)), unmeasured, rename] {
            assert_eq!(births.answer(event.clone()), Answer::Handle(event));
        }
        assert_eq!(births.take(), []);
    }
}
