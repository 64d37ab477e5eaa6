//! What becomes of those whom the bench has started, and of its files. In place of what measures there is a shell.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent_tests::sys::{Birth, born};
use tempfile::TempDir;

/// A child's child; one in a session of its own, whose parent has ended; one that ignores what can be ignored. Each says its pid.
const FAMILY: &str = "sh -c 'sleep 60 & echo $!; wait' & (setsid sleep 60 & echo $!); \
     sh -c 'trap \"\" TERM INT HUP; sleep 60 & echo $!; wait' &";

/// A bench whose measuring is [`FAMILY`], and `then` when it is told.
struct Stage {
    bench: Child,
    pids: Vec<Pid>,
    files: PathBuf,
    _programs: TempDir,
}

impl Stage {
    fn new(then: &str) -> Self {
        let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
        // Programs are found beside each other; so on the same file system, for a link.
        let programs = tempfile::tempdir_in(bench.parent().unwrap()).unwrap();
        let linked = programs.path().join("bench");
        fs::hard_link(bench, &linked).unwrap();
        symlink("/bin/sh", programs.path().join("bench-measure")).unwrap();
        // As `nohup` starts it.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(linked);
        command.args(["-c", &format!("{FAMILY} echo $TMPDIR; read word; {then}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        born(&mut command, Birth::Plain);
        let mut bench = command.spawn().unwrap();
        let lines = BufReader::new(bench.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said: Vec<String> = lines.take(4).collect();
        let (files, pids): (Vec<String>, Vec<String>) =
            said.into_iter().partition(|line| line.starts_with('/'));
        let pids = pids.iter().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect();
        Self { bench, pids, files: files[0].clone().into(), _programs: programs }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.bench.id().cast_signed()), signal).unwrap();
    }

    /// Its exit code; nobody and nothing is there any more.
    fn end(mut self) -> Option<i32> {
        let code = self.bench.wait().unwrap().code();
        let left: Vec<&Pid> = self.pids.iter().filter(|pid| kill(**pid, None) != Err(Errno::ESRCH)).collect();
        assert!(self.pids.len() == 3 && left.is_empty(), "{left:?} of {:?} are left", self.pids);
        assert!(!self.files.exists(), "{} is left", self.files.display());
        code
    }
}

#[test]
fn a_bench_that_a_signal_ends_leaves_nobody_and_nothing() {
    let stage = Stage::new("");
    assert!(stage.files.is_dir());
    // This one is ignored, and so it stays.
    stage.signal(Signal::SIGHUP);
    stage.signal(Signal::SIGTERM);
    assert_eq!(stage.end(), Some(128 + Signal::SIGTERM as i32));
}

#[test]
fn a_bench_that_ends_or_crashes_leaves_nobody_and_nothing_either() {
    for (then, code) in [("exit 3", 3), ("kill -9 $$", 137)] {
        let mut stage = Stage::new(then);
        stage.bench.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(stage.end(), Some(code), "{then}");
    }
}
