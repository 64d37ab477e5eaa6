//! How soon a task is where it belongs, after its exec and after a rename, and how much CPU it uses before that: judged by the task itself.
//!
//! In each turn a peer is started once, and has its programs and threads to bind in each of the [`Surroundings`].

use anyhow::{Result, ensure};
use nix::unistd::Pid;
use serde::Serialize;

use super::{
    Session,
    figures::{Bound, median, quantile},
    gap::Gap,
    halves::Halves,
    load::{Load, Waiting},
    machine::{Noise, Stretch},
    observer::family_cpu_ns,
    peer::{Binding, Peer, Whom},
    progress,
    report::{Section, Table},
    target::{Class, Reaction},
};

/// Programs that are off plan at their first look, in percent; the default settings'.
const OFF_PLAN_AT_MOST: f64 = 1.0;
/// A renamed thread is moved in at most so many times the floor's time, at the median.
const FLOOR_AT_MOST: f64 = 1.1;
/// It uses at most so many microseconds of CPU off plan, at the 99th percentile.
const OFF_PLAN_AT_MOST_US: f64 = 60.0;

/// What else goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Surroundings {
    Quiet,
    Hogs,
    Storm,
}

impl Surroundings {
    const ALL: [Self; 3] = [Self::Quiet, Self::Hogs, Self::Storm];

    fn title(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Hogs => "two hogs on each CPU",
            Self::Storm => "an exec storm on each CPU",
        }
    }

    fn load(self) -> Option<Load> {
        match self {
            Self::Quiet => None,
            Self::Hogs => Some(Load::Hogs { each: 2 }),
            Self::Storm => Some(Load::Storm),
        }
    }
}

/// Who binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Binder {
    /// A thread of the same process that is told by a pipe.
    Floor,
    /// The same with ordinary priority.
    FloorOrdinary,
    /// Somebody who has to find out.
    #[serde(untagged)]
    Peer(Peer),
}

impl Binder {
    fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor: told by a pipe, SCHED_FIFO",
            Self::FloorOrdinary => "floor: told by a pipe, SCHED_OTHER",
            Self::Peer(peer) => peer.title(),
        }
    }

    fn all() -> Vec<Self> {
        [Self::Floor, Self::FloorOrdinary].into_iter().chain(Peer::ALL.map(Self::Peer)).collect()
    }
}

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Change {
    Exec,
    Rename,
}

/// What came of a binder's turn.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    binder: Binder,
    surroundings: Surroundings,
    change: Change,
    #[serde(flatten)]
    noise: Noise,
    reactions: Vec<Reaction>,
}

/// A binder, and why there is no more of it.
struct Series {
    binder: Binder,
    not_measured: Option<Gap>,
}

/// Measures it.
///
/// # Errors
/// If this machine has a single CPU, or a load does not run.
pub fn section(session: &Session) -> Result<Section> {
    let halves = Halves::of(Pid::this())?;
    let series = |binder: Binder| {
        let tool = match binder {
            Binder::Peer(peer) => peer.tool(),
            Binder::Floor | Binder::FloorOrdinary => None,
        };
        Series { binder, not_measured: session.without(tool) }
    };
    let mut all: Vec<Series> = Binder::all().into_iter().map(series).collect();
    let (mut turns, count) = (Vec::new(), all.len());
    for round in 0..session.rounds {
        for turn in 0..count {
            let series = &mut all[(round + turn) % count];
            if series.not_measured.is_some() {
                continue;
            }
            let title = series.binder.title();
            progress(&format!("reaction, round {} of {}: {title}", round + 1, session.rounds));
            match measure(session, series.binder, &halves) {
                Ok(measured) => turns.extend(measured),
                Err(error) => series.not_measured = Some(Gap::failed(&error)),
            }
        }
    }
    progress("");
    let tables = [Change::Exec, Change::Rename].map(|change| {
        Surroundings::ALL.map(|surroundings| Table {
            title: format!("reaction: {change:?}, {}", surroundings.title()).to_lowercase(),
            columns: COLUMNS.to_vec(),
            rows: all.iter().filter_map(|series| row(series, &turns, surroundings, change)).collect(),
        })
    });
    let bounds = bounds(&turns);
    let failure = |series: &Series| series.not_measured.as_ref()?.failure(series.binder.title());
    let failures = all.iter().filter_map(failure).collect();
    let data = serde_json::to_value(&turns)?;
    Ok(Section { name: "reaction", tables: tables.concat(), bounds, failures, data })
}

