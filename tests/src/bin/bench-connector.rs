//! A peer in `cargo xtask bench`: listens to the kernel's process events connector and binds what matches.

use anyhow::Result;
use clap::Parser;
use numa_agent_tests::bench::connector::{Args, listen};

fn main() -> Result<()> {
    listen(&Args::parse())
}
