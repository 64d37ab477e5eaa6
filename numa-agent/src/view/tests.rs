//! The view as a whole: keys and lines in, pictures out.

use proptest::prelude::*;
use ratatui::{
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
    style::{Color, Modifier},
};
use serde_json::json;

use super::{
    app::{App, Effect, Input, Link, Now, Page, Panel, data::KEPT, feed::Kind, id, sort::By},
    draw::{LEAST, Look, draw},
    keys::BINDINGS,
    svg, synthetic,
};
use crate::{
    core::{
        idset::CpuSet,
        jitter::figures::Move,
        preset,
        synthetic::Machine,
        view::{CpuLoad, Line, Place, SCHEMA, Snapshot, Thread},
    },
    report::escape,
};

fn at(second: u64) -> Now {
    Now { ms: second * 1000, clock: format!("12:{:02}:{:02}", second / 60 % 60, second % 60) }
}

fn app(lines: Vec<Line>, columns: u16, rows: u16) -> App {
    let mut app = App::new(1000);
    app.take(Input::Size(columns, rows), &at(0));
    app.take(Input::Link(Link::Agent), &at(0));
    for (second, line) in (0..).zip(lines) {
        app.take(Input::Line(Box::new(line)), &at(second));
    }
    app
}

fn shows(snapshot: Snapshot) -> Vec<Line> {
    vec![Line::Snapshot(Box::new(snapshot))]
}

fn press(app: &mut App, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for name in keys.split(' ').filter(|name| !name.is_empty()) {
        let (name, modifiers) = match name.strip_prefix("ctrl-") {
            Some(rest) => (rest, KeyModifiers::CONTROL),
            None => (name, KeyModifiers::NONE),
        };
        let code = match name {
            "enter" => KeyCode::Enter,
            "esc" => KeyCode::Esc,
            "tab" => KeyCode::Tab,
            "down" => KeyCode::Down,
            "end" => KeyCode::End,
            "space" => KeyCode::Char(' '),
            "backspace" => KeyCode::Backspace,
            letter => KeyCode::Char(letter.chars().next().unwrap()),
        };
        effect = app.take(Input::Key(KeyEvent::new(code, modifiers)), &at(100));
    }
    effect
}

fn type_in(app: &mut App, text: &str) {
    for c in text.chars() {
        app.take(Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)), &at(100));
    }
}

fn drawn_as(app: &App, look: Look) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, app.size.0, app.size.1));
    draw(app, look, &mut buffer);
    buffer
}

fn drawn(app: &App) -> Vec<String> {
    rows(&drawn_as(app, Look::default()))
}

/// What can be read in each row.
fn rows(buffer: &Buffer) -> Vec<String> {
    use unicode_width::UnicodeWidthStr;
    let row = |cells: &[ratatui::buffer::Cell]| {
        let (mut text, mut skip) = (String::new(), 0);
        for cell in cells {
            if skip == 0 {
                text.push_str(cell.symbol());
                skip = cell.symbol().width();
            }
            skip = skip.saturating_sub(1);
        }
        text
    };
    buffer.content.chunks(usize::from(buffer.area.width).max(1)).map(row).collect()
}

/// The row that begins so, but for blanks and marks.
fn row_of<'a>(rows: &'a [String], begin: &str) -> &'a str {
    rows.iter()
        .find(|row| row.trim_start_matches([' ', '▶', '─']).starts_with(begin))
        .unwrap_or_else(|| panic!("no {begin:?} in\n{}", rows.join("\n")))
}

