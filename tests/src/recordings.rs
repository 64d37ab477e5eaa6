//! Recordings made up by tests, as `jitter record` writes them.

use std::collections::BTreeMap;

use numa_agent::core::{
    jitter::{
        figures::{BySpan, Figures, Migrations, OffNode},
        recording::{KIND, ProcessRecord, Recording, Run, RunHost, SCHEMA, Subject, ThreadRecord},
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
        figures: figures(waits_ns),
    };
    Recording {
        schema: SCHEMA,
        kind: KIND.into(),
        runs: vec![run(started_at)],
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

fn run(started_at: &str) -> Run {
    Run {
        host: RunHost {
            name: "infer-07".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            kernel: "6.6.0".into(),
            arch: "aarch64".into(),
            nodes: BTreeMap::from([(0, "0-3".into()), (1, "4-7".into())]),
            sockets: BTreeMap::from([(0, vec![0, 1])]),
            matrix_of: "node".into(),
        },
        agent_version: "0.1.0".into(),
        started_at: started_at.into(),
        seconds: 60.0,
        subject: Subject::Plan {
            policy: "paired".into(),
            groups: BTreeMap::from([("socket0_group0".into(), "0-3 / 4-7".into())]),
            others: "0-3".into(),
        },
        bound: false,
        missing: vec![],
        missing_programs: vec![],
        lost: vec![],
        lost_detail: vec![],
    }
}

fn figures(waits_ns: &[u64]) -> Figures {
    Figures {
        followed_ns: 60_000_000_000,
        run_ns: 30_000_000_000,
        node_ns: BTreeMap::from([(0, 30_000_000_000)]),
        off_node: Some(OffNode::default()),
        off_plan_ns: Some(0),
        before_bind_ns: Some(0),
        migrations: Some(Migrations { by_span: BySpan::default(), ..Migrations::default() }),
        wake_wait: waits_ns.iter().copied().collect(),
        ..Figures::default()
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
