//! The memory policy of a held process, set inside it.

use std::time::Duration;

use crate::{
    core::{hold::MemoryResult, memory::Policy, task::TaskId},
    host::inject::{self, InjectError},
};

/// Sets it, if the process can be brought to take it within that time.
pub fn set(process: TaskId, policy: &str, patience: Duration) -> MemoryResult {
    let Ok(wanted) = policy.parse::<Policy>() else {
        return MemoryResult::Refused("no policy that the guard knows".to_owned());
    };
    match inject::set_policy(process, &wanted, patience) {
        Ok(actual) if actual.mode == wanted.mode && actual.nodes.is_subset(&wanted.nodes) => {
            MemoryResult::Set(actual.to_string())
        }
        Ok(actual) => MemoryResult::Refused(format!("it reads back {actual}")),
        Err(error) => MemoryResult::Refused(why(&error)),
    }
}

/// The reason, without the process that it is about: reasons are counted.
fn why(error: &InjectError) -> String {
    match error {
        InjectError::Gone { .. } => "it has ended".to_owned(),
        InjectError::Traced { .. } => "it is traced by another".to_owned(),
        InjectError::NotPermitted { errno, .. } => {
            format!("not permitted, {errno}; that takes CAP_SYS_PTRACE")
        }
        InjectError::Seccomp { errno, .. } => format!("a seccomp filter, {errno}; that takes CAP_SYS_ADMIN"),
        InjectError::Width { .. } => "a 32-bit program".to_owned(),
        InjectError::NoVdso { .. } => "it has no vDSO".to_owned(),
        InjectError::Slow { .. } => "it did not get there within hold_limit_ms".to_owned(),
        InjectError::Refused { call, errno, .. } => format!("{call}, {errno}"),
        InjectError::Fault { signal, .. } => format!("signal {signal}"),
        InjectError::Memory { error, .. } => format!("its memory, {error}"),
        InjectError::KernelThread { .. }
        | InjectError::Own { .. }
        | InjectError::NoTracer { .. }
        | InjectError::Unknown { .. } => "it cannot be reached".to_owned(),
    }
}
