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
    /// What the bench program takes: FILTER..., --rounds N, --quick, --alone, --format text|json; `-- --help` explains them
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use crate::{Cli, sh};

    #[test]
    fn what_the_document_says_to_type_is_a_command() {
        let document = fs::read_to_string(sh::root().join("docs/performance.md")).unwrap();
        let typed = document.split(['`', '\n']).filter_map(|code| code.split_once("cargo xtask ")?.1.into());
        // Other arguments of `bench` are the bench's, which has a test of its own.
        let typed: Vec<&str> = typed.filter(|words: &&str| !words.contains('[')).collect();
        assert!(typed.iter().any(|words| words.starts_with("vm ")) && typed.len() > 10, "{typed:?}");
        for words in typed {
            if let Err(error) = Cli::try_parse_from(["xtask"].into_iter().chain(words.split(' '))) {
                panic!("cargo xtask {words}: {error}");
            }
        }
    }
}
