//! What holding adds to the time from a program's start to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Session,
    figures::{median, quantile},
    progress,
    report::{Section, Table},
};
use crate::{agent::Agent, holder};

/// Who looks on as programs start.
const MODES: [(&str, Option<Mode>); 4] = [
    ("nobody", None),
    ("run, without hold", Some(Mode { hold: false, inject: false })),
    ("run, with hold", Some(Mode { hold: true, inject: false })),
    ("run, with memory.apply = \"inject\"", Some(Mode { hold: true, inject: true })),
];

/// What an agent is asked for.
#[derive(Debug, Clone, Copy)]
struct Mode {
    hold: bool,
    inject: bool,
}

/// What is in the arguments of every program that is started, and in the agent's rule.
const MARK: &str = "numa-agent-bench-hold";

/// Microseconds from start to end of each program, and from exec to the end of its hold.
#[derive(Debug, Default)]
struct Times {
    program_us: Vec<f64>,
    held_us: Vec<f64>,
}

/// Measures it with a program that does nothing.
///
/// # Errors
/// If the agent cannot be configured, or a program does not start.
pub fn section(session: &Session) -> Result<Section> {
    let starts = if session.quick { 20 } else { 200 };
    let mut all: BTreeMap<usize, Times> = BTreeMap::new();
    for round in 0..session.rounds {
        for turn in 0..MODES.len() {
            let index = (round + turn) % MODES.len();
            let (title, mode) = MODES[index];
            progress(&format!("hold, round {} of {}: {title}", round + 1, session.rounds));
            let times = measure(session, mode, starts)?;
            let known = all.entry(index).or_default();
            known.program_us.extend(times.program_us);
            known.held_us.extend(times.held_us);
        }
    }
    progress("");
    let base = all.get(&0).and_then(|times| median(&times.program_us)).unwrap_or(f64::NAN);
    let row = |(index, times): (&usize, &Times)| {
        let (middle, p99) =
            (median(&times.program_us).unwrap_or(f64::NAN), quantile(&times.program_us, 0.99));
        let held = |quantile: Option<f64>| quantile.map_or("-".to_owned(), |us| format!("{us:.0}"));
        vec![
            MODES[*index].0.to_owned(),
            format!("{middle:.0}"),
            format!("{:.0}", p99.unwrap_or(f64::NAN)),
            format!("{:.2}", middle / base),
            held(median(&times.held_us)),
            held(quantile(&times.held_us, 0.99)),
            times.program_us.len().to_string(),
        ]
    };
    let table = Table {
        title: format!("hold: `true`, {starts} times a round, from its start to its end"),
        columns: vec!["observer", "us, median", "p99", "x, of medians", "held us, median", "p99", "programs"],
        rows: all.iter().map(row).collect(),
    };
    let data = all.iter().map(|(index, times)| {
        json!({ "observer": MODES[*index].0, "program_us": times.program_us, "held_us": times.held_us })
    });
    Ok(Section {
        name: "hold",
        tables: vec![table],
        data: data.collect::<Vec<Value>>().into(),
        ..Section::default()
    })
}

fn measure(session: &Session, mode: Option<Mode>, starts: usize) -> Result<Times> {
    let agent = mode.map(|mode| agent(session, mode)).transpose()?;
    let (mut times, mut pids) = (Times::default(), BTreeSet::new());
    for _ in 0..starts {
        let mut command = Command::new("true");
        command.arg(MARK).stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let mut child = command.spawn().context("cannot run true")?;
        pids.insert(u64::from(child.id()));
        let status = child.wait()?;
        times.program_us.push(begin.elapsed().as_nanos() as f64 / 1e3);
        ensure!(status.success(), "true: {status}");
    }
    let Some(left) = agent.map(Agent::stop) else { return Ok(times) };
    // Others are held too: those whose arguments are longer than what the kernel side looks at.
    let ours = |event: &&Value| event["pid"].as_u64().is_some_and(|pid| pids.contains(&pid));
    let held = left.events.iter().filter(|event| event["event"] == "released").filter(ours);
    times.held_us.extend(held.filter_map(|event| event["held_us"].as_f64()));
    let expected = if mode.is_some_and(|mode| mode.hold) { starts } else { 0 };
    // One that is not held would make us look cheap.
    ensure!(times.held_us.len() == expected, "{} of {expected} were held", times.held_us.len());
    if mode.is_some_and(|mode| mode.inject) {
        let summary = left.events.last().context("no summary")?;
        let injected = summary["hold"]["injected"].as_u64();
        ensure!(injected >= Some(starts as u64), "not all got the policy: {summary}");
    }
    Ok(times)
}

/// One that is ready.
fn agent(session: &Session, mode: Mode) -> Result<Agent> {
    let path = session.dir.path().join("hold.json");
    let apply = if mode.inject { "inject" } else { "none" };
    let config = json!({
        "group_patterns": [format!("^true true {MARK}$")], "policy": "generic", "groups_per_socket": 1,
        "hold": mode.hold, "hold_limit_ms": 1000, "memory": { "apply": apply },
    });
    std::fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    let mut agent = Agent::start([std::ffi::OsStr::new("--config"), path.as_os_str()]);
    if mode.hold {
        holder::next_guard(&mut agent, 0);
    }
    Ok(agent)
}
