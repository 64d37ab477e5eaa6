//! What observation costs a load that does nothing but switch: its CPU time and wall time.

use anyhow::Result;

use super::{
    Sample, Series, Session,
    figures::Bound,
    load::Load,
    observer::Observer,
    report::{Section, Table},
};

/// The pinned ping-pong takes at most so many times its CPU time while the agent observes it.
const PIPE_AT_MOST: f64 = 1.2;

/// Measures it with two processes on one CPU.
///
/// # Errors
/// If our own CPU mask cannot be read.
pub fn pipe(session: &Session) -> Result<Section> {
    let (mut section, all) = section(session, "time-pipe", session.pipe()?)?;
    section.bounds.extend(pipe_bound(&all));
    Ok(section)
}

/// Measures it with many processes on all CPUs.
///
/// # Errors
/// Never.
pub fn messaging(session: &Session) -> Result<Section> {
    Ok(section(session, "time-messaging", session.messaging())?.0)
}

fn section(session: &Session, name: &'static str, load: Load) -> Result<(Section, Vec<Series>)> {
    let all = session.compare(&Observer::ALL, load, false);
    let title = format!("{name}: {load:?}, without run statistics");
    let table = Table { title, columns: COLUMNS.to_vec(), rows: rows(&all) };
    let data = serde_json::to_value(&all)?;
    let failures = Series::failures(&all);
    Ok((Section { name, tables: vec![table], bounds: Vec::new(), failures, data }, all))
}

const COLUMNS: [&str; 9] = [
    "observer",
    "CPU ms, median",
    "best",
    "x, of best",
    "x, of medians",
    "wall ms, median",
    "x, of medians",
    "observer's CPU ms",
    "samples",
];

fn cpu_ms(sample: &Sample) -> f64 {
    sample.took.cpu_ns as f64 / 1e6
}

fn wall_ms(sample: &Sample) -> f64 {
    sample.took.wall_ns as f64 / 1e6
}

fn of(all: &[Series], observer: Observer) -> Option<&Series> {
    all.iter().find(|series| series.observer == observer && !series.samples.is_empty())
}

fn rows(all: &[Series]) -> Vec<Vec<String>> {
    let base = of(all, Observer::Nothing);
    let times = |figure: f64, base: Option<f64>| format!("{:.2}", figure / base.unwrap_or(f64::NAN));
    let row = |series: &Series| {
        let title = series.observer.title();
        if let Some(why) = &series.not_measured {
            return vec![format!("{title}: {why}")];
        }
        let (cpu, cpu_best, wall) = (series.median(cpu_ms), series.best(cpu_ms), series.median(wall_ms));
        vec![
            title.to_owned(),
            format!("{cpu:.0}"),
            format!("{cpu_best:.0}"),
            times(cpu_best, base.map(|base| base.best(cpu_ms))),
            times(cpu, base.map(|base| base.median(cpu_ms))),
            format!("{wall:.0}"),
            times(wall, base.map(|base| base.median(wall_ms))),
            format!("{:.1}", series.median(|sample| sample.observer_cpu_ns as f64 / 1e6)),
            series.count(),
        ]
    };
    all.iter().map(row).collect()
}

fn pipe_bound(all: &[Series]) -> Option<Bound> {
    let (managed, nothing) = (of(all, Observer::Managed)?, of(all, Observer::Nothing)?);
    Some(Bound {
        what: "pipe, load managed: CPU time, best to best of nothing attached".to_owned(),
        measured: managed.best(cpu_ms) / nothing.best(cpu_ms),
        at_most: PIPE_AT_MOST,
        unit: "x",
        noisy: managed.is_noisy() || nothing.is_noisy(),
    })
}
