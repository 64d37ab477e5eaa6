//! numa-agent puts every process and thread of an inference server on the right NUMA node the moment it is born, keeps
//! it there, and proves it. `docs/architecture.md` says which room a line belongs in.

pub mod agent;
pub mod cli;
pub mod core;
pub mod host;
pub mod report;
pub mod view;
