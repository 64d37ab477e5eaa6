//! Giving the calling thread the CPUs and the memory policy that a program is to start with: set, read back.
//!
//! A program that this thread becomes keeps both, and hands them on to all its threads and children.

use nix::errno::Errno;

use super::sys::{Kernel, OwnPolicy, SysError};
use crate::core::{
    idset::CpuSet,
    launch::Placement,
    memory::{Mode, Policy},
};

/// The calling thread, for system calls that take a tid.
const SELF: u32 = 0;

/// Why a thread could not be given what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The mask was refused.
    #[error("cannot run on CPUs {cpus}: {source}")]
    Cpus {
        /// The CPUs.
        cpus: CpuSet,
        /// Why.
        source: SysError,
    },
    /// The mask is not what was set.
    #[error("set to run on CPUs {cpus}, but they read back {actual}: {why}")]
    OtherCpus {
        /// The CPUs.
        cpus: CpuSet,
        /// The mask in force.
        actual: CpuSet,
        /// What may have happened.
        why: &'static str,
    },
    /// The policy was refused.
    #[error("cannot set memory policy {policy}: {why}")]
    Policy {
        /// The policy.
        policy: Policy,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel has no such mode, and no other will do.
    #[error("this kernel has no memory policy `{}`, which came with Linux {since}; without --strict it would be {instead}", mode.name())]
    NoSuchMode {
        /// The mode.
        mode: Mode,
        /// When it came.
        since: &'static str,
        /// The nearest policy that it has.
        instead: Policy,
    },
    /// The policy is not what was set.
    #[error(
        "set memory policy {policy}, but it reads back {actual}: our cpuset has changed, or the nodes' memory has"
    )]
    OtherPolicy {
        /// The policy.
        policy: Policy,
        /// The policy in force, or that it is one we do not know.
        actual: String,
    },
}

/// Gives the calling thread that place. What had to be given up, in words for the user; nothing of it with `strict`.
///
/// # Errors
/// [`LaunchError`] if the thread does not have what was asked for. It may have some of it then.
pub fn place(
    kernel: &(impl Kernel + OwnPolicy),
    wanted: &Placement,
    strict: bool,
) -> Result<Vec<String>, LaunchError> {
    let mut notes = Vec::new();
    if let Some(cpus) = &wanted.cpus {
        run_on(kernel, cpus, strict || wanted.named_cpus, &mut notes)?;
    }
    if let Some(policy) = &wanted.policy {
        take_memory(kernel, policy, strict, strict || wanted.named_nodes, &mut notes)?;
    }
    Ok(notes)
}

fn run_on(
    kernel: &impl Kernel,
    cpus: &CpuSet,
    exact: bool,
    notes: &mut Vec<String>,
) -> Result<(), LaunchError> {
    let refused = |source| LaunchError::Cpus { cpus: cpus.clone(), source };
    kernel.set_affinity(SELF, cpus).map_err(refused)?;
    let actual = kernel.affinity(SELF).map_err(refused)?;
    if actual == *cpus {
        return Ok(());
    }
    if actual.is_subset(cpus) && !exact {
        notes.push(format!("our cpuset allows only {actual} of CPUs {cpus}"));
        return Ok(());
    }
    let why = match actual.is_subset(cpus) {
        true => "our cpuset allows no more",
        false => "somebody else has set them, such as a running numa-agent",
    };
    Err(LaunchError::OtherCpus { cpus: cpus.clone(), actual, why })
}

