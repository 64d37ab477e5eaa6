//! A program that `cargo xtask bench` starts and somebody is to bind: it says when it saw itself where it belongs.

use anyhow::Result;
use numa_agent_tests::bench::target::{self, Sight};

fn main() -> Result<()> {
    // Before anything else.
    let first = Sight::now();
    target::play(&first)
}
