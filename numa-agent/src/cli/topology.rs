//! `numa-agent topology`.

use clap::Args;

use super::{Format, machine::MachineArgs};
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

/// Prints the machine.
pub fn run(args: &TopologyArgs) -> anyhow::Result<()> {
    let topology = args.machine.topology()?;
    super::print(&match args.format {
        Format::Text => report::topology::text(&topology),
        Format::Json => report::json::print(&report::topology::json(&topology)),
    })
}
