//! `cargo xtask test`: lint, then every test, with a closing count.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    os::unix::fs::MetadataExt as _,
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result};

use crate::{lint, sh, tally::Tally, vm};

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this; skips lint
    filter: Option<String>,
    /// Only this kind of test; skips lint
    #[arg(long, value_name = "KIND")]
    only: Option<Kind>,
}

/// A kind of test, by what it needs and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Unit and property tests, inside the crates
    Unit,
    /// The real binary and programs, as any user
    Cli,
    /// The real kernel: root and BPF. One at a time, because each of them sees all processes of the machine
    Live,
    /// The real binary on other kernels and shapes of machines, in guests: what `cargo xtask vm test` runs by default
    Vm,
}

/// The packages with a `tests` directory, and where it is.
const SUITES: [&str; 2] = ["numa-agent/tests", "tests/tests"];

/// Runs the tests. The last line printed is the count.
///
/// # Errors
/// If cargo cannot be run; failing tests are not errors but a failing exit code.
pub fn run(args: &Args) -> Result<ExitCode> {
    let ci = sh::is_ci();
    let mut total = Tally::default();
    if args.filter.is_none()
        && args.only.is_none()
        && let Err(error) = lint::run()
    {
        eprintln!("error: {error:#}; the tests run all the same");
        total.failed += 1;
    }
    let live = args.only.is_none_or(|only| only == Kind::Live);
    if live && fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        eprintln!(
            "warning: not root: the live tests will be skipped; run `sudo -E env PATH=$PATH cargo xtask test`"
        );
    }
    for kind in [Kind::Unit, Kind::Cli, Kind::Live, Kind::Vm] {
        // Guests are built and booted before a filter can tell that there is nothing to do in them.
        let asked = args.only.map_or(kind != Kind::Vm || args.filter.is_none(), |only| only == kind);
        if asked {
            total.add(run_kind(kind, args.filter.as_deref(), ci)?);
        }
    }
    if total.is_empty() {
        eprintln!("error: no test matches");
    }
    if ci && total.skipped > 0 {
        eprintln!("error: tests were skipped, which CI forbids");
    }
    println!("{total}");
    Ok(if total.is_good(ci) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_kind(kind: Kind, filter: Option<&str>, ci: bool) -> Result<Tally> {
    if kind == Kind::Vm {
        return Ok(vm::test_subset(filter).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Tally::failure()
        }));
    }
    let mut cargo = sh::cargo();
    // `--workspace` builds every binary that the tests start.
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if kind == Kind::Unit {
        cargo.args(["--lib", "--bins"]);
    } else {
        let names = suites(kind)?;
        if names.is_empty() {
            return Ok(Tally::default());
        }
        cargo.args(names.iter().flat_map(|name| ["--test", name]));
    }
    cargo.args(filter).arg("--");
    cargo.args(match kind {
        // Both show what a skipped test says.
        Kind::Unit | Kind::Cli => &["--show-output"][..],
        Kind::Live | Kind::Vm => &["--nocapture", "--test-threads=1"],
    });
    if ci {
        cargo.env("NUMA_AGENT_FORBID_SKIP", "1");
    }
    eprintln!("+ {kind:?} tests");
    let (success, mut tally) = stream(&mut cargo)?;
    if !success && tally.failed == 0 {
        // It did not compile, or a test took the whole process down.
        tally.failed = 1;
    }
    Ok(tally)
}

/// The integration tests of that kind.
fn suites(kind: Kind) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in SUITES.map(|dir| sh::root().join(dir)) {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.with_context(|| dir.display().to_string())?.path();
            let is_suite = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if is_suite && kind_of(name) == kind {
                names.push(name.to_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

/// `live*` and `*_live*` need the kernel, `guest` a machine of its own.
fn kind_of(suite: &str) -> Kind {
    match suite {
        "guest" => Kind::Vm,
        _ if suite.split('_').any(|word| word.starts_with("live")) => Kind::Live,
        _ => Kind::Cli,
    }
}

/// Runs `command`, passing its output on as it comes, and counts.
fn stream(command: &mut Command) -> Result<(bool, Tally)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let (out, err) = (child.stdout.take().context("no pipe")?, child.stderr.take().context("no pipe")?);
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        scope.spawn(|| pass_on(err, std::io::stderr(), &tally));
        pass_on(out, std::io::stdout(), &tally);
    });
    let status = child.wait().context("cargo")?;
    Ok((status.success(), tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())))
}

/// By lines of bytes: a test may print anything.
fn pass_on(from: impl Read, mut to: impl Write, tally: &Mutex<Tally>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if let Ok(mut tally) = tally.lock() {
            tally.line(String::from_utf8_lossy(&line).trim_end());
        }
        // Counting goes on when nobody reads our output any more.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_told_by_their_name() {
        assert!(["live", "live_bind", "bpf_live"].into_iter().all(|name| kind_of(name) == Kind::Live));
        assert!(["cli", "stack", "delivery", "bpf"].into_iter().all(|name| kind_of(name) == Kind::Cli));
        assert_eq!(kind_of("guest"), Kind::Vm);
    }

    #[test]
    fn output_is_passed_on_and_counted_whatever_its_encoding() {
        let (mut out, tally) = (Vec::new(), Mutex::new(Tally::default()));
        let text = b"\xff\xfe\ntest result: ok. 2 passed; 0 failed; 0 ignored\nno newline at the end";
        pass_on(&text[..], &mut out, &tally);
        assert_eq!(out, text);
        assert_eq!(tally.into_inner().unwrap().to_string(), "2 passed, 0 failed, 0 skipped");
    }
}
