//! A recording as the text of a file: printed, read back, refused with what is wrong, where, and what to do. Reads no file.

use std::fmt;

use numa_ebpf::histogram::{BUCKETS, lowest_ns};
use serde::Deserialize;
use serde_json::{Value, error::Category};

use super::{
    distribution::Distribution,
    recording::{KIND, Recording, SCHEMA},
};

/// Why a text is no recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{at}: {problem}; {hint}")]
pub struct FileError {
    /// The file, as the user named it.
    pub file: String,
    /// Where in it.
    pub at: At,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The whole of it.
    File,
    /// A character, both from 1.
    Position {
        /// Line.
        line: usize,
        /// Column, in bytes.
        column: usize,
    },
    /// A line, from 1.
    Line(usize),
    /// A value in the file's only document.
    Key(String),
    /// A value in a document of one line.
    KeyInLine {
        /// From 1.
        line: usize,
        /// The value.
        key: String,
    },
}

impl fmt::Display for At {
    /// `:3:17`, `:3: itls[0]`, `: itls[0]`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Position { line, column } => write!(f, ":{line}:{column}"),
            Self::Line(line) => write!(f, ":{line}"),
            Self::Key(key) => write!(f, ": {key}"),
            Self::KeyInLine { line, key } => write!(f, ":{line}: {key}"),
        }
    }
}

/// The recording as text, all of it on one line.
///
/// # Panics
/// Never: a recording has nothing that JSON cannot say.
#[must_use]
pub fn print(recording: &Recording) -> String {
    serde_json::to_string(recording).expect("strings, numbers, and maps by string or number") + "\n"
}

/// Reads the text of `file`.
///
/// # Errors
/// A text that is cut short, no JSON, of another kind, of a later version, or that contradicts itself.
pub fn parse(file: &str, text: &[u8]) -> Result<Recording, FileError> {
    let wrong = |at, problem: String, hint: &str| FileError {
        file: file.to_owned(),
        at,
        problem,
        hint: hint.to_owned(),
    };
    if text.trim_ascii().is_empty() {
        return Err(wrong(At::File, "the file is empty".into(), RECORD_AGAIN));
    }
    let recording: Recording = serde_json::from_slice(text).map_err(|error| {
        let (at, problem) = json_problem(&error);
        match error.classify() {
            Category::Eof => wrong(at, CUT_SHORT.into(), RECORD_AGAIN),
            Category::Syntax | Category::Io => wrong(at, format!("not valid JSON: {problem}"), MAKE_ONE),
            // Of another kind or version, it is no wonder that fields are wrong.
            Category::Data => foreign(text).map_or_else(
                || wrong(at, problem, "the file was changed or made by another version; record again"),
                |(problem, hint)| wrong(At::File, problem, hint),
            ),
        }
    })?;
    if let Some((problem, hint)) = header_problem(Some(recording.schema.into()), Some(&recording.kind)) {
        return Err(wrong(At::File, problem, hint));
    }
    check(&recording)
        .map_err(|(key, problem)| wrong(At::Key(key), problem, "the file was changed; record again"))?;
    Ok(recording)
}

const RECORD_AGAIN: &str = "copy it again or record again";
const MAKE_ONE: &str = "recordings are made by `numa-agent jitter record`";
pub(super) const CUT_SHORT: &str = "the text ends too early: it was cut short or is still being written";

/// Where, and the parser's words without the place.
pub(super) fn json_problem(error: &serde_json::Error) -> (At, String) {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    (At::Position { line, column }, text.strip_suffix(&place).unwrap_or(&text).to_owned())
}

/// Why a JSON text is not of this kind and version, if that can be said.
fn foreign(text: &[u8]) -> Option<(String, &'static str)> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        schema: Value,
        #[serde(default)]
        kind: Value,
    }
    match serde_json::from_slice(text) {
        Ok(Header { schema, kind }) => header_problem(schema.as_u64(), kind.as_str()),
        Err(error) if error.classify() == Category::Data => header_problem(None, None),
        Err(_) => None,
    }
}

