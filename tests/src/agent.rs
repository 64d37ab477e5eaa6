//! The real `numa-agent` binary: found, run to its end, or running in the background with all it says kept.
//!
//! Made for tests: what goes wrong is a panic that says what.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cast::utf8,
    eventually,
    sys::{Birth, born},
};

/// Where the binary is: `NUMA_AGENT_BIN`, or next to the test programs.
///
/// # Panics
/// If there is none, with how to get one.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NUMA_AGENT_BIN") {
        return path.into();
    }
    // We are target/PROFILE/deps/TEST-HASH, or target/PROFILE/PROGRAM.
    let own = std::env::current_exe().expect("my own path");
    let mut places = own.ancestors().skip(1).take(2).map(|dir| dir.join("numa-agent"));
    places.find(|path| path.exists()).unwrap_or_else(|| {
        panic!("no numa-agent beside {}: run `cargo build` first, or set NUMA_AGENT_BIN", own.display())
    })
}

/// A copy of the binary in `dir`, where also a user without rights can run it.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn binary_for_everyone(dir: &Path) -> PathBuf {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our own directory");
    let path = dir.join("numa-agent");
    // Not copied by us: another test's child that is just being started would have it open for writing, and it could not be run.
    assert!(Command::new("cp").arg(binary()).arg(&path).status().expect("cp").success());
    path
}

/// A command that runs the binary.
#[must_use]
pub fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command
}

/// The process that runs `watch` with that socket.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn watching(socket: &Path) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let socket = utf8(socket);
    pids.find(|pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        arguments.contains("\0watch\0") && arguments.contains(&socket)
    })
}

/// Runs the binary to its end.
///
/// # Panics
/// If it does not start.
#[must_use]
pub fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    command(args).output().expect("numa-agent starts")
}

/// Runs the binary to its end, expects exit code 0 and JSON on standard output.
///
/// # Panics
/// If it fails or says anything else.
#[must_use]
pub fn json(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Value {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {:?}\n{stderr}", String::from_utf8_lossy(&output.stdout)))
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A running `numa-agent run --format json`.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    reports: TempDir,
}

/// What a stopped agent leaves.
#[derive(Debug)]
pub struct Left {
    /// How it ended.
    pub status: ExitStatus,
    /// Its events.
    pub events: Vec<Value>,
    /// Its standard error.
    pub stderr: String,
}

impl Agent {
    /// Starts the agent with these arguments of `run` and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self::start_saying(args, Stdio::piped())
    }

    /// As [`Agent::start`], with `stderr` as its standard error; one that is not piped is not kept.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_saying(args: impl IntoIterator<Item = impl AsRef<OsStr>>, stderr: impl Into<Stdio>) -> Self {
        Self::start_by(command(["run"]), args, stderr)
    }

    /// As [`Agent::start_saying`], by a command that runs `numa-agent run` with the arguments that are added to it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_by(
        mut command: Command,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let reports = tempfile::tempdir().expect("a temporary directory");
        command.args(["--format", "json"]);
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        if !args.iter().any(|arg| arg == "--jitter-report") {
            command.arg("--jitter-report").arg(reports.path().join("jitter.md"));
        }
        // Where it would listen there may be another already.
        if !args.iter().any(|arg| arg == "--socket" || arg == "--no-socket") {
            command.arg("--socket").arg(reports.path().join("agent.sock"));
        }
        if !args.iter().any(|arg| arg == "--journal" || arg == "--no-journal") {
            command.arg("--journal").arg(reports.path().join("journal"));
        }
        command.args(args).stdout(Stdio::piped()).stderr(stderr);
        born(&mut command, Birth::Plain);
        let mut child = command.spawn().expect("numa-agent starts");
        // Its own end of a pipe must be the only one, or the agent's end is not the pipe's.
        drop(command);
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = vec![keep_lines(child.stdout.take().expect("piped"), &stdout)];
        readers.extend(child.stderr.take().map(|source| keep_lines(source, &stderr)));
        let mut agent = Self { child, stdout, stderr, readers, reports };
        agent.wait_for("ready", |event| event["event"] == "ready");
        agent
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its reports go.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.reports.path().join("jitter.md")
    }

    /// Where viewers connect, unless its arguments say otherwise.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.reports.path().join("agent.sock")
    }

    /// Where it writes down what was before, unless its arguments say otherwise.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.reports.path().join("journal")
    }

    /// All events so far.
    ///
    /// # Panics
    /// If a line is no JSON object of schema 1.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lock().expect("the reader does not panic").iter().map(|line| parse(line)).collect()
    }

    /// The warnings so far that have `text` in them.
    ///
    /// # Panics
    /// As [`Agent::events`].
    #[must_use]
    pub fn warnings(&self, text: &str) -> Vec<String> {
        let warnings = self.events().into_iter().filter(|event| event["event"] == "warning");
        let warnings = warnings.map(|event| event["warning"].as_str().expect("a text").to_owned());
        warnings.filter(|warning| warning.contains(text)).collect()
    }

    /// All of standard error so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("the reader does not panic").join("\n")
    }

    /// Waits for an event.
    ///
    /// # Panics
    /// If the agent ends, or is not heard of it in time.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(|| {
            let ended = self.child.try_wait().expect("wait for the agent");
            match self.events().into_iter().find(|event| wanted(event)) {
                Some(event) => Ok(event),
                None if ended.is_some() => {
                    panic!("no {what}; numa-agent ended: {ended:?}\n{}", self.stderr())
                }
                None => Err(format!("no {what}; stderr: {}; events: {:#?}", self.stderr(), self.events())),
            }
        })
    }

    /// Waits until it has made what it could of a scan that began after this: the one under way may have read what was before, and the
    /// one after the next shows that it is done.
    ///
    /// # Panics
    /// If that takes too long, or it does not answer.
    pub fn wait_for_scans(&self) {
        let scans = || {
            let args = [OsStr::new("status"), "--format".as_ref(), "json".as_ref(), "--socket".as_ref()];
            json(args.into_iter().chain([self.socket().as_os_str()]))["counts"]["scans"]
                .as_u64()
                .expect("scans")
        };
        let wanted = scans() + 3;
        eventually(|| match scans() {
            so_far if so_far >= wanted => Ok(()),
            so_far => Err(format!("{so_far} scans, not {wanted}: {}", self.stderr())),
        });
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the agent is there");
    }

    /// Sends it `signal` and waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    #[must_use]
    pub fn end_by(mut self, signal: Signal) -> Left {
        self.signal(signal);
        let status = eventually(|| {
            self.child
                .try_wait()
                .expect("wait for the agent")
                .ok_or_else(|| format!("still runs after {signal}"))
        });
        self.readers.drain(..).for_each(|reader| reader.join().expect("the reader does not panic"));
        Left { status, events: self.events(), stderr: self.stderr() }
    }

    /// As [`Agent::stop`], with a look at its reports before they go.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop_keeping(mut self, look: impl FnOnce()) -> Left {
        let reports =
            std::mem::replace(&mut self.reports, tempfile::tempdir().expect("a temporary directory"));
        let left = self.stop();
        look();
        drop(reports);
        left
    }

    /// Ends it by SIGTERM, expects success, and returns what it left.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(self) -> Left {
        let left = self.end_by(Signal::SIGTERM);
        assert!(left.status.success(), "{}: {}", left.status, left.stderr);
        left
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn keep_lines(source: impl Read + Send + 'static, lines: &Lines) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            lines.lock().expect("nobody panics with the lock").push(line);
        }
    })
}

fn parse(line: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    assert_eq!(event["schema"], 1, "{line}");
    event
}
