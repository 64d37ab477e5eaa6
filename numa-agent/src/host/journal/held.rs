//! A journal that nobody else writes to meanwhile: what is read of it is all there is when it is struck.

use std::{collections::BTreeSet, path::Path};

use super::{Journal, JournalError, PATIENCE, failed, gone, read_from, replace, this_boots};
use crate::core::journal::{Decoded, Subject, decode};

/// Nobody else appends or rewrites until this is dropped. Who wants to waits for as long as its patience lasts; an agent keeps its lines
/// until then.
#[derive(Debug)]
pub struct Held(Journal);

impl Held {
    /// Opens it, and has it alone.
    ///
    /// # Errors
    /// As [`Journal::open`]; [`JournalError::Busy`] if somebody else has it for too long.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let mut journal = Journal::open(path)?.with_patience(PATIENCE);
        // The kernel takes it back as the file is closed.
        journal.lock()?;
        Ok(Self(journal))
    }

    /// What it says.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<Decoded, JournalError> {
        Ok(decode(&read_from(&self.0.file, 0).map_err(failed(&self.0.path, "reading"))?))
    }

    /// Forgets what has been undone, or is not to be, and those that are no more; if `told`, also that lines were lost.
    ///
    /// # Errors
    /// If it cannot be written; all of it is still to be undone then.
    pub fn strike(self, done: &BTreeSet<Subject>, told: bool) -> Result<(), JournalError> {
        let (mut outstanding, _) = this_boots(self.read()?);
        outstanding.forget(done);
        if told {
            outstanding.lost = 0;
        }
        let gone = gone(&outstanding);
        outstanding.forget(&gone);
        let path = &self.0.path;
        replace(path, outstanding.encode().as_bytes()).map(drop).map_err(failed(path, "rewriting"))
    }
}
