//! A made-up world: what happens in it is told as events, and seen by scans.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::core::{
    event::{EventKind, TaskEvent},
    hold::Hold,
    task::ThreadFacts,
};

/// The truth: processes with their threads, and the history of how they came to be.
#[derive(Clone, Default)]
pub struct World {
    pub now_ns: u64,
    pub processes: BTreeMap<u32, (ProcessFacts, BTreeMap<u32, ThreadFacts>)>,
    pub masks: BTreeMap<TaskId, CpuSet>,
    pub next_id: u32,
    /// Whether the kernel side holds every process at exec.
    pub holds: bool,
    /// Those that are held, and have not been let go on.
    pub held: BTreeSet<Hold>,
}

#[derive(Clone)]
pub struct Happened {
    pub event: TaskEvent,
    pub facts: Option<ProcessFacts>,
}

impl World {
    pub fn tick(&mut self) -> u64 {
        self.now_ns += 10_000_000;
        self.now_ns
    }

    pub fn new_task(&mut self) -> TaskId {
        self.next_id += 1;
        TaskId { tid: 100 + self.next_id, start_time: self.now_ns / 10_000_000 }
    }

    pub fn event(&self, pid: u32, task: TaskId, kind: EventKind) -> Happened {
        let facts = self.processes.get(&pid).map(|(facts, _)| facts.clone());
        Happened { event: TaskEvent { at_ns: self.now_ns, pid, task, kind }, facts }
    }

    /// A process started by somebody who is not managed.
    pub fn spawn(&mut self, session: u32, comm: &str) -> Happened {
        self.tick();
        let id = self.new_task();
        let facts = ProcessFacts {
            pid: id.tid,
            start_time: id.start_time,
            ppid: 1,
            session,
            comm: comm.into(),
            cmdline: format!("/opt/{comm}").into(),
            ..ProcessFacts::default()
        };
        let thread = ThreadFacts { id, comm: comm.into(), allowed: None };
        self.processes.insert(id.tid, (facts, BTreeMap::from([(id.tid, thread)])));
        self.exec_event(id.tid)
    }

    pub fn exec_event(&self, pid: u32) -> Happened {
        let (facts, _) = &self.processes[&pid];
        let (comm, cmdline) = (facts.comm.clone(), facts.cmdline.clone());
        let kind =
            EventKind::Exec { ppid: facts.ppid, uid: 0, comm, cmdline, truncated: false, held: self.holds };
        self.event(pid, facts.id(), kind)
    }

    pub fn other_threads(&self, pid: u32) -> Vec<(u32, u32)> {
        self.processes[&pid].1.keys().filter(|tid| **tid != pid).map(|tid| (pid, *tid)).collect()
    }

    pub fn exec(&mut self, pid: u32, comm: &str) -> Happened {
        self.tick();
        let (facts, threads) = self.processes.get_mut(&pid).unwrap();
        (facts.comm, facts.cmdline) = (comm.into(), format!("/opt/{comm}").into());
        threads.get_mut(&pid).unwrap().comm = comm.into();
        self.exec_event(pid)
    }

    pub fn thread(&mut self, pid: u32) -> Happened {
        self.tick();
        let id = self.new_task();
        let (facts, threads) = self.processes.get_mut(&pid).unwrap();
        let comm = facts.comm.clone();
        threads.insert(id.tid, ThreadFacts { id, comm: comm.clone(), allowed: None });
        self.event(
            pid,
            id,
            EventKind::Fork { parent_pid: pid, parent_tid: pid, comm, slot: None, plan: None },
        )
    }

    pub fn fork(&mut self, parent: u32) -> Happened {
        self.tick();
        let id = self.new_task();
        let (facts, _) = self.processes[&parent].clone();
        let comm = facts.comm.clone();
        let facts = ProcessFacts { pid: id.tid, start_time: id.start_time, ppid: parent, ..facts };
        let thread = ThreadFacts { id, comm: comm.clone(), allowed: None };
        self.processes.insert(id.tid, (facts, BTreeMap::from([(id.tid, thread)])));
        self.event(
            id.tid,
            id,
            EventKind::Fork { parent_pid: parent, parent_tid: parent, comm, slot: None, plan: None },
        )
    }

