//! `numa-agent status`.

use std::path::PathBuf;

use clap::Args;

use super::Format;
use crate::{
    core::view::{self, Line, Request},
    host::client,
    report,
};

/// Flags of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if an agent answered; 1 if none did, or we may not look (root and the members of the socket's group may); 2 bad usage.")]
pub struct StatusArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Asks the agent, and prints what it says.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let status = match client::connect(&args.socket, Request::Status)?.answer()? {
        Line::Status(status) => status,
        _ => anyhow::bail!(
            "the agent at {} answers with something other than its state",
            args.socket.display()
        ),
    };
    super::print(&match args.format {
        Format::Text => report::status::text(&status),
        Format::Json => report::escape::json(&serde_json::to_string_pretty(&status)?) + "\n",
    })
}
