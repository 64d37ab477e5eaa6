//! The figures of a thread, or of several together. `None`, here and in JSON `null`, is "not measured", never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;

/// What the scheduler did with a thread while it was followed. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// How long it was followed; the sum for several threads.
    pub followed_ns: u64,
    /// CPU time.
    pub run_ns: u64,
    /// CPU time by node.
    pub node_ns: BTreeMap<u32, u64>,
    /// Outside the planned nodes; without a plan, outside its home (where most of its memory is, or it ran most).
    pub off_node: Option<OffNode>,
    /// CPU time outside the planned CPUs, that before the first bind included.
    pub off_plan_ns: Option<u64>,
    /// CPU time outside the planned CPUs before the thread was first bound.
    pub before_bind_ns: Option<u64>,
    /// Moves between CPUs.
    pub migrations: Option<Migrations>,
    /// Run-queue wait: from being woken to having a CPU.
    pub wake_wait: Distribution,
    /// Run-queue wait: from being preempted (or yielding) to having a CPU again.
    pub preempt_wait: Distribution,
    /// Run slice: from having a CPU to leaving it.
    pub slice: Distribution,
    /// Time between runs: from leaving a CPU to having one again.
    pub gap: Distribution,
    /// Who had the CPU while it waited, longest first; the unnamed last, as `None`.
    pub preemptors: Vec<Occupant>,
    /// Hardware interrupts on its CPU while it was its turn.
    pub irq: Option<Stolen>,
    /// Softirqs on its CPU while it was its turn.
    pub softirq: Option<Stolen>,
    /// What the kernel's NUMA balancing did with it.
    pub numa_balancing: Option<NumaBalancing>,
}

/// Runs outside the nodes where a thread belongs. A run is the time from getting a CPU to leaving it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffNode {
    /// All of them.
    pub ns: u64,
    /// How many.
    pub runs: u64,
    /// The longest.
    pub longest_ns: u64,
    /// When the first ended, in nanoseconds since the recording began; `None` without one.
    pub first_at_ns: Option<u64>,
    /// When the last ended.
    pub last_at_ns: Option<u64>,
}

/// Moves between CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrations {
    /// By what moved it.
    pub by_cause: ByCause,
    /// By how far.
    pub by_span: BySpan,
    /// From node to node (from socket to socket on machines with more than eight nodes), those within one included.
    pub matrix: Vec<Move>,
}

/// Numbers of moves by what moved the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByCause {
    /// The scheduler chose another CPU as the thread was woken.
    pub wake_up: u64,
    /// The scheduler chose another CPU at `execve`.
    pub exec: u64,
    /// Somebody, the agent or another, set its mask.
    pub affinity: u64,
    /// NUMA balancing.
    pub numa_balancing: u64,
    /// The load balancer; also changed cpusets and CPUs that went offline.
    pub load_balancer: u64,
}

/// Numbers of moves by the smallest unit that holds both CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BySpan {
    /// Between hardware threads of a core.
    pub core: u64,
    /// Between cores of a cluster.
    pub cluster: u64,
    /// Between clusters (or cores) of a node.
    pub node: u64,
    /// Between nodes of a socket.
    pub socket: u64,
    /// Between sockets.
    pub machine: u64,
}

/// Moves from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Node (or socket) id.
    pub from: u32,
    /// Node (or socket) id.
    pub to: u32,
    /// How many.
    pub count: u64,
}

/// Tasks of one name that had a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Occupant {
    /// Their name, not safe to print as it is; `None`: those that did not make it among the most frequent.
    pub comm: Option<String>,
    /// For how long.
    pub ns: u64,
    /// How often.
    pub count: u64,
}

/// Time that interrupts took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stolen {
    /// All of it.
    pub ns: u64,
    /// How often.
    pub count: u64,
    /// The longest.
    pub max_ns: u64,
}

/// NUMA balancing events (`sched_move_numa`, `sched_swap_numa`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaBalancing {
    /// It was to be moved towards its memory.
    pub moves: u64,
    /// It was to change places with another task.
    pub swaps: u64,
}

