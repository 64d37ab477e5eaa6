//! What observation costs a load that does nothing but switch: its CPU time and wall time.

use anyhow::Result;

use super::{
    Series, Session,
    figures::{Bound, best, median},
    observer::Observer,
    report::{Section, Table},
};

/// The pinned ping-pong takes at most so many times its CPU time while the agent observes it.
const PIPE_AT_MOST: f64 = 1.2;

/// Measures it.
///
/// # Errors
/// If a load fails.
pub fn section(session: &Session) -> Result<Section> {
    let all = session.compare(&Observer::ALL, false)?;
    let mut tables = Vec::new();
    let mut bounds = Vec::new();
    for (load, missing) in session.loads()? {
        let of_load: Vec<&Series> = all.iter().filter(|series| series.load == load.name()).collect();
        let title = format!("{}: {load:?}, without run statistics", load.name());
        tables.push(Table { title, columns: COLUMNS.to_vec(), rows: rows(&of_load) });
        if missing.is_none() && load.name() == "pipe" {
            bounds.extend(pipe_bound(&of_load));
        }
    }
    Ok(Section { name: "time", tables, bounds, data: serde_json::to_value(&all)? })
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

fn cpu_ms(series: &Series) -> Vec<f64> {
    series.each(|sample| sample.took.cpu_ns as f64 / 1e6)
}

fn wall_ms(series: &Series) -> Vec<f64> {
    series.each(|sample| sample.took.wall_ns as f64 / 1e6)
}

fn rows(all: &[&Series]) -> Vec<Vec<String>> {
    let base = all.iter().find(|series| series.observer == Observer::Nothing);
    let base = |of: fn(&Series) -> Vec<f64>, figure: fn(&[f64]) -> Option<f64>| {
        base.and_then(|base| figure(&of(base))).unwrap_or(f64::NAN)
    };
    let row = |series: &&Series| {
        let title = series.observer.title();
        if let Some(why) = &series.not_measured {
            return vec![format!("{title}: {why}")];
        }
        let of = |values: Vec<f64>, figure: fn(&[f64]) -> Option<f64>| figure(&values).unwrap_or(f64::NAN);
        let (cpu, cpu_best, wall) =
            (of(cpu_ms(series), median), of(cpu_ms(series), best), of(wall_ms(series), median));
        let own = of(series.each(|sample| sample.observer_cpu_ns as f64 / 1e6), median);
        vec![
            title.to_owned(),
            format!("{cpu:.0}"),
            format!("{cpu_best:.0}"),
            format!("{:.2}", cpu_best / base(cpu_ms, best)),
            format!("{:.2}", cpu / base(cpu_ms, median)),
            format!("{wall:.0}"),
            format!("{:.2}", wall / base(wall_ms, median)),
            format!("{own:.1}"),
            series.count(),
        ]
    };
    all.iter().map(row).collect()
}

fn pipe_bound(all: &[&Series]) -> Option<Bound> {
    let of = |observer| best(&cpu_ms(all.iter().find(|series| series.observer == observer)?));
    Some(Bound {
        what: "pipe, load managed: CPU time, best to best of nothing attached".to_owned(),
        measured: of(Observer::Managed)? / of(Observer::Nothing)?,
        at_most: PIPE_AT_MOST,
        unit: "x",
    })
}
