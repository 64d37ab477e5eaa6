//! `numa-agent topology`.

use clap::{Args, ValueEnum};

use super::machine::MachineArgs;
use crate::report;

/// Flags of `topology`.
#[derive(Debug, Args)]
pub struct TopologyArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Prints the machine.
pub fn run(args: &TopologyArgs) -> anyhow::Result<()> {
    let topology = args.machine.topology()?;
    super::print(&match args.format {
        Format::Text => report::topology::text(&topology),
        Format::Json => report::json::print(&report::topology::json(&topology)),
    })
}
