//! The state of the world and what to do about it: one matcher, one planner, one owner, for the scan and for live events.
//!
//! The engine holds the managed processes and threads. Snapshots (from a scan) and events (from the kernel programs)
//! go in; [`Action`]s come out. Each piece of knowledge carries the time it was true, and older news never overwrites
//! newer, so that scan and events may come in either order. The engine does nothing itself.

mod action;
mod cuts;
mod drift;
mod events;
mod snapshots;
mod starting;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    action::{Action, Bind, Caller, Cause},
    drift::{DriftCounts, Drifted, Party},
    starting::Seat,
    state::{Process, Snapshot, Thread},
};
use self::{cuts::Cuts, drift::Drift};
use super::{
    idset::CpuSet,
    instance::{Instance, InstanceKey, Place, Slots, instance_of},
    memory::cgroup::Wanted,
    metrics,
    plan::{Group, Kept, Plan, PlanError},
    rules::Rules,
    settings::{DriftPolicy, Policy, Settings},
    task::{BindOutcome, ProcessFacts, ProcessRole, TaskId, ThreadFacts, ThreadRole},
    topology::{Socket, Topology},
};

/// The most that is kept of what the user should know; names from other processes make any number of different ones.
const MAX_WARNINGS: usize = 256;

/// The owner of all state.
#[derive(Debug, Clone)]
pub struct Engine {
    topology: Topology,
    settings: Settings,
    rules: Rules,
    plan: Plan,
    /// Of the first plan by these settings: those for a changed machine come as close to it as they can.
    kept: Kept,
    slots: Slots,
    own: BTreeSet<TaskId>,
    processes: BTreeMap<u32, Process>,
    warnings: BTreeMap<String, Lasts>,
    cuts: Cuts,
    drift: Drift,
    /// Those of `warnings` and `cuts` that nobody has been told.
    news: Vec<String>,
}

/// How long a warning is true.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lasts {
    /// As long as the settings stay as they are.
    Settings,
    /// So too, and for as long as that instance is there.
    Instance(InstanceKey),
    /// So too, and for as long as that process is there.
    Process(TaskId),
    /// As long as that process has threads that are spared.
    Spared(TaskId),
    /// For as long as the agent runs, or until it is taken back.
    Run,
}

impl Lasts {
    const fn depends_on_settings(&self) -> bool {
        matches!(self, Self::Settings | Self::Instance(_) | Self::Process(_))
    }
}

impl Engine {
    /// An engine with nothing in it. `own` are the processes that never match: the agent's.
    ///
    /// # Errors
    /// [`PlanError`] where the settings cannot be met on this machine.
    pub fn new(
        topology: Topology,
        settings: Settings,
        own: impl IntoIterator<Item = TaskId>,
    ) -> Result<Self, PlanError> {
        let plan = Plan::new(&topology, &settings.layout, 0)?;
        Ok(Self::with(topology, settings, own, plan.kept(), plan))
    }

    fn with(
        topology: Topology,
        settings: Settings,
        own: impl IntoIterator<Item = TaskId>,
        kept: Kept,
        plan: Plan,
    ) -> Self {
        Self {
            slots: Slots::new(&places(&plan)),
            rules: Rules::new(settings.clone()),
            own: own.into_iter().collect(),
            processes: BTreeMap::new(),
            warnings: BTreeMap::new(),
            cuts: Cuts::default(),
            drift: Drift::default(),
            news: Vec::new(),
            topology,
            settings,
            plan,
            kept,
        }
    }

