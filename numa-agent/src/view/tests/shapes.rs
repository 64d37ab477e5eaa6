//! Machines and windows of every shape.

use super::*;

#[test]
fn all_of_an_a3_is_there_in_a_small_window_and_in_a_large_one() {
    for (columns, height) in SIZES {
        let app = app(synthetic::a3(30), columns, height);
        let rows = drawn(&app);
        let all = rows.join("\n");
        let snapshot = app.snapshot().unwrap();
        for socket in &snapshot.status.sockets {
            let [first, second] = socket.nodes.as_slice() else { panic!("two nodes") };
            let members = row_of(&rows, &format!("s{} n{}", socket.id, first.id));
            let forward = rows.iter().find(|row| row.starts_with(&format!("   n{} ", second.id)));
            let forward = forward.unwrap_or_else(|| panic!("no n{} in\n{all}", second.id));
            for node in [first, second] {
                let here = format!("{}/{}", node.present.unwrap(), node.planned.values().sum::<u64>());
                let row = if node.id == first.id { members } else { forward };
                assert!(row.contains(&here), "{here} in {row}");
            }
            assert!(forward.contains("%"), "{forward}");
            let groups = snapshot.status.groups.iter().filter(|group| group.socket == socket.id);
            for (index, group) in groups.enumerate() {
                let name = match &group.instance {
                    Some(_) => format!("g{index}"),
                    None => format!("(g{index})"),
                };
                assert!(forward.contains(&name), "{name} in {forward}");
                assert!(members.contains(&name) || members.contains("g0-3"), "{name} in {members}");
            }
        }
        assert!(row_of(&rows, "s2 n4").contains("others"));
        // The matrix's corners.
        let head = rows.iter().find(|row| row.contains("↓→")).unwrap_or_else(|| panic!("{all}"));
        assert!(head.trim_end().ends_with("n7"), "{head}");
        let moves = |from: u32, to: u32| -> u64 {
            let moves = snapshot.moves.iter().flatten();
            moves.filter(|pair| (pair.from, pair.to) == (from, to)).map(|pair| pair.count).sum()
        };
        let matrix = |from: u32| {
            let left = head.split("↓→").next().unwrap().chars().count();
            let row = rows
                .iter()
                .find(|row| row.chars().skip(left).collect::<String>().starts_with(&format!("n{from} ")));
            let row: String =
                row.unwrap_or_else(|| panic!("no n{from} in\n{all}")).chars().skip(left).collect();
            row.split_whitespace().skip(1).take(8).map(str::to_owned).collect::<Vec<_>>()
        };
        let (first, last) = (matrix(0), matrix(7));
        assert_eq!([first[0].clone(), first[7].clone()], [moves(0, 0), moves(0, 7)].map(|n| n.to_string()));
        assert_eq!([last[0].as_str(), last[7].as_str()], ["1k", &moves(7, 7).to_string()]);
        assert_eq!((first[1].as_str(), moves(7, 0)), ("·", 1200));
        // The threads in most trouble, whole.
        let listed = app.rows();
        for thread in &listed[..4] {
            let row = row_of(&rows, &thread.tid.to_string());
            let place = format!("n{}:{}", thread.node.unwrap(), thread.cpu.unwrap());
            assert!(row.contains(&thread.comm) && row.contains(&place), "{row}");
            assert_eq!(row.contains(&format!("{place}!")), thread.is_off_plan(), "{row}");
        }
        assert!(listed[0].is_off_plan());
        for words in ["infer-07", "enforcing", "paired", "off plan!", "every 1 s", "q quit", "moved"] {
            assert!(all.contains(words), "no {words} in\n{all}");
        }
    }
}

/// Rows of the table of threads in sight.
fn listed(rows: &[String], app: &App) -> usize {
    let tids: Vec<String> = app.rows().iter().map(|thread| thread.tid.to_string()).collect();
    rows.iter()
        .filter(|row| row.split_whitespace().next().is_some_and(|tid| tids.iter().any(|t| t == tid)))
        .count()
}

