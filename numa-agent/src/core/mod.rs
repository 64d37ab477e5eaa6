//! The functional core: what a machine looks like, which task plays which role, and where it belongs.
//!
//! Nothing below this module reads a file, makes a system call, looks at a clock or knows BPF: everything it decides
//! on is a parameter, and everything it wants done is returned as data. `tests/purity.rs` holds it to that.

pub mod births;
pub mod check;
pub mod choice;
pub mod config;
pub mod decode;
pub mod device;
pub mod engine;
pub mod event;
pub mod filter;
pub mod health;
pub mod hold;
pub mod idset;
pub mod instance;
pub mod irq;
pub mod jitter;
pub mod journal;
pub mod launch;
pub mod memory;
pub mod metrics;
pub mod outline;
pub mod pace;
pub mod plan;
pub mod preset;
pub mod remedy;
pub mod rule;
pub mod rules;
pub mod settings;
pub mod stats;
pub mod synthetic;
pub mod task;
pub mod topology;
pub(crate) mod units;
pub mod view;
