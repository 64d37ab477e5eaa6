//! The evidence report: what a person reads, keeps and signs.

use super::{CheckReport, mark, word};
use crate::{
    core::{
        check::{Item, Verdict},
        remedy::{remark, shell},
    },
    report::{self, escape, table::Table},
};

/// The checklist as GitHub-flavoured Markdown.
#[must_use]
pub fn markdown(report: &CheckReport) -> String {
    let mut out = format!("# NUMA acceptance check: {}\n\n", word(report.passed()));
    out += &header(report);
    out += "\n## Summary\n\n";
    out += &summary(report);
    let open = report.open();
    if !open.is_empty() {
        out += "\n## To do\n";
        out.extend(open.into_iter().map(to_do));
    }
    for section in &report.sections {
        let mut table = Table::new(&["Item", "Asked", "Verdict", "Found"]);
        for item in report.items_of(*section) {
            table.row([item.id.into(), item.asked.into(), verdict(item), lines(&item.found)]);
        }
        out += &format!("\n## {section}: {}\n\n{}", section.title(), table.markdown());
    }
    if let Some(bind) = report.bind {
        for (title, body) in report::markdown::evidence(bind) {
            out += &format!("\n## Evidence: {title}\n\n{body}");
        }
    }
    if let Some(comparison) = report.comparison {
        // Its headings, one level down.
        let text = report::jitter::compare::markdown(comparison);
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(_) => format!("#{line}\n"),
            None => format!("{line}\n"),
        });
        out.push('\n');
        out.extend(lines);
    }
    // Nobody accepts a machine that was not looked at.
    if report.elsewhere.is_none() {
        out += "\n## Signatures\n\n";
        out += &signatures();
    }
    out
}

fn header(report: &CheckReport) -> String {
    let md = escape::markdown;
    let (host, mut table) = (&report.host, Table::new(&["", ""]));
    let mut row = |name: &str, value: String| table.row([format!("**{name}**"), value]);
    if let Some(elsewhere) = &report.elsewhere {
        row("Topology", format!("of {}, not of this host", md(elsewhere)));
    }
    row("Host", md(&host.hostname));
    row("Kernel", format!("{} ({})", md(&host.kernel), report.arch));
    row("Time", md(&host.time));
    row("numa-agent", md(&host.version));
    row("Agent", report.agent.as_deref().map_or("none answers".to_owned(), md));
    if let Some((path, sha256)) = &report.config {
        row("Configuration", format!("{}, SHA-256 {sha256}", md(path)));
    }
    row("Command", md(&shell(&report.command)));
    table.markdown()
}

fn summary(report: &CheckReport) -> String {
    let mut table = Table::new(&["Section", "", "Result", "Items"]);
    for section in &report.sections {
        table.row([
            section.to_string(),
            section.title().into(),
            format!("**{}**", word(report.section_passes(*section))),
            report.tally(*section).to_string(),
        ]);
    }
    let strict = if report.strict {
        "\nStrict: what may cost jitter or is not known counts as a failure.\n"
    } else {
        ""
    };
    table.markdown() + strict
}

fn to_do(item: &Item) -> String {
    let found = item.found.iter().map(|line| format!("- {}\n", escape::markdown(line)));
    let mended = |fix: &String| remark(fix).map_or_else(|| code(fix), escape::markdown);
    let fixes = item.fixes.iter().map(|fix| format!("- *fix:* {}\n", mended(fix)));
    format!(
        "\n**{}, {}**: {}\n\n{}",
        item.id,
        item.verdict,
        item.asked,
        found.chain(fixes).collect::<String>()
    )
}

/// To be copied as it is: between more backticks than it has in a row.
fn code(text: &str) -> String {
    let text = escape::text(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let edge = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{edge}{text}{edge}{fence}")
}

fn verdict(item: &Item) -> String {
    match item.verdict {
        Verdict::Fail => format!("**{}**", mark(item.verdict)),
        other => mark(other),
    }
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| escape::markdown(line)).collect::<Vec<_>>().join("<br>")
}

fn signatures() -> String {
    let mut table = Table::new(&["Role", "Name", "Date", "Signature"]);
    for role in ["Checked by", "Accepted by"] {
        table.row([role.to_owned(), " ".repeat(20), " ".repeat(12), " ".repeat(20)]);
    }
    table.markdown()
}
