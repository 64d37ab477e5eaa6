//! Live events into actions.

use super::{Action, Bind, Caller, Cause, Engine, Lasts, Process, Thread, drift::Answer};
use crate::core::{
    event::{EventKind, TaskEvent},
    hold::Hold,
    instance::GroupBy,
    memory::Policy,
    settings::DriftPolicy,
    task::{ProcessFacts, TaskId},
};

impl Engine {
    /// Whether [`Engine::apply`] needs the facts of the event's process: those that the kernel does not send along.
    #[must_use]
    pub fn wants_facts(&self, event: &TaskEvent) -> bool {
        let EventKind::Exec { uid, comm, cmdline, truncated, .. } = &event.kind else { return false };
        let facts = ProcessFacts {
            pid: event.pid,
            start_time: event.task.start_time,
            uid: *uid,
            comm: comm.clone(),
            cmdline: cmdline.clone(),
            ..ProcessFacts::default()
        };
        !self.own.contains(&event.task) && self.rules.may_match(&facts, *truncated)
    }

    /// Takes one event in. `facts` are those of the event's process where [`Engine::wants_facts`] asked for them; `None`
    /// if it was gone by then.
    pub fn apply(&mut self, event: &TaskEvent, facts: Option<ProcessFacts>) -> Vec<Action> {
        let groups = self.plan.groups.len();
        let mut actions = self.answer(event, facts);
        if let EventKind::Exec { held: true, .. } = event.kind {
            // Whatever it is, and before what does not concern it.
            let hold = Hold { task: event.task, at_ns: event.at_ns };
            actions.push(Action::Release { hold, memory: self.memory_of(event.task) });
        }
        if self.plan.groups.len() != groups {
            // The plan grew: its nodes are divided anew between all groups. What answers the event itself follows the new
            // plan already, and keeps its cause and time.
            let task = |action: &Action| if let Action::Bind(bind) = action { Some(bind.task) } else { None };
            let mut others = self.pending(&Cause::Replan);
            others.retain(|other| !actions.iter().any(|action| task(action) == task(other)));
            actions.extend(others);
        }
        actions
    }

    /// The memory policy that a process is to get while it is held.
    fn memory_of(&self, process: TaskId) -> Option<Policy> {
        let process = self.processes.get(&process.tid).filter(|known| known.facts.id() == process)?;
        let group = self.group_of(process).filter(|_| self.settings.hold.inject)?;
        group.memory_policy()
    }

    fn answer(&mut self, event: &TaskEvent, facts: Option<ProcessFacts>) -> Vec<Action> {
        let known = self.processes.get(&event.pid).map(|process| process.facts.start_time);
        if event.task.tid == event.pid && known.is_some_and(|start_time| start_time > event.task.start_time) {
            // Of an earlier owner of the pid.
            return Vec::new();
        }
        match &event.kind {
            EventKind::Fork { parent_pid, comm, .. } if event.task.tid == event.pid => {
                self.new_process(event, *parent_pid, comm)
            }
            EventKind::Fork { comm, .. } => self.new_thread(event, comm, Cause::Fork),
            EventKind::Exec { .. } => self.exec(event, facts),
            EventKind::Rename { comm } => self.rename(event, comm),
            EventKind::Exit { .. } => {
                self.forget_thread(event.pid, event.task);
                Vec::new()
            }
            EventKind::SetAffinity { caller_pid, caller_tid, caller_comm } => {
                let caller = Caller { pid: *caller_pid, tid: *caller_tid, comm: caller_comm.clone() };
                self.repinned(event, caller)
            }
            EventKind::UseDevice { comm, .. } => self.use_device(event, comm),
            EventKind::Migrate { .. } => Vec::new(),
        }
    }

