//! For a terminal: a line for each item, and for those that do not pass what was found and what mends it.

use super::{CheckReport, mark, word};
use crate::{
    core::{
        check::{Item, Verdict},
        remedy::remark,
    },
    report::escape,
};

/// The checklist for a terminal.
#[must_use]
pub fn text(report: &CheckReport) -> String {
    let host = &report.host;
    let mut out = format!(
        "{}, Linux {} ({}), {}, numa-agent {}\n",
        escape::text(&host.hostname),
        escape::text(&host.kernel),
        report.arch,
        host.time,
        host.version
    );
    if let Some(elsewhere) = &report.elsewhere {
        out += &format!("topology of {}, not of this host\n", escape::text(elsewhere));
    }
    for section in &report.sections {
        out += &format!("\n{section}  {}\n", section.title());
        out.extend(report.items_of(*section).map(item));
    }
    out += "\n";
    for section in &report.sections {
        let passes = word(report.section_passes(*section));
        out += &format!("{section}  {passes}  {}\n", report.tally(*section));
    }
    out
}

fn item(item: &Item) -> String {
    let line = |indent: &str, text: &str| format!("{:15}{indent}{}\n", "", escape::text(text));
    let mut out = format!("  {:<7} {:<4} {}", mark(item.verdict), item.id, item.asked);
    match item.verdict {
        Verdict::Pass => out.push('\n'),
        // It is often the same for many.
        Verdict::Skipped => out += &format!(": {}\n", escape::text(&item.found.join("; "))),
        Verdict::Warn | Verdict::Fail => {
            out.push('\n');
            out.extend(item.found.iter().map(|found| line("", found)));
        }
    }
    out.extend(item.fixes.iter().map(|fix| line("fix: ", remark(fix).unwrap_or(fix))));
    out
}
