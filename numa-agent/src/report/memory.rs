//! Memory of processes beside the plan: a row for each process, a sum for each group.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{BindReport, escape, table::Table};
use crate::core::{
    memory::verify::{Spread, Verdict, Verified},
    plan::Group,
};

/// What a row has.
const HEAD: [&str; 10] =
    ["PID", "Name", "Group", "Planned", "Policy", "On plan", "Balance", "MiB by node", "Of files", "Verdict"];

/// A process whose memory was looked at.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: &'a str,
    /// Its group.
    pub group: Option<&'a str>,
    /// What its memory came to.
    pub memory: &'a Verified,
}

/// A row for each process whose memory was looked at, for documents; `None` if none was. `escape` makes other processes'
/// names safe.
pub fn table(report: &BindReport, escape: impl Fn(&str) -> String) -> Option<Table> {
    filled(Table::new(&HEAD), rows(report), escape)
}

/// The same for a terminal, with a headline; nothing if there is no row.
pub fn text<'a>(rows: impl Iterator<Item = Row<'a>>) -> String {
    let head = HEAD.map(str::to_uppercase);
    let table = filled(Table::new(&head.each_ref().map(String::as_str)), rows, escape::text);
    table.map_or_else(String::new, |table| {
        format!("\nmemory (docs/memory.md says how it is judged):\n{}", table.aligned("  "))
    })
}

/// Those of a report.
pub fn rows(report: &BindReport) -> impl Iterator<Item = Row<'_>> {
    report.processes.iter().filter_map(|process| {
        let (pid, comm, group) = (process.id.tid, process.comm.as_str(), process.group.as_deref());
        Some(Row { pid, comm, group, memory: process.memory.as_ref()? })
    })
}

fn filled<'a>(
    mut table: Table,
    rows: impl Iterator<Item = Row<'a>>,
    escape: impl Fn(&str) -> String,
) -> Option<Table> {
    for Row { pid, comm, group, memory } in rows {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            pid.to_string(),
            escape(comm),
            or_dash(group.map(&escape)),
            or_dash(memory.planned.as_ref().map(ToString::to_string)),
            or_dash(memory.memory.policy().map(&escape)),
            or_dash(memory.spread.on_plan.map(percent)),
            or_dash(memory.spread.balance.map(|balance| format!("{balance:.2}"))),
            by_node(&memory.memory.governed),
            by_node(&memory.memory.files()),
            escape(&memory.verdict.to_string()),
        ]);
    }
    (!table.is_empty()).then_some(table)
}

/// What is not as planned, in words for the user.
pub fn warning(report: &BindReport) -> Option<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for verified in report.processes.iter().filter_map(|process| process.memory.as_ref()) {
        if verified.verdict.is_bad() {
            let word = match &verified.verdict {
                Verdict::Unknown(_) => "unknown".to_owned(),
                verdict => verdict.to_string(),
            };
            *counts.entry(word).or_default() += 1;
        }
    }
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let all = super::many(counts.values().sum::<usize>(), "process", "es");
    (!words.is_empty()).then(|| {
        format!(
            "memory of {all} is not as planned: {}; a program started by `numa-agent exec --group` has its group's policy",
            words.join(", ")
        )
    })
}

/// What JSON says of a process's memory.
pub fn json(verified: &Verified) -> Value {
    let planned = verified.planned.as_ref();
    json!({
        "planned": planned.map(|policy| json!({"policy": policy.mode.name(), "nodes": policy.nodes})),
        "policy": verified.memory.policy(),
        "policies": verified.memory.policies,
        "nodes": verified.memory.governed,
        "file_nodes": verified.memory.files(),
        "on_plan_share": verified.spread.on_plan,
        "balance": verified.spread.balance,
        "verdict": verified.verdict.to_string(),
    })
}

/// The sum over a group's processes; null where none was looked at. What several of them share counts for each.
pub fn json_of_group(report: &BindReport, group: &Group) -> Value {
    let of_group = report.processes.iter().filter(|process| process.group.as_ref() == Some(&group.name));
    let memories: Vec<&Verified> = of_group.filter_map(|process| process.memory.as_ref()).collect();
    if memories.is_empty() {
        return Value::Null;
    }
    let mut nodes = BTreeMap::<u32, u64>::new();
    for (node, bytes) in memories.iter().flat_map(|verified| &verified.memory.governed) {
        *nodes.entry(*node).or_default() += bytes;
    }
    let spread = Spread::of(&nodes, &group.mem_nodes);
    json!({ "nodes": nodes, "on_plan_share": spread.on_plan, "balance": spread.balance })
}

/// `98.7 %`, never rounded up to all of it.
fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

