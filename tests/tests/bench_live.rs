//! `bench --quick`: every section that takes nobody else's programs still gives all its figures. Whether bounds are held is not asked: loads are
//! small, and programs not optimized.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use numa_agent_tests::{
    skip,
    sys::{self, Birth, born},
};
use serde_json::Value;

/// How long all of it may take. On two CPUs that do nothing else it is one minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// Sections, and how many bounds each has.
const SECTIONS: [(&str, usize); 7] = [
    ("time-pipe", 1),
    ("events-pipe", 3),
    ("memory", 1),
    ("hold", 0),
    ("reaction", 12),
    ("storm", 18),
    ("scale", 9),
];

#[test]
fn the_bench_gives_all_its_figures() {
    let test = "the_bench_gives_all_its_figures";
    let missing = if !geteuid().is_root() {
        "it needs root"
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        "this kernel has no BTF"
    } else if sys::affinity(0).expect("my own mask").len() < 2 {
        "it needs two CPUs"
    } else {
        return judge(&run());
    };
    skip(&format!("{test}: {missing}"));
}

/// Runs it; what it says.
fn run() -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (out, log) = (dir.path().join("out"), dir.path().join("log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--quick", "--alone", "--format", "json"]).args(SECTIONS.map(|(name, _)| name));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&log).unwrap());
    born(&mut command, Birth::Plain);
    let mut bench = command.spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = bench.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            // It ends all that it has started.
            kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGTERM).unwrap();
            panic!(
                "not within {PATIENCE:?} ({}): {}",
                bench.wait().unwrap(),
                fs::read_to_string(&log).unwrap()
            );
        }
        thread::sleep(Duration::from_millis(100));
    };
    let (said, log) = (fs::read_to_string(&out).unwrap(), fs::read_to_string(&log).unwrap());
    let report: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {status}: {said}{log}"));
    let gaps: Vec<&Value> =
        report["sections"].as_array().unwrap().iter().map(|one| &one["not_measured"]).collect();
    assert!(status.success(), "{status}: not measured: {gaps:?}\n{log}");
    report
}

fn judge(report: &Value) {
    let sections = report["sections"].as_array().expect("sections");
    assert_eq!(sections.len(), SECTIONS.len());
    for (section, (name, count)) in sections.iter().zip(SECTIONS) {
        assert_eq!(section["name"], name);
        let bounds = section["bounds"].as_array().expect("bounds");
        assert_eq!(bounds.len(), count, "{name}: {bounds:#?}");
        // JSON has no number for a figure that is none.
        let whole = bounds.iter().all(|bound| bound["measured"].is_number() && bound["at_most"].is_number());
        assert!(whole, "{name}: {bounds:#?}");
        assert!(!section["data"].is_null(), "{name}");
    }
}