/// One turn of a binder.
fn measure(session: &Session, binder: Binder, halves: &Halves) -> Result<Vec<Turn>> {
    // Who looks once a second takes half of one each time.
    let slow = matches!(binder, Binder::Peer(Peer::Ps));
    let count = match (session.quick, slow) {
        (true, true) => 1,
        (true, false) => 4,
        (false, true) => 10,
        (false, false) => 100,
    };
    let patience_ms = if slow { 3000 } else { 1000 };
    let helper = match binder {
        Binder::Floor => Some(Class::First),
        Binder::FloorOrdinary => Some(Class::Ordinary),
        Binder::Peer(_) => None,
    };
    let execs = Load::Execs { count, patience_ms };
    let renames = Load::Renames { count: 2 * count, patience_ms, helper };
    let changes = match binder {
        Binder::Floor | Binder::FloorOrdinary => vec![(Change::Rename, renames)],
        // It stops a program before its first instruction; renames are as without. TuneD knows no threads by name.
        Binder::Peer(Peer::AgentHold | Peer::Tuned) => vec![(Change::Exec, execs)],
        Binder::Peer(_) => vec![(Change::Exec, execs), (Change::Rename, renames)],
    };
    let peer = match binder {
        Binder::Peer(peer) => Some(peer.start(Whom::Targets, halves, &session.dir.path().join("peer"))?),
        Binder::Floor | Binder::FloorOrdinary => None,
    };
    let mut turns = Vec::new();
    for surroundings in Surroundings::ALL {
        let mut around = surroundings.load().map(Waiting::start).transpose()?;
        if let Some(around) = &mut around {
            around.begin()?;
        }
        for (change, load) in &changes {
            let others_ns = || -> Result<u64> {
                let peer = peer.as_ref().map_or(Ok(0), Binding::cpu_ns)?;
                Ok(peer + around.as_ref().map_or(Ok(0), |around| family_cpu_ns(around.pid()))?)
            };
            let (before, stretch) = (others_ns()?, Stretch::begin()?);
            let done = Waiting::start(*load)?.run()?;
            let noise = stretch.end(done.took.cpu_ns + others_ns()?.saturating_sub(before))?;
            let (change, reactions) = (*change, done.reactions);
            ensure!(!reactions.is_empty(), "the load saw nothing");
            turns.push(Turn { binder, surroundings, change, noise, reactions });
        }
        around.map(Waiting::end).transpose()?;
    }
    let left = peer.map(Binding::stop).transpose()?.flatten();
    if let Some(left) = left {
        let bound = left["results"]["bound"].as_u64();
        // Otherwise somebody else has bound them.
        ensure!(bound >= Some(u64::from(count)), "the agent has bound too few: {left}");
    }
    Ok(turns)
}

/// What a binder's samples come to.
struct Figures {
    /// How long it took, in microseconds; infinite where nobody came.
    after_us: Vec<f64>,
    /// CPU time off plan, likewise.
    off_plan_us: Vec<f64>,
    samples: String,
    /// No turn was quiet.
    noisy: bool,
}

impl Figures {
    /// Of the quiet turns, or of all if none was quiet.
    fn of(turns: &[Turn], binder: Binder, surroundings: Surroundings, change: Change) -> Option<Self> {
        let wanted =
            |turn: &&Turn| (turn.binder, turn.surroundings, turn.change) == (binder, surroundings, change);
        let all: Vec<&Turn> = turns.iter().filter(wanted).collect();
        let noisy = all.iter().filter(|turn| !turn.noise.is_quiet()).count();
        let kept = all.iter().filter(|turn| noisy == all.len() || turn.noise.is_quiet());
        let reactions: Vec<Reaction> = kept.flat_map(|turn| &turn.reactions).copied().collect();
        let us = |ns: u64| ns as f64 / 1e3;
        let figures = Self {
            after_us: reactions.iter().map(|one| one.after_ns.map_or(f64::INFINITY, us)).collect(),
            off_plan_us: reactions.iter().map(|one| us(one.off_plan_ns)).collect(),
            samples: if noisy == 0 {
                reactions.len().to_string()
            } else {
                format!("{} ({noisy} of {} turns noisy)", reactions.len(), all.len())
            },
            noisy: noisy == all.len(),
        };
        (!reactions.is_empty()).then_some(figures)
    }

    /// Percent that were not where they belong at their first look.
    fn late(&self) -> f64 {
        let late = self
            .off_plan_us
            .iter()
            .zip(&self.after_us)
            .filter(|(off, after)| **off > 0.0 || after.is_infinite());
        late.count() as f64 / self.off_plan_us.len() as f64 * 100.0
    }
}

const COLUMNS: [&str; 9] = [
    "who binds",
    "off plan at the first look",
    "us to the mask, p50",
    "p90",
    "p99",
    "CPU us off plan, p50",
    "p90",
    "p99",
    "samples",
];

