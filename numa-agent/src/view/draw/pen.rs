//! Text into cells: never outside its place, nothing hidden, and an ellipsis where some is left out.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::report::escape;

/// As it is.
pub const PLAIN: Style = Style::new();
/// Names of panels, headings.
pub const TITLE: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
/// Headings of columns, what is there always.
pub const DIM: Style = Style::new().add_modifier(Modifier::DIM);
/// What matters.
pub const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
/// As it should be.
pub const GOOD: Style = Style::new().fg(Color::Green);
/// Worth a look.
pub const NOTE: Style = Style::new().fg(Color::Magenta);
/// Not as it should be.
pub const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
/// The cursor.
pub const CURSOR: Style = Style::new().add_modifier(Modifier::REVERSED);
/// A line that the cursor is on: read as a whole, so without colours of its own.
pub const CURSOR_LINE: Style = CURSOR.fg(Color::Reset).remove_modifier(Modifier::DIM);

/// One line of a place, written from left to right.
pub struct Pen<'a> {
    buffer: &'a mut Buffer,
    x: u16,
    end: u16,
    y: u16,
}

impl<'a> Pen<'a> {
    /// At the beginning of `area`'s line `row`; a line that is not in the area takes nothing.
    pub fn line(buffer: &'a mut Buffer, area: Rect, row: usize) -> Self {
        let area = area.intersection(buffer.area);
        let row = u16::try_from(row).unwrap_or(u16::MAX);
        let end = if row < area.height { area.right() } else { area.x };
        Self { buffer, x: area.x, end, y: area.y.saturating_add(row) }
    }

    /// Columns that are left.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.end.saturating_sub(self.x))
    }

    /// Writes `text`, as much as there is room for.
    pub fn text(&mut self, text: &str, style: Style) -> &mut Self {
        let room = self.room();
        self.write(&fitting(text, room), style)
    }

    /// Writes `text` if all of it has room.
    pub fn whole(&mut self, text: &str, style: Style) -> &mut Self {
        if width(text) <= self.room() { self.text(text, style) } else { self }
    }

    /// `text` in a column of that width, from its left.
    pub fn cell(&mut self, columns: usize, text: &str, style: Style) -> &mut Self {
        let columns = columns.min(self.room());
        let text = fitting(text, columns);
        let blanks = columns - width(&text);
        self.write(&text, style).skip(blanks)
    }

    /// `text` in a column of that width, to its right.
    pub fn figure(&mut self, columns: usize, text: &str, style: Style) -> &mut Self {
        let columns = columns.min(self.room());
        let text = fitting(text, columns);
        let blanks = columns - width(&text);
        self.skip(blanks).write(&text, style)
    }

    /// `text` at the right end, if all of it has room; what follows ends before it.
    pub fn right(&mut self, text: &str, style: Style) -> &mut Self {
        let columns = width(text);
        if columns < self.room() {
            let x = self.end - to_u16(columns);
            self.buffer.set_stringn(x, self.y, escape::text(text), columns, style);
            self.end = x.saturating_sub(2).max(self.x);
        }
        self
    }

    /// Leaves columns as they are.
    pub fn skip(&mut self, columns: usize) -> &mut Self {
        self.x += to_u16(columns.min(self.room()));
        self
    }

    /// The rest of the line, of one symbol of one column.
    pub fn fill(&mut self, symbol: &str, style: Style) -> &mut Self {
        let room = self.room();
        self.write(&symbol.repeat(room), style)
    }

    /// A bar of that width, filled to `share`.
    pub fn bar(&mut self, columns: usize, share: f64, style: Style) -> &mut Self {
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let columns = columns.min(self.room());
        // A cast from a float saturates, and makes zero of what is no number.
        let eighths = ((share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize).min(columns * 8);
        let (full, part) = (eighths / 8, PARTS[eighths % 8]);
        let blanks = columns - full - usize::from(!part.is_empty());
        self.write(&"█".repeat(full), style).write(part, style).write(&"·".repeat(blanks), DIM)
    }

    fn write(&mut self, text: &str, style: Style) -> &mut Self {
        if self.room() > 0 && !text.is_empty() {
            let (x, _) = self.buffer.set_stringn(self.x, self.y, text, self.room(), style);
            self.x = x;
        }
        self
    }
}

/// Seven levels from nothing to all. A full cell would touch the line above.
const LEVELS: [&str; 7] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇"];

/// The level of a share from 0 to 1.
#[must_use]
pub fn level(share: f64) -> &'static str {
    LEVELS[((share.clamp(0.0, 1.0) * 7.0) as usize).min(6)]
}

