//! The plan as a picture: sockets, their nodes, clusters or cores, and every CPU with who runs on it.
//!
//! Layout is arithmetic on fixed cell sizes; the same report gives the same picture.

mod notes;
mod roles;
mod style;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use self::{
    notes::Note,
    roles::{CpuRole, Roles},
};
use super::{BindReport, escape, gib};
use crate::core::{
    idset::CpuSet,
    topology::{Socket, SocketNode, Topology},
};

const CELL_WIDTH: usize = 38;
const CELL_HEIGHT: usize = 30;
const UNIT_GAP: usize = 5;
const PAD: usize = 12;
const LINE: usize = 18;
/// Height of a box's heading.
const HEAD: usize = 26;
/// Space between sockets.
const GUTTER: usize = 18;
/// The picture grows down rather than wider than this, if it can.
const PAGE_WIDTH: usize = 1540;
/// Room for a line about a group.
const MIN_SOCKET_WIDTH: usize = 600;
/// Average width of a character at 12 px, in tenths of a pixel; on the wide side.
const CHAR_TENTHS: usize = 68;
/// The same for bold text at 12 px.
const BOLD_CHAR_TENTHS: usize = 74;
/// The same for the title.
const TITLE_CHAR_TENTHS: usize = 94;

/// The report's plan as a self-contained SVG document.
#[must_use]
pub fn bind(report: &BindReport) -> String {
    let sockets = &report.topology.sockets;
    let grids: Vec<Vec<Grid>> = sockets
        .iter()
        .map(|socket| socket.nodes.iter().map(|node| Grid::new(&report.topology, node)).collect())
        .collect();
    let all = || grids.iter().flatten();
    let node_width = all().map(Grid::width).max().unwrap_or(0).max(190) + 2 * PAD;
    let node_height = all().map(Grid::height).max().unwrap_or(0) + HEAD + PAD;
    let frame = Frame::new(
        sockets.iter().map(|socket| socket.nodes.len()).max().unwrap_or(1),
        node_width,
        node_height,
    );
    let picture = Picture { report, roles: Roles::new(report), frame };
    let frame = &picture.frame;

    let notes: Vec<Vec<Note>> = sockets.iter().map(|socket| notes::socket(report, socket)).collect();
    let per_row = ((PAGE_WIDTH + GUTTER) / (frame.width + GUTTER)).clamp(1, sockets.len().max(1));
    let rows = sockets.len().div_ceil(per_row);
    let per_row = sockets.len().div_ceil(rows.max(1)).max(1);
    let width = per_row * (frame.width + GUTTER) + GUTTER;

    let mut body = String::new();
    label(&mut body, (GUTTER, 28), "title", &fit(&report.shape(), width - 2 * GUTTER, TITLE_CHAR_TENTHS));
    let host = &report.host;
    let about = format!("{} · {} · {} · {}", host.hostname, host.time, report.mode(), report.counts());
    label(&mut body, (GUTTER, 48), "dim", &fit(&about, width - 2 * GUTTER, CHAR_TENTHS));

    let mut y = 62;
    for first in (0..sockets.len()).step_by(per_row) {
        let row = first..(first + per_row).min(sockets.len());
        let lines = notes[row.clone()].iter().map(Vec::len).max().unwrap_or(0);
        let nodes = sockets[row.clone()].iter().map(|socket| socket.nodes.len()).max().unwrap_or(1);
        let height = frame.nodes_height(nodes) + lines * LINE + PAD;
        for (column, index) in row.enumerate() {
            let x = GUTTER + column * (frame.width + GUTTER);
            body += &picture.socket(&sockets[index], &grids[index], &notes[index], (x, y, height));
        }
        y += height + GUTTER;
    }
    for line in notes::machine(&report.topology) {
        label(&mut body, (GUTTER, y + 6), "dim", &fit(&line, width - 2 * GUTTER, CHAR_TENTHS));
        y += LINE;
    }
    y = legend(&mut body, &picture.roles, width, y + 4);

    let title = escape::xml(&report.shape());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"na-plan\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" \
         height=\"{y}\" role=\"img\" aria-label=\"{title}\">{}\
         <defs><pattern id=\"na-hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><line class=\"hatch\" y2=\"7\"/></pattern></defs>\
         <rect class=\"paper\" width=\"{width}\" height=\"{y}\"/>{body}</svg>\n",
        style::sheet()
    )
}

/// Where the nodes sit in a socket's box; the same in every socket.
struct Frame {
    width: usize,
    columns: usize,
    node: (usize, usize),
}

