//! What each run of a program takes, by the kernel's run statistics, less what an empty program takes beside it.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    Sample, Series, Session,
    empty::{SWITCH, WAKE},
    fdinfo::Program,
    figures::{Bound, median},
    load::Load,
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

/// Measures it with two processes on one CPU.
///
/// # Errors
/// If our own CPU mask cannot be read.
pub fn pipe(session: &Session) -> Result<Section> {
    section(session, "events-pipe", session.pipe()?)
}

/// Measures it with many processes on all CPUs.
///
/// # Errors
/// Never.
pub fn messaging(session: &Session) -> Result<Section> {
    section(session, "events-messaging", session.messaging())
}

fn section(session: &Session, name: &'static str, load: Load) -> Result<Section> {
    let all = session.compare(&OBSERVERS, load, true);
    let programs = Table {
        title: format!("{name}: programs, {load:?}"),
        columns: vec!["program", "runs", "ns, median", "net, median", "net, best", "empty beside it"],
        rows: all.iter().flat_map(program_rows).collect(),
    };
    let switches = Table {
        title: format!("{name}: net ns for each switch"),
        columns: vec!["observer", "switch + wake-up programs, median", "best", "all programs", "samples"],
        rows: all.iter().map(switch_row).collect(),
    };
    let bounds = load_bounds(load.name(), &all);
    let (failures, data) = (Series::failures(&all), serde_json::to_value(&all)?);
    Ok(Section { name, tables: vec![programs, switches], bounds, failures, data })
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

/// Runs of the switch program.
#[must_use]
pub fn switches(programs: &[Program]) -> u64 {
    let switches = programs.iter().filter(|program| hook(&program.name) == Hook::Switch);
    switches.map(|program| program.run_count).sum()
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
    let row = |(name, runs): (&str, f64)| {
        let net = |sample: &Sample| net_ns(sample, name).unwrap_or(f64::NAN);
        let empty = |sample: &Sample| empty_ns(sample, hook(name));
        vec![
            format!("{title}: {name}"),
            format!("{runs:.0}"),
            format!("{:.0}", series.median(|sample| net(sample) + empty(sample))),
            format!("{:.0}", series.median(net)),
            format!("{:.0}", series.best(net)),
            format!("{:.0}", series.median(empty)),
        ]
    };
    by_runs.into_iter().filter(|(_, runs)| *runs >= FEW).map(row).collect()
}

fn switch_row(series: &Series) -> Vec<String> {
    let title = series.observer.title().to_owned();
    if let Some(why) = &series.not_measured {
        return vec![format!("{title}: {why}")];
    }
    let all = |sample: &Sample| per_switch_ns(sample, &[Hook::Switch, Hook::Wake, Hook::Other]);
    let (hot, best, all) = (series.median(hot_ns), series.best(hot_ns), series.median(all));
    vec![title, format!("{hot:.0}"), format!("{best:.0}"), format!("{all:.0}"), series.count()]
}

fn load_bounds(load: &str, all: &[Series]) -> Vec<Bound> {
    let of = |observer: Observer| {
        all.iter().find(|series| series.observer == observer && !series.samples.is_empty())
    };
    let bound = |series: &Series, what: &str, figure: &dyn Fn(&Sample) -> f64, at_most: f64| Bound {
        what: format!("{load}, {what}"),
        measured: series.median(figure),
        at_most,
        unit: "ns",
        noisy: series.is_noisy(),
    };
    let (switch, wake) =
        (|sample: &_| each_ns(sample, Hook::Switch), |sample: &_| each_ns(sample, Hook::Wake));
    let mut bounds = Vec::new();
    if let Some(ours) = of(Observer::Managed) {
        bounds.push(bound(ours, "load managed: switch program, net", &switch, SWITCH_AT_MOST_NS));
        bounds.extend(of(Observer::Runqlat).map(|theirs| {
            let what = "load managed: switch and wake-up for each switch, net, to half of runqlat's";
            let bound = bound(ours, what, &hot_ns, theirs.median(hot_ns) / 2.0);
            Bound { noisy: bound.noisy || theirs.is_noisy(), ..bound }
        }));
    }
    if let Some(ours) = of(Observer::Unmanaged) {
        bounds.push(bound(ours, "load not managed: switch program, net", &switch, UNMANAGED_AT_MOST_NS));
        bounds.push(bound(ours, "load not managed: wake-up program, net", &wake, UNMANAGED_AT_MOST_NS));
    }
    bounds
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
        let bounds = load_bounds("pipe", &[ours, theirs]);
        assert_eq!(bounds.len(), 2, "{bounds:?}");
        assert!(bounds[0].holds());
        assert_eq!((bounds[1].measured, bounds[1].at_most), (100.0, 90.0));
        assert!(!bounds[1].holds());
        assert!(!bounds[0].noisy && !bounds[1].noisy);
    }

    #[test]
    fn a_bound_is_as_noisy_as_the_noisier_side_and_one_quiet_sample_is_enough() {
        let series = |observer, stolen: &[f64]| {
            let of = |stolen: &f64| Sample {
                noise: Noise { stolen: *stolen, foreign: 0.0 },
                ..sample(vec![program("switch", 1400, 10)])
            };
            let samples = stolen.iter().map(of).collect();
            Series { load: "pipe", observer, samples, not_measured: None }
        };
        let noisy = |ours: &[f64], theirs: &[f64]| {
            let all = [series(Observer::Managed, ours), series(Observer::Runqlat, theirs)];
            load_bounds("pipe", &all).iter().map(|bound| bound.noisy).collect::<Vec<_>>()
        };
        assert_eq!(noisy(&[0.5, 0.0], &[0.0]), [false, false]);
        assert_eq!(noisy(&[0.0], &[0.5, 0.5]), [false, true]);
        assert_eq!(noisy(&[0.5], &[0.0]), [true, true]);
    }
}
