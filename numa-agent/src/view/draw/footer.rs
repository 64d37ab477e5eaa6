//! The last line: keys, or the filter being typed.

use ratatui::{buffer::Buffer, layout::Rect};

use super::pen::{BAD, BOLD, CURSOR, DIM, NOTE, PLAIN, Pen};
use crate::view::{
    app::{App, Panel},
    keys::BINDINGS,
};

/// Draws it. `hidden`: lines of the page above and below what is seen.
pub fn draw(app: &App, hidden: (usize, usize), buffer: &mut Buffer, area: Rect) {
    let mut pen = Pen::line(buffer, area, 0);
    if hidden != (0, 0) {
        pen.right(&format!(" ↑ {} ↓ {} lines more ", hidden.0, hidden.1), CURSOR);
    }
    if let Some(text) = &app.typing {
        let name = if app.focus == Panel::Events { "filter events: " } else { "filter: " };
        let problem = app.focused_filter().problem();
        if problem.is_none() {
            pen.right("enter: keep   esc: none", DIM);
        }
        // The end is what is being typed.
        let room = if problem.is_some() { pen.room() / 2 } else { pen.room() };
        let hidden = text.chars().count().saturating_sub(room.saturating_sub(name.len() + 2));
        let shown: String = text.chars().skip(hidden).collect();
        pen.text(name, BOLD).text(&shown, PLAIN).text(" ", CURSOR);
        pen.text("  ", PLAIN).text(problem.unwrap_or_default(), BAD);
        return;
    }
    if !app.filter.is_empty() {
        pen.right(&format!("filter: {}", super::pen::fitting(app.filter.text(), 30)), NOTE);
    }
    for binding in BINDINGS {
        let Some((hint, key)) = binding.hint.zip(binding.keys.first()) else { continue };
        let key = key.name();
        if pen.room() < super::pen::width(&key) + hint.len() + 3 {
            break;
        }
        pen.text(&key, BOLD).text(&format!(" {hint}  "), DIM);
    }
}