    fn new_process(&mut self, event: &TaskEvent, parent_pid: u32, comm: &str) -> Vec<Action> {
        if self.knows(event.pid, event.task) {
            return Vec::new();
        }
        let parent = self.processes.get(&parent_pid);
        let Some(parent) = parent.filter(|parent| parent.as_of_ns <= event.at_ns) else {
            // Marked in the kernel as a possible match's child, while the parent has turned out not to be ours, or may have
            // become another program since it forked.
            return vec![look(event, Cause::Fork)];
        };
        let mut ancestors = vec![parent.facts.id()];
        ancestors.extend(parent.facts.ancestors.iter().copied());
        let facts = ProcessFacts {
            pid: event.pid,
            start_time: event.task.start_time,
            ppid: parent_pid,
            comm: comm.to_owned(),
            parent: self.rules.needs_parents().then(|| parent.facts.subject()),
            ancestors,
            ..parent.facts.clone()
        };
        // By pid every process is an instance, but most children only live to run another program: until a scan finds it
        // still there, the child stays with its parent, and the plan need not grow for it.
        let with_parent =
            matches!(self.settings.group_by, GroupBy::Pid).then(|| parent.instance.clone()).flatten();
        if !self.admit_with(facts, event.at_ns, with_parent, &[]) {
            return vec![Action::Unmark { task: event.task }];
        }
        self.enter(event, comm, Cause::Fork)
    }

    fn new_thread(&mut self, event: &TaskEvent, comm: &str, cause: Cause) -> Vec<Action> {
        if !self.manages(event.pid) {
            // Its process was judged when it ran its program or took its name, and is not ours.
            return vec![Action::Unmark { task: event.task }];
        }
        if self.knows(event.pid, event.task) {
            return Vec::new();
        }
        self.enter(event, comm, cause)
    }

    fn exec(&mut self, event: &TaskEvent, facts: Option<ProcessFacts>) -> Vec<Action> {
        let EventKind::Exec { comm, cmdline, truncated, .. } = &event.kind else { return Vec::new() };
        if self.processes.get(&event.pid).is_some_and(|process| process.as_of_ns > event.at_ns) {
            return self.forget_device(event);
        }
        let before = self.threads_of(event.pid);
        // Gone already: what it was when it was created tells the rest, for as long as it takes to hear of its end.
        let gone = facts.is_none();
        let facts = facts.or_else(|| self.wants_facts(event).then(|| self.facts_of(event.task)).flatten());
        let admitted = facts.filter(|facts| facts.id() == event.task).is_some_and(|facts| {
            // What the kernel read at exec; the process may have written over its arguments by now.
            let cmdline = if *truncated { facts.cmdline.clone() } else { cmdline.clone() };
            let facts = ProcessFacts { comm: comm.clone(), cmdline, ..self.with_born_ancestors(facts) };
            self.admit(facts, event.at_ns)
        });
        if !admitted {
            self.forget(event.pid);
            let others = before.into_iter().filter(|task| *task != event.task);
            return others.chain([event.task]).map(|task| Action::Unmark { task }).collect();
        }
        if let Some(process) = self.processes.get_mut(&event.pid) {
            process.threads.clear();
        }
        // The kernel marked it when it ran the program; but if it ran two in a row, our late answer to the first may have
        // taken that mark away.
        let mark = (!gone).then_some(Action::Mark { pid: event.pid, task: event.task });
        mark.into_iter().chain(self.enter(event, comm, Cause::Exec)).collect()
    }

    /// A scan has seen the program that this exec began, and the device that its predecessor used was told of after that.
    fn forget_device(&mut self, event: &TaskEvent) -> Vec<Action> {
        let Some(process) = self.processes.get_mut(&event.pid) else { return Vec::new() };
        let thread = process.threads.get_mut(&event.task.tid).filter(|thread| thread.id == event.task);
        let Some(thread) = thread.filter(|thread| thread.uses_device) else { return Vec::new() };
        thread.uses_device = false;
        thread.role = self.rules.thread_role(process.role, &thread.comm, false);
        thread.let_be = false;
        self.rebind(event.pid, event.task, Cause::Exec, event.at_ns)
    }

    fn facts_of(&self, process: TaskId) -> Option<ProcessFacts> {
        let known = self.processes.get(&process.tid).filter(|known| known.facts.id() == process);
        known.map(|known| known.facts.clone())
    }

    /// A process descends from who created it, also when those have ended and others are its parents now.
    fn with_born_ancestors(&self, facts: ProcessFacts) -> ProcessFacts {
        let born = self.facts_of(facts.id()).filter(|born| born.ancestors.len() > facts.ancestors.len());
        match born {
            Some(born) => ProcessFacts { ancestors: born.ancestors, ..facts },
            None => facts,
        }
    }

