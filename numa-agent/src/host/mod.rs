//! Adapters to the machine: sysfs, procfs, system calls, BPF. Every reader takes a root; `unsafe` and libc live in
//! [`sys`] (and in `numa-ebpf`). Decisions live in `core`.

pub mod aside;
pub mod binding;
pub mod bpf;
pub mod capabilities;
pub mod cgroup;
pub mod client;
pub mod container;
pub mod cpuset;
pub mod critical;
pub mod device_files;
pub mod files;
pub mod fresh;
pub mod guard;
pub mod inject;
pub mod irq;
pub mod journal;
pub mod launch;
pub mod listen;
pub mod notify;
pub mod numa_maps;
pub mod procfs;
pub mod repair;
pub mod restore;
pub mod scan;
pub mod surroundings;
pub mod sys;
pub mod sysfs;
mod threads;
pub mod trust;
