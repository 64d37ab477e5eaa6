//! Keys, from the keymap itself, and what marks mean.

use ratatui::style::Style;

use super::{
    Styled,
    pen::{BAD, BOLD, DIM, GOOD, NOTE, PLAIN, TITLE},
};
use crate::view::keys::BINDINGS;

/// Columns of the keys.
const KEYS: usize = 18;

/// What is not plain from the headings.
const MARKS: [(&str, &str); 15] = [
    (
        "▃▅▇ ████··",
        "how busy the CPUs were, a cell a CPU or a bar a node; red: with a thread that should not be there",
    ),
    ("here/plan", "managed threads last seen on a node / those that belong there"),
    ("!2", "two of those seen there belong elsewhere"),
    ("g0 (g1)", "groups whose members belong there; in brackets without an instance"),
    ("fwd g0", "groups whose forward threads belong there"),
    ("n3:127!", "last seen on CPU 127 of node 3, which is not its node"),
    ("n3:127~", "on its node, but not on its CPUs"),
    ("R", "role: F forward (critical), M member, O other (background)"),
    ("MOVE/s", "moves between CPUs a second; red: some went to another node"),
    ("OFF%", "share of its CPU time outside its nodes"),
    ("P99 MAX", "waits for a CPU: 99 of 100 are within, and the longest"),
    (
        "WAITS",
        "P99 of each interval, newest right: ▁ under 10 us, ▂ 30 us, ▃ 100 us, ▄ 300 us, ▅ 1 ms, ▆ 10 ms, ▇ more",
    ),
    ("PREEMPTOR", "who had the CPU longest while it waited"),
    ("Moves", "rows: from; columns: to. Coloured: between nodes; red: between sockets"),
    ("-", "not measured, or there was nothing to measure"),
];

/// From so many columns on keys and marks stand side by side.
const WIDE: usize = 170;

/// Columns of each then.
const HALF: usize = 84;

/// The page.
#[must_use]
pub fn lines(width: usize) -> Vec<Styled> {
    let columns = if width >= WIDE { HALF } else { width };
    let (keys, mut marks) = (keys(columns), marks(columns));
    let mut lines = Vec::new();
    if width >= WIDE {
        let rows = keys.len().max(marks.len());
        let mut keys = keys.into_iter();
        for index in 0..rows {
            let mut line = keys.next().unwrap_or_default();
            let used: usize = line.iter().map(|(text, _)| super::pen::width(text)).sum();
            if let Some(mark) = marks.get_mut(index) {
                line.push((" ".repeat(HALF - used.min(HALF)), PLAIN));
                line.append(mark);
            }
            lines.push(line);
        }
    } else {
        lines.extend(keys);
        lines.push(Vec::new());
        lines.append(&mut marks);
    }
    lines.push(Vec::new());
    lines.push(vec![
        ("Colours".to_owned(), TITLE),
        ("  ".to_owned(), PLAIN),
        ("as planned".to_owned(), GOOD),
        ("  ".to_owned(), PLAIN),
        ("worth a look".to_owned(), NOTE),
        ("  ".to_owned(), PLAIN),
        ("wrong".to_owned(), BAD),
        ("   never the only sign; NO_COLOR=1: none".to_owned(), DIM),
    ]);
    lines
}

/// `name` in its columns, and what it means, in as many lines as that takes.
fn explained(lines: &mut Vec<Styled>, name: &str, style: Style, meaning: &str, columns: usize) {
    let mut name = format!("  {name}{}", " ".repeat(KEYS.saturating_sub(super::pen::width(name))));
    for text in super::wrapped(meaning, columns.saturating_sub(KEYS + 4)) {
        let blank = " ".repeat(super::pen::width(&name));
        lines.push(vec![(std::mem::replace(&mut name, blank), style), (format!(" {text}"), PLAIN)]);
    }
}

fn keys(columns: usize) -> Vec<Styled> {
    let mut lines = vec![vec![("Keys".to_owned(), TITLE)]];
    for binding in BINDINGS {
        let names: Vec<String> = binding.keys.iter().map(|key| key.name()).collect();
        let keys = names.join(" ");
        explained(&mut lines, &keys, BOLD, binding.help, columns);
    }
    lines
}

fn marks(columns: usize) -> Vec<Styled> {
    let mut lines = vec![vec![("Marks".to_owned(), TITLE)]];
    for (mark, meaning) in MARKS {
        let style = if mark.contains('!') { BAD } else { PLAIN };
        explained(&mut lines, mark, style, meaning, columns);
    }
    lines
}