impl Figures {
    /// Adds another thread's, or the same thread's of another time.
    pub fn merge(&mut self, other: &Self) {
        add(&mut self.followed_ns, other.followed_ns);
        add(&mut self.run_ns, other.run_ns);
        for (node, ns) in &other.node_ns {
            add(self.node_ns.entry(*node).or_default(), *ns);
        }
        merge(&mut self.off_node, &other.off_node, OffNode::merge);
        merge(&mut self.off_plan_ns, &other.off_plan_ns, |ours, other| add(ours, *other));
        merge(&mut self.before_bind_ns, &other.before_bind_ns, |ours, other| add(ours, *other));
        merge(&mut self.migrations, &other.migrations, Migrations::merge);
        self.wake_wait.merge(&other.wake_wait);
        self.preempt_wait.merge(&other.preempt_wait);
        self.slice.merge(&other.slice);
        self.gap.merge(&other.gap);
        merge_occupants(&mut self.preemptors, &other.preemptors);
        merge(&mut self.irq, &other.irq, Stolen::merge);
        merge(&mut self.softirq, &other.softirq, Stolen::merge);
        merge(&mut self.numa_balancing, &other.numa_balancing, |ours, other| {
            add(&mut ours.moves, other.moves);
            add(&mut ours.swaps, other.swaps);
        });
    }

    /// Both kinds of run-queue wait together.
    #[must_use]
    pub fn wait(&self) -> Distribution {
        let mut both = self.wake_wait.clone();
        both.merge(&self.preempt_wait);
        both
    }
}

/// What only one of them knows stays known: threads that were not measured add nothing.
fn merge<T: Clone>(ours: &mut Option<T>, other: &Option<T>, add: impl FnOnce(&mut T, &T)) {
    match (ours.as_mut(), other) {
        (Some(ours), Some(other)) => add(ours, other),
        (None, Some(other)) => *ours = Some(other.clone()),
        (_, None) => {}
    }
}

/// Stays at the largest value: ten thousand threads get there in three weeks.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

/// Adds occupants by name, longest first, the unnamed last.
pub fn merge_occupants(ours: &mut Vec<Occupant>, others: &[Occupant]) {
    for other in others {
        match ours.iter_mut().find(|occupant| occupant.comm == other.comm) {
            Some(known) => {
                add(&mut known.ns, other.ns);
                add(&mut known.count, other.count);
            }
            None => ours.push(other.clone()),
        }
    }
    ours.sort_by(|a, b| (a.comm.is_none(), b.ns, &a.comm).cmp(&(b.comm.is_none(), a.ns, &b.comm)));
}

impl OffNode {
    fn merge(&mut self, other: &Self) {
        add(&mut self.ns, other.ns);
        add(&mut self.runs, other.runs);
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        self.first_at_ns = [self.first_at_ns, other.first_at_ns].into_iter().flatten().min();
        self.last_at_ns = self.last_at_ns.max(other.last_at_ns);
    }
}

impl Migrations {
    fn merge(&mut self, other: &Self) {
        let (ours, theirs) = (&mut self.by_cause, &other.by_cause);
        add(&mut ours.wake_up, theirs.wake_up);
        add(&mut ours.exec, theirs.exec);
        add(&mut ours.affinity, theirs.affinity);
        add(&mut ours.numa_balancing, theirs.numa_balancing);
        add(&mut ours.load_balancer, theirs.load_balancer);
        let (ours, theirs) = (&mut self.by_span, &other.by_span);
        add(&mut ours.core, theirs.core);
        add(&mut ours.cluster, theirs.cluster);
        add(&mut ours.node, theirs.node);
        add(&mut ours.socket, theirs.socket);
        add(&mut ours.machine, theirs.machine);
        for step in &other.matrix {
            match self.matrix.iter_mut().find(|known| (known.from, known.to) == (step.from, step.to)) {
                Some(known) => add(&mut known.count, step.count),
                None => self.matrix.push(*step),
            }
        }
        self.matrix.sort_by_key(|step| (step.from, step.to));
    }

    /// All moves between CPUs.
    #[must_use]
    pub fn total(&self) -> u64 {
        let BySpan { core, cluster, node, socket, machine } = self.by_span;
        [core, cluster, node, socket, machine].into_iter().fold(0, u64::saturating_add)
    }

    /// Those from one node to another.
    #[must_use]
    pub fn between_nodes(&self) -> u64 {
        self.by_span.socket.saturating_add(self.by_span.machine)
    }

    /// Of one thread: 1 if being bound moved it, `between_nodes` or at all. Those that balancing may have made between nodes
    /// do not count.
    #[must_use]
    pub fn by_binding(&self, between_nodes: bool) -> u64 {
        let ByCause { affinity, numa_balancing, load_balancer, .. } = self.by_cause;
        let balanced = load_balancer.saturating_add(numa_balancing);
        let most = if between_nodes { self.between_nodes().saturating_sub(balanced) } else { affinity };
        affinity.min(most).min(1)
    }
}

impl Stolen {
    fn merge(&mut self, other: &Self) {
        add(&mut self.ns, other.ns);
        add(&mut self.count, other.count);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}
