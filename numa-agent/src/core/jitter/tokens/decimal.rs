//! Decimal numbers as exact nanoseconds: binary fractions hold a Unix time in seconds only to the quarter of a microsecond.

/// Units of time that names end in.
pub const UNITS: [(&str, i32); 4] = [("_s", 9), ("_ms", 6), ("_us", 3), ("_ns", 0)];

/// Digits that a number may have.
const MAX_DIGITS: usize = 36;

/// A number such as `1732320000.123456789` or `1.5e3` in units of 10^`power` nanoseconds, rounded to the nanosecond.
///
/// # Errors
/// What it is instead of a time, in words that follow the number.
pub fn nanoseconds(text: &str, power: i32) -> Result<u64, &'static str> {
    const NO_NUMBER: &str = "is not a number";
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i16>().map_err(|_| NO_NUMBER)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() && fraction.is_empty() || !digits().all(|digit| digit.is_ascii_digit()) {
        return Err(NO_NUMBER);
    }
    if digits().count() > MAX_DIGITS {
        return Err("has too many digits");
    }
    let value = digits().fold(0u128, |value, digit| value * 10 + u128::from(digit - b'0'));
    if negative && value > 0 {
        return Err("is negative");
    }
    let power = power + i32::from(exponent) - fraction.len() as i32;
    let scale = 10u128.checked_pow(power.unsigned_abs());
    let nanoseconds = match scale {
        // That small, or that large.
        None if power < 0 || value == 0 => Some(0),
        None => None,
        Some(scale) if power < 0 => Some((value + scale / 2) / scale),
        Some(scale) => value.checked_mul(scale),
    };
    nanoseconds.and_then(|ns| u64::try_from(ns).ok()).ok_or("is too large for a time")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_exact() {
        let cases = [
            ("1732320000.123456789", 9, 1_732_320_000_123_456_789),
            ("0", 9, 0),
            ("-0.0", 9, 0),
            ("+1.5", 6, 1_500_000),
            (".5", 3, 500),
            ("7.", 0, 7),
            ("1.4", 0, 1),
            ("1.5", 0, 2),
            ("1.5e3", 0, 1500),
            ("2500E-1", 3, 250_000),
            ("1e-300", 9, 0),
            ("18446744073709551615", 0, u64::MAX),
        ];
        for (text, power, ns) in cases {
            assert_eq!(nanoseconds(text, power), Ok(ns), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", ".", "-", "x", "1,5", "1.2.3", "NaN", "inf", "Infinity", "1e", "0x1", "1 ", "1e99999", "١"]
        {
            assert_eq!(nanoseconds(text, 9), Err("is not a number"), "{text}");
        }
        assert_eq!(nanoseconds("-1e-9", 9), Err("is negative"));
        assert_eq!(nanoseconds("18446744073709551616", 0), Err("is too large for a time"));
        assert_eq!(nanoseconds("1e300", 9), Err("is too large for a time"));
        assert_eq!(nanoseconds(&"1".repeat(40), 0), Err("has too many digits"));
    }

    proptest! {
        #[test]
        fn seconds_with_nine_places_come_back(ns in any::<u64>()) {
            let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
            prop_assert_eq!(nanoseconds(&text, 9), Ok(ns));
        }

        #[test]
        fn no_text_is_too_strange(text in ".*", power in 0..10i32) {
            let _ = nanoseconds(&text, power);
        }
    }
}
