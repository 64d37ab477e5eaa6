//! Sets one interrupt's or queue's CPUs and reads them back.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::errno::Errno;

use super::Roots;
use crate::{
    core::{
        idset::{CpuSet, ListError},
        irq::{
            mask,
            outcome::Outcome,
            plan::{Place, QueuePlace},
        },
        journal::{FileChange, FileClass},
    },
    host::journal::whose,
};

impl Roots {
    /// Puts an interrupt where it is planned. `first` is told what is about to be written, and may forbid it.
    pub fn set_irq(&self, place: &Place, first: impl FnOnce(&FileChange) -> Result<(), String>) -> Outcome {
        let what = format!("irq {} {}", place.irq, place.name);
        let path = self.affinity(place.irq);
        let given = place.planned.to_string();
        let outcome = set(&path, what, given, &place.planned, str::parse, first);
        let Outcome::Set = outcome else { return outcome };
        match super::set(&self.effective(place.irq), str::parse) {
            Ok(Some(cpus)) if !cpus.is_subset(&place.planned) => Outcome::Pending(cpus),
            Ok(_) => Outcome::Set,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Gives a queue the CPUs that are planned for it.
    pub fn set_queue(
        &self,
        place: &QueuePlace,
        first: impl FnOnce(&FileChange) -> Result<(), String>,
    ) -> Outcome {
        let what = format!("{} {}", place.interface, place.file);
        let path = self.queue(&place.interface, &place.file);
        set(&path, what, mask(&place.planned), &place.planned, CpuSet::from_mask, first)
    }
}

fn set(
    path: &Path,
    what: String,
    given: String,
    planned: &CpuSet,
    parse: fn(&str) -> Result<CpuSet, ListError>,
    first: impl FnOnce(&FileChange) -> Result<(), String>,
) -> Outcome {
    let read = || super::text_of(path).map_err(|error| Outcome::Failed(error.to_string()));
    let before = match read() {
        Ok(Some(before)) => before,
        Ok(None) => return Outcome::Failed(format!("{} is not there any more", path.display())),
        Err(outcome) => return outcome,
    };
    if parse(&before).as_ref() == Ok(planned) {
        return Outcome::Unchanged;
    }
    // Who undoes it may be elsewhere, and a link may point there by then.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let change = FileChange { class: FileClass::Irq, path: place, what, before, given, whose: whose(path) };
    if let Err(why) = first(&change) {
        return Outcome::Failed(why);
    }
    if let Err(error) = fs::write(path, &change.given) {
        return refusal(path, &change.given, &error);
    }
    match read() {
        Ok(Some(now)) if parse(&now).as_ref() == Ok(planned) => Outcome::Set,
        Ok(now) => Outcome::Failed(format!(
            "{} reads back as {:?}",
            path.display(),
            now.unwrap_or_default().chars().take(80).collect::<String>()
        )),
        Err(outcome) => outcome,
    }
}

/// What a refused write means (`write_irq_affinity` in `kernel/irq/proc.c`, `irq_do_set_affinity`).
fn refusal(path: &Path, given: &str, error: &io::Error) -> Outcome {
    let managed =
        || Outcome::Refused("the kernel manages its CPUs itself, or its chip cannot move it".to_owned());
    // As seen on 6.18: such a file is nobody's to write, and root is told EPERM.
    let is_interrupt = path.file_name().is_some_and(|name| name == "smp_affinity_list");
    let is_closed = || is_interrupt && fs::metadata(path).is_ok_and(|facts| facts.mode() & 0o222 == 0);
    let path = path.display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EIO) => managed(),
        Some(Errno::EPERM | Errno::EACCES) if is_closed() => managed(),
        Some(Errno::EPERM | Errno::EACCES | Errno::EROFS) => Outcome::Failed(format!(
            "cannot write {path}: {error}; run as root, in a container with the host's /proc/irq and /sys writable"
        )),
        Some(Errno::EINVAL | Errno::EOVERFLOW) => Outcome::Failed(format!(
            "cannot write {path}: none of CPUs {given} is online, or the chip cannot reach them"
        )),
        Some(Errno::ENOSPC) => {
            Outcome::Failed(format!("cannot write {path}: no interrupt vector is left on CPUs {given}"))
        }
        Some(Errno::ENOENT) => Outcome::Failed(format!("{path} is not there any more")),
        _ => Outcome::Failed(format!("cannot write {path}: {error}")),
    }
}
