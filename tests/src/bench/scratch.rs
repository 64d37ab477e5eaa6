//! Where the bench's files are. The agent's journal is in `/run`, in memory; where a write goes to a disk it may take longer than all else
//! between an event and a bind. So they are in memory wherever there is some, and the report says if they are not.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::{Builder, TempDir};

/// What is looked at after the directory for temporary files.
const IN_MEMORY: [&str; 2] = ["/dev/shm", "/run"];
/// Room for the largest of the files, recordings of `perf sched`: 53 MB with two CPUs. Containers often have 64 MiB of `/dev/shm`.
const ROOM_BYTES: u64 = 256 << 20;

/// Makes a directory for all that is written; dropping it removes it.
///
/// # Errors
/// If nothing can be written where temporary files belong, either.
pub fn directory() -> Result<TempDir> {
    let temp = env::temp_dir();
    let places = [temp.clone()].into_iter().chain(IN_MEMORY.map(PathBuf::from));
    let mut suited = places.filter(|place| is_in_memory(place) && has_room(place));
    let make = |place: &Path| Builder::new().prefix("numa-agent-bench-").tempdir_in(place);
    // There is memory that we may not write to.
    if let Some(made) = suited.find_map(|place| make(&place).ok()) {
        return Ok(made);
    }
    make(&temp).with_context(|| format!("cannot make a directory in {}", temp.display()))
}

/// Whether what is written there is in memory.
#[must_use]
pub fn is_in_memory(place: &Path) -> bool {
    statfs(place).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

fn has_room(place: &Path) -> bool {
    // One without a limit has no blocks.
    let room = |blocks: u64, free: u64, bytes: u64| blocks == 0 || free.saturating_mul(bytes) >= ROOM_BYTES;
    statfs(place).is_ok_and(|fs| room(fs.blocks(), fs.blocks_available(), fs.block_size().unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_preferred_where_there_is_some() {
        let made = directory().unwrap();
        let any = [env::temp_dir(), "/dev/shm".into(), "/run".into()]
            .iter()
            .any(|place| is_in_memory(place) && has_room(place) && tempfile::tempdir_in(place).is_ok());
        assert_eq!(is_in_memory(made.path()), any, "{}", made.path().display());
        let path = made.path().to_owned();
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn proc_is_not_memory_and_has_no_room() {
        assert!(!is_in_memory(Path::new("/proc")) && !is_in_memory(Path::new("/no/such/place")));
        assert!(!has_room(Path::new("/no/such/place")));
    }
}
