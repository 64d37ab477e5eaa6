//! Recordings for tests: one that has some of everything, and any.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::{
    distribution::Distribution,
    figures::{ByCause, BySpan, Figures, Migrations, Move, NumaBalancing, Occupant, OffNode, Stolen},
    recording::{
        Connection, Interval, IntervalFigures, Intruders, KIND, ProcessRecord, Recording, Run, RunHost,
        SCHEMA, Subject, ThreadRecord,
    },
};
use crate::core::task::{ProcessRole, ThreadRole};

/// One host with two nodes, a process with a member and two forward threads, and a background process; a minute.
pub fn recording() -> Recording {
    let group = || Some("socket0_group0".to_owned());
    let process = |pid, role, group| ProcessRecord {
        run: 0,
        pid,
        start_time: 100,
        comm: "python3".into(),
        cmdline: "python3 -m vllm".into(),
        role: Some(role),
        group,
        memory: Some(BTreeMap::from([(0, 1 << 30), (1, 1 << 30)])),
    };
    let thread = |pid, tid, role, group, waits: &[u64]| ThreadRecord {
        run: 0,
        pid,
        tid,
        start_time: 100,
        comm: format!("thread_{tid}"),
        role,
        group,
        home_nodes: vec![0],
        ended: false,
        figures: figures(60, waits),
    };
    Recording {
        schema: SCHEMA,
        kind: KIND.into(),
        runs: vec![run()],
        processes: vec![process(10, ProcessRole::Group, group()), process(20, ProcessRole::Other, None)],
        threads: vec![
            thread(10, 10, ThreadRole::Member, group(), &[5000]),
            thread(10, 11, ThreadRole::Forward, group(), &[20_000; 2000]),
            thread(10, 12, ThreadRole::Forward, group(), &[30_000; 10]),
            thread(20, 20, ThreadRole::Other, None, &[]),
        ],
        intervals: vec![Interval {
            run: 0,
            at: 60.0,
            seconds: 60.0,
            roles: BTreeMap::from([(
                ThreadRole::Forward,
                IntervalFigures { threads: 2, run_ns: 5, waits: 3, ..IntervalFigures::default() },
            )]),
        }],
        intruders: vec![Intruders { run: 0, cpu: 3, who: vec![occupant(Some("cron"), 9)] }],
        connections: vec![Connection {
            run: 0,
            pid: 10,
            comm: "python3".into(),
            local_port: 8000,
            remote_port: 40_000,
            answers: vec![vec![30_000_000; 4], vec![]],
        }],
    }
}

/// A minute on a host with two nodes.
pub fn run() -> Run {
    Run {
        host: RunHost {
            name: "infer-07".into(),
            machine_id: "0123456789abcdef".into(),
            kernel: "6.6.0".into(),
            arch: "aarch64".into(),
            nodes: BTreeMap::from([(0, "0-3".into()), (1, "4-7".into())]),
            sockets: BTreeMap::from([(0, vec![0, 1])]),
            matrix_of: "node".into(),
        },
        agent_version: "0.1.0".into(),
        started_at: "2025-03-01T12:00:00Z".into(),
        seconds: 60.0,
        subject: Subject::Plan {
            policy: "paired".into(),
            groups: BTreeMap::from([("socket0_group0".into(), "0-3 / 4-7".into())]),
            others: "0-3".into(),
        },
        bound: false,
        missing: vec![],
        missing_programs: vec![],
        lost: vec![],
        lost_detail: vec![],
    }
}

/// A thread that was followed for so many seconds, ran half the time, and waited so long each time it was woken.
pub fn figures(seconds: u64, waits: &[u64]) -> Figures {
    let run_ns = seconds * 500_000_000;
    Figures {
        followed_ns: seconds * 1_000_000_000,
        run_ns,
        node_ns: BTreeMap::from([(0, run_ns)]),
        off_node: Some(OffNode::default()),
        off_plan_ns: Some(0),
        before_bind_ns: None,
        migrations: Some(Migrations::default()),
        wake_wait: waits.iter().copied().collect(),
        preemptors: vec![occupant(Some("cron"), 7), occupant(None, 1)],
        ..Figures::default()
    }
}

fn occupant(comm: Option<&str>, ns: u64) -> Occupant {
    Occupant { comm: comm.map(str::to_owned), ns, count: 1 }
}

