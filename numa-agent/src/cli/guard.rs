//! `numa-agent guard`, which nobody types: the process that looks after those that are held at exec.

use std::process::ExitCode;

use clap::Args;

pub use crate::host::guard::SUBCOMMAND;
use crate::host::{guard, sys};

/// Descriptors that its creator has left open for it.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// The ring buffer of holds.
    ring: i32,
    /// The map of held tasks.
    held: i32,
    /// The line to the agent.
    socket: i32,
}

/// Serves until the agent is gone. There is nobody to tell what went wrong but the agent, which sees that we end.
pub fn run(args: &GuardArgs) -> ExitCode {
    let descriptors = [args.ring, args.held, args.socket].map(sys::inherited);
    let serve = || {
        let [ring, held, socket] = descriptors;
        guard::serve(ring?, held?, socket?)
    };
    if serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
