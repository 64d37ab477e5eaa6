//! Scales and the frame that curves are drawn in: from values to pixels, and round numbers at the edges.

use std::fmt::Write as _;

/// Size of the drawing, in the units that the page scales.
pub(super) const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 26.0;

/// Values along an axis, with the ticks that carry a label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    log: bool,
    /// Value and label.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// From 0 to at least `most`; `least_top`: and not less than that. Labels by `label`, of a value and the step.
    pub fn linear(most: f64, least_top: f64, label: impl Fn(f64, f64) -> String) -> Self {
        let top = if most.is_finite() { most.max(least_top) } else { least_top };
        let step = round_up(top / 4.0);
        let steps = (top / step).ceil().max(1.0) as u32;
        let ticks = (0..=steps).map(|index| f64::from(index) * step);
        let ticks: Vec<(f64, String)> = ticks.map(|value| (value, label(value, step))).collect();
        Self { from: 0.0, to: f64::from(steps) * step, log: false, ticks }
    }

    /// Time from 0 to exactly `seconds`.
    pub fn time(seconds: f64) -> Self {
        const STEPS: [f64; 17] = [
            1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
            21600.0, 43200.0, 86400.0,
        ];
        let wanted = seconds / 7.0;
        let step = if wanted < 0.5 {
            round_up(wanted)
        } else {
            let fits = STEPS.into_iter().find(|step| *step >= wanted);
            fits.unwrap_or_else(|| 86400.0 * round_up(wanted / 86400.0))
        };
        let (unit, name) = match step {
            _ if step < 60.0 => (1.0, "s"),
            _ if step < 3600.0 => (60.0, "min"),
            _ if step < 86400.0 => (3600.0, "h"),
            _ => (86400.0, "days"),
        };
        let count = (seconds / step).floor().min(20.0) as u32;
        let label =
            |value: f64| if value == 0.0 { "0".into() } else { format!("{} {name}", plain(value / unit)) };
        let ticks = (0..=count).map(|index| f64::from(index) * step);
        Self { from: 0.0, to: seconds, log: false, ticks: ticks.map(|value| (value, label(value))).collect() }
    }

    /// Durations from the shortest to the longest, at round numbers.
    pub fn durations(shortest_ns: f64, longest_ns: f64) -> Self {
        let mut from = round_down(shortest_ns.clamp(1.0, 1e12));
        let mut to = round_up(longest_ns.clamp(from, 1e13));
        if to <= from {
            to = round_up(from * 1.5);
        }
        let mut all = vec![from];
        while let Some(last) = all.last().copied().filter(|last| *last < to * 0.999) {
            all.push(round_up(last * 1.01));
        }
        // A short stretch would make much of little.
        while all.len() < 4 && from > 1.0 {
            from = round_down(from * 0.99);
            all.insert(0, from);
        }
        let decades_only = all.len() > 8;
        let is_decade = |value: f64| (value.log10() - value.log10().round()).abs() < 1e-6;
        let ticks = all.into_iter().filter(|value| !decades_only || is_decade(*value));
        let ticks = ticks.map(|value| (value, duration_label(value))).collect();
        Self { from, to, log: true, ticks }
    }

    /// Percentiles as HDR plots have them: each nine takes as much room.
    pub fn percentiles(nines: f64) -> Self {
        let names = ["90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
        let whole = names.iter().enumerate().map(|(index, name)| (index as f64 + 1.0, (*name).to_owned()));
        let mut ticks = vec![(2f64.log10(), "50 %".to_owned())];
        ticks.extend(whole.filter(|(at, _)| *at <= nines + 1e-9));
        Self { from: 0.0, to: nines, log: false, ticks }
    }

    /// Where a value is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let at = if self.log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if at.is_finite() { at.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// An empty drawing with its two axes.
pub(super) struct Plot {
    x: Scale,
    y: Scale,
    svg: String,
}

impl Plot {
    /// `title` is for those who do not see the drawing; escaped already.
    pub fn new(x: Scale, y: Scale, title: &str) -> Self {
        let mut plot = Self { x, y, svg: String::new() };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        for (value, label) in &plot.y.ticks {
            let y = plot.at(0.0, *value).1;
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 7.0,
                y + 4.0
            );
        }
        for (value, label) in &plot.x.ticks {
            let x = plot.at(*value, 0.0).0;
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
            );
            // A label at the very end stays inside.
            let anchor = if x > right - 20.0 { "end" } else { "middle" };
            let x = if anchor == "end" { right } else { x };
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
                bottom + 16.0
            );
        }
        let _ = write!(
            svg,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>",
            right - LEFT,
            bottom - TOP
        );
        plot.svg = svg;
        plot
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        (LEFT + self.x.share(x) * width, TOP + (1.0 - self.y.share(y)) * height)
    }

    /// A line through points; it breaks where there is none, and a point alone is a dot.
    pub fn line(&mut self, class: &str, points: &[Option<(f64, f64)>]) {
        for run in points.split(Option::is_none).filter(|run| !run.is_empty()) {
            let at: Vec<(f64, f64)> = run.iter().flatten().map(|(x, y)| self.at(*x, *y)).collect();
            if let [(x, y)] = at[..] {
                let _ =
                    write!(self.svg, "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>");
                continue;
            }
            let points: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = write!(self.svg, "<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" "));
        }
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, point: (f64, f64)) {
        self.line(class, &[Some(point)]);
    }

    pub fn finish(self) -> String {
        self.svg + "</svg>"
    }
}

