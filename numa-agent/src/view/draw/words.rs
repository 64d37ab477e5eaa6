//! Names and figures where there is little room. What was not measured is `-`, and never 0.

use crate::core::{idset::CpuSet, task::ThreadRole};

/// In place of a figure that was not measured.
pub const NONE: &str = "-";

/// The role's letter.
#[must_use]
pub const fn role_letter(role: ThreadRole) -> &'static str {
    match role {
        ThreadRole::Member => "M",
        ThreadRole::Forward => "F",
        ThreadRole::Other => "O",
    }
}

/// Socket and index of a group of the plan's usual names.
fn numbers(name: &str) -> Option<(&str, &str)> {
    let (socket, index) = name.strip_prefix("socket")?.split_once("_group")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(socket) && is_number(index)).then_some((socket, index))
}

/// `s0.g1` for `socket0_group1`; other names as they are.
#[must_use]
pub fn group_short(name: &str) -> String {
    numbers(name).map_or_else(|| name.to_owned(), |(socket, index)| format!("s{socket}.g{index}"))
}

/// `g1` for `socket0_group1`, where the socket is clear; other names as they are.
#[must_use]
pub fn group_index(name: &str) -> String {
    numbers(name).map_or_else(|| name.to_owned(), |(_, index)| format!("g{index}"))
}

/// At most five columns: `850ns`, `12us`, `1.2ms`, `340ms`, `3.4s`, `125s`, `52m`, `4h`.
#[must_use]
pub fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..9_950 => format!("{:.1}us", ns as f64 / 1e3),
        9_950..999_500 => format!("{:.0}us", ns as f64 / 1e3),
        999_500..9_950_000 => format!("{:.1}ms", ns as f64 / 1e6),
        9_950_000..999_500_000 => format!("{:.0}ms", ns as f64 / 1e6),
        999_500_000..9_950_000_000 => format!("{:.1}s", ns as f64 / 1e9),
        9_950_000_000..999_500_000_000 => format!("{:.0}s", ns as f64 / 1e9),
        _ => match ns / 60_000_000_000 {
            minutes @ 0..1_000 => format!("{minutes}m"),
            minutes @ 1_000..60_000 => format!("{}h", minutes / 60),
            minutes => format!("{}d", (minutes / 1440).min(9999)),
        },
    }
}

/// At most five columns: `0`, `0.25`, `3.2`, `47`, `1.2k`, `340M`.
#[must_use]
pub fn rate(value: f64) -> String {
    match value {
        _ if value.is_nan() || value <= 0.0 => "0".to_owned(),
        _ if value < 0.995 => format!("{:.2}", value.max(0.01)),
        _ if value < 9.95 => format!("{value:.1}"),
        _ if value < 999.5 => format!("{value:.0}"),
        _ if value < 9_950.0 => format!("{:.1}k", value / 1e3),
        _ if value < 999_500.0 => format!("{:.0}k", value / 1e3),
        _ if value < 9_950_000.0 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.0}M", (value / 1e6).min(9999.0)),
    }
}

/// Percent in at most four columns: `0`, `<0.1`, `0.4`, `3.2`, `47`, `100`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent.is_nan() || percent <= 0.0 => "0".to_owned(),
        _ if percent < 0.05 => "<0.1".to_owned(),
        _ if percent < 9.95 => format!("{percent:.1}"),
        _ => format!("{:.0}", percent.min(9999.0)),
    }
}

/// At most three columns: `7`, `999`, `1k`, `99k`, `.2M`, `12M`, `.3G`.
#[must_use]
pub fn short_count(count: u64) -> String {
    let (unit, letter) = match count {
        0..1_000 => return count.to_string(),
        1_000..1_000_000 => (1_000, 'k'),
        1_000_000..1_000_000_000 => (1_000_000, 'M'),
        _ => (1_000_000_000, 'G'),
    };
    match count / unit {
        whole @ 0..100 => format!("{whole}{letter}"),
        whole => match letter {
            'k' => format!(".{}M", whole / 100),
            'M' => format!(".{}G", whole / 100),
            _ => "99G".to_owned(),
        },
    }
}

/// A length of time: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
#[must_use]
pub fn span(seconds: f64) -> String {
    // A cast from a float saturates, and makes zero of what is no number.
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// An interval's length: `200 ms`, `1 s`, `1.5 s`, `1 min`.
#[must_use]
pub fn interval(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{} s", ms as f64 / 1e3),
        _ => format!("{} min", ms as f64 / 6e4),
    }
}

/// A CPU list, or a word that it is empty.
#[must_use]
pub fn cpus(cpus: &CpuSet) -> String {
    if cpus.is_empty() { "no CPUs".to_owned() } else { cpus.to_string() }
}

/// Ids with commas.
#[must_use]
pub fn ids(ids: &[u32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures_keep_their_units() {
        let times = [
            (0, "0ns"),
            (999, "999ns"),
            (1_200, "1.2us"),
            (9_950, "10us"),
            (999_499, "999us"),
            (999_500, "1.0ms"),
            (12_000_000, "12ms"),
            (3_400_000_000, "3.4s"),
            (3_600_000_000_000, "60m"),
        ];
        for (ns, shown) in times {
            assert_eq!(time(ns), shown);
        }
        assert_eq!(
            [0.0, 0.004, 0.3, 3.12, 47.1, 1234.0, f64::NAN].map(rate),
            ["0", "0.01", "0.30", "3.1", "47", "1.2k", "0"]
        );
        assert_eq!([0.0, 0.0001, 0.004, 0.0999, 1.0].map(percent), ["0", "<0.1", "0.4", "10", "100"]);
        assert_eq!(
            [7, 999, 1_999, 99_999, 100_000, 12_000_000].map(short_count),
            ["7", "999", "1k", "99k", ".1M", "12M"]
        );
        assert_eq!([5.9, 300.0, 12_000.0, 190_000.0].map(span), ["5 s", "5 min", "3 h 20 min", "2 d 4 h"]);
        assert_eq!([200, 1_000, 1_500, 60_000].map(interval), ["200 ms", "1 s", "1.5 s", "1 min"]);
    }

    #[test]
    fn groups_have_short_names_where_they_have_the_usual_ones() {
        assert_eq!([group_short("socket8442_group3"), group_index("socket0_group11")], ["s8442.g3", "g11"]);
        for odd in ["socket_group1", "socketx_group1", "web", ""] {
            assert_eq!([group_short(odd), group_index(odd)], [odd, odd]);
        }
    }

    proptest! {
        #[test]
        fn all_are_as_short_as_their_columns(count in any::<u64>(), value in any::<f64>()) {
            prop_assert!(time(count).len() <= 5, "{}", time(count));
            prop_assert!(short_count(count).len() <= 3, "{}", short_count(count));
            prop_assert!(rate(value).len() <= 5, "{}", rate(value));
            prop_assert!(percent(value).len() <= 4, "{}", percent(value));
        }
    }
}