    fn rename(&mut self, event: &TaskEvent, comm: &str) -> Vec<Action> {
        let leader = event.task.tid == event.pid;
        let Some(process) = self.processes.get(&event.pid) else {
            return if leader { vec![look(event, Cause::Rename)] } else { Vec::new() };
        };
        let Some(thread) = process.threads.get(&event.task.tid).filter(|thread| thread.id == event.task)
        else {
            return self.new_thread(event, comm, Cause::Rename);
        };
        // A scan may have read the process's name before the rename, and its thread's after it.
        let known = thread.comm == comm && (!leader || process.facts.comm == comm);
        if thread.as_of_ns > event.at_ns || known {
            return Vec::new();
        }
        if !leader {
            return self.rename_thread(event, comm);
        }
        let facts = ProcessFacts { comm: comm.to_owned(), ..process.facts.clone() };
        if self.role_of(&facts).is_none() {
            let before = self.threads_of(event.pid);
            self.forget(event.pid);
            return before.into_iter().map(|task| Action::Unmark { task }).collect();
        }
        let place = |engine: &Self| {
            let process = engine.processes.get(&event.pid)?;
            Some((process.role, engine.group_of(process).map(|group| group.name.clone())))
        };
        let before = place(self);
        self.admit(facts, event.at_ns);
        let answer = self.rename_thread(event, comm);
        if place(self) == before {
            // Its other threads have nothing to do with its name.
            return answer;
        }
        self.settle_roles(event.pid);
        self.off_plan(event.pid, &Cause::Rename, Some(event.at_ns))
    }

    fn rename_thread(&mut self, event: &TaskEvent, comm: &str) -> Vec<Action> {
        let Some(process) = self.processes.get_mut(&event.pid) else { return Vec::new() };
        let Some(thread) = process.threads.get_mut(&event.task.tid) else { return Vec::new() };
        comm.clone_into(&mut thread.comm);
        thread.as_of_ns = event.at_ns;
        let role = self.rules.thread_role(process.role, comm, thread.uses_device);
        let same = std::mem::replace(&mut thread.role, role) == role;
        // It may be something else by now.
        thread.let_be &= same;
        let bind = self.rebind(event.pid, event.task, Cause::Rename, event.at_ns);
        if same && !bind.is_empty() { self.put_back_renamed(event, bind) } else { bind }
    }

    /// Another name for the same place. Others have put the thread where it is, or it has done so itself: a pool's threads may take a name and
    /// a mask for each job, and are not fought at each.
    fn put_back_renamed(&mut self, event: &TaskEvent, bind: Vec<Action>) -> Vec<Action> {
        let process = self.processes.get_mut(&event.pid);
        let thread = process.and_then(|process| process.threads.get_mut(&event.task.tid));
        let Some(thread) = thread.filter(|thread| !thread.let_be && !thread.is_spared()) else {
            return Vec::new();
        };
        match thread.patience.answer(self.settings.drift, event.at_ns) {
            Answer::PutBack => bind,
            Answer::Later(at_ns) => {
                self.drift.later.entry((at_ns, event.pid, event.task)).or_insert(Cause::Rename);
                Vec::new()
            }
            Answer::Reconcile | Answer::LetBe => Vec::new(),
        }
    }

