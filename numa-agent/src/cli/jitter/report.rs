//! `numa-agent jitter report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{core::jitter::recording::Recording, report::jitter};

/// Flags of `jitter report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Recordings that `jitter record` or `run` wrote; several are taken together.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Format. Default: by the ending of --output, else text.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where the report goes. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    #[value(alias = "txt")]
    Text,
    #[value(alias = "md")]
    Markdown,
    #[value(alias = "htm")]
    Html,
    Json,
}

impl Format {
    fn render(self, recording: &Recording) -> String {
        match self {
            Self::Text => jitter::text(recording),
            Self::Markdown => jitter::markdown(recording),
            Self::Html => jitter::html(recording),
            Self::Json => jitter::json(recording),
        }
    }
}

/// Reads, merges, renders, writes.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let endings = ".txt, .md, .html or .json";
    let format = super::format(args.format, args.output.as_deref(), Format::Text, endings)?;
    let text = format.render(&super::read_recordings(&args.files)?);
    super::deliver(args.output.as_deref(), &text)
}
