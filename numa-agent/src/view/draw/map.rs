//! Sockets and nodes: how busy, how many managed threads are there of how many that should be, and for whom each node is.
//!
//! A line a node; with room to the right a cell a CPU, with room below a line a group; with little room many nodes in a line.

use std::collections::{BTreeSet, HashMap};

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    first_shown,
    pen::{BAD, BOLD, CURSOR, DIM, GOOD, NOTE, PLAIN, Pen, level, width},
    title,
    words::{NONE, cpus, group_index, percent},
};
use crate::{
    core::view::{Group, Node, Place, Process, Snapshot, Socket},
    report::{many, units::bytes as bytes_text},
    view::app::{App, Panel},
};

/// From so many columns on a line for each group says enough.
const GROUP_LINES: u16 = 84;

/// Rows that it wants, at most `most`; a line for each group only within `half`.
#[must_use]
pub fn height(app: &App, width: u16, most: u16, half: u16) -> u16 {
    let Some(snapshot) = app.snapshot() else { return 2 };
    let rows = |rows: usize| u16::try_from(rows + 1).unwrap_or(u16::MAX);
    let (nodes, groups) = (app.nodes().count(), group_lines(snapshot));
    if width >= GROUP_LINES && rows(nodes + groups) <= half.min(most) {
        return rows(nodes + groups);
    }
    if rows(nodes) <= most {
        return rows(nodes);
    }
    // As many as there may be: tiles are as large as their room.
    most
}

/// Draws it.
pub fn draw(app: &App, buffer: &mut Buffer, place: Rect) {
    let Some(snapshot) = app.snapshot() else { return };
    let facts = Facts::of(app, snapshot);
    let rows = usize::from(place.height.saturating_sub(1));
    if facts.nodes.len() > rows {
        return tiles(app, &facts, buffer, place);
    }
    let columns = facts.columns(usize::from(place.width));
    let mut pen = title(app, Panel::Nodes, "Nodes", buffer, place);
    // Up to the column of percentages.
    let used = facts.name_width() + columns.load;
    let gap = used.saturating_sub(usize::from(place.width) - pen.room());
    pen.text(&"─".repeat(gap.min(pen.room())), DIM).figure(5, "busy", DIM).skip(1);
    pen.cell(columns.here, "here/plan", DIM).text("for ", DIM).fill("─", DIM);
    let with_groups = place.width >= GROUP_LINES && facts.nodes.len() + group_lines(snapshot) <= rows;
    let mut row = 1;
    for (index, (socket, node)) in facts.nodes.iter().enumerate() {
        let pen = &mut Pen::line(buffer, place, row);
        let first = socket.nodes.first().is_some_and(|first| first.id == node.id);
        pen.cell(facts.socket_width, &if first { format!("s{}", socket.id) } else { String::new() }, BOLD);
        let style = if app.focus == Panel::Nodes && app.node == index { CURSOR } else { BOLD };
        let name = format!("n{}", node.id);
        pen.text(&name, style).skip(facts.name_width().saturating_sub(facts.socket_width + name.len()));
        facts.line(node, &columns, pen);
        row += 1;
        let last = socket.nodes.last().is_some_and(|last| last.id == node.id);
        if with_groups && last {
            for group in
                snapshot.status.groups.iter().filter(|group| group.socket == socket.id && !is_free(group))
            {
                let pen = &mut Pen::line(buffer, place, row);
                pen.skip(facts.socket_width);
                facts.group(group, pen);
                row += 1;
            }
            let status = &snapshot.status;
            if let Some(others) = status.others.as_ref().filter(|others| is_for(socket, others)) {
                let pen = &mut Pen::line(buffer, place, row);
                pen.skip(facts.socket_width);
                let name = if status.background.is_empty() { "no process" } else { "background" };
                facts.crew("oth", name, &status.background, &format!("CPUs {}", cpus(&others.cpus)), pen);
                row += 1;
            }
        }
    }
}

/// Whether the background processes belong on this socket; on the first one if a node of theirs is on several.
fn is_for(socket: &Socket, others: &Place) -> bool {
    socket
        .nodes
        .iter()
        .any(|node| others.nodes.first() == Some(&node.id) && others.cpus.is_subset(&node.cpus))
}

/// Whether nobody is in it; the nodes' lines say so too.
fn is_free(group: &Group) -> bool {
    group.instance.is_none() && group.processes.is_empty()
}

