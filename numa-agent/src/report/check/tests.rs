//! What people and programs read, also where a process chose its name to deceive them.

use serde_json::Value;

use super::*;
use crate::{
    core::{
        check::{
            Item, Verdict,
            preconditions::{Preconditions, items},
        },
        remedy::{plan::Commands, shell},
    },
    report::{json as plain, sample},
};

const HOSTILE: &str = "<b>|\u{1b}[2J`x";

/// An A3's topology, judged, and a point that a process with a hostile name fails.
fn with<T>(use_it: impl FnOnce(CheckReport) -> T) -> T {
    let bind = sample::a3();
    let commands = Commands::new(&[]);
    let facts = Preconditions {
        topology: &bind.topology,
        plan: Ok(&bind.plan),
        expected: None,
        host: None,
        commands: &commands,
    };
    let mut all = items(&facts);
    all.push(Item {
        id: "B4",
        asked: "every thread may run on its planned CPUs, and on no others",
        verdict: Verdict::Fail,
        found: vec![format!("pid 7 tid 8 ({HOSTILE}): planned 0-9, may run on 0-319")],
        fixes: [
            "numa-agent bind --apply --config 'my file.json'",
            "start --without <b>`x",
            "# make <b> pass",
        ]
        .map(str::to_owned)
        .into(),
    });
    let (config, command) = ("my file.json", ["numa-agent", "check", "--config", "my file.json", HOSTILE]);
    use_it(CheckReport {
        host: bind.host.clone(),
        elsewhere: None,
        arch: "aarch64".into(),
        command: command.map(str::to_owned).into(),
        config: Some((config.into(), "0123abcd".into())),
        agent: None,
        sections: [Section::A, Section::B].into(),
        strict: false,
        items: all,
        bind: Some(&bind),
        comparison: None,
    })
}

#[test]
fn what_does_not_pass_comes_with_what_was_found_and_what_mends_it() {
    let text = with(|report| text(&report));
    for line in [
        "infer-07, Linux 5.10.0-216.0.0.115.oe2203sp4.aarch64 (aarch64), 2025-03-01T12:00:00Z, numa-agent 0.1.0",
        "  pass    A1   sockets and nodes are as expected",
        "  skipped A6   no cpuset keeps us from CPUs or memory: it is another machine's topology",
        "  FAIL    B4   every thread may run on its planned CPUs, and on no others",
        r"               pid 7 tid 8 (<b>|\u{1b}[2J`x): planned 0-9, may run on 0-319",
        "               fix: numa-agent bind --apply --config 'my file.json'",
        "               fix: make <b> pass",
        "A  PASS  5 pass, 16 skipped",
        "B  FAIL  1 fail",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line}\n{text}");
    }
}

#[test]
fn the_evidence_has_a_head_all_items_every_thread_and_a_place_to_sign() {
    let text = with(|report| markdown(&report));
    for line in [
        "# NUMA acceptance check: FAIL",
        "| **Host** | infer-07 |",
        "| **Configuration** | my file.json, SHA-256 0123abcd |",
        "| A | Topology and preconditions | **PASS** | 5 pass, 16 skipped |",
        "| B | Plan and placement | **FAIL** | 1 fail |",
        "**B4, fail**: every thread may run on its planned CPUs, and on no others",
        "- *fix:* `numa-agent bind --apply --config 'my file.json'`",
        "- *fix:* ``start --without <b>`x``",
        "- *fix:* make &lt;b&gt; pass",
        "| Checked by |                      |              |                      |",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line}\n{text}");
    }
    assert!(text.contains("## Evidence: processes and threads\n\n| PID |"), "{text}");
    assert!(text.contains("| 7710 | 7712 |"), "every thread\n{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let bare = text.lines().filter(|line| !line.starts_with("- *fix:* `"));
    assert!(bare.into_iter().all(|line| !line.contains("<b>")), "{text}");
}

#[test]
fn programs_get_verdicts_ids_and_the_same_evidence() {
    let (value, text) = with(|report| (json(&report), plain::print(&json(&report))));
    assert_eq!((&value["schema"], &value["passed"]), (&1.into(), &false.into()));
    let section = &value["sections"][1];
    assert_eq!((&section["id"], &section["passed"]), (&"B".into(), &false.into()));
    assert_eq!((&section["items"][0]["id"], &section["items"][0]["verdict"]), (&"B4".into(), &"fail".into()));
    assert_eq!(value["config"]["sha256"], "0123abcd");
    assert_eq!(value["evidence"]["bind"]["schema"], 1);
    assert_eq!(value["evidence"]["comparison"], Value::Null);
    assert_eq!(value["command"][4], HOSTILE, "as it was");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_command_can_be_pasted() {
    let words = ["numa-agent", "--group-pattern=^a b$", "it's", "", "0-3"].map(str::to_owned);
    assert_eq!(shell(&words), r"numa-agent '--group-pattern=^a b$' 'it'\''s' '' 0-3");
}
