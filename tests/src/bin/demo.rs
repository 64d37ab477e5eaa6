//! `cargo xtask demo`: the agent at work on a synthetic serving stack, before and after, in half a minute.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use numa_agent_tests::{
    agent::{self, Agent},
    stack::{
        Family, Load,
        crew::{Stack, ThreadMoves},
        tokens::Gaps,
    },
    sys,
    witness::now_ns,
};
use serde_json::{Value, json};

/// Shows numa-agent at work on a synthetic serving stack. Needs root; changes nothing that outlives it but the reports.
#[derive(Debug, Parser)]
struct Args {
    /// How long to watch, in seconds: half of it without the agent, half with it.
    #[arg(long, default_value_t = 24)]
    seconds: u64,
    /// Where the report on the binding goes; its pictures (.html, .svg), the recordings and what they say go beside it.
    #[arg(long, default_value = "workflow_visualization/numa_binding_report.md")]
    report: PathBuf,
}

/// What a stretch of time looked like.
struct Stretch {
    gaps: Vec<Gaps>,
    seconds: f64,
    before: Vec<ThreadMoves>,
    after: Vec<ThreadMoves>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo loads kernel programs and needs root: run it with sudo"
    );
    let half = Duration::from_secs(args.seconds.max(2)) / 2;
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let cpus = sys::affinity(0)?;
    let hogs = cpus.len().div_ceil(2).min(4) as u32;

    title("1. A serving stack, left to the scheduler");
    let stack_program = std::env::current_exe()?.with_file_name("serving-stack");
    let tag = format!("demo-{}", std::process::id());
    let family = Family { exe: stack_program, out: dir.path().join("witness"), tag };
    let load = Load { workers: 1, forward: 3, tick_ms: 10, work: 0 };
    let mut stack = Stack::start(family, load, hogs)?;
    let config = write_config(dir.path(), &stack, cpus.len())?;
    let evidence = Evidence::new(&args.report, &config)?;
    stack.start_instance()?;
    show_instance(&stack, 0)?;
    println!("  beside it Motor, and {hogs} CPU hog{}", if hogs == 1 { "" } else { "s" });
    println!("  a token every 10 ms; recording for {half:?} on CPUs {cpus} ...");
    let baseline = watch(&stack, half, &evidence, "base")?;

    title("2. The plan: numa-agent bind");
    let bind = |report: &Path, more: &[&str]| -> Result<String> {
        let args = ["bind", "--config", path(&config)?, "--report", path(report)?];
        let output = agent::run([&args, more].concat());
        ensure!(output.status.success(), "numa-agent bind: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    print!("{}", indent(&bind(&args.report, &[])?));

    title("3. numa-agent run: the same work under the plan, and a second instance born under it");
    let mut agent = Agent::start(["--config", path(&config)?]);
    print!("{}", indent(&agent.stderr().replace("; ", "\n    ")));
    println!("  recording for {half:?} ...");
    let bound = watch(&stack, half, &evidence, "bound")?;
    let second = stack.start_instance()?;
    show_instance(&stack, second)?;
    println!(
        "  now somebody pins the second instance's forward threads elsewhere, as taskset or an OpenMP library would ..."
    );
    pin_elsewhere(&stack, second, &mut agent)?;
    let left = agent.stop();
    // The final report: every thread read back from the kernel, and found in place.
    for extension in ["html", "svg", "md"] {
        bind(&args.report.with_extension(extension), &["--apply"])?;
    }
    show_bound(&left.events)?;

    title("4. Before and after");
    show_gaps(&baseline, &bound);
    show_moves(&baseline, &bound);
    println!();
    print!("{}", indent(&evidence.verdict()?));
    if cpus.len() < 8 {
        println!(
            "\n  With {} CPUs there is nowhere to go from the hogs: this shows placement, not speed.",
            cpus.len()
        );
    }

    stack.stop()?;
    title("5. Evidence");
    for extension in ["md", "html", "svg"] {
        let report = args.report.with_extension(extension);
        println!(
            "  {}",
            fs::canonicalize(&report).with_context(|| format!("no report {}", report.display()))?.display()
        );
    }
    for file in evidence.files() {
        println!("  {}", file?.display());
    }
    println!("  All processes of the stack and the agent have ended; temporary files are gone.");
    Ok(())
}

fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A configuration for this demo's processes only, with two groups a socket where there are CPUs for them.
fn write_config(dir: &Path, stack: &Stack, cpus: usize) -> Result<PathBuf> {
    let tag = &stack.family().tag;
    let config = json!({
        "groups_per_socket": cpus.min(2),
        "group_patterns": [format!("--role (scheduler|worker|rpc_proxy) --tag {tag} ")],
        "other_patterns": [format!("--role motor --tag {tag} ")],
    });
    let path = dir.join("demo.json");
    fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn show_instance(stack: &Stack, instance: u32) -> Result<()> {
    let pids = stack.pids(instance);
    let mut words = BTreeMap::<u32, Vec<String>>::new();
    for thread in stack.moves()? {
        let names = words.entry(thread.pid).or_default();
        let is_leader = thread.tid == thread.pid;
        names.insert(
            if is_leader { 0 } else { names.len() },
            if is_leader { thread.role } else { thread.comm },
        );
    }
    let words = pids.iter().filter_map(|pid| Some(format!("{} ({pid})", words.get(pid)?.join(" + "))));
    println!("  instance {instance}: {}", words.collect::<Vec<_>>().join(", "));
    Ok(())
}

fn watch(stack: &Stack, time: Duration, evidence: &Evidence, name: &str) -> Result<Stretch> {
    let (since, before) = (now_ns(), stack.moves()?);
    evidence.record(name, time)?;
    fs::write(evidence.tokens(name), stack.token_lines(since)?)?;
    let seconds = (now_ns() - since) as f64 / 1e9;
    Ok(Stretch { gaps: stack.gaps(since)?, seconds, before, after: stack.moves()? })
}

/// What `numa-agent jitter` makes of both stretches, in a directory.
struct Evidence {
    dir: PathBuf,
    config: PathBuf,
}

impl Evidence {
    fn new(report: &Path, config: &Path) -> Result<Self> {
        let dir = report.parent().map_or_else(PathBuf::new, Path::to_owned);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir, config: config.to_owned() })
    }

    fn recording(&self, name: &str) -> PathBuf {
        self.dir.join(format!("numa_jitter_{name}.json"))
    }

    fn tokens(&self, name: &str) -> PathBuf {
        self.dir.join(format!("numa_jitter_{name}_tokens.jsonl"))
    }

    fn report(&self) -> PathBuf {
        self.dir.join("numa_jitter_report.html")
    }

    fn comparison(&self) -> PathBuf {
        self.dir.join("numa_jitter_compare.md")
    }

    /// What the kernel does with the stack's threads, for some time. Whether an agent runs meanwhile makes no difference.
    fn record(&self, name: &str, time: Duration) -> Result<()> {
        let time = format!("{}ms", time.as_millis());
        let recording = self.recording(name);
        jitter(&[&[
            "record",
            "--config",
            path(&self.config)?,
            "--quiet",
            "--duration",
            &time,
            "-o",
            path(&recording)?,
        ]])
        .map(drop)
    }

    /// The report on the bound stretch, and the verdict in words. What failed is no failure of the demo.
    fn verdict(&self) -> Result<String> {
        let (base, bound) = (self.recording("base"), self.recording("bound"));
        let (base_tokens, bound_tokens) = (self.tokens("base"), self.tokens("bound"));
        jitter(&[&["report", path(&bound)?, "-o", path(&self.report())?]])?;
        let tokens = ["--tokens-base", path(&base_tokens)?, "--tokens-bound", path(&bound_tokens)?];
        // For evidence, runs of a minute and more are asked for; on a busy machine the two may not be the same work, and it says so.
        let shortened = ["--min-seconds", "1", "--min-gaps", "50", "--force"];
        let compare = ["compare", path(&base)?, path(&bound)?];
        jitter(&[&compare, &tokens, &shortened, &["-o", path(&self.comparison())?]])?;
        jitter(&[&compare, &tokens, &shortened])
    }

    fn files(&self) -> impl Iterator<Item = Result<PathBuf>> {
        let files = [self.report(), self.comparison(), self.recording("base"), self.recording("bound")];
        files
            .into_iter()
            .map(|file| fs::canonicalize(&file).with_context(|| format!("no {}", file.display())))
    }
}

