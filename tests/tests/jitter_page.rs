//! The jitter report's page in a real browser: no errors, the recording's figures, nothing cut off or on top of another.

use numa_agent::{
    core::jitter::{recording::Recording, synthetic},
    report::jitter,
};
use numa_agent_tests::browser::{Browser, Looks, browser_or_skip};

/// Widths of windows: a laptop's, and half a screen.
const WIDTHS: [u32; 2] = [1280, 700];

fn looks_tidy(browser: &Browser, recording: &Recording) -> Looks {
    let page = jitter::html(recording);
    assert_eq!(browser.console(&page), Vec::<String>::new());
    let [wide, narrow] = WIDTHS.map(|width| {
        let looks = browser.looks(&page, width, false);
        assert_eq!((looks.window, looks.page), (width, width), "no horizontal scroll bar");
        assert_eq!(looks.overlaps, Vec::<String>::new(), "{width}");
        looks
    });
    assert_eq!(wide.cut, Vec::<String>::new());
    assert_eq!(wide.text.contains("not measured"), narrow.text.contains("not measured"));
    wide
}

#[test]
fn a_large_machine_with_trouble() {
    let Some(browser) = browser_or_skip() else { return };
    let recording = synthetic::a3();
    let looks = looks_tidy(&browser, &recording);
    assert_eq!(looks.title, "Jitter report: infer-07");
    let json: serde_json::Value = serde_json::from_str(&jitter::json(&recording)).expect("JSON");
    let critical = &json["critical"];
    let percent = critical["off_node"]["share"].as_f64().expect("a share") * 100.0;
    let longest = critical["wait"]["max_ns"].as_f64().expect("waits") / 1e6;
    let moves = critical["migrations"]["between_nodes"].as_u64().expect("moves");
    let worst = &json["threads"][0];
    let shown = [
        format!("{percent:.2} %"),
        format!("{longest:.1} ms"),
        format!("{},{:03}", moves / 1000, moves % 1000),
        format!("{} forward threads", critical["threads"]),
        worst["tid"].to_string(),
        "Lost: the figures are too low by this".to_owned(),
        "3 sends of tapped connections".to_owned(),
        "388 more: the JSON report has all.".to_owned(),
    ];
    for figure in shown {
        assert!(looks.text.contains(&figure), "no {figure} in\n{}", looks.text);
    }
    let dark = browser.looks(&jitter::html(&recording), 1280, true);
    assert_ne!(dark.background, looks.background);
    assert_eq!(dark.text, looks.text);
}

#[test]
fn a_small_machine_without_a_plan() {
    let Some(browser) = browser_or_skip() else { return };
    let looks = looks_tidy(&browser, &synthetic::two_cpus());
    for words in ["not measured", "there was no plan", "There is one node only", "irq, softirq"] {
        assert!(looks.text.contains(words), "no {words} in\n{}", looks.text);
    }
}

#[test]
fn nothing_recorded_and_two_hosts_together() {
    let Some(browser) = browser_or_skip() else { return };
    let looks = looks_tidy(&browser, &synthetic::nothing());
    assert!(looks.text.contains("No thread was seen."), "{}", looks.text);
    let mut both = synthetic::two_cpus();
    let mut other = synthetic::two_cpus();
    other.runs[0].host.name = "infer-08".into();
    both.merge(other);
    assert_eq!(looks_tidy(&browser, &both).title, "Jitter report: infer-07, infer-08");
}

#[test]
fn names_run_nothing_even_where_scripts_may() {
    let Some(browser) = browser_or_skip() else { return };
    let evil = "</title></style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u{202e}";
    let mut recording = synthetic::two_cpus();
    recording.runs[0].lost = vec![evil.into()];
    for process in &mut recording.processes {
        (process.comm, process.cmdline) = (evil.into(), evil.into());
    }
    for thread in &mut recording.threads {
        (thread.comm, thread.group) = (evil.into(), Some(evil.into()));
        thread.figures.preemptors.iter_mut().for_each(|who| who.comm = Some(evil.into()));
    }
    let page = jitter::html(&recording);
    assert_eq!(browser.console(&page), Vec::<String>::new());
    // The page is looked at without its policy, and so an injected script would run.
    let looks = browser.looks(&page, 700, false);
    assert_eq!((looks.title.as_str(), looks.page), ("Jitter report: infer-07", 700));
    assert!(looks.text.contains("</title></style><script>document"), "{}", looks.text);
}