/// Places where two windows of 80 x 24 and 200 x 60 are looked at.
const SIZES: [(u16, u16); 3] = [LEAST, (120, 40), (200, 60)];

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
                let here = format!("{}/{}", node.present, node.planned.values().sum::<u64>());
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
        (thread.preemptor, thread.waits) = (None, 0);
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
    // Plan, place, moves, time off node, waits and preemptor.
    assert_eq!(row.split_whitespace().filter(|word| *word == "-").count(), 7, "{row}");
    assert!(all.contains("not counted here") && all.contains("no plan"), "{all}");
    assert!(row_of(&rows, "s0 n0").contains(" - "), "{all}");
    press(&mut app, "enter");
    let all = drawn(&app).join("\n");
    for words in ["not known yet", "has not run", "- moves between CPUs, - of them", "no wait for a CPU"] {
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

#[test]
fn the_selected_thread_stays_selected_as_the_order_changes() {
    let mut app = app(synthetic::a3(30), 120, 40);
    press(&mut app, "j j j");
    let selected = id(app.rows()[3]);
    press(&mut app, "s s s r");
    let rows = app.rows();
    let cursor = app.cursor(&rows);
    assert_eq!((id(rows[cursor]), app.sort.by, app.sort.reversed), (selected, By::OffNode, true));
    press(&mut app, "S S S");
    assert_eq!((app.sort.by, app.sort.reversed), (By::Trouble, false));
    press(&mut app, "S");
    assert_eq!(app.sort.by, By::Tid);
    let tids: Vec<u32> = app.rows().iter().map(|thread| thread.tid).collect();
    assert!(tids.is_sorted());
}

#[test]
fn figures_are_sorted_from_the_highest_and_what_is_not_measured_comes_last() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 2);
    for (index, thread) in (0_u64..).zip(&mut snapshot.threads) {
        thread.migrations = (index % 3 != 0).then_some(index % 7);
    }
    let mut app = app(shows(snapshot), 120, 40);
    press(&mut app, "s s s s");
    assert_eq!(app.sort.by, By::Moves);
    let moves: Vec<_> = app.rows().iter().map(|thread| thread.migrations).collect();
    assert_eq!(moves[0], Some(6));
    assert!(moves.is_sorted_by_key(|moves| std::cmp::Reverse(*moves)) && moves.ends_with(&[None]));
}

#[test]
fn a_filter_is_typed_and_leaves_what_fits() {
    let mut app = app(synthetic::a3(30), 120, 40);
    let all = app.rows().len();
    press(&mut app, "/");
    type_in(&mut app, "FORWARD s0.g1q");
    assert!(app.rows().is_empty(), "q is a letter here");
    assert!(drawn(&app).join("\n").contains("filter: FORWARD s0.g1q"));
    assert!(drawn(&app).join("\n").contains("No listed thread fits the filter"));
    press(&mut app, "backspace enter");
    let group = |thread: &&Thread| thread.group.as_deref() == Some("socket0_group1");
    assert!(!app.rows().is_empty() && app.rows().iter().all(group));
    assert!(drawn(&app).iter().any(|row| row.contains("with FORWARD s0.g1")));
    press(&mut app, "esc");
    assert_eq!(app.rows().len(), all);
    let listed = |app: &mut App, text: &str| {
        press(app, "/ ctrl-u");
        type_in(app, text);
        press(app, "enter");
        app.rows().into_iter().cloned().collect::<Vec<Thread>>()
    };
    assert!(listed(&mut app, "role:other").iter().all(|thread| thread.group.is_none()));
    assert_eq!(listed(&mut app, "tid:20108").len(), 1);
    let strayed = listed(&mut app, "node:7 group:s0");
    assert!(!strayed.is_empty() && strayed.iter().all(Thread::is_off_plan));
    assert_eq!(listed(&mut app, "name:").len(), all, "half typed");
    press(&mut app, "/");
    assert_eq!(press(&mut app, "ctrl-c"), Some(Effect::Quit));
}

