//! Section C.

use super::*;
use crate::core::{
    check::runs::{ThisHost, items},
    jitter::{
        compare::{Limits, Name, Side, compare},
        recording::Recording,
        sample,
        tokens::{self, Tokens},
    },
    task::ThreadRole,
};

/// Base and bound, each with its tokens.
struct Facts {
    recordings: [Recording; 2],
    tokens: [Option<Tokens>; 2],
    host: ThisHost,
}

fn gaps(longer_ns: u64) -> Option<Tokens> {
    let times = (0..2000u64).scan(0, |at, index| {
        *at += if index % 50 == 0 { 30_000_000 + longer_ns } else { 30_000_000 };
        Some(format!("{at}\n"))
    });
    Some(tokens::parse("x", format!("t_ns\n{}", times.collect::<String>()).as_bytes()).unwrap())
}

fn recorded(started_at: &str, wait_ns: u64) -> Recording {
    let mut recording = sample::recording();
    recording.runs[0].started_at = started_at.into();
    recording.connections.clear();
    for thread in recording.threads.iter_mut().filter(|thread| thread.role == ThreadRole::Forward) {
        thread.figures = sample::figures(60, &[wait_ns; 2000]);
    }
    recording
}

fn good() -> Facts {
    let run = sample::run();
    Facts {
        recordings: [recorded("before", 20_000), recorded("after", 10_000)],
        tokens: [gaps(5_000_000), gaps(500_000)],
        host: ThisHost {
            name: run.host.name,
            machine_id: run.host.machine_id,
            kernel: run.host.kernel,
            arch: run.host.arch,
        },
    }
}

fn judged(facts: &Facts) -> Vec<Item> {
    let side = |index: usize| Side {
        file: ["base.json", "bound.json"][index],
        recording: &facts.recordings[index],
        tokens: facts.tokens[index].as_ref(),
    };
    let limits = Limits { required: vec![Name::Fluctuation, Name::Wait], ..Limits::default() };
    items(&compare(side(0), side(1), limits), &facts.host, |criterion| criterion.name.to_string())
}

fn differs(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Verdict, String)> {
    let mut facts = good();
    change(&mut facts);
    changed(&judged(&good()), &judged(&facts))
}

fn expect(id: &str, verdict: Verdict, fix: &str, change: impl FnOnce(&mut Facts)) {
    let changed = differs(change);
    let [(found, so, fixes)] = changed.as_slice() else { panic!("not one: {changed:?}") };
    assert_eq!((*found, *so), (id, verdict), "{fixes}");
    assert!(fixes.contains(fix), "{id}: no {fix:?} in {fixes}");
}

#[test]
fn a_run_that_became_steadier_passes() {
    let items = judged(&good());
    let open: Vec<_> = items.iter().filter(|item| item.verdict == Verdict::Fail).collect();
    assert!(open.is_empty(), "{open:#?}");
    assert_eq!(ids(&items), ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]);
    for id in ["C1", "C2", "C3", "C4"] {
        assert_eq!(item(&items, id).verdict, Verdict::Pass, "{items:#?}");
    }
    assert!(item(&items, "C2").found[0].contains("bound.json: 60 s on"), "{items:#?}");
}

#[test]
fn what_became_worse_fails() {
    use Verdict::Fail;
    expect("C3", Fail, "numa-agent jitter report", |facts| facts.tokens[1] = gaps(2_000_000));
    expect("C3", Fail, "--tokens-base", |facts| facts.tokens = [None, None]);
    expect("C4", Fail, "numa-agent jitter report", |facts| facts.recordings[1] = recorded("after", 90_000));
}

#[test]
fn another_hosts_runs_prove_nothing_here() {
    use Verdict::Fail;
    expect("C1", Fail, "jitter record", |facts| facts.host.name = "elsewhere".into());
    expect("C1", Fail, "jitter record", |facts| facts.host.kernel = "7.2".into());
    expect("C1", Fail, "jitter record", |facts| facts.host.machine_id = "other".into());
    // Every run of this host counts, not the first alone.
    let changed = differs(|facts| {
        let mut later = facts.recordings[1].runs[0].clone();
        (later.started_at, later.host.kernel) = ("later".into(), "7.2".into());
        facts.recordings[1].runs.push(later);
    });
    assert!(changed.iter().any(|(id, verdict, _)| (*id, *verdict) == ("C1", Fail)), "{changed:?}");
}

#[test]
fn what_cannot_be_compared_proves_nothing() {
    let changed = differs(|facts| facts.recordings[1] = facts.recordings[0].clone());
    let so: Vec<_> = changed.iter().map(|(id, verdict, _)| (*id, *verdict)).collect();
    assert_eq!(so[0], ("C2", Verdict::Fail));
    assert!(so[1..].iter().all(|(_, verdict)| *verdict == Verdict::Skipped), "{so:?}");
    assert!(changed[0].2.contains("jitter record"), "{changed:?}");
}
