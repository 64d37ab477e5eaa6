//! `numa-agent restore`: what was changed gets back what it had.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum, builder::PossibleValue};

use super::{Format, Incomplete};
use crate::{
    core::journal::{Class, FileClass, done::Outcome},
    host::{
        journal,
        restore::{self, Asked},
    },
    report,
};

/// Flags of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Undone are the masks of tasks that still run, and files as of interrupts and cpusets, if they still have what they were given; threads \
that have inherited a mask get what their process had. What somebody else has changed since is left alone and named. Pages that were \
moved stay where they are, and the memory policy that a process was started with stays in it.

Exit status: 0 if everything was undone, or has been changed by others, or has ended; 1 if some of it could not be, or an agent runs; \
2 bad usage.")]
pub struct RestoreArgs {
    /// The journal. [default: /run/numa-agent/journal]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Only this sort of change. Repeatable.
    #[arg(long, value_enum)]
    class: Vec<Class>,
    /// Only show what would be undone.
    #[arg(long)]
    dry_run: bool,
    /// Also while an agent runs, which will do most of it again.
    #[arg(long)]
    force: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl ValueEnum for Class {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Task => "Masks of threads",
            Self::File(FileClass::Cpuset) => "Cpusets of cgroups",
            Self::File(FileClass::Irq) => "Interrupts and network queues",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Undoes, and says what.
pub fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let kept = args.class.is_empty() || args.class.iter().any(|class| class.is_the_agents());
    // Until the end: an agent that starts meanwhile waits.
    let path = journal_at(args.journal.as_deref())?;
    let alone = if kept && !args.dry_run { journal::keep_agents_out(path) } else { Ok(None) };
    let _alone = if args.force { alone.unwrap_or(None) } else { alone? };
    undo(path, &args.class, args.dry_run, args.format)
}

/// Where it is. One that was asked for by its path is there, or the path is wrong: who changes something makes it first.
fn journal_at(asked: Option<&Path>) -> anyhow::Result<&Path> {
    match asked {
        Some(path) => {
            let facts = fs::symlink_metadata(path);
            facts.with_context(|| format!("the journal {}: nothing is undone", path.display()))?;
            Ok(path)
        }
        None => Ok(Path::new(journal::DEFAULT_PATH)),
    }
}

/// The same for interrupts alone, of which no running agent is in the way.
pub fn interrupts(journal: Option<&Path>, dry_run: bool, format: Format) -> anyhow::Result<()> {
    undo(journal_at(journal)?, &[Class::File(FileClass::Irq)], dry_run, format)
}

fn undo(journal: &Path, classes: &[Class], dry_run: bool, format: Format) -> anyhow::Result<()> {
    let restored = restore::restore(journal, &Asked { classes: classes.to_vec(), dry_run })?;
    super::print(&match format {
        Format::Text => report::restore::text(&restored),
        Format::Json => {
            report::json::print(&report::restore::json(&restored, &journal.display().to_string(), dry_run))
        }
    })?;
    let failed = restored.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed(_))).count();
    if failed > 0 {
        return Err(
            Incomplete(format!("{failed} changes could not be undone; they stay in the journal")).into()
        );
    }
    if restored.damaged > 0 {
        return Err(Incomplete(format!(
            "{} lines of {} are damaged: what was changed as they told may still be so",
            restored.damaged,
            journal.display()
        ))
        .into());
    }
    Ok(())
}
