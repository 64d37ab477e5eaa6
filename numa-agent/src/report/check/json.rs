//! The machine-readable form. Field names, ids and meaning are a contract (`"schema": 1`): fields may be added, none may change.

use serde_json::{Value, json as value};

use super::CheckReport;
use crate::{
    core::check::{Item, Section},
    report,
};

/// The checklist as JSON. Print it by [`report::json::print`].
#[must_use]
pub fn json(report: &CheckReport) -> Value {
    let section = |section: &Section| {
        let tally = report.tally(*section);
        value!({
            "id": section.to_string(), "title": section.title(), "passed": report.section_passes(*section),
            "counts": {"pass": tally.passed, "warn": tally.warned, "fail": tally.failed, "skipped": tally.skipped},
            "items": report.items_of(*section).map(item).collect::<Vec<_>>(),
        })
    };
    let comparison = report.comparison.map(report::jitter::compare::json);
    value!({
        "schema": 1,
        "passed": report.passed(),
        "strict": report.strict,
        "sections": report.sections.iter().map(section).collect::<Vec<_>>(),
        "topology_of": report.elsewhere,
        "host": {
            "hostname": report.host.hostname,
            "kernel": report.host.kernel,
            "arch": report.arch,
            "time": report.host.time,
            "version": report.host.version,
        },
        "command": report.command,
        "config": report.config.as_ref().map(|(path, sha256)| value!({"path": path, "sha256": sha256})),
        "agent": report.agent,
        "evidence": {
            "bind": report.bind.map(report::json::bind),
            "comparison": comparison.and_then(|text| serde_json::from_str::<Value>(&text).ok()),
        },
    })
}

fn item(item: &Item) -> Value {
    value!({
        "id": item.id, "asked": item.asked, "verdict": item.verdict, "found": item.found, "fixes": item.fixes,
    })
}
