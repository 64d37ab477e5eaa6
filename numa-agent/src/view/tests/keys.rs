//! What keys do.

use super::*;

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
fn a_filter_that_cannot_fit_says_why() {
    let mut app = app(synthetic::a3(30), 80, 24);
    for (text, words) in [("node:x", "node: wants a number"), ("colour:red", "colour: is none of name, p")] {
        press(&mut app, "/ ctrl-u");
        type_in(&mut app, text);
        let rows = drawn(&app);
        assert!(rows[23].contains(words) && rows[23].contains(text), "{}", rows[23]);
        press(&mut app, "enter");
        let rows = drawn(&app);
        assert!(rows[..23].iter().any(|row| row.contains(words)), "{}", rows.join("\n"));
    }
}

#[test]
fn events_are_filtered_in_their_panel_and_threads_are_not() {
    let mut app = app(synthetic::a3(30), 80, 24);
    let (threads, events) = (app.rows().len(), app.events().count());
    press(&mut app, "tab /");
    type_in(&mut app, "kind:re-pin group:s0.g2");
    assert!(drawn(&app)[23].starts_with("filter events: kind:re-pin group:s0.g2"), "{}", drawn(&app)[23]);
    press(&mut app, "enter");
    let left: Vec<_> = app.events().collect();
    assert!(!left.is_empty() && left.len() < events && left.iter().all(|entry| entry.kind == Kind::Repinned));
    assert!(left[0].text.starts_with("forward_"), "{}", left[0].text);
    assert_eq!(app.rows().len(), threads);
    let rows = drawn(&app);
    let head = row_of(&rows, "Events");
    assert!(head.contains(&format!("Events {} of the last {events} with kind:re-pin", left.len())), "{head}");
    press(&mut app, "enter");
    assert!(matches!(app.pages[..], [Page::Thread(_)]), "the thread of the first that fits");
    press(&mut app, "esc esc");
    assert_eq!(app.events().count(), events);
    press(&mut app, "/");
    type_in(&mut app, "tid:1 kind:lost");
    press(&mut app, "enter");
    assert!(drawn(&app).join("\n").contains("No event fits the filter"));
}

#[test]
fn an_event_that_the_cursor_is_on_is_there_whole() {
    let mut app = app(synthetic::a3(30), 80, 24);
    let warning =
        format!("cgroup /kubepods/{}/x allows few CPUs, and this is the_very_end", "pod7".repeat(30));
    for text in [&warning, "another one"] {
        let event = synthetic::event(&json!({ "event": "warning", "warning": text }));
        app.take(Input::Line(Box::new(event)), &at(31));
    }
    let whole = |app: &App| drawn(app).iter().any(|row| row.trim_end().ends_with("the_very_end"));
    let pods = |app: &App| drawn(app).join("").matches("pod7").count();
    assert!(!whole(&app), "the panel has no cursor");
    press(&mut app, "tab");
    assert!(!whole(&app), "it is on the newest");
    press(&mut app, "j");
    assert!(whole(&app) && pods(&app) >= 26, "{}", drawn(&app).join("\n"));
    press(&mut app, "g z");
    assert!(whole(&app), "each is whole where there is nothing else");
    // In a thread's page too.
    let thread = id(app.rows()[0]);
    let event =
        json!({ "event": "odd", "tid": thread.tid, "start_time": thread.start_time, "words": warning });
    app.take(Input::Line(Box::new(synthetic::event(&event))), &at(32));
    press(&mut app, "g enter end");
    assert_eq!(app.pages, [Page::Thread(thread)]);
    assert!(drawn(&app).join("").contains("the_very_end"), "{}", drawn(&app).join("\n"));
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
    // No further than there is something, and back where there is room.
    press(&mut app, "l l l l l l l l l l l l");
    let most = app.column;
    let rows = drawn(&app);
    assert!(rows.iter().any(|row| row.contains("CPU%") && row.contains("PROCESS")), "{}", rows.join("\n"));
    app.take(Input::Size(200, 60), &at(40));
    assert!(
        app.column == 0
            && most > 0
            && drawn(&app).iter().any(|row| row.contains("NAME") && row.contains("PLAN"))
    );
}
