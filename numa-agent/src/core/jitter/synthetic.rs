//! Made-up recordings: what reports and comparisons are tested on, and looked at.
//!
//! Their durations follow log-normal shapes; the same call gives the same recording. None of it was measured anywhere.

use std::collections::BTreeMap;

use numa_ebpf::histogram::{BUCKETS, lowest_ns, width_ns};

use super::{
    distribution::Distribution,
    figures::{ByCause, BySpan, Figures, Migrations, Move, NumaBalancing, Occupant, OffNode, Stolen},
    recording::{
        Connection, Interval, IntervalFigures, Intruders, KIND, ProcessRecord, Recording, Run, RunHost,
        SCHEMA, Subject, ThreadRecord,
    },
};
use crate::core::{
    idset::{CpuSet, NodeSet},
    plan::{Group, Plan},
    preset,
    settings::LayoutSettings,
    synthetic::Machine,
    task::{ProcessRole, ThreadRole},
    topology::Topology,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// A minute on an A3 with all its sixteen groups under the plan. From second 20 to 26 somebody's mask sends the first
/// group's forward threads across the machine, and a hog runs on the CPUs of another group's.
#[must_use]
pub fn a3() -> Recording {
    let topology = preset::a3();
    let plan = Plan::new(&topology, &LayoutSettings::default(), 16).expect("the preset's plan");
    let mut scene = Scene::new(&topology, 60);
    scene.recording.runs[0].subject = Subject::Plan {
        policy: plan.policy.to_string(),
        groups: plan.groups.iter().map(cpus_of).collect(),
        others: plan.others.cpus.to_string(),
    };
    scene.recording.runs[0].bound = true;
    scene.recording.runs[0].missing = vec!["swap_numa: changes of place by NUMA balancing".into()];
    scene.recording.runs[0].missing_programs = vec!["numa_swap".into()];
    scene.recording.runs[0].lost = vec!["3 sends of tapped connections".into()];
    for (index, group) in plan.groups.iter().enumerate() {
        let pid = 20_000 + 500 * index as u32;
        let luck = match index {
            0 => Luck::Stray,
            6 => Luck::Crowded,
            _ => Luck::Good,
        };
        let name = Some(group.name.clone());
        scene.process(pid, "scheduler", ProcessRole::Group, &name, &group.mem_nodes);
        scene.threads(pid, "scheduler", ThreadRole::Member, &name, (4, group.primary_node, Luck::Good));
        for worker in 0..2 {
            let pid = pid + 100 + 50 * worker;
            scene.process(pid, "worker", ProcessRole::Group, &name, &group.mem_nodes);
            scene.threads(pid, "worker", ThreadRole::Member, &name, (6, group.primary_node, Luck::Good));
            scene.threads(pid + 10, "forward", ThreadRole::Forward, &name, (12, group.secondary_node, luck));
            scene.connection(pid, 8000 + index as u16, 18 * MS);
        }
        scene.process(pid + 300, "rpc_proxy", ProcessRole::Group, &name, &group.mem_nodes);
        scene.threads(pid + 300, "rpc_proxy", ThreadRole::Member, &name, (2, group.primary_node, Luck::Good));
    }
    let home: NodeSet = [plan.others.node].into_iter().collect();
    for (pid, name) in [(9_900, "Motor"), (9_950, "Servicer")] {
        scene.process(pid, name, ProcessRole::Other, &None, &home);
        scene.threads(pid, name, ThreadRole::Other, &None, (8, plan.others.node, Luck::Good));
    }
    let critical = plan.groups.iter().flat_map(|group| group.forward_cpus.iter().take(1));
    scene.intruders(critical.collect::<Vec<_>>());
    scene.finish()
}

/// Ten seconds of one process on the smallest machine that we mean, without a plan: one node, two CPUs, no IRQ figures.
#[must_use]
pub fn two_cpus() -> Recording {
    let topology = Machine { cores_per_node: 2, ..Machine::default() }.topology();
    let mut scene = Scene::new(&topology, 10);
    let home: NodeSet = [0].into_iter().collect();
    scene.process(4_242, "python3", ProcessRole::Other, &None, &home);
    scene.recording.processes[0].role = None;
    scene.threads(4_242, "python3", ThreadRole::Member, &None, (5, 0, Luck::Good));
    for thread in &mut scene.recording.threads {
        (thread.figures.irq, thread.figures.softirq) = (None, None);
        (thread.figures.off_plan_ns, thread.figures.before_bind_ns) = (None, None);
    }
    scene.recording.runs[0].missing = vec!["irq, softirq: time that interrupts took".into()];
    scene.recording.runs[0].missing_programs = vec!["irq_enter".into(), "softirq_exit".into()];
    scene.finish()
}

/// A recording in which nothing was found: no length, no processes, no threads.
#[must_use]
pub fn nothing() -> Recording {
    let mut recording = Scene::new(&Machine::default().topology(), 0).recording;
    recording.runs[0].seconds = 0.0;
    recording
}

/// Durations around `median_ns`, `sigma` wide (of the logarithm), none of them `cut_ns` or longer.
#[must_use]
pub fn durations(count: u64, median_ns: u64, sigma: f64, cut_ns: u64) -> Distribution {
    let middle = |bucket: usize| (lowest_ns(bucket) + width_ns(bucket) / 2).max(1);
    let density = |bucket: usize| {
        let off = ((middle(bucket) as f64).ln() - (median_ns.max(1) as f64).ln()) / sigma;
        (-off * off / 2.0).exp() * width_ns(bucket) as f64 / middle(bucket) as f64
    };
    let within: Vec<usize> =
        (0..BUCKETS).filter(|bucket| lowest_ns(*bucket) + width_ns(*bucket) <= cut_ns.max(64)).collect();
    let all: f64 = within.iter().map(|bucket| density(*bucket)).sum();
    let (mut made, mut owed) = (Distribution::default(), 0.0);
    for bucket in within {
        // What rounding leaves over goes to the buckets behind, so that thin tails are there too.
        owed += count as f64 * density(bucket) / all.max(f64::MIN_POSITIVE);
        let here = owed as u64;
        owed -= here as f64;
        if here > 0 {
            made.buckets.insert(bucket as u16, here);
            made.count += here;
            made.total_ns += here * middle(bucket);
            made.max_ns = middle(bucket);
        }
    }
    made
}

fn cpus_of(group: &Group) -> (String, String) {
    (group.name.clone(), format!("{} / {}", group.primary_cpus, group.forward_cpus))
}

/// How threads fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    /// At home, with few others.
    Good,
    /// Off node for a while.
    Stray,
    /// With a hog on their CPUs.
    Crowded,
}

