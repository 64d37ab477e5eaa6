//! `cargo xtask fuzz`: libFuzzer on everything that reads what others wrote.
//!
//! The stable compiler has what libFuzzer wants of it (`-Cpasses=sancov-module`), so neither a nightly nor cargo-fuzz is needed. Without
//! AddressSanitizer: what is fuzzed has no `unsafe` (`tests/purity.rs`), so what can go wrong is a panic, a failed assertion, time and memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{Arch, target_dir},
    sh,
    tally::Tally,
};

/// What the compiler is told, as cargo-fuzz does.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Seconds that one input may take; the most memory, in MiB.
const LIMITS: [&str; 2] = ["-timeout=5", "-rss_limit_mb=1024"];
const PACKAGE: &str = "numa-agent-fuzz";

/// What `cargo xtask fuzz` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Only these, by the names of the files in tests/fuzz/targets
    targets: Vec<String>,
    /// For how long each
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// How long each target runs in `cargo xtask test`.
const TEST_SECONDS: u32 = 10;

/// Whether fuzz targets can be built here: libFuzzer is C++.
pub fn has_compiler() -> bool {
    sh::works("c++", &["--version"])
}

/// What `cargo xtask test` runs: the targets whose name contains `filter`.
///
/// # Errors
/// As with [`run`].
pub fn test(filter: Option<&str>) -> Result<Tally> {
    if !has_compiler() {
        println!("SKIP: fuzz targets: there is no C++ compiler, which libFuzzer wants");
        return Ok(Tally::skip());
    }
    let targets: Vec<String> =
        targets()?.into_iter().filter(|name| filter.is_none_or(|filter| name.contains(filter))).collect();
    if targets.is_empty() { Ok(Tally::default()) } else { run(&Args { targets, seconds: TEST_SECONDS }) }
}

/// Builds the targets and runs each for a while, as many at once as there are CPUs. What was found stays in `target/fuzz/corpus`,
/// what failed in `target/fuzz/failures`.
///
/// # Errors
/// If they cannot be built, or there is none of that name. Failing targets are counted.
pub fn run(args: &Args) -> Result<Tally> {
    let mut names = targets()?;
    if let Some(unknown) = args.targets.iter().find(|name| !names.contains(name)) {
        bail!("no fuzz target is called {unknown}; there are: {}", names.join(", "));
    }
    names.retain(|name| args.targets.is_empty() || args.targets.contains(name));
    // A target directory of its own: cargo would build everything else anew for other flags.
    let target = target_dir()?.join("fuzz");
    let programs = build(&target)?;
    let (queue, total) = (Mutex::new(names), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(name) = queue.lock().ok().and_then(|mut queue| queue.pop()) {
                    let result = fuzz(&programs, &target, &name, args.seconds);
                    let tally = match result {
                        Ok(runs) => {
                            println!("fuzz {name} ... ok, {runs} inputs");
                            Tally::success()
                        }
                        Err(error) => {
                            eprintln!("fuzz {name} ... FAILED: {error:#}");
                            Tally::failure()
                        }
                    };
                    if let Ok(mut total) = total.lock() {
                        total.add(tally);
                    }
                }
            });
        }
    });
    Ok(total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// The names of the targets: a file each.
fn targets() -> Result<Vec<String>> {
    let dir = sh::root().join("tests/fuzz/targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds all of them; the directory that they are in.
fn build(target: &Path) -> Result<PathBuf> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--package", PACKAGE, "--features", "libfuzzer", "--profile", "fuzz"]);
    // With --target, the flags are not for build scripts and macros.
    cargo.args(["--target", Arch::host().triple()]).arg("--target-dir").arg(target);
    cargo.env("RUSTFLAGS", COVERAGE.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    sh::run(&mut cargo)?;
    Ok(target.join(Arch::host().triple()).join("fuzz"))
}

/// Runs one; how many inputs it went through.
fn fuzz(programs: &Path, target: &Path, name: &str, seconds: u32) -> Result<u64> {
    let corpus = target.join("corpus").join(name);
    let failures = target.join("failures");
    for dir in [&corpus, &failures] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut command = Command::new(programs.join(format!("fuzz_{name}")));
    command.current_dir(target).stdin(Stdio::null());
    command.args(LIMITS).args(["-print_final_stats=1", &format!("-max_total_time={seconds}")]);
    command.arg(format!("-artifact_prefix={}/{name}-", failures.display())).arg(&corpus);
    let seeds = sh::root().join("tests/fuzz/seeds").join(name);
    command.args(seeds.is_dir().then_some(seeds));
    let output = command.output().with_context(|| format!("cannot run fuzz_{name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!(
            "{}\n{end}\nto see it again: {} FILE",
            output.status,
            programs.join(format!("fuzz_{name}")).display()
        );
    }
    runs(&said).with_context(|| format!("fuzz_{name} does not say how many inputs it went through"))
}

/// What libFuzzer's final statistics say.
fn runs(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_in_the_manifest() {
        let manifest = fs::read_to_string(sh::root().join("tests/fuzz/Cargo.toml")).unwrap();
        let names = targets().unwrap();
        assert!(names.len() >= 8, "{names:?}");
        for name in &names {
            assert!(
                manifest.contains(&format!("name = \"fuzz_{name}\"\npath = \"targets/{name}.rs\"")),
                "{name}"
            );
        }
        assert_eq!(manifest.matches("[[bin]]").count(), names.len());
    }

    #[test]
    fn libfuzzers_statistics_are_read() {
        let said = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 4711\nstat::average_exec_per_sec:     0\n";
        assert_eq!(runs(said), Some(4711));
        assert_eq!(runs("==1== ERROR: libFuzzer: deadly signal"), None);
    }
}