    pub fn rename(&mut self, pid: u32, tid: u32, comm: &str) -> Happened {
        self.tick();
        let (facts, threads) = self.processes.get_mut(&pid).unwrap();
        let thread = threads.get_mut(&tid).unwrap();
        thread.comm = comm.into();
        if pid == tid {
            facts.comm = comm.into();
        }
        let id = thread.id;
        self.event(pid, id, EventKind::Rename { comm: comm.into() })
    }

    pub fn exit_thread(&mut self, pid: u32, tid: u32) -> Happened {
        self.tick();
        let id = self.processes.get_mut(&pid).unwrap().1.remove(&tid).unwrap().id;
        if self.processes[&pid].1.is_empty() {
            self.processes.remove(&pid);
        }
        self.event(pid, id, EventKind::Exit { slot: None, brief: None })
    }

    /// What the agent sees when it scans now.
    pub fn scan(&mut self) -> (Vec<Snapshot>, BTreeSet<TaskId>, u64) {
        let as_of_ns = self.tick();
        let mut snapshots: Vec<Snapshot> = (self.processes.values())
            .map(|(facts, threads)| {
                let mask = |thread: &ThreadFacts| self.masks.get(&thread.id).cloned();
                let threads =
                    threads.values().map(|thread| ThreadFacts { allowed: mask(thread), ..thread.clone() });
                Snapshot { facts: facts.clone(), threads: threads.collect(), as_of_ns, after_loss: false }
            })
            .collect();
        snapshots.sort_by_key(|snapshot| (snapshot.facts.start_time, snapshot.facts.pid));
        (snapshots, self.processes.values().map(|(facts, _)| facts.id()).collect(), as_of_ns)
    }

    /// The agent's hands: masks are set, and outcomes recorded.
    pub fn carry_out(&mut self, engine: &mut Engine, actions: Vec<Action>) -> Vec<Bind> {
        let mut binds = Vec::new();
        for action in actions {
            match action {
                Action::Bind(bind) => {
                    self.masks.insert(bind.task, bind.cpus.clone());
                    engine.record(&bind, BindOutcome::Bound(bind.cpus.clone()), self.now_ns);
                    binds.push(bind);
                }
                Action::Look { pid, cause, at_ns } => {
                    let (snapshots, ..) = self.scan();
                    if let Some(snapshot) = snapshots.into_iter().find(|snapshot| snapshot.facts.pid == pid) {
                        let actions = engine.observe(&snapshot, &cause, Some(at_ns));
                        binds.extend(self.carry_out(engine, actions));
                    }
                }
                Action::Release { hold, .. } => assert!(self.held.remove(&hold), "{hold:?} is not held"),
                Action::Mark { .. } | Action::Unmark { .. } => {}
            }
        }
        binds
    }

    pub fn tell(&mut self, engine: &mut Engine, happened: &Happened) -> Vec<Bind> {
        let facts = engine.wants_facts(&happened.event).then(|| happened.facts.clone()).flatten();
        let TaskEvent { task, at_ns, kind, .. } = &happened.event;
        let held = matches!(kind, EventKind::Exec { held: true, .. });
        self.held.extend(held.then_some(Hold { task: *task, at_ns: *at_ns }));
        let actions = engine.apply(&happened.event, facts);
        let mut after = actions.iter().skip_while(|action| !matches!(action, Action::Release { .. }));
        let binds_it = |action: &Action| matches!(action, Action::Bind(bind) if bind.task == *task);
        assert!(!after.any(binds_it), "bound after it went on: {actions:?}");
        let binds = self.carry_out(engine, actions);
        assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
        binds
    }

    pub fn show(&mut self, engine: &mut Engine) -> Vec<Bind> {
        let (snapshots, alive, as_of_ns) = self.scan();
        let mut binds = Vec::new();
        for snapshot in snapshots {
            let actions = engine.observe(&snapshot, &Cause::Reconcile, None);
            binds.extend(self.carry_out(engine, actions));
        }
        engine.sweep(&alive, as_of_ns);
        binds
    }
}