/// `None` for who has nothing to do with such a change.
fn row(series: &Series, turns: &[Turn], surroundings: Surroundings, change: Change) -> Option<Vec<String>> {
    let title = series.binder.title();
    let Some(figures) = Figures::of(turns, series.binder, surroundings, change) else {
        let why = match (series.binder, change) {
            (Binder::Floor | Binder::FloorOrdinary, Change::Exec)
            | (Binder::Peer(Peer::AgentHold), Change::Rename) => {
                return None;
            }
            (Binder::Peer(Peer::Tuned), Change::Rename) if series.not_measured.is_none() => {
                "goes by command lines, and knows no threads by name".to_owned()
            }
            _ => series.not_measured.as_ref()?.to_string(),
        };
        return Some(vec![format!("{title}: {why}")]);
    };
    let us = |values: &[f64], share| match quantile(values, share) {
        Some(us) if us.is_infinite() => "never".to_owned(),
        us => format!("{:.0}", us.unwrap_or(f64::NAN)),
    };
    let (after, off) = (&figures.after_us, &figures.off_plan_us);
    // A thread that has just renamed itself is always early.
    let late = if change == Change::Exec { format!("{:.1} %", figures.late()) } else { "-".to_owned() };
    let shares = [0.5, 0.9, 0.99];
    let figures_of = |values| shares.map(|share| us(values, share));
    Some([&[title.to_owned(), late][..], &figures_of(after), &figures_of(off), &[figures.samples]].concat())
}

fn bounds(turns: &[Turn]) -> Vec<Bound> {
    let mut bounds = Vec::new();
    for surroundings in Surroundings::ALL {
        let what = |what: &str| format!("{what}, {}", surroundings.title());
        let of = |binder, change| Figures::of(turns, binder, surroundings, change);
        for (peer, at_most) in [(Peer::Agent, OFF_PLAN_AT_MOST), (Peer::AgentHold, 0.0)] {
            bounds.extend(of(Binder::Peer(peer), Change::Exec).map(|figures| Bound {
                what: what(&format!("{}: programs off plan at their first look", peer.title())),
                measured: figures.late(),
                at_most,
                unit: "%",
                noisy: figures.noisy,
            }));
        }
        let Some(ours) = of(Binder::Peer(Peer::Agent), Change::Rename) else { continue };
        bounds.extend(quantile(&ours.off_plan_us, 0.99).map(|measured| Bound {
            what: what("rename: CPU time off plan, p99"),
            measured,
            at_most: OFF_PLAN_AT_MOST_US,
            unit: "us",
            noisy: ours.noisy,
        }));
        let Some(floor) = of(Binder::Floor, Change::Rename) else { continue };
        bounds.extend(median(&ours.after_us).zip(median(&floor.after_us)).map(|(after, floors)| Bound {
            what: what("rename: time to the mask, median to the floor's"),
            measured: after / floors,
            at_most: FLOOR_AT_MOST,
            unit: "x",
            noisy: ours.noisy || floor.noisy,
        }));
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(binder: Binder, change: Change, stolen: f64, reactions: &[(Option<u64>, u64)]) -> Turn {
        let reaction = |(after_ns, off_plan_ns): &(Option<u64>, u64)| Reaction {
            after_ns: *after_ns,
            off_plan_ns: *off_plan_ns,
        };
        let noise = Noise { stolen, foreign: 0.0 };
        let reactions = reactions.iter().map(reaction).collect();
        Turn { binder, surroundings: Surroundings::Quiet, change, noise, reactions }
    }

    #[test]
    fn who_is_never_bound_is_late_and_noisy_turns_do_not_count_beside_quiet_ones() {
        let ours = Binder::Peer(Peer::Agent);
        let turns = [
            turn(
                ours,
                Change::Exec,
                0.0,
                &[(Some(1000), 0), (None, 5000), (Some(2000), 300), (Some(1000), 0)],
            ),
            turn(ours, Change::Exec, 0.5, &[(None, 0)]),
        ];
        let figures = Figures::of(&turns, ours, Surroundings::Quiet, Change::Exec).unwrap();
        assert_eq!((figures.late(), figures.after_us.len()), (50.0, 4));
        assert!(figures.samples.contains("1 of 2 turns noisy"), "{}", figures.samples);
        let bounds = bounds(&turns);
        assert_eq!(bounds.len(), 1);
        assert_eq!(bounds[0].verdict(), "MISSED");
    }

    #[test]
    fn a_rename_is_held_against_the_floor() {
        let turns = [
            turn(Binder::Floor, Change::Rename, 0.0, &[(Some(40_000), 40_000)]),
            turn(Binder::Peer(Peer::Agent), Change::Rename, 0.0, &[(Some(50_000), 50_000)]),
        ];
        let bounds = bounds(&turns);
        let missed: Vec<&str> =
            bounds.iter().filter(|bound| !bound.holds()).map(|bound| bound.what.as_str()).collect();
        assert_eq!(missed, ["rename: time to the mask, median to the floor's, quiet"]);
        assert_eq!(bounds.len(), 2);
    }

    #[test]
    fn a_noisy_floor_makes_the_ratio_noisy_and_nothing_else() {
        let turns = [
            turn(Binder::Floor, Change::Rename, 0.5, &[(Some(40_000), 40_000)]),
            turn(Binder::Peer(Peer::Agent), Change::Rename, 0.0, &[(Some(50_000), 50_000)]),
        ];
        let verdicts: Vec<&str> = bounds(&turns).iter().map(Bound::verdict).collect();
        assert_eq!(verdicts, ["held", "MISSED (noisy)"]);
    }
}
