//! What is shipped for Prometheus and Grafana: rules that a real promtool takes and whose tests it passes, and no name in them that the
//! agent does not export.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use numa_agent::{
    core::{
        engine::Drifted,
        jitter::{
            account::Measured,
            totals::{ThreadTotal, Total},
        },
        metrics::{Sample, Usage},
        stats::Journaled,
        task::{TaskId, ThreadRole},
    },
    report::metrics::{Format, Page, text},
};
use numa_agent_tests::prometheus::programs_or_skip;
use serde_json::Value;

fn packaging(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../numa-agent/packaging")).join(file)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What an agent says that has one group with one thread, and everything that there is to say.
fn page() -> String {
    let place = (None, ThreadRole::Other);
    let thread = ThreadTotal {
        pid: 1,
        task: TaskId { tid: 1, start_time: 1 },
        comm: "x".to_owned(),
        place: place.clone(),
        run_ns: 0,
        off_node_ns: 0,
        moves: 0,
        wait_ns: 0,
    };
    let sample = Sample {
        measured: Measured::ALL,
        threads: [(place.clone(), 1)].into(),
        spared: [(place.clone(), 0)].into(),
        drifted: [(place.clone(), Drifted::default())].into(),
        journaled: Some(Journaled::default()),
        totals: [(place, Total::default())].into(),
        listed: vec![thread],
        ..Sample::default()
    };
    let usage = Usage {
        cpu_seconds: Some(0.0),
        resident_bytes: Some(0),
        virtual_bytes: Some(0),
        open_fds: Some(0),
        max_fds: Some(0),
        threads: Some(0),
        started_at_seconds: Some(0.0),
    };
    text(Page { sample: Arc::new(sample), sample_seconds: 0.0, usage }, Format::Plain)
}

/// All families that the agent can export, with their types.
fn families() -> Vec<(String, String)> {
    let page = page();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The names that queries may use.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, kind) in families() {
        match kind.as_str() {
            "histogram" => {
                names.extend(["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")))
            }
            _ => drop(names.insert(name)),
        }
    }
    names
}

/// Everything in a text that can only be a metric of ours.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("numa_agent") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_their_tests_name_what_is_exported() {
    let rules = read(&packaging("prometheus/numa-agent.rules.yml"));
    let recorded = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned);
    let known: BTreeSet<String> = exported().into_iter().chain(recorded).collect();
    let tests = read(&packaging("prometheus/numa-agent.rules.test.yml"));
    for text in [&rules, &tests] {
        let names = named(text);
        assert!(names.len() > 5, "{names:?}");
        for name in names {
            assert!(known.contains(name), "nobody exports or records {name}");
        }
    }
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 7, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

#[test]
fn the_dashboard_asks_for_what_is_exported() {
    let dashboard: Value = serde_json::from_str(&read(&packaging("grafana/numa-agent.json"))).unwrap();
    let known = exported();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = variables.iter().filter_map(|variable| variable["query"]["query"].as_str());
    let asked: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).chain(queries).collect();
    assert!(asked.len() > 10);
    for query in asked {
        let names = named(query);
        assert!(!names.is_empty() || query.starts_with("up{"), "{query}");
        for name in names {
            assert!(known.contains(name), "nobody exports {name}: {query}");
        }
    }
}

#[test]
fn the_manual_has_every_metric() {
    let manual = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")));
    for (name, _) in families() {
        let together = name.starts_with("process_") || name.starts_with("numa_agent_thread_");
        assert!(together || manual.contains(&format!("`{name}`")), "docs/metrics.md does not have {name}");
    }
    let page = page();
    let series = page
        .lines()
        .filter(|line| line.contains("group=\"background\",role=\"other\"") && !line.contains("pid="));
    assert!(manual.contains(&format!("{} for each group and role", series.count())));
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    let Some(programs) = programs_or_skip() else { return };
    for (what, file) in [("check", "numa-agent.rules.yml"), ("test", "numa-agent.rules.test.yml")] {
        let file = packaging("prometheus").join(file);
        let output = Command::new(&programs.promtool).args([what, "rules"]).arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(
            output.status.success() && said[0].contains("SUCCESS"),
            "{what} {}: {said:#?}",
            file.display()
        );
    }
}