#[test]
fn paused_the_view_stands_and_data_goes_on() {
    let mut lines = synthetic::a3(32);
    let later = lines.split_off(lines.len() - 6);
    let mut app = app(lines, 120, 40);
    let before = drawn(&app);
    press(&mut app, "space");
    for line in later {
        app.take(Input::Line(Box::new(line)), &at(100));
    }
    let paused = drawn(&app);
    assert!(paused[0].contains("PAUSED") && !before[0].contains("PAUSED"));
    assert_eq!(paused[1..], before[1..]);
    press(&mut app, "space");
    assert_ne!(drawn(&app)[1..], before[1..]);
    assert_eq!(app.data().intervals, 32);
}

#[test]
fn a_thread_is_opened_with_its_history_and_what_happened_to_it() {
    let mut app = app(synthetic::a3(40), 120, 60);
    let thread = app.rows()[0].clone();
    press(&mut app, "enter");
    assert_eq!(app.pages, [Page::Thread(id(&thread))]);
    let rows = drawn(&app);
    let all = rows.join("\n");
    let planned = thread.planned.as_ref().unwrap();
    for words in [
        format!("thread {}", thread.tid),
        format!("CPUs {} of node {}", planned.cpus, planned.nodes[0]),
        format!("CPU {} of node {}", thread.cpu.unwrap(), thread.node.unwrap()),
        "! off its nodes".to_owned(),
        "s0.g2 (socket0_group2)   session:21000".to_owned(),
        "worker 21150 (18 threads)".to_owned(),
        thread.preemptor.unwrap().comm.unwrap(),
        "put back on 40-79".to_owned(),
    ] {
        assert!(all.contains(&words), "no {words} in\n{all}");
    }
    // Twenty intervals on its node, twenty off it.
    let row = row_of(&rows, "on node");
    assert!(row.contains(&("1".repeat(20) + &"7".repeat(20))), "{row}");
    assert!(row_of(&rows, "off plan").contains(&"!".repeat(20)));
    press(&mut app, "?");
    assert!(drawn(&app).join("\n").contains("this help"));
    press(&mut app, "esc esc");
    assert!(app.pages.is_empty());
}

#[test]
fn a_page_that_is_longer_than_the_window_scrolls_to_its_end_and_back() {
    let mut app = app(synthetic::a3(3), 80, 24);
    press(&mut app, "?");
    let first = drawn(&app);
    press(&mut app, "end");
    let last = drawn(&app);
    assert!(first.join("\n").contains("quit") && last.join("\n").contains("NO_COLOR"), "{}", last.join("\n"));
    press(&mut app, "k");
    assert_ne!(drawn(&app), last, "one key is enough to get away from the end");
    press(&mut app, "g");
    assert_eq!(drawn(&app), first);
    // Everything that keys do is in it.
    let mut tall = app;
    tall.take(Input::Size(100, 70), &at(3));
    let all = drawn(&tall).join("\n");
    for binding in BINDINGS {
        assert!(all.contains(binding.help), "no {}", binding.help);
    }
}

#[test]
fn an_agent_that_goes_away_leaves_its_history() {
    let mut app = app(synthetic::a3(30), 120, 40);
    app.take(Input::Link(Link::Lost("connection refused".into())), &at(40));
    app.take(Input::Link(Link::Lost("no such file".into())), &at(41));
    app.take(Input::Tick, &at(45));
    let rows = drawn(&app);
    assert!(rows[0].contains("NO AGENT for 5 s"), "{}", rows[0]);
    assert!(rows.iter().any(|row| row.contains("no agent: connection refused")), "said once");
    assert!(rows.iter().any(|row| row.contains("forward_2")));
    app.take(Input::Link(Link::Agent), &at(50));
    let rows = drawn(&app);
    assert!(!rows[0].contains("NO AGENT") && rows.join("\n").contains("connected to the agent"));
    app.take(Input::Link(Link::Own("/run/a.sock".into())), &at(51));
    assert!(drawn(&app)[0].contains("observing: no agent on /run/a.sock"));
}