struct Scene {
    recording: Recording,
    seconds: u64,
    random: u64,
}

impl Scene {
    fn new(topology: &Topology, seconds: u64) -> Self {
        let nodes = topology.nodes.iter().map(|node| (node.id, node.cpus.to_string()));
        let sockets = topology.sockets.iter().map(|socket| {
            let nodes = socket.nodes.iter().map(|node| node.id);
            (socket.id, nodes.collect())
        });
        let run = Run {
            host: RunHost {
                name: "infer-07".into(),
                machine_id: "5f1d0c5e9c5b4f0fb2f6a1c7f3d2e9aa".into(),
                kernel: "5.10.0-216.0.0.115.oe2203sp4.aarch64".into(),
                arch: "aarch64".into(),
                nodes: nodes.collect(),
                sockets: sockets.collect(),
                matrix_of: "node".into(),
            },
            agent_version: "0.1.0".into(),
            started_at: "2025-03-01T12:00:00+08:00".into(),
            seconds: seconds as f64,
            subject: Subject::Processes { what: "pid 4242".into() },
            bound: false,
            missing: Vec::new(),
            missing_programs: Vec::new(),
            lost: Vec::new(),
            lost_detail: Vec::new(),
        };
        let recording = Recording {
            schema: SCHEMA,
            kind: KIND.into(),
            runs: vec![run],
            processes: Vec::new(),
            threads: Vec::new(),
            intervals: Vec::new(),
            intruders: Vec::new(),
            connections: Vec::new(),
        };
        Self { recording, seconds, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Below `limit`, a little different each time.
    fn any(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit.max(1)
    }

    fn process(&mut self, pid: u32, comm: &str, role: ProcessRole, group: &Option<String>, memory: &NodeSet) {
        let size = if comm == "worker" { 24 << 30 } else { 600 << 20 };
        let memory = memory.iter().map(|node| (node, size / memory.len() as u64 + self.any(8 << 20)));
        let memory: BTreeMap<u32, u64> = memory.collect();
        self.recording.processes.push(ProcessRecord {
            run: 0,
            pid,
            start_time: 5_000 + u64::from(pid),
            comm: comm.into(),
            cmdline: format!("python3 -m serving.{comm} --port 8000"),
            role: Some(role),
            group: group.clone(),
            memory: (comm != "Servicer").then_some(memory),
        });
    }

    /// `count` threads of the last process, from `tid` on, with their home on `node`.
    fn threads(
        &mut self,
        tid: u32,
        comm: &str,
        role: ThreadRole,
        group: &Option<String>,
        (count, node, luck): (u32, u32, Luck),
    ) {
        let pid = self.recording.processes.last().map_or(tid, |process| process.pid);
        for index in 0..count {
            let figures = self.figures(role, node, luck, index);
            self.recording.threads.push(ThreadRecord {
                run: 0,
                pid,
                tid: tid + index,
                start_time: 5_000 + u64::from(tid + index),
                comm: if role == ThreadRole::Forward { format!("{comm}_{index}") } else { comm.into() },
                role,
                group: group.clone(),
                home_nodes: vec![node],
                ended: index == 5,
                figures,
            });
        }
    }

    fn figures(&mut self, role: ThreadRole, node: u32, luck: Luck, index: u32) -> Figures {
        let stray = luck == Luck::Stray;
        let forward = role == ThreadRole::Forward;
        let busy = if forward { 62 + self.any(20) } else { 4 + self.any(14) };
        let run_ns = self.seconds * SECOND * busy / 100;
        let wakes = self.seconds * if forward { 900 } else { 240 } + self.any(100);
        let away_ns = run_ns / 12 + self.any(run_ns / 40);
        let nodes: Vec<u32> = self.recording.runs[0].host.nodes.keys().copied().collect();
        let mut node_ns = BTreeMap::new();
        let mut matrix = vec![Move { from: node, to: node, count: wakes / 90 + self.any(9) }];
        let strays = if stray { 9 + self.any(30) } else { 0 };
        for (nth, other) in nodes.iter().filter(|other| **other != node && stray).enumerate() {
            let part = 1 << (nth + 1).min(5);
            node_ns.insert(*other, away_ns / part);
            matrix.push(Move { from: node, to: *other, count: 1 + strays / part });
            matrix.push(Move { from: *other, to: node, count: 1 + strays / part });
        }
        let off_ns: u64 = node_ns.values().sum();
        node_ns.insert(node, run_ns - off_ns);
        let between = |same: bool| {
            let steps = matrix.iter().filter(move |step| (step.from == step.to) == same);
            steps.map(|step| step.count).sum::<u64>()
        };
        let (within, between) = (between(true), between(false));
        let mut wake_wait = durations(wakes, 2_600 + self.any(900), 0.55, 40_000);
        let tail = match luck {
            Luck::Good => 400_000 + self.any(2_500_000),
            Luck::Stray => 9 * MS + self.any(20 * MS),
            Luck::Crowded => 30 * MS + self.any(40 * MS),
        };
        wake_wait.merge(&durations(1 + wakes / 450, 45_000, 1.3, tail));
        let crowded = u64::from(luck == Luck::Crowded);
        let preempted = if forward { 40 } else { 12 } + self.any(20) + 400 * crowded;
        let preempt_wait = durations(preempted, 180_000 + 2_800_000 * crowded, 1.2, tail);
        let hog = |comm: &str, ns, count| Occupant { comm: Some(comm.into()), ns, count };
        let waited = preempt_wait.total_ns + wake_wait.total_ns / 3;
        Figures {
            followed_ns: self.seconds * SECOND,
            run_ns,
            node_ns,
            off_node: Some(OffNode {
                ns: off_ns,
                runs: between,
                longest_ns: if stray { 31 * MS + u64::from(index) * MS } else { 0 },
                first_at_ns: stray.then_some(20 * SECOND),
                last_at_ns: stray.then_some(26 * SECOND - self.any(SECOND)),
            }),
            off_plan_ns: Some(off_ns + 9 * MS),
            before_bind_ns: Some(self.any(9 * MS)),
            migrations: Some(Migrations {
                by_cause: ByCause {
                    wake_up: within * 3 / 4,
                    affinity: 1,
                    load_balancer: within - within * 3 / 4 + between.saturating_sub(1),
                    ..ByCause::default()
                },
                by_span: BySpan {
                    cluster: within * 2 / 3,
                    node: within - within * 2 / 3,
                    socket: between / 5,
                    machine: between - between / 5,
                    ..BySpan::default()
                },
                matrix,
            }),
            slice: durations(wakes + preempted, run_ns * 3 / 4 / (wakes + preempted).max(1), 0.7, 80 * MS),
            gap: durations(wakes, (self.seconds * SECOND - run_ns) * 3 / 5 / wakes.max(1), 1.0, 900 * MS),
            wake_wait,
            preempt_wait,
            preemptors: vec![
                hog("stress-ng", waited / 2, 20),
                hog("kworker/u640:2", waited / 9, 44),
                hog("sshd", waited / 30, 3),
                Occupant { comm: None, ns: waited / 12, count: 17 },
            ],
            irq: Some(Stolen { ns: 2 * MS + self.any(MS), count: 800, max_ns: 21_000 }),
            softirq: Some(Stolen { ns: 5 * MS + self.any(4 * MS), count: 1_900, max_ns: 340_000 }),
            numa_balancing: Some(NumaBalancing { moves: u64::from(stray) * 3, swaps: 0 }),
        }
    }

    fn connection(&mut self, pid: u32, local_port: u16, gap_ns: u64) {
        for stream in 0..2 {
            let answers = (0..6).map(|_| {
                let slow = self.any(70) as usize;
                let gap = |nth: usize, jitter| gap_ns + jitter + if nth == slow { 2 * MS } else { 0 };
                (0..80).map(|nth| gap(nth, self.any(400_000))).collect()
            });
            let answers = answers.collect();
            self.recording.connections.push(Connection {
                run: 0,
                pid,
                comm: "worker".into(),
                local_port,
                remote_port: 40_000 + stream,
                answers,
            });
        }
    }

    fn intruders(&mut self, cpus: Vec<u32>) {
        for cpu in cpus.iter().copied().collect::<CpuSet>().iter() {
            let who = |comm: Option<&str>, ns, count| Occupant { comm: comm.map(str::to_owned), ns, count };
            let hog = who(Some("stress-ng"), 40 * MS + self.any(900 * MS), 60);
            let worker = who(Some("kworker/u640:2"), MS + self.any(9 * MS), 31);
            let rest = who(None, self.any(3 * MS), 8);
            self.recording.intruders.push(Intruders { run: 0, cpu, who: vec![hog, worker, rest] });
        }
    }

    /// The recording, with intervals that fit what the threads did.
    fn finish(mut self) -> Recording {
        let mut roles: BTreeMap<ThreadRole, (u64, Figures)> = BTreeMap::new();
        for thread in &self.recording.threads {
            let (threads, figures) = roles.entry(thread.role).or_default();
            *threads += 1;
            figures.merge(&thread.figures);
        }
        for second in 1..=self.seconds {
            let stray = (21..=26).contains(&second);
            let mut by_role = BTreeMap::new();
            for (role, (threads, figures)) in &roles {
                let seconds = self.seconds;
                let part = |all: u64| all / seconds;
                let off = figures.off_node.map_or(0, |off| off.ns);
                let moves = figures.migrations.clone().unwrap_or_default();
                let between = if stray { moves.between_nodes() / 6 } else { 0 };
                let wait = figures.wait();
                let typical = wait.quantile_ns(0.99).unwrap_or(0);
                let wobble = 90 + self.any(20);
                let trouble = if stray && off > 0 { 9 } else { 1 };
                let made = IntervalFigures {
                    threads: *threads,
                    run_ns: part(figures.run_ns) * wobble / 100,
                    off_node_ns: Some(if stray { off / 6 * wobble / 100 } else { 0 }),
                    migrations: Some(part(moves.total() - moves.between_nodes()) + between),
                    node_migrations: Some(between),
                    waits: part(wait.count),
                    wait_ns: part(wait.total_ns) * wobble / 100,
                    wait_p99_ns: typical * wobble / 100 * trouble,
                    wait_max_ns: (typical * 12 * trouble + self.any(typical * 60)).min(wait.max_ns),
                };
                by_role.insert(*role, made);
            }
            let (at, roles) = (second as f64, by_role);
            self.recording.intervals.push(Interval { run: 0, at, seconds: 1.0, roles });
        }
        self.recording
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_shape_asked_for() {
        let made = durations(100_000, 3_000, 0.5, 1_000_000);
        let median = made.quantile_ns(0.5).unwrap();
        assert!((2_700..3_300).contains(&median), "{median}");
        assert!((99_990..=100_000).contains(&made.count) && made.max_ns < 1_000_000, "{made:?}");
        assert_eq!(made.count, made.buckets.values().sum::<u64>());
    }

    #[test]
    fn an_a3_adds_up_and_can_be_written_and_read() {
        let recording = a3();
        assert_eq!((recording.processes.len(), recording.threads.len()), (16 * 4 + 2, 16 * 42 + 16));
        for thread in &recording.threads {
            let figures = &thread.figures;
            assert_eq!(figures.node_ns.values().sum::<u64>(), figures.run_ns, "{thread:?}");
            let moves = figures.migrations.as_ref().unwrap();
            assert_eq!(moves.matrix.iter().map(|step| step.count).sum::<u64>(), moves.total());
        }
        for made in [recording, two_cpus(), nothing()] {
            let text = serde_json::to_string(&made).unwrap();
            assert_eq!(serde_json::from_str::<Recording>(&text).unwrap(), made);
        }
    }
}
