//! `cargo xtask bench`: has `bench-measure` do the work, with its files in memory, and leaves nobody and nothing behind.

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use numa_agent_tests::bench::{keeper, scratch};

fn main() -> Result<ExitCode> {
    let scratch = scratch::directory()?;
    let program = env::current_exe().context("my own path")?.with_file_name("bench-measure");
    let mut measure = Command::new(program);
    measure.args(env::args_os().skip(1)).env("TMPDIR", scratch.path());
    Ok(keeper::keep(&mut measure)?.into())
}
