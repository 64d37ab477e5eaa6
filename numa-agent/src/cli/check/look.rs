//! What `check` looks at, once: the machine, the plan, what runs, what surrounds it, and the agent.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::CheckArgs;
use crate::{
    agent::{self, Jitter, LineFormat, LineQueue, Session, Socket},
    cli::{bind, machine::MachineArgs, plan_args::PlanArgs},
    core::{
        check::{
            Item, agent as plans,
            facts::{AgentState, Around, Shape},
            placement::{self, Observed, Placement, Ran},
            preconditions::{self, Host as HostFacts, Preconditions},
        },
        engine::{Engine, Process},
        health::Health,
        idset::NodeSet,
        jitter::{observer::Limits, recording::Recording},
        memory::verify::Verified,
        plan::Group,
        remedy::plan::Commands,
        task::{ProcessRole, TaskId, ThreadRole},
        topology::Topology,
        view::{Line, Request, Snapshot, Status},
    },
    host::{
        client::{self, ClientError},
        procfs, surroundings,
        sys::{Host, Kernel},
    },
    report::{BindReport, Outcome},
};

/// How long an agent that runs is asked where threads run.
const OBSERVE: Duration = Duration::from_secs(2);
/// What is kept of an observation of our own: nothing of how it went over time.
const LIMITS: Limits = Limits { ended: 65_536, intervals: 16 };

/// The plan that is asked about, on which machine, and where its agent listens.
#[derive(Clone, Copy)]
pub(in crate::cli) struct About<'a> {
    pub(in crate::cli) plan: &'a PlanArgs,
    pub(in crate::cli) machine: &'a MachineArgs,
    pub(in crate::cli) socket: &'a Path,
    /// The shape that the machine should have.
    pub(in crate::cli) expect: Option<Shape>,
}

/// What there is.
pub(in crate::cli) struct Found {
    topology: Topology,
    /// What runs beside its plan; or why there is no plan.
    engine: Result<Engine, String>,
    /// Explicit pids that are nobody.
    unmet: Vec<u32>,
    /// Whether scans found no end of new threads.
    settled: bool,
    memory: BTreeMap<TaskId, Verified>,
    /// See [`Placement::unseen`].
    unseen: u64,
    /// Real-time and deadline threads that are not where they are planned.
    spared: BTreeMap<TaskId, &'static str>,
    commands: Commands,
    /// The agent that answers, or why none does.
    pub(super) agent: Result<AgentState, String>,
}

impl Found {
    /// Looks at the machine, and at what runs if it is ours, or a plan for it can be followed here.
    pub(in crate::cli) fn look(args: About, placement: bool) -> anyhow::Result<Self> {
        let settings = args.plan.settings(None)?;
        let topology = args.machine.topology()?;
        let here = args.machine.is_ours() || placement;
        if here {
            args.machine.check_applicable(&topology)?;
        }
        let engine = Engine::new(topology.clone(), settings.clone(), procfs::own_processes("/proc".as_ref()));
        let mut engine = engine.map_err(|why| why.to_string());
        let (mut unmet, mut settled) = (Vec::new(), true);
        if let Some(engine) = engine.as_mut().ok().filter(|_| here) {
            engine.pin_pids(|pid| Host.start_time(pid));
            settled = bind::enforce(engine, &mut bind::Hand::Looks)?;
            unmet = bind::unmet_pids(engine, &settings);
        }
        // After the scan: it knows by then whoever was found.
        let agent = match here {
            // Who asks for no plan in particular wants to know of the machine.
            true => agent_state(args.socket, engine.as_ref().ok().filter(|_| args.plan.any())),
            false => Err("another machine's".to_owned()),
        };
        let flags: Vec<String> = args.plan.words().into_iter().chain(args.machine.words()).collect();
        let commands = Commands::new(&flags);
        Ok(Self {
            topology,
            engine,
            unmet,
            settled,
            memory: BTreeMap::new(),
            unseen: 0,
            spared: BTreeMap::new(),
            commands,
            agent,
        })
    }

