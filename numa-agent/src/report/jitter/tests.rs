//! What holds for every form of the report.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    core::jitter::{
        recording::{Recording, Subject},
        sample, synthetic,
    },
    report::escape,
};

/// Gives everything that has a name from elsewhere another one.
fn named(mut recording: Recording, name: &str) -> Recording {
    for run in &mut recording.runs {
        (run.host.name, run.host.kernel, run.host.arch) = (name.into(), name.into(), name.into());
        (run.agent_version, run.started_at) = (name.into(), name.into());
        (run.lost, run.missing) = (vec![name.into()], vec![name.into()]);
        run.subject = match &run.subject {
            Subject::Plan { groups, .. } => Subject::Plan {
                policy: name.into(),
                groups: groups.values().map(|cpus| (name.to_owned(), cpus.clone())).collect(),
                others: name.into(),
            },
            Subject::Processes { .. } => Subject::Processes { what: name.into() },
        };
    }
    for process in &mut recording.processes {
        (process.comm, process.cmdline) = (name.into(), name.into());
        process.group = process.group.as_ref().map(|_| name.into());
    }
    for thread in &mut recording.threads {
        thread.comm = name.into();
        thread.group = thread.group.as_ref().map(|_| name.into());
        thread
            .figures
            .preemptors
            .iter_mut()
            .for_each(|who| who.comm = who.comm.as_ref().map(|_| name.into()));
    }
    for who in recording.intruders.iter_mut().flat_map(|cpu| &mut cpu.who) {
        who.comm = who.comm.as_ref().map(|_| name.into());
    }
    recording.connections.iter_mut().for_each(|connection| connection.comm = name.into());
    recording
}

/// A few of everything, so that a case takes little time.
fn small() -> Recording {
    let mut recording = synthetic::a3();
    recording.threads.retain(|thread| thread.tid % 97 == 0 || thread.comm == "Motor");
    recording.processes.truncate(6);
    recording.connections.truncate(3);
    recording.intervals.truncate(5);
    recording
}

fn check_names(recording: &Recording, name: &str) {
    let (hostile, tame) = (named(recording.clone(), name), named(recording.clone(), "x"));
    for text in [text(&hostile), markdown(&hostile), html(&hostile), json(&hostile)] {
        let hidden = text.chars().find(|c| *c != '\n' && escape::is_hidden(*c));
        assert_eq!(hidden, None, "{name:?}");
    }
    let lines = |text: String| text.lines().filter(|line| line.starts_with(['#', '|', '-'])).count();
    assert_eq!(lines(markdown(&hostile)), lines(markdown(&tame)), "a name makes no line: {name:?}");
    assert!(!markdown(&hostile).contains('<'), "{name:?}");
    let (page, plain) = (html(&hostile), html(&tame));
    for mark in ['<', '>', '"', '\''] {
        assert_eq!(page.matches(mark).count(), plain.matches(mark).count(), "{mark} in {name:?}");
    }
    let read: Value = serde_json::from_str(&json(&hostile)).expect("JSON");
    assert_eq!(read["threads"][0]["comm"], Value::from(name));
    let mut processes = read["processes"].as_array().expect("a list").iter();
    assert!(processes.any(|process| process["cmdline"] == name), "{name:?}");
}

#[test]
fn hostile_names_are_only_names() {
    let names = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\" onload=\"x' style='",
        "a\n# b\n| c | d |\r\n",
        "\u{1b}]0;x\u{7}\u{1b}[2J\u{9b}1m",
        "\u{202e}evil\u{2066}\u{200f}\u{feff}",
        "broken \u{fffd} utf-8 &amp; &#x3c;",
        "",
    ];
    let recording = small();
    names.iter().for_each(|name| check_names(&recording, name));
}

/// Words that a figure gone wrong would print.
fn assert_sane(recording: &Recording) {
    let recording = named(recording.clone(), "x");
    for text in [text(&recording), markdown(&recording), html(&recording), json(&recording)] {
        let wrong =
            text.split(|c: char| !c.is_alphanumeric()).find(|word| ["NaN", "inf", "Infinity"].contains(word));
        assert_eq!(wrong, None, "{text}");
    }
}

#[test]
fn nothing_and_little_make_sensible_reports() {
    assert_sane(&synthetic::nothing());
    let mut no_runs = synthetic::nothing();
    no_runs.runs.clear();
    assert_sane(&no_runs);
    let mut one = synthetic::two_cpus();
    one.threads.truncate(1);
    one.intervals.truncate(1);
    assert_sane(&one);
    one.intervals[0].seconds = 0.0;
    one.runs[0].seconds = 0.0;
    one.threads[0].figures = Default::default();
    assert_sane(&one);
    assert!(text(&one).contains("not measured") && html(&one).contains("not measured"));
    assert!(html(&synthetic::nothing()).contains("No thread was seen."));
}

#[test]
fn one_node_has_nothing_to_say_of_others() {
    let recording = synthetic::two_cpus();
    assert!(
        !html(&recording).contains("CPU time off node</h3>")
            && !text(&recording).contains("from node to node")
    );
    assert!(!text(&recording).contains("by group"), "there is none");
    let recording = synthetic::a3();
    assert!(
        html(&recording).contains("CPU time off node</h3>") && text(&recording).contains("from node to node")
    );
}

#[test]
fn hosts_together_tell_their_processes_apart() {
    let mut both = small();
    let mut other = small();
    other.runs[0].host.name = "infer-08".into();
    both.merge(other);
    for report in [markdown(&both), html(&both)] {
        assert!(report.contains("infer-07 worker 20100") && report.contains("infer-08 worker 20100"));
    }
}

#[test]
fn ten_thousand_threads_make_a_page_that_can_be_looked_at() {
    let mut recording = synthetic::two_cpus();
    let thread = recording.threads[0].clone();
    recording.threads = (0..10_000)
        .map(|tid| crate::core::jitter::recording::ThreadRecord { tid, ..thread.clone() })
        .collect();
    for thread in &mut recording.threads {
        // Enough to be ranked by, quick to add up.
        thread.figures.slice = Default::default();
        thread.figures.gap = Default::default();
        thread.figures.wake_wait.buckets.retain(|bucket, _| *bucket == 30);
    }
    let page = html(&recording);
    assert!(page.contains("9,700 more: the JSON report has all."), "{}", page.len());
    assert!(page.len() < 300_000, "{}", page.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_name_is_only_a_name(name in "\\PC{0,12}|[\\x00-\\x7f]{0,12}|[<>&\"'|`\\[\\]\u{202e}\u{1b}\n]{0,8}") {
        let mut recording = synthetic::two_cpus();
        recording.threads.truncate(2);
        check_names(&recording, &name);
    }

    #[test]
    fn any_recording_makes_sane_reports(recording in sample::recordings()) {
        assert_sane(&recording);
    }
}