#[test]
fn an_agent_that_does_not_answer_is_not_live() {
    let mut app = app(synthetic::a3(3), 80, 24);
    let last = app.now.ms / 1000;
    app.take(Input::Tick, &at(last + 3));
    assert!(!drawn(&app)[0].contains("NOT ANSWERING"), "three intervals are not over");
    app.take(Input::Tick, &at(last + 7));
    let rows = drawn(&app);
    assert!(rows[0].contains("NOT ANSWERING for 7 s") && !rows[0].contains("NO AGENT"), "{}", rows[0]);
    app.take(Input::Line(Box::new(synthetic::a3(3).pop().unwrap())), &at(last + 8));
    assert!(!drawn(&app)[0].contains("NOT ANSWERING"));
}

#[test]
fn figures_of_loss_stay_in_sight_and_so_does_how_many_rows_do_not() {
    let mut app = app(synthetic::a3(3), 80, 24);
    app.take(Input::Line(Box::new(Line::Missed { schema: SCHEMA, events: 7 })), &at(9));
    let rows = drawn(&app);
    assert!(rows[1].contains("LOST 7!"), "{}", rows[1]);
    assert!(row_of(&rows, "Threads").contains("rows 1-6"), "{}", row_of(&rows, "Threads"));
}

#[test]
fn a_node_is_red_with_a_thread_that_should_not_be_there_in_every_size() {
    for (columns, height) in SIZES {
        let mut snapshot = synthetic::quiet(&preset::a3(), 16);
        let node = &snapshot.status.sockets[3].nodes[1].clone();
        let reds = |snapshot: &Snapshot| {
            let buffer = drawn_as(&app(shows(snapshot.clone()), columns, height), Look::default());
            let bar = |cell: &&ratatui::buffer::Cell| {
                cell.fg == Color::Red && "▁▂▃▄▅▆▇█▉▊▋▌▍▎▏".contains(cell.symbol())
            };
            let above = rows(&buffer).iter().position(|row| row.contains(" Threads ")).unwrap();
            let map = &buffer.content[..usize::from(columns) * above];
            map.iter().filter(bar).count()
        };
        snapshot.load.iter_mut().flatten().for_each(|load| load.busy = 0.9);
        assert_eq!(reds(&snapshot), 0, "{columns}");
        let cpu = node.cpus.iter().next().unwrap();
        let elsewhere = |thread: &&mut Thread| !thread.planned.as_ref().unwrap().cpus.contains(cpu);
        let stray = snapshot.threads.iter_mut().find(elsewhere).unwrap();
        (stray.cpu, stray.node) = (Some(cpu), Some(node.id));
        assert!(reds(&snapshot) > 0, "{columns}");
    }
}

#[test]
fn intervals_become_shorter_and_longer_within_limits() {
    let mut app = app(synthetic::a3(1), 80, 24);
    assert_eq!(press(&mut app, "+"), Some(Effect::Interval(500)));
    assert_eq!(press(&mut app, "+"), Some(Effect::Interval(200)));
    assert_eq!(press(&mut app, "+"), None);
    assert_eq!(press(&mut app, "- - - - - - -"), Some(Effect::Interval(60_000)));
    assert_eq!((press(&mut app, "-"), app.interval_ms), (None, 60_000));
    app.interval_ms = 1_500;
    assert_eq!(press(&mut app, "+"), Some(Effect::Interval(1_000)));
    assert_eq!(press(&mut app, "q"), Some(Effect::Quit));
    assert_eq!(press(&mut app, "ctrl-z"), Some(Effect::Suspend));
}

#[test]
fn a_panel_alone_and_the_next() {
    let mut app = app(synthetic::a3(30), 80, 24);
    press(&mut app, "z");
    let rows = drawn(&app);
    assert!(rows[2].contains("Threads") && !rows.join("\n").contains("Events"), "{}", rows.join("\n"));
    press(&mut app, "tab");
    assert!(drawn(&app)[2].contains("Events"));
    press(&mut app, "tab tab");
    assert_eq!(app.focus, Panel::Moves);
    assert!(drawn(&app)[2].contains("Moves"));
    press(&mut app, "esc");
    assert!(!app.zoomed);
}

