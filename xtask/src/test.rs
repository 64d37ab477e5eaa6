//! `cargo xtask test`: lint, then every test, with a closing count.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write},
    os::unix::fs::MetadataExt as _,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{build, digest::Digest, fuzz, lint, sh, tally::Tally, vm};

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
    /// Random input to all that reads what others wrote, ten seconds each
    Fuzz,
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
    let (mut total, mut failed) = (Tally::default(), Vec::new());
    if args.filter.is_none()
        && args.only.is_none()
        && let Err(error) = lint::run()
    {
        eprintln!("error: {error:#}; the tests run all the same");
        failed.push(format!("{error:#}"));
        total.failed += 1;
    }
    let live = args.only.is_none_or(|only| only == Kind::Live);
    if live && fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        eprintln!(
            "warning: not root: the live tests will be skipped; run `sudo -E env PATH=$PATH cargo xtask test`"
        );
    }
    for kind in [Kind::Unit, Kind::Cli, Kind::Fuzz, Kind::Live, Kind::Vm] {
        // Guests are built and booted, and fuzz targets built, before a filter can tell that there is nothing to do in them.
        let is_costly = matches!(kind, Kind::Fuzz | Kind::Vm);
        let asked = args.only.map_or(!is_costly || args.filter.is_none(), |only| only == kind);
        if asked {
            total.add(run_kind(kind, args.filter.as_deref(), ci, &mut failed)?);
        }
    }
    if total.is_empty() {
        eprintln!("error: no test matches");
    }
    if ci && total.skipped > 0 {
        eprintln!("error: tests were skipped, which CI forbids");
    }
    failed.iter().for_each(|name| println!("failed: {name}"));
    println!("{total}");
    Ok(if total.is_good(ci) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests of one kind; the names of those that failed are added to `failed`.
fn run_kind(kind: Kind, filter: Option<&str>, ci: bool, failed: &mut Vec<String>) -> Result<Tally> {
    if kind == Kind::Vm {
        let tally = vm::test_subset(filter).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Tally::failure()
        });
        failed.extend((tally.failed > 0).then(|| "guests, see above".to_owned()));
        return Ok(tally);
    }
    if kind == Kind::Fuzz {
        eprintln!("+ {kind:?} tests");
        let tally = fuzz::test(filter).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Tally::failure()
        });
        failed.extend((tally.failed > 0).then(|| "fuzz targets, see above".to_owned()));
        return Ok(tally);
    }
    let mut cargo = sh::cargo();
    // The harness would be quiet too, and name no test.
    cargo.env("CARGO_TERM_QUIET", "false");
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
        Kind::Live | Kind::Fuzz | Kind::Vm => &["--nocapture", "--test-threads=1"],
    });
    if ci {
        cargo.env("NUMA_AGENT_FORBID_SKIP", "1");
    }
    let (log, path) = log(kind)?;
    eprintln!("+ {kind:?} tests, all they say in {path}");
    // Who asks for one test wants to see it.
    let mut digest = filter.is_none().then(Digest::default);
    let (success, mut tally) = stream(&mut cargo, log, digest.as_mut())?;
    if !success && tally.failed == 0 {
        // It did not compile, or a test took the whole process down.
        tally.failed = 1;
        failed.push(format!("{kind:?} tests: they do not compile, or one took its process down"));
    }
    failed.extend(digest.iter().flat_map(Digest::failed).cloned());
    Ok(tally)
}

/// Where everything goes that tests of that kind print.
fn log(kind: Kind) -> Result<(File, String)> {
    let dir = build::target_dir()?.join("logs");
    let path = dir.join(format!("{kind:?}.log").to_lowercase());
    let shown = path.display().to_string();
    fs::create_dir_all(&dir)
        .and_then(|()| File::create(&path))
        .map(|file| (file, shown.clone()))
        .context(shown)
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

/// Runs `command`, passes its output on as it comes, and counts.
fn stream(command: &mut Command, log: File, digest: Option<&mut Digest>) -> Result<(bool, Tally)> {
    // One pipe: what the harness says and what its tests say stay in order.
    let (ours, theirs) = io::pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(theirs.try_clone().context("no pipe")?).stderr(theirs);
    let mut child = command.spawn().context("cannot run cargo")?;
    // Or our own end of it would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let tally = pass_on(ours, io::stdout(), log, digest);
    let status = child.wait().context("cargo")?;
    Ok((status.success(), tally))
}

/// Everything goes to `log`, and what `digest` picks, or else everything, to `to`. By lines of bytes: a test may print anything.
fn pass_on(
    from: impl Read,
    mut to: impl Write,
    mut log: impl Write,
    mut digest: Option<&mut Digest>,
) -> Tally {
    let (mut from, mut line, mut tally) = (BufReader::new(from), Vec::new(), Tally::default());
    let mut show = |text: &[u8]| {
        // Counting goes on when nobody reads our output any more.
        let _ = to.write_all(text).and_then(|()| to.flush());
    };
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        tally.line(text.trim_end());
        let _ = log.write_all(&line);
        match &mut digest {
            Some(digest) => {
                digest.line(text.trim_end()).iter().for_each(|line| show(format!("{line}\n").as_bytes()))
            }
            None => show(&line),
        }
        line.clear();
    }
    if let Some(digest) = digest {
        digest.end().iter().for_each(|line| show(format!("{line}\n").as_bytes()));
    }
    tally
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
        let (mut out, mut log) = (Vec::new(), Vec::new());
        let text = b"\xff\xfe\ntest result: ok. 2 passed; 0 failed; 0 ignored\nno newline at the end";
        let tally = pass_on(&text[..], &mut out, &mut log, None);
        assert_eq!((&out[..], &log[..]), (&text[..], &text[..]));
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 0 skipped");
        out.clear();
        pass_on(&text[..], &mut out, &mut log, Some(&mut Digest::default()));
        assert_eq!(
            String::from_utf8_lossy(&out),
            "\u{fffd}\u{fffd}\n: ok. 2 passed; 0 failed; 0 ignored\nno newline at the end\n"
        );
    }
}
