//! Whatever comes, in whatever order.

use super::*;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_0-9:]{0,15}",
        any::<String>(),
        Just("socket0_group1".to_owned()),
        Just("\u{1b}]0;x\u{7}".to_owned())
    ]
}

fn thread() -> impl Strategy<Value = Thread> {
    let place = || (prop::collection::vec(0_u32..400, 0..9), prop::collection::vec(any::<u32>(), 0..3));
    let figures = (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>(), 0_u64..3, any::<u64>());
    (1_u32..9, name(), prop::option::of(name()), prop::option::of(place()), any::<Option<u32>>(), figures)
        .prop_map(|(tid, comm, group, planned, cpu, (run_ns, off, moves, waits, wait))| Thread {
            pid: tid,
            tid,
            start_time: 1,
            process: comm.clone(),
            preemptor: group.clone().map(|comm| crate::core::jitter::figures::Occupant {
                comm: Some(comm),
                ns: u64::MAX,
                count: wait,
            }),
            comm,
            role: crate::core::task::ThreadRole::Forward,
            group,
            planned: planned.map(|(cpus, nodes)| Place { cpus: cpus.into_iter().collect::<CpuSet>(), nodes }),
            cpu,
            node: cpu.map(|cpu| cpu % 11),
            run_ns: off.map(|_| run_ns),
            off_node_ns: off,
            migrations: moves,
            node_migrations: moves,
            waits: off.map(|_| waits),
            wait_p99_ns: Some(wait),
            wait_max_ns: moves.map(|_| wait),
        })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let machine = (1_u32..40, 1_u32..4, 1_u32..30, 0_usize..9, prop::collection::vec(3000_u32..4000, 0..3));
    let figures = (any::<f64>(), any::<Option<f64>>(), any::<[u64; 4]>());
    (machine, prop::collection::vec(thread(), 0..40), figures, name()).prop_map(
        |((sockets, nodes_per_socket, cores_per_node, instances, mut memory), threads, figures, name)| {
            memory.sort_unstable();
            memory.dedup();
            let machine = Machine {
                sockets,
                nodes_per_socket,
                cores_per_node,
                memory_only_nodes: memory,
                ..Machine::default()
            };
            let mut snapshot = synthetic::quiet(&machine.topology(), instances);
            let (seconds, busy, counts) = figures;
            (snapshot.seconds, snapshot.status.agent.uptime, snapshot.unlisted) =
                (seconds, seconds, counts[0]);
            snapshot.load = busy.map(|busy| (0..50).map(|cpu| CpuLoad { cpu, busy }).collect());
            let count = counts[1] / 4;
            snapshot.moves =
                busy.map(|_| vec![Move { from: 0, to: 1, count }, Move { from: 9999, to: 0, count }]);
            snapshot.status.counts.threads = counts[2];
            snapshot.status.sockets[0].nodes[0].present = busy.map(|_| counts[3]);
            snapshot.status.warnings = vec![name.clone(); instances % 3];
            for group in &mut snapshot.status.groups {
                group.instance = (counts[0] % 2 == 0).then(|| name.clone());
            }
            if instances % 2 == 0 {
                snapshot.threads = threads;
            }
            snapshot
        },
    )
}

fn key() -> impl Strategy<Value = KeyEvent> {
    let bound = prop::sample::select(BINDINGS.iter().flat_map(|binding| binding.keys).collect::<Vec<_>>());
    let bound = bound.prop_map(|key| {
        let modifiers = if key.ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
        KeyEvent::new(key.code, modifiers)
    });
    let typed = any::<char>().prop_map(|c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
    prop_oneof![4 => bound, 1 => typed]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => key().prop_map(Input::Key),
        2 => snapshot().prop_map(|snapshot| Input::Line(Box::new(Line::Snapshot(Box::new(snapshot))))),
        1 => (1_u16..250, 1_u16..80).prop_map(|(columns, rows)| Input::Size(columns, rows)),
        1 => name().prop_map(|warning| Input::Line(Box::new(synthetic::event(&json!({ "event": "warning", "warning": warning }))))),
        1 => name().prop_map(|why| Input::Link(Link::Lost(why))),
        1 => Just(Input::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_comes_can_be_drawn(
        (columns, rows) in (1_u16..250, 1_u16..80),
        inputs in prop::collection::vec(input(), 1..24),
        unicode in any::<bool>(),
    ) {
        let mut app = app(Vec::new(), columns, rows);
        for (second, input) in (0..).zip(inputs) {
            app.take(input, &at(second));
            // A cell that is not in the buffer would be a panic.
            let buffer = drawn_as(&app, Look { colour: true, unicode });
            for cell in &buffer.content {
                prop_assert!(!cell.symbol().chars().any(|c| c != ' ' && escape::is_hidden(c)), "{:?}", cell.symbol());
            }
        }
    }
}
