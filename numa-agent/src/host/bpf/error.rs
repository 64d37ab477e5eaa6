//! What can go wrong with the kernel programs, in words that say what to do.

use std::{error::Error, io, path::PathBuf};

use nix::errno::Errno;

use super::btf::BtfError;
use crate::core::health::Health;

/// The kernel's internal `ENOTSUPP` (`include/linux/errno.h`), which escapes through bpf(2) and is unknown to libc.
const ENOTSUPP: i32 = 524;

/// Why the programs are not in force, or a map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// Built without programs.
    #[error("this build has no kernel programs (NUMA_AGENT_SKIP_EBPF=1 was set); build again without it")]
    NoPrograms,
    /// The kernel's type information cannot be read.
    #[error("{}: {error}; the kernel programs need a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y)", path.display())]
    NoBtf {
        /// Its file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel's type information does not have what the programs need.
    #[error("{}: {error}", path.display())]
    Btf {
        /// Its file.
        path: PathBuf,
        /// What is missing.
        error: BtfError,
    },
    /// Maps or programs could not be made.
    #[error("kernel programs: {0}")]
    Load(String),
    /// A required program is not attached.
    #[error("kernel programs {}", .0.summary())]
    Unusable(Health),
    /// A map operation failed.
    #[error("{operation}: {reason}")]
    Map {
        /// What was tried, and on whom.
        operation: String,
        /// Why it failed.
        reason: String,
    },
    /// The filter is larger than the kernel's table.
    #[error(
        "the exec filter needs {needed} transitions, the kernel's table has room for {}",
        numa_ebpf::filter::TRANSITIONS
    )]
    FilterTooLarge {
        /// What it needs.
        needed: usize,
    },
    /// The ring buffer's descriptor could not be copied.
    #[error("ring buffer: {0}")]
    Ring(io::Error),
}

/// An error with its causes, on one line, and what to do about the two that need explaining. The verifier's log of
/// thousands of lines is cut to its last words.
pub(super) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut words = Vec::new();
    let mut errno = None;
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = last_words(&cause.to_string());
        // Many errors print their cause themselves.
        if !words.iter().any(|before: &String| before.contains(&text)) {
            words.push(text);
        }
        let io = cause.downcast_ref::<io::Error>();
        errno = errno.or_else(|| io.and_then(io::Error::raw_os_error));
        next = cause.source();
    }
    let text = words.join(": ");
    match errno {
        Some(ENOTSUPP) => format!("{text} (ENOTSUPP: this kernel cannot attach a program there)"),
        Some(errno) if errno == Errno::EPERM as i32 || errno == Errno::EACCES as i32 => {
            format!("{text}; run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE")
        }
        _ => text,
    }
}

fn last_words(text: &str) -> String {
    const LINES: usize = 3;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let statistics = |line: &&&str| line.starts_with("processed ") || line.starts_with("stack depth");
    match lines.as_slice() {
        [first, .., _] if lines.len() > LINES + 1 => {
            let mut tail: Vec<&str> =
                lines[1..].iter().rev().filter(|l| !statistics(l)).take(LINES).copied().collect();
            tail.reverse();
            format!("{first} ... {}", tail.join(" / "))
        }
        _ => lines.join(" / "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("loading: {0}")]
    struct Outer(#[source] io::Error);

    #[test]
    fn errors_say_what_to_do() {
        let explained = explain(&Outer(io::Error::from_raw_os_error(ENOTSUPP)));
        assert!(explained.contains("ENOTSUPP: this kernel cannot attach"), "{explained}");
        let explained = explain(&Outer(io::Error::from_raw_os_error(Errno::EPERM as i32)));
        assert!(
            explained.ends_with("run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE"),
            "{explained}"
        );
        assert_eq!(explained.matches("not permitted").count(), 1, "{explained}");
        assert!(BpfError::FilterTooLarge { needed: 70_000 }.to_string().contains("70000"));
    }

    #[test]
    fn a_verifier_log_is_cut_to_its_last_words() {
        let log = (0..5000).map(|line| format!("{line}: (bf) r1 = r2\n")).collect::<String>();
        let text =
            last_words(&format!("refused. Verifier output: {log}R1 invalid mem access\nprocessed 9 insns\n"));
        assert!(text.starts_with("refused.") && text.ends_with("R1 invalid mem access"), "{text}");
        assert!(text.len() < 200);
    }
}