impl Frame {
    fn new(nodes: usize, node_width: usize, node_height: usize) -> Self {
        let fitting = ((PAGE_WIDTH / 2).saturating_sub(PAD) / (node_width + PAD)).max(1);
        let columns = nodes.clamp(1, fitting.max(2));
        let width = (columns * (node_width + PAD) + PAD).max(MIN_SOCKET_WIDTH);
        // Nodes share the width that the lines below them need.
        let node_width = (width - PAD) / columns - PAD;
        Self { width, columns, node: (node_width, node_height) }
    }

    fn nodes_height(&self, nodes: usize) -> usize {
        HEAD + nodes.div_ceil(self.columns) * (self.node.1 + PAD)
    }
}

/// A node's CPUs in cells, by cluster where there are clusters, else by core.
struct Grid {
    units: Vec<CpuSet>,
    /// Columns and rows of cells in the largest unit.
    unit: (usize, usize),
    columns: usize,
}

impl Grid {
    fn new(topology: &Topology, node: &SocketNode) -> Self {
        let clusters = topology.clusters_of(&node.cpus);
        let units = if clusters.is_empty() { topology.cores_of(&node.cpus) } else { clusters };
        let largest = units.iter().map(CpuSet::len).max().unwrap_or(1);
        let unit_columns = largest.min(8);
        let across = if node.cpus.len() <= 64 { 8 } else { 16 };
        let columns = (across / unit_columns).clamp(1, units.len().max(1));
        Self { units, unit: (unit_columns, largest.div_ceil(unit_columns)), columns }
    }

    /// From one unit to the next.
    fn pitch(&self) -> (usize, usize) {
        let gap = if self.unit == (1, 1) { 0 } else { UNIT_GAP };
        (self.unit.0 * CELL_WIDTH + gap, self.unit.1 * CELL_HEIGHT + gap)
    }

    fn width(&self) -> usize {
        self.columns * self.pitch().0
    }

    fn height(&self) -> usize {
        self.units.len().div_ceil(self.columns) * self.pitch().1
    }

    fn draw(&self, roles: &Roles, (left, top): (usize, usize), title: &dyn Fn(u32) -> String) -> String {
        let mut out = String::new();
        let (across, down) = self.pitch();
        for (index, unit) in self.units.iter().enumerate() {
            let (x, y) = (left + index % self.columns * across, top + index / self.columns * down);
            for (position, cpu) in unit.iter().enumerate() {
                let at = (x + position % self.unit.0 * CELL_WIDTH, y + position / self.unit.0 * CELL_HEIGHT);
                out += &cell(cpu, &roles.of(cpu), at, &title(cpu));
            }
            if self.unit != (1, 1) {
                let (columns, rows) = (unit.len().min(self.unit.0), unit.len().div_ceil(self.unit.0));
                let (width, height) = (columns * CELL_WIDTH, rows * CELL_HEIGHT);
                let _ = write!(
                    out,
                    "<rect class=\"unit\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"2\"/>"
                );
            }
        }
        out
    }
}

/// What every part of the picture needs to know.
struct Picture<'a> {
    report: &'a BindReport,
    roles: Roles,
    frame: Frame,
}

impl Picture<'_> {
    fn socket(
        &self,
        socket: &Socket,
        grids: &[Grid],
        notes: &[Note],
        (x, y, height): (usize, usize, usize),
    ) -> String {
        let mut out = boxed("socket", (x, y), (self.frame.width, height), 8);
        label(&mut out, (x + PAD, y + 18), "head", &format!("socket {}", socket.id));
        for (index, (node, grid)) in socket.nodes.iter().zip(grids).enumerate() {
            let (width, height) = self.frame.node;
            let left = x + PAD + index % self.frame.columns * (width + PAD);
            let top = y + HEAD + index / self.frame.columns * (height + PAD);
            out += &boxed("node", (left, top), (width, height), 5);
            let memory = gib(self.report.topology.node(node.id).and_then(|node| node.memory_bytes));
            let head = format!("node {} · CPUs {} · {memory}", node.id, node.cpus);
            label(&mut out, (left + PAD, top + 17), "strong", &fit(&head, width - 2 * PAD, BOLD_CHAR_TENTHS));
            let grid_left = left + (width - grid.width()) / 2;
            out += &grid.draw(&self.roles, (grid_left, top + HEAD), &|cpu| {
                notes::cpu(self.report, &self.roles, socket.id, cpu)
            });
        }
        let mut line = y + self.frame.nodes_height(socket.nodes.len()) + 8;
        for note in notes {
            let (role, indent, class, text) = match note {
                Note::Group(cpus, text) => (Some(self.roles.shared_by(cpus)), 22, "", text),
                Note::Others(text) => (Some(CpuRole { other: true, ..CpuRole::default() }), 22, "", text),
                Note::Tenant(text) => (None, 34, "strong", text),
            };
            if let Some(role) = role {
                key(&mut out, &role, (x + PAD, line - 10));
            }
            let text = fit(text, self.frame.width - indent - 2 * PAD, BOLD_CHAR_TENTHS);
            label(&mut out, (x + PAD + indent, line), class, &text);
            line += LINE;
        }
        out
    }
}

