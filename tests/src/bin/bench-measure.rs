//! What `bench` starts: measures what the agent costs, beside the tools that come nearest to it.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use numa_agent_tests::bench::{
    Session,
    args::{Args, Format},
    report::{self, Section},
};

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the bench loads kernel programs and needs root: run it with sudo"
    );
    let rounds = if args.quick { 1 } else { args.rounds as usize };
    let session = Session::new(rounds, args.quick, args.alone)?;
    let measured = args.sections().map(|(name, measure)| {
        // What the others found is not lost.
        measure(&session).unwrap_or_else(|error| Section::failed(name, &error))
    });
    let sections: Vec<Section> = measured.collect();
    match args.format {
        Format::Text => print!("{}", report::text(&session.facts, rounds, &sections)),
        Format::Json => println!("{:#}", report::json(&session.facts, rounds, &sections)),
    }
    Ok(report::exit_code(&sections, args.quick).into())
}
