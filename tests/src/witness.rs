//! What each process and thread of the stack sees of itself: its CPU mask, its CPU, its name, when.
//!
//! One file per process, one JSON line per look, each written by a single `write` in append mode: what was seen before a
//! crash or an exec stays. The agent's word counts for nothing here.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use numa_agent::core::idset::CpuSet;
use serde::{Deserialize, Serialize};

use crate::sys;

/// When in a task's life a look was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// First statement of `main`.
    Main,
    /// First statement of a thread, or of a forked child.
    Start,
    /// Right after the thread renamed itself.
    Renamed,
    /// Right after the thread set its own mask.
    Pinned,
    /// In the course of its work.
    Sample,
    /// Last statement.
    End,
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Role of the process, as in its arguments.
    pub role: String,
    /// Serving instance of the process.
    pub instance: u32,
    /// Name of the thread now.
    pub comm: String,
    /// When in the task's life.
    pub point: Point,
    /// `sched_getaffinity` of the thread itself.
    pub cpus: CpuSet,
    /// `sched_getcpu`.
    pub cpu: u32,
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the agent's events.
///
/// # Panics
/// If the clock cannot be read, which Linux does not do.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// A look at the calling thread before anything is known about who it is.
#[derive(Debug, Clone)]
pub struct Look {
    at_ns: u64,
    cpus: CpuSet,
    cpu: u32,
    comm: String,
}

impl Look {
    /// Looks.
    ///
    /// # Panics
    /// If the thread cannot read its own mask or name.
    #[must_use]
    pub fn now() -> Self {
        // The clock first: a look "since T" then tells of a mask read after T.
        let at_ns = now_ns();
        let cpus = sys::affinity(0).expect("sched_getaffinity of the caller");
        let cpu = sys::cpu();
        let comm = sys::thread_name();
        Self { at_ns, cpus, cpu, comm }
    }
}

/// The record file of one process.
#[derive(Debug)]
pub struct Witness {
    file: File,
    role: String,
    instance: u32,
}

impl Witness {
    /// Opens `DIR/PID.jsonl` for the calling process.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn open(dir: &Path, role: &str, instance: u32) -> Result<Arc<Self>> {
        let path = dir.join(format!("{}.jsonl", std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open witness file {}", path.display()))?;
        Ok(Arc::new(Self { file, role: role.to_owned(), instance }))
    }

    /// The observer of the calling thread; everything it notes is about the thread that calls it.
    #[must_use]
    pub fn observer(self: &Arc<Self>) -> Observer {
        Observer { witness: Arc::clone(self), last: None, unwritten: 0 }
    }
}

/// Every how many unchanged samples one is written all the same.
const KEEP_ALIVE: u32 = 10;

/// One thread's observer of itself.
#[derive(Debug)]
pub struct Observer {
    witness: Arc<Witness>,
    last: Option<CpuSet>,
    unwritten: u32,
}

impl Observer {
    /// Records what the thread sees now.
    pub fn note(&mut self, point: Point) {
        self.note_look(Look::now(), point);
    }

    /// Records what the thread saw then.
    ///
    /// # Panics
    /// If the record cannot be written: a witness that loses testimony must not go on.
    pub fn note_look(&mut self, look: Look, point: Point) {
        let record = Record {
            at_ns: look.at_ns,
            pid: std::process::id(),
            tid: nix::unistd::gettid().as_raw().cast_unsigned(),
            role: self.witness.role.clone(),
            instance: self.witness.instance,
            comm: look.comm,
            point,
            cpus: look.cpus,
            cpu: look.cpu,
        };
        let mut line = serde_json::to_vec(&record).expect("a record is plain data");
        line.push(b'\n');
        (&self.witness.file).write_all(&line).expect("write a witness record");
        self.last = Some(record.cpus);
        self.unwritten = 0;
    }

    /// Looks, and records it if the mask changed or enough looks went by.
    pub fn sample(&mut self) {
        let look = Look::now();
        self.unwritten += 1;
        if self.unwritten >= KEEP_ALIVE || self.last.as_ref() != Some(&look.cpus) {
            self.note_look(look, Point::Sample);
        }
    }
}

/// All records in `dir`, by time.
///
/// # Errors
/// If a file cannot be read or a whole line of it is no record.
pub fn read(dir: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let is_process = path.file_stem().is_some_and(|stem| stem.to_string_lossy().parse::<u32>().is_ok());
        if is_process && path.extension().is_some_and(|extension| extension == "jsonl") {
            records.extend(lines::<Record>(&path)?);
        }
    }
    records.sort_by_key(|record| record.at_ns);
    Ok(records)
}

/// The whole lines of a JSON-lines file; what follows the last newline is still being written.
///
/// # Errors
/// If the file cannot be read or a line does not parse.
pub fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()));
    whole.lines().map(parse).collect()
}

/// Each thread's records since `since_ns`, by (pid, tid).
#[must_use]
pub fn by_thread(records: &[Record], since_ns: u64) -> BTreeMap<(u32, u32), Vec<&Record>> {
    let mut threads = BTreeMap::<_, Vec<_>>::new();
    for record in records.iter().filter(|record| record.at_ns >= since_ns) {
        threads.entry((record.pid, record.tid)).or_default().push(record);
    }
    threads
}
