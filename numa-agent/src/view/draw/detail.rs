//! One thread: where it belongs and is, what it did interval by interval, who had the CPU while it waited, what happened to it.

use std::cmp::Reverse;

use ratatui::style::Style;

use super::{
    Styled,
    pen::{BAD, BOLD, DIM, GOOD, NOTE, PLAIN, TITLE, fitting, level, wait_level, width},
    threads::trend_style,
    words::{NONE, cpus, group_short, ids, interval, percent, rate, time},
};
use crate::{
    core::{
        task::TaskId,
        view::{Group, Thread},
    },
    report::many,
    view::app::{
        App,
        data::{Sample, Track},
    },
};

/// Columns of what a line is about.
const LABEL: usize = 13;
/// Columns of the figures behind a history.
const FIGURES: usize = 26;

/// The page.
#[must_use]
pub fn lines(app: &App, task: TaskId, width: usize) -> Vec<Styled> {
    let Some((track, thread)) = app.data().track(task).and_then(|t| Some((t, t.last.as_deref()?))) else {
        return vec![vec![(format!("Thread {} is not known any more.", task.tid), NOTE)]];
    };
    let mut lines = vec![heading(thread)];
    lines.extend(ended(app, track));
    lines.push(Vec::new());
    place(app, thread, width, &mut lines);
    lines.push(Vec::new());
    last(app, thread, &mut lines);
    lines.push(Vec::new());
    history(app, track, width, &mut lines);
    lines.push(Vec::new());
    preemptors(track, width, &mut lines);
    events(app, task, width, &mut lines);
    lines
}

/// That the figures are old, if they are.
fn ended(app: &App, track: &Track) -> Option<Styled> {
    let last = track.samples.back().map_or(0, |sample| sample.interval);
    let ago = app.data().intervals.saturating_sub(last);
    let text = format!("Ended, or not listed any more: figures as of {} ago", many(ago, "interval", "s"));
    (ago > 0).then(|| vec![(text, NOTE)])
}

fn heading(thread: &Thread) -> Styled {
    vec![
        (thread.comm.clone(), TITLE),
        (format!("   thread {}   {} thread of ", thread.tid, thread.role.name()), PLAIN),
        (format!("{} {}", thread.process, thread.pid), BOLD),
    ]
}

fn labelled(label: &str, rest: impl IntoIterator<Item = (String, Style)>) -> Styled {
    let mut line = vec![(format!("{label:LABEL$}"), DIM)];
    line.extend(rest);
    line
}

fn place(app: &App, thread: &Thread, room: usize, lines: &mut Vec<Styled>) {
    let (planned_cpus, planned_nodes) = match &thread.planned {
        Some(place) => (cpus(&place.cpus), format!("node {}", ids(&place.nodes))),
        None => ("not known yet".to_owned(), NONE.to_owned()),
    };
    let is_home =
        thread.node.zip(thread.planned.as_ref()).is_none_or(|(node, place)| place.nodes.contains(&node));
    let mark = match (thread.is_off_plan(), is_home) {
        (true, false) => ("   ! off its nodes".to_owned(), BAD),
        (true, true) => ("   ~ on its node, not on its CPUs".to_owned(), NOTE),
        (false, _) if thread.cpu.is_some() && thread.planned.is_some() => ("   as planned".to_owned(), GOOD),
        (false, _) => (String::new(), PLAIN),
    };
    lines.push(labelled("planned", [(format!("CPUs {planned_cpus} of {planned_nodes}"), PLAIN)]));
    let now = match (thread.cpu, thread.node) {
        (Some(cpu), Some(node)) => format!("CPU {cpu} of node {node}"),
        (Some(cpu), None) => format!("CPU {cpu}"),
        (None, _) => "has not run since it is followed".to_owned(),
    };
    lines.push(labelled("last seen on", [(now, PLAIN), mark]));
    let Some(name) = &thread.group else {
        return lines.push(labelled("group", [("none: a background process".to_owned(), PLAIN)]));
    };
    let groups = app.snapshot().map_or(&[][..], |snapshot| &snapshot.status.groups);
    let group = groups.iter().find(|group| group.name == *name);
    let instance = group.and_then(|group| group.instance.clone()).unwrap_or_else(|| "no instance".to_owned());
    lines.push(labelled(
        "group",
        [(format!("{} ", group_short(name)), BOLD), (format!("({name})   {instance}"), PLAIN)],
    ));
    if let Some(group) = group {
        processes(group, room, lines);
    }
}

