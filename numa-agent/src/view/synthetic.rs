//! Made-up lines of an agent: what the view is tested on, and looked at. None of it was measured anywhere.

use std::collections::BTreeMap;

use serde_json::json;

use crate::core::{
    engine::DriftCounts,
    idset::CpuSet,
    jitter::figures::{Move, Occupant},
    plan::Plan,
    preset,
    settings::LayoutSettings,
    task::{ProcessRole, ThreadRole},
    topology::Topology,
    view::{
        Agent, Counts, CpuLoad, CriticalWaits, Group, LISTED, Line, Node, Place, Process, SCHEMA, Snapshot,
        Socket, Status, Thread,
    },
};

/// An A3 with all its sixteen groups but one, in which one group's runtime pins its forward threads to another socket in interval 20,
/// and something runs on the CPUs of another group's: so many intervals, with events between them.
#[must_use]
pub fn a3(intervals: u64) -> Vec<Line> {
    let machine = preset::a3();
    let scene = Scene::new(&machine, 15);
    let mut lines = vec![event(&json!({ "event": "ready", "mode": "enforcing" }))];
    for interval in 0..intervals {
        let snapshot = scene.snapshot(interval);
        lines.extend(scene.events(interval, &snapshot));
        lines.push(Line::Snapshot(Box::new(snapshot)));
    }
    lines
}

/// A quiet interval of any machine with as many instances.
#[must_use]
pub fn quiet(topology: &Topology, instances: usize) -> Snapshot {
    Scene::new(topology, instances).snapshot(0)
}

/// A line as the agent's.
#[must_use]
pub fn event(event: &serde_json::Value) -> Line {
    Line::Event { schema: SCHEMA, event: event.clone() }
}

fn background(pid: u32, name: &str) -> Process {
    let role = ProcessRole::Other;
    Process { pid, start_time: u64::from(pid), comm: name.into(), role, threads: 8 }
}

struct Scene<'a> {
    topology: &'a Topology,
    plan: Plan,
    taken: usize,
}

/// One after another in no order, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }

    /// A binary fraction: as JSON and back it is the same.
    fn share(&mut self, from: f64, to: f64) -> f64 {
        let share = from + (to - from) * self.roll(1000) as f64 / 1000.0;
        (share * 1024.0).round() / 1024.0
    }
}

impl<'a> Scene<'a> {
    fn new(topology: &'a Topology, taken: usize) -> Self {
        let plan = Plan::new(topology, &LayoutSettings::default(), taken).expect("a plan");
        let taken = taken.min(plan.groups.len());
        Self { topology, plan, taken }
    }

    fn node_of(&self, cpu: u32) -> Option<u32> {
        self.topology.cpu(cpu).map(|cpu| cpu.node)
    }

    fn place(&self, cpus: &CpuSet) -> Place {
        let mut nodes: Vec<u32> = cpus.iter().filter_map(|cpu| self.node_of(cpu)).collect();
        nodes.dedup();
        Place { cpus: cpus.clone(), nodes }
    }

    /// Socket, index, and the pid of its scheduler.
    fn groups(&self) -> impl Iterator<Item = (u32, &crate::core::plan::Group)> {
        (0_u32..).zip(&self.plan.groups)
    }