/// Lines of the groups, and of the background processes.
fn group_lines(snapshot: &Snapshot) -> usize {
    let groups = snapshot.status.groups.iter();
    groups.filter(|group| !is_free(group)).count() + usize::from(snapshot.status.others.is_some())
}

/// What lines are made of.
struct Facts<'a> {
    snapshot: &'a Snapshot,
    nodes: Vec<(&'a Socket, &'a Node)>,
    /// How busy each CPU was; `None` where that is not measured.
    busy: Option<HashMap<u32, f64>>,
    /// CPUs with a thread that should not be there, as far as threads are listed.
    strayed: BTreeSet<u32>,
    /// Columns of a socket's name.
    socket_width: usize,
    /// Columns of a node's.
    node_width: usize,
}

/// Columns of a line.
struct Columns {
    load: usize,
    /// Whether that is a cell a CPU.
    cells: bool,
    here: usize,
    /// Whom the node is for.
    users: usize,
}

impl<'a> Facts<'a> {
    fn of(app: &'a App, snapshot: &'a Snapshot) -> Self {
        let nodes: Vec<_> = app.nodes().collect();
        let longest = |id: &dyn Fn(&(&Socket, &Node)) -> u32| {
            nodes.iter().map(|pair| id(pair).to_string().len() + 2).max().unwrap_or(3)
        };
        Self {
            snapshot,
            busy: snapshot.load.as_ref().map(|load| load.iter().map(|load| (load.cpu, load.busy)).collect()),
            strayed: snapshot.threads.iter().filter(|t| t.is_off_plan()).filter_map(|t| t.cpu).collect(),
            socket_width: longest(&|(socket, _)| socket.id),
            node_width: longest(&|(_, node)| node.id),
            nodes,
        }
    }

    fn name_width(&self) -> usize {
        self.socket_width + self.node_width
    }

    fn columns(&self, all: usize) -> Columns {
        let here = self.nodes.iter().map(|(_, node)| width(&here(node)) + 2).max().unwrap_or(0).max(10);
        let users =
            self.nodes.iter().map(|(_, node)| width(&self.users(node, usize::MAX))).max().unwrap_or(0);
        // Five for the percentage.
        let rest = all.saturating_sub(self.name_width() + 6 + here);
        let cells = self.nodes.iter().map(|(_, node)| node.cpus.len()).max().unwrap_or(0);
        if rest >= cells + users.min(24) && cells >= 8 {
            return Columns { load: cells, cells: true, here, users: rest - cells };
        }
        let load = rest.saturating_sub(users).clamp(4, 24);
        Columns { load, cells: false, here, users: rest.saturating_sub(load) }
    }

    fn line(&self, node: &Node, columns: &Columns, pen: &mut Pen) {
        match (self.snapshot.busy(node), &self.busy) {
            _ if node.cpus.is_empty() => {
                let size = node.memory_bytes.map_or(String::new(), |bytes| format!(" {}", bytes_text(bytes)));
                let long = format!("memory only{size}");
                let room = columns.load + 5;
                pen.cell(room, if width(&long) <= room { &long } else { "memory" }, DIM).skip(1)
            }
            (Some(_), Some(busy)) if columns.cells => {
                for cpu in node.cpus.iter() {
                    match busy.get(&cpu).copied() {
                        _ if self.strayed.contains(&cpu) => pen.text("!", BAD),
                        share => pen.text(share.map_or(" ", level), GOOD),
                    };
                }
                pen.skip(columns.load.saturating_sub(node.cpus.len()))
            }
            (Some(share), _) => pen.bar(columns.load, share, self.load_style(node)),
            (None, _) => pen.cell(columns.load, "", DIM),
        };
        if !node.cpus.is_empty() {
            let busy = self.snapshot.busy(node).map_or_else(|| NONE.to_owned(), |share| percent(share) + "%");
            pen.figure(5, &busy, PLAIN).skip(1);
        }
        self.here(node, columns.here, pen);
        pen.text(&self.users(node, columns.users), PLAIN);
    }

    /// Red with a thread that should not be there, as the cells of its CPUs are.
    fn load_style(&self, node: &Node) -> Style {
        if self.strayed.iter().any(|cpu| node.cpus.contains(*cpu)) { BAD } else { GOOD }
    }

    fn here(&self, node: &Node, columns: usize, pen: &mut Pen) {
        let text = here(node);
        let style = if strangers(node) > 0 { BAD } else { PLAIN };
        pen.cell(columns, &text, style);
    }

