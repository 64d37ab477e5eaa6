//! `numa-agent jitter merge`.

use std::path::PathBuf;

use clap::Args;

/// Flags of `jitter merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Recordings that `jitter record` or `run` wrote.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the merged recording goes.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Reads, merges, writes.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let recording = super::read_recordings(&args.files)?;
    super::write_recording(&args.output, &recording)
}