fn header_problem(schema: Option<u64>, kind: Option<&str>) -> Option<(String, &'static str)> {
    match (kind, schema) {
        (Some(KIND), Some(schema)) if schema == u64::from(SCHEMA) => None,
        (Some(KIND), Some(schema)) if schema > u64::from(SCHEMA) => Some((
            format!("a recording of schema {schema}; this numa-agent knows schema {SCHEMA}"),
            "use the numa-agent that recorded it, or a newer one",
        )),
        (Some(KIND), _) => {
            Some((format!("a recording without a schema that is known, {SCHEMA}"), "record again"))
        }
        (Some(kind), _) => Some((format!("not a jitter recording but {kind:?}"), MAKE_ONE)),
        (None, _) => Some(("not a jitter recording".to_owned(), MAKE_ONE)),
    }
}

/// What types cannot say: the key at fault, and what is wrong with it.
fn check(recording: &Recording) -> Result<(), (String, String)> {
    if recording.runs.is_empty() {
        return Err(("runs".into(), "there is none".into()));
    }
    for (index, run) in recording.runs.iter().enumerate() {
        if !run.seconds.is_finite() || run.seconds < 0.0 {
            return Err((format!("runs[{index}].seconds"), format!("{} is no duration", run.seconds)));
        }
        if let Some(first) = recording.runs[..index].iter().position(|first| first.is(run)) {
            let problem = format!(
                "is runs[{first}] again, {} at {}: it would count twice",
                run.host.name, run.started_at
            );
            return Err((format!("runs[{index}]"), problem));
        }
    }
    let runs = recording.runs.len();
    let check_run = |list: &str, index: usize, run: usize| {
        if run < runs {
            return Ok(());
        }
        Err((format!("{list}[{index}].run"), format!("{run}, but runs has {runs}, counted from 0")))
    };
    for (index, process) in recording.processes.iter().enumerate() {
        check_run("processes", index, process.run)?;
    }
    for (index, thread) in recording.threads.iter().enumerate() {
        check_run("threads", index, thread.run)?;
        let figures = &thread.figures;
        let distributions = [
            ("wake_wait", &figures.wake_wait),
            ("preempt_wait", &figures.preempt_wait),
            ("slice", &figures.slice),
            ("gap", &figures.gap),
        ];
        for (name, distribution) in distributions {
            check_distribution(distribution)
                .map_err(|problem| (format!("threads[{index}].figures.{name}"), problem))?;
        }
    }
    for (index, interval) in recording.intervals.iter().enumerate() {
        check_run("intervals", index, interval.run)?;
    }
    for (index, intruders) in recording.intruders.iter().enumerate() {
        check_run("intruders", index, intruders.run)?;
    }
    for (index, connection) in recording.connections.iter().enumerate() {
        check_run("connections", index, connection.run)?;
    }
    Ok(())
}