fn distribution() -> impl Strategy<Value = Distribution> {
    vec(any::<u32>(), 0..8).prop_map(|durations| durations.into_iter().map(u64::from).collect())
}

fn migrations() -> impl Strategy<Value = Migrations> {
    // A list has each step once, in order.
    let steps = proptest::collection::btree_map((0..3u32, 0..3u32), 1..9u64, 0..4);
    (any::<[u32; 5]>(), any::<[u32; 5]>(), steps).prop_map(|(cause, span, steps)| Migrations {
        by_cause: ByCause {
            wake_up: cause[0].into(),
            exec: cause[1].into(),
            affinity: cause[2].into(),
            numa_balancing: cause[3].into(),
            load_balancer: cause[4].into(),
        },
        by_span: BySpan {
            core: span[0].into(),
            cluster: span[1].into(),
            node: span[2].into(),
            socket: span[3].into(),
            machine: span[4].into(),
        },
        matrix: steps.into_iter().map(|((from, to), count)| Move { from, to, count }).collect(),
    })
}

fn stolen() -> impl Strategy<Value = Stolen> {
    any::<[u32; 3]>().prop_map(|[ns, count, max_ns]| Stolen {
        ns: ns.into(),
        count: count.into(),
        max_ns: max_ns.into(),
    })
}

fn off_node() -> impl Strategy<Value = OffNode> {
    (any::<[u32; 3]>(), option::of(any::<u32>()), option::of(any::<u32>())).prop_map(
        |([ns, runs, longest_ns], first, last)| OffNode {
            ns: ns.into(),
            runs: runs.into(),
            longest_ns: longest_ns.into(),
            first_at_ns: first.map(u64::from),
            last_at_ns: last.map(u64::from),
        },
    )
}

fn occupants() -> impl Strategy<Value = Vec<Occupant>> {
    let one = ("[a-c]", any::<u32>()).prop_map(|(comm, ns)| occupant(Some(&comm), ns.into()));
    vec(one, 0..3).prop_map(|all| {
        let mut sorted = Vec::new();
        super::figures::merge_occupants(&mut sorted, &all);
        sorted
    })
}

fn any_figures() -> impl Strategy<Value = Figures> {
    let numbers = (any::<[u32; 2]>(), proptest::collection::btree_map(0..4u32, any::<u32>(), 0..3));
    let known = (
        option::of(off_node()),
        option::of(migrations()),
        option::of(stolen()),
        option::of(stolen()),
        option::of(any::<[u32; 4]>()),
    );
    let distributions = (distribution(), distribution(), distribution(), distribution());
    (numbers, known, distributions, occupants()).prop_map(
        |(
            ([followed_ns, run_ns], node_ns),
            (off_node, migrations, irq, softirq, rest),
            distributions,
            preemptors,
        )| {
            let (wake_wait, preempt_wait, slice, gap) = distributions;
            Figures {
                followed_ns: followed_ns.into(),
                run_ns: run_ns.into(),
                node_ns: node_ns.into_iter().map(|(node, ns)| (node, ns.into())).collect(),
                off_node,
                off_plan_ns: rest.map(|rest| rest[0].into()),
                before_bind_ns: rest.map(|rest| rest[1].into()),
                migrations,
                wake_wait,
                preempt_wait,
                slice,
                gap,
                preemptors,
                irq,
                softirq,
                numa_balancing: rest
                    .map(|rest| NumaBalancing { moves: rest[2].into(), swaps: rest[3].into() }),
            }
        },
    )
}

/// Any recording of one run, with up to eight threads of few processes and groups.
pub fn recordings() -> impl Strategy<Value = Recording> {
    let role = prop::sample::select(vec![ThreadRole::Member, ThreadRole::Forward, ThreadRole::Other]);
    let thread = (1..4u32, any::<u32>(), "\\PC{0,6}", role, option::of("g[01]"), any_figures()).prop_map(
        |(pid, tid, comm, role, group, figures)| ThreadRecord {
            run: 0,
            pid,
            tid,
            start_time: 100,
            comm,
            role,
            group,
            home_nodes: vec![],
            ended: tid % 2 == 0,
            figures,
        },
    );
    // Whole milliseconds: what JSON says of them is exact.
    (vec(thread, 0..8), 1..1_000_000u32).prop_map(|(threads, millis)| {
        let seconds = f64::from(millis) / 1000.0;
        Recording { runs: vec![Run { seconds, ..run() }], threads, ..recording() }
    })
}