/// Runs `numa-agent jitter`; what it says. A verdict that something is not good enough (exit code 1) is an answer too.
fn jitter(args: &[&[&str]]) -> Result<String> {
    let args = args.concat();
    let output = agent::run([&["jitter"], &args[..]].concat());
    let answered = output.status.success() || (args[0] == "compare" && output.status.code() == Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(answered, "numa-agent jitter {}: {stderr}", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What was bound on which event, how long after it.
fn show_bound(events: &[Value]) -> Result<()> {
    const LINES: usize = 24;
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or("?").to_owned();
    let is = |event: &&Value, result: &str| event["event"] == "bound" && event["result"] == result;
    let bound: Vec<&Value> = events.iter().filter(|event| is(event, "bound")).collect();
    println!(
        "\n  {:<12} {:>7} {:<15} {:<8} {:<16} {:<9} {:>14}",
        "why", "tid", "name", "role", "group", "CPUs", "event to bound"
    );
    for event in bound.iter().take(LINES) {
        let after = event["latency_us"].as_f64().map_or("-".into(), |us| format!("{us:.0} us"));
        let group = event["group"].as_str().unwrap_or("background");
        let by = event["caller"]["comm"].as_str().map_or(String::new(), |comm| format!("   undoes {comm}"));
        println!(
            "  {:<12} {:>7} {:<15} {:<8} {group:<16} {:<9} {after:>14}{by}",
            word(event, "cause"),
            event["tid"].as_u64().unwrap_or(0),
            word(event, "comm"),
            word(event, "role"),
            word(event, "cpus"),
        );
    }
    if bound.len() > LINES {
        println!("  ... and {} more", bound.len() - LINES);
    }
    let unchanged = events.iter().filter(|event| is(event, "unchanged")).count();
    println!("  {} bound; {unchanged} times a thread was looked at and already in its place", bound.len());
    let summary =
        events.iter().find(|event| event["event"] == "summary").context("the agent gave no summary")?;
    let causes = summary["event_to_bound_us"].as_object().into_iter().flatten();
    for (cause, figures) in causes {
        let us = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
        let count = figures["count"].as_u64().unwrap_or(0);
        println!(
            "  after {cause}: {count} bound, median {:.0} us, longest {:.0} us after the event",
            us("p50"),
            us("max")
        );
    }
    Ok(())
}

/// Does behind the agent's back what the plan forbids, and waits until the agent has put things right.
fn pin_elsewhere(stack: &Stack, instance: u32, agent: &mut Agent) -> Result<()> {
    let everywhere = sys::affinity(0)?;
    let moves = stack.moves()?;
    for thread in moves.iter().filter(|thread| thread.instance == instance && thread.tid != thread.pid) {
        let planned = sys::affinity(thread.tid)?;
        let elsewhere = everywhere.difference(&planned);
        // Where the plan leaves no CPU out there is no elsewhere, and nothing for the agent to put right.
        if !elsewhere.is_empty() {
            sys::set_affinity(thread.tid, &elsewhere)?;
            agent.wait_for("answer to a pinned thread", |event| {
                event["tid"] == thread.tid && event["cause"] == "setaffinity"
            });
        }
    }
    Ok(())
}

/// Token-to-token times, side by side.
fn show_gaps(baseline: &Stretch, bound: &Stretch) {
    println!("  time between tokens, ms            tokens    median       p99   longest");
    for (when, stretch) in [("unbound", baseline), ("with agent", bound)] {
        for gaps in &stretch.gaps {
            let ms = |us: u64| us as f64 / 1000.0;
            let (p50, p99, max) = (ms(gaps.p50_us), ms(gaps.p99_us), ms(gaps.max_us));
            println!(
                "  instance {}, {when:<21} {:>8} {p50:>9.1} {p99:>9.1} {max:>9.1}",
                gaps.instance, gaps.count
            );
        }
    }
}

/// Moves from CPU to CPU of the threads that lived through both stretches, a second.
fn show_moves(baseline: &Stretch, bound: &Stretch) {
    let rate = |stretch: &Stretch, thread: &ThreadMoves| {
        let of = |moves: &[ThreadMoves]| moves.iter().find(|other| other.tid == thread.tid)?.migrations;
        Some((of(&stretch.after)? - of(&stretch.before)?) as f64 / stretch.seconds)
    };
    println!("\n  moves from CPU to CPU, a second    unbound  with agent   now on CPUs");
    let mut sums = (0.0, 0.0);
    for thread in &bound.after {
        let (Some(before), Some(after)) = (rate(baseline, thread), rate(bound, thread)) else { continue };
        let name = if thread.tid == thread.pid { &thread.role } else { &thread.comm };
        println!("  {:>7} {:<26} {before:>7.1} {after:>11.1}   {}", thread.tid, name, thread.cpus);
        if !matches!(thread.role.as_str(), "hog" | "motor") {
            sums = (sums.0 + before, sums.1 + after);
        }
    }
    println!("  {:<34} {:>7.1} {:>11.1}", "the serving instance", sums.0, sums.1);
}
