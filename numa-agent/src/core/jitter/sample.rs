//! Small recordings for tests: one that has some of everything, the parts it is made of, and any.

#[cfg(test)]
mod any;

use std::collections::BTreeMap;

#[cfg(test)]
pub use self::any::recordings;
use super::{
    figures::{Figures, Migrations, Occupant, OffNode},
    recording::{
        Connection, Interval, IntervalFigures, Intruders, KIND, ProcessRecord, Recording, Run, RunHost,
        SCHEMA, Subject, ThreadRecord,
    },
};
use crate::core::task::{ProcessRole, ThreadRole};

/// One host with two nodes, a process with a member and two forward threads, and a background process; a minute.
#[must_use]
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
#[must_use]
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
#[must_use]
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
