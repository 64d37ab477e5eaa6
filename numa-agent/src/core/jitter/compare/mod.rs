//! Two recordings of the same work, before (base) and after (bound): whether they can be compared, and a verdict for each
//! criterion. Words about it are `report::jitter::compare`'s.

mod comparable;

use numa_ebpf::histogram;

pub use comparable::reasons;

use super::{
    distribution::end_ns,
    recording::{Recording, Run},
    rollup::{Critical, Rollup},
    tokens::{Fluctuation, Gaps, Source, Tokens},
};
use crate::core::choice::words;

/// One of the two.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The recording's file, as the user named it.
    pub file: &'a str,
    /// What was recorded.
    pub recording: &'a Recording,
    /// Token times of the same stretch of time, from files or from tapped sockets.
    pub tokens: Option<&'a Tokens>,
}

/// What is asked of the bound side, and of both to be comparable.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Which fluctuation decides.
    pub fluctuation: Fluctuation,
    /// Token-to-token fluctuation may be that much, in nanoseconds.
    pub max_fluctuation_ns: u64,
    /// The end of the bucket that the run-queue wait is in may be that much longer than the base's, as a share of it.
    pub wait_tolerance: f64,
    /// The run-queue wait may be no longer, whatever the base's is.
    pub max_wait_ns: Option<u64>,
    /// Share of the CPU time that may be off node.
    pub max_off_node: f64,
    /// Criteria that fail if they were not measured.
    pub required: Vec<Name>,
    /// The shortest recording of a host that says anything, in seconds.
    pub min_seconds: f64,
    /// One side's recording of a host may be that many times as long as the other's.
    pub max_length_ratio: f64,
    /// One side's work (threads, CPU time, requests, tokens) may be that many times the other's.
    pub max_work_ratio: f64,
    /// Share of the requests that may have failed, on either side.
    pub max_failed: f64,
    /// The fewest token times of a file that say anything.
    pub min_gaps: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fluctuation: Fluctuation::default(),
            max_fluctuation_ns: 1_000_000,
            wait_tolerance: 0.1,
            max_wait_ns: None,
            max_off_node: 0.01,
            required: Vec::new(),
            min_seconds: 10.0,
            max_length_ratio: 4.0,
            max_work_ratio: 2.0,
            max_failed: 0.05,
            min_gaps: 1000,
        }
    }
}

/// A criterion's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Token-to-token fluctuation of bound.
    Fluctuation,
    /// Run-queue wait, 99.9th percentile: bound's is no longer than base's.
    Wait,
    /// The same: no longer than asked.
    WaitLimit,
    /// Share of the CPU time of bound that was off node.
    OffNode,
    /// Moves between nodes: bound has no more than base.
    NodeMoves,
    /// Moves between CPUs: bound has no more than base.
    Moves,
}

words!(
    Name: "fluctuation" Fluctuation, "wait" Wait, "wait-limit" WaitLimit, "off-node" OffNode, "node-moves" NodeMoves,
    "moves" Moves
);

/// A figure or limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Nanoseconds.
    Time(u64),
    /// 0 to 1.
    Share(f64),
    /// Moves a second, of a thread on average.
    Rate(f64),
}

/// What became of a criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Measured and met.
    Pass,
    /// Measured and not met.
    Fail,
    /// Nobody knows.
    NotMeasured,
}

/// A criterion, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Criterion {
    /// Which.
    pub name: Name,
    /// How it came out.
    pub verdict: Verdict,
    /// Whether it fails the comparison if it was not measured.
    pub required: bool,
    /// Base's figure, where measured.
    pub base: Option<Amount>,
    /// Bound's figure, where measured.
    pub bound: Option<Amount>,
    /// What bound may be at most, where that is known.
    pub limit: Option<Amount>,
    /// Why it was not measured, or what else one must know; empty for nothing.
    pub why: String,
}

impl Criterion {
    /// Whether it makes the comparison fail.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.verdict == Verdict::Fail || self.required && self.verdict == Verdict::NotMeasured
    }
}

/// All that a comparison says.
#[derive(Debug, Clone)]
pub struct Comparison<'a> {
    /// What was asked.
    pub limits: Limits,
    /// Base and bound.
    pub sides: [Side<'a>; 2],
    /// The threads that are compared.
    pub critical: Critical,
    /// Their figures, base's and bound's.
    pub rollups: [Rollup; 2],
    /// Why the two cannot be compared; empty if they can. What is said of them all the same proves nothing.
    pub reasons: Vec<String>,
    /// What the reader should know. Names in it are not escaped.
    pub notes: Vec<String>,
    /// The criteria.
    pub criteria: Vec<Criterion>,
}

impl Comparison<'_> {
    /// Whether what was measured, and all that is required, came out well. Nothing measured is nothing proven.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.criteria.iter().any(Criterion::fails) && self.count(Verdict::Pass) > 0
    }

    /// Whether there are reasons not to compare, so that nothing is proven.
    #[must_use]
    pub fn forced(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// How many criteria came out like this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.criteria.iter().filter(|criterion| criterion.verdict == verdict).count()
    }
}

