//! Moves of managed threads in the interval, from node to node.

use std::collections::BTreeMap;

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    pen::{BAD, DIM, NOTE, PLAIN, Pen},
    title,
    words::short_count,
};
use crate::{
    report::many,
    view::app::{App, Panel},
};

/// A figure and the space before it.
const CELL: usize = 4;

/// Columns that the panel's name takes.
const TITLE: u16 = 32;

/// What is in the rows and columns.
struct Matrix {
    letter: &'static str,
    /// Each one's id, and its socket.
    ids: Vec<(u32, u32)>,
    /// `None` where moves are not counted.
    moves: Option<BTreeMap<(u32, u32), u64>>,
}

impl Matrix {
    fn of(app: &App) -> Option<Self> {
        let snapshot = app.snapshot()?;
        let by_socket = snapshot.matrix_of == "socket";
        let ids = match by_socket {
            true => snapshot.status.sockets.iter().map(|socket| (socket.id, socket.id)).collect(),
            // A node without CPUs is no place to move to.
            false => app
                .nodes()
                .filter(|(_, node)| !node.cpus.is_empty())
                .map(|(socket, node)| (node.id, socket.id))
                .collect(),
        };
        let moves = snapshot.moves.as_ref().map(|moves| {
            let mut sums = BTreeMap::new();
            for one in moves {
                *sums.entry((one.from, one.to)).or_default() += one.count;
            }
            sums
        });
        Some(Self { letter: if by_socket { "s" } else { "n" }, ids, moves })
    }

    /// Columns of a row's name.
    fn label(&self) -> usize {
        self.ids.iter().map(|(id, _)| id.to_string().len() + 1).max().unwrap_or(2)
    }

    fn cell(&self) -> usize {
        CELL.max(self.label() + 1)
    }

    fn columns(&self) -> usize {
        // "from " before the first row's name, in the line of the title too.
        self.label() + self.ids.len() * self.cell()
    }
}

/// Columns and rows that all of it takes.
#[must_use]
pub fn size(app: &App) -> (u16, u16) {
    let Some(matrix) = Matrix::of(app) else { return (TITLE, 4) };
    let columns = u16::try_from(matrix.columns()).unwrap_or(u16::MAX).max(TITLE);
    let rows = u16::try_from(matrix.ids.len()).unwrap_or(u16::MAX).saturating_add(2).max(4);
    // More is a list.
    if columns > 120 { (26, 10) } else { (columns, rows) }
}

/// Draws it.
pub fn draw(app: &App, buffer: &mut Buffer, place: Rect) {
    let Some(matrix) = Matrix::of(app) else { return };
    let across = |(from, to): (u32, u32)| {
        let socket = |id| matrix.ids.iter().find(|(other, _)| *other == id).map(|(_, socket)| *socket);
        socket(from) != socket(to)
    };
    let moves = matrix.moves.as_ref();
    let between: u64 = moves
        .map_or(0, |moves| moves.iter().filter(|((from, to), _)| from != to).map(|(_, count)| *count).sum());
    let name = match (moves, matrix.letter) {
        (None, _) if place.height == 1 && app.data().intervals > 0 => "Moves: not counted".to_owned(),
        (None, _) => "Moves".to_owned(),
        (Some(_), "s") => format!("Moves: {between} between sockets"),
        (Some(_), _) => format!("Moves: {between} between nodes"),
    };
    if place.height == 1 {
        // It lies on another panel's rule.
        buffer.set_style(place, ratatui::style::Style::reset());
    }
    title(app, Panel::Moves, &name, buffer, place).text(" ", PLAIN).fill("─", DIM);
    let Some(moves) = moves else {
        let text = match app.data().intervals {
            0 => "after the first interval",
            _ => "not counted here: see numa-agent doctor",
        };
        Pen::line(buffer, place, 1).text(text, NOTE);
        return;
    };
    let style = |pair: (u32, u32)| match pair {
        (from, to) if from == to => PLAIN,
        pair if across(pair) => BAD,
        _ => NOTE,
    };
    if matrix.columns() > usize::from(place.width) || matrix.ids.len() + 2 > usize::from(place.height) {
        return list(&matrix, moves, &style, buffer, place);
    }
    let (label, cell) = (matrix.label(), matrix.cell());
    let mut pen = Pen::line(buffer, place, 1);
    pen.cell(label, "↓→", DIM);
    for (id, _) in &matrix.ids {
        pen.figure(cell, &format!("{}{id}", matrix.letter), DIM);
    }
    for (row, (from, _)) in matrix.ids.iter().enumerate() {
        let mut pen = Pen::line(buffer, place, row + 2);
        pen.cell(label, &format!("{}{from}", matrix.letter), DIM);
        for (to, _) in &matrix.ids {
            match moves.get(&(*from, *to)) {
                Some(count) if *count > 0 => pen.figure(cell, &short_count(*count), style((*from, *to))),
                _ => pen.figure(cell, "·", DIM),
            };
        }
    }
}

/// Where there is no room for all: most first.
fn list(
    matrix: &Matrix,
    moves: &BTreeMap<(u32, u32), u64>,
    style: &dyn Fn((u32, u32)) -> ratatui::style::Style,
    buffer: &mut Buffer,
    place: Rect,
) {
    let mut pairs: Vec<_> = moves.iter().filter(|((from, to), count)| from != to && **count > 0).collect();
    pairs.sort_by_key(|(pair, count)| (std::cmp::Reverse(**count), **pair));
    let rows = usize::from(place.height.saturating_sub(1));
    let shown = if pairs.len() > rows { rows.saturating_sub(1) } else { pairs.len() };
    for (row, ((from, to), count)) in pairs.iter().take(shown).enumerate() {
        let letter = matrix.letter;
        let mut pen = Pen::line(buffer, place, row + 1);
        pen.cell(14, &format!("{letter}{from} → {letter}{to}"), PLAIN);
        pen.figure(6, &short_count(**count), style((*from, *to)));
    }
    if shown < pairs.len() {
        let rest: u64 = pairs[shown..].iter().map(|(_, count)| **count).sum();
        let text = format!("{} in {} more pairs", many(rest, "move", "s"), pairs.len() - shown);
        Pen::line(buffer, place, shown + 1).text(&text, DIM);
    }
}
