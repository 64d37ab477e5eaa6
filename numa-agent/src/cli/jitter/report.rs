//! `numa-agent jitter report`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{cli::UsageError, core::jitter::recording::Recording, report::jitter};

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
    Text,
    #[value(alias = "md")]
    Markdown,
    Html,
    Json,
}

impl Format {
    fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "txt" => Some(Self::Text),
            "md" => Some(Self::Markdown),
            "html" | "htm" => Some(Self::Html),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

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
    let format = match (args.format, &args.output) {
        (Some(format), _) => format,
        (None, None) => Format::Text,
        (None, Some(path)) => Format::of_path(path).ok_or_else(|| {
            let path = path.display();
            UsageError(format!(
                "{path}: the ending tells no format; end it in .txt, .md, .html or .json, or give --format"
            ))
        })?,
    };
    let text = format.render(&super::read_recordings(&args.files)?);
    super::deliver(args.output.as_deref(), &text)
}
