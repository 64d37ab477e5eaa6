//! Undoing what the journal tells: masks of tasks that live, values of files; what others have changed since stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Display,
    fs, io,
    path::Path,
};

use nix::errno::Errno;

use super::{
    binding,
    cpuset::{self, Cpuset},
    irq::balancer,
    journal::{self, Held, JournalError, is_anothers, listed},
    procfs::ProcReader,
    sys::{self, Host, Kernel},
    sysfs,
};
use crate::core::{
    idset::{CpuSet, IdSet},
    irq::balancer::list,
    journal::{
        Class, FileChange, FileClass, Outstanding, Owed, Subject, TaskChange,
        done::{Outcome, Restored, Row},
        undo::{self, Family, Running, Verdict},
    },
    rules::Needs,
    task::{BindOutcome, TaskId, ThreadFacts},
};

/// How often to look for threads that were born meanwhile, with a mask that their creator had no more an instant later.
const MAX_ROUNDS: usize = 8;

/// What is to be undone.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Sorts of things; empty: all.
    pub classes: Vec<Class>,
    /// Only say what would be.
    pub dry_run: bool,
}

/// Why nothing is undone.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Tids mean something else here.
    #[error(
        "in a pid namespace of its own nobody's thread can be told: run it on the host, or in a container with the host's pids (hostPID, --pid=host); nothing was undone"
    )]
    Namespace,
    /// Processes or CPUs cannot be read.
    #[error("what runs is not known: {0}")]
    Machine(String),
}

/// Undoes what the journal at `path` tells. What has been done is struck from it.
///
/// # Errors
/// If the journal or the machine cannot be read, or somebody else has the journal for too long; or, after all has been undone, the journal
/// cannot be written.
pub fn restore(path: &Path, asked: &Asked) -> Result<Restored, RestoreError> {
    let Some(mut decoded) = journal::read(path)? else { return Ok(Restored::default()) };
    // To open it to write is to drop what is of another boot.
    let (known, over) = journal::this_boots(decoded.clone());
    let damaged = known.lost.max(decoded.damaged);
    // Who undoes a part may not be who asks whether all is undone.
    let told = asked.classes.is_empty();
    let held = if asked.dry_run { None } else { Some(Held::open(path)?) };
    if let Some(held) = &held {
        decoded = held.read()?;
    }
    let (outstanding, _) = journal::this_boots(decoded);
    let unknown = outstanding.unknown.len();
    let mut restored = Restored { rows: Vec::new(), damaged, unknown, over };
    let wanted = |class: Class| asked.classes.is_empty() || asked.classes.contains(&class);
    let machine = sysfs::outline(Path::new("/sys"), &Cpuset::default()).map_err(unknown_machine)?;
    if wanted(Class::Task) && !outstanding.tasks.is_empty() {
        if !sys::in_initial_pid_namespace() {
            return Err(RestoreError::Namespace);
        }
        restored.rows = tasks(&outstanding, &machine.online, asked.dry_run)?;
    }
    let files = outstanding.files.values().filter(|owed| wanted(Class::File(owed.change.class)));
    let (lists, files): (Vec<_>, Vec<_>) = files.partition(|owed| owed.change.is_ban());
    restored.rows.extend(files.into_iter().map(|owed| {
        let online = match owed.change.class {
            FileClass::Irq => &machine.online,
            FileClass::Cpuset => &machine.memory,
        };
        file(owed, online, asked.dry_run)
    }));
    if let Some(held) = held {
        held.strike(&done(&restored.rows), told)?;
    }
    // Irqbalance takes its time to answer, and nobody shall wait for it who has something to write.
    let rows: Vec<Row> = lists.iter().map(|owed| bans(&owed.change, asked.dry_run)).collect();
    if !asked.dry_run && !rows.is_empty() {
        let held = Held::open(path)?;
        let (now, _) = journal::this_boots(held.read()?);
        // One that was given more meanwhile is not done.
        let same = |owed: &&&Owed<FileChange>| now.files.get(&owed.change.path) == Some(**owed);
        let same: BTreeSet<Subject> =
            lists.iter().filter(same).map(|owed| Subject::File(owed.change.path.clone())).collect();
        held.strike(&(&done(&rows) & &same), told)?;
    }
    restored.rows.extend(rows);
    Ok(restored)
}

