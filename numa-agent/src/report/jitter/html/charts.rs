//! The drawn curves: percentiles of run-queue waits, and what happened over time.

use super::axis::{Plot, Scale, plain};
use crate::{
    core::jitter::{distribution::Distribution, recording::IntervalFigures},
    report::jitter::{
        digest::{Digest, RoleOrder, Timeline, role_name},
        units::{NOT_MEASURED, duration, share},
    },
};

/// More nines than this are not drawn.
const MOST_NINES: f64 = 6.3;

/// How long waits were, by percentile and role.
pub(super) fn percentiles(digest: &Digest) -> String {
    let waits: Vec<(RoleOrder, Distribution)> =
        digest.roles.iter().map(|(role, part)| (*role, part.rollup.figures.wait())).collect();
    let lines: Vec<(RoleOrder, Line)> = waits
        .iter()
        .filter(|(_, waits)| waits.count > 0)
        .map(|(role, waits)| (*role, curve(waits).into_iter().map(Some).collect()))
        .collect();
    let points = || lines.iter().flat_map(|(_, line)| line.iter().flatten());
    if lines.is_empty() {
        return empty("No wait for a CPU was seen.");
    }
    let nines = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let shortest = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let longest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    let title = "Run-queue wait by percentile and role";
    let mut plot = Plot::new(Scale::percentiles(nines), Scale::durations(shortest, longest), title);
    for (role, line) in lines.iter().rev() {
        plot.line(&class(digest, *role), line);
        if let Some(last) = line.last().copied().flatten() {
            plot.dot(&class(digest, *role), last);
        }
    }
    let longest = |role: &RoleOrder| {
        let waits = waits.iter().find(|(of, waits)| of == role && waits.count > 0);
        waits.map_or("no wait seen".to_owned(), |(_, waits)| format!("max {}", duration(waits.max_ns)))
    };
    key(digest, longest) + &plot.finish()
}

/// Points along a distribution: nines of the share that is not longer, and how long in nanoseconds.
fn curve(waits: &Distribution) -> Vec<(f64, f64)> {
    let hdr = waits.to_hdr();
    let most = (waits.count as f64).log10().clamp(1.0, MOST_NINES);
    let mut points = Vec::new();
    for step in hdr.iter_recorded() {
        let longer = 1.0 - step.quantile_iterated_to();
        let nines = if longer > 0.0 { (-longer.log10()).clamp(0.0, most) } else { most };
        let ns = step.value_iterated_to().min(waits.max_ns).max(1) as f64;
        if points.is_empty() {
            points.push((0.0, ns));
        }
        points.push((nines, ns));
    }
    points.push((most, waits.max_ns.max(1) as f64));
    points
}

/// The share of CPU time off node.
pub(super) fn off_node(digest: &Digest, timeline: &Timeline) -> String {
    let known =
        |role: RoleOrder| timeline.off_node(role).into_iter().map(|part| part.map(|part| part * 100.0));
    let lines = lines(timeline, known);
    let percent = |value: f64, _: f64| format!("{} %", plain(value));
    let peak = |line: &[f64]| format!("at most {}", share(peak(line) / 100.0));
    over_time(digest, timeline, &lines, "Share of CPU time off node over time", peak, |most| {
        Scale::linear(most, 1.0, percent)
    })
}

/// Moves between nodes in a second.
pub(super) fn moves(digest: &Digest, timeline: &Timeline) -> String {
    let length = timeline.seconds / timeline.bins as f64;
    let rate = |bin: IntervalFigures| Some(bin.node_migrations? as f64 / length);
    let lines = lines(timeline, |role| each(timeline, role, rate));
    let peak = |line: &[f64]| format!("at most {}", rounded(peak(line)));
    over_time(digest, timeline, &lines, "Moves between nodes per second over time", peak, |most| {
        Scale::linear(most, 1.0, |value, _| plain(value))
    })
}

/// A duration of each interval's waits.
pub(super) fn waits(
    digest: &Digest,
    timeline: &Timeline,
    title: &str,
    of: fn(&IntervalFigures) -> u64,
) -> String {
    let wait = |bin: IntervalFigures| Some(of(&bin) as f64).filter(|_| bin.waits > 0);
    let lines = lines(timeline, |role| each(timeline, role, wait));
    let all = || lines.iter().flat_map(|(_, line)| line.iter().flatten()).map(|(_, y)| *y);
    let shortest = all().fold(f64::INFINITY, f64::min);
    let peak = |line: &[f64]| format!("at most {}", duration(peak(line) as u64));
    over_time(digest, timeline, &lines, title, peak, |most| Scale::durations(shortest, most))
}

