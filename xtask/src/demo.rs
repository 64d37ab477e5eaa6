//! `cargo xtask demo`: the agent at work on a synthetic serving stack.

use anyhow::Result;
use clap::Args;

use crate::build::Build;

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub struct DemoArgs {
    /// How long to run, in seconds
    #[arg(long, value_name = "N", default_value_t = 15)]
    #[allow(dead_code, reason = "for the orchestration")]
    pub seconds: u64,
}

/// Builds the agent and reports where it is.
///
/// # Errors
/// If something does not build.
pub fn run(_args: &DemoArgs, tools: &Build) -> Result<()> {
    println!("agent: {}", tools.agent()?.display());
    Ok(())
}