    /// Somebody has seen that a thread uses a device file that only forward threads use: a scan cannot know.
    pub fn uses_device(&mut self, pid: u32, task: TaskId) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(thread) = process.threads.get_mut(&task.tid).filter(|thread| thread.id == task) else {
            return;
        };
        thread.uses_device = true;
        thread.role = self.rules.thread_role(process.role, &thread.comm, true);
    }

    /// What a thread is known by that has no name of its own.
    fn use_device(&mut self, event: &TaskEvent, comm: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.knows(event.pid, event.task) {
            actions = self.new_thread(event, comm, Cause::UseDevice);
        }
        let Some(process) = self.processes.get_mut(&event.pid) else { return actions };
        let thread = process.threads.get_mut(&event.task.tid).filter(|thread| thread.id == event.task);
        let Some(thread) = thread.filter(|thread| !thread.uses_device) else { return actions };
        thread.uses_device = true;
        thread.role = self.rules.thread_role(process.role, &thread.comm, true);
        thread.let_be = false;
        self.rebind(event.pid, event.task, Cause::UseDevice, event.at_ns)
    }

    fn repinned(&mut self, event: &TaskEvent, caller: Caller) -> Vec<Action> {
        let Some(process) = self.processes.get(&event.pid) else { return Vec::new() };
        let group = self.group_of(process).map(|group| group.name.clone());
        let Some(process) = self.processes.get_mut(&event.pid) else { return Vec::new() };
        let Some(thread) = process.threads.get_mut(&event.task.tid).filter(|thread| thread.id == event.task)
        else {
            return Vec::new();
        };
        let place = (group, thread.role);
        thread.actual = None;
        thread.mask_set_ns = thread.mask_set_ns.max(event.at_ns);
        thread.patience_before = thread.patience;
        let spared = thread.is_spared() && self.settings.drift != DriftPolicy::Observe;
        // The reconcile sees whether it is a real-time thread still.
        let answer = match spared {
            true => Answer::Reconcile,
            false => thread.patience.answer(self.settings.drift, event.at_ns),
        };
        // One warning for all its threads, and for all processes of that name; the news and `drift` name each.
        let what = format!("threads of process {} ({})", event.pid, process.facts.comm);
        let lasts = Lasts::Process(process.facts.id());
        let by = if caller.pid == event.pid { "their own process" } else { &caller.comm };
        let warning = match answer {
            Answer::LetBe => {
                Some(format!("{what} were re-pinned by {by}; they stay, because drift is \"observe\""))
            }
            Answer::Reconcile if !spared => {
                Some(format!("{what} keep being re-pinned by {by}; they are put back at reconcile only"))
            }
            Answer::Reconcile | Answer::PutBack | Answer::Later(_) => None,
        };
        thread.let_be |= answer == Answer::LetBe;
        self.drift.note(&place, event.pid, Some(&caller));
        warning.into_iter().for_each(|warning| self.add_warning(warning, lasts.clone()));
        match answer {
            Answer::PutBack => {
                self.drift.put_back(&place);
                self.rebind(event.pid, event.task, Cause::SetAffinity(caller), event.at_ns)
            }
            Answer::Later(at_ns) => {
                self.drift.later.insert((at_ns, event.pid, event.task), Cause::SetAffinity(caller));
                Vec::new()
            }
            Answer::Reconcile | Answer::LetBe => {
                self.drift.leave(&place);
                Vec::new()
            }
        }
    }

    /// Adds the event's task to its process, which is managed, and binds it.
    fn enter(&mut self, event: &TaskEvent, comm: &str, cause: Cause) -> Vec<Action> {
        let Some(process) = self.processes.get_mut(&event.pid) else { return Vec::new() };
        let role = self.rules.thread_role(process.role, comm, false);
        let thread = Thread::new(event.task, comm.to_owned(), role, event.at_ns);
        process.threads.insert(event.task.tid, thread);
        self.rebind(event.pid, event.task, cause, event.at_ns)
    }

    /// Binds the thread that an event of `at_ns` is about, unless it is known to be on plan.
    fn rebind(&self, pid: u32, task: TaskId, cause: Cause, at_ns: u64) -> Vec<Action> {
        let Some(process) = self.processes.get(&pid) else { return Vec::new() };
        let Some(thread) = process.threads.get(&task.tid) else { return Vec::new() };
        let group = self.group_of(process);
        if thread.is_on(self.cpus_in(group, thread.role)) {
            return Vec::new();
        }
        let bind = self.bind(process, group, thread, cause, Some(at_ns));
        vec![Action::Bind(Bind { seen_ns: bind.seen_ns.max(at_ns), ..bind })]
    }

    fn knows(&self, pid: u32, task: TaskId) -> bool {
        let thread =
            |process: &Process| process.threads.get(&task.tid).is_some_and(|thread| thread.id == task);
        self.processes.get(&pid).is_some_and(thread)
    }
}

fn look(event: &TaskEvent, cause: Cause) -> Action {
    Action::Look { pid: event.pid, cause, at_ns: event.at_ns }
}