    fn snapshot(&self, interval: u64) -> Snapshot {
        let mut dice = Dice(interval + 1);
        let mut threads = Vec::new();
        let mut groups = Vec::new();
        for (number, group) in self.groups() {
            let (members, forward) = (self.place(&group.primary_cpus), self.place(&group.forward_cpus));
            let taken = (number as usize) < self.taken;
            let pid = 20_000 + 500 * number;
            let mut processes = Vec::new();
            let kinds: [(&str, u32, u32, u32); 4] = [
                ("scheduler", 0, 4, 0),
                ("worker", 100, 6, 12),
                ("worker", 150, 6, 12),
                ("rpc_proxy", 300, 2, 0),
            ];
            for (name, offset, own, critical) in kinds.into_iter().take(if taken { 4 } else { 0 }) {
                let pid = pid + offset;
                processes.push(Process {
                    pid,
                    start_time: u64::from(pid),
                    comm: name.into(),
                    role: ProcessRole::Group,
                    threads: u64::from(own + critical),
                });
                for index in 0..own {
                    let comm = if index == 0 { name.to_owned() } else { format!("{name}_{index}") };
                    let role = ThreadRole::Member;
                    threads.push(self.thread(
                        (pid, index, name, comm),
                        role,
                        Some(&group.name),
                        &members,
                        (interval, &mut dice),
                    ));
                }
                for index in 0..critical {
                    let comm = format!("forward_{index}");
                    let role = ThreadRole::Forward;
                    let who = (pid, own + index, name, comm);
                    let mut thread =
                        self.thread(who, role, Some(&group.name), &forward, (interval, &mut dice));
                    self.trouble(number, index, interval, &mut thread, &mut dice);
                    threads.push(thread);
                }
            }
            groups.push(Group {
                name: group.name.clone(),
                socket: group.socket,
                members,
                forward,
                memory: group.memory_policy().map(|policy| policy.to_string()),
                instance: taken.then(|| format!("session:{pid}")),
                processes,
            });
        }
        let others = self.place(&self.plan.others.cpus);
        for (pid, name) in [(9_900, "Motor"), (9_950, "Servicer")] {
            for index in 0..8 {
                let comm = if index == 0 { name.to_owned() } else { format!("{name}_{index}") };
                let who = (pid, index, name, comm);
                threads.push(self.thread(who, ThreadRole::Other, None, &others, (interval, &mut dice)));
            }
        }
        let weight = |thread: &Thread| {
            let off = thread.off_node_ns.unwrap_or(0);
            let rank = match thread.role {
                ThreadRole::Forward => 0,
                ThreadRole::Member => 1,
                ThreadRole::Other => 2,
            };
            (rank, std::cmp::Reverse((off, thread.migrations, thread.wait_max_ns)))
        };
        threads.sort_by_key(weight);
        let moves = self.moves(interval, &mut dice);
        let status = self.status(&threads, groups, others, interval);
        let load =
            self.topology.cpus.iter().map(|cpu| CpuLoad { cpu: cpu.id, busy: self.busy(cpu.id, &mut dice) });
        let off_plan = threads.iter().filter(|thread| thread.is_off_plan()).count() as u64;
        let unlisted = threads.len().saturating_sub(LISTED) as u64;
        let load = Some(load.collect());
        let waits = threads.iter().filter(|thread| thread.role == ThreadRole::Forward);
        let waits: Vec<Option<u64>> = waits.map(|thread| thread.wait_max_ns).collect();
        let longest_ns = waits.iter().copied().flatten().max();
        let critical = CriticalWaits { threads: waits.len() as u64, longest_ns };
        threads.truncate(LISTED);
        Snapshot {
            status,
            seconds: 1.0,
            load,
            matrix_of: self.matrix_of(),
            moves: Some(moves),
            threads,
            unlisted,
            off_plan,
            critical,
        }
    }

    fn matrix_of(&self) -> String {
        if self.topology.nodes.len() > 8 { "socket" } else { "node" }.to_owned()
    }

    fn thread(
        &self,
        (pid, index, process, comm): (u32, u32, &str, String),
        role: ThreadRole,
        group: Option<&str>,
        place: &Place,
        (interval, dice): (u64, &mut Dice),
    ) -> Thread {
        let cpus: Vec<u32> = place.cpus.iter().collect();
        let cpu = cpus[dice.roll(cpus.len() as u64) as usize];
        let critical = role == ThreadRole::Forward;
        let run = if critical { dice.share(0.75, 0.96) } else { dice.share(0.0, 0.3) };
        let waits = if critical { 40 + dice.roll(60) } else { dice.roll(30) };
        let p99 = 2_000 + dice.roll(if critical { 30_000 } else { 120_000 });
        let _ = interval;
        Thread {
            pid,
            tid: pid + index,
            start_time: u64::from(pid + index),
            comm,
            process: process.into(),
            role,
            group: group.map(str::to_owned),
            planned: Some(place.clone()),
            cpu: Some(cpu),
            node: self.node_of(cpu),
            run_ns: Some((run * 1e9) as u64),
            off_node_ns: Some(0),
            migrations: Some(if dice.roll(4) == 0 { 1 + dice.roll(3) } else { 0 }),
            node_migrations: Some(0),
            waits: Some(waits),
            wait_p99_ns: Some(if waits > 0 { p99 } else { 0 }),
            wait_max_ns: Some(if waits > 0 { p99 + dice.roll(p99) } else { 0 }),
            preemptor: (waits > 0 && dice.roll(3) == 0).then(|| Occupant {
                comm: Some(
                    ["kworker/u641:2", "ksoftirqd/47", "node_exporter", "sshd"][dice.roll(4) as usize].into(),
                ),
                ns: p99,
                count: 1 + dice.roll(5),
            }),
        }
    }

