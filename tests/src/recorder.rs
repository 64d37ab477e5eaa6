//! A running `numa-agent jitter record`.
//!
//! Made for tests: what goes wrong is a panic that says what.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread::JoinHandle,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::jitter::{
    file,
    recording::{Recording, ThreadRecord},
};
use tempfile::TempDir;

use crate::{
    agent::command,
    eventually,
    sys::{Birth, born},
};

/// One that records until told to stop.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    rest: JoinHandle<Vec<String>>,
    dir: TempDir,
}

/// What a recorder that ended leaves.
#[derive(Debug)]
pub struct Recorded {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said on standard error after it had begun.
    pub stderr: String,
    /// What it wrote.
    pub recording: Recording,
}

impl Recorder {
    /// Starts to record with these arguments, and waits until it does.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = command(["jitter", "record", "-o"]);
        command.arg(dir.path().join("recording.json")).args(args).stderr(Stdio::piped());
        born(&mut command, Birth::Plain);
        let mut child = command.spawn().expect("numa-agent starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let begun: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("recording ")).collect();
        let rest = std::thread::spawn(move || lines.collect::<Vec<String>>());
        let mut recorder = Self { child, rest, dir };
        let ended = recorder.child.try_wait().expect("wait for the recorder");
        assert_eq!(ended, None, "it did not begin: {begun:#?}");
        recorder
    }

    /// Where the recording goes.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("recording.json")
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the recorder is there");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end, or leaves no recording.
    #[must_use]
    pub fn wait(mut self) -> Recorded {
        let status = eventually(|| {
            self.child.try_wait().expect("wait for the recorder").ok_or_else(|| "still records".to_owned())
        });
        let stderr = std::mem::replace(&mut self.rest, std::thread::spawn(Vec::new));
        let stderr = stderr.join().expect("the reader does not panic").join("\n");
        Recorded { status, stderr, recording: read(&self.file()) }
    }

    /// Ends it by SIGINT, expects success, and returns what it recorded.
    ///
    /// # Panics
    /// If it does not end well.
    #[must_use]
    pub fn stop(self) -> Recording {
        self.signal(Signal::SIGINT);
        let Recorded { status, stderr, recording } = self.wait();
        assert!(status.success(), "{status}: {stderr}");
        recording
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a recording.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn read(path: &Path) -> Recording {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file::parse(&path.display().to_string(), &text).unwrap_or_else(|error| panic!("{error}"))
}

/// The record of a thread.
///
/// # Panics
/// If there is none, or there are several.
#[must_use]
pub fn thread(recording: &Recording, tid: u32) -> &ThreadRecord {
    let found: Vec<_> = recording.threads.iter().filter(|thread| thread.tid == tid).collect();
    match found.as_slice() {
        [one] => one,
        _ => panic!("{} records of thread {tid} among {}", found.len(), recording.threads.len()),
    }
}