fn take_memory(
    kernel: &impl OwnPolicy,
    policy: &Policy,
    strict: bool,
    exact: bool,
    notes: &mut Vec<String>,
) -> Result<(), LaunchError> {
    let mut policy = policy.clone();
    let mut set = kernel.set_memory_policy(&policy);
    if set == Err(Errno::EINVAL)
        && let Some((instead, since)) = older(&policy)
        && kernel.set_memory_policy(&instead).is_ok()
    {
        // That worked, so the nodes are not to blame.
        if strict {
            return Err(LaunchError::NoSuchMode { mode: policy.mode, since, instead });
        }
        notes.push(format!(
            "this kernel has no memory policy `{}`, which came with Linux {since}: {instead} instead",
            policy.mode.name()
        ));
        (policy, set) = (instead, Ok(()));
    }
    match set.and_then(|()| kernel.memory_policy()) {
        Ok(Some(actual)) if actual == policy => Ok(()),
        Ok(Some(actual)) if !exact && actual.mode == policy.mode && actual.nodes.is_subset(&policy.nodes) => {
            notes.push(format!("our cpuset allows only {actual} of {policy}"));
            Ok(())
        }
        Ok(actual) => {
            let actual =
                actual.map_or("another that numa-agent does not know".to_owned(), |it| it.to_string());
            Err(LaunchError::OtherPolicy { policy, actual })
        }
        Err(Errno::ENOSYS) if !exact => {
            notes.push("this kernel has no NUMA support, so no memory policy is set".to_owned());
            Ok(())
        }
        Err(errno) => Err(LaunchError::Policy { policy, why: explain(errno) }),
    }
}

/// The nearest policy that older kernels have, and when this one came.
fn older(policy: &Policy) -> Option<(Policy, &'static str)> {
    let mode = policy.mode.older()?;
    let nodes = match mode {
        Mode::Preferred => policy.nodes.first().into_iter().collect(),
        _ => policy.nodes.clone(),
    };
    Some((Policy { mode, nodes, flags: policy.flags }, policy.mode.since()?))
}

