//! The table of threads: where each should be and is, how often it moved and waited, and for whom.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
};

use super::{
    first_shown,
    pen::{BAD, CURSOR_LINE, DIM, NOTE, PLAIN, Pen, wait_level, width},
    title,
    words::{NONE, group_short, percent, rate, role_letter, time},
};
use crate::{
    core::view::Thread,
    report::many,
    view::app::{
        App, Panel,
        data::{Track, per_second},
        id,
        sort::By,
    },
};

/// One column.
struct Column {
    title: &'static str,
    /// Columns at least; those of text grow with what is in them.
    least: usize,
    most: usize,
    figure: bool,
    sorts: Option<By>,
    cell: fn(&Row) -> Cell,
}

impl Column {
    /// Whether its cells are histories.
    fn is_trend(&self) -> bool {
        self.title == TREND_TITLE
    }
}

/// A text and how it stands out.
type Cell = (String, Style);

/// What a row is made of.
struct Row<'a> {
    thread: &'a Thread,
    track: Option<&'a Track>,
    interval: u64,
    seconds: f64,
}

/// Columns of the trend at least.
const TREND: usize = 8;
/// And with room, once there are as many intervals: the table does not change with each.
const LONG_TRENDS: [usize; 3] = [30, 60, 120];
/// The heading that tells it from the others.
const TREND_TITLE: &str = "WAITS";

/// How many columns there are.
const ALL: usize = 14;

const fn column(
    title: &'static str,
    (least, most): (usize, usize),
    figure: bool,
    sorts: Option<By>,
    cell: fn(&Row) -> Cell,
) -> Column {
    Column { title, least, most, figure, sorts, cell }
}

/// The first two are always shown; from the third on they can be scrolled.
static COLUMNS: [Column; ALL] = [
    column("TID", (5, 10), true, Some(By::Tid), |row| (row.thread.tid.to_string(), PLAIN)),
    column("NAME", (6, 15), false, Some(By::Name), |row| (row.thread.comm.clone(), PLAIN)),
    column("R", (1, 1), false, None, |row| (role_letter(row.thread.role).to_owned(), PLAIN)),
    column("GROUP", (5, 12), false, Some(By::Group), |row| {
        (row.thread.group.as_deref().map_or_else(|| NONE.to_owned(), group_short), PLAIN)
    }),
    column("PLAN", (4, 8), false, None, plan),
    column("NOW", (6, 12), false, None, now),
    column("MOVE/s", (6, 6), true, Some(By::Moves), |row| {
        let shown = per_second(row.thread.migrations, row.seconds).map(rate);
        match row.thread.node_migrations {
            // Between nodes too.
            Some(1..) => figure(shown.map(|shown| shown + "!"), BAD),
            _ => figure(shown, PLAIN),
        }
    }),
    column("OFF%", (4, 4), true, Some(By::OffNode), |row| {
        let share = row.thread.off_node_share();
        let style = if share.is_some_and(|share| share > 0.0) { BAD } else { PLAIN };
        figure(share.map(percent), style)
    }),
    column("P99", (5, 5), true, Some(By::Waits), |row| wait(row.thread.waited_ns().map(|(p99, _)| p99))),
    column("MAX", (5, 5), true, Some(By::Longest), |row| wait(row.thread.waited_ns().map(|(_, max)| max))),
    column(TREND_TITLE, (TREND, TREND), false, None, |_| (String::new(), NOTE)),
    column("PREEMPTOR", (9, 15), false, None, preempted),
    column("CPU%", (4, 4), true, Some(By::Busy), |row| {
        figure(row.thread.busy_share(row.seconds).map(percent), PLAIN)
    }),
    column("PROCESS", (8, 24), false, None, |row| {
        (format!("{} {}", row.thread.process, row.thread.pid), DIM)
    }),
];
/// How many are always shown.
const FIXED: usize = 2;

/// How far columns can be scrolled: until the last one is in sight.
#[must_use]
pub fn last_column(app: &App) -> usize {
    let rows = rows(app);
    let width = usize::from(app.size.0.max(super::LEAST.0));
    let all_in_sight = |from: &usize| layout(app, *from, &rows, width).len() == ALL - from;
    (0..ALL - FIXED - 1).find(all_in_sight).unwrap_or(ALL - FIXED - 1)
}

fn rows(app: &App) -> Vec<Row<'_>> {
    let row = |thread| Row {
        thread,
        track: app.data().track(id(thread)),
        interval: app.data().intervals,
        seconds: app.snapshot().map_or(0.0, |snapshot| snapshot.seconds),
    };
    app.rows().into_iter().map(row).collect()
}

fn figure(shown: Option<String>, style: Style) -> Cell {
    shown.map_or_else(|| (NONE.to_owned(), DIM), |shown| (shown, style))
}

fn plan(row: &Row) -> Cell {
    let nodes = row.thread.planned.as_ref().map(|place| place.nodes.as_slice());
    match nodes {
        Some([first, .., last]) => (format!("n{first}-{last}"), PLAIN),
        Some([node]) => (format!("n{node}"), PLAIN),
        _ => (NONE.to_owned(), DIM),
    }
}

/// Node and CPU; `!` where the node is wrong, `~` where only the CPU is.
fn now(row: &Row) -> Cell {
    let thread = row.thread;
    let Some(cpu) = thread.cpu else { return (NONE.to_owned(), DIM) };
    let node = thread.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let text = format!("n{node}:{cpu}");
    if !thread.is_off_plan() {
        return (text, PLAIN);
    }
    let at_home =
        thread.node.zip(thread.planned.as_ref()).is_some_and(|(node, place)| place.nodes.contains(&node));
    if at_home { (text + "~", NOTE) } else { (text + "!", BAD) }
}

