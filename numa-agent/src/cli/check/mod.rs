//! `numa-agent check`: the acceptance checklist with its evidence. Changes nothing.

pub(super) mod look;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use self::look::{About, Found};
use super::{
    Incomplete, UsageError, bind, doctor,
    jitter::compare::Runs,
    machine::MachineArgs,
    offered::words,
    plan_args::PlanArgs,
    report_file::{self, Kind},
};
use crate::{
    agent::LineQueue,
    core::{
        check::{
            Item, Section, Tally,
            facts::{AgentState, Shape},
            runs::{self, ThisHost},
        },
        jitter::compare::{Comparison, Limits, Name},
        view,
    },
    host::surroundings,
    report::{self, check::CheckReport},
};

/// Where the report goes unless somebody says otherwise.
const REPORT_PATH: &str = "workflow_visualization/numa_check_report.md";

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is changed. Each item passes, fails, warns (the plan holds, but it may cost jitter) or is skipped (nobody knows, and why). docs/check.md says
what each is about.

Exit status: 0 if all sections that were asked for pass, 1 if one does not, 2 bad usage.")]
pub struct CheckArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// Sections to go through: A (topology and preconditions), B (plan and placement), C (before and after). Default: A and B, and C if
    /// there are recordings; A alone for another machine.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', ignore_case = true, value_parser = words::<Section>(Section::WORDS), hide_possible_values = true)]
    section: Vec<Section>,
    /// The shape that the machine should have: a2, a3, SOCKETSxNODES (nodes of each socket), or SOCKETSxNODESxCPUS (of each node). Default: what
    /// the policy needs.
    #[arg(long, value_name = "SHAPE")]
    expect: Option<Shape>,
    /// Section C: recording of the work before binding, as `jitter record` makes it.
    #[arg(long, value_name = "FILE", requires = "bound")]
    baseline: Option<PathBuf>,
    /// Section C: recording of the same work with the threads bound.
    #[arg(long, value_name = "FILE", requires = "baseline")]
    bound: Option<PathBuf>,
    /// Token times of the baseline, as `jitter compare` takes them. Repeatable. Default: tapped sockets in the recording.
    #[arg(long, value_name = "FILE", requires_all = ["baseline", "tokens_bound"])]
    tokens_base: Vec<PathBuf>,
    /// Token times of the bound run.
    #[arg(long, value_name = "FILE", requires_all = ["bound", "tokens_base"])]
    tokens_bound: Vec<PathBuf>,
    /// How long to look where threads run. The agent tells, if one runs (default: 2s); else kernel programs of our own, if this is given.
    #[arg(long, value_name = "DURATION", value_parser = super::jitter::period)]
    observe: Option<Duration>,
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
    /// Also fail for what may cost jitter, and for what is not known.
    #[arg(long)]
    strict: bool,
    /// Where the report goes; its ending (.md, .json, .txt) says in which format. Default: workflow_visualization/numa_check_report.md
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Format of standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
}

impl Format {
    /// No page and no picture: what is signed is read on paper, and its pictures are `bind`'s and `jitter report`'s.
    fn of_path(path: &Path) -> Result<Self, UsageError> {
        match Kind::of(path) {
            Kind::Json => Ok(Self::Json),
            Kind::Text => Ok(Self::Text),
            Kind::Markdown => Ok(Self::Markdown),
            Kind::Html | Kind::Svg => Err(UsageError(format!(
                "--report {}: the checklist goes to .md, .json or .txt; `numa-agent bind --report` draws the plan",
                path.display()
            ))),
        }
    }

    fn render(self, report: &CheckReport) -> String {
        match self {
            Self::Text => report::check::text(report),
            Self::Markdown => report::check::markdown(report),
            Self::Json => report::json::print(&report::check::json(report)),
        }
    }
}

