//! The first two lines: whose view it is, and what is wrong.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{
    pen::{BAD, BOLD, CURSOR, DIM, GOOD, NOTE, PLAIN, Pen, TITLE, width},
    words::{interval, span},
};
use crate::{
    report::many,
    view::app::{App, Link},
};

/// Between two facts.
const GAP: &str = "   ";

/// Draws it.
pub fn draw(app: &App, buffer: &mut Buffer, area: Rect) {
    agent(app, &mut Pen::line(buffer, area, 0));
    let mut pen = Pen::line(buffer, area, 1);
    match app.snapshot() {
        Some(_) => counts(app, &mut pen),
        None => drop(pen.text("nothing seen yet", DIM)),
    }
}

fn agent(app: &App, pen: &mut Pen) {
    pen.right(&app.now.clock, DIM);
    pen.right(&format!("every {} ", interval(app.interval_ms)), PLAIN);
    if app.is_paused() {
        pen.right(" PAUSED ", CURSOR);
    }
    match (&app.link, app.silent_ms()) {
        (Link::Lost(_), _) => {
            let seconds = app.now.ms.saturating_sub(app.link_since_ms) as f64 / 1e3;
            pen.right(&format!(" NO AGENT for {}: trying again ", span(seconds)), CURSOR);
        }
        (_, Some(ms)) => {
            pen.right(&format!(" NOT ANSWERING for {} ", span(ms as f64 / 1e3)), CURSOR);
        }
        _ => {}
    }
    pen.text("numa-agent", TITLE);
    let Some(snapshot) = app.snapshot() else { return };
    let agent = &snapshot.status.agent;
    pen.text(" ", PLAIN).text(&agent.host, BOLD).text(GAP, PLAIN);
    match (&app.link, agent.enforcing) {
        (Link::Own(path), _) => pen.text("observing: no agent on ", NOTE).text(path, NOTE),
        (_, true) => pen.text("enforcing", GOOD),
        (_, false) => pen.text("observing", NOTE),
    };
    match &agent.policy {
        Some(policy) => pen.text(GAP, PLAIN).text(&format!("{policy} plan"), PLAIN),
        None => pen.text(GAP, PLAIN).text("no plan", NOTE),
    };
    let mut facts = vec![
        (format!("up {}", span(agent.uptime)), PLAIN),
        (format!("agent {} pid {}", agent.version, agent.pid), DIM),
    ];
    facts.extend(agent.rss.map(|rss| (format!("{} MiB", rss >> 20), DIM)));
    if let Some(seconds) = agent.cpu_seconds.filter(|_| agent.uptime > 0.0) {
        facts.push((format!("{:.1} % of a CPU", seconds / agent.uptime * 100.0), DIM));
    }
    facts.push((format!("Linux {}", agent.kernel), DIM));
    for (fact, style) in facts {
        if width(&fact) + GAP.len() > pen.room() {
            break;
        }
        pen.text(GAP, PLAIN).text(&fact, style);
    }
}

fn counts(app: &App, pen: &mut Pen) {
    let Some(snapshot) = app.snapshot() else { return };
    let counts = &snapshot.status.counts;
    pen.text(&many(counts.threads, "thread", "s"), BOLD);
    pen.text(&format!(" of {}", many(counts.processes, "process", "es")), PLAIN);
    // Before what may have no room.
    let lost: u64 = counts.lost.values().sum::<u64>() + counts.unreadable + app.data().missed;
    if lost > 0 {
        pen.text(GAP, PLAIN).text(&format!("LOST {lost}!"), BAD);
    }
    let off = snapshot.off_plan;
    let strangers: u64 = app.nodes().filter_map(|(_, node)| node.strangers).sum();
    match off {
        _ if app.data().intervals == 0 => &mut *pen,
        0 => pen.text(GAP, PLAIN).text("none off plan", GOOD),
        off => pen.text(GAP, PLAIN).text(&format!("{off} off plan!"), BAD),
    };
    if strangers > 0 {
        pen.text(GAP, PLAIN).text(&many(strangers, "stranger", "s"), BAD);
    }
    let result = |name: &str| counts.results.get(name).copied().unwrap_or(0);
    pen.whole(&format!("{GAP}bound {}", result("bound")), PLAIN);
    match result("failed") {
        0 => pen.whole(&format!("{GAP}failed 0"), PLAIN),
        failed => pen.text(GAP, PLAIN).text(&format!("failed {failed}!"), BAD),
    };
    if lost == 0 {
        pen.whole(&format!("{GAP}lost 0"), PLAIN);
    }
    match snapshot.status.warnings.as_slice() {
        [] => {}
        [one] => drop(pen.text(GAP, PLAIN).text("warning: ", NOTE).text(one, PLAIN)),
        [first, ..] => {
            let count = snapshot.status.warnings.len();
            pen.text(GAP, PLAIN).text(&format!("{count} warnings: "), NOTE).text(first, PLAIN);
        }
    }
    let missing = &snapshot.status.agent.missing_programs;
    if !missing.is_empty() && pen.room() > 20 {
        pen.text(GAP, PLAIN).text("without ", NOTE).text(&missing.join(", "), PLAIN);
    }
}
