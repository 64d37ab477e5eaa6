//! `cargo xtask demo`: the agent at work on a synthetic serving stack.
//!
//! Builds the programs and hands over; what is shown is `tests/src/bin/demo.rs`, which may depend on the tests' crate.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{build::Build, sh};

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub struct DemoArgs {
    /// How long to watch, in seconds: half of it without the agent, half with it
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub seconds: u64,
}

/// Builds the agent, the stack and the demo, and runs it.
///
/// # Errors
/// If something does not build, or the demo fails.
pub fn run(args: &DemoArgs, tools: &Build) -> Result<()> {
    tools.agent()?;
    tools.test_program("serving-stack")?;
    let mut demo = Command::new(tools.test_program("demo")?);
    // The report goes where users look for it.
    sh::run(demo.args(["--seconds", &args.seconds.to_string()]).current_dir(sh::root()))
}
