//! The last line: keys, or the filter being typed.

use ratatui::{buffer::Buffer, layout::Rect};

use super::pen::{BOLD, CURSOR, DIM, NOTE, PLAIN, Pen};
use crate::view::{app::App, keys::BINDINGS};

/// Draws it. `hidden`: lines of the page above and below what is seen.
pub fn draw(app: &App, hidden: (usize, usize), buffer: &mut Buffer, area: Rect) {
    let mut pen = Pen::line(buffer, area, 0);
    if hidden != (0, 0) {
        pen.right(&format!(" ↑ {} ↓ {} lines more ", hidden.0, hidden.1), CURSOR);
    }
    if let Some(text) = &app.typing {
        pen.right("enter: keep   esc: none", DIM);
        // The end is what is being typed.
        let room = pen.room().saturating_sub(10);
        let hidden = text.chars().count().saturating_sub(room);
        let shown: String = text.chars().skip(hidden).collect();
        pen.text("filter: ", BOLD).text(&shown, PLAIN).text(" ", CURSOR);
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
