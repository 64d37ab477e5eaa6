//! `numa-agent jitter compare`: before and after, with a verdict. Exit codes: 0 passed, 1 not, 2 not comparable or bad usage.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use humantime::Duration;

use crate::{
    cli::offered::words,
    cli::{Incomplete, UsageError, complain},
    core::jitter::{
        compare::{Comparison, Criterion, Limits, Name, Side, compare},
        file,
        recording::Recording,
        tokens::{self, Fluctuation, Tokens},
    },
    report::{escape, jitter},
};

/// Flags of `jitter compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Recording of the work before binding.
    base: PathBuf,
    /// Recording of the same work with the threads bound.
    bound: PathBuf,
    /// Token times of the base run: the result of vLLM's or SGLang's serving benchmark with its details, or timestamps in CSV
    /// or JSON lines. Repeatable: files are taken together. Default: tapped sockets in the recording.
    #[arg(long, value_name = "FILE")]
    tokens_base: Vec<PathBuf>,
    /// Token times of the bound run.
    #[arg(long, value_name = "FILE")]
    tokens_bound: Vec<PathBuf>,
    /// Which fluctuation of the token times decides: p99-p50, p99.9-p50, p95-p5, max-min, max-p50 or stddev.
    #[arg(long, value_name = "WHICH", default_value_t, value_parser = words::<Fluctuation>(Fluctuation::WORDS), hide_possible_values = true)]
    fluctuation: Fluctuation,
    /// Token-to-token fluctuation of bound may be this much.
    #[arg(long, value_name = "TIME", default_value = "1ms")]
    max_fluctuation: Duration,
    /// Run-queue wait (p99.9) of bound may be this much longer than base's, both to the end of their buckets.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = share)]
    wait_tolerance: f64,
    /// Run-queue wait (p99.9) of bound may be this long, whatever base's is. Default: no such criterion.
    #[arg(long, value_name = "TIME")]
    max_wait: Option<Duration>,
    /// This much of bound's CPU time may be off node.
    #[arg(long, value_name = "PERCENT", default_value = "1%", value_parser = share)]
    max_off_node: f64,
    /// A criterion that fails if it was not measured: fluctuation (required if token files are given), wait, wait-limit,
    /// off-node, node-moves, moves, or all. Repeatable.
    #[arg(long, value_name = "CRITERION", value_delimiter = ',', value_parser = required)]
    require: Vec<Required>,
    /// Recordings shorter than this, in seconds by host, are not compared.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().min_seconds, value_parser = seconds)]
    min_seconds: f64,
    /// Recordings of which one is more than this many times as long as the other are not compared.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_length_ratio, value_parser = ratio)]
    max_length_ratio: f64,
    /// Work of which there is more than this many times as much in one as in the other is not compared: threads, CPU time,
    /// requests and times between tokens, a second.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_work_ratio, value_parser = ratio)]
    max_work_ratio: f64,
    /// Token times of a benchmark of which more requests failed are not compared.
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = share)]
    max_failed: f64,
    /// Fewer token times than this are not compared.
    #[arg(long, value_name = "N", default_value_t = Limits::default().min_gaps)]
    min_gaps: usize,
    /// Compare what is not comparable; each reason becomes a warning, and the verdict is marked as forced.
    #[arg(long)]
    force: bool,
    /// Format. Default: by the ending of --output, else text.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where the comparison goes. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    #[value(alias = "txt")]
    Text,
    #[value(alias = "md")]
    Markdown,
    Json,
}

impl Format {
    fn render(self, comparison: &Comparison) -> String {
        match self {
            Self::Text => jitter::compare::text(comparison),
            Self::Markdown => jitter::compare::markdown(comparison),
            Self::Json => jitter::compare::json(comparison),
        }
    }
}

/// A criterion, or all of them.
#[derive(Debug, Clone, Copy)]
enum Required {
    One(Name),
    All,
}

fn required(text: &str) -> Result<Required, String> {
    if text == "all" {
        return Ok(Required::All);
    }
    text.parse()
        .map(Required::One)
        .map_err(|error: crate::core::choice::ChoiceError| format!("{error}, or all"))
}

/// `1%`, `0.5 %`: a bare number could mean a share of one as well.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let sensible = percent.filter(|percent| percent.is_finite() && *percent >= 0.0);
    sensible.map(|percent| percent / 100.0).ok_or_else(|| "write a percentage such as 1%".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "write a number of seconds".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| *ratio >= 1.0);
    ratio.ok_or_else(|| "write a number from 1 on".to_owned())
}

/// What is compared: base and bound.
pub struct Runs {
    files: [String; 2],
    recordings: [Recording; 2],
    tokens: [Option<Tokens>; 2],
}

