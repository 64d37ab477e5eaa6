//! Where threads were: moves from node to node, CPU time and memory by node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::style::NODE_COLOURS;
use crate::{
    core::jitter::{
        figures::Migrations,
        recording::ThreadRecord,
        rollup::{self, Rollup},
    },
    report::{
        escape::xml,
        jitter::{
            digest::{Digest, RoleOrder, role_word},
            tables::{off_node, process},
            units::{NOT_MEASURED, bytes, count, duration, share, short_count},
        },
    },
};

/// Width and height of a cell, room for labels, space between sockets.
const CELL: (usize, usize) = (50, 30);
const LABELS: (usize, usize) = (64, 22);
const GAP: usize = 6;
/// Bars by group and role, and by process.
const GROUPS: usize = 64;
const PROCESSES: usize = 24;
/// Rows and columns beyond this many are left to the tables.
const MOST_PLACES: usize = 16;

/// Moves from node to node: numbers, the more the warmer; those within a node are not held against anybody.
pub(super) fn matrix(digest: &Digest) -> String {
    let Some(moves) = &digest.all.rollup.figures.migrations else {
        return format!("<p class=\"dim\">{NOT_MEASURED}</p>");
    };
    let unit = digest.matrix_of();
    let places = digest.places(moves);
    if places.len() < 2 {
        return format!(
            "<p class=\"dim\">There is one {unit} only: {} moves between its CPUs, none between {unit}s.</p>",
            count(moves.total())
        );
    }
    let shown = &places[..places.len().min(MOST_PLACES)];
    let left_out = match places.len() - shown.len() {
        0 => String::new(),
        more => format!("<p class=\"dim\">{more} more {unit}s: see the JSON report.</p>"),
    };
    draw(digest, moves, shown) + &left_out
}

fn draw(digest: &Digest, moves: &Migrations, places: &[u32]) -> String {
    let unit = digest.matrix_of();
    let offsets = offsets(digest, places);
    let most =
        moves.matrix.iter().filter(|step| step.from != step.to).map(|step| step.count).max().unwrap_or(0);
    let gaps = offsets.last().map_or(0, |last| last - (places.len() - 1) * CELL.0);
    let width = LABELS.0 + places.len() * CELL.0 + gaps + 2;
    let height = LABELS.1 + places.len() * CELL.1 + gaps + 2;
    let mut svg = format!(
        "<svg class=\"heat\" viewBox=\"0 0 {width} {height}\" style=\"max-width:{}px\" role=\"img\" aria-label=\"Moves from {unit} to {unit}\">",
        width * 6 / 5
    );
    for (column, to) in places.iter().enumerate() {
        let x = LABELS.0 + offsets[column] + CELL.0 / 2;
        let _ = write!(svg, "<text class=\"mid\" x=\"{x}\" y=\"14\">to {to}</text>");
    }
    for (row, from) in places.iter().enumerate() {
        let y = LABELS.1 + row * CELL.1 + (offsets[row] - row * CELL.0);
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">from {from}</text>",
            LABELS.0 - 8,
            y + CELL.1 / 2 + 4
        );
        for (column, to) in places.iter().enumerate() {
            let x = LABELS.0 + offsets[column];
            svg += &cell(
                (x, y),
                digest.moved(moves, *from, *to),
                most,
                from == to,
                &format!("from {unit} {from} to {to}"),
            );
        }
    }
    svg + "</svg>"
}

