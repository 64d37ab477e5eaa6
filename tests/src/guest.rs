//! Running test programs inside a virtual machine, one test a process, and saying on the console how each ended.
//!
//! The lines, each after `vm: `, are a protocol with `xtask/src/vm/console.rs`, which may not depend on this crate:
//!
//! ```text
//! up KERNEL TOPOLOGY                what booted
//! begin TEST                        a test starts
//! | TEXT                            what a failed or skipped test said, and of any test the verifier's numbers
//! ok|failed|skipped|elsewhere TEST MILLISECONDS
//! verdict PASSED FAILED SKIPPED ELSEWHERE
//! broken: TEXT                      the machine could not be prepared
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::verifier;

/// The environment variable that tells tests which shape the machine was given.
pub const TOPOLOGY: &str = "NUMA_AGENT_VM_TOPOLOGY";

/// How a test begins the line that says that this machine's shape is not what it is about.
const ELSEWHERE: &str = "ELSEWHERE:";

/// How many lines of a failed test's output are shown: the last.
const SHOWN_LINES: usize = 150;

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// Programs of libtest.
    pub suites: Vec<PathBuf>,
    /// Only tests whose name contains one of these; none is all.
    pub filters: Vec<String>,
    /// How long one test may take.
    pub limit: Duration,
    /// The machine's shape.
    pub topology: String,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ok,
    Failed,
    Skipped,
    Elsewhere,
}

impl End {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Ok, "ok"),
        (Self::Failed, "failed"),
        (Self::Skipped, "skipped"),
        (Self::Elsewhere, "elsewhere"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(end, _)| *end == self).map_or("failed", |(_, word)| word)
    }

    /// Judges a test by how its process ended and what it said.
    fn of(success: bool, output: &str) -> Self {
        let said = |word: &str| output.lines().any(|line| line.contains(word));
        match success {
            false => Self::Failed,
            true if said(ELSEWHERE) => Self::Elsewhere,
            true if said("SKIP:") => Self::Skipped,
            true => Self::Ok,
        }
    }
}

/// Proof that this process is the child of a guest's process 1, and so that all other processes are ours to end.
#[derive(Debug)]
struct Guest(());

impl Guest {
    /// `None` on a machine that somebody else uses.
    fn here() -> Option<Self> {
        let init = fs::read_link("/proc/1/exe").ok()?;
        let ours = std::env::current_exe().ok()? == init && nix::unistd::getppid().as_raw() == 1;
        (ours && init.file_name() == Some(OsStr::new("init"))).then_some(Self(()))
    }

    /// Ends everything but process 1 and ourselves, so that no test finds another's processes.
    fn end_all(&self) {
        // -1 stands for all of those.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    }
}

/// Says a line of the protocol.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // In one write, after a line end of our own: the kernel may have left half a line.
    let _ = out.write_all(format!("\nvm: {line}\n").as_bytes()).and_then(|()| out.flush());
}

/// Says that `test` is about machines of another shape.
pub fn elsewhere(test: &str, needs: &str) {
    println!("{ELSEWHERE} {test}: {needs}");
}

/// Runs all tests; whether none failed.
///
/// # Errors
/// If a test program cannot be run, or this is no guest.
pub fn run(plan: &Plan) -> Result<bool> {
    let guest = Guest::here().context("this is no guest: tests here would end everybody's processes")?;
    let mut ends = Vec::new();
    for suite in &plan.suites {
        let name = suite_name(suite);
        for test in tests_of(suite)? {
            let full = format!("{name}::{test}");
            if !plan.filters.is_empty() && !plan.filters.iter().any(|filter| full.contains(filter.as_str())) {
                continue;
            }
            say(&format!("begin {full}"));
            let start = Instant::now();
            let (end, output) = run_test(&guest, suite, &test, plan)?;
            let skip = output.lines().count().saturating_sub(SHOWN_LINES);
            let shown = |line: &&str| end != End::Ok || line.contains(verifier::WORD);
            output.lines().skip(skip).filter(shown).for_each(|line| say(&format!("| {line}")));
            say(&format!("{} {full} {}", end.word(), start.elapsed().as_millis()));
            ends.push(end);
        }
    }
    let counts = End::ALL.map(|(kind, _)| ends.iter().filter(|end| **end == kind).count().to_string());
    say(&format!("verdict {}", counts.join(" ")));
    Ok(!ends.contains(&End::Failed))
}

/// `live-0123456789abcdef` is `live`.
fn suite_name(suite: &Path) -> String {
    let file = suite.file_name().unwrap_or_default().to_string_lossy();
    file.rsplit_once('-').map_or(file.as_ref(), |(name, _)| name).to_owned()
}

fn tests_of(suite: &Path) -> Result<Vec<String>> {
    let output = Command::new(suite)
        .args(["--list", "--format", "terse"])
        .output()
        .with_context(|| format!("cannot run {}", suite.display()))?;
    if !output.status.success() {
        bail!("{} --list: {}", suite.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect())
}

fn run_test(guest: &Guest, suite: &Path, test: &str, plan: &Plan) -> Result<(End, String)> {
    let log = "/tmp/test.log";
    let file = File::create(log).context(log)?;
    let mut command = Command::new(suite);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.stdout(file.try_clone().context(log)?).stderr(file).process_group(0);
    command.env(TOPOLOGY, &plan.topology).env("RUST_BACKTRACE", "0");
    command
        .env("NUMA_AGENT_BIN", "/bin/numa-agent")
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp");
    let mut child = command.spawn().with_context(|| format!("cannot run {}", suite.display()))?;
    let ended = wait(&mut child, plan.limit).context("wait for a test")?;
    let mut output = String::from_utf8_lossy(&fs::read(log).context(log)?).into_owned();
    if ended.is_none() {
        output.push_str(&format!("\nHANG: not done after {} s\n", plan.limit.as_secs()));
        output.push_str(&processes());
    }
    guest.end_all();
    let _ = child.wait();
    Ok((End::of(ended.is_some_and(|status| status.success()), &output), output))
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if start.elapsed() > limit => return Ok(None),
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Who is there and what each waits for: for a test that hangs.
fn processes() -> String {
    let mut text = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(cmdline) = fs::read(path.join("cmdline")) else { continue };
        if !cmdline.is_empty() {
            let shown = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            let stack = fs::read_to_string(path.join("stack")).unwrap_or_default();
            let frames: Vec<&str> = stack.lines().take(4).map(str::trim).collect();
            text.push_str(&format!("{} {shown:?} {}\n", path.display(), frames.join(" < ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_judged_by_its_status_first() {
        assert_eq!(End::of(true, "test a ... ok"), End::Ok);
        assert_eq!(End::of(true, "test a ... SKIP: a: no BTF\nok"), End::Skipped);
        assert_eq!(End::of(true, "test a ... ELSEWHERE: a: needs two sockets\nok"), End::Elsewhere);
        assert_eq!(End::of(false, "ELSEWHERE: a: x"), End::Failed);
    }

    #[test]
    fn this_is_no_guest() {
        assert!(Guest::here().is_none());
    }

    #[test]
    fn a_suite_is_called_as_its_source() {
        assert_eq!(suite_name(Path::new("/x/bpf_live-0123456789abcdef")), "bpf_live");
        assert_eq!(suite_name(Path::new("/x/guest")), "guest");
    }
}
