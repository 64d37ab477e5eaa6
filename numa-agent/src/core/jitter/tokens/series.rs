//! Files of timestamps, one for each token: CSV with a header line, or JSON objects, one a line. The tokens of several
//! requests may stand between one another; each request's own stand in order.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Parts, Problem, csv, decimal};
use crate::core::jitter::file::At;

/// Names of a timestamp, before the unit.
const TIMES: [&str; 4] = ["timestamp", "time", "at", "t"];
/// Names of what tells requests apart.
const REQUESTS: [&str; 3] = ["request", "request_id", "id"];
/// What to call them, for messages.
const NAMES: &str = "name one timestamp_s, timestamp_ms, timestamp_us or timestamp_ns, and, where there are several requests, another request";

/// What a column or key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A time in units of 10^this nanoseconds.
    Time(i32),
    /// A time in who knows what.
    Unitless,
    Request,
    Other,
}

fn field(name: &str) -> Field {
    let name = name.trim().to_ascii_lowercase();
    if REQUESTS.contains(&name.as_str()) {
        return Field::Request;
    }
    if TIMES.contains(&name.as_str()) {
        return Field::Unitless;
    }
    let unit = decimal::UNITS
        .iter()
        .find(|(unit, _)| name.strip_suffix(unit).is_some_and(|time| TIMES.contains(&time)));
    unit.map_or(Field::Other, |(_, power)| Field::Time(*power))
}

/// Whether a JSON object with these keys may be a token of such a file.
pub fn is_token<'a>(mut keys: impl Iterator<Item = &'a str>) -> bool {
    keys.any(|key| !matches!(field(key), Field::Other | Field::Request))
}

/// Where the two stand among the names; the same for all tokens of a file.
struct Layout {
    time: usize,
    power: i32,
    request: Option<usize>,
}