#[test]
fn without_moves_threads_have_their_room_in_a_small_window() {
    let quiet = || Line::Snapshot(Box::new(synthetic::quiet(&preset::a3(), 15)));
    let mut app = app(vec![quiet()], 80, 24);
    let rows = drawn(&app);
    assert!(rows[2].contains("Nodes 8") && rows[2].contains("Moves: 0 between nodes"), "{}", rows[2]);
    assert!(listed(&rows, &app) >= 9, "{}", rows.join("\n"));
    for socket in &app.snapshot().unwrap().status.sockets {
        let row = row_of(&rows, &format!("s{} n{}", socket.id, socket.nodes[0].id));
        for node in &socket.nodes {
            let here = format!("{}/{}", node.present.unwrap(), node.planned.values().sum::<u64>());
            assert!(row.contains(&format!("n{} ", node.id)) && row.contains(&here), "{here} in {row}");
        }
        let groups = if socket.id == 3 { "g0-2 (g3)" } else { "g0-3" };
        assert!(row.contains(&format!("fwd {groups}")) && row.matches('%').count() == 2, "{row}");
    }
    // One move, and the matrix is there, for a while.
    let mut moves = synthetic::quiet(&preset::a3(), 15);
    moves.moves.as_mut().unwrap().push(Move { from: 0, to: 7, count: 3 });
    app.take(Input::Line(Box::new(Line::Snapshot(Box::new(moves)))), &at(2));
    let has_matrix = |app: &App| drawn(app).iter().any(|row| row.contains("↓→"));
    assert!(has_matrix(&app));
    for _ in 0..59 {
        app.take(Input::Line(Box::new(quiet())), &at(3));
    }
    assert!(has_matrix(&app), "it does not jump about");
    app.take(Input::Line(Box::new(quiet())), &at(3));
    assert!(!has_matrix(&app));
    // Who asks for it has it.
    press(&mut app, "tab tab tab");
    assert_eq!(app.focus, Panel::Moves);
    assert!(has_matrix(&app));
    press(&mut app, "tab");
    app.take(Input::Size(120, 40), &at(3));
    assert!(has_matrix(&app), "there is room");
}

#[test]
fn memory_only_nodes_say_so_and_how_much() {
    let mut snapshot =
        synthetic::quiet(&Machine { memory_only_nodes: vec![1], ..Machine::default() }.topology(), 1);
    snapshot.status.sockets[0].nodes[1].memory_bytes = Some(64 << 30);
    for (columns, rows) in SIZES {
        let rows = drawn(&app(shows(snapshot.clone()), columns, rows));
        let row = rows.iter().find(|row| row.contains("n1 ")).unwrap();
        assert!(row.contains("mem") && !row.contains("0/0") && !row.contains('%'), "{row}");
    }
    let text = crate::view::once::text(&snapshot);
    assert!(
        text.lines().any(|line| line.contains("memory only") && line.matches(" -").count() == 3),
        "{text}"
    );
}

#[test]
fn what_has_no_room_is_cut_with_an_ellipsis_and_panels_keep_to_their_places() {
    let mut app = app(synthetic::a3(30), 80, 24);
    let long = "a_warning_without_end ".repeat(20);
    let event = synthetic::event(&json!({ "event": "warning", "warning": long }));
    app.take(Input::Line(Box::new(event)), &at(31));
    let rows = drawn(&app);
    let row = rows.iter().find(|row| row.contains("a_warning")).unwrap();
    assert!(row.ends_with('…') && row.chars().count() == 80, "{row}");
    // Between the map and the matrix, and beside the events of a wide screen, is nothing.
    let column = |rows: &[String], column: usize, lines: std::ops::Range<usize>| -> String {
        lines.map(|row| rows[row].chars().nth(column).unwrap()).collect()
    };
    let left = rows.iter().find_map(|row| row.find("↓→").map(|at| row[..at].chars().count())).unwrap();
    assert_eq!(column(&rows, left - 1, 2..12).trim(), "", "{}", rows.join("\n"));
}

#[test]
fn wide_screens_have_a_cell_for_each_cpu_and_a_line_for_each_group() {
    let app = app(synthetic::a3(30), 200, 60);
    let rows = drawn(&app);
    let levels = ["▁", "▂", "▃", "▄", "▅", "▆", "▇"];
    let row = row_of(&rows, "s3 n6");
    assert_eq!(row.chars().filter(|c| levels.contains(&c.to_string().as_str())).count(), 40, "{row}");
    for group in &app.snapshot().unwrap().status.groups {
        // A free one takes no room from threads; its node names it in brackets.
        let Some(line) = group.instance.as_deref() else { continue };
        let cpus = group.members.cpus.to_string();
        assert!(rows.iter().any(|row| row.contains(line) && row.contains(&cpus)), "{}", group.name);
    }
}

