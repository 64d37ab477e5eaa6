//! What each run of a program takes, by the kernel's run statistics, less what an empty program takes beside it.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    Sample, Series, Session,
    empty::{SWITCH, WAKE},
    fdinfo::Program,
    figures::{Bound, best, median},
    observer::Observer,
    report::{Section, Table},
};

/// Nanoseconds a switch of a managed load takes, net.
const SWITCH_AT_MOST_NS: f64 = 130.0;
/// Nanoseconds a switch or a wake-up of a task that is not managed takes, net.
const UNMANAGED_AT_MOST_NS: f64 = 25.0;

/// Those that have programs.
const OBSERVERS: [Observer; 4] =
    [Observer::Managed, Observer::Unmanaged, Observer::Runqlat, Observer::Bpftrace];

/// Measures it.
///
/// # Errors
/// If a load fails, or the kernel has no run statistics.
pub fn section(session: &Session) -> Result<Section> {
    let all = session.compare(&OBSERVERS, true)?;
    let mut tables = Vec::new();
    let mut bounds = Vec::new();
    for (load, _) in session.loads()? {
        let of_load: Vec<&Series> = all.iter().filter(|series| series.load == load.name()).collect();
        let programs = of_load.iter().flat_map(|series| program_rows(series)).collect();
        tables.push(Table {
            title: format!("{}: programs, {load:?}", load.name()),
            columns: vec!["program", "runs", "ns, median", "net, median", "net, best", "empty beside it"],
            rows: programs,
        });
        tables.push(Table {
            title: format!("{}: net ns for each switch", load.name()),
            columns: vec!["observer", "switch + wake-up programs, median", "best", "all programs", "samples"],
            rows: of_load.iter().map(|series| switch_row(series)).collect(),
        });
        bounds.extend(load_bounds(load.name(), &of_load));
    }
    Ok(Section { name: "events", tables, bounds, data: serde_json::to_value(&all)? })
}

/// Which of the two hot tracepoints a program is on, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Switch,
    Wake,
    Other,
}

fn hook(name: &str) -> Hook {
    if name.contains("switch") {
        Hook::Switch
    } else if name.contains("wake") || name.contains("sched_w") {
        Hook::Wake
    } else {
        Hook::Other
    }
}

/// Nanoseconds of a run of the empty program on that hook in that sample; the mean of both for other hooks.
fn empty_ns(sample: &Sample, hook: Hook) -> f64 {
    let of = |name: &str| {
        let program = sample.empty.iter().find(|program| program.name == name);
        program.map_or(f64::NAN, mean_ns)
    };
    match hook {
        Hook::Switch => of(SWITCH),
        Hook::Wake => of(WAKE),
        Hook::Other => (of(SWITCH) + of(WAKE)) / 2.0,
    }
}

fn mean_ns(program: &Program) -> f64 {
    program.run_time_ns as f64 / program.run_count as f64
}

/// Net nanoseconds of a run of the program with that name; `None` if it did not run.
fn net_ns(sample: &Sample, name: &str) -> Option<f64> {
    let program = sample.programs.iter().find(|program| program.name == name && program.run_count > 0)?;
    Some(mean_ns(program) - empty_ns(sample, hook(name)))
}

/// Net nanoseconds and runs of all programs on those hooks.
fn net_of(sample: &Sample, hooks: &[Hook]) -> (f64, u64) {
    let programs = sample.programs.iter().map(|program| (program, hook(&program.name)));
    let programs = programs.filter(|(_, hook)| hooks.contains(hook));
    programs.fold((0.0, 0), |(ns, runs), (program, hook)| {
        let gross = program.run_time_ns as f64 - program.run_count as f64 * empty_ns(sample, hook);
        (ns + gross, runs + program.run_count)
    })
}

/// Net nanoseconds of a run of the programs on that hook.
fn each_ns(sample: &Sample, hook: Hook) -> f64 {
    let (ns, runs) = net_of(sample, &[hook]);
    ns / runs as f64
}

/// Net nanoseconds of the programs on those hooks, for each switch.
fn per_switch_ns(sample: &Sample, hooks: &[Hook]) -> f64 {
    net_of(sample, hooks).0 / net_of(sample, &[Hook::Switch]).1 as f64
}

/// What a switch takes, with the wake-up that led to it.
fn hot_ns(sample: &Sample) -> f64 {
    per_switch_ns(sample, &[Hook::Switch, Hook::Wake])
}

