//! Programs and threads that start as fast as they can: what it costs them that somebody looks on, what that takes, and what gets lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{
    Session,
    figures::{Bound, best, median, samples},
    gap::{Gap, Tool},
    halves::Halves,
    load::{Load, Waiting},
    machine::{Noise, Stretch},
    peer::{Binding, Peer, Whom},
    progress,
    report::{Section, Table},
    target::Stayer,
};

/// A storm takes at most so many times its time.
const SLOWDOWN_AT_MOST: f64 = 1.1;
/// The agent's CPU time, in percent of one CPU, where everything is its business.
const CPU_AT_MOST: f64 = 7.0;
/// The same where nothing is: "about 0".
const IDLE_CPU_AT_MOST: f64 = 0.5;
/// How long the agent is stopped.
const STALL: Duration = Duration::from_millis(500);
/// How long the storm goes on before.
const BEFORE_STALL: Duration = Duration::from_millis(100);
/// Programs that start while it is, and stay.
const STAYING: usize = 20;
/// How long they may wait for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long who binds at all may take for one thread after the storm: more than twice what the slowest of them sleeps.
const TO_BIND_MS: u32 = 2500;
/// How many programs are started after a storm until one is bound: not everybody sees each.
const PROBES: usize = 3;
/// A ring that half a second of a storm does not fit into.
const SMALL_RING: u32 = 64 << 10;

/// Who looks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Observer {
    Nobody,
    /// With rules that all of the storm matches, or with none that does.
    Peer(Peer, bool),
    /// The agent, which is stopped for [`STALL`] in the midst of it.
    Stopped {
        small_ring: bool,
    },
}

impl Observer {
    const ALL: [Self; 12] = [
        Self::Nobody,
        Self::Peer(Peer::Agent, true),
        Self::Peer(Peer::Agent, false),
        Self::Peer(Peer::AgentOrdinary, true),
        Self::Stopped { small_ring: false },
        Self::Stopped { small_ring: true },
        Self::Peer(Peer::Connector, true),
        Self::Peer(Peer::Connector, false),
        Self::Peer(Peer::Tuned, true),
        Self::Peer(Peer::Tuned, false),
        Self::Peer(Peer::Bpftrace, true),
        Self::Peer(Peer::Ps, true),
    ];

    fn title(self) -> String {
        match self {
            Self::Nobody => "nobody".to_owned(),
            Self::Peer(peer, true) => peer.title().to_owned(),
            Self::Peer(peer, false) => format!("{}, nothing matches", peer.title()),
            Self::Stopped { small_ring } => {
                let ring = if small_ring { ", ring of 64 KiB" } else { "" };
                format!("numa-agent, stopped for {} ms{ring}", STALL.as_millis())
            }
        }
    }

    /// Whether it is to bind what starts.
    fn is_asked(self) -> bool {
        matches!(self, Self::Peer(_, true) | Self::Stopped { .. })
    }

    fn is_ours(self) -> bool {
        match self {
            Self::Peer(peer, _) => peer.is_ours(),
            Self::Stopped { .. } => true,
            Self::Nobody => false,
        }
    }

    fn tool(self) -> Option<Tool> {
        match self {
            Self::Peer(peer, _) => peer.tool(),
            Self::Nobody | Self::Stopped { .. } => None,
        }
    }
}

/// One storm.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    wall_ns: u64,
    #[serde(flatten)]
    noise: Noise,
    observer_cpu_ns: u64,
    /// Events that it says it has lost; `None`: it does not say.
    lost: Option<u64>,
    /// Of the programs that started while the agent was stopped: those that were not bound afterwards.
    unbound: Option<usize>,
    /// Whether it binds what the storm is made of; `None`: it is not asked to.
    binds: Option<bool>,
}

/// A storm's samples with one observer.
#[derive(Debug, Clone, Serialize)]
struct Series {
    storm: &'static str,
    observer: Observer,
    samples: Vec<Sample>,
    not_measured: Option<Gap>,
}