#[test]
fn machines_of_every_shape_fit_in_a_small_window() {
    let sparse = Machine {
        sockets: 4,
        nodes_per_socket: 2,
        node_ids: vec![0, 3, 8, 17, 64, 100, 252, 1023],
        socket_ids: vec![0, 36, 180, 8442],
        memory_only_nodes: vec![1, 2000],
        ..Machine::default()
    };
    let many = Machine { sockets: 32, ..Machine::default() };
    let one = Machine::default();
    let snc = Machine { sockets: 2, nodes_per_socket: 4, ..Machine::default() };
    for (name, machine) in [("sparse", sparse), ("32 sockets", many), ("one node", one), ("snc", snc)] {
        let topology = machine.topology();
        for (columns, height) in SIZES {
            let app = app(shows(synthetic::quiet(&topology, 3)), columns, height);
            let rows = drawn(&app);
            let all = rows.join("\n");
            for node in &topology.nodes {
                let name = format!("n{} ", node.id);
                assert!(rows.iter().any(|row| row.contains(&name)), "{name}in {columns} x {height}:\n{all}");
            }
            assert!(!all.contains("not in sight"), "{name}: {all}");
        }
    }
    let memory = Machine { memory_only_nodes: vec![1], ..Machine::default() };
    let rows = drawn(&app(shows(synthetic::quiet(&memory.topology(), 1)), 80, 24));
    assert!(rows.iter().any(|row| row.contains("n1") && row.contains("memory ")), "{}", rows.join("\n"));
}

#[test]
fn a_node_out_of_sight_is_counted_and_the_cursor_finds_it() {
    let topology = Machine { sockets: 64, ..Machine::default() }.topology();
    let mut app = app(shows(synthetic::quiet(&topology, 2)), 80, 24);
    assert!(drawn(&app).iter().any(|row| row.contains("not in sight")));
    press(&mut app, "tab tab");
    assert_eq!(app.focus, Panel::Nodes);
    press(&mut app, "end");
    assert!(drawn(&app).iter().any(|row| row.contains("n63")), "{}", drawn(&app).join("\n"));
    press(&mut app, "enter");
    assert_eq!((app.filter.text(), app.focus), ("node:63", Panel::Threads));
}

fn nothing_measured() -> Snapshot {
    let mut snapshot = synthetic::quiet(&preset::a3(), 2);
    (snapshot.load, snapshot.moves, snapshot.status.others) = (None, None, None);
    snapshot.status.agent.policy = None;
    for thread in &mut snapshot.threads {
        (thread.planned, thread.cpu, thread.node) = (None, None, None);
        (thread.off_node_ns, thread.migrations, thread.node_migrations) = (None, None, None);
        (thread.preemptor, thread.run_ns) = (None, None);
        (thread.waits, thread.wait_p99_ns, thread.wait_max_ns) = (None, None, None);
    }
    for node in snapshot.status.sockets.iter_mut().flat_map(|socket| &mut socket.nodes) {
        (node.present, node.strangers) = (None, None);
    }
    snapshot
}

#[test]
fn what_is_not_measured_is_no_zero() {
    let mut app = app(shows(nothing_measured()), 120, 40);
    let rows = drawn(&app);
    let all = rows.join("\n");
    let tid = app.rows()[0].tid.to_string();
    let row = row_of(&rows, &tid);
    // Plan, place, moves, time off node, waits, preemptor and CPU time.
    assert_eq!(row.split_whitespace().filter(|word| *word == "-").count(), 8, "{row}");
    assert!(all.contains("not counted here") && all.contains("no plan"), "{all}");
    let row = row_of(&rows, "s0 n0");
    assert!(row.contains(" - ") && row.contains(" -/"), "{row}");
    press(&mut app, "enter");
    let all = drawn(&app).join("\n");
    for words in [
        "not known yet",
        "has not run",
        "- moves between CPUs, - of them",
        "ran - (- % of the time)",
        "- waits for a CPU",
    ] {
        assert!(all.contains(words), "no {words} in\n{all}");
    }
}

