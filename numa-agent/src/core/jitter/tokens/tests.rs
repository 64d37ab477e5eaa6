//! Files as the benchmarks write them, whole and damaged.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::core::jitter::sample;

/// The result of `vllm bench serve --save-result --save-detailed`: the second request failed half way, the third made one
/// token.
fn vllm() -> Value {
    json!({
        "date": "20250301-120000", "endpoint_type": "vllm", "backend": "vllm", "label": null,
        "model_id": "Qwen/Qwen3-32B", "tokenizer_id": "Qwen/Qwen3-32B", "num_prompts": 4,
        "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 64,
        "duration": 3.25, "completed": 3, "failed": 1, "total_input_tokens": 4096, "total_output_tokens": 8,
        "request_throughput": 0.9, "request_goodput": null, "output_throughput": 2.4,
        "total_token_throughput": 1260.3,
        "input_lens": [1024, 1024, 1024, 1024], "output_lens": [4, 0, 1, 3],
        "ttfts": [0.21, 0.2, 0.3, 0.25],
        "itls": [[0.030_000_001, 0.0305, 0.031], [9.5], [], [0.029, 0.04]],
        "generated_texts": ["It is \"NaN\" or -Infinity\\", "x", "y", "z"],
        "errors": ["", "Traceback (most recent call last):\n  ...", "", ""],
        "mean_ttft_ms": 240.0, "median_ttft_ms": 230.0, "std_ttft_ms": 3.5, "p99_ttft_ms": 299.0,
        "mean_itl_ms": 30.6, "median_itl_ms": 30.5, "std_itl_ms": 1.0, "p99_itl_ms": 39.6,
    })
}

/// A line of `sglang.bench_serving --output-file F --output-details`, as Python writes it: a rate without end is `Infinity`.
fn sglang() -> String {
    let line = json!({
        "backend": "sglang", "dataset_name": "random", "request_rate": "RATE", "max_concurrency": null,
        "sharegpt_output_len": null, "random_input_len": 1024, "random_output_len": 8,
        "random_range_ratio": 0.0, "duration": 1.5, "completed": 2, "total_input_tokens": 2048,
        "total_output_tokens": 6, "total_output_tokens_retokenized": 6, "request_throughput": 1.3,
        "mean_ttft_ms": 100.0, "mean_itl_ms": 20.0, "median_itl_ms": 20.0, "p95_itl_ms": 22.0,
        "concurrency": 1.9, "accept_length": null,
        "input_lens": [1024, 1024], "output_lens": [3, 3], "ttfts": [0.1, 0.1],
        "itls": [[0.02, 0.02], [0.021, 0.019]], "generated_texts": ["a", "b"], "errors": ["", ""],
    });
    line.to_string().replace("\"RATE\"", "Infinity") + "\n"
}