    /// The groups that a node is for; those without an instance in brackets.
    fn users(&self, node: &Node, room: usize) -> String {
        let status = &self.snapshot.status;
        let of =
            |place: &dyn Fn(&Group) -> bool| status.groups.iter().filter(|g| place(g)).collect::<Vec<_>>();
        let members = of(&|group| group.members.nodes.contains(&node.id));
        let forward = of(&|group| group.forward.nodes.contains(&node.id));
        let others = status.others.as_ref().is_some_and(|place| place.nodes.contains(&node.id));
        let parts = |names: &dyn Fn(&[&Group]) -> String| {
            let mut parts = Vec::new();
            if !members.is_empty() {
                parts.push(names(&members));
            }
            if !forward.is_empty() {
                parts.push(format!("fwd {}", names(&forward)));
            }
            if others {
                parts.push("others".to_owned());
            }
            parts.join(" + ")
        };
        let long = parts(&|groups| each(groups));
        if width(&long) <= room { long } else { parts(&|groups| ranges(groups)) }
    }

    fn group(&self, group: &Group, pen: &mut Pen) {
        let places = format!("CPUs {}, forward {}", cpus(&group.members.cpus), cpus(&group.forward.cpus));
        let name = group.instance.as_deref().unwrap_or("free");
        self.crew(&group_index(&group.name), name, &group.processes, &places, pen);
    }

    /// A line about processes that belong together.
    fn crew(&self, label: &str, name: &str, processes: &[Process], places: &str, pen: &mut Pen) {
        pen.cell(self.node_width.max(4), label, BOLD);
        if processes.is_empty() {
            pen.cell(39, name, DIM).text(places, DIM);
            return;
        }
        let threads: u64 = processes.iter().map(|process| process.threads).sum();
        let own = |pid: u32| processes.iter().any(|process| process.pid == pid);
        let off = self.snapshot.threads.iter().filter(|thread| thread.is_off_plan() && own(thread.pid));
        pen.cell(18, name, PLAIN).skip(1).figure(11, &many(threads, "thread", "s"), PLAIN).skip(1);
        match off.count() {
            0 => pen.skip(8),
            count => pen.cell(8, &format!("{count} off!"), BAD),
        };
        pen.cell(34, places, PLAIN).skip(1);
        let names: Vec<String> =
            processes.iter().map(|process| format!("{} {}", process.comm, process.pid)).collect();
        pen.text(&names.join(", "), DIM);
    }
}

/// `48/50 !2`: managed threads seen there, those that belong there, and those seen that do not belong.
fn here(node: &Node) -> String {
    if node.cpus.is_empty() {
        return String::new();
    }
    let planned: u64 = node.planned.values().sum();
    let present = node.present.map_or_else(|| NONE.to_owned(), |present| present.to_string());
    match strangers(node) {
        0 => format!("{present}/{planned}"),
        strangers => format!("{present}/{planned} !{strangers}"),
    }
}

fn strangers(node: &Node) -> u64 {
    node.strangers.unwrap_or(0)
}