fn program_rows(series: &Series) -> Vec<Vec<String>> {
    let title = series.observer.title();
    if let Some(why) = &series.not_measured {
        return vec![vec![format!("{title}: {why}")]];
    }
    let mut runs = BTreeMap::<&str, Vec<f64>>::new();
    for program in series.samples.iter().flat_map(|sample| &sample.programs) {
        runs.entry(&program.name).or_default().push(program.run_count as f64);
    }
    // Those that run with every switch come first; those that ran a few times say nothing of their cost.
    const FEW: f64 = 100.0;
    let mut by_runs: Vec<(&str, f64)> =
        runs.iter().filter_map(|(name, runs)| Some((*name, median(runs)?))).collect();
    by_runs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let row = |(name, runs): (&str, f64)| {
        let net = series.each(|sample| net_ns(sample, name).unwrap_or(f64::NAN));
        let empty = series.each(|sample| empty_ns(sample, hook(name)));
        let gross: Vec<f64> = net.iter().zip(&empty).map(|(net, empty)| net + empty).collect();
        vec![
            format!("{title}: {name}"),
            format!("{runs:.0}"),
            figure(median(&gross)),
            figure(median(&net)),
            figure(best(&net)),
            figure(median(&empty)),
        ]
    };
    by_runs.into_iter().filter(|(_, runs)| *runs >= FEW).map(row).collect()
}

fn switch_row(series: &Series) -> Vec<String> {
    let title = series.observer.title().to_owned();
    if let Some(why) = &series.not_measured {
        return vec![format!("{title}: {why}")];
    }
    let hot = series.each(hot_ns);
    let all = series.each(|sample| per_switch_ns(sample, &[Hook::Switch, Hook::Wake, Hook::Other]));
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    vec![title, figure(median(&hot)), figure(best(&hot)), figure(median(&all)), series.count()]
}

fn load_bounds(load: &str, all: &[&Series]) -> Vec<Bound> {
    let of = |observer: Observer, figure: &dyn Fn(&Sample) -> f64| {
        let series = all.iter().find(|series| series.observer == observer)?;
        median(&series.each(figure))
    };
    let bound = |what: &str, measured: Option<f64>, at_most: f64| {
        let what = format!("{load}, {what}");
        measured.map(|measured| Bound { what, measured, at_most, unit: "ns" })
    };
    let half = of(Observer::Runqlat, &hot_ns).map(|theirs| theirs / 2.0);
    [
        bound(
            "load managed: switch program, net",
            of(Observer::Managed, &|sample| each_ns(sample, Hook::Switch)),
            SWITCH_AT_MOST_NS,
        ),
        half.and_then(|half| {
            let what = "load managed: switch and wake-up for each switch, net, to half of runqlat's";
            bound(what, of(Observer::Managed, &hot_ns), half)
        }),
        bound(
            "load not managed: switch program, net",
            of(Observer::Unmanaged, &|sample| each_ns(sample, Hook::Switch)),
            UNMANAGED_AT_MOST_NS,
        ),
        bound(
            "load not managed: wake-up program, net",
            of(Observer::Unmanaged, &|sample| each_ns(sample, Hook::Wake)),
            UNMANAGED_AT_MOST_NS,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{load::Took, machine::Noise},
        *,
    };

    fn program(name: &str, run_time_ns: u64, run_count: u64) -> Program {
        Program { name: name.to_owned(), run_time_ns, run_count }
    }

    fn sample(programs: Vec<Program>) -> Sample {
        Sample {
            took: Took { wall_ns: 1, cpu_ns: 1 },
            observer_cpu_ns: 0,
            noise: Noise { stolen: 0.0, foreign: 0.0 },
            programs,
            empty: vec![program(SWITCH, 4000, 100), program(WAKE, 3000, 100)],
        }
    }

    #[test]
    fn net_is_less_the_empty_program_on_the_same_hook() {
        let sample =
            sample(vec![program("switch", 1400, 10), program("wakeup", 800, 10), program("fork", 45, 1)]);
        assert_eq!(net_ns(&sample, "switch"), Some(100.0));
        assert_eq!(net_ns(&sample, "wakeup"), Some(50.0));
        assert_eq!(net_ns(&sample, "fork"), Some(10.0));
        assert_eq!(net_ns(&sample, "exec"), None);
        assert_eq!(each_ns(&sample, Hook::Wake), 50.0);
        assert_eq!(hot_ns(&sample), (1000.0 + 500.0) / 10.0);
        assert_eq!(per_switch_ns(&sample, &[Hook::Switch, Hook::Wake, Hook::Other]), 151.0);
    }

    #[test]
    fn peers_programs_are_known_by_their_names() {
        assert_eq!(
            ["sched_switch", "handle_sched_w", "wakeup_new"].map(hook),
            [Hook::Switch, Hook::Wake, Hook::Wake]
        );
        assert_eq!(hook("exit"), Hook::Other);
    }

    #[test]
    fn bounds_compare_with_half_of_runqlat() {
        let series = |observer, programs| Series {
            load: "pipe",
            observer,
            samples: vec![sample(programs)],
            not_measured: None,
        };
        let ours = series(Observer::Managed, vec![program("switch", 1400, 10)]);
        let theirs = series(Observer::Runqlat, vec![program("sched_switch", 2200, 10)]);
        let bounds = load_bounds("pipe", &[&ours, &theirs]);
        assert_eq!(bounds.len(), 2, "{bounds:?}");
        assert!(bounds[0].holds());
        assert_eq!((bounds[1].measured, bounds[1].at_most), (100.0, 90.0));
        assert!(!bounds[1].holds());
    }
}