fn tokens(text: &str) -> Tokens {
    parse("x", text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refusal(text: &str) -> String {
    parse("x", text.as_bytes()).expect_err(text).to_string()
}

fn gaps(gaps: &[u64]) -> Gaps {
    gaps.iter().copied().collect()
}

#[test]
fn vllms_result_is_read_without_what_failed() {
    let read = tokens(&vllm().to_string());
    assert_eq!((read.source, read.requests, read.single, read.failed), (Source::Vllm, 2, 1, 1));
    assert_eq!(read.gaps, gaps(&[30_000_001, 30_500_000, 31_000_000, 29_000_000, 40_000_000]));
    assert_eq!(read.notes, [""; 0]);
    // By hand or by jq it may be spread over many lines.
    assert_eq!(tokens(&format!("{:#}", vllm())), read);
}

#[test]
fn sglangs_runs_are_taken_together() {
    let read = tokens(&sglang());
    assert_eq!((read.source, read.requests, read.single, read.failed), (Source::Sglang, 2, 0, 0));
    assert_eq!(read.gaps, gaps(&[19_000_000, 20_000_000, 20_000_000, 21_000_000]));
    assert!(read.notes[0].contains("divides the time"), "{:?}", read.notes);
    let twice = tokens(&(sglang() + &sglang()));
    assert_eq!((twice.requests, twice.gaps.count()), (4, 8));
    assert!(twice.notes.iter().any(|note| note.starts_with("2 runs are in one file")), "{:?}", twice.notes);
    let openai = tokens(&sglang().replace("\"backend\":\"sglang\"", "\"backend\":\"sglang-oai\""));
    assert_eq!(openai.notes, [""; 0], "only the native backend divides");
}

#[test]
fn summaries_are_refused_with_the_option_that_gives_more() {
    let mut summary = vllm();
    summary.as_object_mut().unwrap().remove("itls");
    let problem = refusal(&summary.to_string());
    assert!(
        problem.starts_with("x:1: the result has summaries only") && problem.contains("--save-detailed"),
        "{problem}"
    );
    let second = sglang().replacen("\"itls\"", "\"no_itls\"", 1);
    let problem = refusal(&(sglang() + &second));
    assert!(
        problem.starts_with("x:2: the result has summaries only") && problem.ends_with("--output-details"),
        "{problem}"
    );
    let neither = refusal("{\"mean_itl_ms\": 3}");
    assert!(neither.contains("--save-detailed") && neither.contains("--output-details"), "{neither}");
}

#[test]
fn wrong_values_are_named_by_key_and_line() {
    let problem = |from: &str, to: &str| refusal(&(sglang() + &sglang().replacen(from, to, 1)));
    assert!(problem("0.021", "-0.5").starts_with("x:2: itls[1][0]: -0.5 s is no time between tokens; "));
    assert!(problem("0.021", "1e300").starts_with("x:2: itls[1][0]: "));
    assert!(
        problem("\"errors\":[\"\",\"\"]", "\"errors\":[\"\"]")
            .starts_with("x:2: errors: has 1 entries, and itls 2")
    );
    let column = sglang().find("NaN").unwrap_or_else(|| sglang().find("0.021").unwrap());
    let nan = problem("0.021", "NaN");
    assert!(nan.contains("NaN or Infinity is no time between tokens"), "{nan}");
    let place: Vec<&str> = nan.split(':').collect();
    assert_eq!(place[1], "2", "{nan}");
    assert!(place[2].parse::<usize>().unwrap().abs_diff(column) < 8, "{nan}, not near column {column}");
    let text = problem("0.021", "\"fast\"");
    assert!(text.starts_with("x:2:") && text.contains("expected a number of seconds"), "{text}");
    assert!(problem("[0.02,0.02]", "7").contains("expected a sequence"));
}

#[test]
fn damaged_files_are_refused_where_they_break() {
    let whole = sglang() + &sglang();
    let cut = refusal(&whole[..whole.len() - 40]);
    assert!(cut.starts_with("x:2:") && cut.contains("ends too early"), "{cut}");
    let line = vllm().to_string();
    assert!(refusal(&line[..100]).starts_with("x:1:100: the text ends too early"));
    let broken = refusal(&format!("{}\n{{\"itls\" 7}}", sglang().trim_end()));
    assert!(broken.starts_with("x:2:9: not valid JSON: expected `:`"), "{broken}");
    assert!(refusal("  \n").starts_with("x: the file is empty"));
    assert!(refusal("[{\"t_s\": 1}]").starts_with("x: a JSON list; write one JSON object"));
    assert!(refusal("{\"a\": 1}").starts_with("x: JSON, but neither"));
    let recording = crate::core::jitter::file::print(&sample::recording());
    assert!(refusal(&recording).starts_with("x: a jitter recording, not token times"));
    let binary = parse("x", b"t_s\n1\n\xff\n").unwrap_err().to_string();
    assert!(binary.starts_with("x:3: not text"), "{binary}");
}

#[test]
fn without_a_gap_there_is_nothing_to_judge() {
    let none = sglang().replacen("[[0.02,0.02],[0.021,0.019]]", "[[],[]]", 1);
    assert!(refusal(&none).starts_with(
        "x: there is no time between two tokens of a request in it (2 requests, 0 of them failed)"
    ));
    let failed = sglang().replacen("\"errors\":[\"\",\"\"]", "\"errors\":[\"boom\",\"boom\"]", 1);
    assert!(refusal(&failed).contains("(2 requests, 2 of them failed)"));
    assert!(refusal("t_s\n1\n").contains("(1 requests, 0 of them failed)"));
}

#[test]
fn timestamps_in_json_lines() {
    let text = "{\"request\": 7, \"text\": \"a\", \"timestamp_us\": 1000.5}\n{\"timestamp_us\": 1, \"request\": \"q\"}\n\n{\"request\":7,\"timestamp_us\":1002}\n";
    let read = tokens(text);
    assert_eq!((read.source, read.requests, read.single), (Source::Jsonl, 1, 1));
    assert_eq!(read.gaps, gaps(&[1500]));
    // As the tests' serving stack writes them.
    assert_eq!(
        tokens("{\"number\":1,\"at_ns\":5}\n{\"number\":2,\"at_ns\":1732320000123456789}\n").gaps,
        gaps(&[1_732_320_000_123_456_784])
    );
    let wrong = |line: &str| refusal(&format!("{{\"t_s\": 1}}\n{line}\n{{\"t_s\": 2}}"));
    assert!(wrong("{\"t_s\": 0.5}").starts_with("x:2: the timestamp 0.5 is before that of line 1; "));
    assert!(wrong("{\"t_s\": \"3\"}").starts_with("x:2: the timestamp \"\\\"3\\\"\" is not a number"));
    assert!(wrong("{\"t_s\": null}").starts_with("x:2: the timestamp \"null\" is not a number"));
    assert!(wrong("{\"t_s\": NaN}").contains("is not a number"));
    assert!(
        wrong("{\"t_s\": 3, \"request\": 1}").starts_with("x:2: not the keys of the lines before, \"t_s\"; ")
    );
    assert!(wrong("{\"t_ms\": 3000}").starts_with("x:2: not the keys of the lines before"));
    assert!(wrong("{\"text\": 3000}").starts_with("x:2: no timestamp among"));
    assert!(wrong("[3]").starts_with("x:2:") && wrong("[3]").contains("expected an object for each token"));
    assert!(wrong("{\"t_s\": 3").starts_with("x:3:"), "{}", wrong("{\"t_s\": 3"));
    assert!(refusal("{\"timestamp\": 1}").contains("does not say its unit; name one timestamp_s"));
}

#[test]
fn tapped_sockets_have_the_time_to_the_first_token_left_out() {
    let mut recording = sample::recording();
    recording.connections[0].answers = vec![vec![900, 30, 31], vec![900], vec![], vec![900, 29]];
    let read = Tokens::tapped(&recording).unwrap();
    assert_eq!((read.requests, read.single, read.gaps), (2, 2, gaps(&[29, 30, 31])));
    recording.connections.clear();
    assert_eq!(Tokens::tapped(&recording), None);
}

#[test]
fn several_files_are_taken_together() {
    let mut all = tokens(&sglang());
    all.merge(tokens(&sglang()));
    assert_eq!((all.requests, all.gaps.count(), all.notes.len()), (4, 8, 1));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse("x", &bytes);
    }

    #[test]
    fn no_damage_is_too_strange(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        for text in [sglang() + &sglang(), vllm().to_string(), "id,t_s\na,1\n\"b\",2\na,3\n".into()] {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let _ = parse("x", &bytes);
        }
    }

    #[test]
    fn python_numbers_are_no_json_and_places_stay(prefix in "[a-zN\\\\\" ]{0,12}") {
        let text = json!({"text": prefix, "x": "VALUE", "y": 1}).to_string();
        for word in ["NaN", "Infinity", "-Infinity"] {
            let python = text.replace("\"VALUE\"", word);
            let read = bench::without_python_numbers(python.as_bytes());
            prop_assert_eq!(read.len(), python.len());
            let value: Value = serde_json::from_slice(&read).unwrap();
            prop_assert_eq!(value["text"].as_str(), Some(&prefix[..]));
            prop_assert_eq!(&value["x"], "");
        }
    }
}
