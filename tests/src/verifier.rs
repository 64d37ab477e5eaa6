//! How much work the verifier has with each kernel program: what was measured against what is kept in `data/verifier.json`.
//!
//! Numbers in, words out. Measuring is for [`crate::programs`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Instructions that the verifier went through, by program.
pub type Counts = BTreeMap<String, u32>;

/// What is kept: by architecture, then by kernel series.
pub type Kept = BTreeMap<String, BTreeMap<String, Counts>>;

/// What one kernel's verifier did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// As in [`std::env::consts::ARCH`].
    pub arch: String,
    /// As [`series`] gives it.
    pub kernel: String,
    /// The numbers.
    pub instructions: Counts,
}

/// How numbers get into the file.
pub const HOW: &str = "if the numbers are as they should be, keep them: docs/development.md, keep-verifier";

/// How a line about the verifier begins, on whatever console it ends up.
pub const WORD: &str = "verifier: ";
/// How one with numbers goes on.
const OPEN: &str = "verifier: {";

/// The file as it was when this was built.
///
/// # Panics
/// If it is not what it should be.
#[must_use]
pub fn kept() -> Kept {
    serde_json::from_str(include_str!("../data/verifier.json")).expect("tests/data/verifier.json")
}

/// 6 and 1 of `6.1.0-50-cloud-amd64`.
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// `6.1` of the same: kernels of a series differ by fixes.
#[must_use]
pub fn series(release: &str) -> Option<String> {
    version(release).map(|(major, minor)| format!("{major}.{minor}"))
}

/// What became of the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Of this kernel nothing is kept.
    Unknown(String),
    /// What is wrong, and what may be kept anew; both may be empty.
    Known {
        /// One line for each program that the verifier has over a tenth more work with, or that is in one of the two only.
        wrong: Vec<String>,
        /// One line for each program that it has over a tenth less work with.
        less: Vec<String>,
    },
}

/// Whether a kernel series such as `7.3` is newer than all those of which numbers are kept, as Debian's newest may be one day.
#[must_use]
pub fn is_newer(kept: &Kept, arch: &str, kernel: &str) -> bool {
    let numbers =
        |series: &str| series.split('.').map(|number| number.parse().unwrap_or(0)).collect::<Vec<u32>>();
    let newest = kept.get(arch).and_then(|kernels| kernels.keys().map(|series| numbers(series)).max());
    newest.is_some_and(|newest| numbers(kernel) > newest)
}

/// Holds what was measured against what is kept.
#[must_use]
pub fn compare(kept: &Kept, measured: &Measured) -> Comparison {
    let Measured { arch, kernel, instructions } = measured;
    let place = format!("{arch}, Linux {kernel}");
    let Some(kept) = kept.get(arch).and_then(|kernels| kernels.get(kernel)) else {
        return Comparison::Unknown(format!("{place}: no verifier's numbers are kept of this kernel; {HOW}"));
    };
    let (mut wrong, mut less) = (Vec::new(), Vec::new());
    for (program, &now) in instructions {
        let words = |kept: u32| format!("{place}: {program}: {now} instructions verified, {kept} kept");
        match kept.get(program) {
            None => wrong.push(format!("{place}: {program}: {now} instructions verified, nothing kept")),
            Some(&kept) if u64::from(now) * 10 > u64::from(kept) * 11 => wrong.push(words(kept)),
            Some(&kept) if u64::from(now) * 10 < u64::from(kept) * 9 => less.push(words(kept)),
            Some(_) => {}
        }
    }
    for (program, kept) in kept.iter().filter(|(program, _)| !instructions.contains_key(*program)) {
        wrong.push(format!("{place}: {program}: not loaded, {kept} instructions kept"));
    }
    Comparison::Known { wrong, less }
}

/// The numbers as one line of output.
///
/// # Panics
/// Never.
#[must_use]
pub fn line(measured: &Measured) -> String {
    let json = serde_json::to_string(measured).expect("plain data");
    format!("{WORD}{json}")
}

/// The numbers in a line of output; `None`: it has none. What else was printed to the line does not matter.
///
/// # Errors
/// If the line has the mark and no numbers behind it.
pub fn from_line(line: &str) -> Option<serde_json::Result<Measured>> {
    let json = &line[line.find(OPEN)? + WORD.len()..];
    serde_json::Deserializer::from_str(json).into_iter().next()
}