    /// Section A.
    /// `programs`: the kernel programs as they load here, where somebody has tried.
    pub(in crate::cli) fn preconditions(
        &self,
        args: About,
        programs: Option<&Result<Health, String>>,
    ) -> anyhow::Result<Vec<Item>> {
        let plan = self.engine.as_ref().map(Engine::plan).map_err(String::as_str);
        let facts = Preconditions {
            topology: &self.topology,
            plan,
            expected: args.expect,
            host: None,
            commands: &self.commands,
        };
        if !args.machine.is_ours() {
            return Ok(preconditions::items(&facts));
        }
        let surroundings = surroundings::read("/".as_ref())?;
        let processes = self.processes()?;
        let kernel = bind::host_facts()?.kernel;
        let host = HostFacts {
            surroundings: &surroundings,
            processes: &processes,
            programs,
            agent: self.agent.as_ref().map_err(String::as_str),
            version: env!("CARGO_PKG_VERSION"),
            kernel: &kernel,
        };
        Ok(preconditions::items(&Preconditions { host: Some(host), ..facts }))
    }

    /// The matched processes with what surrounds them.
    fn processes(&self) -> anyhow::Result<Vec<Around>> {
        let Ok(engine) = &self.engine else { return Ok(Vec::new()) };
        let around = |process: &Process| {
            let roles: &[ThreadRole] = match process.role {
                ProcessRole::Group => &[ThreadRole::Member, ThreadRole::Forward],
                ProcessRole::Other => &[ThreadRole::Other],
            };
            let cpus = roles.iter().flat_map(|role| engine.cpus_of(process, *role).iter()).collect();
            let nodes =
                engine.group_of(process).map_or(NodeSet::new(), |group: &Group| group.mem_nodes.clone());
            let (task, comm) = (process.facts.id(), process.facts.comm.clone());
            let read = surroundings::of_process("/".as_ref(), task.tid)?;
            Ok(Around { task, comm, cpus, nodes, read })
        };
        engine.processes().map(around).collect()
    }

    /// Section B; `messages` are those of kernel programs of our own.
    pub(super) fn placement(&mut self, args: &CheckArgs, messages: LineQueue) -> Vec<Item> {
        let observed = self.observe(args, messages);
        self.spared = self.engine.as_ref().map(spared).unwrap_or_default();
        if let Ok(engine) = &self.engine {
            self.memory = bind::memory_of(engine);
        }
        placement::items(&Placement {
            engine: self.engine.as_ref().map_err(String::as_str),
            unmet: &self.unmet,
            settled: self.settled,
            unseen: self.unseen,
            spared: &self.spared,
            memory: &self.memory,
            observed: observed.as_ref().map_err(String::as_str),
            commands: &self.commands,
        })
    }

    /// Where threads of the plan run for a while; or why nobody can tell.
    fn observe(&mut self, args: &CheckArgs, messages: LineQueue) -> Result<Observed, String> {
        let engine = self.engine.as_mut().map_err(|why| why.clone())?;
        if let Ok(agent) = &self.agent {
            let snapshot =
                snapshot(&args.socket, args.observe.unwrap_or(OBSERVE)).map_err(|why| why.to_string())?;
            if agent.compared && agent.differs.is_empty() {
                self.unseen = plans::learn_forward(engine, &snapshot);
            }
            return Ok(observed_by(agent, &snapshot, engine));
        }
        match args.observe {
            Some(time) => recorded(args, time, messages),
            None => Err("no agent answers, and nobody was asked to --observe".to_owned()),
        }
    }

    /// What runs beside its plan, as `bind` reports it; `None` where there is no plan.
    pub(super) fn evidence(&self) -> anyhow::Result<Option<BindReport>> {
        let Ok(engine) = &self.engine else { return Ok(None) };
        let mut report = bind::report_of(engine, false)?;
        for row in &mut report.processes {
            row.memory = self.memory.get(&row.id).cloned();
            for thread in &mut row.threads {
                // Nobody is going to bind it now.
                if thread.outcome == Outcome::Planned {
                    let spared = self.spared.get(&thread.id);
                    thread.outcome = spared.map_or(Outcome::OffPlan, |class| Outcome::Spared(class));
                }
            }
        }
        Ok(Some(report))
    }
}

/// The threads that are not where they are planned, and that nobody moves, with their class.
fn spared(engine: &Engine) -> BTreeMap<TaskId, &'static str> {
    let threads =
        engine.processes().flat_map(|process| process.threads.values().map(move |thread| (process, thread)));
    let off = threads
        .filter(|(process, thread)| thread.actual.as_ref() != Some(engine.cpus_of(process, thread.role)));
    off.filter_map(|(_, thread)| Some((thread.id, Host.real_time(thread.id.tid)?))).collect()
}

