//! What `bench` starts: measures what the agent costs, beside the tools that come nearest to it.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use numa_agent_tests::bench::{
    Session, events,
    figures::exit_code,
    hold, memory, reaction,
    report::{self, Section},
    scale, storm, time,
};

/// Measures what the agent costs. Needs root, and a quiet machine; changes nothing that outlives it.
///
/// Exit code: 0 if every bound is held, each by a sample at least that is not noisy, or with --quick; 1 if something could not be
/// measured; 2 bad usage; 3 if a bound is missed; 4 if none is but by noisy samples alone, or some are held by such alone.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// Only the sections whose name contains this: time-pipe, time-messaging, events-pipe, events-messaging, memory, hold,
    /// reaction, storm, scale
    filter: Option<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: usize,
    /// One round of small loads: shows that everything works; its figures mean little
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// text (Markdown) or json
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

type Measure = fn(&Session) -> Result<Section>;

const SECTIONS: [(&str, Measure); 9] = [
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

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the bench loads kernel programs and needs root: run it with sudo"
    );
    let filter = args.filter.unwrap_or_default();
    let chosen: Vec<_> = SECTIONS.into_iter().filter(|(name, _)| name.contains(&filter)).collect();
    let names = SECTIONS.map(|(name, _)| name).join(", ");
    ensure!(!chosen.is_empty(), "no section is called {filter}: there are {names}");
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let session = Session::new(rounds, args.quick)?;
    let sections = chosen.into_iter().map(|(_, measure)| measure(&session)).collect::<Result<Vec<_>>>()?;
    match args.format {
        Format::Text => print!("{}", report::text(&session.facts, rounds, &sections)),
        Format::Json => println!("{:#}", report::json(&session.facts, rounds, &sections)),
    }
    let bounds = sections.iter().flat_map(|section| &section.bounds);
    // A single round of small loads proves nothing either way.
    Ok(if args.quick { ExitCode::SUCCESS } else { exit_code(bounds).into() })
}