/// `0: 512, 1: 509`.
fn by_node(bytes: &BTreeMap<u32, u64>) -> String {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let nodes: Vec<String> = bytes.iter().map(|(node, bytes)| format!("{node}: {}", mib(*bytes))).collect();
    if nodes.is_empty() { "-".to_owned() } else { nodes.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::memory::numa_maps::Memory,
        report::{self, sample},
    };

    /// The sample's first group is on plan, the second is not; one process is gone.
    fn verified() -> BindReport {
        let mut report = sample::a3();
        let plan = report.plan.clone();
        let holders = report.topology.memory_nodes();
        for (index, process) in report.processes.iter_mut().enumerate() {
            let group = plan.groups.iter().find(|group| process.group.as_ref() == Some(&group.name));
            let policy = if index < 3 { "interleave:0-1" } else { "default" };
            let mut memory = Memory::default();
            memory.add_line(&format!("7f00 {policy} anon=65536 N0=32768 N1=32768 kernelpagesize_kB=4"));
            memory.add_line("5500 default file=/usr/bin/python3 mapped=256 N7=256 kernelpagesize_kB=4");
            let read = if index == 5 { Err("it is gone".to_owned()) } else { Ok(memory) };
            process.memory = Some(Verified::new(group.and_then(Group::memory_policy), read, &holders));
        }
        report
    }

    #[test]
    fn every_process_has_its_row_and_its_verdict() {
        let report = verified();
        let text = report::text::bind(&report);
        let row = |pid: &str| {
            let of_pid = |line: &&str| {
                line.trim_start().starts_with(pid) && line.contains(" MiB")
                    || line.split_whitespace().next() == Some(pid) && line.contains("interleave:")
            };
            text.lines().rfind(of_pid).unwrap_or_else(|| panic!("{pid} in {text}")).to_owned()
        };
        let words = row("7710");
        let cells: Vec<&str> = words.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "7710",
                "worker",
                "socket0_group0",
                "interleave:0-1",
                "interleave:0-1",
                "100.0 %",
                "1.00",
                "0: 128.0, 1: 128.0",
                "7: 1.0",
                "ok"
            ]
        );
        assert!(row("9100").ends_with("default policy"), "{text}");
        assert!(row("9140").ends_with("unknown: it is gone"), "{text}");
        let markdown = report::markdown::bind(&report);
        assert!(markdown.contains("\n## Memory\n\n| PID | Name |"), "{markdown}");
        assert!(
            markdown.contains("| 9100 | scheduler | socket1_group0 | interleave:2-3 | default | 0.0 % |"),
            "{markdown}"
        );
        assert!(report::html::bind(&report).contains("<h2>Memory</h2>"));
        let warning = warning(&report).unwrap();
        assert!(
            warning.contains("3 processes") && warning.contains("2 default policy, 1 unknown"),
            "{warning}"
        );
    }

    #[test]
    fn json_has_shares_by_process_and_by_group() {
        let report = verified();
        let value = report::json::bind(&report);
        let first = &value["processes"][0]["memory"];
        let expected = json!({
            "planned": {"policy": "interleave", "nodes": "0-1"}, "policy": "interleave:0-1",
            "policies": {"interleave:0-1": 1 << 28}, "nodes": {"0": 1 << 27, "1": 1 << 27},
            "file_nodes": {"7": 1 << 20}, "on_plan_share": 1.0, "balance": 1.0, "verdict": "ok",
        });
        assert_eq!(*first, expected);
        let gone = &value["processes"][5]["memory"];
        assert_eq!((&gone["verdict"], &gone["nodes"]), (&json!("unknown: it is gone"), &json!({})));
        let motor = &value["processes"][6]["memory"];
        assert_eq!((&motor["planned"], &motor["verdict"]), (&Value::Null, &json!("not planned")));
        let groups = value["groups"].as_array().unwrap();
        let of = |name: &str| &groups.iter().find(|group| group["name"] == name).unwrap()["memory"];
        assert_eq!(of("socket0_group0")["nodes"], json!({"0": 3u64 << 27, "1": 3u64 << 27}));
        assert_eq!(of("socket1_group0")["on_plan_share"], 0.0);
        assert_eq!(*of("socket3_group0"), Value::Null);
    }

    #[test]
    fn without_it_nothing_is_said_and_hostile_policies_stay_in_their_cells() {
        assert!(text(rows(&sample::a3())).is_empty() && warning(&sample::a3()).is_none());
        let mut report = verified();
        for memory in report.processes.iter_mut().filter_map(|process| process.memory.as_mut()) {
            memory.verdict = Verdict::Unknown("\x1b[2J|<b>".to_owned());
        }
        assert!(!report::text::bind(&report).contains('\x1b'));
        assert!(
            !report::html::bind(&report).contains("<b>\x1b")
                && !report::html::bind(&report).contains("[2J|<b>")
        );
    }
}
