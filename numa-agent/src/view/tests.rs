//! The view as a whole: keys and lines in, pictures out.

mod keys;
mod news;
mod pictures;
mod random;
mod shapes;

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

/// Windows that are looked at.
const SIZES: [(u16, u16); 3] = [LEAST, (120, 40), (200, 60)];

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