/// What is not to be undone any more.
fn done(rows: &[Row]) -> BTreeSet<Subject> {
    let done = rows.iter().filter(|row| !matches!(row.outcome, Outcome::Failed(_)) && row.given.is_some());
    let subject = |row: &Row| match (&row.task, &row.path) {
        (Some((_, task)), _) => Some(Subject::Task(*task)),
        (None, path) => path.clone().map(Subject::File),
    };
    done.filter_map(subject).collect()
}

fn unknown_machine(error: impl Display) -> RestoreError {
    RestoreError::Machine(error.to_string())
}

fn tasks(outstanding: &Outstanding, online: &CpuSet, dry_run: bool) -> Result<Vec<Row>, RestoreError> {
    let reader = ProcReader::new("/proc", Needs::default());
    let possible = listed("possible");
    let mut rows = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let running = running(&reader).map_err(unknown_machine)?;
        let mut found = false;
        for (pid, family) in undo::families(outstanding, &running) {
            let room = Room { reach: reach(pid, online), possible: &possible };
            for thread in reader.threads(pid, &Host) {
                if rows.contains_key(&thread.id) {
                    continue;
                }
                if let Some(row) = thread_row(outstanding, pid, &family, &thread, &room, dry_run) {
                    found |= row.outcome == Outcome::Restored;
                    rows.insert(thread.id, row);
                }
            }
        }
        if !found {
            break;
        }
    }
    for (task, owed) in &outstanding.tasks {
        rows.entry(*task).or_insert_with(|| owed_row(*task, owed));
    }
    Ok(rows.into_values().collect())
}

/// Of a task of which nothing else is known than what it is owed.
fn owed_row(task: TaskId, Owed { change, .. }: &Owed<TaskChange>) -> Row {
    Row {
        class: Class::Task,
        task: Some((change.pid, task)),
        what: change.comm.clone(),
        path: None,
        before: change.before.to_string(),
        given: Some(change.given.to_string()),
        now: None,
        outcome: Outcome::Gone,
    }
}

/// A thread's mask; where nobody can tell, what is to be said of it.
fn mask_of(
    kernel: &impl Kernel,
    thread: &ThreadFacts,
    owed: Option<&Owed<TaskChange>>,
) -> Result<CpuSet, Option<Row>> {
    // The scan keeps no reason; it may have ended right then.
    let read = thread.allowed.clone().map_or_else(|| kernel.affinity(thread.id.tid), Ok);
    read.map_err(|error| match error.errno {
        Errno::ESRCH => None,
        // Who is owed nothing may be none of ours.
        _ => owed.map(|owed| Row {
            outcome: Outcome::Failed(format!("cannot read its mask: {error}")),
            ..owed_row(thread.id, owed)
        }),
    })
}

/// `None`: it is none of ours.
fn thread_row(
    outstanding: &Outstanding,
    pid: u32,
    family: &Family,
    thread: &ThreadFacts,
    room: &Room<'_>,
    dry_run: bool,
) -> Option<Row> {
    let owed = outstanding.tasks.get(&thread.id);
    let now = match mask_of(&Host, thread, owed) {
        Ok(mask) => mask,
        Err(row) => return row,
    };
    let (before, verdict) = match owed {
        Some(owed) => (family.owes(owed), undo::of_task(owed, family, &now, &room.reach)),
        None => {
            let origin = family.of_heir(&now, &room.reach)?;
            (origin.clone(), Verdict::Undo(origin))
        }
    };
    let (outcome, now) = match verdict {
        Verdict::AsBefore => (Outcome::AsBefore, Some(now)),
        Verdict::Changed => (Outcome::Changed, Some(now)),
        Verdict::Undo(_) if dry_run => (Outcome::Planned, Some(now)),
        Verdict::Undo(mask) => give_back(thread.id, &mask, room),
    };
    Some(Row {
        class: Class::Task,
        task: Some((pid, thread.id)),
        what: thread.comm.clone(),
        path: None,
        before: before.to_string(),
        given: owed.map(|owed| owed.change.given.to_string()),
        now: now.map(|mask| mask.to_string()),
        outcome,
    })
}

