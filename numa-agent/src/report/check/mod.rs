//! The acceptance checklist for people and programs, with the evidence behind it.

mod json;
mod markdown;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;

pub use self::{json::json, markdown::markdown, text::text};
use super::{BindReport, HostFacts};
use crate::core::{
    check::{Item, Section, Tally, Verdict},
    jitter::compare::Comparison,
};

/// The checklist, judged, and what else a person wants to see before signing it.
#[derive(Debug, Clone)]
pub struct CheckReport<'a> {
    /// Where and when.
    pub host: HostFacts,
    /// Whose topology was checked, if not this host's: `preset a3`, `captured/sys`.
    pub elsewhere: Option<String>,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// The command line that asked for it.
    pub command: Vec<String>,
    /// The configuration file and its SHA-256, as `sha256sum` prints it.
    pub config: Option<(String, String)>,
    /// The agent that answered, in words.
    pub agent: Option<String>,
    /// The sections that were asked for.
    pub sections: BTreeSet<Section>,
    /// Whether what costs jitter, or is not known, makes a section fail.
    pub strict: bool,
    /// The items of these sections.
    pub items: Vec<Item>,
    /// Plan, processes, threads and memory, where there is a plan.
    pub bind: Option<&'a BindReport>,
    /// The comparison behind section C.
    pub comparison: Option<&'a Comparison<'a>>,
}

impl CheckReport<'_> {
    /// Whether all sections that were asked for pass.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.sections.iter().all(|section| self.section_passes(*section))
    }

    fn tally(&self, section: Section) -> Tally {
        Tally::of(&self.items, section)
    }

    fn section_passes(&self, section: Section) -> bool {
        self.tally(section).passes(self.strict)
    }

    fn items_of(&self, section: Section) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.section() == section)
    }

    /// The items that somebody can do something about, worst first.
    fn open(&self) -> Vec<&Item> {
        let is_open = |item: &&Item| match item.verdict {
            Verdict::Pass => false,
            Verdict::Skipped => !item.fixes.is_empty(),
            Verdict::Warn | Verdict::Fail => true,
        };
        let mut open: Vec<&Item> = self.items.iter().filter(is_open).collect();
        open.sort_by_key(|item| std::cmp::Reverse(item.verdict));
        open
    }
}

/// `PASS` or `FAIL`.
fn word(passed: bool) -> &'static str {
    if passed { "PASS" } else { "FAIL" }
}

/// The verdict of one item.
fn mark(verdict: Verdict) -> String {
    match verdict {
        Verdict::Fail => "FAIL".to_owned(),
        other => other.to_string(),
    }
}
