//! One snapshot for a file or a terminal: everything in tables as wide as they want to be, or the screen as a picture.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    app::{App, Input, Link, Now, data::per_second},
    draw::{
        Look, draw,
        words::{NONE, cpus, ids, percent, rate, span, time},
    },
    svg,
};
use crate::{
    core::view::{Line, Snapshot, Thread},
    report::{escape, many, table::Table},
};

/// All of it as text.
#[must_use]
pub fn text(snapshot: &Snapshot) -> String {
    let mut out = about(snapshot);
    out += &format!("\n{}", nodes(snapshot).aligned(""));
    let groups = groups(snapshot);
    if !groups.is_empty() {
        out += &format!("\n{}", groups.aligned(""));
    }
    out += &format!("\n{}", moves(snapshot));
    if snapshot.threads.is_empty() {
        return out + "\nno thread is managed\n";
    }
    out += &format!("\n{}", threads(snapshot).aligned(""));
    if snapshot.unlisted > 0 {
        out += &format!("and {} more\n", many(snapshot.unlisted, "thread", "s"));
    }
    out
}

/// The screen of so many columns and rows as an SVG document, once `lines` have come.
#[must_use]
pub fn picture(lines: Vec<Line>, link: Link, interval_ms: u64, (columns, rows): (u16, u16)) -> String {
    let mut app = App::new(interval_ms);
    let at = lines.iter().rev().find_map(|line| match line {
        Line::Snapshot(snapshot) => snapshot.status.at.get(11..19).map(str::to_owned),
        _ => None,
    });
    let now = Now { ms: 0, clock: at.unwrap_or_default() };
    app.take(Input::Size(columns, rows), &now);
    app.take(Input::Link(link), &now);
    for line in lines {
        app.take(Input::Line(Box::new(line)), &now);
    }
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
    draw(&app, Look::default(), &mut buffer);
    let host = app.snapshot().map_or("", |snapshot| &snapshot.status.agent.host);
    svg::picture(&buffer, &format!("numa-agent watch on {host}"))
}

fn about(snapshot: &Snapshot) -> String {
    let (agent, counts) = (&snapshot.status.agent, &snapshot.status.counts);
    let mut out = format!(
        "numa-agent {} on {}, {}: {}, {}, up {}\n{} of {}; the last {:.1} s\n",
        escape::text(&agent.version),
        escape::text(&agent.host),
        escape::text(&snapshot.status.at),
        agent.mode(),
        escape::text(&agent.plan()),
        span(agent.uptime),
        many(counts.threads, "thread", "s"),
        many(counts.processes, "process", "es"),
        snapshot.seconds,
    );
    for (kind, count) in &counts.lost {
        out += &format!("LOST: {count} {}\n", escape::text(kind));
    }
    for warning in &snapshot.status.warnings {
        out += &format!("warning: {}\n", escape::text(warning));
    }
    out
}

fn or_none<T>(figure: Option<T>, show: impl Fn(T) -> String) -> String {
    figure.map_or_else(|| NONE.to_owned(), show)
}

fn nodes(snapshot: &Snapshot) -> Table {
    let header = ["SOCKET", "NODE", "CPUS", "BUSY%", "HERE", "PLANNED", "STRANGERS"];
    let mut table = Table::new(&header).figures_from(3);
    for socket in &snapshot.status.sockets {
        for node in &socket.nodes {
            table.row([
                socket.id.to_string(),
                node.id.to_string(),
                if node.cpus.is_empty() { "memory only".to_owned() } else { cpus(&node.cpus) },
                or_none(snapshot.busy(node), percent),
                or_none(node.present.filter(|_| !node.cpus.is_empty()), |count| count.to_string()),
                node.planned.values().sum::<u64>().to_string(),
                or_none(node.strangers.filter(|_| !node.cpus.is_empty()), |count| count.to_string()),
            ]);
        }
    }
    table
}

fn groups(snapshot: &Snapshot) -> Table {
    let mut table = Table::new(&["GROUP", "INSTANCE", "MEMBERS ON", "FORWARD ON", "PROCESSES"]);
    for group in &snapshot.status.groups {
        let process = |process: &crate::core::view::Process| {
            format!("{} {} ({})", escape::text(&process.comm), process.pid, process.threads)
        };
        let processes: Vec<String> = group.processes.iter().map(process).collect();
        table.row([
            escape::text(&group.name),
            or_none(group.instance.as_deref(), escape::text),
            cpus(&group.members.cpus),
            cpus(&group.forward.cpus),
            if processes.is_empty() { NONE.to_owned() } else { processes.join(", ") },
        ]);
    }
    table
}

