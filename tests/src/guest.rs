//! Running test programs inside a virtual machine, one test a process, and saying on the console how each ended.
//!
//! The lines, each after `vm: `, are a protocol with `xtask/src/vm/console.rs`, which may not depend on this crate:
//!
//! ```text
//! up KERNEL TOPOLOGY                what booted
//! begin TEST                        a test starts
//! | TEXT                            what a failed or skipped test said, and of any test the verifier's numbers and figures
//! ok|failed|skipped|elsewhere TEST MILLISECONDS
//! verdict PASSED FAILED SKIPPED ELSEWHERE
//! broken: TEXT                      the machine could not be prepared
//! ```

use std::{
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

use numa_agent::core::idset::CpuSet;

use crate::verifier;

/// The environment variable that tells tests which shape the machine was given.
pub const TOPOLOGY: &str = "NUMA_AGENT_VM_TOPOLOGY";

/// Where tests have their temporary files. Not `/tmp`: the tests' programs are where they were built, which may be there.
const SCRATCH: &str = "/scratch";

/// It would move what tests place: guests are started without it.
pub const NUMA_BALANCING: &str = "/proc/sys/kernel/numa_balancing";

/// How a test begins the line that says that this machine's shape is not what it is about.
const ELSEWHERE: &str = "ELSEWHERE:";

/// How many lines of a failed test's output are shown: the last, and so many of where it panicked.
const SHOWN_LINES: usize = 150;
const PANIC_LINES: usize = 12;

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// Programs of libtest.
    pub suites: Vec<PathBuf>,
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// What the names of the tests that the machine is for contain, one or the other; the others are elsewhere's. None: it is for all.
    pub only: Vec<String>,
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

    /// Judges a test by how its process ended and what it said. A harness that ran nothing ends well too.
    fn of(success: bool, output: &str) -> Self {
        // At the start of a line, or after the harness's unfinished `test NAME ... `.
        let begins = |line: &str, word: &str| {
            let after_name = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
            line.starts_with(word) || after_name.is_some_and(|(_, said)| said.starts_with(word))
        };
        let said = |word: &str| output.lines().any(|line| begins(line, word));
        match success && said("test result: ok. 1 passed;") {
            false => Self::Failed,
            true if said("SKIP:") => Self::Skipped,
            true if said(ELSEWHERE) => Self::Elsewhere,
            true => Self::Ok,
        }
    }
}

/// Whether this machine is a guest of `cargo xtask vm`, and so nobody else's.
#[must_use]
pub fn is_here() -> bool {
    let init = fs::read_link("/proc/1/exe").is_ok_and(|exe| exe == Path::new("/init"));
    init && fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains(" -- --topology="))
}

/// Proof that this process is the child of a guest's process 1, and so that the machine and all other processes are ours.
#[derive(Debug)]
pub struct Guest(());

impl Guest {
    /// `None` on a machine that somebody else uses.
    #[must_use]
    pub fn here() -> Option<Self> {
        (is_here() && nix::unistd::getppid().as_raw() == 1).then_some(Self(()))
    }

    /// The CPUs in one of the kernel's lists.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn cpus(&self, list: &str) -> Result<CpuSet> {
        let path = format!("/sys/devices/system/cpu/{list}");
        let text = fs::read_to_string(&path).context(path.clone())?;
        text.trim().parse().with_context(|| path)
    }

    /// Takes CPUs on- and offline until `cpus` are online.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_online(&self, cpus: &CpuSet) -> Result<()> {
        let now = self.cpus("online")?;
        cpus.difference(&now).iter().try_for_each(|cpu| set_online(cpu, true))?;
        now.difference(cpus).iter().try_for_each(|cpu| set_online(cpu, false))
    }

    /// Makes the machine what it was before a test: no process but process 1 and ourselves, the CPUs online that were, no balancing of
    /// memory, no control groups, no temporary files.
    fn clean(&self, online: &CpuSet) -> Result<()> {
        // -1 stands for all of those.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        let start = Instant::now();
        while others()? {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("processes of a test do not end:\n{}", processes());
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.set_online(online)?;
        // As the kernel was started; not every kernel has it.
        match fs::write(NUMA_BALANCING, "0") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(NUMA_BALANCING);
            }
            _ => {}
        }
        remove_groups(Path::new("/sys/fs/cgroup"))?;
        for entry in fs::read_dir(SCRATCH).context(SCRATCH)?.flatten() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// Takes a CPU offline, or brings it back.
///
/// # Errors
/// If the kernel refuses.
pub fn set_online(cpu: u32, online: bool) -> Result<()> {
    let (path, value) = (format!("/sys/devices/system/cpu/cpu{cpu}/online"), if online { "1" } else { "0" });
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}

