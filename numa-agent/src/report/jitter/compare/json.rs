//! A comparison as JSON. Field names and meaning are a contract (`"schema": 1`): fields may be added, none may change.
//! `docs/jitter.md` has them.

use serde_json::{Map, Value, json};

use super::{verdict_word, word};
use crate::{
    core::jitter::{
        compare::{Amount, Comparison, Limits, Name, Side, Verdict},
        tokens::{Fluctuation, Tokens},
    },
    report::{
        jitter::{digest::Part, json::part},
        json::print,
    },
};

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// For programs, safe to print in a terminal.
#[must_use]
pub fn json(comparison: &Comparison) -> String {
    let Limits {
        fluctuation,
        min_seconds,
        max_length_ratio,
        max_work_ratio,
        max_failed,
        min_gaps,
        wait_tolerance,
        ..
    } = &comparison.limits;
    let criteria = comparison.criteria.iter().map(|criterion| {
        json!({
            "name": criterion.name.to_string(),
            "verdict": word(criterion.verdict).to_lowercase(),
            "required": criterion.required,
            "unit": unit(criterion.name),
            "base": criterion.base.map(number),
            "bound": criterion.bound.map(number),
            "limit": criterion.limit.map(number),
            "why": criterion.why,
        })
    });
    let criteria: Vec<Value> = criteria.collect();
    let side = |index: usize| {
        let Side { file, recording, tokens } = comparison.sides[index];
        json!({
            "file": file,
            "runs": recording.runs,
            "critical": part(&Part::from(comparison.rollups[index].clone())),
            "tokens": tokens.map(tokens_json),
        })
    };
    print(&json!({
        "schema": SCHEMA,
        "kind": "numa-agent jitter comparison",
        "verdict": verdict_word(comparison).to_lowercase(),
        "forced": comparison.forced(),
        "complete": comparison.count(Verdict::NotMeasured) == 0,
        "criteria": criteria,
        "fluctuation": fluctuation.to_string(),
        "critical": comparison.critical.to_string(),
        "not_comparable": comparison.reasons,
        "notes": comparison.notes,
        "base": side(0),
        "bound": side(1),
        "limits": {
            "min_seconds": min_seconds,
            "max_length_ratio": max_length_ratio,
            "max_work_ratio": max_work_ratio,
            "max_failed": max_failed,
            "min_gaps": min_gaps,
            "wait_tolerance": wait_tolerance,
        },
    }))
}

fn tokens_json(tokens: &Tokens) -> Value {
    let at = |percent| tokens.gaps.percentile_ns(percent);
    let fluctuations: Map<String, Value> = Fluctuation::ALL
        .iter()
        .map(|definition| (definition.to_string(), json!(definition.of(&tokens.gaps))))
        .collect();
    json!({
        "source": tokens.source.to_string(),
        "requests": tokens.requests,
        "single": tokens.single,
        "failed": tokens.failed,
        "count": tokens.gaps.count(),
        "mean_ns": tokens.gaps.mean_ns(),
        "min_ns": at(0.0),
        "p5_ns": at(5.0),
        "p50_ns": at(50.0),
        "p95_ns": at(95.0),
        "p99_ns": at(99.0),
        "p999_ns": at(99.9),
        "max_ns": at(100.0),
        "fluctuation_ns": fluctuations,
    })
}

fn unit(name: Name) -> &'static str {
    match name {
        Name::Fluctuation | Name::Wait | Name::WaitLimit => "ns",
        Name::OffNode => "share",
        Name::NodeMoves | Name::Moves => "moves per thread and second",
    }
}

fn number(amount: Amount) -> Value {
    match amount {
        Amount::Time(ns) => json!(ns),
        Amount::Share(value) | Amount::Rate(value) => json!(value),
    }
}
