//! Events as they come off the ring: births that can wait do, and what was born and has ended by then takes one look.

use super::Agent;
use crate::core::{births::Answer, engine::Cause, event::TaskEvent};

impl Agent {
    /// Handles that event, now or with those who wait.
    pub(super) fn receive(&mut self, event: TaskEvent) {
        match self.births.answer(event) {
            Answer::Waits => {}
            Answer::Ends { birth, end } if self.is_over_already(&birth, &end) => {}
            Answer::Ends { birth, end } => {
                self.handle_births();
                self.handle(&birth);
                self.handle(&end);
            }
            Answer::Handle(event) => {
                self.handle_births();
                self.handle(&event);
            }
        }
    }

    /// Nobody waits any longer.
    pub(super) fn handle_births(&mut self) {
        for birth in self.births.take() {
            self.handle(&birth);
        }
    }

    /// Whether that life was one of a thread that was on plan from its birth: then it has been counted, as one that was gone when its turn
    /// came to be bound.
    fn is_over_already(&mut self, birth: &TaskEvent, end: &TaskEvent) -> bool {
        let Some(role) = self.executor.marks.over(&self.engine, birth, end) else { return false };
        self.executor.stats.gone(&Cause::Fork, role);
        true
    }
}