impl Series {
    fn kept(&self) -> Vec<&Sample> {
        let any_quiet = self.samples.iter().any(|sample| sample.noise.is_quiet());
        self.samples.iter().filter(|sample| !any_quiet || sample.noise.is_quiet()).collect()
    }

    fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.kept().into_iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    fn best(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        best(&self.samples.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    fn noisy(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.noise.is_quiet()).count()
    }

    fn is_noisy(&self) -> bool {
        self.noisy() == self.samples.len()
    }

    /// Whether it binds what starts in this storm; `None`: it is not asked to.
    fn binds(&self) -> Option<bool> {
        self.samples.iter().filter_map(|sample| sample.binds).reduce(|a, b| a || b)
    }

    /// What tables call it. Who has nothing to do with such a storm does not compete in it, and its row must not look as if.
    fn title(&self) -> String {
        let title = self.observer.title();
        if self.binds() == Some(false) { title + " (binds none of these)" } else { title }
    }

    /// Of all samples: what was lost is lost.
    fn lost(&self) -> Option<u64> {
        self.samples.iter().map(|sample| sample.lost).sum()
    }
}

fn wall_ms(sample: &Sample) -> f64 {
    sample.wall_ns as f64 / 1e6
}

fn cpu_percent(sample: &Sample) -> f64 {
    sample.observer_cpu_ns as f64 / sample.wall_ns as f64 * 100.0
}

/// Measures it.
///
/// # Errors
/// If our own CPU mask cannot be read.
pub fn section(session: &Session) -> Result<Section> {
    let scale = if session.quick { 20 } else { 1 };
    let storms = [Load::Starts { count: 6000 / scale }, Load::Births { count: 60_000 / scale }];
    let halves = Halves::whole()?;
    let mut section = Section { name: "storm", ..Section::default() };
    let mut data = Vec::new();
    for storm in storms {
        let all = compare(session, storm, &halves);
        section.tables.push(Table {
            title: format!("storm: {storm:?}"),
            columns: COLUMNS.to_vec(),
            rows: all.iter().map(|series| row(series, &all[0])).collect(),
        });
        section.bounds.extend(storm_bounds(&all));
        let failure = |series: &Series| {
            let what = format!("{}, {}", series.storm, series.observer.title());
            series.not_measured.as_ref()?.failure(&what)
        };
        section.failures.extend(all.iter().filter_map(failure));
        data.extend(all);
    }
    progress("");
    section.data = serde_json::to_value(&data)?;
    Ok(section)
}

fn compare(session: &Session, storm: Load, halves: &Halves) -> Vec<Series> {
    let series = |observer: Observer| Series {
        storm: storm.name(),
        observer,
        samples: Vec::new(),
        not_measured: session.without(observer.tool()),
    };
    let mut all: Vec<Series> = Observer::ALL.into_iter().map(series).collect();
    let count = all.len();
    for round in 0..session.rounds {
        for turn in 0..count {
            let series = &mut all[(round + turn) % count];
            if series.not_measured.is_some() {
                continue;
            }
            let title = series.observer.title();
            progress(&format!("{}, round {} of {}: {title}", storm.name(), round + 1, session.rounds));
            match measure(session, series.observer, storm, halves) {
                Ok(sample) => series.samples.push(sample),
                Err(error) => series.not_measured = Some(Gap::failed(&error)),
            }
        }
    }
    all
}

fn measure(session: &Session, observer: Observer, storm: Load, halves: &Halves) -> Result<Sample> {
    let dir = session.dir.path().join("storm");
    let binding = match observer {
        Observer::Nobody => None,
        Observer::Peer(peer, matches) => {
            let whom = if matches { Whom::Targets } else { Whom::Nobody };
            Some(peer.start(whom, halves, &dir)?)
        }
        Observer::Stopped { small_ring } => {
            let ring = ["--ring-bytes".to_owned(), SMALL_RING.to_string()];
            let more = if small_ring { &ring[..] } else { &[] };
            Some(Peer::Agent.start_with(Whom::Targets, halves, &dir, more)?)
        }
    };
    let cpu_ns = || binding.as_ref().map_or(Ok(0), Binding::cpu_ns);
    let mut waiting = Waiting::start(storm)?;
    let (before, stretch) = (cpu_ns()?, Stretch::begin()?);
    waiting.tell()?;
    let staying = match observer {
        Observer::Stopped { .. } => Some(stall(binding.as_ref().context("an agent")?, halves)?),
        _ => None,
    };
    let done = waiting.finish()?;
    let observer_cpu_ns = cpu_ns()?.saturating_sub(before);
    let noise = stretch.end(done.took.cpu_ns + observer_cpu_ns)?;
    let unbound = staying.map(unbound).transpose()?;
    let binds = observer.is_asked().then(|| binds(storm, halves)).transpose()?;
    // One that does not would make us look cheap.
    ensure!(!observer.is_ours() || binds != Some(false), "the agent binds nothing in {}", storm.name());
    let lost = binding.map(lost).transpose()?.flatten();
    Ok(Sample { wall_ns: done.took.wall_ns, noise, observer_cpu_ns, lost, unbound, binds })
}

/// Ends the observer; how many events it says it has lost. The connector says only that there were some.
fn lost(binding: Binding) -> Result<Option<u64>> {
    let said = binding.said();
    let counts = binding.counts_losses();
    Ok(match binding.stop()? {
        Some(summary) => Some(summary["lost"]["total"].as_u64().context("a summary that counts losses")?),
        None => counts.then(|| said.lines().filter(|line| *line == "lost").count() as u64),
    })
}

/// Stops the agent for a while, and has programs start meanwhile that stay.
fn stall(binding: &Binding, halves: &Halves) -> Result<Vec<Stayer>> {
    let agent = binding.agent().context("an agent")?;
    thread::sleep(BEFORE_STALL);
    agent.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    let staying = (0..STAYING).map(|_| Stayer::start(halves)).collect::<Result<Vec<_>>>();
    thread::sleep(STALL.saturating_sub(begin.elapsed()));
    agent.signal(Signal::SIGCONT);
    staying
}

/// How many of them nobody has bound in time.
fn unbound(staying: Vec<Stayer>) -> Result<usize> {
    let start = Instant::now();
    let unbound = || staying.iter().filter(|one| !one.is_bound()).count();
    while unbound() > 0 && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let left = unbound();
    staying.into_iter().try_for_each(Stayer::end)?;
    Ok(left)
}

/// Whether somebody puts one more of what the storm was made of where it belongs.
fn binds(storm: Load, halves: &Halves) -> Result<bool> {
    if let Load::Births { .. } = storm {
        let born = Waiting::start(Load::Born { patience_ms: TO_BIND_MS })?.run()?;
        return Ok(born.reactions.iter().any(|thread| thread.after_ns.is_some()));
    }
    for _ in 0..PROBES {
        if unbound(vec![Stayer::start(halves)?])? == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

const COLUMNS: [&str; 8] = [
    "observer",
    "ms, median",
    "best",
    "x, of best",
    "x, of medians",
    "observer's CPU, % of one",
    "events lost",
    "samples",
];

fn row(series: &Series, base: &Series) -> Vec<String> {
    let title = series.title();
    if let Some(why) = &series.not_measured {
        return vec![format!("{title}: {why}")];
    }
    let (median, best) = (series.median(wall_ms), series.best(wall_ms));
    let unbound: Option<usize> = series.samples.iter().map(|sample| sample.unbound).sum();
    let unbound = unbound.map_or(String::new(), |count| format!("; {count} left unbound"));
    vec![
        title,
        format!("{median:.0}"),
        format!("{best:.0}"),
        format!("{:.2}", best / base.best(wall_ms)),
        format!("{:.2}", median / base.median(wall_ms)),
        format!("{:.1}", series.median(cpu_percent)),
        series.lost().map_or("?".to_owned(), |lost| lost.to_string()) + &unbound,
        samples(series.samples.len(), series.noisy()),
    ]
}

fn storm_bounds(all: &[Series]) -> Vec<Bound> {
    let of = |observer: Observer| {
        all.iter().find(|series| series.observer == observer && !series.samples.is_empty())
    };
    let bound = |series: &Series, what: &str, measured: f64, at_most: f64, unit: &'static str| {
        let what = format!("{}, {}: {what}", series.storm, series.observer.title());
        Bound { what, measured, at_most, unit, noisy: series.is_noisy() }
    };
    let lost = |series: &Series| {
        let lost = series.lost().map_or(f64::NAN, |lost| lost as f64);
        bound(series, "events lost", lost, 0.0, "")
    };
    let mut bounds = Vec::new();
    let nobody = of(Observer::Nobody);
    for (matches, cpu_at_most) in [(true, CPU_AT_MOST), (false, IDLE_CPU_AT_MOST)] {
        let Some(series) = of(Observer::Peer(Peer::Agent, matches)) else { continue };
        let times = series.best(wall_ms) / nobody.map_or(f64::NAN, |nobody| nobody.best(wall_ms));
        let slowdown = bound(series, "time, best to best", times, SLOWDOWN_AT_MOST, "x");
        bounds.push(Bound { noisy: slowdown.noisy || nobody.is_some_and(Series::is_noisy), ..slowdown });
        let cpu = series.median(cpu_percent);
        bounds.push(bound(series, "the agent's CPU, median", cpu, cpu_at_most, "%"));
        bounds.push(lost(series));
    }
    for small_ring in [false, true] {
        let Some(series) = of(Observer::Stopped { small_ring }) else { continue };
        let unbound: usize = series.samples.iter().filter_map(|sample| sample.unbound).sum();
        bounds.push(bound(series, "living programs left unbound", unbound as f64, 0.0, ""));
        bounds.extend((!small_ring).then(|| lost(series)));
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(observer: Observer, wall_ns: u64, observer_cpu_ns: u64, lost: Option<u64>) -> Series {
        let noise = Noise { stolen: 0.0, foreign: 0.0 };
        let sample = Sample { wall_ns, noise, observer_cpu_ns, lost, unbound: Some(0), binds: None };
        Series { storm: "starts", observer, samples: vec![sample], not_measured: None }
    }

    #[test]
    fn what_is_lost_or_not_counted_misses_the_bound() {
        let ours = Observer::Peer(Peer::Agent, true);
        let base = series(Observer::Nobody, 1_000_000, 0, None);
        let missed = |lost| {
            let all = [base.clone(), series(ours, 1_050_000, 50_000, lost)];
            storm_bounds(&all).into_iter().filter(|bound| !bound.holds()).count()
        };
        assert_eq!((missed(Some(0)), missed(Some(1)), missed(None)), (0, 1, 1));
        let slow = [base.clone(), series(ours, 1_200_000, 200_000, Some(0))];
        assert_eq!(storm_bounds(&slow).iter().filter(|bound| !bound.holds()).count(), 2);
    }

    #[test]
    fn who_binds_nothing_in_a_storm_does_not_look_as_if_it_competed() {
        let title = |binds: &[Option<bool>]| {
            let mut all = series(Observer::Peer(Peer::Connector, true), 1, 1, Some(0));
            let sample = all.samples.remove(0);
            all.samples.extend(binds.iter().map(|binds| Sample { binds: *binds, ..sample.clone() }));
            row(&all, &all)[0].clone()
        };
        assert_eq!(title(&[Some(false), Some(false)]), "proc connector, SCHED_FIFO (binds none of these)");
        // Once is enough: it may have missed that one.
        assert_eq!(title(&[Some(false), Some(true)]), "proc connector, SCHED_FIFO");
        assert_eq!(title(&[None]), "proc connector, SCHED_FIFO");
    }

    #[test]
    fn noise_of_what_it_is_compared_with_is_told_too() {
        let ours = series(Observer::Peer(Peer::Agent, true), 1_050_000, 50_000, Some(0));
        let mut base = series(Observer::Nobody, 1_000_000, 0, None);
        base.samples[0].noise.stolen = 0.5;
        let verdicts: Vec<&str> = storm_bounds(&[base, ours]).iter().map(Bound::verdict).collect();
        assert_eq!(verdicts, ["held (noisy)", "held", "held"]);
    }
}
