//! The screen: a picture of [`App`] in a buffer of cells. Pure: the same view gives the same picture.
//!
//! At 80 x 24, the least (`header`, `map`, `matrix`, `threads`, `feed`, `footer`; `detail` and `help` take the room of all between
//! header and footer):
//!
//! ```text
//! numa-agent infer-07   enforcing   paired plan   up 3 d 4 h            every 1 s   12:03:41
//! 64 processes, 512 threads   bound 512   failed 0   lost 0   off plan 2
//! ━ Nodes ──── busy ──── here/plan ─ for ──────   ━ Moves ─ to n0  n1  n2  n3
//! s0 n0  ████▌··· 57%   48/48     g0 g1 g2 g3     from n0   12   ·   3   ·
//!    n1  ██▏····· 27%   96/96     fwd g0 g1       n1         ·   9   ·   ·
//! ━ Threads 512 by trouble ──────────────────────────────────────────────────
//!     TID NAME      R GROUP  PLAN NOW      MOVE/s OFF% P99   MAX  WAITS  PREEMPTOR
//!    4711 forward_3 F s0.g1  n1   n3:127!    12    47  1.2ms 9ms  ▁▁▃▅▇  kworker/3:1
//! ━ Events 17 ───────────────────────────────────────────────────────────────
//! 12:03:40 re-pin   forward_3 (4711) by omp (4712); put back on 40-79
//! q quit  ? help  space pause  / filter  s sort  enter open
//! ```
//!
//! On wide screens the events stand beside the map, which then has a cell for each CPU and, where there is height, a line for each group.

pub mod detail;
mod feed;
mod footer;
mod header;
pub mod help;
mod map;
mod matrix;
pub mod pen;
pub mod threads;
pub mod words;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use self::pen::{DIM, PLAIN, Pen, TITLE};
use super::app::{App, Link, Page, Panel};

/// The least columns and rows.
pub const LEAST: (u16, u16) = (80, 24);
/// From so many columns on events stand beside the map.
const WIDE: u16 = 130;
/// With fewer rows between header and footer no room is left unused.
const LOW: u16 = 30;
/// Rows of the header.
const HEADER: u16 = 2;

/// How it may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// With the terminal's colours.
    pub colour: bool,
    /// With more than ASCII.
    pub unicode: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { colour: true, unicode: true }
    }
}

/// Draws the view into all of `buffer`.
pub fn draw(app: &App, look: Look, buffer: &mut Buffer) {
    buffer.reset();
    let area = buffer.area;
    if area.width < LEAST.0 || area.height < LEAST.1 {
        too_small(buffer, area);
    } else {
        screen(app, buffer, area);
    }
    if !look.unicode {
        pen::to_ascii(buffer);
    }
    if !look.colour {
        pen::without_colours(buffer);
    }
}

/// How far the page on top can be scrolled.
#[must_use]
pub fn last_scroll(app: &App) -> usize {
    let body = body(Rect::new(0, 0, app.size.0.max(LEAST.0), app.size.1.max(LEAST.1)));
    page(app, body.width).map_or(0, |lines| lines.len().saturating_sub(usize::from(body.height)))
}

fn too_small(buffer: &mut Buffer, area: Rect) {
    let said = [
        format!("This window has {} x {}.", area.width, area.height),
        format!("watch needs {} x {}.", LEAST.0, LEAST.1),
        "q: quit".to_owned(),
    ];
    for (row, text) in said.iter().enumerate() {
        Pen::line(buffer, area, row).text(text, PLAIN);
    }
}

fn screen(app: &App, buffer: &mut Buffer, area: Rect) {
    header::draw(app, buffer, Rect { height: HEADER, ..area });
    let body = body(area);
    let page = page(app, body.width);
    let hidden = page.as_ref().map_or((0, 0), |lines| hidden(app, lines.len(), body));
    footer::draw(app, hidden, buffer, Rect { y: body.bottom(), height: 1, ..area });
    if let Some(lines) = page {
        draw_page(&lines[hidden.0..], buffer, body);
    } else if app.snapshot().is_none() {
        waiting(app, buffer, body);
    } else if app.zoomed {
        panel(app, app.focus, buffer, body);
    } else {
        for (which, place) in places(app, body) {
            panel(app, which, buffer, place);
        }
    }
}

fn body(area: Rect) -> Rect {
    Rect { y: area.y + HEADER, height: area.height - HEADER - 1, ..area }
}

fn panel(app: &App, which: Panel, buffer: &mut Buffer, place: Rect) {
    match which {
        Panel::Nodes => map::draw(app, buffer, place),
        Panel::Moves => matrix::draw(app, buffer, place),
        Panel::Threads => threads::draw(app, buffer, place),
        Panel::Events => feed::draw(app, buffer, place),
    }
}

