//! Scans into state.

use std::collections::BTreeSet;

use super::{Action, Cause, Engine, Snapshot, Thread};
use crate::core::{
    settings::DriftPolicy,
    task::{BindOutcome, ProcessFacts, TaskId, ThreadFacts},
};

impl Engine {
    /// Takes in one process as a scan saw it. The answer marks its threads, and binds those it found off plan; nothing for a process that is not ours. `at_ns`: see [`super::Bind::at_ns`].
    pub fn observe(&mut self, snapshot: &Snapshot, cause: &Cause, at_ns: Option<u64>) -> Vec<Action> {
        let groups = self.plan.groups.len();
        let pid = snapshot.facts.pid;
        let before = self.threads_of(pid);
        let facts = self.newest_facts(snapshot);
        let as_of_ns = self.processes.get(&pid).map_or(0, |process| process.as_of_ns).max(snapshot.as_of_ns);
        if !self.admit_with(facts, as_of_ns, None, &snapshot.threads) {
            return before.into_iter().map(|task| Action::Unmark { task }).collect();
        }
        self.merge_threads(pid, snapshot);
        self.settle_roles(pid);
        self.note_restored(pid);
        // All of them: a mark that went missing is put back.
        let threads = self.threads_of(pid).into_iter();
        let mut actions: Vec<Action> = threads.map(|task| Action::Mark { pid, task }).collect();
        actions.extend(match self.plan.groups.len() == groups {
            true => self.off_plan(pid, cause, at_ns),
            false => self.pending(&Cause::Replan),
        });
        actions
    }

    /// Forgets the processes that a scan begun at `as_of_ns` did not find alive, and the warnings that are over.
    pub fn sweep(&mut self, alive: &BTreeSet<TaskId>, as_of_ns: u64) {
        let gone = self.processes.values().filter(|process| process.as_of_ns < as_of_ns);
        let gone = gone.map(|process| process.facts.id()).filter(|id| !alive.contains(id));
        for id in gone.collect::<Vec<_>>() {
            self.forget(id.tid);
        }
        let mut cuts = std::mem::take(&mut self.cuts);
        let engine = &*self;
        let cut = engine.processes.values().flat_map(|process| {
            let group = engine.group_of(process);
            let planned = move |thread: &Thread| engine.cpus_in(group, thread.role);
            let cut = process.threads.values().filter(move |thread| thread.is_cut(planned(thread)));
            cut.map(move |thread| (&process.facts, planned(thread)))
        });
        cuts.keep_those_of(cut);
        self.cuts = cuts;
        self.forget_warnings();
    }

    /// What was captured at exec stays while it still makes the process ours: programs write over their arguments, and a
    /// `setsid` must not move a running process to another socket. What
    /// an event told later than the snapshot was read stays in any case.
    fn newest_facts(&self, snapshot: &Snapshot) -> ProcessFacts {
        let seen = &snapshot.facts;
        let Some(process) = self.processes.get(&seen.pid).filter(|process| process.facts.id() == seen.id())
        else {
            return seen.clone();
        };
        let known = &process.facts;
        let newer_event = process.as_of_ns > snapshot.as_of_ns;
        let comm = if newer_event { known.comm.clone() } else { seen.comm.clone() };
        let captured = ProcessFacts {
            comm: comm.clone(),
            cmdline: known.cmdline.clone(),
            session: known.session,
            ancestors: known.ancestors.clone(),
            ..seen.clone()
        };
        if newer_event || (!snapshot.after_loss && self.rules.process_role(&captured).is_some()) {
            let first =
                |known: &Option<String>, seen: &Option<String>| known.clone().or_else(|| seen.clone());
            let (parent, env) = (first(&known.parent, &seen.parent), first(&known.env, &seen.env));
            return ProcessFacts { parent, env, ..captured };
        }
        ProcessFacts { comm, ..seen.clone() }
    }

    /// Takes note of the threads that have by now, without us, what the kernel refused or granted in part: since 6.2 it
    /// restores masks when a cpuset widens, and any kernel when a CPU comes online.
    fn note_restored(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let group = self.group_of(process);
        let restored = |thread: &&Thread| {
            let planned = self.cpus_in(group, thread.role);
            thread.asked.as_ref() == Some(planned)
                && thread.actual.as_ref() == Some(planned)
                && thread.granted.as_ref() != Some(planned)
        };
        let restored = process.threads.values().filter(restored).map(|thread| thread.id.tid);
        let restored: Vec<u32> = restored.collect();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for tid in restored {
            let Some(thread) = process.threads.get_mut(&tid) else { continue };
            let Some(mask) = thread.actual.clone() else { continue };
            let outcome = BindOutcome::Unchanged(mask.clone());
            self.cuts.note(&process.facts, &mask, &outcome);
            (thread.granted, thread.outcome) = (Some(mask), Some(outcome));
        }
    }

    fn merge_threads(&mut self, pid: u32, snapshot: &Snapshot) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let as_of_ns = snapshot.as_of_ns;
        let observes = self.settings.drift == DriftPolicy::Observe;
        let mut drifted = Vec::new();
        let seen: BTreeSet<TaskId> = snapshot.threads.iter().map(|thread| thread.id).collect();
        process.threads.retain(|_, thread| seen.contains(&thread.id) || thread.as_of_ns >= as_of_ns);
        for ThreadFacts { id, comm, allowed } in &snapshot.threads {
            let role = self.rules.thread_role(process.role, comm, false);
            let fresh = || Thread::new(*id, comm.clone(), role, as_of_ns);
            let thread = process.threads.entry(id.tid).or_insert_with(fresh);
            if thread.id != *id && thread.as_of_ns < as_of_ns {
                *thread = fresh();
            }
            if thread.as_of_ns <= as_of_ns {
                thread.comm.clone_from(comm);
                thread.as_of_ns = as_of_ns;
                if thread.mask_set_ns > as_of_ns {
                    // What was read may be what it had before that.
                    continue;
                }
                let settled = thread.actual.is_some() && thread.actual == thread.granted;
                if settled && allowed.is_some() && *allowed != thread.actual && *allowed != thread.asked {
                    // No call told of it: another's write to its cpuset, or one that went unseen.
                    thread.let_be |= observes;
                    drifted.push(thread.role);
                }
                thread.actual.clone_from(allowed);
            }
        }
        let Some(process) = self.processes.get(&pid).filter(|_| !drifted.is_empty()) else { return };
        let group = self.group_of(process).map(|group| group.name.clone());
        for role in drifted {
            let place = (group.clone(), role);
            self.drift.note(&place, pid, None);
            match observes {
                true => self.drift.leave(&place),
                false => self.drift.put_back(&place),
            }
        }
    }

    /// The threads of a managed process.
    #[must_use]
    pub fn threads_of(&self, pid: u32) -> BTreeSet<TaskId> {
        let process = self.processes.get(&pid);
        process.into_iter().flat_map(|process| process.threads.values()).map(|thread| thread.id).collect()
    }
}