#[test]
fn names_of_others_are_no_commands_and_keep_the_columns() {
    for evil in ["\u{1b}[2J\u{9b}31m\u{7}", "a\u{200b}\u{202e}b\n\tc", "模型服务进", "", "ｗｉｄｅ"]
    {
        let mut snapshot = synthetic::quiet(&preset::a3(), 2);
        for thread in &mut snapshot.threads {
            (thread.comm, thread.process, thread.group) = (evil.into(), evil.into(), Some(evil.into()));
            thread.preemptor =
                Some(crate::core::jitter::figures::Occupant { comm: Some(evil.into()), ns: 1, count: 1 });
        }
        for group in &mut snapshot.status.groups {
            (group.name, group.instance) = (evil.into(), Some(evil.into()));
        }
        (snapshot.status.agent.host, snapshot.status.warnings) =
            (evil.into(), vec![evil.into(), evil.into()]);
        let mut app = app(shows(snapshot), 200, 60);
        let event = json!({ "event": "warning", "warning": evil, "tid": 3 });
        app.take(Input::Line(Box::new(synthetic::event(&event))), &at(2));
        for keys in ["", "enter"] {
            press(&mut app, keys);
            let buffer = drawn_as(&app, Look::default());
            for cell in &buffer.content {
                assert!(!cell.symbol().chars().any(escape::is_hidden), "{:?}", cell.symbol());
            }
        }
        press(&mut app, "esc");
        let rows = rows(&drawn_as(&app, Look { unicode: false, colour: true }));
        let column = rows.iter().find_map(|row| row.find("PLAN")).unwrap();
        let listed = app.rows();
        for thread in &listed[..3] {
            let row = row_of(&rows, &thread.tid.to_string());
            let plan = format!("n{}", thread.planned.as_ref().unwrap().nodes[0]);
            assert!(row.is_ascii() && row[column..].starts_with(&plan), "{row}");
        }
    }
}

#[test]
fn before_anything_came_and_in_a_window_that_is_too_small() {
    let mut empty = app(Vec::new(), 80, 24);
    assert!(drawn(&empty).join("\n").contains("end of the first interval (1 s)"));
    let why = "/run/numa-agent/agent.sock: No such file or directory";
    empty.take(Input::Link(Link::Lost(why.into())), &at(3));
    assert!(drawn(&empty).join("\n").contains(why));
    let refused = Line::Error { schema: SCHEMA, error: "too many viewers".into() };
    empty.take(Input::Link(Link::Agent), &at(3));
    empty.take(Input::Line(Box::new(refused)), &at(3));
    assert!(drawn(&empty).join("\n").contains("too many viewers"));
    let small = app(synthetic::a3(2), 60, 20);
    let rows = drawn(&small);
    assert!(rows[0].contains("60 x 20") && rows[1].contains("80 x 24"), "{rows:?}");
}

/// A thread that moves between nodes, and a CPU with one that should not be there, are told from others without colours.
#[test]
fn trouble_shows_in_the_signs_themselves() {
    let told = |change: &dyn Fn(&mut Thread)| {
        let mut snapshot = synthetic::quiet(&preset::a3(), 2);
        for thread in &mut snapshot.threads {
            (thread.cpu, thread.node) = (None, None);
            (thread.migrations, thread.node_migrations) = (Some(3), Some(0));
        }
        change(&mut snapshot.threads[0]);
        drawn(&app(shows(snapshot), 200, 60)).join("\n")
    };
    let calm = told(&|_| {});
    assert!(!calm.contains("3.0!"), "{calm}");
    let between_nodes = told(&|thread| thread.node_migrations = Some(1));
    assert_eq!(between_nodes.matches("3.0!").count(), 1, "{between_nodes}");
    // On a CPU of another socket.
    let astray = told(&|thread| {
        let cpu = if thread.planned.as_ref().unwrap().cpus.contains(0) { 319 } else { 0 };
        (thread.cpu, thread.node) = (Some(cpu), Some(cpu / 40));
    });
    let load_of_nodes = |text: &str| {
        let nodes =
            text.lines().filter(|line| line.trim_start().starts_with(['s', 'n']) && line.contains('%'));
        nodes.map(|line| line.split('%').next().unwrap().matches('!').count()).sum::<usize>()
    };
    assert_eq!((load_of_nodes(&calm), load_of_nodes(&astray)), (0, 1), "{astray}");
}