fn processes(group: &Group, room: usize, lines: &mut Vec<Styled>) {
    let places =
        format!("members on {}, forward on {}", cpus(&group.members.cpus), cpus(&group.forward.cpus));
    lines.push(labelled("", [(places, PLAIN)]));
    let names: Vec<String> = group
        .processes
        .iter()
        .map(|process| format!("{} {} ({})", process.comm, process.pid, many(process.threads, "thread", "s")))
        .collect();
    let text = names.join(", ");
    for (index, line) in super::wrapped(&text, room.saturating_sub(LABEL)).into_iter().take(3).enumerate() {
        lines.push(labelled(if index == 0 { "processes" } else { "" }, [(line, PLAIN)]));
    }
}

fn last(app: &App, thread: &Thread, lines: &mut Vec<Styled>) {
    let seconds = app.snapshot().map_or(1.0, |snapshot| snapshot.seconds);
    let or_none = |shown: Option<String>| shown.unwrap_or_else(|| NONE.to_owned());
    let ran = format!(
        "ran {} ({} % of the time), {} % of it off its nodes",
        or_none(thread.run_ns.map(time)),
        or_none(thread.busy_share(seconds).map(percent)),
        or_none(thread.off_node_share().map(percent))
    );
    let moved = format!(
        "{} moves between CPUs, {} of them between nodes",
        or_none(thread.migrations.map(|count| count.to_string())),
        or_none(thread.node_migrations.map(|count| count.to_string()))
    );
    let waited = match (thread.waits, thread.waited_ns()) {
        (Some(waits), Some((p99, longest))) => format!(
            "{} for a CPU: 99 of 100 within {}, the longest {}",
            many(waits, "wait", "s"),
            time(p99),
            time(longest)
        ),
        (None, _) => format!("{NONE} waits for a CPU"),
        (Some(_), None) => "no wait for a CPU ended".to_owned(),
    };
    let label = format!("last {}", interval(((seconds * 10.0).round() as u64).saturating_mul(100)));
    lines.push(labelled(&label, [(ran, PLAIN)]));
    lines.push(labelled("", [(moved, PLAIN)]));
    lines.push(labelled("", [(waited, PLAIN)]));
}

