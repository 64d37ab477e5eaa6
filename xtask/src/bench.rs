//! `cargo xtask bench`: what the agent costs, every figure of `docs/performance.md`.
//!
//! Builds the programs and hands over; what is measured is in `tests/src/bench`, which may depend on the tests' crate.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{build::Build, sh};

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub struct BenchArgs {
    /// What the bench program takes: FILTER..., --rounds N, --quick, --alone, --format text|json, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Builds the agent, the loads and the bench, and runs it.
///
/// # Errors
/// If something does not build, or the bench cannot be run; what it found is in its exit code, which is ours.
pub fn run(args: &BenchArgs, tools: &Build) -> Result<ExitCode> {
    tools.agent()?;
    for program in ["bench-measure", "bench-load", "bench-target", "bench-connector"] {
        tools.test_program(program)?;
    }
    let mut bench = Command::new(tools.test_program("bench")?);
    let status = bench.args(&args.args).current_dir(sh::root()).status().context("cannot run the bench")?;
    // One that was ended by a signal has no code.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
