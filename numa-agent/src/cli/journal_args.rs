//! The flags of commands that change something which `restore` can undo.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::{
    core::journal::Outstanding,
    host::journal::{self, Journal, JournalError},
    report::escape,
};

/// Where what was before is written down.
#[derive(Debug, Args)]
pub struct JournalArgs {
    /// Where what was before is written down, for `numa-agent restore`: a file that nobody else may write to. It is for this boot alone.
    /// [default: /run/numa-agent/journal]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Write nothing down: what is changed cannot be undone.
    #[arg(long, conflicts_with = "journal")]
    no_journal: bool,
}

impl JournalArgs {
    /// The journal and what is in it; `None`: there is none. Like the report: the default one may be out of reach, as for who binds
    /// processes of their own without being root.
    ///
    /// # Errors
    /// If it was asked for by its path, and cannot be written.
    pub fn open(&self) -> anyhow::Result<Option<(Journal, Outstanding)>> {
        self.path().map_or(Ok(None), |path| open(&path, self.journal.is_some()))
    }

    /// The same, for what root alone may change: that it cannot be undone is said by `--no-journal` alone.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open_or_refuse(&self) -> anyhow::Result<Option<(Journal, Outstanding)>> {
        self.path().map_or(Ok(None), |path| open(&path, true))
    }

    /// Where it is to be, if anywhere.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        let path = || self.journal.clone().unwrap_or_else(|| journal::DEFAULT_PATH.into());
        (!self.no_journal).then(path)
    }
}

fn open(path: &Path, asked: bool) -> anyhow::Result<Option<(Journal, Outstanding)>> {
    let open = || -> Result<_, JournalError> {
        let journal = Journal::open(path)?;
        let known = journal::read(path)?.unwrap_or_default();
        Ok((journal, journal::this_boots(known).0))
    };
    match open() {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if asked => Err(error).context(
            "nothing is changed, because it could not be undone (--no-journal changes it all the same)",
        ),
        Err(error) => {
            let error = escape::text(&format!("{:#}", anyhow::Error::from(error)));
            tracing::warn!("`numa-agent restore` cannot undo what is changed now: {error}");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_journal_that_was_asked_for_stands_in_the_way() {
        // A folder is no journal.
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path(), true).unwrap_err().to_string().contains("--no-journal"));
        assert!(open(dir.path(), false).unwrap().is_none());
    }
}