fn wait(ns: Option<u64>) -> Cell {
    let style = match ns.unwrap_or(0) {
        0..1_000_000 => PLAIN,
        1_000_000..10_000_000 => NOTE,
        _ => BAD,
    };
    figure(ns.map(time), style)
}

fn preempted(row: &Row) -> Cell {
    match &row.thread.preemptor {
        None => (NONE.to_owned(), DIM),
        Some(who) => (who.comm.clone().unwrap_or_else(|| "(several)".to_owned()), PLAIN),
    }
}

/// Draws it.
pub fn draw(app: &App, buffer: &mut Buffer, place: Rect) {
    let Some(snapshot) = app.snapshot() else { return };
    let rows = rows(app);
    let threads: Vec<&Thread> = rows.iter().map(|row| row.thread).collect();
    let cursor = app.cursor(&threads);
    let height = usize::from(place.height.saturating_sub(2));
    let first = first_shown(cursor, rows.len(), height);
    heading(app, (first, height, rows.len()), buffer, place);
    let columns = layout(app, app.column, &rows, usize::from(place.width));
    let mut pen = Pen::line(buffer, place, 1);
    for (column, columns) in &columns {
        let sorted = column.sorts == Some(app.sort.by);
        let style = if sorted { DIM.add_modifier(Modifier::UNDERLINED | Modifier::BOLD) } else { DIM };
        if column.figure || column.is_trend() {
            let name = super::pen::fitting(column.title, *columns);
            pen.skip(columns - width(&name)).text(&name, style);
        } else {
            pen.text(&super::pen::fitting(column.title, *columns), style);
            pen.skip(columns.saturating_sub(column.title.len()));
        }
        pen.skip(1);
    }
    if rows.is_empty() {
        let text = match (app.data().intervals, snapshot.threads.is_empty()) {
            (0, _) => "after the first interval",
            (_, true) => "No thread is managed yet.",
            (_, false) => app.filter.problem().unwrap_or("No listed thread fits the filter; esc shows all."),
        };
        Pen::line(buffer, place, 2).text(text, NOTE);
        return;
    }
    for (index, row) in rows.iter().enumerate().skip(first).take(height) {
        let line = index - first + 2;
        draw_row(row, &columns, &mut Pen::line(buffer, place, line));
        if index == cursor && app.focus == Panel::Threads {
            let line = Rect { y: place.y + line as u16, height: 1, ..place };
            buffer.set_style(line, CURSOR_LINE);
        }
    }
}

/// `first` of `count` rows and the next ones fit in `height`.
fn heading(app: &App, (first, height, count): (usize, usize, usize), buffer: &mut Buffer, place: Rect) {
    let Some(snapshot) = app.snapshot() else { return };
    let listed = snapshot.threads.len();
    let of = if count == listed { count.to_string() } else { format!("{count} of {listed}") };
    let mut pen = title(app, Panel::Threads, &format!("Threads {of}"), buffer, place);
    if count > height {
        pen.text(&format!(" rows {}-{}", first + 1, first + height), NOTE);
    }
    pen.text(&format!(" by {}", app.sort.by.name()), DIM);
    if app.sort.reversed {
        pen.text(", reversed", DIM);
    }
    if !app.filter.is_empty() {
        pen.text(" with ", DIM).text(app.filter.text(), NOTE);
    }
    if snapshot.unlisted > 0 {
        pen.text(&format!(", {} not listed", many(snapshot.unlisted, "thread", "s")), DIM);
    }
    if app.column > 0 {
        pen.text(" ← more columns", NOTE);
    }
    pen.text(" ", PLAIN).fill("─", DIM);
}

fn draw_row(row: &Row, columns: &[(&Column, usize)], pen: &mut Pen) {
    for (column, columns) in columns {
        if column.is_trend() {
            let series = row.track.map(|track| track.series(row.interval, *columns, |s| s.wait_p99_ns));
            for wait in series.unwrap_or_default() {
                pen.text(wait.map_or(" ", wait_level), trend_style(wait));
            }
        } else {
            let (text, style) = (column.cell)(row);
            if column.figure {
                pen.figure(*columns, &text, style)
            } else {
                pen.cell(*columns, &text, style)
            };
        }
        pen.skip(1);
    }
}

/// How a level of a trend stands out.
pub fn trend_style(wait_ns: Option<u64>) -> Style {
    match wait_ns.unwrap_or(0) {
        0..1_000_000 => Style::new().fg(ratatui::style::Color::Green),
        1_000_000..10_000_000 => NOTE,
        _ => BAD,
    }
}

/// The columns from `first` on that have room, with their widths.
fn layout(app: &App, first: usize, rows: &[Row], room: usize) -> Vec<(&'static Column, usize)> {
    let wanted = |column: &Column| {
        let longest = rows.iter().take(512).map(|row| width(&(column.cell)(row).0)).max().unwrap_or(0);
        longest.max(column.least).min(column.most).max(width(column.title).min(column.most))
    };
    let mut left = room;
    let mut columns = Vec::new();
    let shown = COLUMNS.iter().enumerate().filter(|(index, _)| *index < FIXED || *index >= FIXED + first);
    for (_, column) in shown {
        if column.least > left {
            break;
        }
        let given = wanted(column).min(left);
        left = left.saturating_sub(given + 1);
        columns.push((column, given));
    }
    if let Some((_, trend)) = columns.iter_mut().find(|(column, _)| column.is_trend()) {
        let intervals = app.data().intervals;
        let long = LONG_TRENDS.into_iter().rev().find(|long| intervals >= *long as u64).unwrap_or(2 * TREND);
        *trend = (*trend + left).min(long);
    }
    columns
}
