//! The text as a scraper gets it.

use std::collections::BTreeMap;

use numa_ebpf::account::{cause, span};

use super::*;
use crate::core::{
    jitter::{
        account::Measured,
        totals::{ThreadTotal, Total},
    },
    metrics::steps::Steps,
    stats::Attempt,
    task::{TaskId, ThreadRole},
};

fn page(sample: Sample) -> Page {
    let usage = Usage { cpu_seconds: Some(1.5), open_fds: Some(7), ..Usage::default() };
    Page { sample: Arc::new(sample), sample_seconds: 0.25, usage }
}

fn sample() -> Sample {
    let mut waits = Steps::default();
    [500, 1_000_000, 1_000_001, 60_000_000_000].into_iter().for_each(|ns| waits.add(ns));
    let mut total = Total { run_ns: 2_500_000_000, off_node_ns: 1_000_000, waits, ..Total::default() };
    (total.moves_by_span[span::MACHINE], total.moves_by_cause[cause::AFFINITY]) = (3, 2);
    let place = (Some("socket0_group1".to_owned()), ThreadRole::Forward);
    Sample {
        enforcing: true,
        measured: Measured::ALL,
        processes: BTreeMap::from([(None, 2)]),
        totals: BTreeMap::from([(place, total)]),
        attempts: BTreeMap::from([(Attempt { result: "failed", cause: "exec", role: "member" }, 4)]),
        ..Sample::default()
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn numbers_are_in_base_units_under_their_labels() {
    let text = text(page(sample()), Format::OpenMetrics);
    let lines = lines(&text);
    for line in [
        "# TYPE numa_agent_cpu_seconds counter",
        "# UNIT numa_agent_cpu_seconds seconds",
        "numa_agent_cpu_seconds_total{group=\"socket0_group1\",role=\"forward\"} 2.5",
        "numa_agent_off_node_seconds_total{group=\"socket0_group1\",role=\"forward\"} 0.001",
        "numa_agent_off_plan_seconds_total{group=\"socket0_group1\",role=\"forward\"} 0.0",
        "numa_agent_migrations_total{group=\"socket0_group1\",role=\"forward\",distance=\"machine\"} 3",
        "numa_agent_migrations_by_cause_total{group=\"socket0_group1\",role=\"forward\",cause=\"affinity\"} 2",
        "numa_agent_processes{group=\"background\"} 2",
        "numa_agent_binds_total{result=\"failed\",cause=\"exec\",role=\"member\"} 4",
        "numa_agent_enforcing 1",
        "numa_agent_sample_duration_seconds 0.25",
        "process_cpu_seconds_total 1.5",
        "process_open_fds 7",
    ] {
        assert!(lines.contains(&line), "{line} in\n{text}");
    }
    assert_eq!(lines.last(), Some(&"# EOF"));
    assert!(!text.contains("numa_agent_thread_"), "on request alone");
    assert!(!text.contains("process_max_fds"), "what could not be read is not there");
}

#[test]
fn histograms_are_cumulative_and_end_with_all() {
    let text = text(page(sample()), Format::OpenMetrics);
    let of = |line: &&str| line.starts_with("numa_agent_run_queue_wait_seconds_bucket");
    let buckets: Vec<(f64, u64)> = text
        .lines()
        .filter(of)
        .map(|line| {
            let (labels, count) = line.rsplit_once(' ').unwrap();
            let le = labels.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
            (le.parse().unwrap(), count.parse().unwrap())
        })
        .collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets.first(), Some(&(0.000_001_024, 1)));
    assert!(buckets.contains(&(0.001_048_576, 3)));
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 4)));
    let labels = "{group=\"socket0_group1\",role=\"forward\"}";
    assert!(text.contains(&format!("numa_agent_run_queue_wait_seconds_count{labels} 4\n")), "{text}");
    assert!(
        text.contains(&format!("numa_agent_run_queue_wait_seconds_sum{labels} 60.002000501\n")),
        "{text}"
    );
}

#[test]
fn the_older_format_has_the_same_samples() {
    let [open, plain] = Format::ALL.map(|format| text(page(sample()), format));
    let samples = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(samples(&open), samples(&plain));
    assert!(plain.contains("# HELP numa_agent_scans_total Scans"), "{plain}");
    for line in plain.lines().filter(|line| line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(matches!(words[1], "HELP" | "TYPE"), "{line}");
        let is_counter = words[1] == "TYPE" && words[3] == "counter";
        assert!(!is_counter || words[2].ends_with("_total"), "{line}");
    }
}

#[test]
fn what_is_not_measured_is_not_there() {
    let sample = Sample { measured: Measured::default(), ..sample() };
    let text = text(page(sample), Format::OpenMetrics);
    for name in ["cpu_seconds_total{", "off_node", "off_plan", "run_queue_wait", "migrations"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
    assert!(text.contains("numa_agent_scans_total"));
}

#[test]
fn a_threads_name_stays_a_label() {
    let thread = ThreadTotal {
        pid: 7,
        task: TaskId { tid: 8, start_time: 1 },
        comm: "a\"} 1\nb\\\u{1b}[31m".to_owned(),
        place: (None, ThreadRole::Other),
        run_ns: 1_000_000_000,
        off_node_ns: 0,
        moves: 5,
        wait_ns: 0,
    };
    let sample = Sample { listed: vec![thread], unlisted: 3, ..sample() };
    let text = text(page(sample), Format::OpenMetrics);
    let expected = "numa_agent_thread_migrations_total{pid=\"7\",tid=\"8\",comm=\"a\\\"} 1\\\\nb\\\\\\\\u{1b}[31m\",group=\"background\",role=\"other\"} 5";
    assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    assert!(text.contains("numa_agent_threads_unlisted 3\n"));
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_client_gets_what_it_takes() {
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::of(prometheus), Format::OpenMetrics);
    for accept in [
        "",
        "*/*",
        "text/html",
        "application/openmetrics-text; q=0, text/plain",
        "application/openmetrics-text-x",
    ] {
        assert_eq!(Format::of(accept), Format::Plain, "{accept}");
    }
}