/// Who gets which part of the body.
fn places(app: &App, body: Rect) -> Vec<(Panel, Rect)> {
    let matrix = matrix::size(app);
    // Threads and, in narrow windows, events need some rows too.
    let below = if body.width >= WIDE { 9 } else { 11 };
    let right = if body.width >= WIDE {
        matrix.0.max(body.width / 3)
    } else {
        // The map wants to say who belongs on each node.
        matrix.0.min(body.width - 43)
    };
    let left = body.width - right - 2;
    let wanted = map::height(app, left, body.height - below, body.height / 2).max(matrix.1);
    let top = wanted.min(body.height - below);
    let map = Rect { width: left, height: top, ..body };
    let side = Rect { x: body.x + left + 2, width: right, height: top, ..body };
    let under = Rect { y: body.y + top, height: body.height - top, ..body };
    let spare = top.saturating_sub(matrix.1 + 1);
    if body.width >= WIDE && spare >= 4 {
        let moves = Rect { height: matrix.1, ..side };
        let events = Rect { y: side.y + matrix.1 + 1, height: spare, ..side };
        return vec![
            (Panel::Nodes, map),
            (Panel::Moves, moves),
            (Panel::Threads, under),
            (Panel::Events, events),
        ];
    }
    if body.height < LOW && !app.has_moves() {
        return folded(app, body);
    }
    let events = below_table(app, under.height);
    let table = Rect { height: under.height - events, ..under };
    let events = Rect { y: table.bottom(), height: events, ..under };
    vec![(Panel::Nodes, map), (Panel::Moves, side), (Panel::Threads, table), (Panel::Events, events)]
}

/// Rows of the events where they and the table share so many: most for the table, unless the events are looked at.
fn below_table(app: &App, height: u16) -> u16 {
    if app.focus == Panel::Events { height * 2 / 3 } else { (height / 3).clamp(3, 16) }
}

/// Little room, and no moves: their panel is a line beside the map's name, and the map has many nodes in a line.
fn folded(app: &App, body: Rect) -> Vec<(Panel, Rect)> {
    let top = map::folded_height(app, body.width, body.height - 11);
    let side = 28.min(body.width / 2);
    let map = Rect { height: top, ..body };
    let moves = Rect { x: body.right() - side, width: side, height: 1, ..body };
    let under = Rect { y: body.y + top, height: body.height - top, ..body };
    let events = below_table(app, under.height);
    let table = Rect { height: under.height - events, ..under };
    let events = Rect { y: table.bottom(), height: events, ..under };
    vec![(Panel::Nodes, map), (Panel::Moves, moves), (Panel::Threads, table), (Panel::Events, events)]
}

/// A panel's first line: its name, what else there is to say, and a rule.
fn title<'a>(app: &App, panel: Panel, name: &str, buffer: &'a mut Buffer, place: Rect) -> Pen<'a> {
    let focused = app.focus == panel;
    let mut pen = Pen::line(buffer, place, 0);
    let style = if focused { TITLE.add_modifier(ratatui::style::Modifier::REVERSED) } else { TITLE };
    let mark = if focused { "▶" } else { "─" };
    pen.text(mark, if focused { TITLE } else { DIM }).text(&format!(" {name} "), style);
    pen
}

/// Before anything has come.
fn waiting(app: &App, buffer: &mut Buffer, body: Rect) {
    let every = words::interval(app.interval_ms);
    let text = match &app.link {
        Link::Connecting => "Connecting ...".to_owned(),
        Link::Agent | Link::Own(_) => match &app.data().refused {
            Some(why) => format!("The agent refused: {why}"),
            None => format!("Waiting for the end of the first interval ({every}) ..."),
        },
        Link::Lost(why) => format!("No agent: {why}. Trying again every second."),
        Link::Silent(why) => format!("{why}."),
    };
    for (row, line) in wrapped(&text, usize::from(body.width) - 4).iter().enumerate() {
        let place = Rect { x: body.x + 2, width: body.width - 4, ..body };
        Pen::line(buffer, place, row + 1).text(line, PLAIN);
    }
}

/// A line of a page: pieces of text, each in its style.
type Styled = Vec<(String, Style)>;

/// The lines of the page on top.
fn page(app: &App, width: u16) -> Option<Vec<Styled>> {
    Some(match app.pages.last()? {
        Page::Help => help::lines(usize::from(width)),
        Page::Thread(task) => detail::lines(app, *task, usize::from(width)),
    })
}

/// How many lines of a page are above the body, and below.
fn hidden(app: &App, lines: usize, body: Rect) -> (usize, usize) {
    let height = usize::from(body.height);
    let first = app.scroll.min(lines.saturating_sub(height));
    (first, lines.saturating_sub(first + height))
}

fn draw_page(lines: &[Styled], buffer: &mut Buffer, body: Rect) {
    for (row, line) in lines.iter().take(usize::from(body.height)).enumerate() {
        let mut pen = Pen::line(buffer, body, row);
        for (text, style) in line {
            pen.text(text, *style);
        }
    }
}

/// The text, nothing hidden, in lines of at most `columns`: broken at spaces, and words that are longer anywhere.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in crate::report::escape::text(text).split(' ') {
        match lines.last_mut() {
            Some(line)
                if pen::width(line) + 1 + pen::width(word) <= columns || pen::width(word) > columns =>
            {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
        while let Some(line) = lines.last_mut().filter(|line| pen::width(line) > columns.max(2)) {
            let end = pen::beginning(line, columns.max(2));
            let rest = line.split_off(end);
            lines.push(rest);
        }
    }
    lines
}

/// The first of `count` rows that is shown in `height` rows where the one at `cursor` must be seen.
fn first_shown(cursor: usize, count: usize, height: usize) -> usize {
    cursor.saturating_sub(height / 2).min(count.saturating_sub(height))
}