#[test]
fn columns_further_right_come_into_sight() {
    let mut app = app(synthetic::a3(30), 80, 24);
    assert!(!drawn(&app).join("\n").contains("CPU%"));
    press(&mut app, "l l l l l l");
    let rows = drawn(&app);
    let head = rows.iter().find(|row| row.contains("CPU%")).unwrap_or_else(|| panic!("{}", rows.join("\n")));
    assert!(head.contains("TID NAME") && head.contains("PROCESS"), "{head}");
}

#[test]
fn events_say_who_did_what() {
    let bound = |result: &str, caller: bool| {
        let mut event = json!({
            "event": "bound", "tid": 20108, "start_time": 20108, "comm": "forward_2", "cpus": "40-79", "cause": "setaffinity",
            "result": result, "latency_us": 41.5,
        });
        if caller {
            event["caller"] = json!({ "pid": 7, "tid": 9, "comm": "omp" });
        }
        synthetic::event(&event)
    };
    let mut app = app(synthetic::a3(3), 120, 40);
    let told = |app: &mut App, line: Line| {
        let before = app.data().feed.total;
        app.take(Input::Line(Box::new(line)), &at(50));
        (app.data().feed.total > before).then(|| app.data().feed.newest(0).unwrap().clone())
    };
    assert_eq!(told(&mut app, bound("unchanged", false)), None);
    let repinned = told(&mut app, bound("bound", true)).unwrap();
    assert_eq!(repinned.kind, Kind::Repinned);
    assert_eq!(repinned.text, "forward_2 (20108) by omp (9); put back on 40-79, 42 us after it");
    assert_eq!(told(&mut app, bound("failed: EPERM", false)).unwrap().kind, Kind::Failed);
    let moved = json!({ "event": "migrated", "pid": 1, "tid": 20108, "from_cpu": 41, "to_cpu": 300, "from_node": 1, "to_node": 7 });
    let moved = told(&mut app, synthetic::event(&moved)).unwrap();
    assert!(moved.text.contains("(20108) node 1 -> 7, CPU 41 -> 300"), "{}", moved.text);
    assert!(moved.text.starts_with("forward_"), "its name is known: {}", moved.text);
    assert_eq!(moved.task.unwrap().tid, 20108);
    // The same again counts.
    let again = told(&mut app, bound("bound", true)).unwrap();
    let again = (again.times, told(&mut app, bound("bound", true)).unwrap().times);
    assert_eq!(again, (1, 2));
    let missed = told(&mut app, Line::Missed { schema: SCHEMA, events: 7 }).unwrap();
    assert!(missed.kind == Kind::Lost && app.data().missed == 7);
    assert!(drawn(&app)[1].contains("LOST 7!"));
    assert!(told(&mut app, synthetic::event(&json!({ "event": "of tomorrow" }))).is_some());
    assert!(told(&mut app, synthetic::event(&json!(3))).is_some());
    // On the event, enter opens the thread.
    told(&mut app, bound("bound", true));
    press(&mut app, "tab enter");
    assert!(matches!(app.pages[..], [Page::Thread(task)] if task.tid == 20108));
}

#[test]
fn many_that_leave_their_cpus_at_once_are_one_event() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 2);
    let mut app = app(shows(snapshot.clone()), 120, 40);
    let drifted = |app: &App| app.data().feed.iter().filter(|entry| entry.kind == Kind::Drifted).count();
    for thread in &mut snapshot.threads {
        thread.cpu = thread.cpu.map(|cpu| (cpu + 160) % 320);
    }
    app.take(Input::Line(Box::new(Line::Snapshot(Box::new(snapshot.clone())))), &at(2));
    assert_eq!(drifted(&app), 1);
    app.take(Input::Line(Box::new(Line::Snapshot(Box::new(snapshot)))), &at(3));
    assert_eq!(drifted(&app), 1, "said when it begins");
}

