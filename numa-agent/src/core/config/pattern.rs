//! Regular expressions from the user, and what can be said of them before anything runs.

use regex::Regex;

use super::{ConfigError, Origin};

/// A task's name without its NUL: `TASK_COMM_LEN` - 1 (`include/linux/sched.h`, 5.10 to 6.18).
const COMM_BYTES: usize = 15;

/// A compiled pattern and where it was given.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Compiled.
    pub regex: Regex,
    /// Where it was given.
    pub origin: Origin,
}

/// The text a pattern is searched in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// "comm cmdline".
    Process,
    /// A name alone.
    Comm,
    /// A command line alone, which is empty where a process cleared it.
    Cmdline,
}

impl Pattern {
    /// Compiles `text`. The empty pattern, which matches everything, is refused.
    pub fn new(origin: Origin, text: &str) -> Result<Self, ConfigError> {
        if text.is_empty() {
            let hint = "write a regular expression, or remove it".into();
            return Err(origin.wrong("the pattern is empty and would match everything".into(), hint));
        }
        match Regex::new(text) {
            Ok(regex) => Ok(Self { regex, origin }),
            Err(error) => Err(ConfigError::Regex { at: origin, error: error.to_string() }),
        }
    }

    /// Refuses a pattern that would put every process of the host under the plan.
    pub fn for_processes(self) -> Result<Self, ConfigError> {
        if self.matches_everything(Subject::Process) {
            let problem = format!("{:?} matches every process of the host", self.regex.as_str());
            return Err(self.origin.wrong(problem, "name the program, as in \"scheduler|worker\"".into()));
        }
        Ok(self)
    }

    /// Whether it matches texts that have nothing in common but that they are such texts.
    pub fn matches_everything(&self, subject: Subject) -> bool {
        let texts = match subject {
            Subject::Process => ["a ", "Z Z", "0 0"],
            Subject::Comm => ["a", "Z", "0"],
            Subject::Cmdline => ["", "Z", "0"],
        };
        texts.iter().all(|text| self.regex.is_match(text))
    }

    /// Whether no task's name can match it: its shortest match is too long for one, or there is none at all.
    pub fn never_fits_comm(&self) -> bool {
        self.shortest_match().is_none_or(|bytes| bytes > COMM_BYTES)
    }

    /// In words, for a pattern that never fits.
    pub fn why_never(&self) -> String {
        let pattern = self.regex.as_str();
        match self.shortest_match() {
            None => format!("{pattern:?} can never match: no text fits it"),
            Some(bytes) => format!(
                "{pattern:?} can never match: it takes at least {bytes} bytes, and the kernel keeps {COMM_BYTES} of a name"
            ),
        }
    }

    fn shortest_match(&self) -> Option<usize> {
        // `Regex` has compiled it, so this cannot fail; if it did, nothing would be claimed of the pattern.
        regex_syntax::parse(self.regex.as_str()).map_or(Some(0), |hir| hir.properties().minimum_len())
    }
}
