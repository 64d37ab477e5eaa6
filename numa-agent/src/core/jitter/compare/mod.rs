//! Two recordings of the same work, before (base) and after (bound): whether they can be compared, and a verdict for each
//! criterion. Words about it are `report::jitter::compare`'s.

mod comparable;

use numa_ebpf::histogram;

pub use comparable::reasons;

use super::{
    distribution::Distribution,
    recording::Recording,
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
    /// The run-queue wait may be that much longer than the base's, as a share of it, on top of what histograms cannot tell.
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
    /// The fewest token times of a file that say anything.
    pub min_gaps: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fluctuation: Fluctuation::default(),
            max_fluctuation_ns: 1_000_000,
            wait_tolerance: 0.0,
            max_wait_ns: None,
            max_off_node: 0.01,
            required: Vec::new(),
            min_seconds: 10.0,
            max_length_ratio: 4.0,
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
    /// Why the two cannot be compared; empty if they can.
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
            (Name::Wait, Ok(_), Ok(_)) => Ok(self.wait()),
            (Name::NodeMoves | Name::Moves, Ok(base), Ok(bound)) => Ok(self.moves(base, bound)),
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
                let wait = rollup.figures.wait();
                let incomplete = self.sides[side].recording.runs.iter().any(|run| !run.missing.is_empty());
                match wait.quantile_ns(0.999) {
                    Some(ns) => Ok(Amount::Time(ns)),
                    None if rollup.figures.run_ns == 0 => Err(format!("the {} did not run", self.critical)),
                    None if incomplete => Err("no wait was seen, and kernel programs are missing".to_owned()),
                    // They ran, and never had to wait.
                    None => Ok(Amount::Time(0)),
                }
            }
            Name::OffNode => match rollup.off_node_share() {
                Some(share) => Ok(Amount::Share(share)),
                None if rollup.figures.off_node.is_some() => {
                    Err(format!("the {} did not run", self.critical))
                }
                None => Err("time off node was not recorded".to_owned()),
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

    /// Not worse than base, as far as histograms can tell: percentiles are known to a bucket, so bound's may be in base's or
    /// the next one.
    fn wait(&self) -> (Amount, bool) {
        let [base, bound] = self.rollups.each_ref().map(|rollup| bucket_at(&rollup.figures.wait()));
        let end = base.map_or(0, |bucket| histogram::lowest_ns((bucket + 2).min(histogram::BUCKETS)));
        let limit_ns = (end as f64 * (1.0 + self.limits.wait_tolerance)) as u64;
        (Amount::Time(limit_ns), bound.is_none_or(|bucket| histogram::lowest_ns(bucket) < limit_ns))
    }

    /// No more than base; but binding itself, by a change of the mask, may move each thread once.
    fn moves(&self, base: Amount, bound: Amount) -> (Amount, bool) {
        let rollup = &self.rollups[1];
        let forced = rollup.figures.migrations.as_ref().map_or(0, |moves| moves.by_cause.affinity);
        let binding = rollup.moves_per_second(forced.min(rollup.threads)).unwrap_or(0.0);
        at_most(bound, Amount::Rate(base.value().max(binding)))
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

/// The bucket of the 99.9th percentile; `None` without any.
fn bucket_at(distribution: &Distribution) -> Option<usize> {
    let counts =
        || distribution.buckets.iter().map(|(bucket, count)| (usize::from(*bucket), u128::from(*count)));
    let rank = (counts().map(|(_, count)| count).sum::<u128>() * 999).div_ceil(1000);
    let mut seen = 0;
    counts().find_map(|(bucket, count)| {
        seen += count;
        (seen >= rank).then_some(bucket)
    })
}

/// Gaps that tokens which came together have between them are shorter than this, in nanoseconds.
const TOGETHER_NS: u64 = 100_000;

/// The share of gaps that are next to nothing: tokens that came together.
fn together(gaps: &Gaps) -> f64 {
    gaps.shorter_than(TOGETHER_NS) as f64 / gaps.count().max(1) as f64
}

#[cfg(test)]
mod tests;
