//! `numa-agent man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man;

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each subcommand, too, into this directory: numa-agent.1, numa-agent-run.1, and so on. What is there
    /// under these names is replaced.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the page, or writes all.
pub fn run(args: &ManArgs) -> anyhow::Result<()> {
    // `help` would have pages of its own, which say less.
    let command = super::Cli::command().disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return super::print(&String::from_utf8(page)?);
    };
    clap_mangen::generate_to(command, dir).with_context(|| dir.display().to_string())
}
