//! Any recording, for property tests.

use proptest::{collection::vec, option, prelude::*};

use super::{
    super::{
        distribution::Distribution,
        figures::{
            self, ByCause, BySpan, Figures, Migrations, Move, NumaBalancing, Occupant, OffNode, Stolen,
        },
        recording::{Recording, Run, ThreadRecord},
    },
    occupant, recording, run,
};
use crate::core::task::ThreadRole;

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
        figures::merge_occupants(&mut sorted, &all);
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
