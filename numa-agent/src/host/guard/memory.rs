//! The memory policy of a held process, set inside it.

use std::time::Duration;

use crate::core::{hold::MemoryResult, task::TaskId};

/// Sets it, within that time.
pub fn set(_process: TaskId, _policy: &str, _left: Duration) -> MemoryResult {
    MemoryResult::Refused("not yet".to_owned())
}
