//! Capabilities (`capabilities(7)`): given up for good once they are not needed any more. What is needed is for callers to say.
//!
//! Each thread has its own, and hands them on to the threads and programs that it starts.

use std::io;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// Why a thread still has what it should not.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A set could not be read or lowered.
    #[error("{0}")]
    Set(#[from] CapsError),
    /// Programs that it starts could get them back.
    #[error("PR_SET_NO_NEW_PRIVS: {0}")]
    NewPrivileges(io::Error),
}

/// The calling thread keeps those of its capabilities that are in `keep`, and no program that it starts gets others back, as one of
/// root's would.
///
/// # Errors
/// If the kernel refuses; the thread may have given up some by then.
pub fn keep_only(keep: &[Capability]) -> Result<(), KeepError> {
    nix::sys::prctl::set_no_new_privs().map_err(|errno| KeepError::NewPrivileges(errno.into()))?;
    // Lowered in this order: what is effective has to be permitted. Ambient ones go with the inheritable ones.
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let had = caps::read(None, set)?;
        let kept: CapsHashSet = had.iter().filter(|one| keep.contains(one)).copied().collect();
        if kept != had {
            caps::set(None, set, &kept)?;
        }
    }
    Ok(())
}

/// Whether we may send signals to processes of any user: `CAP_KILL` is in force.
#[must_use]
pub fn may_signal_all() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_KILL).unwrap_or(false)
}