/// Compares, whether or not that makes sense: [`Comparison::reasons`] says.
#[must_use]
pub fn compare<'a>(base: Side<'a>, bound: Side<'a>, limits: Limits) -> Comparison<'a> {
    let sides = [base, bound];
    // Where they differ, a reason not to compare says so; the wider of the two is in both.
    let critical = Critical::of(base.recording).max(Critical::of(bound.recording));
    let rollups = sides.map(|side| critical.rollup(side.recording));
    let names = [Name::Fluctuation, Name::Wait, Name::WaitLimit, Name::OffNode, Name::NodeMoves, Name::Moves];
    let judge = Judge { sides: &sides, rollups: &rollups, limits: &limits, critical };
    let criteria = names.into_iter().filter_map(|name| judge.criterion(name)).collect();
    let reasons = reasons(&sides, &rollups, &limits);
    let notes = comparable::notes(&sides);
    Comparison { limits, sides, critical, rollups, reasons, notes, criteria }
}

struct Judge<'a> {
    sides: &'a [Side<'a>; 2],
    rollups: &'a [Rollup; 2],
    limits: &'a Limits,
    critical: Critical,
}

/// What bound is held to, and whether it passes; or why there is no verdict.
type Judged = Result<(Amount, bool), String>;

impl Judge<'_> {
    /// `None`: it was not asked for.
    fn criterion(&self, name: Name) -> Option<Criterion> {
        let [base, bound] = [0, 1].map(|side| self.figure(name, side));
        let required = self.limits.required.contains(&name);
        let blank = Criterion {
            name,
            verdict: Verdict::NotMeasured,
            required,
            base: base.clone().ok(),
            bound: bound.clone().ok(),
            limit: None,
            why: String::new(),
        };
        let judged: Judged = match (name, base, bound) {
            (Name::WaitLimit, ..) if self.limits.max_wait_ns.is_none() => return None,
            (_, _, Err(why)) => Err(format!("bound: {why}")),
            (Name::Wait | Name::NodeMoves | Name::Moves, Err(why), _) => Err(format!("base: {why}")),
            (Name::Fluctuation, _, Ok(bound)) => {
                Ok(at_most(bound, Amount::Time(self.limits.max_fluctuation_ns)))
            }
            (Name::OffNode, _, Ok(bound)) => Ok(at_most(bound, Amount::Share(self.limits.max_off_node))),
            (Name::WaitLimit, _, Ok(bound)) => {
                Ok(at_most(bound, Amount::Time(self.limits.max_wait_ns.unwrap_or(u64::MAX))))
            }
            (Name::Wait, Ok(_), Ok(_)) => self.wait(),
            (Name::NodeMoves | Name::Moves, Ok(base), Ok(bound)) => Ok(self.moves(name, base, bound)),
        };
        Some(match judged {
            Err(why) => Criterion { why, ..blank },
            Ok((limit, pass)) => {
                let verdict = if pass { Verdict::Pass } else { Verdict::Fail };
                Criterion { verdict, limit: Some(limit), why: self.remark(name, limit), ..blank }
            }
        })
    }

    /// A side's figure, or why there is none.
    fn figure(&self, name: Name, side: usize) -> Result<Amount, String> {
        let rollup = &self.rollups[side];
        match name {
            Name::Fluctuation => {
                let Some(tokens) = self.sides[side].tokens else {
                    return Err("no token times: give both token files, or record with --tap".to_owned());
                };
                let few = tokens.source == Source::Tap && tokens.gaps.count() < self.limits.min_gaps;
                if few {
                    let (count, least) = (tokens.gaps.count(), self.limits.min_gaps);
                    return Err(format!(
                        "{count} gaps between sends on the tapped sockets are too few, {least} are needed"
                    ));
                }
                let fluctuation = self.limits.fluctuation.of(&tokens.gaps);
                fluctuation.map(Amount::Time).ok_or_else(|| "no token times".to_owned())
            }
            _ if rollup.threads == 0 => Err(format!("there are no {}", self.critical)),
            Name::Wait | Name::WaitLimit => {
                // Who is not seen being woken does not wait.
                let blind = |program: &&&str| {
                    self.sides[side].recording.runs.iter().any(|run: &Run| run.lacks(program))
                };
                if let Some(program) = WAIT_PROGRAMS.iter().find(blind) {
                    return Err(format!("not all waits were seen: the kernel program {program} is missing"));
                }
                let wait = rollup.figures.wait();
                // A limit is held against the longest that the wait may have been.
                let of = if name == Name::Wait { wait.quantile_ns(P999) } else { wait.quantile_end_ns(P999) };
                match of {
                    Some(ns) => Ok(Amount::Time(ns)),
                    None if rollup.figures.run_ns == 0 => Err(format!("the {} did not run", self.critical)),
                    // They ran, and never had to wait.
                    None => Ok(Amount::Time(0)),
                }
            }
            Name::OffNode => match (rollup.off_node_share(), rollup.off_node_known()) {
                (Some(_), known) if known < LEAST_KNOWN => {
                    Err(format!("time off node is known of {} of their CPU time only", percent(known)))
                }
                (Some(share), _) => Ok(Amount::Share(share)),
                (None, _) if rollup.figures.off_node.is_some() => {
                    Err(format!("the {} did not run", self.critical))
                }
                (None, _) => Err("time off node was not recorded".to_owned()),
            },
            Name::NodeMoves | Name::Moves => {
                let Some(moves) = &rollup.figures.migrations else {
                    return Err("moves were not counted".to_owned());
                };
                let count = if name == Name::Moves { moves.total() } else { moves.between_nodes() };
                let rate = rollup.moves_per_second(count);
                rate.map(Amount::Rate)
                    .ok_or_else(|| format!("the {} were followed for no time", self.critical))
            }
        }
    }

    /// Not longer than base. Percentiles are known to a bucket: both are taken to be at its end, so that what is in base's
    /// bucket passes, and what is beyond it only by the tolerance.
    fn wait(&self) -> Judged {
        let [base, bound] = self.rollups.each_ref().map(|rollup| rollup.figures.wait());
        let bucket = base.quantile_bucket(P999);
        if bucket.is_some_and(|bucket| usize::from(bucket) + 1 >= histogram::BUCKETS) {
            return Err("base: its waits are longer than histograms tell apart".to_owned());
        }
        let end_ns = bucket.map_or(0, end_ns);
        let limit_ns = (end_ns as f64 * (1.0 + self.limits.wait_tolerance)) as u64;
        Ok((Amount::Time(limit_ns), bound.quantile_end_ns(P999).is_none_or(|ns| ns <= limit_ns)))
    }

    /// No more than base; but binding itself, by a change of the mask, may move each thread once.
    fn moves(&self, name: Name, base: Amount, bound: Amount) -> (Amount, bool) {
        let threads = self.sides[1].recording.threads.iter().filter(|thread| self.critical.has(thread));
        let binding = threads.filter_map(|thread| thread.figures.migrations.as_ref());
        let binding = binding.map(|moves| moves.by_binding(name == Name::NodeMoves)).sum();
        let binding = self.rollups[1].moves_per_second(binding).unwrap_or(0.0);
        at_most(bound, Amount::Rate(base.value().max(binding)))
    }

    /// Whether no host has a node to be off or to move to.
    fn one_node(&self) -> bool {
        let with_cpus = |run: &Run| run.host.nodes.values().filter(|cpus| !cpus.is_empty()).count();
        self.sides.iter().flat_map(|side| &side.recording.runs).all(|run| with_cpus(run) < 2)
    }

    /// What one must know about a criterion that was measured.
    fn remark(&self, name: Name, limit: Amount) -> String {
        let [base, bound] = self.rollups.each_ref().map(|rollup| rollup.figures.wait().count);
        match name {
            Name::Wait | Name::WaitLimit if bound == 0 => "they never waited".to_owned(),
            Name::Wait if base == 0 => "base never waited".to_owned(),
            Name::Wait if base.min(bound) < 1000 => {
                format!("of {base} and {bound} waits: below 1000, the 99.9th percentile is the longest")
            }
            Name::WaitLimit if bound < 1000 => {
                format!("of {bound} waits: below 1000, the 99.9th percentile is the longest")
            }
            Name::OffNode | Name::NodeMoves if self.one_node() => "one node: says nothing here".to_owned(),
            Name::OffNode => {
                let known = self.rollups.each_ref().map(Rollup::off_node_known);
                let partly =
                    [("base", known[0]), ("bound", known[1])].into_iter().filter(|(_, known)| *known < 1.0);
                let partly: Vec<String> = partly
                    .map(|(side, known)| format!("known of {} of {side}'s CPU time", percent(known)))
                    .collect();
                partly.join(", ")
            }
            Name::Fluctuation if self.sides[0].tokens.is_none() => "base has no token times".to_owned(),
            Name::NodeMoves | Name::Moves
                if limit.value() > self.figure(name, 0).map_or(0.0, Amount::value) =>
            {
                "binding may move each thread once".to_owned()
            }
            _ => String::new(),
        }
    }
}

impl Amount {
    /// The bare number.
    #[must_use]
    pub fn value(self) -> f64 {
        match self {
            // Exact up to 104 days.
            Self::Time(ns) => ns as f64,
            Self::Share(value) | Self::Rate(value) => value,
        }
    }
}

fn at_most(bound: Amount, limit: Amount) -> (Amount, bool) {
    (limit, bound.value() <= limit.value())
}

/// The percentile of waits that is judged.
const P999: f64 = 0.999;
/// Programs without which waits are missed.
const WAIT_PROGRAMS: [&str; 3] = ["switch", "wakeup", "wakeup_new"];
/// The least share of the CPU time of which time off node must be known.
const LEAST_KNOWN: f64 = 0.9;

/// A share, rounded down: 100 % is all.
fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

/// Gaps that tokens which came together have between them are shorter than this, in nanoseconds.
const TOGETHER_NS: u64 = 100_000;

/// The share of gaps that are next to nothing: tokens that came together.
fn together(gaps: &Gaps) -> f64 {
    gaps.shorter_than(TOGETHER_NS) as f64 / gaps.count().max(1) as f64
}

#[cfg(test)]
mod tests;