fn moves(snapshot: &Snapshot) -> String {
    let of = escape::text(&snapshot.matrix_of);
    let Some(moves) = &snapshot.moves else { return "moves are not counted here\n".to_owned() };
    let mut between: Vec<_> = moves.iter().filter(|pair| pair.from != pair.to && pair.count > 0).collect();
    if between.is_empty() {
        return format!("no thread moved from one {of} to another\n");
    }
    between.sort_by_key(|pair| (std::cmp::Reverse(pair.count), pair.from, pair.to));
    let mut table = Table::new(&["FROM", "TO", "MOVES"]).figures_from(2);
    for pair in between {
        table.row([format!("{of} {}", pair.from), format!("{of} {}", pair.to), pair.count.to_string()]);
    }
    table.aligned("")
}

fn threads(snapshot: &Snapshot) -> Table {
    let header = [
        "TID",
        "NAME",
        "PROCESS",
        "ROLE",
        "GROUP",
        "PLANNED ON",
        "OF NODE",
        "CPU",
        "NODE",
        "",
        "CPU%",
        "MOVES/S",
        "OFF%",
        "WAITS",
        "P99",
        "MAX",
        "PREEMPTOR",
    ];
    let mut table = Table::new(&header);
    for thread in &snapshot.threads {
        let waited = thread.waited_ns();
        let planned = thread.planned.as_ref();
        let preemptor = thread.preemptor.as_ref();
        table.row([
            thread.tid.to_string(),
            escape::text(&thread.comm),
            format!("{} {}", escape::text(&thread.process), thread.pid),
            thread.role.name().to_owned(),
            or_none(thread.group.as_deref(), escape::text),
            or_none(planned, |place| cpus(&place.cpus)),
            or_none(planned, |place| ids(&place.nodes)),
            or_none(thread.cpu, |cpu| cpu.to_string()),
            or_none(thread.node, |node| node.to_string()),
            mark(thread).to_owned(),
            or_none(thread.busy_share(snapshot.seconds), percent),
            or_none(per_second(thread.migrations, snapshot.seconds), rate),
            or_none(thread.off_node_share(), percent),
            or_none(thread.waits, |waits| waits.to_string()),
            or_none(waited, |(p99, _)| time(p99)),
            or_none(waited, |(_, longest)| time(longest)),
            or_none(preemptor, |who| escape::text(who.comm.as_deref().unwrap_or("(several)"))),
        ]);
    }
    table
}

/// `!` on a wrong node, `~` on a wrong CPU of the right one.
fn mark(thread: &Thread) -> &'static str {
    let at_home = thread.node.zip(thread.planned.as_ref());
    match at_home.is_some_and(|(node, place)| place.nodes.contains(&node)) {
        _ if !thread.is_off_plan() => "",
        true => "~",
        false => "!",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::synthetic;

    #[test]
    fn text_has_every_node_group_and_listed_thread_whole() {
        let mut lines = synthetic::a3(25);
        let Some(Line::Snapshot(snapshot)) = lines.pop() else { panic!("a snapshot is last") };
        let text = text(&snapshot);
        let row = |begin: &str| {
            text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"))
        };
        for group in &snapshot.status.groups {
            assert!(row(&format!("{} ", group.name)).contains(&group.forward.cpus.to_string()));
        }
        for node in snapshot.status.sockets.iter().flat_map(|socket| &socket.nodes) {
            let cpus = node.cpus.to_string();
            assert!(text.lines().any(|line| line.split_whitespace().nth(2) == Some(&cpus)), "{cpus}");
        }
        for thread in &snapshot.threads {
            let row = row(&format!("{} ", thread.tid));
            assert!(row.contains(&thread.comm) && row.contains(&thread.cpu.unwrap().to_string()), "{row}");
            assert_eq!(row.contains(" ! "), thread.is_off_plan(), "{row}");
        }
        assert!(text.contains("and 134 threads more") && text.contains("node 7  node 0   1200"), "{text}");
        assert!(!text.contains('…'));
    }

    #[test]
    fn what_is_not_measured_is_no_zero() {
        let mut snapshot = synthetic::quiet(&crate::core::preset::a2(), 1);
        (snapshot.load, snapshot.moves) = (None, None);
        snapshot.threads.truncate(1);
        let thread = &mut snapshot.threads[0];
        (thread.cpu, thread.node, thread.planned, thread.waits, thread.run_ns) =
            (None, None, None, None, None);
        (thread.migrations, thread.off_node_ns, thread.preemptor) = (None, None, None);
        let tid = thread.tid.to_string();
        let text = text(&snapshot);
        let row = text.lines().find(|line| line.starts_with(&tid)).unwrap();
        assert_eq!(row.split_whitespace().filter(|word| *word == "-").count(), 11, "{row}");
        assert!(text.contains("moves are not counted here"), "{text}");
    }

    #[test]
    fn the_picture_is_the_screen() {
        let picture = picture(synthetic::a3(3), Link::Agent, 2000, (80, 24));
        assert!(roxmltree::Document::parse(&picture).is_ok());
        for words in ["infer-07", "every 2 s", "12:00:00"] {
            assert!(picture.contains(words), "no {words}");
        }
    }
}
