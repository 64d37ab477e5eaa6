//! The agent on real kernels and shapes of machines, in the guests that `cargo xtask vm test` boots. Judged by what the workload sees
//! of itself, and by what the kernel says of the machine; never by the agent's word alone.
//!
//! Outside a guest there is nothing to run: `cargo test` says so, and `cargo xtask test` starts the guests.

mod check;
mod cpuset;
mod fences;
mod hold;
mod hotplug;
mod inject;
mod irq;
mod memory;
mod migrations;
mod placement;
mod plan;
mod programs;
mod repair;
mod stage;
mod topology;
