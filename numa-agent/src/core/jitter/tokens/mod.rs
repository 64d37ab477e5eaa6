//! Token-to-token times, from what people have: results of serving benchmarks, files of timestamps, tapped sockets.
//!
//! [`parse`] tells the formats apart by what is in the file; `docs/jitter.md` describes them.

mod bench;
mod csv;
mod decimal;
mod gaps;
mod series;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{StreamDeserializer, de::SliceRead, error::Category};

pub use gaps::{Fluctuation, Gaps};

use super::{
    file::{At, CUT_SHORT, FileError, json_problem},
    recording::{Connection, Recording},
};

/// Token times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Where they are from.
    pub source: Source,
    /// Requests with at least two tokens.
    pub requests: usize,
    /// Requests with fewer: they have no time between tokens.
    pub single: usize,
    /// Requests that failed, which are left out.
    pub failed: usize,
    /// Times between a request's successive tokens, of all requests.
    pub gaps: Gaps,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Where token times are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// vLLM's serving benchmark.
    Vllm,
    /// SGLang's serving benchmark.
    Sglang,
    /// One of the two.
    Benchmark,
    /// Timestamps in CSV.
    Csv,
    /// Timestamps in JSON lines.
    Jsonl,
    /// Sends on tapped sockets, in a recording.
    Tap,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vllm => "vLLM benchmark",
            Self::Sglang => "SGLang benchmark",
            Self::Benchmark => "serving benchmark",
            Self::Csv | Self::Jsonl => "timestamps",
            Self::Tap => "sends on tapped sockets",
        })
    }
}

/// What is wrong, where, and what to do.
type Problem = (At, String, String);

/// What the formats have in common.
#[derive(Debug, Default)]
struct Parts {
    runs: usize,
    requests: usize,
    single: usize,
    failed: usize,
    gaps: Vec<u64>,
    notes: Vec<String>,
}

const FORMATS: &str = "give the result file of vLLM's or SGLang's serving benchmark, or timestamps in CSV or JSON lines (docs/jitter.md)";

/// Reads the text of `file`.
///
/// # Errors
/// A text of none of the formats, cut short, without times of single tokens, or with times that cannot be.
pub fn parse(file: &str, text: &[u8]) -> Result<Tokens, FileError> {
    let parsed = parse_any(text).and_then(|(source, parts)| {
        if parts.gaps.is_empty() {
            return Err(without_gaps(&parts));
        }
        let Parts { requests, single, failed, gaps, notes, .. } = parts;
        Ok(Tokens { source, requests, single, failed, gaps: gaps.into_iter().collect(), notes })
    });
    parsed.map_err(|(at, problem, hint)| FileError { file: file.to_owned(), at, problem, hint })
}

fn parse_any(text: &[u8]) -> Result<(Source, Parts), Problem> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    match text.trim_ascii_start().first() {
        None => Err((
            At::File,
            "the file is empty".into(),
            "run the benchmark again, or copy the file again".into(),
        )),
        Some(b'{') => parse_json(&bench::without_python_numbers(text)),
        Some(b'[') => {
            Err((At::File, "a JSON list".into(), "write one JSON object for each token, one a line".into()))
        }
        Some(_) => {
            let text = std::str::from_utf8(text).map_err(|error| {
                let line = 1 + text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                (At::Line(line), "not text (UTF-8)".to_owned(), FORMATS.to_owned())
            })?;
            Ok((Source::Csv, series::parse_csv(text)?))
        }
    }
}

fn parse_json(text: &[u8]) -> Result<(Source, Parts), Problem> {
    let Keys(keys) = match Documents::new(text).next() {
        Some(first) => first?.1,
        None => Keys(Vec::new()),
    };
    if let Some(source) = bench::source(&keys) {
        return Ok((source, bench::parse(source, Documents::new(text))?));
    }
    if series::is_token(keys.iter().map(String::as_str)) {
        return Ok((Source::Jsonl, series::parse_jsonl(Documents::new(text))?));
    }
    if keys.iter().any(|key| key == "kind") && keys.iter().any(|key| key == "threads") {
        let hint = "a recording's tapped sockets are used by themselves, without token files";
        return Err((At::File, "a jitter recording, not token times".into(), hint.into()));
    }
    Err((At::File, "JSON, but neither a benchmark's result nor timestamps".into(), FORMATS.into()))
}

fn without_gaps(parts: &Parts) -> Problem {
    let Parts { requests, single, failed, .. } = parts;
    let problem = format!(
        "there is no time between two tokens of a request in it ({} requests, {failed} of them failed)",
        requests + single + failed
    );
    (At::File, problem, "let requests stream, of two tokens or more".into())
}

impl Tokens {
    /// The sends on the recording's tapped sockets; `None` if nothing was tapped.
    #[must_use]
    pub fn tapped(recording: &Recording) -> Option<Self> {
        let answers = || recording.connections.iter().flat_map(Connection::token_gaps);
        let requests = answers().filter(|gaps| !gaps.is_empty()).count();
        (!recording.connections.is_empty()).then(|| Self {
            source: Source::Tap,
            requests,
            single: answers().count() - requests,
            failed: 0,
            gaps: answers().flatten().copied().collect(),
            notes: vec![],
        })
    }

    /// Adds another file's.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.single += other.single;
        self.failed += other.failed;
        self.gaps.merge(other.gaps);
        other.notes.into_iter().for_each(|note| {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        });
    }
}

/// The documents of a JSON text, however they are spread over lines, each with the line it begins in.
struct Documents<'a, T> {
    text: &'a [u8],
    stream: StreamDeserializer<'a, SliceRead<'a>, T>,
    /// How far lines are counted.
    counted: usize,
    line: usize,
}

impl<'a, T: Deserialize<'a>> Documents<'a, T> {
    fn new(text: &'a [u8]) -> Self {
        let stream = serde_json::Deserializer::from_slice(text).into_iter();
        Self { text, stream, counted: 0, line: 1 }
    }
}

impl<'a, T: Deserialize<'a>> Iterator for Documents<'a, T> {
    type Item = Result<(usize, T), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.text[self.stream.byte_offset()..];
        let begin = self.text.len() - rest.trim_ascii_start().len();
        self.line += self.text[self.counted..begin].iter().filter(|byte| **byte == b'\n').count();
        self.counted = begin;
        let document = self.stream.next()?;
        Some(document.map(|document| (self.line, document)).map_err(|error| {
            let (at, problem) = json_problem(&error);
            match error.classify() {
                Category::Eof => {
                    (at, CUT_SHORT.to_owned(), "copy the file again, or run the benchmark again".into())
                }
                Category::Syntax | Category::Io => (at, format!("not valid JSON: {problem}"), FORMATS.into()),
                Category::Data => (at, problem, "the file was changed, or is of another format".into()),
            }
        }))
    }
}

/// The keys of a JSON object.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = map.next_key()? {
                    keys.push(key);
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests;
