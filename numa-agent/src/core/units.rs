//! Figures for people: three digits, the unit that fits, and words for what was not measured.

use std::fmt::Display;

/// In place of a figure that was not measured.
pub const NOT_MEASURED: &str = "not measured";

/// `0`, `850 ns`, `12.3 us`, `1.24 ms`, `3.40 s`, `2 min 5 s`, `3 h 20 min`.
pub fn duration(ns: u64) -> String {
    match ns {
        0 => "0".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..999_500 => format!("{} us", three_digits(ns as f64 / 1e3)),
        999_500..999_500_000 => format!("{} ms", three_digits(ns as f64 / 1e6)),
        999_500_000..59_950_000_000 => format!("{} s", three_digits(ns as f64 / 1e9)),
        _ => {
            let seconds = ns / 1_000_000_000 + u64::from(ns % 1_000_000_000 >= 500_000_000);
            match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
                (0, minutes, 0) => format!("{minutes} min"),
                (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
                (hours, 0, _) => format!("{hours} h"),
                (hours, minutes, _) => format!("{hours} h {minutes} min"),
            }
        }
    }
}

/// The same of seconds, whole ones without a fraction; what is no sensible length is `0`.
pub fn seconds(seconds: f64) -> String {
    if (1.0..60.0).contains(&seconds) && seconds.fract() == 0.0 {
        return format!("{seconds} s");
    }
    // A cast from a float saturates, and makes zero of what is no number.
    duration((seconds * 1e9) as u64)
}

/// A share from 0 to 1 in percent, free of marks that a format gives a meaning: `0 %`, `under 0.01 %`, `0.42 %`, `12.3 %`, `100 %`.
pub fn share(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent <= 0.0 || percent.is_nan() => "0 %".to_owned(),
        _ if percent < 0.01 => "under 0.01 %".to_owned(),
        _ if percent < 99.95 => format!("{} %", three_digits(percent)),
        _ if percent < 100.0 => "over 99.9 %".to_owned(),
        _ => "100 %".to_owned(),
    }
}

/// `12`, `1,234`, `5,678,901`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 process`, `3 processes`: the number, the word, and what the word ends with if they are several.
pub fn many<N: Display + PartialEq + From<u8>>(count: N, one: &str, ending: &str) -> String {
    let ending = if count == N::from(1) { "" } else { ending };
    format!("{count} {one}{ending}")
}

/// The same with [`count`]'s separators.
pub fn counted(number: u64, one: &str, ending: &str) -> String {
    let ending = if number == 1 { "" } else { ending };
    format!("{} {one}{ending}", count(number))
}

/// `12`, `1.23k`, `45.6M`: where there is little room.
pub fn short_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..999_500 => format!("{}k", three_digits(count as f64 / 1e3)),
        999_500..999_500_000 => format!("{}M", three_digits(count as f64 / 1e6)),
        _ => format!("{}G", three_digits(count as f64 / 1e9)),
    }
}

/// `512 B`, `3.50 MiB`, `120 GiB`.
pub fn bytes(bytes: u64) -> String {
    let unit = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut at = 0;
    while size >= 999.5 && at + 1 < unit.len() {
        (size, at) = (size / 1024.0, at + 1);
    }
    format!("{} {}", three_digits(size), unit[at])
}

/// What `show` makes of a figure, or that it was not measured.
pub fn or_not_measured<T>(figure: Option<T>, show: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| NOT_MEASURED.to_owned(), show)
}

fn three_digits(value: f64) -> String {
    match value {
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_fit_the_size() {
        let durations = [
            (0, "0"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_500_000, "1.00 s"),
            (59_949_999_999, "59.9 s"),
            (59_999_999_999, "1 min"),
            (125_000_000_000, "2 min 5 s"),
            (3_600_000_000_000, "1 h"),
            (12_000_000_000_000, "3 h 20 min"),
        ];
        for (ns, shown) in durations {
            assert_eq!(duration(ns), shown);
        }
        let shares = [
            (0.0, "0 %"),
            (1e-9, "under 0.01 %"),
            (0.0042, "0.42 %"),
            (0.99999, "over 99.9 %"),
            (1.0, "100 %"),
        ];
        for (part, shown) in shares {
            assert_eq!(share(part), shown);
        }
        assert_eq!([count(999), count(1_000), count(1_234_567)], ["999", "1,000", "1,234,567"]);
        assert_eq!(
            [short_count(999), short_count(1_234), short_count(45_600_000)],
            ["999", "1.23k", "45.6M"]
        );
        assert_eq!([bytes(512), bytes(3_670_016), bytes(120 << 30)], ["512 B", "3.50 MiB", "120 GiB"]);
        assert_eq!(or_not_measured(None::<u64>, count), "not measured");
    }

    #[test]
    fn what_is_no_number_does_not_show() {
        for odd in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            assert_eq!((share(odd), seconds(odd)), ("0 %".into(), "0".into()));
        }
        assert_eq!([seconds(10.0), seconds(1.5), seconds(60.0)], ["10 s", "1.50 s", "1 min"]);
        assert!(!seconds(f64::INFINITY).contains("inf"));
    }

    proptest! {
        #[test]
        fn all_are_short(any in any::<u64>()) {
            for shown in [duration(any), short_count(any), bytes(any)] {
                prop_assert!(shown.len() <= 20, "{shown}");
            }
        }
    }
}
