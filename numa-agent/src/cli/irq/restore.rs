//! `numa-agent irq restore`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Format, restore};

/// Flags of `irq restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
The same as `numa-agent restore --class irq`.

Exit status: 0 if all has the value it had, is gone, or was set by somebody else since, which stays; 1 if something could not be restored.")]
pub struct IrqRestoreArgs {
    /// What was written down before each change. [default: /run/numa-agent/journal]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Show what would be restored, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Format of standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Undoes all that `irq apply` has done, reports.
pub fn run(args: &IrqRestoreArgs) -> anyhow::Result<()> {
    restore::interrupts(args.journal.as_deref(), args.dry_run, args.format)
}
