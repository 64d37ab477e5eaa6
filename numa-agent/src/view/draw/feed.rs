//! Events, newest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    pen::{BAD, BOLD, CURSOR, DIM, GOOD, NOTE, PLAIN, Pen},
    title,
};
use crate::view::app::{
    App, Panel,
    feed::{Entry, Kind},
};

/// Draws it.
pub fn draw(app: &App, buffer: &mut Buffer, place: Rect) {
    let feed = &app.data().feed;
    let name = match app.back {
        0 => format!("Events {}", feed.total),
        back => format!("Events {}, from {back} back", feed.total),
    };
    title(app, Panel::Events, &name, buffer, place).fill("─", DIM);
    let rows = usize::from(place.height.saturating_sub(1));
    for (index, entry) in feed.iter().skip(app.back).take(rows).enumerate() {
        let mut pen = Pen::line(buffer, place, index + 1);
        let clock = if app.focus == Panel::Events && index == 0 { CURSOR } else { DIM };
        pen.text(&entry.clock, clock).text(" ", PLAIN);
        line(entry, &mut pen);
    }
}

/// Kind, repetitions, words.
pub fn line(entry: &Entry, pen: &mut Pen) {
    pen.cell(8, entry.kind.word(), style(entry.kind)).skip(1);
    if entry.times > 1 {
        pen.text(&format!("×{} ", entry.times), BOLD);
    }
    pen.text(&entry.text, PLAIN);
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