type Line = Vec<Option<(f64, f64)>>;

fn each(
    timeline: &Timeline,
    role: RoleOrder,
    of: impl Fn(IntervalFigures) -> Option<f64>,
) -> impl Iterator<Item = Option<f64>> {
    let bins = timeline.roles.get(&role).map_or(&[][..], Vec::as_slice);
    bins.iter().map(move |bin| bin.and_then(&of))
}

/// A line for each role, at the middle of each part of the time.
fn lines<I: Iterator<Item = Option<f64>>>(
    timeline: &Timeline,
    values: impl Fn(RoleOrder) -> I,
) -> Vec<(RoleOrder, Line)> {
    let length = timeline.seconds / timeline.bins as f64;
    let at = |(bin, value): (usize, Option<f64>)| value.map(|value| ((bin as f64 + 0.5) * length, value));
    timeline.roles.keys().map(|role| (*role, values(*role).enumerate().map(at).collect())).collect()
}

fn over_time(
    digest: &Digest,
    timeline: &Timeline,
    lines: &[(RoleOrder, Line)],
    title: &str,
    about: impl Fn(&[f64]) -> String,
    scale: impl FnOnce(f64) -> Scale,
) -> String {
    let values = |line: &Line| line.iter().flatten().map(|(_, y)| *y).collect::<Vec<f64>>();
    if lines.iter().all(|(_, line)| values(line).is_empty()) {
        return empty(if timeline.roles.is_empty() {
            "Nothing was recorded over time."
        } else {
            NOT_MEASURED
        });
    }
    let most = lines.iter().map(|(_, line)| peak(&values(line))).fold(0.0, f64::max);
    let mut plot = Plot::new(Scale::time(timeline.seconds), scale(most), title);
    for (role, line) in lines.iter().rev() {
        plot.line(&class(digest, *role), line);
    }
    let of = |role: &RoleOrder| {
        let line = lines.iter().find(|(of, _)| of == role).map(|(_, line)| values(line));
        line.filter(|line| !line.is_empty()).map_or(NOT_MEASURED.to_owned(), |line| about(&line))
    };
    key(digest, of) + &plot.finish()
}

fn peak(line: &[f64]) -> f64 {
    line.iter().copied().fold(0.0, f64::max)
}

fn rounded(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { plain((value * 10.0).round() / 10.0) }
}

/// Which line is whose, with a word about it.
fn key(digest: &Digest, about: impl Fn(&RoleOrder) -> String) -> String {
    let entry = |role: &RoleOrder| {
        format!(
            "<span><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\"><line class=\"line {}\" x1=\"0\" x2=\"28\" y1=\"5\" y2=\"5\"/></svg>\
             {}: {}</span>",
            class(digest, *role),
            role_name(*role, digest.planned()),
            about(role)
        )
    };
    format!("<div class=\"key\">{}</div>", digest.roles.keys().map(entry).collect::<String>())
}

/// The most critical role there is has the line that catches the eye.
fn class(digest: &Digest, role: RoleOrder) -> String {
    format!("r{}", digest.roles.keys().position(|known| *known == role).unwrap_or_else(|| role.index()))
}

fn empty(words: &str) -> String {
    format!("<p class=\"dim\">{words}</p>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    #[test]
    fn a_curve_ends_at_the_longest_and_never_falls() {
        let waits = synthetic::durations(20_000, 3_000, 0.6, 90_000);
        let points = curve(&waits);
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{points:?}");
        assert_eq!(points[0].0, 0.0);
        assert_eq!(*points.last().unwrap(), ((waits.count as f64).log10(), waits.max_ns as f64));
        let half = points.iter().find(|(nines, _)| *nines >= 2f64.log10()).unwrap();
        let median = waits.quantile_ns(0.5).unwrap() as f64;
        assert!((half.1 / median - 1.0).abs() < 0.1, "{half:?} {median}");
    }

    #[test]
    fn one_interval_is_a_dot_and_none_is_words() {
        let mut recording = synthetic::two_cpus();
        recording.intervals.truncate(1);
        let digest = Digest::new(&recording);
        let drawn = off_node(&digest, &digest.timeline(60));
        assert!(drawn.contains("<circle") && !drawn.contains("<polyline"), "{drawn}");
        let nothing = synthetic::nothing();
        let digest = Digest::new(&nothing);
        assert!(!off_node(&digest, &digest.timeline(60)).contains("<svg viewBox=\"0 0 600"));
        assert!(percentiles(&digest).contains("No wait"));
    }
}
