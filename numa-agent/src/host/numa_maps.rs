//! Memory of processes by node, from `/proc/PID/numa_maps`.
//!
//! The kernel walks the process's page tables for it, and holds up who maps memory in there meanwhile: not for the hot path,
//! and not without a bound.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::sys::{Host, Kernel};
use crate::core::{memory::numa_maps::Memory, task::TaskId};

/// The most that is read of one process, in bytes: a line a mapping.
const MAX_BYTES: u64 = 64 << 20;

/// How long the memory of all processes together may take to read, where somebody waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Why a process's memory is not known: an outcome like any other.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It ended, or another process has the pid by now.
    #[error("it is gone")]
    Gone,
    /// It is not ours to read, or this kernel has no NUMA support.
    #[error("its numa_maps cannot be read: {0}")]
    Refused(io::Error),
    /// It takes too long.
    #[error("it took longer to read than there was time for")]
    Slow,
    /// It has too many mappings.
    #[error("its numa_maps is longer than {MAX_BYTES} bytes")]
    Long,
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // No such file; and what reading gives once the process has ended.
            Some(number) if [Errno::ENOENT, Errno::ESRCH].contains(&Errno::from_raw(number)) => Self::Gone,
            _ => Self::Refused(error),
        }
    }
}

/// Memory by node. A mapping that the kernel is at is waited for: `patience` ends between two.
///
/// # Errors
/// [`Unread`].
pub fn read(process: TaskId, patience: Duration) -> Result<Memory, Unread> {
    let start = Instant::now();
    let file = File::open(format!("/proc/{}/numa_maps", process.tid))?;
    let mut lines = BufReader::new(file.take(MAX_BYTES));
    let (mut memory, mut line, mut bytes) = (Memory::default(), Vec::new(), 0);
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line)? {
            0 => break,
            length => bytes += length as u64,
        }
        if bytes >= MAX_BYTES {
            return Err(Unread::Long);
        }
        if start.elapsed() > patience {
            return Err(Unread::Slow);
        }
        memory.add_line(&String::from_utf8_lossy(&line));
    }
    let same = Host.start_time(process.tid) == Some(process.start_time);
    if same { Ok(memory) } else { Err(Unread::Gone) }
}

/// That of several processes, as far as it can be read within `patience` together.
#[must_use]
pub fn read_all(processes: &[TaskId], patience: Duration) -> BTreeMap<TaskId, Memory> {
    let start = Instant::now();
    let left = || patience.saturating_sub(start.elapsed());
    processes.iter().filter_map(|process| Some((*process, read(*process, left()).ok()?))).collect()
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
        assert!(memory.governed.values().sum::<u64>() > 1 << 17 && !memory.files().is_empty(), "{memory:?}");
        let patience = Duration::from_secs(20);
        let recycled = read(TaskId { start_time: me.start_time + 1, ..me }, patience).unwrap_err();
        assert!(matches!(recycled, Unread::Gone), "{recycled}");
        let nobody = read(TaskId { tid: u32::MAX >> 1, ..me }, patience).unwrap_err();
        assert!(matches!(nobody, Unread::Gone), "{nobody}");
        assert!(matches!(read(me, Duration::ZERO), Err(Unread::Slow)));
    }
}
