//! Counts tests from what they print. No I/O.

use std::fmt;

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed, and not skipped.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Said `SKIP:` and returned, or are marked `#[ignore]`.
    pub skipped: u64,
    /// `SKIP:` lines: the harness counts these tests as passed.
    said_skip: u64,
}

impl Tally {
    /// What passed as a whole.
    pub fn success() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// What did not come to count anything.
    pub fn failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// What was skipped as a whole.
    pub fn skip() -> Self {
        Self { skipped: 1, ..Self::default() }
    }

    /// Takes one line of output.
    pub fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let word = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
                word.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.skipped += count("ignored");
            // One binary's tests end here. A skip that the harness counted as passed moves over.
            let moved = self.said_skip.min(self.passed);
            self.passed -= moved;
            self.skipped += self.said_skip;
            self.said_skip = 0;
        } else if skip(line) {
            self.said_skip += 1;
        }
    }

    /// Counts `other` too.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped + other.said_skip;
    }

    /// Whether that is what a run should come to; `strict` is for CI, where no test may be skipped.
    pub fn is_good(&self, strict: bool) -> bool {
        self.failed == 0 && !self.is_empty() && !(strict && self.skipped + self.said_skip > 0)
    }

    /// Whether no test ran.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a test says here that it is skipped: at the start of a line, or after the harness's unfinished
/// `test NAME ... ` when the output is not captured.
fn skip(line: &str) -> bool {
    line.starts_with("SKIP:")
        || line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
            .is_some_and(|(_, said)| said.starts_with("SKIP:"))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let text = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s\n\
            test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(tally(text).to_string(), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_says_skip_is_not_passed() {
        let text = "SKIP: needs root\ntest live ... SKIP: no BTF\nok\nnote: SKIP: elsewhere in a line\n\
            test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(tally(text).to_string(), "3 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_skip_before_a_crash_still_counts() {
        let mut all = Tally::default();
        all.add(tally("SKIP: needs root\n"));
        assert_eq!(all.to_string(), "0 passed, 0 failed, 1 skipped");
        assert!(!all.is_empty() && Tally::default().is_empty());
    }

    #[test]
    fn nothing_and_failures_are_not_good_and_skips_only_where_nobody_is_strict() {
        let (passed, failed) =
            ("test result: ok. 1 passed; 0 failed", "test result: FAILED. 1 passed; 1 failed");
        assert!(tally(passed).is_good(true));
        assert!(!tally("").is_good(false) && !tally(failed).is_good(false));
        let skipped = tally("SKIP: a: no root");
        assert!(skipped.is_good(false) && !skipped.is_good(true));
    }
}
