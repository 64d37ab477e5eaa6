//! The acceptance checklist: facts in, judged items out. Reading the facts is `host::surroundings`' part, words about what to
//! mend are `core::remedy`'s.
//!
//! Item ids are a contract: reports that people have signed name them. New ones come behind the others.

pub mod agent;
pub mod facts;
pub mod placement;
pub mod preconditions;
pub mod runs;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use super::{choice::words, remedy::Finding};

/// The most lines that an item holds; a report's tables have all.
const MOST_LINES: usize = 40;

/// A section of the checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Topology and preconditions.
    A,
    /// The plan, and whether everything is where it says.
    B,
    /// The same work before and after.
    C,
}

words!(Section: "A" A, "B" B, "C" C);

impl Section {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    /// What it is about.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::A => "Topology and preconditions",
            Self::B => "Plan and placement",
            Self::C => "Before and after",
        }
    }
}

/// How an item came out. Prints as the `verdict` of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As asked.
    Pass,
    /// Nobody knows; what was found says why.
    Skipped,
    /// The plan holds, but it may cost jitter.
    Warn,
    /// Not as asked.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One point of the checklist, judged. Names in it are not escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `A1`.
    pub id: &'static str,
    /// What is asked, as a statement that should be true.
    pub asked: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found: values, paths, pids.
    pub found: Vec<String>,
    /// Commands that mend it, each once; what follows a `#` is a remark.
    pub fixes: Vec<String>,
}

/// What judges an item: its id, and what is asked.
#[derive(Debug, Clone, Copy)]
struct Point(&'static str, &'static str);

impl Point {
    /// As asked, and by what one can tell.
    fn pass(self, found: impl Into<String>) -> Item {
        self.item(Verdict::Pass, vec![found.into()], Vec::new())
    }

    /// Nobody knows, why, and how to get to know.
    fn skipped(self, why: impl Into<String>, fix: impl Into<String>) -> Item {
        let fix = fix.into();
        let fixes = if fix.is_empty() { Vec::new() } else { vec![fix] };
        self.item(Verdict::Skipped, vec![why.into()], fixes)
    }

    fn fail(self, Finding { found, fix, .. }: Finding) -> Item {
        self.item(Verdict::Fail, vec![found], vec![fix])
    }

    /// The worst of what was found; where nothing was, a pass by what `good` says.
    fn judge(self, good: impl FnOnce() -> String, findings: Vec<(Verdict, Finding)>) -> Item {
        let Some(verdict) = findings.iter().map(|(verdict, _)| *verdict).max() else {
            return self.pass(good());
        };
        let (found, fixes) = findings.into_iter().map(|(_, finding)| (finding.found, finding.fix)).unzip();
        self.item(verdict, found, fixes)
    }

    fn item(self, verdict: Verdict, mut found: Vec<String>, all_fixes: Vec<String>) -> Item {
        let more = found.len().saturating_sub(MOST_LINES);
        if more > 0 {
            found.truncate(MOST_LINES);
            found.push(format!("and {more} more"));
        }
        let mut fixes: Vec<String> = Vec::new();
        for fix in all_fixes {
            if !fixes.contains(&fix) && fixes.len() < MOST_LINES {
                fixes.push(fix);
            }
        }
        Item { id: self.0, asked: self.1, verdict, found, fixes }
    }
}

impl Item {
    /// The section it is in.
    #[must_use]
    pub fn section(&self) -> Section {
        match self.id.as_bytes().first() {
            Some(b'A') => Section::A,
            Some(b'B') => Section::B,
            _ => Section::C,
        }
    }
}

/// A section's items together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// As asked.
    pub passed: usize,
    /// Nobody knows.
    pub skipped: usize,
    /// May cost jitter.
    pub warned: usize,
    /// Not as asked.
    pub failed: usize,
}

impl Tally {
    /// Those of `section`.
    #[must_use]
    pub fn of(items: &[Item], section: Section) -> Self {
        let mut tally = Self::default();
        for item in items.iter().filter(|item| item.section() == section) {
            *match item.verdict {
                Verdict::Pass => &mut tally.passed,
                Verdict::Skipped => &mut tally.skipped,
                Verdict::Warn => &mut tally.warned,
                Verdict::Fail => &mut tally.failed,
            } += 1;
        }
        tally
    }

    /// Whether the section passes. `strict`: only if nothing costs jitter, and everything is known. Nothing looked at is nothing proven.
    #[must_use]
    pub fn passes(&self, strict: bool) -> bool {
        let lenient = self.failed == 0 && self.passed + self.warned > 0;
        lenient && !(strict && self.warned + self.skipped > 0)
    }
}

impl fmt::Display for Tally {
    /// `12 pass, 1 warn`: what there is, failures first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.failed, Verdict::Fail),
            (self.warned, Verdict::Warn),
            (self.passed, Verdict::Pass),
            (self.skipped, Verdict::Skipped),
        ];
        let some: Vec<String> = all
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        f.write_str(if some.is_empty() { "nothing" } else { "" })?;
        f.write_str(&some.join(", "))
    }
}