/// Whether there is a process besides process 1, ourselves and the kernel's own. One that has ended and waits to be reaped counts.
fn others() -> Result<bool> {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // The kernel's have process 2 as their parent.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if pid > 2 && pid != own && !matches!(parent, None | Some("2")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_groups(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_groups(&path)?;
            fs::remove_dir(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Says a line of the protocol.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // In one write, after a line end of our own: the kernel may have left half a line.
    let _ = out.write_all(format!("\nvm: {line}\n").as_bytes()).and_then(|()| out.flush());
}

/// Begins a line with what a test has measured: it is shown, however the test ends.
pub const FIGURES: &str = "figures: ";

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
    let online = guest.cpus("online")?;
    let mut ends = Vec::new();
    for suite in &plan.suites {
        let name = suite_name(suite);
        for test in tests_of(suite)? {
            let full = format!("{name}::{test}");
            if plan.filter.as_ref().is_some_and(|filter| !full.contains(filter.as_str())) {
                continue;
            }
            say(&format!("begin {full}"));
            let start = Instant::now();
            if !plan.only.is_empty() && !plan.only.iter().any(|only| full.contains(only.as_str())) {
                say(&format!("{} {full} 0", End::Elsewhere.word()));
                ends.push(End::Elsewhere);
                continue;
            }
            let (end, output) = run_test(suite, &test, plan)?;
            if let Err(error) = guest.clean(&online) {
                say(&format!("broken: after {full}: {error:#}"));
            }
            let shown = |line: &str| match end {
                End::Ok => line.contains(verifier::WORD) || line.contains(FIGURES),
                _ => true,
            };
            shortened(&output).filter(|line| shown(line)).for_each(|line| say(&format!("| {line}")));
            say(&format!("{} {full} {}", end.word(), start.elapsed().as_millis()));
            ends.push(end);
        }
    }
    let counts = End::ALL.map(|(kind, _)| ends.iter().filter(|end| **end == kind).count().to_string());
    say(&format!("verdict {}", counts.join(" ")));
    Ok(!ends.contains(&End::Failed))
}

/// The last lines, behind the beginning of the panic's message if that is further up: a report in it may be longer than all that is shown.
fn shortened(output: &str) -> impl Iterator<Item = &str> {
    let last = output.lines().count().saturating_sub(SHOWN_LINES);
    let panic = output.lines().position(|line| line.contains(" panicked at ")).unwrap_or(last);
    let lines = output.lines().enumerate();
    let kept = move |at: usize| at >= last || (panic..panic + PANIC_LINES).contains(&at);
    lines.filter(move |(at, _)| kept(*at)).map(|(_, line)| line)
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

fn run_test(suite: &Path, test: &str, plan: &Plan) -> Result<(End, String)> {
    fs::create_dir_all(SCRATCH).context(SCRATCH)?;
    let log = &Path::new(SCRATCH).join("test.log");
    let file = File::create(log).context(SCRATCH)?;
    let mut command = Command::new(suite);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.stdout(file.try_clone().context(SCRATCH)?).stderr(file).process_group(0);
    command.env(TOPOLOGY, &plan.topology).env("RUST_BACKTRACE", "0");
    command
        .env("NUMA_AGENT_BIN", "/bin/numa-agent")
        .env("PATH", "/bin")
        .env("HOME", SCRATCH)
        .env("TMPDIR", SCRATCH);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", suite.display()))?;
    let ended = wait(&mut child, plan.limit).context("wait for a test")?;
    let mut output = String::from_utf8_lossy(&fs::read(log).context(SCRATCH)?).into_owned();
    if ended.is_none() {
        // The last lines are what is shown.
        output.push_str(&format!("\n{}HANG: not done after {} s\n", processes(), plan.limit.as_secs()));
    }
    let _ = child.kill();
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
        let end = |success, said: &str, passed: u32| {
            End::of(success, &format!("test a ... {said}\nok\ntest result: ok. {passed} passed; 0 failed"))
        };
        assert_eq!(end(true, "", 1), End::Ok);
        assert_eq!(end(true, "SKIP: a: no BTF", 1), End::Skipped);
        assert_eq!(end(true, "ELSEWHERE: a: needs two sockets", 1), End::Elsewhere);
        assert_eq!(end(true, "ELSEWHERE: a: x\nSKIP: a: y", 1), End::Skipped);
        assert_eq!(end(true, "it said ELSEWHERE: once", 1), End::Ok);
        assert_eq!(end(false, "ELSEWHERE: a: x", 1), End::Failed);
        assert_eq!(end(true, "", 0), End::Failed, "ignored, or no such test");
    }

    #[test]
    fn what_a_test_panicked_with_is_shown_however_long_it_is() {
        let report: Vec<String> = (0..500).map(|line| format!("line {line}")).collect();
        let output = format!("noise\nthread 'a' panicked at a.rs:1:1:\n{}", report.join("\n"));
        let shown: Vec<&str> = shortened(&output).collect();
        assert_eq!((shown[0], shown[1]), ("thread 'a' panicked at a.rs:1:1:", "line 0"));
        assert_eq!((shown.len(), shown.last()), (PANIC_LINES + SHOWN_LINES, Some(&"line 499")));
        let short = "a\nthread 'a' panicked at a.rs:1:1:\nb";
        assert!(shortened(short).eq(short.lines()), "nothing twice, nothing lost");
    }

    #[test]
    fn this_is_no_guest() {
        assert!(!is_here() && Guest::here().is_none());
    }

    #[test]
    fn a_suite_is_called_as_its_source() {
        assert_eq!(suite_name(Path::new("/x/bpf_live-0123456789abcdef")), "bpf_live");
        assert_eq!(suite_name(Path::new("/x/guest")), "guest");
    }
}