/// The next 1, 2 or 5 times a power of ten that is not less.
fn round_up(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powi(value.log10().floor() as i32);
    let round =
        [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|round| *round >= value * 0.999_999);
    round.unwrap_or(10.0 * power)
}

/// The same that is not more.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powi(value.log10().floor() as i32);
    let round = [5.0, 2.0].into_iter().map(|factor| factor * power).find(|round| *round <= value * 1.000_001);
    round.unwrap_or(power)
}

/// Without zeros behind.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn duration_label(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{} ns", plain(ns)),
        _ if ns < 1e6 => format!("{} us", plain(ns / 1e3)),
        _ if ns < 1e9 => format!("{} ms", plain(ns / 1e6)),
        _ => format!("{} s", plain(ns / 1e9)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        let percent = |value: f64, _: f64| format!("{} %", plain(value));
        assert_eq!(labels(&Scale::linear(9.3, 1.0, percent)), ["0 %", "5 %", "10 %"]);
        assert_eq!(labels(&Scale::linear(0.0, 1.0, percent)), ["0 %", "0.5 %", "1 %"]);
        assert_eq!(labels(&Scale::time(60.0)), ["0", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]);
        assert_eq!(labels(&Scale::time(0.9)), ["0", "0.2 s", "0.4 s", "0.6 s", "0.8 s"]);
        assert_eq!(labels(&Scale::time(7200.0)), ["0", "30 min", "60 min", "90 min", "120 min"]);
        assert_eq!(labels(&Scale::durations(2_300.0, 41_000.0)), ["2 us", "5 us", "10 us", "20 us", "50 us"]);
        assert_eq!(labels(&Scale::durations(31_000.0, 42_000.0)), ["5 us", "10 us", "20 us", "50 us"]);
        let wide = Scale::durations(200.0, 24e6);
        assert_eq!(labels(&wide), ["1 us", "10 us", "100 us", "1 ms", "10 ms"]);
        assert_eq!(labels(&Scale::percentiles(3.2)), ["50 %", "90 %", "99 %", "99.9 %"]);
    }

    proptest! {
        #[test]
        fn every_value_has_a_place(a in any::<f64>(), b in any::<f64>(), value in any::<f64>()) {
            let label = |value: f64, _: f64| plain(value);
            for scale in [Scale::linear(a, 1.0, label), Scale::durations(a, b), Scale::percentiles(b.abs().clamp(1.0, 8.0))] {
                prop_assert!((1..=40).contains(&scale.ticks.len()), "{scale:?}");
                let share = scale.share(value);
                prop_assert!((0.0..=1.0).contains(&share), "{share} in {scale:?}");
            }
        }

        #[test]
        fn time_has_few_ticks(seconds in 1e-6..1e9f64) {
            let ticks = Scale::time(seconds).ticks.len();
            prop_assert!((1..=9).contains(&ticks), "{ticks}");
        }
    }
}
