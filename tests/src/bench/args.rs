//! What `cargo xtask bench` takes, and the sections that there are.

use anyhow::Result;
use clap::{Parser, ValueEnum};

use super::{Session, events, hold, memory, reaction, report::Section, scale, storm, time};

/// Measures what the agent costs. Needs root, and a quiet machine; changes nothing that outlives it.
///
/// Exit code: 0 if every bound is held, each by a sample at least that is not noisy, or with --quick; 1 if something could not be
/// measured; 2 bad usage; 3 if a bound is missed; 4 if none is but by noisy samples alone, or some are held by such alone.
#[derive(Debug, Parser)]
#[command(name = "bench", bin_name = "cargo xtask bench")]
pub struct Args {
    /// Only the sections whose name contains one of these: time-pipe, time-messaging, events-pipe, events-messaging, memory, hold,
    /// reaction, storm, scale
    #[arg(value_name = "FILTER", value_parser = a_section)]
    pub filters: Vec<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// One round of small loads: shows that everything works; its figures mean little
    #[arg(long, conflicts_with = "rounds")]
    pub quick: bool,
    /// Without perf, libbpf-tools, bpftrace and TuneD, whether they are installed or not
    #[arg(long)]
    pub alone: bool,
    /// text (Markdown) or json
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables in Markdown.
    Text,
    /// With every sample.
    Json,
}

/// What measures a section.
pub type Measure = fn(&Session) -> Result<Section>;

/// All sections, in the order of reports.
pub const SECTIONS: [(&str, Measure); 9] = [
    ("time-pipe", time::pipe),
    ("time-messaging", time::messaging),
    ("events-pipe", events::pipe),
    ("events-messaging", events::messaging),
    ("memory", memory::section),
    ("hold", hold::section),
    ("reaction", reaction::section),
    ("storm", storm::section),
    ("scale", scale::section),
];

impl Args {
    /// The sections that are asked for.
    pub fn sections(&self) -> impl Iterator<Item = (&'static str, Measure)> {
        let asked =
            |name: &str| self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter));
        SECTIONS.into_iter().filter(move |(name, _)| asked(name))
    }
}

fn a_section(filter: &str) -> Result<String, String> {
    if SECTIONS.iter().any(|(name, _)| name.contains(filter)) {
        return Ok(filter.to_owned());
    }
    Err(format!("there are {}", SECTIONS.map(|(name, _)| name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<&'static str> {
        let args = Args::try_parse_from(words.split(' ').filter(|word| !word.is_empty()));
        args.unwrap_or_else(|error| panic!("{words}: {error}")).sections().map(|(name, _)| name).collect()
    }

    #[test]
    fn filters_choose_sections_and_one_that_chooses_none_is_bad_usage() {
        assert_eq!(names("bench").len(), SECTIONS.len());
        assert_eq!(names("bench pipe hold --quick"), ["time-pipe", "events-pipe", "hold"]);
        let wrong = |words: &[&str]| Args::try_parse_from(words).unwrap_err().exit_code();
        assert_eq!((wrong(&["bench", "nosuch"]), wrong(&["bench", "--rounds", "0"])), (2, 2));
    }

    #[test]
    fn what_the_document_says_to_type_is_understood() {
        const COMMAND: &str = "cargo xtask bench";
        let document = include_str!("../../../docs/performance.md");
        let said: Vec<&str> = document.split('`').filter(|code| code.contains(COMMAND)).collect();
        let shown = said.iter().filter(|code| !code.contains("[FILTER]"));
        let shown = shown
            .filter_map(|code| code.split_once(COMMAND))
            .map(|(_, words)| names(&format!("bench{words}")));
        let mut sections: Vec<&str> = shown.filter(|names| names.len() < SECTIONS.len()).flatten().collect();
        sections.sort_unstable();
        sections.dedup();
        // Each has its figures there, with the command that gives them.
        assert_eq!(sections.len(), SECTIONS.len(), "{sections:?}");
    }
}