#[test]
fn history_is_bounded() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 16);
    let mut app = App::new(1000);
    for turn in 0..300_u64 {
        for thread in snapshot.threads.iter_mut().skip(20) {
            thread.start_time += 1;
        }
        app.take(Input::Line(Box::new(Line::Snapshot(Box::new(snapshot.clone())))), &at(turn));
    }
    let stays = app.data().track(id(&snapshot.threads[0])).unwrap();
    assert_eq!(stays.samples.len(), KEPT);
    let old = crate::core::task::TaskId {
        tid: snapshot.threads[30].tid,
        start_time: snapshot.threads[30].start_time - 20,
    };
    assert!(app.data().track(old).is_none());
}

#[test]
fn those_who_had_the_cpu_are_bounded_and_none_is_forgotten() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 1);
    snapshot.threads.truncate(1);
    let mut app = App::new(1000);
    for turn in 0..200_u64 {
        let preemptor = json!({ "comm": format!("worker-{turn}"), "ns": turn + 1, "count": 1 });
        snapshot.threads[0].preemptor = serde_json::from_value(preemptor).unwrap();
        app.take(Input::Line(Box::new(Line::Snapshot(Box::new(snapshot.clone())))), &at(turn));
    }
    let track = app.data().track(id(&snapshot.threads[0])).unwrap();
    assert!(track.preemptors.len() <= 33 && track.preemptors.contains_key(&Some("worker-199".into())));
    assert_eq!(track.preemptors.values().map(|(ns, _)| ns).sum::<u64>(), 200 * 201 / 2);
}

#[test]
fn without_colours_and_without_unicode_all_is_said() {
    let app = app(synthetic::a3(30), 120, 40);
    let plain = drawn_as(&app, Look { colour: false, unicode: false });
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let all = rows(&plain).join("");
    assert!(all.is_ascii() && all.contains("off plan!") && all.contains('#'));
    let colourful = drawn_as(&app, Look::default());
    // The terminal's background is left alone, whatever it is; so are its white and black.
    let used: std::collections::BTreeSet<String> =
        colourful.content.iter().map(|cell| cell.fg.to_string()).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["Cyan", "Green", "Magenta", "Red", "Reset"]);
    assert!(colourful.content.iter().all(|cell| cell.bg == Color::Reset));
    assert!(plain.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
}

#[test]
fn a_picture_has_every_word_of_the_screen() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 3);
    snapshot.status.agent.host = "<a&\"b>模型".into();
    let app = app(shows(snapshot), 120, 40);
    let buffer = drawn_as(&app, Look::default());
    let picture = svg::picture(&buffer, "x<y");
    let document = roxmltree::Document::parse(&picture).unwrap();
    let words: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    let said = words.join(" ");
    for word in rows(&buffer).join(" ").split_whitespace() {
        let word = word.trim_matches(['─', '█', '·', '▶']);
        let is_shape = word.chars().all(|c| ('\u{2580}'..='\u{259f}').contains(&c));
        assert!(is_shape || said.contains(word), "{word}");
    }
    let number = |name: &str| document.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (number("width"), number("height"));
    for node in document.descendants().filter(|node| node.has_tag_name("text") || node.has_tag_name("rect")) {
        let of = |name: &str| node.attribute(name).map_or(0.0, |value| value.parse::<f64>().unwrap());
        let right = of("x") + of("textLength") + of("width");
        assert!(of("x") >= 0.0 && right <= width && of("y") + of("height") <= height, "{node:?}");
    }
}

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
            run_ns,
            off_node_ns: off,
            migrations: moves,
            node_migrations: moves,
            waits,
            wait_p99_ns: wait,
            wait_max_ns: wait,
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
            snapshot.status.sockets[0].nodes[0].present = counts[3];
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
