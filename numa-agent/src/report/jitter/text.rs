//! The report for a terminal: what matters first, no line longer than about a hundred columns.

use super::{
    digest::{Digest, Timeline, role_name},
    tables::{self, Shown},
    units::{count, duration, share},
    words,
};
use crate::{
    core::jitter::recording::Recording,
    report::{escape, table::Table},
};

/// Columns of a line of words.
const WIDTH: usize = 98;
/// Rows of a table of groups, and of one of anything else.
const GROUPS: usize = 40;
const ROWS: usize = 6;
/// Length of a line over time.
const CHARACTERS: usize = 56;
/// Names are cut to this many characters.
const NAME: usize = 16;

/// The report as plain text, without colours.
#[must_use]
pub fn text(recording: &Recording) -> String {
    let digest = Digest::new(recording);
    let name = |raw: &str| escape::shortened(&escape::text(raw), NAME);
    let timeline = digest.timeline(CHARACTERS);
    let mut out = heading(&digest);
    let mut section = |title: &str, shown: Shown| {
        if !shown.table.is_empty() {
            out += &format!("\n{title}\n{}", shouted(&shown.table));
        }
        if shown.left_out > 0 {
            out += &format!("  and {} more\n", count(shown.left_out as u64));
        }
    };
    let whole = |table: Table| Shown { table, left_out: 0 };
    section("run-queue wait by role", whole(tables::roles(&digest)));
    section(&words::over_time(&timeline), whole(over_time(&digest, &timeline)));
    for rank in tables::RANKS {
        section(&rank.0.to_lowercase(), whole(tables::worst(&digest, rank, &name, ROWS)));
    }
    let (critical, part) = &digest.critical;
    let preemptors = tables::preemptors(&part.rollup.figures, &name, ROWS);
    section(&format!("who had the CPU while {critical} waited"), preemptors);
    section("who else ran on CPUs of critical threads", tables::intruders(&digest, &name, ROWS));
    section("moves between CPUs", whole(tables::causes(&digest)));
    section(&format!("moves from {0} to {0}", digest.matrix_of()), whole(tables::matrix(&digest)));
    section("run-queue wait by group", tables::groups(&digest, &name, GROUPS));
    section("interrupts and NUMA balancing", whole(tables::kernel(&digest)));
    section("durations", whole(tables::durations(&digest)));
    section("gaps between sends on tapped connections", tables::connections(&digest, &name, ROWS));
    section("memory by node", tables::memory(&digest, &name, ROWS));
    out + "\n" + &wrapped(digest.home())
}

/// Lines of blocks, as high as the share or the wait was.
fn over_time(digest: &Digest, timeline: &Timeline) -> Table {
    let mut table = Table::new(&["Role", "Over time", "Highest", ""]);
    for (role, bins) in &timeline.roles {
        let name = role_name(*role, digest.planned());
        let shares = timeline.off_node(*role);
        let highest = shares.iter().flatten().copied().fold(0.0, f64::max);
        if shares.iter().any(Option::is_some) {
            table.row([name.into(), blocks(&shares, highest), share(highest), "off node".into()]);
        }
        let waits: Vec<Option<f64>> = bins
            .iter()
            .map(|bin| bin.filter(|bin| bin.waits > 0).map(|bin| bin.wait_max_ns as f64))
            .collect();
        let highest = waits.iter().flatten().copied().fold(0.0, f64::max);
        if highest > 0.0 {
            table.row([name.into(), blocks(&waits, highest), duration(highest as u64), "waited".into()]);
        }
    }
    table
}

/// A character for each value; a blank where there is none.
fn blocks(values: &[Option<f64>], highest: f64) -> String {
    let block = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) => {
            let height = if highest > 0.0 { (value / highest * 7.0).ceil() } else { 0.0 };
            ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(height as usize).min(7)]
        }
    };
    values.iter().map(block).collect()
}

/// Broken between words, with a line break behind.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if at > 0 && at + 1 + length > WIDTH {
            out.push('\n');
            at = 0;
        } else if at > 0 {
            out.push(' ');
            at += 1;
        }
        out += word;
        at += length;
    }
    out + "\n"
}

fn shouted(table: &Table) -> String {
    let text = table.aligned("  ");
    match text.split_once('\n') {
        Some((head, rows)) => format!("{}\n{rows}", head.to_uppercase()),
        None => text,
    }
}

fn heading(digest: &Digest) -> String {
    let mut out = String::new();
    for run in &digest.recording.runs {
        let lines = [
            format!("jitter on {}: {} from {}", run.host.name, words::length(run), run.started_at),
            format!("{}, Linux {}, numa-agent {}", words::nodes(run), run.host.kernel, run.agent_version),
            digest.subject(run),
        ];
        out += &lines.map(|line| wrapped(&escape::text(&line))).concat();
    }
    out += &format!("{}\n\n{}", words::size(digest), wrapped(&words::verdict(digest)));
    let mut said = |what: &str, lines: Vec<String>| {
        for line in lines {
            out += &wrapped(&format!("{what}: {}", escape::text(&line)));
        }
    };
    said("LOST", digest.lost());
    said("NOT MEASURED", digest.missing());
    said("lost of detail only", digest.lost_detail());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    #[test]
    fn what_matters_comes_first_and_fits_a_terminal() {
        let text = text(&synthetic::a3());
        assert!(text.starts_with("jitter on infer-07: 1 min from 2025-03-01T12:00:00+08:00\n"), "{text}");
        assert!(text.contains("\nLOST: 3 sends of tapped connections\nNOT MEASURED: swap_numa: "), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn two_cpus_without_a_plan_say_what_was_not_measured() {
        let text = text(&synthetic::two_cpus());
        assert!(text.contains("NOT MEASURED: irq, softirq"), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("  threads ") && line.contains("not measured")),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let text = text(&synthetic::nothing());
        assert!(text.contains("No thread was seen."), "{text}");
    }
}