/// The agent that listens there, and what of its plan is not as in this one.
fn agent_state(socket: &Path, engine: Option<&Engine>) -> Result<AgentState, String> {
    let answer = client::connect(socket, Request::Status).and_then(|mut lines| lines.answer());
    match answer.map_err(|why| why.to_string())? {
        Line::Status(status) => {
            let lives = |task: TaskId| Host.start_time(task.tid) == Some(task.start_time);
            let compared = engine.is_some();
            let differs = engine.map_or_else(Vec::new, |engine| plans::differences(&status, engine, lives));
            let Status { agent, .. } = *status;
            Ok(AgentState {
                differs,
                compared,
                pid: agent.pid,
                version: agent.version,
                enforcing: agent.enforcing,
                programs: agent.programs,
                lacks_programs: !agent.missing_programs.is_empty(),
            })
        }
        _ => Err(format!("the agent at {} answers with something other than its state", socket.display())),
    }
}

/// What the agent tells of a stretch of time from now on.
fn snapshot(socket: &Path, time: Duration) -> Result<Snapshot, ClientError> {
    let interval_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut lines = client::connect(socket, Request::Watch { interval_ms })?;
    loop {
        if let Line::Snapshot(snapshot) = lines.answer()? {
            return Ok(*snapshot);
        }
    }
}

/// The plan's threads in what the agent tells; it may manage others.
fn observed_by(agent: &AgentState, snapshot: &Snapshot, engine: &Engine) -> Observed {
    let ours =
        snapshot.threads.iter().filter(|thread| engine.manages(thread.pid) && thread.run_ns != Some(0));
    let mut observed = Observed {
        by: format!("the agent (pid {})", agent.pid),
        seconds: snapshot.seconds,
        by_other_plan: (!agent.differs.is_empty()).then(|| (agent.pid, agent.differs.clone())),
        ..Observed::default()
    };
    for thread in ours {
        observed.add(thread.run_ns.zip(thread.off_node_ns).map(|(run_ns, off_node_ns)| Ran {
            pid: thread.pid,
            tid: thread.tid,
            comm: thread.comm.clone(),
            run_ns,
            off_node_ns,
        }));
    }
    observed.unmeasured += snapshot.unlisted_off_node();
    observed
}

/// The same by kernel programs of our own.
fn recorded(args: &CheckArgs, time: Duration, messages: LineQueue) -> Result<Observed, String> {
    let kept = Arc::new(Mutex::new(None::<Recording>));
    let session = Session {
        duration: Some(time),
        processes: Vec::new(),
        command: None,
        numa_maps: false,
        progress: Box::new(|_| {}),
        write: {
            let kept = Arc::clone(&kept);
            Box::new(move |recording| {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(recording);
                Ok(())
            })
        },
    };
    let (plan, machine) = (args.plan.clone(), args.machine.clone());
    let options = agent::Options {
        socket: Socket::None,
        dry_run: true,
        format: LineFormat::Silent,
        messages,
        reconcile: None,
        bpf_log: false,
        ring_bytes: None,
        max_accounts: None,
        gives_up: false,
        real_time: false,
        journal: None,
        restore_on_exit: false,
        metrics: None,
        jitter: Jitter { interval: time, limits: LIMITS, reports: None, processes: None, tap: None },
        outline: Box::new(args.machine.outline()),
        topology: Box::new(move || machine.topology()),
        settings: Box::new(move || plan.settings(None)),
    };
    agent::record(options, session).map_err(|why| format!("{why:#}"))?;
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let recording = kept.ok_or("nothing was recorded")?;
    let seconds = recording.runs.first().map_or(0.0, |run| run.seconds);
    let mut observed =
        Observed { by: "kernel programs of our own".to_owned(), seconds, ..Observed::default() };
    for thread in recording.threads.into_iter().filter(|thread| thread.figures.run_ns > 0) {
        let run_ns = thread.figures.run_ns;
        observed.add(thread.figures.off_node.map(|off| Ran {
            pid: thread.pid,
            tid: thread.tid,
            comm: thread.comm.clone(),
            run_ns,
            off_node_ns: off.ns,
        }));
    }
    Ok(observed)
}