fn cell((x, y): (usize, usize), moved: u64, most: u64, home: bool, title: &str) -> String {
    let place = format!("x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"", CELL.0, CELL.1);
    let mut out = format!("<g><title>{title}: {}</title>", count(moved));
    let ground = if home { "cell home" } else { "cell" };
    let _ = write!(out, "<rect class=\"{ground}\" {place}/>");
    if moved > 0 && !home {
        let warmth = 0.1 + 0.55 * (moved as f64).ln_1p() / (most as f64).ln_1p();
        let _ = write!(out, "<rect class=\"warm\" fill-opacity=\"{warmth:.2}\" {place}/>");
    }
    let (class, figure) =
        if moved == 0 { ("figure zero", "0".into()) } else { ("figure", short_count(moved)) };
    let _ = write!(
        out,
        "<text class=\"{class}\" x=\"{}\" y=\"{}\">{figure}</text></g>",
        x + CELL.0 / 2,
        y + CELL.1 / 2 + 4
    );
    out
}

/// Where columns begin: nodes of a socket next to each other, a gap between sockets.
fn offsets(digest: &Digest, places: &[u32]) -> Vec<usize> {
    let socket_of = |node: u32| {
        let run = digest.recording.runs.first()?;
        run.host.sockets.iter().find(|(_, nodes)| nodes.contains(&node)).map(|(socket, _)| *socket)
    };
    let mut gaps = 0;
    let mut offsets = Vec::new();
    for (index, place) in places.iter().enumerate() {
        if index > 0 && digest.matrix_of() == "node" && socket_of(*place) != socket_of(places[index - 1]) {
            gaps += GAP;
        }
        offsets.push(index * CELL.0 + gaps);
    }
    offsets
}

/// CPU time by node, a bar for each group and role, or for each process where there are no groups. Hatched: not the home
/// of any of these threads.
pub(super) fn cpu_time(digest: &Digest) -> String {
    let recording = digest.recording;
    let mut homes: BTreeMap<Bar, BTreeSet<u32>> = BTreeMap::new();
    let grouped = digest.grouped();
    let bar = |thread| if grouped { Bar::group(thread) } else { Bar::process(thread) };
    for thread in &recording.threads {
        homes.entry(bar(thread)).or_default().extend(&thread.home_nodes);
    }
    let no_home = BTreeSet::new();
    let mut all: Vec<(Bar, Rollup)> = rollup::by(recording, bar).into_iter().collect();
    if !grouped {
        all.sort_by_key(|(_, together)| std::cmp::Reverse(together.figures.run_ns));
    }
    let most = if grouped { GROUPS } else { PROCESSES };
    let mut rows = String::new();
    for (bar, together) in all.iter().take(most) {
        let home = homes.get(bar).unwrap_or(&no_home);
        rows += &format!(
            "<div class=\"name\">{}</div>{}<div class=\"n\">{} · off node {}</div>",
            bar.name(digest),
            stack(&together.figures.node_ns, duration, |node| !home.is_empty() && !home.contains(&node)),
            duration(together.figures.run_ns),
            off_node(together)
        );
    }
    let nodes = digest.all.rollup.figures.node_ns.keys().copied();
    stacks(&rows, nodes, true, all.len().saturating_sub(most))
}

/// Whose CPU time a bar is, in the order of bars.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Bar<'a> {
    Group(&'a str, RoleOrder),
    NoGroup(RoleOrder),
    Process(usize, u32),
}

impl<'a> Bar<'a> {
    fn group(thread: &'a ThreadRecord) -> Self {
        let role = RoleOrder(thread.role);
        thread.group.as_deref().map_or(Self::NoGroup(role), |group| Self::Group(group, role))
    }

    fn process(thread: &ThreadRecord) -> Self {
        Self::Process(thread.run, thread.pid)
    }

    fn name(&self, digest: &Digest) -> String {
        let role = |role| format!("<span class=\"dim\">{}</span>", role_word(role, digest.planned()));
        match self {
            Self::Group(name, of) => format!("{} {}", xml(name), role(*of)),
            Self::NoGroup(of) => format!("no group {}", role(*of)),
            Self::Process(run, pid) => process(digest, *run, *pid, &xml),
        }
    }
}

/// Memory by node, a bar for each process, the largest first.
pub(super) fn memory(digest: &Digest) -> String {
    let size = |memory: &Option<BTreeMap<u32, u64>>| {
        memory.as_ref().map(|nodes| nodes.values().copied().fold(0, u64::saturating_add))
    };
    let mut all: Vec<_> = digest.recording.processes.iter().collect();
    all.sort_by_key(|process| std::cmp::Reverse(size(&process.memory)));
    let mut rows = String::new();
    for record in all.iter().take(PROCESSES) {
        let group = record.group.as_deref().map(xml).unwrap_or_default();
        let (bar, total) = match &record.memory {
            None => ("<div></div>".to_owned(), NOT_MEASURED.to_owned()),
            Some(nodes) => (stack(nodes, bytes, |_| false), bytes(size(&record.memory).unwrap_or(0))),
        };
        let process = process(digest, record.run, record.pid, &xml);
        rows += &format!(
            "<div class=\"name\">{process} <span class=\"dim\">{group}</span></div>{bar}<div class=\"n\">{total}</div>"
        );
    }
    let nodes =
        all.iter().filter_map(|process| process.memory.as_ref()).flat_map(|nodes| nodes.keys().copied());
    stacks(&rows, nodes, false, all.len().saturating_sub(PROCESSES))
}

fn stacks(rows: &str, nodes: impl Iterator<Item = u32>, hatched: bool, left_out: usize) -> String {
    let nodes: BTreeSet<u32> = nodes.collect();
    if rows.is_empty() {
        return "<p class=\"dim\">none</p>".into();
    }
    let swatch = |class: &str, name: &str| format!("<span><i class=\"swatch {class}\"></i>{name}</span>");
    let mut key: String = nodes
        .iter()
        .map(|node| swatch(&format!("n{}", node % NODE_COLOURS), &format!("node {node}")))
        .collect();
    if hatched {
        key += &swatch("off", "not a home");
    }
    let more = match left_out {
        0 => String::new(),
        more => format!("<p class=\"dim\">{} more: the JSON report has all.</p>", count(more as u64)),
    };
    format!("<div class=\"key\">{key}</div><div class=\"stacks\">{rows}</div>{more}")
}

/// A bar of parts by node.
fn stack(nodes: &BTreeMap<u32, u64>, unit: fn(u64) -> String, off: impl Fn(u32) -> bool) -> String {
    let all = nodes.values().map(|part| *part as f64).sum::<f64>();
    let mut out = String::from("<div class=\"stack\">");
    for (node, part) in nodes.iter().filter(|(_, part)| **part > 0) {
        let of = *part as f64 / all;
        let name = match of {
            _ if of >= 0.2 => format!("node {node}"),
            _ if of >= 0.03 => node.to_string(),
            _ => String::new(),
        };
        let _ = write!(
            out,
            "<span class=\"n{}{}\" style=\"flex-grow:{of:.4}\" title=\"node {node}: {} ({})\">{name}</span>",
            node % NODE_COLOURS,
            if off(*node) { " off" } else { "" },
            unit(*part),
            share(of)
        );
    }
    out + "</div>"
}