/// Where tasks may run.
struct Room<'a> {
    /// The CPUs that are online, and that their cpuset allows.
    reach: CpuSet,
    /// All there can be.
    possible: &'a CpuSet,
}

/// The CPUs that are online, and that the cpuset of a process allows.
fn reach(pid: u32, online: &CpuSet) -> CpuSet {
    let allowed = cpuset::of(Path::new("/"), pid).ok().flatten().and_then(|(_, cpuset)| cpuset.cpus);
    let reach = allowed.map_or_else(|| online.clone(), |allowed| allowed.intersection(online));
    if reach.is_empty() { online.clone() } else { reach }
}

/// As much of it as the task's cpuset still allows; all of that if it is none.
fn give_back(task: TaskId, mask: &CpuSet, room: &Room<'_>) -> (Outcome, Option<CpuSet>) {
    let set = |mask: &CpuSet| binding::bind(&Host, (task, 0), mask, |_| Ok::<_, Infallible>(()));
    let mut outcome = set(mask);
    if matches!(outcome, BindOutcome::Failed { excluded: true, .. }) {
        outcome = set(if room.possible.is_empty() { &room.reach } else { room.possible });
    } else if matches!(&outcome, BindOutcome::Unchanged(now) if now == mask) {
        // It was not set, as it is in force; but the kernel keeps a wider one in mind for when its cpuset widens.
        match Host.set_affinity(task.tid, mask) {
            Ok(()) => {}
            Err(error) if error.errno == Errno::ESRCH => outcome = BindOutcome::Gone,
            Err(error) => {
                let actual = Some(mask.clone());
                outcome = BindOutcome::Failed { why: error.to_string(), excluded: false, actual };
            }
        }
    }
    match outcome {
        BindOutcome::Bound(now) | BindOutcome::Unchanged(now) => (Outcome::Restored, Some(now)),
        BindOutcome::Failed { why, actual, .. } => (Outcome::Failed(why), actual),
        BindOutcome::Gone | BindOutcome::Planned(_) | BindOutcome::Spared { .. } => (Outcome::Gone, None),
    }
}

fn file_row(change: &FileChange, outcome: Outcome) -> Row {
    Row {
        class: Class::File(change.class),
        task: None,
        what: change.what.clone(),
        path: Some(change.path.clone()),
        before: change.before.clone(),
        given: Some(change.given.clone()),
        now: None,
        outcome,
    }
}

fn file(owed: &Owed<FileChange>, online: &IdSet, dry_run: bool) -> Row {
    let change = &owed.change;
    let mut row = file_row(change, Outcome::Gone);
    let gone =
        |error: &io::Error| [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind());
    let read = || fs::read_to_string(&change.path).map(|text| text.trim().to_owned());
    let current = match read() {
        Ok(_) if is_anothers(owed) => return row,
        Ok(current) => current,
        Err(error) if gone(&error) => return row,
        Err(error) => {
            row.outcome = Outcome::Failed(format!("cannot read {}: {error}", change.path));
            return row;
        }
    };
    row.outcome = match undo::of_file(owed, &current, online) {
        Verdict::AsBefore => Outcome::AsBefore,
        Verdict::Changed => Outcome::Changed,
        Verdict::Undo(_) if dry_run => Outcome::Planned,
        // An empty write is no write to these files.
        Verdict::Undo(before) => match fs::write(&change.path, before + "\n") {
            Ok(()) => Outcome::Restored,
            Err(error) if gone(&error) => return row,
            Err(error) => Outcome::Failed(format!("cannot write {}: {error}", change.path)),
        },
    };
    row.now = read().ok().or(Some(current));
    row
}

/// A running irqbalance may move again what it was told not to.
fn bans(change: &FileChange, dry_run: bool) -> Row {
    let mut now = None;
    let mut undo = || {
        let (has, verdict) = balancer::of_ban(change)?;
        let has = now.insert(has);
        Ok(match verdict {
            Verdict::AsBefore | Verdict::Changed => Outcome::AsBefore,
            Verdict::Undo(_) if dry_run => Outcome::Planned,
            Verdict::Undo(wanted) => {
                balancer::set_bans(Path::new(&change.path), &wanted)?;
                *has = wanted;
                Outcome::Restored
            }
        })
    };
    let outcome = undo().unwrap_or_else(|error: balancer::BalancerError| match error.is_gone() {
        true => Outcome::Gone,
        false => Outcome::Failed(error.to_string()),
    });
    Row { now: now.map(|now| list(&now)), ..file_row(change, outcome) }
}

