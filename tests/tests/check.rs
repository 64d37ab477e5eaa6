//! `numa-agent check`, as those who accept a machine meet it. Needs no root. Guests have the rest: `guest/check.rs`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use numa_agent::core::{
    idset::CpuSet,
    jitter::{file, recording::Recording},
    preset::Preset,
};
use numa_agent_tests::{
    agent,
    recordings::{minute, vllm_result},
    stack::{Family, puppet::Puppet},
    sys::{self, Birth},
    sysfs_tree::write_sysfs,
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs in `dir`, so that the default report's place is in there.
fn check(dir: &Path, args: &[&str]) -> Output {
    agent::command(["check"].iter().chain(args)).current_dir(dir).output().expect("numa-agent starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON, which has to agree with the exit code.
fn json(dir: &Path, args: &[&str]) -> Value {
    let output = check(dir, &[args, &["--format", "json"]].concat());
    let stderr = text(&output.stderr);
    let value: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let code = if value["passed"] == true { 0 } else { 1 };
    assert_eq!((output.status.code(), &value["schema"]), (Some(code), &Value::from(1)), "{stderr}");
    value
}

fn item<'a>(report: &'a Value, id: &str) -> &'a Value {
    let sections = report["sections"].as_array().expect("sections").iter();
    let mut items = sections.flat_map(|section| section["items"].as_array().expect("items"));
    items.find(|item| item["id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

fn verdict<'a>(report: &'a Value, id: &str) -> &'a str {
    item(report, id)["verdict"].as_str().expect("a verdict")
}

/// Expects that code, nothing on standard output, and these words on standard error.
fn assert_refused(args: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let output = check(dir.path(), args);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in: {stderr}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?}: no report of nothing");
}

#[test]
fn an_a3_has_the_guides_shape_and_leaves_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let output = check(dir.path(), &["--preset", "a3", "--expect", "a3"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    for line in ["  pass    A1   sockets and nodes are as expected", "A  PASS  5 pass, 16 skipped"] {
        assert!(stdout.lines().any(|found| found == line), "no line {line} in {stdout}");
    }
    let report = fs::read_to_string(dir.path().join("workflow_visualization/numa_check_report.md")).unwrap();
    for words in
        ["# NUMA acceptance check: PASS", "socket 3: node 6 (CPUs 240-279)", "of preset a3, not of this host"]
    {
        assert!(report.contains(words), "no {words} in {report}");
    }
    for words in ["## Signatures", "## To do"] {
        assert!(!report.contains(words), "{words} for a machine that was not looked at: {report}");
    }
    let strict = json(dir.path(), &["--preset", "a3", "--strict"]);
    assert_eq!((&strict["passed"], &strict["strict"]), (&false.into(), &true.into()), "{strict}");
}

#[test]
fn a_captured_tree_that_lacks_something_is_told_what() {
    let dir = tempfile::tempdir().unwrap();
    let mut topology = Preset::A3.topology();
    topology.cpus.retain(|cpu| cpu.id != 41);
    topology.offline = "41".parse().unwrap();
    topology.isolated = "0-3".parse().unwrap();
    topology.nodes[5].memory_bytes = Some(0);
    write_sysfs(&topology.settled(), &dir.path().join("sys")).unwrap();
    let args = ["--sysfs-root", "sys", "--expect", "a3", "--report", "out/check.json"];
    let report = json(dir.path(), &args);
    for (id, expected, fix) in [
        ("A1", "fail", "--expect"),
        ("A2", "fail", "for cpu in 41; do echo 1 > /sys/devices/system/cpu/cpu$cpu/online; done"),
        ("A3", "fail", "dmidecode"),
        ("A4", "pass", ""),
        ("A5", "fail", "isolcpus"),
        ("A9", "skipped", ""),
    ] {
        assert_eq!(verdict(&report, id), expected, "{report}");
        assert!(item(&report, id)["fixes"].to_string().contains(fix), "{report}");
    }
    let kept: Value = serde_json::from_slice(&fs::read(dir.path().join("out/check.json")).unwrap()).unwrap();
    assert_eq!(kept["sections"][0]["counts"], report["sections"][0]["counts"]);
    assert_eq!(report["host"]["arch"], std::env::consts::ARCH);
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_refused(&["--section", "C"], &["--baseline"]);
    assert_refused(&["--section", "B", "--preset", "a3"], &["not at hand"]);
    assert_refused(&["--section", "D"], &["A, B, C"]);
    assert_refused(&["--expect", "4"], &["SOCKETSxNODES"]);
    assert_refused(&["--baseline", "x.json"], &["--bound"]);
    assert_refused(&["--preset", "a3", "--baseline", "x.json", "--bound", "y.json"], &["x.json"]);
    assert_refused(&["--config", "none.json"], &["none.json"]);
    for report in ["x.html", "x.svg"] {
        assert_refused(&["--preset", "a3", "--report", report], &[report, ".md, .json or .txt"]);
    }
}

/// A recording of this host, as far as that is told.
fn recorded_here(dir: &TempDir, name: &str, started_at: &str, waits_ns: &[u64]) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut recording: Recording = minute(started_at, waits_ns);
    for run in &mut recording.runs {
        run.host.name = nix::sys::utsname::uname().unwrap().nodename().to_string_lossy().into_owned();
        run.host.machine_id = read("/etc/machine-id");
        run.host.kernel = read("/proc/sys/kernel/osrelease");
        run.host.arch = std::env::consts::ARCH.to_owned();
    }
    write(dir, name, &file::print(&recording))
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    fs::write(dir.path().join(name), text).unwrap();
    name.to_owned()
}

#[test]
fn before_and_after_are_judged_and_are_of_this_host() {
    let dir = tempfile::tempdir().unwrap();
    let base = recorded_here(&dir, "base.json", "2025-03-01T10:00:00Z", &[20_000; 2000]);
    let bound = recorded_here(&dir, "bound.json", "2025-03-01T11:00:00Z", &[10_000; 2000]);
    let [rough, smooth] = [("rough.json", 5_000_000), ("smooth.json", 500_000)]
        .map(|(name, longer)| write(&dir, name, &vllm_result(longer)));
    let runs = ["--section", "C", "--baseline", &base, "--bound"];
    let with = |bound: &str, base_tokens: &str, bound_tokens: &str| {
        let tokens = [bound, "--tokens-base", base_tokens, "--tokens-bound", bound_tokens];
        json(dir.path(), &[runs.as_slice(), &tokens].concat())
    };
    let passed = with(&bound, &rough, &smooth);
    for id in ["C1", "C2", "C3", "C4", "C5"] {
        assert_eq!(verdict(&passed, id), "pass", "{passed}");
    }
    assert_eq!((&passed["passed"], &passed["evidence"]["comparison"]["schema"]), (&true.into(), &1.into()));
    let found = item(&passed, "C3")["found"].to_string();
    assert!(found.contains("bound 0.5 ms, limit 1 ms"), "{found}");

    let still_rough = with(&bound, &rough, &rough);
    assert_eq!((verdict(&still_rough, "C3"), verdict(&still_rough, "C4")), ("fail", "pass"), "{still_rough}");
    let waits = recorded_here(&dir, "waits.json", "2025-03-01T12:00:00Z", &[90_000; 2000]);
    let waiting = with(&waits, &rough, &smooth);
    assert_eq!((verdict(&waiting, "C3"), verdict(&waiting, "C4")), ("pass", "fail"), "{waiting}");
    let elsewhere = minute("2025-03-01T13:00:00Z", &[10_000; 2000]);
    let elsewhere = write(&dir, "elsewhere.json", &file::print(&elsewhere));
    let foreign = with(&elsewhere, &rough, &smooth);
    assert_eq!(
        (verdict(&foreign, "C1"), verdict(&foreign, "C2"), verdict(&foreign, "C3")),
        ("fail", "fail", "skipped"),
        "{foreign}"
    );
    let untold = json(dir.path(), &[runs.as_slice(), &[&bound]].concat());
    assert_eq!(verdict(&untold, "C3"), "fail", "what is not measured is not met: {untold}");
    assert!(item(&untold, "C3")["fixes"].to_string().contains("--tokens-base"), "{untold}");
}

/// A worker, and a configuration by which it has one CPU of those that we may use.
fn worker(dir: &TempDir, starter: impl FnOnce(&Family) -> Puppet) -> Puppet {
    let exe = env!("CARGO_BIN_EXE_serving-stack").into();
    let family = Family { exe, out: dir.path().into(), tag: format!("check-{}", std::process::id()) };
    let puppet = starter(&family);
    let config = serde_json::json!({
        "group_pids": [puppet.pid()], "groups_per_socket": 2, "others_socket_index": 0, "policy": "generic",
    });
    write(dir, "my config.json", &config.to_string());
    puppet
}

const ARGS: [&str; 4] = ["--config", "my config.json", "--section", "A,B"];

#[test]
fn every_thread_is_verified_and_the_fix_mends_it() {
    if sys::affinity(0).expect("our mask").len() < 2 {
        println!("SKIP: every_thread_is_verified: one CPU");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut puppet = worker(&dir, |family| Puppet::start(family, "worker", 0, Birth::Session).unwrap());
    let (pid, forward) = (puppet.pid(), puppet.thread("forward_0").unwrap());
    let before = json(dir.path(), &ARGS);
    let all: CpuSet = sys::affinity(pid).unwrap();
    let found = item(&before, "B4")["found"].to_string();
    assert_eq!(verdict(&before, "B4"), "fail", "{before}");
    for tid in [pid, forward] {
        assert!(found.contains(&format!("pid {pid} tid {tid} (")), "{found}");
    }
    assert_eq!(
        (verdict(&before, "B2"), verdict(&before, "B3"), verdict(&before, "B7")),
        ("pass", "pass", "skipped")
    );
    // What a person would paste.
    let fix = item(&before, "B4")["fixes"][0].as_str().unwrap().to_owned();
    assert_eq!(fix, "numa-agent bind --apply --config 'my config.json'");
    let path = agent::binary();
    let fix = fix.replacen("numa-agent", path.to_str().unwrap(), 1);
    assert!(Command::new("sh").args(["-c", &fix]).current_dir(dir.path()).output().unwrap().status.success());
    let after = json(dir.path(), &ARGS);
    assert_eq!(verdict(&after, "B4"), "pass", "{after}");
    let planned = sys::affinity(forward).unwrap();
    assert!(planned.len() < all.len(), "{planned}");

    // Somebody pins one of them elsewhere.
    sys::set_affinity(forward, &all).unwrap();
    let strayed = json(dir.path(), &ARGS);
    assert_eq!(
        item(&strayed, "B4")["found"],
        serde_json::json!([format!(
            "pid {pid} tid {forward} (forward_0), forward of socket0_group0: planned {planned}, may run on {all}"
        )]),
    );
    let threads = |report: &Value| {
        let processes = report["evidence"]["bind"]["processes"].as_array().unwrap().clone();
        processes
            .iter()
            .flat_map(|process| process["threads"].as_array().unwrap().clone())
            .collect::<Vec<_>>()
    };
    let result = |tid: u32| {
        let row = threads(&strayed).into_iter().find(|row| row["tid"] == tid).expect("the thread");
        row["result"].as_str().expect("a result").to_owned()
    };
    assert_eq!(
        (result(forward).as_str(), result(pid).as_str()),
        ("off plan", "unchanged"),
        "nobody plans to bind it"
    );
    // A name that no pattern fits.
    puppet.rename(forward, "helper").unwrap();
    let unnamed = json(dir.path(), &ARGS);
    assert_eq!(verdict(&unnamed, "B3"), "fail", "{unnamed}");
    let fixes = item(&unnamed, "B3")["fixes"].to_string();
    assert!(fixes.contains(&format!("/proc/{pid}/task/*/comm")) && fixes.contains("Python"), "{fixes}");
    puppet.stop().unwrap();
    let gone = json(dir.path(), &ARGS);
    assert_eq!((verdict(&gone, "B2"), verdict(&gone, "B4")), ("fail", "skipped"), "{gone}");
}

#[test]
fn a_process_that_binds_itself_or_was_started_bound_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let puppet = worker(&dir, |family| {
        // The shell stays: a command that it runs last it would become.
        let mut shell = Command::new("sh");
        shell.args(["-c", r#""$@"; exit $?"#, "taskset"]).env("OMP_PROC_BIND", "close");
        Puppet::start_by(shell, family, "worker", 0).unwrap()
    });
    let report = json(dir.path(), &ARGS);
    let (name, found) = (format!("pid {} (", puppet.pid()), |id| item(&report, id)["found"].to_string());
    assert_eq!((verdict(&report, "A14"), verdict(&report, "A15")), ("fail", "warn"), "{report}");
    assert!(found("A14").contains(&name) && found("A14").contains("OMP_PROC_BIND=close"), "{report}");
    assert!(found("A15").contains(&name) && found("A15").contains("taskset"), "{report}");

    // What is not as asked, doctor explains, with the same commands.
    let doctor =
        agent::command(["doctor", "--format", "json"]).args(&ARGS[..2]).current_dir(dir.path()).output();
    let doctor: Value = serde_json::from_slice(&doctor.expect("numa-agent starts").stdout).unwrap();
    let lines = doctor["checks"].as_array().expect("checks");
    let explained: Vec<&str> =
        lines.iter().filter_map(|line| line["fix"].as_str()).flat_map(str::lines).collect();
    let mut fixes = 0;
    for item in report["sections"][0]["items"].as_array().expect("items") {
        for fix in item["fixes"].as_array().expect("fixes").iter().filter(|_| item["verdict"] != "skipped") {
            assert!(explained.contains(&fix.as_str().expect("a fix")), "{item}: {explained:#?}");
            fixes += 1;
        }
    }
    let own = lines.iter().find(|line| line["name"] == "A14").expect("a line");
    assert!(fixes > 1 && own["found"].as_str().is_some_and(|found| found.contains(&name)), "{doctor}");
    puppet.stop().unwrap();
}

#[test]
fn a_config_is_known_by_its_sum() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "x.json", r#"{"group_patterns": ["nobody-is-called-so"]}"#);
    let report = json(dir.path(), &["--preset", "a3", "--config", "x.json"]);
    let sum = Command::new("sha256sum").arg(dir.path().join("x.json")).output().expect("sha256sum");
    let sum = text(&sum.stdout);
    assert_eq!(report["config"]["sha256"].as_str(), sum.split_whitespace().next(), "{report}");
    assert_eq!(report["config"]["path"], "x.json");
}
