//! Recordings made up by tests, as `jitter record` writes them.

use numa_agent::core::{
    jitter::{
        recording::{KIND, ProcessRecord, Recording, Run, SCHEMA, ThreadRecord},
        sample,
    },
    task::{ProcessRole, ThreadRole},
};

/// A minute on a host with two nodes: one serving process with a member and two forward threads, which waited so long each
/// time they were woken.
#[must_use]
pub fn minute(started_at: &str, waits_ns: &[u64]) -> Recording {
    let thread = |tid, role| ThreadRecord {
        run: 0,
        pid: 100,
        tid,
        start_time: 7,
        comm: format!("thread_{tid}"),
        role,
        group: Some("socket0_group0".into()),
        home_nodes: vec![0],
        ended: false,
        figures: sample::figures(60, waits_ns),
    };
    Recording {
        schema: SCHEMA,
        kind: KIND.into(),
        runs: vec![Run { started_at: started_at.into(), ..sample::run() }],
        processes: vec![ProcessRecord {
            run: 0,
            pid: 100,
            start_time: 7,
            comm: "python3".into(),
            cmdline: "python3 -m vllm".into(),
            role: Some(ProcessRole::Group),
            group: Some("socket0_group0".into()),
            memory: None,
        }],
        threads: vec![
            thread(100, ThreadRole::Member),
            thread(101, ThreadRole::Forward),
            thread(102, ThreadRole::Forward),
        ],
        intervals: vec![],
        intruders: vec![],
        connections: vec![],
    }
}

/// A result of vLLM's serving benchmark, with details: ten requests of 200 tokens, 30 ms apart but for one in fifty, which is
/// that much longer.
#[must_use]
pub fn vllm_result(longer_ns: u32) -> String {
    let gap = |index: u32| if index.is_multiple_of(50) { 0.03 + f64::from(longer_ns) / 1e9 } else { 0.03 };
    let request = (0..200).map(gap).collect::<Vec<f64>>();
    let result = serde_json::json!({
        "date": "20250301-120000", "endpoint_type": "openai", "backend": "openai", "label": null,
        "model_id": "m", "tokenizer_id": "m", "num_prompts": 10, "request_rate": "inf", "burstiness": 1.0,
        "max_concurrency": null, "duration": 60.0, "completed": 10, "total_input_tokens": 10_240,
        "total_output_tokens": 2010, "request_throughput": 0.16, "output_throughput": 33.0,
        "input_lens": vec![1024; 10], "output_lens": vec![201; 10], "ttfts": vec![0.5; 10],
        "itls": vec![request; 10], "generated_texts": vec!["..."; 10], "errors": vec![""; 10],
        "mean_itl_ms": 30.1, "median_itl_ms": 30.0, "p99_itl_ms": 31.0,
    });
    result.to_string()
}