/// Keeps what was measured in place of what was kept of that kernel.
pub fn keep(kept: &mut Kept, measured: Measured) {
    kept.entry(measured.arch).or_default().insert(measured.kernel, measured.instructions);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(counts: &[(&str, u32)]) -> Measured {
        let instructions = counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        Measured { arch: "x86_64".into(), kernel: "6.1".into(), instructions }
    }

    fn compared(before: &[(&str, u32)], now: &[(&str, u32)]) -> (Vec<String>, Vec<String>) {
        let mut kept = Kept::new();
        keep(&mut kept, measured(before));
        match compare(&kept, &measured(now)) {
            Comparison::Known { wrong, less } => (wrong, less),
            Comparison::Unknown(why) => panic!("{why}"),
        }
    }

    #[test]
    fn newer_is_by_number() {
        let kept: Kept = serde_json::from_str(r#"{"x86_64": {"5.10": {}, "6.9": {}}}"#).unwrap();
        assert!(is_newer(&kept, "x86_64", "6.10") && is_newer(&kept, "x86_64", "7.0"));
        assert!(!is_newer(&kept, "x86_64", "6.1") && !is_newer(&kept, "x86_64", "6.9"));
        assert!(!is_newer(&kept, "aarch64", "7.0"), "of which nothing is kept at all");
    }

    #[test]
    fn a_tenth_more_is_let_pass_and_no_more() {
        assert_eq!(
            compared(&[("exec", 1000), ("exit", 30)], &[("exec", 1100), ("exit", 33)]),
            (vec![], vec![])
        );
        let (wrong, less) = compared(&[("exec", 1000), ("exit", 30)], &[("exec", 1101), ("exit", 34)]);
        assert_eq!(
            wrong,
            [
                "x86_64, Linux 6.1: exec: 1101 instructions verified, 1000 kept",
                "x86_64, Linux 6.1: exit: 34 instructions verified, 30 kept",
            ]
        );
        assert!(less.is_empty());
        assert_eq!(compared(&[("exec", u32::MAX)], &[("exec", u32::MAX)]), (vec![], vec![]));
    }

    #[test]
    fn less_work_is_no_failure() {
        assert_eq!(compared(&[("exec", 1000)], &[("exec", 900)]), (vec![], vec![]));
        let (wrong, less) = compared(&[("exec", 1000)], &[("exec", 899)]);
        assert_eq!(
            (wrong.len(), less),
            (0, vec!["x86_64, Linux 6.1: exec: 899 instructions verified, 1000 kept".into()])
        );
    }

    #[test]
    fn a_program_that_only_one_side_knows_is_wrong() {
        let (wrong, _) = compared(&[("fork", 7)], &[("exec", 9)]);
        assert_eq!(
            wrong,
            [
                "x86_64, Linux 6.1: exec: 9 instructions verified, nothing kept",
                "x86_64, Linux 6.1: fork: not loaded, 7 instructions kept",
            ]
        );
    }

    #[test]
    fn an_unknown_kernel_is_told_from_a_good_one() {
        let mut kept = Kept::new();
        for (arch, kernel) in [("x86_64", "6.12"), ("aarch64", "6.1")] {
            keep(
                &mut kept,
                Measured { arch: arch.into(), kernel: kernel.into(), ..measured(&[("exec", 1)]) },
            );
        }
        let Comparison::Unknown(why) = compare(&kept, &measured(&[("exec", 1)])) else {
            panic!("it is kept")
        };
        assert!(why.contains("x86_64, Linux 6.1: no") && why.contains("keep-verifier"), "{why}");
    }

    #[test]
    fn a_kernels_series() {
        assert_eq!(series("6.1.0-50-cloud-amd64").as_deref(), Some("6.1"));
        assert_eq!(series("7.2-rc3").as_deref(), Some("7.2"));
        assert_eq!(series("5.10.0-136.12.0.86.oe2203sp1.aarch64").as_deref(), Some("5.10"));
        assert_eq!((series("6"), series("linux"), series("")), (None, None, None));
    }

    #[test]
    fn numbers_find_their_way_through_a_console() {
        let sent = measured(&[("exec", 55_739), ("fork", 780)]);
        let line = format!("[   12.3] init: {}\r", line(&sent));
        assert_eq!(from_line(&line).unwrap().unwrap(), sent);
        assert!(from_line("verifier: nothing").is_none());
        assert!(from_line("verifier: {\"arch\": \"x86_").unwrap().is_err());
        let mut kept = Kept::new();
        keep(&mut kept, measured(&[("old", 1)]));
        keep(&mut kept, sent.clone());
        assert_eq!(kept["x86_64"]["6.1"], sent.instructions);
    }

    #[test]
    fn what_is_kept_can_be_read() {
        assert!(kept()["x86_64"].values().all(|programs| programs.contains_key("exec")));
    }
}
