//! The functional core: what a machine looks like, which task plays which role, and where it belongs.
//!
//! Nothing below this module reads a file, makes a system call, looks at a clock or knows BPF: everything it decides
//! on is a parameter, and everything it wants done is returned as data. `tests/purity.rs` holds it to that.

pub mod choice;
pub mod config;
pub mod decode;
pub mod engine;
pub mod event;
pub mod filter;
pub mod health;
pub mod hold;
pub mod idset;
pub mod instance;
pub mod jitter;
pub mod launch;
pub mod memory;
pub mod outline;
pub mod plan;
pub mod preset;
pub mod rule;
pub mod rules;
pub mod settings;
pub mod stats;
pub mod synthetic;
pub mod task;
pub mod topology;
pub mod view;
