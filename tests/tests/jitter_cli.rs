//! `numa-agent jitter` on files: merging, refusing, comparing. Needs no root and no kernel programs.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use numa_agent::core::jitter::{file, recording::Recording};
use numa_agent_tests::{
    agent,
    recordings::{minute, vllm_result},
};
use serde_json::Value;
use tempfile::TempDir;

/// A folder of files that a test makes.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn record(&self, name: &str, recording: &Recording) -> PathBuf {
        self.write(name, &file::print(recording))
    }

    /// Runs `numa-agent jitter` in here.
    fn jitter(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        agent::command(["jitter"]).args(args).current_dir(self.0.path()).output().expect("numa-agent starts")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: &Path) -> Recording {
    file::parse("test", &fs::read(path).unwrap()).unwrap()
}

/// Expects that exit code, nothing on standard output, and all `words` on standard error.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "machine output stays clean");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn merged_recordings_keep_their_runs() {
    let folder = Folder::new();
    folder.record("a.json", &minute("2025-03-01T12:00:00Z", &[1000]));
    folder.record("b.json", &minute("2025-03-02T12:00:00Z", &[9000, 9000]));
    let output = folder.jitter(["merge", "a.json", "b.json", "-o", "both.json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let both = read(&folder.path("both.json"));
    let started: Vec<&str> = both.runs.iter().map(|run| run.started_at.as_str()).collect();
    assert_eq!(started, ["2025-03-01T12:00:00Z", "2025-03-02T12:00:00Z"]);
    let waits: Vec<(usize, u64)> =
        both.threads.iter().map(|thread| (thread.run, thread.figures.wake_wait.count)).collect();
    assert_eq!(waits, [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2)]);
    // The result takes part in further merges.
    folder.record("c.json", &minute("2025-03-03T12:00:00Z", &[]));
    let output = folder.jitter(["merge", "both.json", "c.json", "-o", "both.json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(read(&folder.path("both.json")).runs.len(), 3);
    assert_eq!(folder.names(), ["a.json", "b.json", "both.json", "c.json"], "nothing temporary is left");
}

#[test]
fn no_run_counts_twice() {
    let folder = Folder::new();
    folder.record("a.json", &minute("2025-03-01T12:00:00Z", &[1000]));
    let output = folder.jitter(["merge", "a.json", "a.json", "-o", "both.json"]);
    assert_refused(
        &output,
        2,
        &["a.json: the run on infer-07 at 2025-03-01T12:00:00Z is in one of the other files"],
    );
    assert_eq!(folder.names(), ["a.json"]);
}

#[test]
fn wrong_files_are_named_with_the_place_and_what_to_do() {
    let folder = Folder::new();
    let text = file::print(&minute("2025-03-01T12:00:00Z", &[1000]));
    folder.write("good.json", &text);
    folder.write("cut.json", &text[..700]);
    folder.write("empty.json", "");
    folder.write("other.json", "{\"itls\": []}");
    folder.write("later.json", &text.replacen("\"schema\":1", "\"schema\":7", 1));
    let cases: [(&str, &[&str]); 6] = [
        ("cut.json", &["cut.json:1:700: the text ends too early", "record again"]),
        ("empty.json", &["empty.json: the file is empty"]),
        ("other.json", &["other.json: not a jitter recording", "numa-agent jitter record"]),
        ("later.json", &["later.json: a recording of schema 7", "newer"]),
        ("none.json", &["cannot read none.json", "No such file"]),
        (".", &["cannot read .", "Is a directory"]),
    ];
    for (name, words) in cases {
        assert_refused(&folder.jitter(["merge", "good.json", name, "-o", "out.json"]), 2, words);
        assert!(!folder.path("out.json").exists(), "{name}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_a_failure() {
    let folder = Folder::new();
    folder.record("a.json", &minute("2025-03-01T12:00:00Z", &[1000]));
    let output = folder.jitter(["merge", "a.json", "-o", "a.json/x.json"]);
    assert_refused(&output, 1, &["cannot write a.json/x.json"]);
    assert_refused(&folder.jitter(["merge", "-o", "x.json"]), 2, &["<FILE>..."]);
}

/// Before and after: waits become shorter, and the threads stop moving.
fn before_and_after(folder: &Folder) {
    let mut before = minute("2025-03-01T11:00:00Z", &[40_000; 3000]);
    for thread in &mut before.threads {
        thread.figures.migrations.as_mut().unwrap().by_span.socket = 600;
    }
    folder.record("before.json", &before);
    folder.record("after.json", &minute("2025-03-01T12:00:00Z", &[10_000; 3000]));
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_good_binding_passes() {
    let folder = Folder::new();
    before_and_after(&folder);
    folder.write("tokens_before.json", &vllm_result(5_000_000));
    folder.write("tokens_after.json", &vllm_result(900_000));
    let compare = ["compare", "before.json", "after.json"];
    let tokens = ["--tokens-base", "tokens_before.json", "--tokens-bound", "tokens_after.json"];
    let output = folder.jitter(compare.iter().chain(&tokens));
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).starts_with("PASS: 5 of 5 criteria met\n"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
    // As evidence, in a file whose ending says how.
    let output = folder.jitter(compare.iter().chain(&tokens).chain(&["-o", "evidence/compare.md"]));
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
    let evidence = fs::read_to_string(folder.path("evidence/compare.md")).unwrap();
    assert!(evidence.starts_with("# Jitter before and after: PASS\n"), "{evidence}");
    let output = folder.jitter(compare.iter().chain(&tokens).chain(&["--format", "json"]));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["verdict"], &json["complete"]), (&"pass".into(), &true.into()));
    assert_eq!(json["criteria"][0]["bound"], 900_000);
    assert_eq!(json["base"]["tokens"]["fluctuation_ns"]["p99-p50"], 5_000_000);
}

#[test]
fn a_bad_one_fails_and_says_by_what() {
    let folder = Folder::new();
    before_and_after(&folder);
    folder.write("tokens_before.json", &vllm_result(5_000_000));
    folder.write("tokens_after.json", &vllm_result(1_000_001));
    let compare = ["compare", "before.json", "after.json"];
    let tokens = ["--tokens-base", "tokens_before.json", "--tokens-bound", "tokens_after.json"];
    let output = folder.jitter(compare.iter().chain(&tokens));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stdout(&output).contains("1.000001 ms  1 ms"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "numa-agent: bound does not pass: fluctuation\n");
    // The limit and the definition are the user's.
    for flags in [["--max-fluctuation", "2ms"], ["--fluctuation", "p95-p5"]] {
        let output = folder.jitter(compare.iter().chain(&tokens).chain(&flags));
        assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", stderr(&output));
    }
    // The other way round everything is worse.
    let output = folder.jitter(["compare", "after.json", "before.json"]);
    assert_eq!(stderr(&output), "numa-agent: bound does not pass: wait, node-moves, moves\n");
}

#[test]
fn what_nobody_measured_is_not_passed() {
    let folder = Folder::new();
    before_and_after(&folder);
    let output = folder.jitter(["compare", "before.json", "after.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("PASS as far as measured: 4 of 5 criteria met, 1 not measured\n"));
    assert!(stdout(&output).contains("NOT MEASURED: token-to-token fluctuation"), "{}", stdout(&output));
    for required in ["fluctuation", "all", "wait,fluctuation"] {
        let output = folder.jitter(["compare", "before.json", "after.json", "--require", required]);
        assert_eq!(output.status.code(), Some(1), "{required}");
        assert_eq!(stderr(&output), "numa-agent: bound does not pass: fluctuation (not measured)\n");
    }
    let output = folder.jitter(["compare", "before.json", "after.json", "--require", "wait,off-node"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_cannot_be_compared_is_refused_unless_forced() {
    let folder = Folder::new();
    before_and_after(&folder);
    let mut other = minute("2025-03-01T13:00:00Z", &[10_000; 3000]);
    other.runs[0].host.name = "infer-\u{1b}[2J".into();
    other.runs[0].seconds = 3.0;
    folder.record("other.json", &other);
    let output = folder.jitter(["compare", "before.json", "other.json"]);
    let reasons = [
        "cannot be compared; --force",
        "\n  - different hosts: base is of infer-07",
        "infer-\\u{1b}[2J",
        "\n  - bound is too short: 3.0 s",
        "--min-seconds",
    ];
    assert_refused(&output, 2, &reasons);
    let forced = ["compare", "before.json", "other.json", "--force"];
    let output = folder.jitter(forced);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("compared by --force, though:\n  - different hosts"), "{text}");
    assert!(text.starts_with("forced: not comparable: 4 of 5 criteria met"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let output = folder.jitter(forced.iter().chain(&["--format", "json"]));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["not_comparable"].as_array().unwrap().len() >= 2);
    assert_eq!((&json["verdict"], &json["forced"]), (&"not comparable".into(), &true.into()));
    assert!(
        stderr(&output).contains("warning: compared by --force, though different hosts"),
        "{}",
        stderr(&output)
    );
    let output = folder.jitter(["compare", "before.json", "before.json"]);
    assert_refused(&output, 2, &["the run on infer-07 at 2025-03-01T11:00:00Z is in both"]);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    before_and_after(&folder);
    folder.write("tokens.json", &vllm_result(900_000));
    folder.write("summary.json", "{\"endpoint_type\": \"vllm\", \"mean_itl_ms\": 30.5}");
    folder.write("few.csv", "timestamp_s\n1\n2\n");
    folder.write("back.csv", "request,timestamp_s\na,2\nb,7\na,1\n");
    let cases: [(&[&str], &[&str]); 11] = [
        (&["--tokens-base", "tokens.json"], &["--tokens-base is given without --tokens-bound"]),
        (&["--tokens-bound", "tokens.json"], &["--tokens-bound is given without --tokens-base"]),
        (
            &["--tokens-base", "tokens.json", "--tokens-bound", "summary.json"],
            &["summary.json:1: the result has summaries only", "--save-detailed"],
        ),
        (
            &["--tokens-base", "tokens.json", "--tokens-bound", "few.csv"],
            &["bound has 1 times between tokens", "--min-gaps", "measured in different ways"],
        ),
        (
            &["--tokens-base", "tokens.json", "--tokens-bound", "back.csv"],
            &["back.csv:4: the timestamp 1 of request a is before that of line 2"],
        ),
        (
            &["--tokens-base", "tokens.json", "--tokens-bound", "after.json"],
            &["after.json: a jitter recording, not token times"],
        ),
        (&["--fluctuation", "p99"], &["p99-p50"]),
        (&["--max-off-node", "0.01"], &["write a percentage such as 1%"]),
        (&["--max-length-ratio", "0.5"], &["from 1 on"]),
        (&["--require", "wait-limit"], &["needs --max-wait"]),
        (&["--require", "tokens"], &["fluctuation, wait", "or all"]),
    ];
    for (flags, words) in cases {
        assert_refused(
            &folder.jitter(["compare", "before.json", "after.json"].iter().chain(flags)),
            2,
            words,
        );
    }
    let output = folder.jitter(["compare", "before.json", "after.json", "-o", "x.pdf"]);
    assert_refused(&output, 2, &["x.pdf: the ending tells no format"]);
}

#[test]
fn tapped_sockets_stand_in_for_token_files() {
    let folder = Folder::new();
    let tapped = |started_at: &str, longer_ns: u64| {
        let mut recording = minute(started_at, &[10_000; 3000]);
        // Headers, half a second to the first token, then one every 30 ms.
        let answer = |_| {
            let gap = |index: u32| if index.is_multiple_of(50) { 30_000_000 + longer_ns } else { 30_000_000 };
            std::iter::once(500_000_000).chain((0..200).map(gap)).collect()
        };
        recording.connections.push(numa_agent::core::jitter::recording::Connection {
            run: 0,
            pid: 100,
            comm: "api".into(),
            local_port: 8000,
            remote_port: 40_000,
            answers: (0..10).map(answer).collect(),
        });
        recording
    };
    folder.record("before.json", &tapped("2025-03-01T11:00:00Z", 4_000_000));
    folder.record("after.json", &tapped("2025-03-01T12:00:00Z", 800_000));
    let output = folder.jitter(["compare", "before.json", "after.json", "--require", "all"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let text = stdout(&output);
    let row = text.lines().find(|line| line.starts_with("token-to-token fluctuation")).unwrap();
    let words: Vec<&str> = row.split_whitespace().skip(3).collect();
    assert_eq!(words, ["4", "ms", "0.8", "ms", "1", "ms", "pass"], "{text}");
}

#[test]
fn reports_take_their_format_from_the_file() {
    let folder = Folder::new();
    before_and_after(&folder);
    let output = folder.jitter(["report", "before.json"]);
    assert!(output.status.success() && stdout(&output).contains("run-queue wait"), "{}", stderr(&output));
    for (name, begin) in [("x.md", "# "), ("x.html", "<!"), ("x.json", "{"), ("x.txt", "jitter on infer-07")]
    {
        let output = folder.jitter(["report", "before.json", "-o", name]);
        assert!(output.status.success() && output.stdout.is_empty(), "{name}: {}", stderr(&output));
        let text = fs::read_to_string(folder.path(name)).unwrap();
        assert!(text.starts_with(begin), "{name}: {}", &text[..40]);
    }
    let output = folder.jitter(["report", "before.json", "--format", "md", "-o", "odd.name"]);
    assert!(
        output.status.success() && fs::read_to_string(folder.path("odd.name")).unwrap().starts_with("# ")
    );
    assert_refused(
        &folder.jitter(["report", "before.json", "-o", "other.name"]),
        2,
        &["the ending tells no format"],
    );
    // Several are one.
    let output = folder.jitter(["report", "before.json", "after.json", "--format", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["runs"].as_array().unwrap().len(), &json["total"]["threads"]), (2, &6.into()));
}

#[test]
fn a_tap_on_nothing_is_bad_usage() {
    let folder = Folder::new();
    // One that was free a moment ago, and a number that is no pid anywhere (PID_MAX_LIMIT).
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let port = format!("port:{free}");
    let cases: [(&str, &[&str]); 5] = [
        ("5000000", &["no process 5000000", "ports end at 65535"]),
        ("pid:5000000", &["--tap pid:5000000: there is no process 5000000"]),
        (&port, &["nothing listens on the tapped port yet", "a command after --"]),
        ("tcp:80", &["invalid value 'tcp:80' for '--tap <PORT|PID>'", "8000, port:8000 or pid:4711"]),
        ("0", &["invalid value '0'"]),
    ];
    for (tap, words) in cases {
        assert_refused(&folder.jitter(["record", "-o", "x.json", "--tap", tap]), 2, words);
    }
    assert_eq!(folder.names(), [""; 0]);
}

/// All keys in a JSON value whose names are fixed.
fn keys(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    // Below these, keys are names and numbers of nodes, buckets, roles.
    const OPEN: [&str; 8] =
        ["nodes", "sockets", "groups", "memory", "node_ns", "buckets", "roles", "fluctuation_ns"];
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key.clone());
                if !OPEN.contains(&key.as_str()) {
                    keys(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_documentation_names_all_there_is() {
    let documentation =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/jitter.md")).unwrap();
    let names = |name: &str| {
        let known = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '.';
        documentation.split(|c| !known(c)).any(|word| word.trim_end_matches('.') == name)
    };
    let folder = Folder::new();
    before_and_after(&folder);
    for command in ["compare", "report", "merge"] {
        let help = stdout(&folder.jitter([command, "--help"]));
        let flags = help.split_whitespace().filter(|word| word.starts_with("--") && *word != "--help");
        let unnamed: Vec<&str> = flags
            .map(|flag| flag.trim_end_matches(|c: char| !c.is_alphanumeric()))
            .filter(|flag| !names(flag))
            .collect();
        assert!(unnamed.is_empty(), "{command}: {unnamed:?}");
    }
    let mut found = std::collections::BTreeSet::new();
    let recording = fs::read_to_string(folder.path("before.json")).unwrap();
    keys(&serde_json::from_str(&recording).unwrap(), &mut found);
    let compared =
        folder.jitter(["compare", "before.json", "after.json", "--format", "json", "--max-wait", "1s"]);
    let compared: Value = serde_json::from_slice(&compared.stdout).unwrap();
    found.extend(compared.as_object().unwrap().keys().cloned());
    for criterion in compared["criteria"].as_array().unwrap() {
        found.extend(criterion.as_object().unwrap().keys().cloned());
        found.insert(criterion["name"].as_str().unwrap().to_owned());
    }
    let spans = ["core", "cluster", "node", "socket", "machine"];
    let causes = ["wake_up", "exec", "affinity", "numa_balancing", "load_balancer"];
    let found = found.iter().map(String::as_str).filter(|key| !spans.contains(key) && !causes.contains(key));
    let unnamed: Vec<&str> = found.filter(|key| !names(key)).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
    // Its examples are what they say.
    let csv =
        documentation.split("```text\n").find(|block| block.starts_with("request,timestamp_s\n")).unwrap();
    let csv = csv.split("```").next().unwrap();
    let tokens = numa_agent::core::jitter::tokens::parse("x", csv.as_bytes()).unwrap();
    assert_eq!((tokens.gaps.percentile_ns(100.0), tokens.single), (Some(30_250_000), 1));
    for definition in numa_agent::core::jitter::tokens::Fluctuation::ALL {
        assert!(names(&definition.to_string()), "{definition}");
    }
}

#[test]
fn a_recording_that_makes_no_sense_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (ran, file) = (dir.path().join("ran"), dir.path().join("r.json"));
    let (ran, file) = (ran.to_str().unwrap(), file.to_str().unwrap());
    std::fs::write(dir.path().join("taken"), "").unwrap();
    let below_a_file = dir.path().join("taken/r.json");
    for (args, code, words) in [
        (vec!["-o", file], 2, "nothing to record"),
        (vec!["-o", file, "--pid", "4194304"], 2, "--pid 4194304: no such process runs"),
        (vec!["-o", "-", "--", "touch", ran], 2, "standard output is the command's"),
        (vec!["-o", below_a_file.to_str().unwrap(), "--", "touch", ran], 1, "taken/r.json"),
        (vec!["-o", file, "--duration", "0s", "--", "touch", ran], 2, "too short"),
        (vec!["-o", file, "--interval", "soon", "--", "touch", ran], 2, "like 30s"),
        (vec!["-o", file, "--pid", "1", "--", "touch", ran], 2, "cannot be used with"),
        (vec!["-o", file, "--pid", "1", "--config", "x"], 2, "cannot be used with"),
    ] {
        let output = agent::run(["jitter", "record"].into_iter().chain(args.iter().copied()));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert!(!std::path::Path::new(ran).exists(), "{args:?} ran the command");
    }
}
