//! The loop: what the agent does about each input. It takes events off the ring; what they mean is the business of the file that has the
//! subject.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Agent,
    inputs::{Done, Input, Inputs, Signals},
    viewers::Want,
};
use crate::host::{fresh, notify::Word, sys};

/// Events handled before the loop looks at signals and timers again.
const BATCH: usize = 1024;
/// The least time from one scan's start to the next: where losses go on, scans must not be all there is.
const SCAN_PAUSE: Duration = Duration::from_secs(1);

impl Agent {
    /// Runs until it is told to stop, or the session is over.
    pub(super) async fn turn(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut inputs = Inputs::new(self)?;
        if self.session.is_none() {
            let priority = match self.options.real_time {
                true => sys::prioritise_event_thread().to_string(),
                false => "SCHED_OTHER (--no-real-time)".to_owned(),
            };
            self.say_ready(&priority);
            self.tell_manager(Word::Ready);
        }
        self.configure_holding();
        // Who only records is in no hurry, and must not be what the recorded threads wait for.
        let mut backlog = false;
        loop {
            let input = inputs.next(self, signals, backlog).await?;
            match input {
                Input::Stop(signal) if self.ends_by(signal) => break,
                Input::Stop(_) => {}
                Input::Over => break,
                Input::Reload => self.start_reload(),
                Input::Reloaded(reload) => self.finish_reload(reload),
                Input::Changed(outline) => self.note_change(outline),
                Input::Surveyed(survey) => self.finish_survey(survey),
                Input::Events | Input::LookAgain => {
                    backlog = self.drain();
                    self.fence_if_due();
                }
                Input::Scanned(scan) => self.finish_scan(scan),
                Input::Hold(due) => self.hold(&due),
                Input::Reconcile => self.rescan = true,
                Input::Losses => {
                    self.be_alive();
                    fresh::look_for_room();
                    // Should a record have been submitted so late after it was judged that nobody looked again.
                    backlog = self.drain();
                    self.note_losses();
                    self.note_unread();
                    self.drain_sends();
                    self.give_up_late_reload();
                    self.survey_if_changed();
                    self.fence_cgroups();
                    self.keep_journal();
                }
                Input::Due => self.do_what_is_due(),
                Input::Opened(done) => self.finish_opening(done),
                Input::Sends => self.drain_sends(),
                Input::Tick => self.tick(),
                Input::Measure => {
                    // Events come first.
                    backlog = self.drain();
                    self.measure();
                    if !backlog {
                        self.sweep();
                    }
                }
                Input::Report => self.want_report(),
                Input::Wanted(Want::Nothing) if self.session.is_some() => break,
                Input::Wanted(want) => self.look(want),
                Input::Asked(asker) => self.begin_sample(asker),
                Input::Reported(report) => self.finish_report(report),
                Input::Settled(memory) => self.settle(memory),
                Input::Fenced(fenced) => self.finish_fencing(fenced),
            }
            self.say_news();
            if self.is_over() {
                break;
            }
            if self.rescan && self.scan.is_none() && self.scan_started.elapsed() >= SCAN_PAUSE {
                self.start_scan();
            }
        }
        Ok(())
    }

    /// When the next thread is due to be bound that had to wait.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        let now_ns = sys::monotonic_ns();
        let put_back = self.engine.next_due_ns().map(|at_ns| at_ns.saturating_sub(now_ns));
        let deferred = self.executor.deferred.wait_ns(now_ns);
        let wait_ns = [put_back, deferred].into_iter().flatten().min()?;
        Some(Instant::now() + Duration::from_nanos(wait_ns))
    }

    fn do_what_is_due(&mut self) {
        let actions = self.engine.take_due(sys::monotonic_ns());
        self.executor.execute(&mut self.engine, actions);
        self.executor.catch_up(&mut self.engine);
    }

    /// Handles what the ring holds, up to a batch; whether there may be more. Signals, timers and scans get their turn
    /// between batches, whatever storm is on.
    pub(super) fn drain(&mut self) -> bool {
        self.drain_until(u64::MAX)
    }

    /// The same up to the first event that is later than `end_ns`.
    pub(super) fn drain_until(&mut self, end_ns: u64) -> bool {
        // Whatever else the loop does: it gets here, so who is held is answered.
        self.executor.holding.keep_alive();
        for _ in 0..BATCH {
            match self.executor.marks.programs.next_event() {
                None => {
                    self.handle_births();
                    return false;
                }
                Some(Ok(event)) => {
                    let is_last = event.at_ns > end_ns;
                    self.receive(event);
                    if is_last {
                        self.handle_births();
                        return false;
                    }
                }
                Some(Err(error)) => {
                    self.unreadable += 1;
                    tracing::warn!("event from the kernel programs: {error}");
                }
            }
        }
        self.handle_births();
        true
    }

    pub(super) fn drain_sends(&mut self) {
        if let Some(tapped) = &mut self.tapped {
            tapped.drain();
        }
    }
}

pub(super) fn flat<T>(done: Done<T>) -> anyhow::Result<T> {
    done.unwrap_or_else(|panic| Err(panic.into()))
}
