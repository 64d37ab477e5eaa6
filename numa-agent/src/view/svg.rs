//! A buffer of cells as a picture: what the terminal shows, without one.
//!
//! Bars and levels are drawn as boxes, rules as lines: fonts leave gaps between those. Text is pinned to its cells, so that any
//! monospace font will do. Colours follow the reader's wish for light or dark.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};
use unicode_width::UnicodeWidthStr;

use crate::report::escape;

/// A cell's size in tenths of a pixel.
const CELL: (usize, usize) = (84, 180);
/// Space around the cells, in pixels.
const PAD: usize = 14;
/// Where the text's baseline is in a cell, in tenths of a pixel.
const BASELINE: usize = 136;

/// Class, property, light, dark.
const RULES: [(&str, &str, &str, &str); 12] = [
    (".paper", "fill", "#fbfcfd", "#0d1117"),
    (".paper", "stroke", "#d0d7de", "#30363d"),
    (".c", "fill", "#1f2328", "#dfe5ec"),
    (".r", "fill", "#cf222e", "#ff7b72"),
    (".g", "fill", "#1a7f37", "#57c765"),
    (".m", "fill", "#8250df", "#d2a8ff"),
    (".y", "fill", "#0b7285", "#5fd3e0"),
    (".v", "fill", "#fbfcfd", "#0d1117"),
    (".bc", "fill", "#1f2328", "#dfe5ec"),
    (".by", "fill", "#0b7285", "#5fd3e0"),
    (".br", "fill", "#cf222e", "#ff7b72"),
    (".bm", "fill", "#8250df", "#d2a8ff"),
];

const FIXED: &str = ".na-watch{font-family:ui-monospace,'SFMono-Regular',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;\
font-size:14px}.na-watch text{white-space:pre}.na-watch rect:not(.paper){shape-rendering:crispEdges}.na-watch .b{font-weight:700}.na-watch .d{opacity:.58}.na-watch .u{text-decoration:underline}";

/// The buffer as a self-contained SVG document; `title` is for those who cannot see it.
#[must_use]
pub fn picture(buffer: &Buffer, title: &str) -> String {
    let (columns, rows) = (usize::from(buffer.area.width), usize::from(buffer.area.height));
    let (width, height) = (columns * CELL.0 / 10 + 2 * PAD, rows * CELL.1 / 10 + 2 * PAD);
    let mut body = String::new();
    for row in 0..rows {
        let cells = &buffer.content[row * columns..(row + 1) * columns];
        line(&mut body, cells, row);
    }
    let rules = |dark: bool| -> String {
        let rule = |(class, property, light, night): &(&str, &str, &str, &str)| {
            format!(".na-watch {class}{{{property}:{}}}", if dark { night } else { light })
        };
        RULES.iter().map(rule).collect()
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"na-watch\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\"><style>{FIXED}{}@media(prefers-color-scheme:dark){{{}}}</style>\
         <rect class=\"paper\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>{body}</svg>\n",
        escape::xml(title),
        rules(false),
        rules(true),
        width - 1,
        height - 1,
    )
}

/// Tenths of a pixel as pixels.
fn px(tenths: usize) -> String {
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

fn left(column: usize) -> usize {
    PAD * 10 + column * CELL.0
}

fn top(row: usize) -> usize {
    PAD * 10 + row * CELL.1
}

/// What cells have in common that are written together.
#[derive(Clone, PartialEq)]
struct Look {
    class: String,
    reversed: Option<&'static str>,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let colour = match cell.fg {
            Color::Red => "r",
            Color::Green => "g",
            Color::Magenta => "m",
            Color::Cyan => "y",
            _ => "c",
        };
        let reversed = cell.modifier.contains(Modifier::REVERSED).then_some(match colour {
            "r" => "br",
            "m" => "bm",
            "y" => "by",
            _ => "bc",
        });
        let mut class = if reversed.is_some() { "v" } else { colour }.to_owned();
        for (modifier, name) in [(Modifier::BOLD, " b"), (Modifier::DIM, " d"), (Modifier::UNDERLINED, " u")]
        {
            // What is reversed has to be read.
            if cell.modifier.contains(modifier) && !(name == " d" && reversed.is_some()) {
                class.push_str(name);
            }
        }
        Self { class, reversed }
    }
}

