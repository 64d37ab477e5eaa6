//! The cgroups of group processes allow the plan's memory nodes, if the configuration asks for that: set as soon as a process is
//! there, looked at every second, put back where others rewrite them.
//!
//! No event tells of a cpuset that changes. Looking and writing are done on an ordinary thread, one job at a time.

use super::{Agent, Done, flat};
use crate::{
    core::{
        journal::FileChange,
        memory::cgroup::{Fence, Upkeep},
    },
    host::{cgroup, journal::Journal, sys},
    report::{self, escape},
};

/// What the loop knows of them.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    upkeep: Upkeep,
    /// A process has come since the last look.
    due: bool,
    /// A look, begun at this time (monotonic nanoseconds).
    pub(super) job: Option<tokio::task::JoinHandle<anyhow::Result<Fenced>>>,
}

/// What a look came to.
#[derive(Debug)]
pub(super) struct Fenced {
    fences: Vec<Fence>,
    at_ns: u64,
}

impl Cgroups {
    /// A process of a group may have come.
    pub(super) fn expect(&mut self) {
        self.due = true;
    }
}

impl Agent {
    /// Looks at the cgroups, and sets them, unless that is under way: then afterwards.
    pub(super) fn fence_cgroups(&mut self) {
        if !self.engine.settings().cpusets || self.cgroups.job.is_some() {
            return;
        }
        self.cgroups.due = false;
        let wanted = self.engine.wanted_memory();
        let (upkeep, dry_run) = (self.cgroups.upkeep.clone(), self.options.dry_run);
        let journal = self.options.journal.clone();
        self.cgroups.job = Some(tokio::task::spawn_blocking(move || {
            let at_ns = sys::monotonic_ns();
            let note = |change: &FileChange| match &journal {
                Some(path) => Journal::open(path)?.before_file(change),
                None => Ok(()),
            };
            let note_or_warn = |change: &FileChange| {
                note(change).or_else(|error| {
                    tracing::warn!("{} is set, and could not be undone: {error}", escape::text(&change.what));
                    Ok(())
                })
            };
            let may_write = |path: &str| !dry_run && upkeep.may_write(path, at_ns);
            let fences = cgroup::fence(&wanted, may_write, note_or_warn);
            Ok(Fenced { fences, at_ns })
        }));
    }

    /// The same, if a process has come.
    pub(super) fn fence_if_due(&mut self) {
        if self.cgroups.due {
            self.fence_cgroups();
        }
    }

    pub(super) fn finish_fencing(&mut self, fenced: Done<Fenced>) {
        match flat(fenced) {
            Ok(Fenced { fences, at_ns }) => {
                for news in self.cgroups.upkeep.note(fences, at_ns) {
                    let (text, bad) = report::cgroups::line(&news);
                    let mut fields = report::cgroups::json(&news.fence);
                    fields["rewritten"] = news.rewritten.into();
                    match bad {
                        true => self.say_warning(&text),
                        false => {
                            self.executor.output.event("cpuset", fields, || Some(report::escape::text(&text)))
                        }
                    }
                }
            }
            Err(error) => tracing::warn!("cgroups: {error:#}"),
        }
        self.fence_if_due();
    }
}