impl Runs {
    /// Reads the recordings, and the token times of each: from files where some are given, else from its tapped sockets.
    pub fn read(paths: [&Path; 2], tokens: [&[PathBuf]; 2]) -> anyhow::Result<Self> {
        let recordings = [read_recording(paths[0])?, read_recording(paths[1])?];
        let of = |index: usize| -> anyhow::Result<_> {
            Ok(read_tokens(tokens[index])?.or_else(|| Tokens::tapped(&recordings[index])))
        };
        let tokens = [of(0)?, of(1)?];
        Ok(Self { files: paths.map(|path| path.display().to_string()), recordings, tokens })
    }

    /// Compares them, whether or not that makes sense.
    pub fn compare(&self, limits: Limits) -> Comparison<'_> {
        let side = |index: usize| Side {
            file: &self.files[index],
            recording: &self.recordings[index],
            tokens: self.tokens[index].as_ref(),
        };
        compare(side(0), side(1), limits)
    }
}

/// Reads, compares, reports.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let format = super::format(args.format, args.output.as_deref(), Format::Text, ".txt, .md or .json")?;
    let limits = limits(args)?;
    let runs = Runs::read([&args.base, &args.bound], [&args.tokens_base, &args.tokens_bound])?;
    let comparison = runs.compare(limits);
    if !args.force && !comparison.reasons.is_empty() {
        let reasons: String =
            comparison.reasons.iter().map(|reason| format!("\n  - {}", escape::text(reason))).collect();
        return Err(UsageError(format!(
            "base ({}) and bound ({}) cannot be compared; --force compares them all the same:{reasons}",
            escape::text(&runs.files[0]),
            escape::text(&runs.files[1])
        ))
        .into());
    }
    super::deliver(args.output.as_deref(), &format.render(&comparison))?;
    if format != Format::Text || args.output.is_some() {
        for reason in &comparison.reasons {
            complain(&format!("warning: compared by --force, though {}", escape::text(reason)));
        }
    }
    if comparison.passed() {
        return Ok(());
    }
    let failed: Vec<String> = comparison.criteria.iter().filter(|of| of.fails()).map(failure).collect();
    Err(Incomplete(if failed.is_empty() {
        "nothing was measured, so nothing is proven".to_owned()
    } else {
        format!("bound does not pass: {}", failed.join(", "))
    })
    .into())
}

fn failure(criterion: &Criterion) -> String {
    let why = if criterion.limit.is_none() { " (not measured)" } else { "" };
    format!("{}{why}", criterion.name)
}

fn limits(args: &CompareArgs) -> anyhow::Result<Limits> {
    let (missing, given) = match (args.tokens_base.is_empty(), args.tokens_bound.is_empty()) {
        (true, false) => ("--tokens-base", "--tokens-bound"),
        (false, true) => ("--tokens-bound", "--tokens-base"),
        _ => ("", ""),
    };
    if !missing.is_empty() {
        return Err(UsageError(format!(
            "{given} is given without {missing}; give both, of the same benchmark before and after"
        ))
        .into());
    }
    let mut all = vec![Name::Fluctuation, Name::Wait, Name::OffNode, Name::NodeMoves, Name::Moves];
    if args.max_wait.is_some() {
        all.push(Name::WaitLimit);
    }
    let mut required: Vec<Name> = Vec::new();
    for name in &args.require {
        match name {
            Required::All => required.extend(&all),
            Required::One(Name::WaitLimit) if args.max_wait.is_none() => {
                return Err(UsageError("--require wait-limit needs --max-wait".to_owned()).into());
            }
            Required::One(name) => required.push(*name),
        }
    }
    if !args.tokens_bound.is_empty() {
        required.push(Name::Fluctuation);
    }
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Ok(Limits {
        fluctuation: args.fluctuation,
        max_fluctuation_ns: nanoseconds(args.max_fluctuation),
        wait_tolerance: args.wait_tolerance,
        max_wait_ns: args.max_wait.map(nanoseconds),
        max_off_node: args.max_off_node,
        required,
        min_seconds: args.min_seconds,
        max_length_ratio: args.max_length_ratio,
        max_work_ratio: args.max_work_ratio,
        max_failed: args.max_failed,
        min_gaps: args.min_gaps,
    })
}

fn read_recording(path: &Path) -> anyhow::Result<Recording> {
    super::read_recordings(std::slice::from_ref(&path.to_owned()))
}

/// Token times of several files together; `None` without any.
fn read_tokens(paths: &[PathBuf]) -> anyhow::Result<Option<Tokens>> {
    let mut all: Option<Tokens> = None;
    for path in paths {
        let tokens = tokens::parse(&path.display().to_string(), &super::read(path)?)
            .map_err(|error: file::FileError| UsageError(error.to_string()))?;
        match &mut all {
            None => all = Some(tokens),
            Some(all) => all.merge(tokens),
        }
    }
    Ok(all)
}