    /// What goes wrong with a forward thread.
    fn trouble(&self, group: u32, index: u32, interval: u64, thread: &mut Thread, dice: &mut Dice) {
        if self.plan.groups.len() < 8 || interval < 20 {
            return;
        }
        // Its runtime has set its mask: three threads are on another socket, and not all are put back yet.
        let back = 23 + u64::from(index) * 9;
        if group == 2 && index < 3 && interval < back {
            let far = &self.plan.groups[self.plan.groups.len() - 3].forward_cpus;
            let cpu = far.iter().nth(index as usize * 5 + thread.pid as usize % 7).expect("it has CPUs");
            (thread.cpu, thread.node) = (Some(cpu), self.node_of(cpu));
            thread.off_node_ns = thread.run_ns.map(|ns| ns - dice.roll(9) * 10_000_000);
            (thread.migrations, thread.node_migrations) = (Some(9 + dice.roll(30)), Some(1 + dice.roll(4)));
            (thread.wait_p99_ns, thread.wait_max_ns) =
                (Some(1_400_000 + dice.roll(900_000)), Some(11_000_000 + dice.roll(9_000_000)));
            thread.preemptor = Some(Occupant { comm: Some("forward_7".into()), ns: 31_000_000, count: 12 });
        }
        // Something else runs on its CPUs.
        if group == 9 && index < 4 {
            let swell = (interval % 12) * 90_000;
            let p99 = 180_000 + swell + dice.roll(80_000);
            (thread.wait_p99_ns, thread.wait_max_ns) = (Some(p99), Some(p99 * (2 + dice.roll(3))));
            thread.preemptor =
                Some(Occupant { comm: Some("tokenizer_pool".into()), ns: 4_000_000, count: 9 });
        }
    }

    fn busy(&self, cpu: u32, dice: &mut Dice) -> f64 {
        let of = |of: fn(&crate::core::plan::Group) -> &CpuSet| {
            self.groups().any(|(number, group)| (number as usize) < self.taken && of(group).contains(cpu))
        };
        if of(|group| &group.forward_cpus) {
            dice.share(0.6, 1.0)
        } else if of(|group| &group.primary_cpus) {
            dice.share(0.1, 0.65)
        } else {
            dice.share(0.0, 0.08)
        }
    }