fn line(body: &mut String, cells: &[Cell], row: usize) {
    let mut looks: Vec<Look> = cells.iter().map(Look::of).collect();
    for index in 1..cells.len() {
        // The right half of a wide character.
        if cells[index - 1].symbol().width() > 1 {
            looks[index] = looks[index - 1].clone();
        }
    }
    let mut at = 0;
    while at < cells.len() {
        let look = looks[at].clone();
        let end = (at..cells.len()).find(|index| looks[*index] != look).unwrap_or(cells.len());
        if let Some(class) = look.reversed {
            boxed(body, class, (left(at), top(row)), ((end - at) * CELL.0, CELL.1));
        }
        run(body, &cells[at..end], &look, at, row);
        at = end;
    }
}

/// Cells that look alike: words as text, the rest as boxes.
fn run(body: &mut String, cells: &[Cell], look: &Look, first: usize, row: usize) {
    let mut at = 0;
    while at < cells.len() {
        let symbol = cells[at].symbol();
        let same = cells[at..].iter().take_while(|cell| cell.symbol() == symbol).count();
        if symbol == " " || symbol.is_empty() {
            at += same;
        } else if let Some(shape) = shape(symbol) {
            let (x, y, width, height) = shape;
            // Neighbours make one box if they touch.
            let count = if width == CELL.0 { same } else { 1 };
            let size = (width + (count - 1) * CELL.0, height);
            boxed(body, &look.class, (left(first + at) + x, top(row) + y), size);
            at += count;
        } else {
            let end = (at + 1..cells.len()).find(|index| ends_text(cells, *index)).unwrap_or(cells.len());
            text(body, &cells[at..end], look, first + at, row);
            at = end;
        }
    }
}

/// Two blanks in a row, a shape, or a wide character: a font may have those wider or narrower than two others, and they must not
/// move what is beside them.
fn ends_text(cells: &[Cell], index: usize) -> bool {
    if index > 0 && cells[index - 1].symbol().width() > 1 {
        // Its right half.
        return false;
    }
    if cells[index].symbol().width() > 1 || (index > 1 && cells[index - 2].symbol().width() > 1) {
        return true;
    }
    let blank = |index: usize| cells.get(index).is_none_or(|cell| cell.symbol() == " ");
    shape(cells[index].symbol()).is_some() || (blank(index) && blank(index + 1))
}

fn text(body: &mut String, cells: &[Cell], look: &Look, column: usize, row: usize) {
    let mut words = String::new();
    let mut skip = 0;
    for cell in cells {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        words.push_str(cell.symbol());
        // The cells under a wide character's right half are blank, and no blanks.
        skip = cell.symbol().width().saturating_sub(1);
    }
    let _ = write!(
        body,
        "<text class=\"{}\" x=\"{}\" y=\"{}\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
        look.class,
        px(left(column)),
        px(top(row) + BASELINE),
        px(cells.len() * CELL.0),
        escape::xml(&words)
    );
}

fn boxed(body: &mut String, class: &str, (x, y): (usize, usize), (width, height): (usize, usize)) {
    let _ = write!(
        body,
        "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
        px(x),
        px(y),
        px(width),
        px(height)
    );
}

/// Left, top, width and height of what is a box, in tenths of a pixel.
fn shape(symbol: &str) -> Option<(usize, usize, usize, usize)> {
    let (width, height) = CELL;
    // Lines of text touch, and bars of neighbouring lines must not.
    let tall = height - 30;
    let level = |eighths: usize| {
        let high = (tall * eighths / 8).max(12);
        Some((4, 15 + tall - high, width - 8, high))
    };
    let part = |eighths: usize| Some((0, 33, width * eighths / 8, tall - 36));
    match symbol {
        "▁" => level(1),
        "▂" => level(2),
        "▃" => level(3),
        "▄" => level(4),
        "▅" => level(5),
        "▆" => level(6),
        "▇" => level(7),
        "█" => part(8),
        "▉" => part(7),
        "▊" => part(6),
        "▋" => part(5),
        "▌" => part(4),
        "▍" => part(3),
        "▎" => part(2),
        "▏" => part(1),
        "─" => Some((0, height / 2, width, 8)),
        _ => None,
    }
}
