//! `numa-agent jitter` on files: merging, refusing, comparing. Needs no root and no kernel programs.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use numa_agent::core::jitter::{file, recording::Recording};
use numa_agent_tests::{agent, recordings::minute};
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
        (".", &["cannot read .", "folder"]),
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