    fn moves(&self, interval: u64, dice: &mut Dice) -> Vec<Move> {
        let mut moves = Vec::new();
        let by_socket = self.matrix_of() == "socket";
        let ids: Vec<u32> = match by_socket {
            true => self.topology.sockets.iter().map(|socket| socket.id).collect(),
            false => {
                self.topology.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|node| node.id).collect()
            }
        };
        for id in &ids {
            moves.push(Move { from: *id, to: *id, count: 4 + dice.roll(40) });
        }
        if let ([first, .., last], true) = (ids.as_slice(), interval >= 20) {
            moves.push(Move { from: *first, to: *last, count: 7 });
            moves.push(Move { from: *last, to: *first, count: 1_200 });
            moves.push(Move { from: ids[1], to: ids[ids.len() / 2 + 1], count: 3 + dice.roll(5) });
        }
        moves
    }

    fn status(&self, threads: &[Thread], groups: Vec<Group>, others: Place, interval: u64) -> Status {
        let node = |id: u32, cpus: &CpuSet| {
            let mut planned = BTreeMap::new();
            let of =
                |thread: &&Thread| thread.planned.as_ref().is_some_and(|place| place.nodes.contains(&id));
            for thread in threads.iter().filter(of) {
                *planned.entry(thread.role).or_default() += 1;
            }
            let seen = threads.iter().filter(|thread| thread.node == Some(id));
            let stranger = |thread: &&Thread| !of(thread);
            Node {
                id,
                cpus: cpus.clone(),
                memory_bytes: self.topology.node(id).and_then(|node| node.memory_bytes),
                planned,
                present: Some(seen.clone().count() as u64),
                strangers: Some(seen.filter(stranger).count() as u64),
            }
        };
        let mut sockets: Vec<Socket> = self
            .topology
            .sockets
            .iter()
            .map(|socket| Socket {
                id: socket.id,
                nodes: socket.nodes.iter().map(|of| node(of.id, &of.cpus)).collect(),
            })
            .collect();
        // Memory without CPUs.
        let with_cpus: Vec<u32> =
            sockets.iter().flat_map(|socket| socket.nodes.iter().map(|node| node.id)).collect();
        let memory = self.topology.nodes.iter().filter(|node| !with_cpus.contains(&node.id));
        if let Some(last) = sockets.last_mut() {
            last.nodes.extend(memory.map(|of| node(of.id, &CpuSet::new())));
        }
        let processes = groups.iter().map(|group| group.processes.len() as u64).sum::<u64>() + 2;
        Status {
            schema: SCHEMA,
            at: "2026-11-20T12:00:00Z".into(),
            agent: Agent {
                pid: 4_711,
                version: "0.1.0".into(),
                host: "infer-07".into(),
                kernel: "5.10.0-216.0.0.115.oe2203sp4.aarch64".into(),
                started_at: "2026-11-17T08:00:00Z".into(),
                uptime: 273_600.0 + interval as f64,
                enforcing: true,
                policy: Some(self.plan.policy.to_string()),
                programs: "18 of 19 attached".into(),
                missing_programs: vec!["numa_swap".into()],
                rss: Some(31 << 20),
                cpu_seconds: Some(1_640.0),
            },
            sockets,
            groups,
            others: Some(others),
            background: [(9_900, "Motor"), (9_950, "Servicer")]
                .map(|(pid, name)| background(pid, name))
                .into(),
            counts: Counts {
                processes,
                threads: threads.len() as u64,
                results: [("bound", 2_214), ("unchanged", 96), ("failed", 0), ("gone", 3)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                bound_by_cause: [("exec", 90), ("fork", 1_700), ("rename", 384), ("setaffinity", 40)]
                    .map(|(name, count)| (name.to_owned(), count))
                    .into(),
                scans: 9_120,
                lost: BTreeMap::new(),
                unreadable: 0,
                hold: None,
            },
            drift: DriftCounts::default(),
            warnings: Vec::new(),
        }
    }

    fn events(&self, interval: u64, snapshot: &Snapshot) -> Vec<Line> {
        if interval < 18 {
            return Vec::new();
        }
        let stray = |thread: &&Thread| thread.is_off_plan();
        let mut lines = Vec::new();
        let bound = |thread: &Thread, cause: &str| {
            json!({
                "event": "bound", "pid": thread.pid, "tid": thread.tid, "start_time": thread.start_time, "comm": thread.comm,
                "role": "forward", "group": thread.group, "cpus": thread.planned.as_ref().map(|place| place.cpus.to_string()),
                "cause": cause, "result": "bound", "latency_us": 41.5,
            })
        };
        for (index, thread) in snapshot.threads.iter().filter(stray).enumerate() {
            let from = thread.planned.as_ref().and_then(|place| place.cpus.first());
            let from_node = from.and_then(|cpu| self.node_of(cpu));
            lines.push(event(&json!({
                "event": "migrated", "pid": thread.pid, "tid": thread.tid, "from_cpu": from, "to_cpu": thread.cpu,
                "from_node": from_node, "to_node": thread.node,
            })));
            if index == 0 {
                let mut line = bound(thread, "setaffinity");
                line["caller"] = json!({ "pid": thread.pid, "tid": thread.pid + 3, "comm": "OMP tid 3" });
                lines.push(event(&line));
            }
        }
        let newborn = snapshot.threads.iter().filter(|thread| thread.comm == "forward_11");
        let cause = if interval.is_multiple_of(2) { "rename" } else { "fork" };
        lines.extend(newborn.skip(interval as usize % 7).take(1).map(|thread| event(&bound(thread, cause))));
        if interval == 24 {
            let warning = "cgroup /kubepods/pod7 allows CPUs 0-79 only: 3 threads of session:20500 are bound to fewer CPUs than planned";
            lines.push(event(&json!({ "event": "warning", "warning": warning })));
        }
        lines
    }
}
