//! A load of `cargo xtask bench`: waits for a line on standard input, works, says what it took.

use anyhow::Result;
use clap::Parser;
use numa_agent_tests::bench::load::Load;

/// A load of `cargo xtask bench`.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    load: Load,
}

fn main() -> Result<()> {
    Args::parse().load.work()
}
