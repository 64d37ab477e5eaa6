//! `numa-agent jitter`: recordings of scheduling jitter, made, merged, shown and compared.

pub(super) mod compare;
mod merge;
mod record;
mod report;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};

use super::UsageError;
use crate::{
    agent::LineQueue,
    core::jitter::{file, recording::Recording},
    host::files,
    report::escape,
};

/// What to do with recordings.
#[derive(Debug, Subcommand)]
pub enum JitterCommand {
    /// Record what the scheduler does with threads: of a plan, of processes, of a command.
    Record(Box<record::RecordArgs>),
    /// Show a recording, or several together.
    Report(report::ReportArgs),
    /// Compare recordings from before and after binding, with a verdict: exit code 1 if one criterion fails.
    Compare(Box<compare::CompareArgs>),
    /// Put several recordings, of one host or several, into one.
    Merge(merge::MergeArgs),
}

/// Does it.
pub fn run(command: JitterCommand, messages: LineQueue) -> anyhow::Result<()> {
    match command {
        JitterCommand::Record(args) => record::run(*args, messages),
        JitterCommand::Report(args) => report::run(&args),
        JitterCommand::Compare(args) => compare::run(&args),
        JitterCommand::Merge(args) => merge::run(&args),
    }
}

/// A length of time, like `1s`, `500ms` or `2h 30m`; at least a tenth of a second.
pub fn period(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text).map_err(|error| format!("{error}; like 30s, 5m or 2h"))?;
    match period.as_millis() {
        ..100 => Err("too short; at least 100ms".to_owned()),
        31_536_000_001.. => Err("longer than a year".to_owned()),
        _ => Ok(period),
    }
}

/// The most that a recording or a file of tokens holds, in bytes: a device or a core dump must not fill the memory.
const MAX_FILE: u64 = 1 << 30;

/// Reads a file that the user named: one that cannot be read is bad usage.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        // Pipes and devices do not say how long they are.
        let length = File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
        anyhow::ensure!(length as u64 <= MAX_FILE, "larger than {MAX_FILE} bytes");
        Ok(text)
    };
    Ok(read()
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(|error| UsageError(format!("{error:#}")))?)
}

/// Reads recordings, and merges them. None may hold a run that another has.
fn read_recordings(paths: &[PathBuf]) -> anyhow::Result<Recording> {
    let mut all: Option<Recording> = None;
    for path in paths {
        let recording = file::parse(&path.display().to_string(), &read(path)?)
            .map_err(|error| UsageError(error.to_string()))?;
        match &mut all {
            None => all = Some(recording),
            Some(all) => {
                if let Some(run) = all.shared_run(&recording) {
                    let (host, at) = (&run.host.name, &run.started_at);
                    return Err(UsageError(format!(
                        "{}: the run on {host} at {at} is in one of the other files too, and would count twice; give it once",
                        path.display()
                    ))
                    .into());
                }
                all.merge(recording);
            }
        }
    }
    Ok(all.ok_or_else(|| UsageError("no recording given".to_owned()))?)
}

/// Writes a recording: names in it cannot do a terminal any harm.
fn write_recording(path: &Path, recording: &Recording) -> anyhow::Result<()> {
    write(path, &escape::json(&file::print(recording)))
}

/// The format asked for, or that of the file's ending, or the one for standard output.
fn format<F: ValueEnum>(
    asked: Option<F>,
    output: Option<&Path>,
    on_screen: F,
    endings: &str,
) -> anyhow::Result<F> {
    let Some(path) = output.filter(|_| asked.is_none()) else { return Ok(asked.unwrap_or(on_screen)) };
    let ending = path.extension().and_then(|ending| ending.to_str());
    let told = ending.and_then(|ending| F::from_str(ending, false).ok());
    Ok(told.ok_or_else(|| {
        let path = path.display();
        UsageError(format!("{path}: the ending tells no format; end it in {endings}, or give --format"))
    })?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    files::write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes to a file, or to standard output.
fn deliver(output: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match output {
        Some(path) => write(path, text),
        None => super::print(text),
    }
}
