//! The result files of serving benchmarks: vLLM's (`vllm bench serve --save-result --save-detailed`, JSON) and SGLang's
//! (`sglang.bench_serving --output-file --output-details`, JSON objects, one a line for each run). In both, `itls` holds a list
//! of seconds between successive chunks for each request, without the time to the first; `errors` a text for each.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::Value;

use super::{Parts, Problem, Source};
use crate::core::jitter::file::At;

/// Keys that only SGLang's results have.
const SGLANG: [&str; 4] =
    ["dataset_name", "sharegpt_output_len", "total_output_tokens_retokenized", "accept_length"];
/// Keys that only vLLM's results have.
const VLLM: [&str; 4] = ["endpoint_type", "tokenizer_id", "num_prompts", "total_token_throughput"];
/// Keys that results have, with or without the single requests.
const EITHER: [&str; 5] = ["itls", "mean_itl_ms", "median_itl_ms", "mean_ttft_ms", "request_throughput"];
/// Longer than any time between tokens, in seconds.
const TOO_LONG: f64 = 1e9;

/// Whose result a JSON object with these keys is.
pub fn source(keys: &[String]) -> Option<Source> {
    let has = |names: &[&str]| keys.iter().any(|key| names.contains(&key.as_str()));
    match (has(&EITHER), has(&SGLANG), has(&VLLM)) {
        (false, ..) => None,
        (_, true, false) => Some(Source::Sglang),
        (_, false, true) => Some(Source::Vllm),
        _ => Some(Source::Benchmark),
    }
}

/// A result, as far as it matters here.
#[derive(Deserialize)]
pub struct Run {
    #[serde(default)]
    itls: Option<Vec<Vec<Seconds>>>,
    #[serde(default)]
    errors: Option<Vec<Value>>,
    #[serde(default)]
    backend: Value,
}

/// Adds up the runs of a file, each with the line it begins in.
pub fn parse(
    source: Source,
    runs: impl Iterator<Item = Result<(usize, Run), Problem>>,
) -> Result<Parts, Problem> {
    let mut parts = Parts::default();
    for run in runs {
        let (line, run) = run?;
        parts.runs += 1;
        add(&mut parts, source, line, run)?;
    }
    if parts.runs > 1 {
        let note = format!("{} runs are in one file, and taken together", parts.runs);
        parts.notes.push(note);
    }
    Ok(parts)
}

fn add(parts: &mut Parts, source: Source, line: usize, run: Run) -> Result<(), Problem> {
    let wrong = |key: String, problem: String, hint: &str| {
        Err((At::KeyInLine { line, key }, problem, hint.to_owned()))
    };
    let Some(requests) = run.itls else {
        let problem = "the result has summaries only, not the times of each request".to_owned();
        return Err((At::Line(line), problem, again_with(source)));
    };
    let errors = run.errors.unwrap_or_default();
    if !errors.is_empty() && errors.len() != requests.len() {
        let problem = format!("has {} entries, and itls {}", errors.len(), requests.len());
        return wrong("errors".into(), problem, "the file was changed; run the benchmark again");
    }
    for (index, request) in requests.into_iter().enumerate() {
        // The benchmarks' own figures leave failed requests out too.
        if errors.get(index).is_some_and(|error| !matches!(error, Value::Null) && error != "") {
            parts.failed += 1;
            continue;
        }
        *(if request.is_empty() { &mut parts.single } else { &mut parts.requests }) += 1;
        for (token, Seconds(seconds)) in request.into_iter().enumerate() {
            if !(0.0..TOO_LONG).contains(&seconds) {
                let key = format!("itls[{index}][{token}]");
                let problem = format!("{seconds} s is no time between tokens");
                return wrong(key, problem, "the file was changed; run the benchmark again");
            }
            parts.gaps.push((seconds * 1e9).round() as u64);
        }
    }
    let native = source == Source::Sglang
        && run.backend.as_str().is_some_and(|backend| matches!(backend, "sglang" | "sglang-native"));
    let note = "sglang's native backend divides the time to a chunk evenly among the chunk's tokens: where chunks hold several, tokens came in longer steps than these";
    if native && !parts.notes.iter().any(|known| known == note) {
        parts.notes.push(note.to_owned());
    }
    Ok(())
}

/// How to get what is missing.
fn again_with(source: Source) -> String {
    let (vllm, sglang) = ("--save-result --save-detailed", "--output-file FILE --output-details");
    match source {
        Source::Vllm => format!("run vllm bench serve again with {vllm}"),
        Source::Sglang => format!("run sglang.bench_serving again with {sglang}"),
        _ => format!("run the benchmark again with {vllm} (vLLM) or {sglang} (SGLang)"),
    }
}

/// A number of seconds.
struct Seconds(f64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Seconds, E> {
                Ok(Seconds(seconds))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(seconds as f64))
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
                Ok(Seconds(seconds as f64))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Seconds, E> {
                Err(if text.is_empty() {
                    E::custom("NaN or Infinity is no time between tokens")
                } else {
                    E::invalid_type(serde::de::Unexpected::Str(text), &self)
                })
            }
        }

        deserializer.deserialize_any(Number)
    }
}

/// Python writes `NaN`, `Infinity` and `-Infinity` (SGLang: the request rate of a benchmark without one), which JSON does not
/// have. They become empty strings and blanks of the same length, so that every place in the text stays what it is.
pub fn without_python_numbers(text: &[u8]) -> Cow<'_, [u8]> {
    let mut changed: Option<Vec<u8>> = None;
    let (mut at, mut in_string) = (0, false);
    while let Some(byte) = text.get(at) {
        let word: &[&[u8]] = if in_string { &[] } else { &[b"NaN", b"Infinity", b"-Infinity"] };
        if let Some(word) = word.iter().find(|word| text[at..].starts_with(word)) {
            let out = changed.get_or_insert_with(|| text.to_vec());
            out[at..at + word.len()].fill(b' ');
            out[at..at + 2].fill(b'"');
            at += word.len();
            continue;
        }
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            _ => {}
        }
        at += 1;
    }
    changed.map_or(Cow::Borrowed(text), Cow::Owned)
}