fn layout<'a>(names: impl Iterator<Item = &'a str>, line: usize) -> Result<Layout, Problem> {
    let wrong = |problem: String| Err((At::Line(line), problem, NAMES.to_owned()));
    let (mut times, mut requests, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (index, name) in names.enumerate() {
        match field(name) {
            Field::Time(power) => times.push((index, power)),
            Field::Unitless => return wrong(format!("{name:?} does not say its unit")),
            Field::Request => requests.push(index),
            Field::Other => {}
        }
        all.push(name);
    }
    let named = |index: usize| all.get(index).copied().unwrap_or_default();
    match (&times[..], &requests[..]) {
        ([], _) => wrong(format!("no timestamp among {}", shown(&all))),
        ([(first, _), (second, _), ..], _) => {
            wrong(format!("{:?} and {:?} are both timestamps", named(*first), named(*second)))
        }
        (_, [first, second, ..]) => {
            wrong(format!("{:?} and {:?} both tell requests apart", named(*first), named(*second)))
        }
        ([(time, power)], requests) => {
            Ok(Layout { time: *time, power: *power, request: requests.first().copied() })
        }
    }
}

fn shown(names: &[&str]) -> String {
    const MANY: usize = 8;
    let some: Vec<String> = names.iter().take(MANY).map(|name| format!("{name:?}")).collect();
    some.join(", ") + if names.len() > MANY { " ..." } else { "" }
}

/// The requests so far, by name, each with its last token.
#[derive(Default)]
struct Series {
    last: HashMap<String, Last>,
    gaps: Vec<u64>,
}

struct Last {
    at_ns: u64,
    line: usize,
    /// It has more than one token.
    several: bool,
}

impl Series {
    fn token(&mut self, request: &str, time: &str, power: i32, line: usize) -> Result<(), Problem> {
        let at_ns = decimal::nanoseconds(time, power).map_err(|why| {
            let hint = "write the time since any beginning, as a decimal number";
            (At::Line(line), format!("the timestamp {time:?} {why}"), hint.to_owned())
        })?;
        let Some(last) = self.last.get_mut(request) else {
            self.last.insert(request.to_owned(), Last { at_ns, line, several: false });
            return Ok(());
        };
        let Some(gap) = at_ns.checked_sub(last.at_ns) else {
            let of = if request.is_empty() { String::new() } else { format!(" of request {request}") };
            let problem = format!("the timestamp {time}{of} is before that of line {}", last.line);
            let hint =
                "a request's tokens stand in the order of their times; a request column tells several apart";
            return Err((At::Line(line), problem, hint.to_owned()));
        };
        *last = Last { at_ns, line, several: true };
        self.gaps.push(gap);
        Ok(())
    }

    fn finish(self) -> Parts {
        let requests = self.last.values().filter(|last| last.several).count();
        let single = self.last.len() - requests;
        Parts { runs: 1, requests, single, gaps: self.gaps, ..Parts::default() }
    }
}

/// Reads CSV.
pub fn parse_csv(text: &str) -> Result<Parts, Problem> {
    let mut rows = csv::Rows::new(text);
    let Some(header) = rows.next().transpose()? else {
        return Err((At::File, "there is no line in it".into(), NAMES.into()));
    };
    let layout = layout(header.fields.iter().map(AsRef::as_ref), header.line)?;
    let mut series = Series::default();
    for row in rows {
        let row = row?;
        if row.fields.len() != header.fields.len() {
            let (count, named) = (row.fields.len(), header.fields.len());
            return Err((
                At::Line(row.line),
                format!("{count} fields, but the header names {named}"),
                "if the file was cut short, copy it again; text with commas in it stands in \"quotes\""
                    .into(),
            ));
        }
        let field = |index: usize| row.fields.get(index).map_or("", |field| field.trim());
        series.token(layout.request.map_or("", field), field(layout.time), layout.power, row.line)?;
    }
    Ok(series.finish())
}

/// Reads JSON objects, each with the line it begins in.
pub fn parse_jsonl<'a>(
    objects: impl Iterator<Item = Result<(usize, Token<'a>), Problem>>,
) -> Result<Parts, Problem> {
    let mut series = Series::default();
    let mut known: Option<Vec<String>> = None;
    for object in objects {
        let (line, Token(fields)) = object?;
        let layout = layout(fields.iter().map(|(name, _)| name.as_str()), line)?;
        let mut names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        let known = known.get_or_insert_with(|| names.clone());
        if *known != names {
            let expected: Vec<&str> = known.iter().map(String::as_str).collect();
            let problem = format!("not the keys of the lines before, {}", shown(&expected));
            let hint = "all lines have the same keys for timestamp and request";
            return Err((At::Line(line), problem, hint.to_owned()));
        }
        let raw = |index: usize| fields.get(index).map_or("", |(_, value)| value.get());
        series.token(layout.request.map_or("", raw), raw(layout.time), layout.power, line)?;
    }
    Ok(series.finish())
}

/// A JSON object's timestamps and request, as they are written, in order.
pub struct Token<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Token<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Token<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object for each token")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if field(&name) == Field::Other {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        fields.push((name, map.next_value()?));
                    }
                }
                Ok(Token(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(text: &str) -> Parts {
        parse_csv(text).unwrap_or_else(|problem| panic!("{problem:?} in {text}"))
    }

    fn refusal(text: &str) -> String {
        let (at, problem, _) = parse_csv(text).map(|parts| parts.gaps).expect_err(text);
        format!("{at}: {problem}")
    }

    #[test]
    fn requests_are_told_apart() {
        let parts = csv("request,timestamp_ms\na,1\nb,1.5\na,31\nb,31\nc,7\na,31\n");
        assert_eq!(parts.gaps, [30_000_000, 29_500_000, 0]);
        assert_eq!((parts.requests, parts.single), (2, 1));
        // Without such a column all tokens are of one request.
        let parts = csv("timestamp_ns\n5\n7\n");
        assert_eq!((parts.gaps, parts.requests, parts.single), (vec![2], 1, 0));
    }

    #[test]
    fn columns_are_found_by_name() {
        for header in ["t_us,x,id", "AT_US , token text, Request_Id", "\"time_us\",,request"] {
            assert_eq!(csv(&format!("{header}\n1,\"a,b\",q\n3.25,,q")).gaps, [2250], "{header}");
        }
        let unix = csv("timestamp_s\n1732320000.123456789\n1732320000.153456790\n");
        assert_eq!(unix.gaps, [30_000_001], "to the nanosecond");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("a,b\n1,2", ":1: no timestamp among \"a\", \"b\""),
            ("request,timestamp\n", ":1: \"timestamp\" does not say its unit"),
            ("t_s,time_ms\n", ":1: \"t_s\" and \"time_ms\" are both timestamps"),
            ("id,request,t_s\n", ":1: \"id\" and \"request\" both tell requests apart"),
            ("t_s\n1\n-2\n", ":3: the timestamp \"-2\" is negative"),
            ("t_s\n1\n\nnan\n", ":4: the timestamp \"nan\" is not a number"),
            ("t_s\n1\n2025-03-01T12:00:00Z\n", ":3: the timestamp \"2025-03-01T12:00:00Z\" is not a number"),
            ("t_s\n2\n1.5\n", ":3: the timestamp 1.5 is before that of line 2"),
            ("id,t_s\nx,2\ny,1\nx,1\n", ":4: the timestamp 1 of request x is before that of line 2"),
            ("id,t_s\nx,2\nx", ":3: 1 fields, but the header names 2"),
            ("id,t_s\nx,2,3", ":2: 3 fields, but the header names 2"),
        ];
        for (text, words) in cases {
            assert_eq!(refusal(text), words, "{text}");
        }
    }
}
