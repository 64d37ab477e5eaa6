//! What the agent tells, and that it does not.

use super::*;

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
    assert!(row_of(&rows, "Threads").contains("rows 1-9"), "{}", row_of(&rows, "Threads"));
}

#[test]
fn a_node_is_red_with_a_thread_that_should_not_be_there_in_every_size() {
    for (columns, height) in SIZES {
        let mut snapshot = synthetic::quiet(&preset::a3(), 16);
        let node = &snapshot.status.sockets[3].nodes[1].clone();
        let reds = |snapshot: &Snapshot| {
            let buffer = drawn_as(&app(shows(snapshot.clone()), columns, height), Look::default());
            let bar = |cell: &&ratatui::buffer::Cell| {
                cell.fg == Color::Red && "!▁▂▃▄▅▆▇█▉▊▋▌▍▎▏".contains(cell.symbol())
            };
            let above = rows(&buffer).iter().position(|row| row.contains(" Threads ")).unwrap();
            // Below the first two lines, which count them.
            let map = &buffer.content[usize::from(columns) * 2..usize::from(columns) * above];
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
        (app.data().feed.total > before).then(|| app.events().next().unwrap().clone())
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