fn each(groups: &[&Group]) -> String {
    let name = |group: &&Group| match &group.instance {
        Some(_) => group_index(&group.name),
        None => format!("({})", group_index(&group.name)),
    };
    groups.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// Neighbours in one: `g0-3 (g4-7)`.
fn ranges(groups: &[&Group]) -> String {
    let mut parts: Vec<(String, String, bool)> = Vec::new();
    for group in groups {
        let (name, taken) = (group_index(&group.name), group.instance.is_some());
        match parts.last_mut() {
            Some((_, last, same)) if *same == taken => *last = name,
            _ => parts.push((name.clone(), name, taken)),
        }
    }
    let text = |(first, last, taken): &(String, String, bool)| {
        let last = last.strip_prefix('g').unwrap_or(last);
        let range = if first.ends_with(last) { first.clone() } else { format!("{first}-{last}") };
        if *taken { range } else { format!("({range})") }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// How a node is shown where several share a line.
struct Tile {
    /// Columns of all of it, and one that sets it off.
    width: usize,
    /// Whether the first of a socket names that.
    socket: bool,
    /// Columns of the bar; a level without.
    bar: usize,
    /// Columns of who is there; one for a mark alone.
    here: usize,
    /// Columns of whom the node is for; none without.
    users: usize,
}

impl Facts<'_> {
    /// The more they say, the earlier.
    fn tiles(&self) -> [Tile; 4] {
        let longest =
            |of: &dyn Fn(&Node) -> usize| self.nodes.iter().map(|(_, node)| of(node)).max().unwrap_or(0);
        let (here, users) =
            (longest(&|node| width(&here(node)) + 2), longest(&|node| width(&self.users(node, 0))));
        let tile = |socket: bool, bar: usize, here: usize, users: usize| {
            let name = if socket { self.name_width() } else { self.node_width };
            let load = if bar > 0 { bar + 5 } else { 5 };
            Tile { width: name + load + 1 + here + users + usize::from(users > 0), socket, bar, here, users }
        };
        [
            tile(true, 4, here.max(9), users),
            tile(false, 4, 12, 0),
            tile(false, 0, 10, 0),
            tile(false, 0, 1, 0),
        ]
    }
}

/// Rows that it wants where a line may have several nodes.
#[must_use]
pub fn folded_height(app: &App, width: u16, most: u16) -> u16 {
    let Some(snapshot) = app.snapshot() else { return 2 };
    let facts = Facts::of(app, snapshot);
    let [tile, ..] = facts.tiles();
    let per_row = (usize::from(width) / tile.width).max(1);
    u16::try_from(facts.nodes.len().div_ceil(per_row) + 1).unwrap_or(u16::MAX).min(most)
}

/// Many nodes in little room.
fn tiles(app: &App, facts: &Facts, buffer: &mut Buffer, place: Rect) {
    let rows = usize::from(place.height.saturating_sub(1));
    let per_row = |tile: &Tile| (usize::from(place.width) / tile.width).max(1);
    let kinds = facts.tiles();
    let fitting = kinds.iter().find(|tile| per_row(tile) * rows >= facts.nodes.len());
    let tile = fitting.unwrap_or(&kinds[3]);
    let per_row = per_row(tile);
    let all_rows = facts.nodes.len().div_ceil(per_row);
    let first = first_shown(app.node / per_row, all_rows, rows) * per_row;
    let shown = (rows * per_row).min(facts.nodes.len() - first);
    let mut pen = title(app, Panel::Nodes, &format!("Nodes {}", facts.nodes.len()), buffer, place);
    match facts.nodes.len() - shown {
        0 if tile.users > 0 => pen.text(" busy, here/plan, for ", DIM),
        0 if tile.here > 1 => pen.text(" busy, here/plan ", DIM),
        0 => pen.text(" busy ", DIM),
        hidden => pen.text(&format!(" {hidden} not in sight "), NOTE),
    };
    pen.fill("─", DIM);
    let spread = usize::from(place.width) / per_row;
    for (index, (socket, node)) in facts.nodes.iter().enumerate().skip(first).take(shown) {
        let at = index - first;
        let step = if tile.users > 0 { spread } else { tile.width };
        let left = u16::try_from(at % per_row * step).unwrap_or(u16::MAX);
        let width = u16::try_from(step - 1).unwrap_or(u16::MAX);
        let left = Rect { x: place.x.saturating_add(left), width, ..place };
        let pen = &mut Pen::line(buffer, left.intersection(place), at / per_row + 1);
        if tile.socket {
            let is_first = socket.nodes.first().is_some_and(|first| first.id == node.id);
            let name = if is_first { format!("s{}", socket.id) } else { String::new() };
            pen.cell(facts.socket_width, &name, BOLD);
        }
        let style = if app.focus == Panel::Nodes && app.node == index { CURSOR } else { BOLD };
        let name = format!("n{}", node.id);
        pen.text(&name, style).skip(facts.node_width.saturating_sub(name.len()));
        match facts.snapshot.busy(node) {
            _ if node.cpus.is_empty() => pen.cell(tile.bar + 5, "mem", DIM),
            Some(share) if tile.bar > 0 => {
                pen.bar(tile.bar, share, facts.load_style(node)).figure(5, &whole(share), PLAIN)
            }
            Some(share) => pen.text(level(share), facts.load_style(node)).figure(4, &whole(share), PLAIN),
            None => pen.cell(tile.bar + 5, NONE, DIM),
        };
        if tile.here == 1 {
            pen.text(if strangers(node) > 0 { "!" } else { "" }, BAD);
            continue;
        }
        pen.skip(1);
        facts.here(node, tile.here, pen);
        if tile.users > 0 {
            let room = pen.room();
            pen.text(&facts.users(node, room), PLAIN);
        }
    }
}

fn whole(share: f64) -> String {
    format!("{:.0}%", (share * 100.0).clamp(0.0, 100.0))
}
