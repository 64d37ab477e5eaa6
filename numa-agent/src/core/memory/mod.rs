//! Memory: the policies that say which nodes new pages come from, and where a process's pages are.
//!
//! Who sets a policy, and who reads `/proc`, is `host`'s part.

pub mod brake;
pub mod cgroup;
pub mod conditions;
pub mod numa_maps;
mod policy;
pub mod repair;
pub mod verify;

pub use policy::{Flags, Mode, Policy, PolicyError};
