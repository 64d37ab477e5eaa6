//! Events, newest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    pen::{BAD, BOLD, CURSOR, DIM, GOOD, NOTE, PLAIN, Pen},
    title, wrapped,
};
use crate::view::app::{App, Panel, feed::Kind};

/// Columns of a kind.
const KIND: usize = 8;

/// Draws it. The event that the cursor is on is there whole, and where the panel is alone each is.
pub fn draw(app: &App, buffer: &mut Buffer, place: Rect) {
    let feed = &app.data().feed;
    let mut name = format!("Events {}", feed.total);
    if !app.event_filter.is_empty() {
        name = format!("Events {} of the last {}", app.events().count(), feed.len());
    }
    if app.back > 0 {
        name += &format!(", from {} back", app.back);
    }
    let mut pen = title(app, Panel::Events, &name, buffer, place);
    if !app.event_filter.is_empty() {
        pen.text("with ", DIM).text(app.event_filter.text(), NOTE);
    }
    let gap = if app.event_filter.is_empty() { "" } else { " " };
    pen.text(gap, PLAIN).fill("─", DIM);
    let focused = app.focus == Panel::Events;
    let (rows, mut row) = (usize::from(place.height), 1);
    for (index, entry) in app.events().skip(app.back).enumerate() {
        if row >= rows {
            return;
        }
        let mut pen = Pen::line(buffer, place, row);
        pen.text(&entry.clock, if focused && index == 0 { CURSOR } else { DIM }).text(" ", PLAIN);
        pen.cell(KIND, entry.kind.word(), style(entry.kind)).skip(1);
        if entry.times > 1 {
            pen.text(&format!("×{} ", entry.times), BOLD);
        }
        let room = pen.room();
        if !focused || (index > 0 && !app.zoomed) {
            pen.text(&entry.text, PLAIN);
            row += 1;
            continue;
        }
        let indent = usize::from(place.width) - room;
        for line in wrapped(&entry.text, room) {
            let mut pen = Pen::line(buffer, place, row);
            pen.skip(indent).text(&line, PLAIN);
            row += 1;
        }
    }
    if row == 1 && !app.event_filter.is_empty() {
        let why = app.event_filter.problem().unwrap_or("No event fits the filter; esc shows all.");
        Pen::line(buffer, place, 1).text(why, NOTE);
    }
}

/// How a kind stands out.
pub fn style(kind: Kind) -> Style {
    match kind {
        Kind::Bound => GOOD,
        Kind::Drifted | Kind::OffNode | Kind::Failed | Kind::Lost => BAD,
        Kind::Repinned | Kind::Moved | Kind::Warning | Kind::Replanned => NOTE,
        Kind::Agent | Kind::Other => BOLD,
    }
}