/// Explains what occurs in the picture; returns the picture's height.
fn legend(out: &mut String, roles: &Roles, width: usize, y: usize) -> usize {
    let groups = roles.groups();
    let mut items: Vec<(CpuRole, String)> = Vec::new();
    let shared = roles.any(|role| role.groups.len() > 1);
    if !shared {
        items.extend(
            groups
                .iter()
                .take(style::COLOURS as usize)
                .map(|&index| (CpuRole::of_group(index), format!("g{index}: group {index} of the socket"))),
        );
    }
    if shared {
        items.push((
            CpuRole { groups: groups.into_iter().collect(), ..CpuRole::default() },
            "g: groups that share the node".into(),
        ));
    }
    if roles.any(|role| role.forward) {
        items.push((CpuRole { forward: true, ..CpuRole::default() }, "f: forward threads (hatched)".into()));
    }
    if roles.any(|role| role.other) {
        items.push((CpuRole { other: true, ..CpuRole::default() }, "o: background processes (dot)".into()));
    }
    if roles.any(|role| role.allowed && role.is_free()) {
        items.push((CpuRole::default(), "free: not used by the plan".into()));
    }
    if roles.any(|role| !role.allowed) {
        items.push((CpuRole::default(), "×: not allowed by our cgroup".into()));
    }
    let (mut x, mut line) = (GUTTER, y + 14);
    for (role, text) in items {
        let needed = 22 + text.chars().count() * CHAR_TENTHS / 10 + 14;
        if x + needed > width && x > GUTTER {
            (x, line) = (GUTTER, line + LINE);
        }
        key(out, &role, (x, line - 10));
        label(out, (x + 22, line), "", &text);
        x += needed;
    }
    line + GUTTER
}

fn cell(cpu: u32, role: &CpuRole, (x, y): (usize, usize), title: &str) -> String {
    let mut out = format!("<g class=\"cpu\" data-cpu=\"{cpu}\"><title>{}</title>", escape::xml(title));
    fill(&mut out, role, (x, y), (CELL_WIDTH, CELL_HEIGHT));
    let middle = x + CELL_WIDTH / 2;
    let mark = role.mark();
    // Only a shared node on a machine with many groups has marks this long.
    let squeeze = if mark.len() > 7 { " textLength=\"34\" lengthAdjust=\"spacingAndGlyphs\"" } else { "" };
    let mark = escape::xml(&mark);
    let _ = write!(
        out,
        "<text x=\"{middle}\" y=\"{}\">{cpu}</text><text class=\"mark\"{squeeze} x=\"{middle}\" y=\"{}\">{mark}</text></g>",
        y + 13,
        y + 25
    );
    out
}

/// A legend's or a line's small cell.
fn key(out: &mut String, role: &CpuRole, at: (usize, usize)) {
    fill(out, role, at, (15, 12));
}

/// A cell's ground: colour by group, hatching for forward threads, a dot for background processes.
fn fill(out: &mut String, role: &CpuRole, (x, y): (usize, usize), (width, height): (usize, usize)) {
    let class = match (role.groups.len(), role.groups.first()) {
        (1, Some(index)) => format!("g{}", index % style::COLOURS),
        (0, _) if role.forward => "forward".to_owned(),
        (0, _) => "none".to_owned(),
        _ => "many".to_owned(),
    };
    let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
    let _ = write!(out, "<rect class=\"cell {class}\" {place}/>");
    if role.forward {
        let _ = write!(out, "<rect fill=\"url(#na-hatch)\" {place}/>");
    }
    if role.other {
        let _ = write!(out, "<circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"2.5\"/>", x + width - 4, y + 4);
    }
}

fn boxed(class: &str, (x, y): (usize, usize), (width, height): (usize, usize), radius: usize) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\"/>"
    )
}

fn label(out: &mut String, (x, y): (usize, usize), class: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = write!(out, "<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escape::xml(text));
}

/// The text made visible and cut to what fits into `width` pixels.
fn fit(text: &str, width: usize, char_tenths: usize) -> String {
    escape::shortened(&escape::text(text), width * 10 / char_tenths)
}