/// All processes.
fn running(reader: &ProcReader) -> Result<Running, super::procfs::ProcError> {
    let process = |pid: u32| {
        let stat = procfs::process::Process::new(pid.cast_signed()).ok()?.stat().ok()?;
        Some((pid, (u32::try_from(stat.ppid).unwrap_or(0), stat.starttime)))
    };
    Ok(reader.pids()?.into_iter().filter_map(process).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
    };

    use super::*;
    use crate::{
        core::journal::Entry,
        host::{journal::Journal, sys::SysError},
    };

    /// Nobody may ask it anything.
    struct Closed(Errno);

    impl Kernel for Closed {
        fn affinity(&self, tid: u32) -> Result<CpuSet, SysError> {
            Err(SysError { call: "sched_getaffinity", tid, errno: self.0 })
        }

        fn set_affinity(&self, _: u32, _: &CpuSet) -> Result<(), SysError> {
            panic!("what is not known is not changed")
        }

        fn start_time(&self, _: u32) -> Option<u64> {
            None
        }

        fn real_time(&self, _: u32) -> Option<&'static str> {
            None
        }
    }

    #[test]
    fn a_thread_whose_mask_cannot_be_read_has_not_been_undone() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        let (task, other) = (TaskId { tid: 5, start_time: 7 }, TaskId { tid: 6, start_time: 7 });
        let change = TaskChange { pid: 5, task, comm: "worker".into(), before: set("0-7"), given: set("2") };
        let outstanding: Outstanding = [Entry::Task(change)].into_iter().collect();
        let row = |errno, id| {
            let thread = ThreadFacts { id, comm: "worker".into(), allowed: None };
            mask_of(&Closed(errno), &thread, outstanding.tasks.get(&id)).unwrap_err()
        };
        let failed = row(Errno::EPERM, task).unwrap();
        assert!(matches!(&failed.outcome, Outcome::Failed(why) if why.contains("EPERM")), "{failed:?}");
        assert_eq!((failed.before.as_str(), failed.now), ("0-7", None));
        assert!(done(&[Row { now: None, ..failed }]).is_empty(), "it stays in the journal");
        assert_eq!(row(Errno::EPERM, other), None, "it may be none of ours");
        assert_eq!(row(Errno::ESRCH, task), None, "it has ended");
    }

    #[test]
    fn while_irqbalance_is_asked_others_write_and_what_they_write_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, socket) = (dir.path().join("journal"), dir.path().join("irqbalance1.sock"));
        let name = socket.display().to_string();
        let told = move |given: &str| FileChange {
            class: FileClass::Irq,
            path: name.clone(),
            what: "irqbalance's ban list".into(),
            before: String::new(),
            given: given.into(),
            whose: None,
        };
        let mut journal = Journal::open(&path).unwrap();
        journal.before_file(&told("24")).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        // It has been told of 24 no more; the second time, somebody tells it of 25 while it is asked.
        let answers = std::thread::spawn(move || {
            for more in [None, Some("24 25")] {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 99]).unwrap() > 0, "a command");
                if let Some(given) = more {
                    Journal::open(&path).unwrap().before_file(&told(given)).expect("nobody has it");
                }
                stream.write_all(b"SLEEP 10 BANNED 00000000").unwrap();
            }
        });
        let path = dir.path().join("journal");
        let undo = |dry_run| {
            let rows = restore(&path, &Asked { dry_run, ..Asked::default() }).unwrap().rows;
            rows.into_iter().map(|row| (row.outcome.name(), row.now)).collect::<Vec<_>>()
        };
        let empty = || vec![("unchanged", Some(String::new()))];
        assert_eq!((undo(true), undo(false)), (empty(), empty()));
        answers.join().unwrap();
        // It has ended by now.
        assert_eq!(
            (undo(false), undo(false)),
            (vec![("gone", None)], vec![]),
            "what was added is still to be undone"
        );
    }
}