/// The level of a wait, the same for every thread: under 10 us, 30 us, 100 us, 300 us, 1 ms, 10 ms, and above.
#[must_use]
pub fn wait_level(ns: u64) -> &'static str {
    const STEPS_NS: [u64; 6] = [10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000];
    LEVELS[STEPS_NS.iter().take_while(|step| ns >= **step).count()]
}

/// Columns that a text takes once nothing in it is hidden.
#[must_use]
pub fn width(text: &str) -> usize {
    escape::text(text).width()
}

/// The text with nothing hidden, in at most so many columns.
#[must_use]
pub fn fitting(text: &str, columns: usize) -> String {
    let text = escape::text(text);
    if text.width() <= columns {
        return text;
    }
    let end = beginning(&text, columns.saturating_sub(1));
    let ellipsis = if columns > 0 { "…" } else { "" };
    format!("{}{ellipsis}", &text[..end])
}

/// How many bytes of a text in which nothing is hidden fit in so many columns.
#[must_use]
pub fn beginning(text: &str, columns: usize) -> usize {
    let mut taken = 0;
    let too_far = |(_, c): &(usize, char)| {
        taken += c.width().unwrap_or(0);
        taken > columns
    };
    text.char_indices().find(too_far).map_or(text.len(), |(at, _)| at)
}

/// For terminals without Unicode: everything in the buffer as ASCII.
pub fn to_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        let plain = match cell.symbol() {
            symbol if symbol.is_ascii() => continue,
            "█" | "▇" => "#",
            "▆" => "*",
            "▅" => "+",
            "▄" | "▌" | "▋" | "▊" | "▉" => "=",
            "▃" => "-",
            "▂" | "▏" | "▎" | "▍" => ":",
            "▁" | "·" => ".",
            "─" | "━" => "-",
            "│" => "|",
            "→" => ">",
            "←" => "<",
            "↑" => "^",
            "↓" => "v",
            "▶" => ">",
            "×" => "x",
            "…" => "~",
            _ => "?",
        };
        cell.set_symbol(plain);
    }
}

/// For those who want none: nothing has a colour.
pub fn without_colours(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
    }
}

fn to_u16(columns: usize) -> u16 {
    u16::try_from(columns).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_room_ends_in_an_ellipsis() {
        assert_eq!(fitting("forward_12", 10), "forward_12");
        assert_eq!(fitting("forward_12", 6), "forwa…");
        assert_eq!(fitting("模型服务", 8), "模型服务");
        assert_eq!(fitting("模型服务", 6), "模型…");
        assert_eq!(fitting("a\u{1b}[2J", 20), "a\\u{1b}[2J");
        assert_eq!((fitting("ab", 1), fitting("ab", 0)), ("…".into(), String::new()));
    }

    #[test]
    fn waits_have_the_same_levels_everywhere() {
        let levels = [0, 9_999, 10_000, 50_000, 500_000, 5_000_000, 10_000_000].map(wait_level);
        assert_eq!(levels, ["▁", "▁", "▂", "▃", "▅", "▆", "▇"]);
        assert_eq!([0.0, 0.5, 1.0, f64::NAN].map(level), ["▁", "▄", "▇", "▁"]);
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let area = Rect::new(0, 0, 8, 1);
        let bar = |share| {
            let mut buffer = Buffer::empty(area);
            Pen::line(&mut buffer, area, 0).bar(4, share, PLAIN);
            buffer.content.iter().map(|cell| cell.symbol().to_owned()).collect::<String>()
        };
        assert_eq!(
            [0.0, 0.5, 0.53, 1.0, 7.0].map(bar),
            ["····    ", "██··    ", "██▏·    ", "████    ", "████    "]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_written_outside(text in any::<String>(), x in 0_u16..30, columns in 0_u16..30, row in 0_usize..4) {
            let mut buffer = Buffer::empty(Rect::new(0, 0, 30, 3));
            let area = Rect::new(x, 1, columns, 1);
            Pen::line(&mut buffer, area, row).cell(7, &text, BAD).figure(5, &text, BAD).right(&text, BAD).text(&text, BAD);
            let inside = area.intersection(buffer.area);
            for (index, cell) in buffer.content.iter().enumerate() {
                let (at_x, at_y) = ((index % 30) as u16, (index / 30) as u16);
                let is_in = inside.contains((at_x, at_y).into()) && row == 0;
                prop_assert!(is_in || *cell == ratatui::buffer::Cell::EMPTY, "{at_x} {at_y} {cell:?}");
            }
        }
    }
}
