//! What to show of a test run, line by line: what did not pass, with what it said, and a line for each binary. No I/O.
//!
//! A thousand tests that pass are of no interest, and hide the one that does not.

/// What cargo says of its own work, none of it a warning or an error.
const PROGRESS: [&str; 8] =
    ["Compiling", "Checking", "Downloading", "Downloaded", "Updating", "Locking", "Adding", "Finished"];
/// Lines of one test that are kept in case it fails; the last ones.
const KEPT: usize = 400;

/// Where in a run the last line was.
#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the tests of a binary: cargo builds and names it.
    #[default]
    Between,
    /// Among the tests.
    Tests,
    /// In what the harness tells of tests that failed.
    Failures,
    /// In what it tells of tests that passed.
    Successes,
}

/// Reads a run and picks what is to be shown.
#[derive(Debug, Default)]
pub struct Digest {
    place: Place,
    /// The binary that was named last.
    binary: String,
    /// What the test that runs now, or the one before it, has said.
    said: Vec<String>,
    /// Names in the list of failures, which the harness prints last.
    listed: Vec<String>,
    failed: Vec<String>,
}

impl Digest {
    /// What to show after this line.
    pub fn line(&mut self, line: &str) -> Vec<String> {
        let word = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with("running ") && line.ends_with(['s', 't']) && self.place == Place::Between {
            self.place = Place::Tests;
            return Vec::new();
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            return self.result(result);
        }
        if line.starts_with("     Running ") {
            // The binary before this one may have ended without a result.
            let said = self.end();
            self.place = Place::Between;
            line.trim().trim_start_matches("Running ").clone_into(&mut self.binary);
            self.listed.clear();
            return said;
        }
        match (&self.place, line) {
            (_, _) if line.contains("SKIP:") => vec![line.to_owned()],
            (Place::Tests, _)
                if line.ends_with(" ... ignored") || line.contains("has been running for over") =>
            {
                vec![line.to_owned()]
            }
            (Place::Tests | Place::Failures | Place::Successes, "failures:") => {
                self.place = Place::Failures;
                self.listed.clear();
                self.say(line)
            }
            (Place::Tests | Place::Failures, "successes:") => {
                self.place = Place::Successes;
                Vec::new()
            }
            (Place::Between, _) if line.is_empty() || PROGRESS.contains(&word) => Vec::new(),
            (Place::Between, _) => vec![line.to_owned()],
            (Place::Successes, _) => Vec::new(),
            (Place::Failures, _) => {
                if let Some(name) =
                    line.strip_prefix("    ").filter(|name| !name.contains(char::is_whitespace))
                {
                    self.listed.push(name.to_owned());
                }
                vec![line.to_owned()]
            }
            (Place::Tests, _) => self.among_tests(line),
        }
    }

    /// What to show when there are no more lines: what a test had said that took its whole process down.
    pub fn end(&mut self) -> Vec<String> {
        if self.place == Place::Between { Vec::new() } else { self.said.drain(..).collect() }
    }

    /// The tests that failed, each with its binary.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    fn among_tests(&mut self, line: &str) -> Vec<String> {
        // A bare `ok` ends an uncaptured test, or a program under test said it: what was said is kept until the next one begins.
        if line.starts_with("test ") && line.ends_with("... ok") {
            self.said.clear();
            return Vec::new();
        }
        // What is not captured may lack the end of its last line.
        let failed = line.ends_with("FAILED");
        let crashed = line.starts_with("error: test failed") || line.contains("(signal: ");
        if line.starts_with("test ") && line.contains(" ... ") && !failed {
            // Without the harness's capture, a test's output goes on behind its name.
            self.said.clear();
        }
        if self.said.len() == KEPT {
            self.said.remove(0);
        }
        self.said.push(line.to_owned());
        if failed || crashed { self.said.drain(..).collect() } else { Vec::new() }
    }

    fn say(&self, line: &str) -> Vec<String> {
        vec![format!("{}:", self.binary), line.to_owned()]
    }

    fn result(&mut self, result: &str) -> Vec<String> {
        let binary = std::mem::take(&mut self.binary);
        self.failed.extend(self.listed.drain(..).map(|name| format!("{name} ({binary})")));
        self.said.clear();
        self.place = Place::Between;
        if result.contains(" 0 passed; 0 failed; 0 ignored") {
            Vec::new()
        } else {
            vec![format!("{binary}: {result}")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (Vec<String>, Vec<String>) {
        let mut digest = Digest::default();
        let mut lines: Vec<String> = text.lines().flat_map(|line| digest.line(line)).collect();
        lines.extend(digest.end());
        (lines, digest.failed().to_vec())
    }

    const CAPTURED: &str = "   Compiling numa-agent v0.1.0\nwarning: unused import\n     Running unittests src/lib.rs (target/debug/deps/numa_agent-1)\n\n\
        running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ok\n\n\
        successes:\n\n---- a stdout ----\nSKIP: no root\nlong story\n\nsuccesses:\n    a\n    d\n\n\
        failures:\n\n---- b::c stdout ----\npanicked: 1 != 2\n    word\n\nfailures:\n    b::c\n\n\
        test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";

    #[test]
    fn what_failed_is_shown_with_what_it_said_and_what_passed_is_a_line() {
        let (lines, failed) = shown(CAPTURED);
        let text = lines.join("\n");
        for part in ["warning: unused import", "SKIP: no root", "test b::c ... FAILED", "panicked: 1 != 2"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        for part in ["Compiling", "long story", "test a", "    d"] {
            assert!(!text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(failed, ["b::c (unittests src/lib.rs (target/debug/deps/numa_agent-1))"]);
    }

    #[test]
    fn output_that_is_not_captured_is_that_of_the_test_that_failed() {
        let (lines, failed) = shown(
            "     Running tests/live/main.rs (x)\n\nrunning 2 tests\ntest one ... said by one\nok\ntest two ... said by two\nthread panicked\nFAILED\n\
             test three ... said by three\nok\n\nfailures:\n\nfailures:\n    two\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored\n",
        );
        let text = lines.join("\n");
        assert!(text.contains("said by two\nthread panicked\nFAILED"), "{text}");
        assert!(!text.contains("by one") && !text.contains("by three"), "{text}");
        assert_eq!(failed, ["two (tests/live/main.rs (x))"]);
    }

    #[test]
    fn a_process_that_was_taken_down_leaves_its_last_words() {
        let (lines, _) = shown(
            "     Running tests/live/main.rs (x)\n\nrunning 2 tests\ntest one ... ok\ntest two ... last words\n",
        );
        assert_eq!(lines, ["test two ... last words"]);
        let (lines, _) = shown(
            "running 1 test\ntest two ... last words\nerror: test failed, to rerun pass `-p x`\n\nCaused by:\n  process didn't exit (signal: 6)\n",
        );
        assert!(lines.join("\n").contains("last words\nerror: test failed"), "{lines:?}");
    }

    #[test]
    fn binaries_without_tests_are_not_worth_a_line() {
        let (lines, _) = shown(
            "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\n",
        );
        assert!(lines.is_empty(), "{lines:?}");
    }
}