fn explain(errno: Errno) -> String {
    let hint = match errno {
        Errno::ENOSYS => "this kernel has no NUMA support",
        Errno::EPERM => "a seccomp filter forbids it, as containers have it; give the container CAP_SYS_NICE",
        Errno::EINVAL => {
            "none of its nodes has memory that our cpuset allows, or the kernel does not know the mode"
        }
        _ => return errno.to_string(),
    };
    format!("{hint} ({errno})")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::core::idset::NodeSet;

    /// A thread on a kernel that knows modes up to a number, in a cpuset.
    struct Fake {
        mask: RefCell<CpuSet>,
        policy: RefCell<Policy>,
        cpuset: CpuSet,
        mems: NodeSet,
        newest: Mode,
        refuse: Option<Errno>,
        /// Another task sets this mask at once.
        meddler: Option<CpuSet>,
    }

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn new_kernel() -> Fake {
        Fake {
            mask: RefCell::new(set("0-7")),
            policy: RefCell::default(),
            cpuset: set("0-7"),
            mems: set("0-3"),
            newest: Mode::WeightedInterleave,
            refuse: None,
            meddler: None,
        }
    }

    /// What 5.10 has.
    fn old_kernel() -> Fake {
        Fake { newest: Mode::Local, ..new_kernel() }
    }

    impl Kernel for Fake {
        fn affinity(&self, _tid: u32) -> Result<CpuSet, SysError> {
            Ok(self.mask.borrow().clone())
        }

        fn set_affinity(&self, tid: u32, cpus: &CpuSet) -> Result<(), SysError> {
            let cut = cpus.intersection(&self.cpuset);
            if cut.is_empty() {
                return Err(SysError { call: "sched_setaffinity", tid, errno: Errno::EINVAL });
            }
            *self.mask.borrow_mut() = self.meddler.clone().unwrap_or(cut);
            Ok(())
        }

        fn start_time(&self, _tid: u32) -> Option<u64> {
            None
        }

        fn real_time(&self, _tid: u32) -> Option<&'static str> {
            None
        }
    }

    impl OwnPolicy for Fake {
        fn memory_policy(&self) -> Result<Option<Policy>, Errno> {
            self.refuse.map_or_else(|| Ok(Some(self.policy.borrow().clone())), Err)
        }

        fn set_memory_policy(&self, policy: &Policy) -> Result<(), Errno> {
            if let Some(errno) = self.refuse {
                return Err(errno);
            }
            let mut nodes = policy.nodes.intersection(&self.mems);
            if policy.mode > self.newest || nodes.is_empty() {
                return Err(Errno::EINVAL);
            }
            if policy.mode == Mode::Preferred {
                nodes = nodes.first().into_iter().collect();
            }
            *self.policy.borrow_mut() = Policy { nodes, ..policy.clone() };
            Ok(())
        }
    }

    fn asked(cpus: &str, policy: &str) -> Placement {
        Placement { named_cpus: true, named_nodes: true, ..planned(cpus, policy) }
    }

    fn planned(cpus: &str, policy: &str) -> Placement {
        Placement { cpus: Some(set(cpus)), policy: Some(policy.parse().unwrap()), ..Placement::default() }
    }

    #[test]
    fn sets_both_and_has_nothing_to_say() {
        let kernel = new_kernel();
        assert_eq!(place(&kernel, &asked("2-3", "weighted interleave:0-1"), true), Ok(vec![]));
        assert_eq!(*kernel.mask.borrow(), set("2-3"));
        assert_eq!(kernel.policy.borrow().to_string(), "weighted interleave:0-1");
        assert_eq!(place(&kernel, &Placement::default(), false), Ok(vec![]));
        assert_eq!(*kernel.mask.borrow(), set("2-3"), "what is not asked for stays");
    }

    #[test]
    fn a_mode_that_the_kernel_lacks_is_replaced_or_refused() {
        for (wanted, instead) in
            [("weighted interleave:0-1", "interleave:0-1"), ("prefer (many):1-2", "prefer:1")]
        {
            let kernel = old_kernel();
            let notes = place(&kernel, &asked("0", wanted), false).unwrap();
            assert_eq!(kernel.policy.borrow().to_string(), instead);
            assert!(
                notes.len() == 1 && notes[0].contains(instead) && notes[0].contains("Linux"),
                "{notes:?}"
            );
            let error = place(&old_kernel(), &asked("0", wanted), true).unwrap_err();
            assert!(matches!(error, LaunchError::NoSuchMode { .. }), "{error}");
            assert!(error.to_string().contains("--strict"), "{error}");
        }
        let error = place(&old_kernel(), &asked("0", "weighted interleave:9"), false).unwrap_err();
        assert!(error.to_string().contains("weighted interleave:9"), "its nodes are to blame: {error}");
    }

    #[test]
    fn a_cpuset_may_cut_a_plan_but_not_what_was_named() {
        let small = || Fake { cpuset: set("0-2"), mems: set("0"), ..new_kernel() };
        let notes = place(&small(), &planned("2-3", "interleave:0-1"), false).unwrap();
        assert!(notes[0].contains("only 2 of CPUs 2-3"), "{notes:?}");
        assert!(notes[1].contains("only interleave:0 of interleave:0-1"), "{notes:?}");
        let error = place(&small(), &asked("2-3", "interleave:0"), false).unwrap_err();
        assert!(error.to_string().contains("our cpuset allows no more"), "{error}");
        let error = place(&small(), &asked("2", "interleave:0-1"), false).unwrap_err();
        assert!(
            matches!(&error, LaunchError::OtherPolicy { actual, .. } if actual == "interleave:0"),
            "{error}"
        );
        assert!(place(&small(), &planned("2-3", "interleave:0"), true).is_err(), "strict");
        let error = place(&small(), &planned("3-4", "interleave:0"), false).unwrap_err();
        assert!(error.to_string().contains("sched_setaffinity"), "none is left: {error}");
    }

    #[test]
    fn what_does_not_read_back_is_an_error() {
        let meddled = Fake { meddler: Some(set("5")), ..new_kernel() };
        let error = place(&meddled, &planned("2-3", "bind:0"), false).unwrap_err();
        assert!(
            error.to_string().contains("read back 5") && error.to_string().contains("numa-agent"),
            "{error}"
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        let without_numa = || Fake { refuse: Some(Errno::ENOSYS), ..new_kernel() };
        assert!(place(&without_numa(), &asked("0", "bind:0"), false).is_err());
        let notes = place(&without_numa(), &planned("0", "interleave:0"), false).unwrap();
        assert!(notes[0].contains("no NUMA support"), "{notes:?}");
        let filtered = Fake { refuse: Some(Errno::EPERM), ..new_kernel() };
        let error = place(&filtered, &planned("0", "interleave:0"), false).unwrap_err();
        assert!(error.to_string().contains("CAP_SYS_NICE"), "{error}");
    }
}
