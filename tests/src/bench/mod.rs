//! What observation costs: `cargo xtask bench`, and every figure in `docs/performance.md`.
//!
//! Everything that is compared is measured side by side: in each round every observer has its turn, in an order that
//! rotates, so that a machine that gets faster or slower in the course of time does so for all. A measurement during which the
//! machine was not quiet is repeated, and flagged if that did not help.

pub mod args;
pub mod connector;
pub mod empty;
pub mod events;
pub mod fdinfo;
pub mod figures;
pub mod gap;
pub mod halves;
pub mod hold;
pub mod keeper;
pub mod load;
pub mod machine;
pub mod memory;
pub mod observer;
pub mod peer;
pub mod reaction;
pub mod report;
pub mod scale;
pub mod scratch;
pub mod storm;
pub mod target;
pub mod time;

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use numa_agent::core::jitter::recording::Recording;
use serde::Serialize;
use tempfile::TempDir;

use self::{
    empty::{Empty, Hooks},
    fdinfo::Program,
    figures::{best, median, samples},
    gap::{Gap, PERF, Tool},
    load::{Load, Took, Waiting},
    machine::{Facts, Noise, Stretch},
    observer::Observer,
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
    alone: bool,
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
    pub not_measured: Option<Gap>,
}

impl Series {
    /// The smallest of one figure: noise only ever adds to it, and so all samples count.
    #[must_use]
    pub fn best(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        best(&self.samples.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    /// The median of one figure of the quiet samples; of all if none was quiet.
    #[must_use]
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.each(figure)).unwrap_or(f64::NAN)
    }

    /// Those that should have been measured, and why they were not.
    #[must_use]
    pub fn failures(all: &[Self]) -> Vec<String> {
        let of = |series: &Self| series.not_measured.as_ref()?.failure(series.observer.title());
        all.iter().filter_map(of).collect()
    }

    fn each(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let quiet = |sample: &&Sample| sample.noise.is_quiet();
        let any_quiet = self.samples.iter().any(|sample| quiet(&sample));
        self.samples.iter().filter(|sample| !any_quiet || quiet(sample)).map(figure).collect()
    }

    /// How many samples there are, and how many were not quiet.
    #[must_use]
    pub fn count(&self) -> String {
        samples(self.samples.len(), self.noisy())
    }

    /// Whether no sample was quiet.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.noisy() == self.samples.len()
    }

    fn noisy(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.noise.is_quiet()).count()
    }
}

impl Session {
    /// Prepares.
    ///
    /// # Errors
    /// If this machine cannot run BPF programs.
    pub fn new(rounds: usize, quick: bool, alone: bool) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
        Ok(Self { facts: Facts::gather()?, rounds, quick, alone, hooks: Hooks::find()?, dir })
    }

    /// Why what takes `tool` is not measured; `None` if it is.
    #[must_use]
    pub fn without(&self, tool: Option<Tool>) -> Option<Gap> {
        if self.alone { tool.map(|_| Gap::Missing("left out".to_owned())) } else { Gap::without(tool?) }
    }

    /// Two processes that pass a byte to and fro, on the last CPU: interrupts tend to go to the first.
    ///
    /// # Errors
    /// If our own CPU mask cannot be read.
    pub fn pipe(&self) -> Result<Load> {
        let cpu = sys::affinity(0)?.last().context("a CPU")?;
        Ok(Load::Pipe { cpu, rounds: if self.quick { 20_000 } else { 100_000 } })
    }

    /// Groups of processes that send each other messages.
    #[must_use]
    pub fn messaging(&self) -> Load {
        Load::Messaging { groups: 4, loops: if self.quick { 50 } else { 500 } }
    }

    /// Measures every observer with a load, in rounds. One that fails is left out from then on, and that is said.
    #[must_use]
    pub fn compare(&self, observers: &[Observer], load: Load, statistics: bool) -> Vec<Series> {
        let missing = self.without(matches!(load, Load::Messaging { .. }).then_some(PERF));
        let series = |observer: &Observer| Series {
            load: load.name(),
            observer: *observer,
            samples: Vec::new(),
            not_measured: missing.clone().or_else(|| self.without(observer.tool())),
        };
        let mut all: Vec<Series> = observers.iter().map(series).collect();
        let count = all.len();
        for round in 0..self.rounds {
            for turn in 0..count {
                let series = &mut all[(round + turn) % count];
                if series.not_measured.is_some() {
                    continue;
                }
                let title = series.observer.title();
                progress(&format!("{}, round {} of {}: {title}", load.name(), round + 1, self.rounds));
                match self.measure(series.observer, load, statistics) {
                    Ok(sample) => series.samples.push(sample),
                    Err(error) => series.not_measured = Some(Gap::failed(&error)),
                }
            }
        }
        progress("");
        all
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
        let took = waiting.run()?.took;
        let (own_after, empty_after, cpu_after) = runs()?;
        let observer_cpu_ns = cpu_after - cpu_before;
        let noise = stretch.end(took.cpu_ns + observer_cpu_ns)?;
        let left = running.stop()?;
        let programs = fdinfo::ran(&own_before, &own_after);
        if let (Observer::Managed, true, Some(recording)) = (observer, statistics, left) {
            let switches = events::switches(&programs);
            let recorded = recorded_runs(&recording)?;
            // A load that was not managed after all would make us look cheap.
            ensure!(
                recorded * 2 >= switches,
                "the load was not managed: {recorded} runs in {switches} switches"
            );
        }
        Ok(Sample { took, observer_cpu_ns, noise, programs, empty: fdinfo::ran(&empty_before, &empty_after) })
    }
}

/// How many runs of threads there are in a recording.
fn recorded_runs(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let recording: Recording =
        serde_json::from_str(&text).with_context(|| format!("no recording in {}", path.display()))?;
    Ok(recording.threads.iter().map(|thread| thread.figures.slice.count).sum())
}

/// On a terminal, in place of the line before.
fn progress(line: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r{line:<80}\r");
    }
}
