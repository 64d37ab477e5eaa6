//! What observation costs: `cargo xtask bench`, and every figure in `docs/performance.md`.
//!
//! Everything that is compared is measured side by side: in each round every observer has its turn, in an order that
//! rotates, so that a machine that gets faster or slower in the course of time does so for all. A measurement during which the
//! machine was not quiet is repeated, and flagged if that did not help.

pub mod empty;
pub mod events;
pub mod fdinfo;
pub mod figures;
pub mod load;
pub mod machine;
pub mod memory;
pub mod observer;
pub mod report;
pub mod time;

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;

use self::{
    empty::{Empty, Hooks},
    fdinfo::Program,
    load::{Load, Took, Waiting},
    machine::{Facts, Noise, Stretch},
    observer::{Observer, missing_program},
};
use crate::sys;

/// How often a measurement is repeated because the machine was not quiet.
const TRIES: u32 = 3;

/// What all measurements have in common.
#[derive(Debug)]
pub struct Session {
    /// The machine.
    pub facts: Facts,
    /// Rounds.
    pub rounds: usize,
    /// Small loads, nothing repeated: shows that it works, and no more.
    pub quick: bool,
    hooks: Hooks,
    dir: TempDir,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// What the load took.
    #[serde(flatten)]
    pub took: Took,
    /// CPU time of the observer's own process meanwhile.
    pub observer_cpu_ns: u64,
    /// How quiet the machine was.
    #[serde(flatten)]
    pub noise: Noise,
    /// Runs of the observer's programs meanwhile; none unless statistics were asked for.
    pub programs: Vec<Program>,
    /// Runs of the empty programs beside them.
    pub empty: Vec<Program>,
}

/// What came of an observer with a load.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The load.
    pub load: &'static str,
    /// The observer.
    pub observer: Observer,
    /// Its measurements.
    pub samples: Vec<Sample>,
    /// Why there are none, or no more.
    pub not_measured: Option<String>,
}

impl Series {
    /// One figure of the quiet samples; of all if none was quiet.
    #[must_use]
    pub fn each(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let quiet = |sample: &&Sample| sample.noise.is_quiet();
        let any_quiet = self.samples.iter().any(|sample| quiet(&sample));
        self.samples.iter().filter(|sample| !any_quiet || quiet(sample)).map(figure).collect()
    }

    /// How many samples there are, and how many were not quiet.
    #[must_use]
    pub fn count(&self) -> String {
        let noisy = self.samples.iter().filter(|sample| !sample.noise.is_quiet()).count();
        if noisy == 0 {
            return self.samples.len().to_string();
        }
        format!("{} ({noisy} noisy)", self.samples.len())
    }
}

impl Session {
    /// Prepares.
    ///
    /// # Errors
    /// If this machine cannot run BPF programs.
    pub fn new(rounds: usize, quick: bool) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        Ok(Self { facts: Facts::gather()?, rounds, quick, hooks: Hooks::find()?, dir })
    }

    /// The loads that are measured with every observer, or why one cannot be.
    ///
    /// # Errors
    /// If our own CPU mask cannot be read.
    pub fn loads(&self) -> Result<Vec<(Load, Option<String>)>> {
        // The last CPU: interrupts tend to go to the first.
        let cpu = sys::affinity(0)?.last().context("a CPU")?;
        let (rounds, loops) = if self.quick { (20_000, 50) } else { (200_000, 1000) };
        Ok(vec![
            (Load::Pipe { cpu, rounds }, None),
            (Load::Messaging { groups: 4, loops }, missing_program("perf", "linux-perf")),
        ])
    }

    /// Measures every observer with every load, in rounds.
    ///
    /// # Errors
    /// If a load fails; an observer that does is left out from then on, and that is said.
    pub fn compare(&self, observers: &[Observer], statistics: bool) -> Result<Vec<Series>> {
        let loads = self.loads()?;
        let mut all: Vec<(Load, Series)> = Vec::new();
        for (load, missing) in &loads {
            all.extend(observers.iter().map(|observer| {
                let not_measured = missing.clone().or_else(|| observer.missing());
                let series =
                    Series { load: load.name(), observer: *observer, samples: Vec::new(), not_measured };
                (*load, series)
            }));
        }
        let count = all.len();
        for round in 0..self.rounds {
            for turn in 0..count {
                let (load, series) = &mut all[(round + turn) % count];
                if series.not_measured.is_some() {
                    continue;
                }
                progress(&format!("round {} of {}: {}", round + 1, self.rounds, series.observer.title()));
                match self.measure(series.observer, *load, statistics) {
                    Ok(sample) => series.samples.push(sample),
                    Err(error) => series.not_measured = Some(format!("not measured: {error:#}")),
                }
            }
        }
        progress("");
        Ok(all.into_iter().map(|(_, series)| series).collect())
    }

    fn measure(&self, observer: Observer, load: Load, statistics: bool) -> Result<Sample> {
        let mut tries = if self.quick { 1 } else { TRIES };
        loop {
            let sample = self.measure_once(observer, load, statistics)?;
            tries -= 1;
            if sample.noise.is_quiet() || tries == 0 {
                return Ok(sample);
            }
        }
    }

    fn measure_once(&self, observer: Observer, load: Load, statistics: bool) -> Result<Sample> {
        let waiting = Waiting::start(load)?;
        let running = observer.start(waiting.pid(), self.dir.path(), self.hooks)?;
        let empty = statistics.then(|| Empty::attach(self.hooks)).transpose()?;
        let _statistics = statistics
            .then(|| aya::sys::enable_stats(aya::sys::Stats::RunTime))
            .transpose()
            .context("cannot switch on the kernel's BPF run statistics")?;
        let runs = || -> Result<_> {
            let own = running.pid().filter(|_| statistics).map(fdinfo::programs).transpose()?;
            let empty = empty.as_ref().map(Empty::runs).transpose()?;
            Ok((own.unwrap_or_default(), empty.unwrap_or_default(), running.cpu_ns()?))
        };
        let (own_before, empty_before, cpu_before) = runs()?;
        let stretch = Stretch::begin()?;
        let took = waiting.run()?;
        let (own_after, empty_after, cpu_after) = runs()?;
        let observer_cpu_ns = cpu_after - cpu_before;
        let noise = stretch.end(took.cpu_ns + observer_cpu_ns)?;
        running.stop()?;
        Ok(Sample {
            took,
            observer_cpu_ns,
            noise,
            programs: fdinfo::ran(&own_before, &own_after),
            empty: fdinfo::ran(&empty_before, &empty_after),
        })
    }
}

/// On a terminal, in place of the line before.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r{line:<80}\r");
    }
}
