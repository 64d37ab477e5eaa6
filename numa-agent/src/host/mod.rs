//! Adapters to the machine: sysfs, procfs, system calls, BPF. Every reader takes a root; `unsafe` and libc live in
//! [`sys`] (and in `numa-ebpf`). Decisions live in `core`.

pub mod binding;
pub mod bpf;
pub mod cgroup;
pub mod client;
pub mod cpuset;
pub mod files;
pub mod guard;
pub mod inject;
pub mod launch;
pub mod listen;
pub mod numa_maps;
pub mod procfs;
pub mod repair;
pub mod scan;
pub mod sys;
pub mod sysfs;
