//! Memory of processes by node, from `/proc/PID/numa_maps`.
//!
//! The kernel walks the process's page tables for it, and holds up who maps memory in there meanwhile: not for the hot path,
//! and not without a bound.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use super::sys::{Host, Kernel};
use crate::core::{memory::numa_maps::Memory, task::TaskId};

/// The most that is read of one process, in bytes: a line a mapping.
const MAX_BYTES: u64 = 64 << 20;

/// Memory by node; `None`: it could not be read, not within `patience`, or another process has the pid by now.
#[must_use]
pub fn read(process: TaskId, patience: Duration) -> Option<Memory> {
    let start = Instant::now();
    let file = File::open(format!("/proc/{}/numa_maps", process.tid)).ok()?;
    let mut lines = BufReader::new(file.take(MAX_BYTES));
    let (mut memory, mut line, mut bytes) = (Memory::default(), Vec::new(), 0);
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).ok()? {
            0 => break,
            length => bytes += length as u64,
        }
        if bytes >= MAX_BYTES || start.elapsed() > patience {
            return None;
        }
        memory.add_line(&String::from_utf8_lossy(&line));
    }
    (Host.start_time(process.tid) == Some(process.start_time)).then_some(memory)
}

/// That of several processes, as far as it can be read within `patience` together.
#[must_use]
pub fn read_all(processes: &[TaskId], patience: Duration) -> BTreeMap<TaskId, Memory> {
    let start = Instant::now();
    let left = || patience.saturating_sub(start.elapsed());
    processes.iter().filter_map(|process| Some((*process, read(*process, left())?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_memory() {
        let me = TaskId { tid: std::process::id(), start_time: Host.start_time(std::process::id()).unwrap() };
        if !std::path::Path::new("/proc/self/numa_maps").exists() {
            eprintln!("SKIP: reads_its_own_memory: this kernel has no NUMA support");
            return;
        }
        let memory = read(me, Duration::from_secs(20)).expect("it is ours");
        assert!(memory.nodes.values().sum::<u64>() > 1 << 20, "{memory:?}");
        assert_eq!(read(TaskId { start_time: me.start_time + 1, ..me }, Duration::from_secs(20)), None);
    }
}