    /// The same processes under other settings, on a machine that may have changed. `seen` are their facts as the new
    /// settings need them; what was captured at exec is kept, and so are the instances' slots where the plan still has
    /// them.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn reconfigured(
        &self,
        topology: Topology,
        settings: Settings,
        seen: &BTreeMap<TaskId, &ProcessFacts>,
    ) -> Result<Self, PlanError> {
        let mut next = Self::new(topology, settings, self.own.iter().copied())?;
        next.warnings.extend(self.warnings.clone());
        next.warnings.retain(|_, lasts| !lasts.depends_on_settings());
        self.followed_by(next, seen)
    }

    /// The same processes under the same settings, on a machine that has changed. Instances whose groups are still there
    /// stay in them; the others go back when theirs return.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn replanned(&self, topology: Topology) -> Result<Self, PlanError> {
        let settings = self.settings.clone();
        let plan = Plan::following(Some(self.kept), &topology, &settings.layout, 0)?;
        let next = Self::with(topology, settings, self.own.iter().copied(), self.kept, plan);
        // Explicit pids stay tied to the processes that had them.
        let next = Self { rules: self.rules.clone(), warnings: self.warnings.clone(), ..next };
        self.followed_by(next, &BTreeMap::new())
    }

    /// Hands the processes over to `next`, which has none.
    fn followed_by(&self, mut next: Self, seen: &BTreeMap<TaskId, &ProcessFacts>) -> Result<Self, PlanError> {
        if next.grows() {
            // Instances that ended have left slots behind that others' places depend on.
            let sockets: BTreeSet<u32> = next.plan.groups.iter().map(|group| group.socket).collect();
            next.plan = next.plan_for(self.slots.depth() as usize * sockets.len())?;
        }
        next.drift = self.drift.clone();
        next.cuts = self.cuts.clone();
        next.news.extend(self.news.iter().cloned());
        let same_env = self.rules.needs().env == next.rules.needs().env;
        // The kernel side tells anew of users of other devices.
        let same_devices = self.settings.forward_thread_devices == next.settings.forward_thread_devices;
        let refreshed = |process: &Process| {
            let known = &process.facts;
            let seen = seen.get(&known.id()).map_or(known, |seen| *seen).clone();
            let env = if same_env { known.env.clone().or(seen.env) } else { seen.env };
            let (comm, cmdline) = (known.comm.clone(), known.cmdline.clone());
            ProcessFacts { comm, cmdline, env, parent: known.parent.clone().or(seen.parent), ..seen }
        };
        let slot =
            |process: &Process| process.instance.as_ref().and_then(|instance| self.slots.slot_of(instance));
        let mut processes: Vec<(&Process, ProcessFacts)> =
            self.processes.values().map(|process| (process, refreshed(process))).collect();
        processes.sort_by_key(|(process, facts)| (slot(process), facts.start_time, facts.pid));
        let facts: Vec<&ProcessFacts> = processes.iter().map(|(_, facts)| facts).collect();
        let keys = instances_of(&next.rules, &facts);
        next.slots = self.slots.moved_to(&places(&next.plan));
        next.slots.retain(|instance| keys.contains(instance));
        for (process, facts) in processes {
            let pid = facts.pid;
            if next.admit(facts, process.as_of_ns) {
                next.processes
                    .entry(pid)
                    .and_modify(|admitted| admitted.threads.clone_from(&process.threads))
                    .and_modify(|admitted| {
                        if !same_devices {
                            admitted.forget_devices()
                        }
                    })
                    .and_modify(Process::forget_grants)
                    .and_modify(|admitted| admitted.forget_others(next.settings.drift));
                next.settle_roles(pid);
            }
        }
        let let_be = next.settings.drift == DriftPolicy::Observe;
        for (pid, task) in next.drift.give_up(next.settings.drift) {
            let Some(process) = next.processes.get(&pid) else { continue };
            let group = next.group_of(process).map(|group| group.name.clone());
            let thread = next.processes.get_mut(&pid).and_then(|process| process.threads.get_mut(&task.tid));
            let Some(thread) = thread.filter(|thread| thread.id == task) else { continue };
            thread.let_be |= let_be;
            next.drift.leave(&(group, thread.role));
        }
        Ok(next)
    }

    /// Never matches this process, which is the agent's own, from now on.
    pub fn disregard(&mut self, process: TaskId) {
        self.own.insert(process);
    }

    /// What the user asked for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The machine.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The matcher.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The managed processes, by pid.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// A managed process.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// Ties the explicit pids to the processes that have them now. Gives those that nobody has. `start_time` tells a
    /// pid's, as in [`TaskId::start_time`].
    pub fn pin_pids(&mut self, start_time: impl Fn(u32) -> Option<u64>) -> Vec<u32> {
        self.rules.pin_pids(start_time)
    }

    /// Adds something the user should know, whatever the settings are.
    pub fn warn(&mut self, warning: String) {
        self.add_warning(warning, Lasts::Run);
    }

    /// Adds something that the user should know of these settings.
    pub fn warn_of_settings(&mut self, warning: String) {
        self.add_warning(warning, Lasts::Settings);
    }

    fn add_warning(&mut self, warning: String, lasts: Lasts) {
        let (warning, lasts) = match self.warnings.len() {
            ..MAX_WARNINGS => (warning, lasts),
            _ => (full(), Lasts::Run),
        };
        if self.warnings.insert(warning.clone(), lasts).is_none() {
            self.news.push(warning);
        }
    }

    /// Takes back one of [`Engine::warn`] that does not hold any more.
    pub fn take_back(&mut self, warning: &str) {
        self.warnings.remove(warning);
    }

    /// Forgets the warnings about what is gone.
    fn forget_warnings(&mut self) {
        let instances: BTreeSet<&InstanceKey> =
            self.processes.values().filter_map(|process| process.instance.as_ref()).collect();
        let spares = |process: &Process| {
            process.threads.values().any(|thread| matches!(thread.outcome, Some(BindOutcome::Spared { .. })))
        };
        let of = |id: &TaskId| self.processes.get(&id.tid).filter(|process| process.facts.id() == *id);
        self.warnings.retain(|_, lasts| match lasts {
            Lasts::Settings | Lasts::Run => true,
            Lasts::Instance(instance) => instances.contains(instance),
            Lasts::Process(id) => of(id).is_some(),
            Lasts::Spared(id) => of(id).is_some_and(spares),
        });
        if self.warnings.len() <= MAX_WARNINGS {
            self.warnings.remove(&full());
        }
    }

    /// The warnings that came up since the last call.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Whether that process is managed.
    #[must_use]
    pub fn manages(&self, pid: u32) -> bool {
        self.processes.contains_key(&pid)
    }

    /// What the settings, the machine and the plan had to give up, in words for the user.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let fixed = self.settings.warnings.iter().chain(&self.topology.warnings).chain(&self.plan.warnings);
        fixed.chain(self.warnings.keys()).chain(self.cuts.texts()).cloned().collect()
    }

    /// The group a process belongs to.
    #[must_use]
    pub fn group_of(&self, process: &Process) -> Option<&Group> {
        let slot = self.slots.slot_of(process.instance.as_ref()?)?;
        self.plan.slots().get(slot).copied()
    }

    /// The processes whose group has memory nodes.
    #[must_use]
    pub fn wanted_memory(&self) -> Vec<Wanted> {
        let wanted = |process: &Process| {
            let group = self.group_of(process).filter(|group| !group.mem_nodes.is_empty())?;
            let (group, nodes) = (group.name.clone(), group.mem_nodes.clone());
            Some(Wanted { process: process.facts.id(), group, nodes })
        };
        self.processes().filter_map(wanted).collect()
    }

    /// The CPUs the plan gives a thread of that role in that process.
    #[must_use]
    pub fn cpus_of(&self, process: &Process, role: ThreadRole) -> &CpuSet {
        self.cpus_in(self.group_of(process), role)
    }

    /// The CPUs for a thread of that role of that group; of the background processes without one.
    fn cpus_in<'a>(&'a self, group: Option<&'a Group>, role: ThreadRole) -> &'a CpuSet {
        match (role, group) {
            (ThreadRole::Forward, Some(group)) => &group.forward_cpus,
            (ThreadRole::Member, Some(group)) => &group.primary_cpus,
            _ => &self.plan.others.cpus,
        }
    }

    /// Binds for everything that is not known to be on plan, but for what was refused already; the next scan that sees
    /// that again tries it once more.
    #[must_use]
    pub fn pending(&self, cause: &Cause) -> Vec<Action> {
        let mut actions: Vec<Action> =
            self.processes.keys().flat_map(|pid| self.off_plan(*pid, cause, None)).collect();
        actions.retain(|action| !matches!(action, Action::Bind(bind) if self.was_refused(bind)));
        actions
    }

    fn was_refused(&self, bind: &Bind) -> bool {
        let thread = self.processes.get(&bind.pid).and_then(|process| process.threads.get(&bind.task.tid));
        thread.is_some_and(|thread| {
            matches!(thread.outcome, Some(BindOutcome::Failed { .. } | BindOutcome::Spared { .. }))
                && thread.asked.as_ref() == Some(&bind.cpus)
        })
    }

    /// Whether `outcome` is worth a word: every scan tries again what was refused or spared, and finds it as before.
    #[must_use]
    pub fn is_news(&self, bind: &Bind, outcome: &BindOutcome) -> bool {
        let thread = self.processes.get(&bind.pid).and_then(|process| process.threads.get(&bind.task.tid));
        let same = |thread: &Thread| {
            thread.outcome.as_ref() == Some(outcome) && thread.asked.as_ref() == Some(&bind.cpus)
        };
        !matches!(outcome, BindOutcome::Failed { .. } | BindOutcome::Spared { .. })
            || !thread.is_some_and(same)
    }

    /// Takes note of what became of a [`Action::Bind`] by `now_ns` (monotonic nanoseconds). A thread that is gone is forgotten.
    pub fn record(&mut self, bind: &Bind, outcome: BindOutcome, now_ns: u64) {
        let Some(process) = self.processes.get_mut(&bind.pid) else { return };
        let thread = process.threads.get_mut(&bind.task.tid).filter(|thread| thread.id == bind.task);
        let Some(thread) = thread else { return };
        if let Cause::SetAffinity(caller) = &bind.cause {
            let place = (bind.group.clone(), bind.role);
            match &outcome {
                // Whoever sets the mask that a thread has anyway costs it none of the times that it is put back.
                BindOutcome::Unchanged(_) => {
                    thread.patience = thread.patience_before;
                    self.drift.was_none(&place, bind.pid, caller);
                }
                BindOutcome::Failed { .. } | BindOutcome::Spared { .. } => {
                    self.drift.was_not_put_back(&place)
                }
                _ => {}
            }
        }
        thread.asked = Some(bind.cpus.clone());
        thread.actual = outcome.mask().cloned();
        thread.mask_set_ns = now_ns;
        thread.granted = match &outcome {
            BindOutcome::Gone => return self.forget_thread(bind.pid, bind.task),
            // Tried again: what is a real-time thread now need not stay one.
            BindOutcome::Failed { .. } | BindOutcome::Spared { .. } => None,
            BindOutcome::Planned(mask) | BindOutcome::Unchanged(mask) | BindOutcome::Bound(mask) => {
                Some(mask.clone())
            }
        };
        self.news.extend(self.cuts.note(&process.facts, &bind.cpus, &outcome));
        let spared = if let BindOutcome::Spared { class, .. } = &outcome {
            let text = format!(
                "threads of process {} ({}) are {class}: real-time and deadline threads stay where they are",
                bind.pid, process.facts.comm
            );
            Some((text, Lasts::Spared(process.facts.id())))
        } else {
            None
        };
        thread.outcome = Some(outcome);
        spared.into_iter().for_each(|(warning, lasts)| self.add_warning(warning, lasts));
    }

    /// What others have done to the masks of managed threads.
    #[must_use]
    pub fn drift(&self) -> DriftCounts {
        self.drift.counts(self.settings.drift)
    }

    /// The same by group and role.
    #[must_use]
    pub fn drifted(&self) -> &BTreeMap<metrics::Place, Drifted> {
        self.drift.places()
    }

    /// How many places of the plan are cut by cpusets now.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.cuts.texts().count()
    }

    /// When the next thread is to be put back that had to wait for it, in monotonic nanoseconds.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.drift.later.first_key_value().map(|((at_ns, ..), _)| *at_ns)
    }

    /// Binds for the threads that are due to be put back.
    pub fn take_due(&mut self, now_ns: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(first) = self.drift.later.first_entry().filter(|first| first.key().0 <= now_ns) {
            let ((_, pid, task), cause) = first.remove_entry();
            let thread = self.processes.get_mut(&pid).and_then(|process| process.threads.get_mut(&task.tid));
            // It may have been put back meanwhile, by the answer to a later change.
            let due = |thread: &&mut Thread| thread.id == task && thread.patience.is_due(now_ns);
            if let Some(thread) = thread.filter(due) {
                thread.patience.put_back(now_ns);
                for action in self.again(pid, task, cause, None) {
                    if let Action::Bind(bind @ Bind { cause: Cause::SetAffinity(_), .. }) = &action {
                        self.drift.put_back(&(bind.group.clone(), bind.role));
                    }
                    actions.push(action);
                }
            }
        }
        actions
    }

    /// A bind for one thread, if it still is not known to be on plan.
    #[must_use]
    pub fn again(&self, pid: u32, task: TaskId, cause: Cause, at_ns: Option<u64>) -> Vec<Action> {
        let Some(process) = self.processes.get(&pid) else { return Vec::new() };
        let thread = process.threads.get(&task.tid).filter(|thread| thread.id == task && !thread.let_be);
        let Some(thread) = thread else { return Vec::new() };
        let group = self.group_of(process);
        match thread.is_on(self.cpus_in(group, thread.role)) {
            true => Vec::new(),
            false => vec![Action::Bind(self.bind(process, group, thread, cause, at_ns))],
        }
    }

    /// Binds for the threads of a process that are not known to be on plan.
    fn off_plan(&self, pid: u32, cause: &Cause, at_ns: Option<u64>) -> Vec<Action> {
        let Some(process) = self.processes.get(&pid) else { return Vec::new() };
        let group = self.group_of(process);
        let off_plan = process
            .threads
            .values()
            .filter(|thread| !thread.let_be && !thread.is_on(self.cpus_in(group, thread.role)));
        off_plan.map(|thread| Action::Bind(self.bind(process, group, thread, cause.clone(), at_ns))).collect()
    }

    /// Gives the threads of a process the roles that follow from its own, from their names and from the devices that they use.
    fn settle_roles(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for thread in process.threads.values_mut() {
            thread.role = self.rules.thread_role(process.role, &thread.comm, thread.uses_device);
        }
    }

    fn bind(
        &self,
        process: &Process,
        group: Option<&Group>,
        thread: &Thread,
        cause: Cause,
        at_ns: Option<u64>,
    ) -> Bind {
        Bind {
            pid: process.facts.pid,
            task: thread.id,
            comm: thread.comm.clone(),
            role: thread.role,
            group: group.map(|group| group.name.clone()),
            cpus: self.cpus_in(group, thread.role).clone(),
            cause,
            at_ns,
            seen_ns: thread.as_of_ns,
        }
    }

    /// What a process is; `None`: not ours.
    fn role_of(&self, facts: &ProcessFacts) -> Option<ProcessRole> {
        (!self.own.contains(&facts.id())).then(|| self.rules.process_role(facts)).flatten()
    }

    /// Takes a process in, or takes its changed facts over: role, instance and slot follow from the facts. `false` if it
    /// is not ours, or not any more. The caller sees to its threads.
    fn admit(&mut self, facts: ProcessFacts, as_of_ns: u64) -> bool {
        self.admit_with(facts, as_of_ns, None, &[])
    }

    /// The same, to an instance that is known already, or with the mask that it was found running with.
    fn admit_with(
        &mut self,
        facts: ProcessFacts,
        as_of_ns: u64,
        instance: Option<InstanceKey>,
        threads_found: &[ThreadFacts],
    ) -> bool {
        let pid = facts.pid;
        let Some(role) = self.role_of(&facts) else {
            self.forget(pid);
            return false;
        };
        let same =
            self.processes.get_mut(&pid).filter(|process| process.facts.start_time == facts.start_time);
        let (threads, previous) = match same {
            Some(process) => (std::mem::take(&mut process.threads), process.instance.clone()),
            None => {
                self.forget(pid);
                (BTreeMap::new(), None)
            }
        };
        let instance = match role {
            ProcessRole::Group => Some(instance.unwrap_or_else(|| self.instance_of(&facts))),
            ProcessRole::Other => None,
        };
        if let Some(previous) = previous.filter(|previous| Some(previous) != instance.as_ref()) {
            self.leave(pid, &previous, instance.as_ref(), &facts);
        }
        if let Some(instance) = &instance {
            self.seat(instance, &facts, threads_found);
        }
        self.processes.insert(pid, Process { facts, role, instance, threads, as_of_ns });
        true
    }

    /// A process goes from one instance to another, or to none. If it was the last of the old one, a new one takes over
    /// its slot: a launcher (`setsid worker`, `sudo worker`) whose own command line matched has held the place for it.
    fn leave(&mut self, pid: u32, old: &InstanceKey, new: Option<&InstanceKey>, facts: &ProcessFacts) {
        let of_old = |process: &Process| process.instance.as_ref() == Some(old);
        if self.processes.values().any(|process| process.facts.pid != pid && of_old(process)) {
            return;
        }
        match new.filter(|new| self.slots.slot_of(new).is_none()) {
            Some(new) => self.slots.rename(old, new, &facts.subject()),
            None => self.slots.release(old),
        }
    }

    fn instance_of(&mut self, facts: &ProcessFacts) -> InstanceKey {
        let is_group = |id: TaskId| {
            let process = self.processes.get(&id.tid);
            process.is_some_and(|process| process.facts.id() == id && process.role == ProcessRole::Group)
        };
        let Instance { key, note } = instance_of(&self.settings.group_by, facts, is_group);
        note.into_iter().for_each(|note| self.add_warning(note, Lasts::Instance(key.clone())));
        key
    }

    /// Gives an instance its slot, and makes room where the plan has as many groups as instances need. An instance that
    /// is found on a group's CPUs stays in that group: an agent before us has put it there.
    fn seat(&mut self, instance: &InstanceKey, facts: &ProcessFacts, threads: &[ThreadFacts]) {
        if self.slots.slot_of(instance).is_some() {
            return;
        }
        if self.grows() && self.slots.is_full() {
            self.grow_to(self.slots.instances() + 1);
        }
        let found = self.slot_under(facts.id(), threads);
        if found.is_some_and(|slot| self.slots.adopt(instance, &facts.subject(), slot)) {
            return;
        }
        match self.slots.assign(instance, &facts.subject(), self.socket_near(facts)) {
            Ok(assignment) if assignment.shared => {
                let group =
                    self.plan.slots().get(assignment.slot).map_or("?", |group| &group.name).to_owned();
                let text =
                    format!("more serving instances than groups: {instance} shares {group} with another");
                self.add_warning(text, Lasts::Instance(instance.clone()));
            }
            Ok(_) => {}
            Err(error) => {
                self.add_warning(format!("{instance}: {error}"), Lasts::Instance(instance.clone()));
            }
        }
    }

    /// The slot on whose CPUs most of a process's threads are, its leader in case of doubt: others may have moved some of them away, also to
    /// another group's.
    fn slot_under(&self, leader: TaskId, threads: &[ThreadFacts]) -> Option<usize> {
        // There may be a thousand groups, and many thousand threads.
        let mut on = BTreeMap::<&CpuSet, (usize, bool)>::new();
        for thread in threads {
            let Some(mask) = &thread.allowed else { continue };
            let (count, leads) = on.entry(mask).or_default();
            *count += 1;
            *leads |= thread.id == leader;
        }
        let at_home = |group: &Group| {
            let cpus = BTreeSet::from([&group.primary_cpus, &group.forward_cpus]);
            let found = cpus.into_iter().filter_map(|cpus| on.get(cpus));
            found.fold((0, false), |(count, leads), (more, also)| (count + more, leads | also))
        };
        let slots = self.plan.slots();
        let found = slots.iter().map(|group| at_home(group)).enumerate().filter(|(_, (count, _))| *count > 0);
        found.rev().max_by_key(|(_, home)| *home).map(|(slot, _)| slot)
    }

    /// The socket of the NPU that a process uses, where that is known.
    fn socket_near(&self, facts: &ProcessFacts) -> Option<u32> {
        let node = facts.device_node?;
        let has_it = |socket: &&Socket| socket.nodes.iter().any(|each| each.id == node);
        self.topology.sockets.iter().find(has_it).map(|socket| socket.id)
    }

    /// Whether the plan has as many groups as the instances need.
    fn grows(&self) -> bool {
        match self.settings.layout.groups_per_socket {
            Some(count) => count == 0,
            None => self.plan.policy == Policy::Generic,
        }
    }

    /// Plans for so many instances. A plan that cannot hold more keeps its groups: instances then share one.
    fn grow_to(&mut self, instances: usize) {
        if let Ok(plan) = self.plan_for(instances)
            && self.slots.grow(&places(&plan)).is_ok()
        {
            self.plan = plan;
        }
    }

    fn plan_for(&self, instances: usize) -> Result<Plan, PlanError> {
        Plan::following(Some(self.kept), &self.topology, &self.settings.layout, instances)
    }

    /// Makes room for all the instances of a scan before the first is seated, so that those found in place can stay.
    pub fn make_room(&mut self, snapshots: &[Snapshot]) {
        let own = |facts: &&ProcessFacts| !self.own.contains(&facts.id());
        let facts: Vec<&ProcessFacts> =
            snapshots.iter().map(|snapshot| &snapshot.facts).filter(own).collect();
        let instances = instances_of(&self.rules, &facts).len();
        if self.grows() && instances > self.slots.len() {
            self.grow_to(instances);
        }
    }

    fn forget(&mut self, pid: u32) {
        if let Some(instance) = self.processes.remove(&pid).and_then(|process| process.instance) {
            self.release_if_last(&instance);
        }
    }

    fn forget_thread(&mut self, pid: u32, task: TaskId) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.threads.get(&task.tid).is_some_and(|thread| thread.id == task) {
            process.threads.remove(&task.tid);
        }
        if process.threads.is_empty() {
            self.forget(pid);
        }
    }

    fn release_if_last(&mut self, instance: &InstanceKey) {
        if !self.processes.values().any(|process| process.instance.as_ref() == Some(instance)) {
            self.slots.release(instance);
        }
    }
}

/// Said in place of those that there is no room for.
fn full() -> String {
    format!("{MAX_WARNINGS} warnings so far; further ones are not shown")
}

/// The instances that those processes make up.
fn instances_of(rules: &Rules, facts: &[&ProcessFacts]) -> BTreeSet<InstanceKey> {
    let group: Vec<&&ProcessFacts> =
        facts.iter().filter(|facts| rules.process_role(facts) == Some(ProcessRole::Group)).collect();
    let ids: BTreeSet<TaskId> = group.iter().map(|facts| facts.id()).collect();
    let key =
        |facts: &&&ProcessFacts| instance_of(&rules.settings().group_by, facts, |id| ids.contains(&id)).key;
    group.iter().map(key).collect()
}

fn places(plan: &Plan) -> Vec<Place> {
    plan.slots().iter().map(|group| (group.socket, group.index)).collect()
}
