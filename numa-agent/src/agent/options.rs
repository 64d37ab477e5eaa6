//! What the agent is asked to do.

use std::{path::PathBuf, time::Duration};

use super::{Jitter, LineFormat, LineQueue, Metrics};
use crate::core::{outline::Outline, settings::Settings, topology::Topology};

/// Reads something, as often as it is asked to.
pub type Source<T> = Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>;

/// What the agent is asked to do.
pub struct Options {
    /// The configuration.
    pub settings: Source<Settings>,
    /// The machine.
    pub topology: Source<Topology>,
    /// As much of it as may change.
    pub outline: Source<Outline>,
    /// Look and report, change nothing.
    pub dry_run: bool,
    /// Format of the lines on standard output.
    pub format: LineFormat,
    /// Where messages for people go.
    pub messages: LineQueue,
    /// Time between scans; `None`: only after losses.
    pub reconcile: Option<Duration>,
    /// Have the kernel programs log what they do.
    pub bpf_log: bool,
    /// Size of the ring buffer, as [`LoadOptions::ring_bytes`]; `None`: by the machine.
    pub ring_bytes: Option<u32>,
    /// How many threads can be measured at once; by default 64 for each CPU, and 4096 at least.
    pub max_accounts: Option<u32>,
    /// What to do with what is measured.
    pub jitter: Jitter,
    /// Where viewers connect.
    pub socket: Socket,
    /// Have the event thread go before all ordinary threads, where that is allowed.
    pub real_time: bool,
    /// Give up, once it is under way, the capabilities that only its start takes.
    pub gives_up: bool,
    /// Where what was before each change is written down; `None`: nowhere.
    pub journal: Option<PathBuf>,
    /// Undo all that is in the journal but interrupts at the end.
    pub restore_on_exit: bool,
    /// The metrics endpoint; `None`: there is none, whatever the configuration says.
    pub metrics: Option<Metrics>,
}

/// Where viewers connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// At [`crate::core::view::SOCKET`]; nowhere, with a warning, where it cannot be made.
    Default,
    /// There, or the agent does not start.
    At(PathBuf),
    /// Nowhere.
    None,
}