/// A line of a history: what it is, its cells oldest first, its last value and the highest.
fn series_line(
    label: &str,
    cells: Vec<(&'static str, Style)>,
    now: Option<String>,
    most: Option<String>,
) -> Styled {
    let mut line = vec![(format!("{label:LABEL$}"), DIM)];
    for (symbol, style) in cells {
        match line.last_mut() {
            Some((text, last)) if *last == style && line_len(text) < 512 => text.push_str(symbol),
            _ => line.push((symbol.to_owned(), style)),
        }
    }
    line.push((format!("  {:>5}", now.unwrap_or_else(|| NONE.to_owned())), PLAIN));
    if let Some(most) = most {
        line.push((format!("  most {most:>5}"), DIM));
    }
    line
}

fn line_len(text: &str) -> usize {
    text.chars().count()
}

fn history(app: &App, track: &Track, room: usize, lines: &mut Vec<Styled>) {
    let newest = app.data().intervals;
    let count = room.saturating_sub(LABEL + FIGURES).clamp(8, super::super::app::data::KEPT);
    lines.push(vec![
        ("History".to_owned(), TITLE),
        (format!("   a column an interval of {}, the newest at the right", interval(app.interval_ms)), DIM),
    ]);
    let waits = |label, of: fn(&Sample) -> Option<u64>| {
        let series = track.series(newest, count, of);
        let cells = series.iter().map(|wait| (wait.map_or(" ", wait_level), trend_style(*wait))).collect();
        let most = series.iter().flatten().max().map(|ns| time(*ns));
        series_line(label, cells, series.last().copied().flatten().map(time), most)
    };
    lines.push(waits("wait p99", |sample| sample.wait_p99_ns));
    lines.push(waits("longest wait", |sample| sample.wait_max_ns));
    let shares =
        |label, bad: bool, of: fn(&Sample) -> Option<f64>, show: fn(f64) -> String, whole: Option<f64>| {
            let series = track.series(newest, count, of);
            let most = series.iter().flatten().copied().fold(0.0_f64, f64::max);
            let whole = whole.unwrap_or(most);
            let cells = series.iter().map(|value| match value {
                None => (" ", PLAIN),
                Some(value) if *value <= 0.0 => ("▁", DIM),
                Some(value) => (level(value / whole.max(f64::MIN_POSITIVE)), if bad { BAD } else { GOOD }),
            });
            let some = series.iter().any(Option::is_some);
            series_line(
                label,
                cells.collect(),
                series.last().copied().flatten().map(show),
                some.then(|| show(most)),
            )
        };
    lines.push(shares("moves/s", true, |sample| sample.moves, rate, None));
    lines.push(shares("off node %", true, |sample| sample.off_node, percent, Some(1.0)));
    lines.push(shares("CPU time %", false, |sample| sample.busy, percent, Some(1.0)));
    let nodes = track.series(newest, count, |sample| Some((sample.node?, sample.off_plan)));
    let last_node = nodes.last().copied().flatten().map(|(node, _)| node.to_string());
    let cells = nodes.iter().map(|seen| match seen {
        None => (" ", PLAIN),
        Some((node, off)) => (digit(*node), if *off { BAD } else { PLAIN }),
    });
    lines.push(series_line("on node", cells.collect(), last_node, None));
    let off = track.series(newest, count, |sample| Some(sample.off_plan));
    if off.contains(&Some(true)) {
        let cells = off.iter().map(|off| (if *off == Some(true) { "!" } else { " " }, BAD)).collect();
        let times = off.iter().filter(|off| **off == Some(true)).count();
        lines.push(series_line("off plan", cells, Some(times.to_string()), None));
    }
}

/// The last digit of a node's id; sparse ids end alike, and the figure behind says which it is now.
fn digit(node: u32) -> &'static str {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    DIGITS[(node % 10) as usize]
}

fn preemptors(track: &Track, room: usize, lines: &mut Vec<Styled>) {
    lines.push(vec![
        ("Had the CPU while it waited".to_owned(), TITLE),
        ("   the one with most of each interval, summed up".to_owned(), DIM),
    ]);
    if track.preemptors.is_empty() {
        lines.push(vec![("  nobody".to_owned(), DIM)]);
    }
    let mut all: Vec<_> = track.preemptors.iter().collect();
    all.sort_by_key(|(_, (ns, _))| Reverse(*ns));
    let names = room.saturating_sub(40).clamp(15, 40);
    for (comm, (ns, count)) in all.into_iter().take(5) {
        let name = fitting(comm.as_deref().unwrap_or("(several)"), names);
        let blanks = " ".repeat(names - width(&name));
        lines.push(vec![
            (format!("  {name}{blanks}"), BOLD),
            (format!("  {:>5} in {}", time(*ns), many(*count, "time", "s")), PLAIN),
        ]);
    }
}

fn events(app: &App, task: TaskId, room: usize, lines: &mut Vec<Styled>) {
    let mut own = app.data().feed.iter().filter(|entry| entry.task == Some(task)).peekable();
    if own.peek().is_none() {
        return;
    }
    lines.push(Vec::new());
    lines.push(vec![("Events".to_owned(), TITLE), ("   newest first".to_owned(), DIM)]);
    for entry in own.take(200) {
        let times = if entry.times > 1 { format!("×{} ", entry.times) } else { String::new() };
        let (clock, kind) = (format!("  {} ", entry.clock), format!("{:8} ", entry.kind.word()));
        let before = width(&clock) + width(&kind);
        let mut text =
            super::wrapped(&format!("{times}{}", entry.text), room.saturating_sub(before)).into_iter();
        let style = super::feed::style(entry.kind);
        lines.push(vec![(clock, DIM), (kind, style), (text.next().unwrap_or_default(), PLAIN)]);
        lines.extend(text.map(|line| vec![(" ".repeat(before), PLAIN), (line, PLAIN)]));
    }
}
