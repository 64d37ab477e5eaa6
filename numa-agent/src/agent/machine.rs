//! A machine that changes: CPUs that go offline or come online, another cpuset for ourselves. The plan is made anew.
//!
//! A thread of its own looks at the machine every second; the loop answers a change that has settled as it does a reload,
//! with the configuration in force. A machine that gives no plan leaves the old one in force until it changes again.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};

use super::{Agent, Done, Options, flat};
use crate::{
    core::{
        outline::{Outline, Settling},
        topology::Topology,
    },
    report::escape,
};

/// How often the machine is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it is read in full, for one reading during which it stays as it is.
const READINGS: u32 = 5;

/// What the loop knows of the machine.
pub(super) struct Machine {
    /// As it was for the plan in force, or when it last gave none.
    planned: Outline,
    /// As it was when somebody last began to read it in full.
    reading: Outline,
    /// As the thread has told it last.
    told: Outline,
    /// It is being read.
    pub(super) survey: Option<JoinHandle<anyhow::Result<Survey>>>,
    /// It could not be read, and that has been said.
    unread: bool,
}

/// The machine, and what of it may change, at one moment.
pub(super) type Survey = (Outline, Topology);

impl Machine {
    pub(super) fn new(outline: Outline) -> Self {
        Self {
            planned: outline.clone(),
            reading: outline.clone(),
            told: outline,
            survey: None,
            unread: false,
        }
    }

    /// Somebody begins to read it in full; what changes from now on will be told.
    pub(super) fn begin(&mut self) {
        self.survey = None;
        self.reading.clone_from(&self.told);
    }

    /// It has been read in full, and this is how it was.
    fn read(&mut self, outline: Outline) {
        self.reading.clone_from(&outline);
        self.told = outline;
        self.unread = false;
    }

    /// It has been read and planned for, or gives no plan; what changed, in words.
    pub(super) fn settle(&mut self) -> String {
        let changes = self.planned.changes(&self.reading);
        self.planned.clone_from(&self.reading);
        changes
    }
}

/// Starts the thread that looks; it gives the machine as it is after each change.
pub(super) fn watch(options: Arc<Options>, machine: &Machine) -> UnboundedReceiver<Outline> {
    let (told, changes) = unbounded_channel();
    let mut settling = Settling::new(machine.told.clone());
    std::thread::spawn(move || {
        let mut blind = false;
        while !told.is_closed() {
            std::thread::sleep(PERIOD);
            let look = (options.outline)();
            if let (Err(error), false) = (&look, blind) {
                let error = escape::text(&format!("{error:#}"));
                tracing::warn!("whether the machine changes cannot be told for now: {error}");
            }
            blind = look.is_err();
            if let Some(outline) = look.ok().filter(|outline| settling.look(outline)) {
                // The loop may be over.
                let _ = told.send(outline);
            }
        }
    });
    changes
}

/// Reads the machine in full.
fn survey(options: &Options) -> anyhow::Result<Survey> {
    let mut before = (options.outline)()?;
    for _ in 0..READINGS {
        let topology = (options.topology)()?;
        let after = (options.outline)()?;
        if after == before {
            return Ok((after, topology));
        }
        before = after;
    }
    anyhow::bail!("it changes all the time")
}

impl Agent {
    pub(super) fn note_change(&mut self, outline: Outline) {
        self.machine.told = outline;
        // There and back: the kernel has moved tasks away from a CPU that was offline, and does not move them back.
        self.rescan |= self.machine.told == self.machine.planned;
        self.survey_if_changed();
    }

    /// Reads the machine on a thread of its own, unless somebody is at it: then afterwards.
    pub(super) fn survey_if_changed(&mut self) {
        let busy = self.reload.is_some() || self.machine.survey.is_some();
        if busy || self.machine.planned == self.machine.told {
            return;
        }
        self.machine.begin();
        let options = Arc::clone(&self.options);
        self.machine.survey = Some(tokio::task::spawn_blocking(move || survey(&options)));
    }

    pub(super) fn finish_survey(&mut self, survey: Done<Survey>) {
        let topology = match flat(survey) {
            Ok((outline, topology)) => {
                self.machine.read(outline);
                topology
            }
            Err(error) => {
                // The loop asks for another with its next look at the losses.
                if !std::mem::replace(&mut self.machine.unread, true) {
                    let changes = self.machine.planned.changes(&self.machine.told);
                    self.say_warning(&format!(
                        "{changes}; the machine cannot be read: {error:#}; it is tried again every second"
                    ));
                }
                return;
            }
        };
        let changes = self.machine.settle();
        match self.engine.replanned(topology) {
            Ok(next) => {
                self.take_over(next);
                self.step_aside();
                self.say_warnings();
                let text = format!("{changes}; planned anew: {}", self.plan_text());
                tracing::info!("{text}");
                let fields = json!({ "changes": changes, "managed": self.managed_json(), "warnings": self.engine.warnings() });
                self.executor.output.event("replanned", fields, || Some(text));
            }
            Err(error) => self.say_warning(&format!(
                "{changes}; there is no plan for that: {error:#}; the old plan stays in force until the machine changes again"
            )),
        }
        self.survey_if_changed();
    }
}