fn check_distribution(distribution: &Distribution) -> Result<(), String> {
    let Distribution { count, total_ns, max_ns, buckets } = distribution;
    let Some((highest, _)) = buckets.last_key_value() else {
        let nothing = [*count, *total_ns, *max_ns] == [0; 3];
        return if nothing { Ok(()) } else { Err(format!("{count} durations, and none in buckets")) };
    };
    if usize::from(*highest) >= BUCKETS {
        return Err(format!("there is no bucket {highest}: the last is {}", BUCKETS - 1));
    }
    // Fewer than `count` are right: a bucket of the kernel's stays at its largest value.
    let sum: u128 = buckets.values().map(|count| u128::from(*count)).sum();
    if sum > u128::from(*count) {
        return Err(format!("{count} durations, and {sum} in buckets"));
    }
    if *max_ns < lowest_ns(usize::from(*highest)) {
        return Err(format!("the longest is {max_ns} ns, and bucket {highest} holds longer ones"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::jitter::{recording::Run, sample};

    fn refusal(text: &str) -> String {
        parse("x.json", text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn what_was_printed_is_read_back() {
        let recording = sample::recording();
        let text = print(&recording);
        assert_eq!(parse("x.json", text.as_bytes()), Ok(recording));
        // Spelled out over many lines it is the same.
        let pretty = format!("\n{:#}\n", serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(parse("x.json", pretty.as_bytes()), parse("x.json", text.as_bytes()));
    }

    #[test]
    fn fields_of_later_versions_are_no_matter() {
        let text = print(&sample::recording()).replacen("{", "{\"later\":{\"x\":1},", 1);
        assert_eq!(parse("x.json", text.as_bytes()), Ok(sample::recording()));
    }

    #[test]
    fn every_refusal_says_where_and_what_to_do() {
        assert_eq!(refusal(" \n"), "x.json: the file is empty; copy it again or record again");
        let text = print(&sample::recording());
        let cut = refusal(&text[..text.len() / 2]);
        assert!(cut.starts_with(&format!("x.json:1:{}: the text ends too early", text.len() / 2)), "{cut}");
        let broken = refusal("{\n  \"schema\": oops}");
        assert!(broken.starts_with("x.json:2:13: not valid JSON: expected value; "), "{broken}");
        for other in ["{}", "[1]", "17", "{\"itls\": [[0.1]]}"] {
            assert!(refusal(other).starts_with("x.json: not a jitter recording; "), "{other}");
        }
        let report = refusal("{\"schema\":1,\"kind\":\"something else\"}");
        assert!(report.starts_with("x.json: not a jitter recording but \"something else\"; "), "{report}");
        let later = refusal(&text.replacen("\"schema\":1", "\"schema\":2", 1));
        assert!(later.starts_with("x.json: a recording of schema 2; this numa-agent knows schema 1; use"));
        let later = refusal("{\"schema\":2,\"kind\":\"numa-agent jitter recording\",\"runs\":7}");
        assert!(later.contains("schema 2"), "changed fields are no surprise then: {later}");
        let field = refusal(&text.replacen("\"seconds\":60.0", "\"seconds\":\"long\"", 1));
        assert!(field.starts_with("x.json:1:") && field.contains("expected f64"), "{field}");
        let missing = refusal("{\"schema\":1,\"kind\":\"numa-agent jitter recording\"}");
        assert!(missing.contains("missing field `runs`"), "{missing}");
    }

    #[test]
    fn contradictions_are_named_by_key() {
        type Change = fn(&mut Recording);
        let cases: [(&str, Change); 12] = [
            (": runs: there is none", |r| r.runs.clear()),
            (": runs[0].seconds: -1 is no duration", |r| r.runs[0].seconds = -1.0),
            (": processes[0].run: 9, but runs has 1, counted from 0", |r| r.processes[0].run = 9),
            (": threads[1].run: 9", |r| r.threads[1].run = 9),
            (": intervals[0].run: 9", |r| r.intervals[0].run = 9),
            (": intruders[0].run: 9", |r| r.intruders[0].run = 9),
            (": connections[0].run: 9", |r| r.connections[0].run = 9),
            (": threads[0].figures.wake_wait: there is no bucket 224", |r| {
                let _ = r.threads[0].figures.wake_wait.buckets.insert(224, 1);
            }),
            (": threads[1].figures.wake_wait: 1999 durations, and 2000 in buckets", |r| {
                r.threads[1].figures.wake_wait.count -= 1;
            }),
            (": threads[1].figures.slice: 7 durations, and none in buckets", |r| {
                r.threads[1].figures.slice.count = 7
            }),
            (
                ": threads[1].figures.wake_wait: the longest is 16000 ns, and bucket 49 holds longer ones",
                |r| {
                    r.threads[1].figures.wake_wait.max_ns = 16_000;
                },
            ),
            (": runs[1]: is runs[0] again, infer-07 at 2025-03-01T12:00:00Z: it would count twice", |r| {
                // A service that reported on itself twice.
                r.runs.push(Run { seconds: 90.0, ..sample::run() });
            }),
        ];
        for (words, change) in cases {
            let mut recording = sample::recording();
            change(&mut recording);
            let refusal = refusal(&print(&recording));
            assert!(refusal.starts_with(&format!("x.json{words}")), "{words}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(recording in sample::recordings()) {
            prop_assert_eq!(parse("x", print(&recording).as_bytes()), Ok(recording));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse("x", &bytes).is_err());
        }

        #[test]
        fn no_damage_is_too_strange(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = print(&sample::recording()).into_bytes();
            // Not the line break, which nothing needs.
            let at = at.index(bytes.len() - 1);
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
                prop_assert!(parse("x", &bytes).is_err());
            }
            // Whatever can be read can be worked with.
            if let Ok(recording) = parse("x", &bytes) {
                let mut twice = recording.clone();
                twice.merge(recording);
                prop_assert!(!twice.runs.is_empty());
            }
        }
    }
}