/// Looks, judges, reports.
pub fn run(args: &CheckArgs, messages: LineQueue) -> anyhow::Result<()> {
    let sections = args.sections()?;
    let runs = args.runs()?;
    let path = args.report.as_deref().unwrap_or(Path::new(REPORT_PATH));
    let format = Format::of_path(path)?;
    if args.report.is_some() {
        report_file::check_writable(path)?;
    }
    let about = args.about();
    let mut found = Found::look(about, sections.contains(&Section::B))?;
    let mut items = Vec::new();
    if sections.contains(&Section::A) {
        // An agent that runs has loaded them; twice would cost every switch twice for a moment.
        let programs = (found.agent.is_err() && args.machine.is_ours()).then(doctor::programs);
        items.extend(found.preconditions(about, programs.as_ref())?);
    }
    if sections.contains(&Section::B) {
        bind::unseen().iter().for_each(|why| super::complain(&format!("warning: {why}")));
        items.extend(found.placement(args, messages));
    }
    let comparison = runs.as_ref().map(|runs| runs.compare(limits()));
    if let Some(comparison) = &comparison {
        items.extend(compared(comparison)?);
    }
    let bind = found.evidence()?;
    let report = CheckReport {
        host: bind::host_facts()?,
        elsewhere: args.machine.elsewhere(),
        arch: std::env::consts::ARCH.to_owned(),
        command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        config: args.plan.config.as_deref().map(fingerprint).transpose()?,
        agent: found.agent.as_ref().ok().map(in_words),
        sections,
        strict: args.strict,
        items,
        bind: bind.as_ref(),
        comparison: comparison.as_ref(),
    };
    let kept = report_file::keep(path, args.report.is_some(), &format.render(&report))?;
    super::print(&args.format.render(&report))?;
    let fails = |section: &&Section| !Tally::of(&report.items, **section).passes(args.strict);
    let failed: Vec<String> = report.sections.iter().filter(fails).map(ToString::to_string).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let sections = if failed.len() == 1 { "section" } else { "sections" };
    let place = if kept { format!("; the report is in {}", path.display()) } else { String::new() };
    Err(Incomplete(format!("{sections} {} did not pass{place}", failed.join(", "))).into())
}

impl CheckArgs {
    fn about(&self) -> About<'_> {
        About { plan: &self.plan, machine: &self.machine, socket: &self.socket, expect: self.expect }
    }

    fn sections(&self) -> anyhow::Result<BTreeSet<Section>> {
        let runs = self.baseline.is_some();
        let asked: BTreeSet<Section> = self.section.iter().copied().collect();
        if asked.contains(&Section::C) && !runs {
            return Err(UsageError(
                "--section C needs --baseline and --bound: recordings of the same work before and after"
                    .to_owned(),
            )
            .into());
        }
        let default = Section::ALL.into_iter().filter(|section| match section {
            Section::A => true,
            Section::B => self.machine.is_ours(),
            Section::C => runs,
        });
        Ok(if asked.is_empty() { default.collect() } else { asked })
    }

    /// The recordings, where there are some and somebody wants to know.
    fn runs(&self) -> anyhow::Result<Option<Runs>> {
        let (Some(base), Some(bound)) = (&self.baseline, &self.bound) else { return Ok(None) };
        if !self.sections()?.contains(&Section::C) {
            return Ok(None);
        }
        Runs::read([base, bound], [&self.tokens_base, &self.tokens_bound]).map(Some)
    }
}

/// The guide's: the fluctuation of tokens and the waits of critical threads must be known, and within the defaults of `jitter compare`.
fn limits() -> Limits {
    Limits { required: vec![Name::Fluctuation, Name::Wait], ..Limits::default() }
}

fn compared(comparison: &Comparison) -> anyhow::Result<Vec<Item>> {
    let host = bind::host_facts()?;
    let this = ThisHost {
        name: host.hostname,
        machine_id: surroundings::machine_id("/".as_ref()),
        kernel: host.kernel,
        arch: std::env::consts::ARCH.to_owned(),
    };
    let figures = |criterion: &_| report::jitter::compare::in_a_line(comparison, criterion);
    Ok(runs::items(comparison, &this, figures))
}

/// A file and its SHA-256.
fn fingerprint(path: &Path) -> anyhow::Result<(String, String)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((path.display().to_string(), digest))
}

fn in_words(agent: &AgentState) -> String {
    let mode = view::mode(agent.enforcing);
    format!("pid {}, version {}, {mode}, kernel programs: {}", agent.pid, agent.version, agent.programs)
}
