use std::{
    fs::{self, File},
    time::Instant,
};

use super::*;
use crate::{core::task::TaskId, host::journal::Held};

const SECOND_NS: u64 = 1_000_000_000;

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/journal");
    (dir, path)
}

fn change(tid: u32) -> TaskChange {
    let set = |text: &str| text.parse::<CpuSet>().unwrap();
    let task = TaskId { tid, start_time: 1 };
    TaskChange { pid: tid, task, comm: "x".into(), before: set("0-7"), given: set("1") }
}

/// So long that it is rewritten when it is opened.
fn grow(path: &Path) {
    let mut journal = Journal::open(path).unwrap();
    while !journal.is_long() {
        journal.before_task(&change(1)).unwrap();
    }
}

fn entries(path: &Path) -> usize {
    journal::read(path).unwrap().unwrap().entries.len()
}

#[test]
fn others_who_have_the_journal_hold_up_nothing_and_are_no_failure_for_a_while() {
    let (_dir, path) = place();
    let mut journaling = Journaling::start(Some(path.clone())).unwrap();
    // As who rewrites it, or undoes what it tells.
    let held = Held::open(&path).unwrap();
    let start_ns = sys::monotonic_ns();
    journaling.write(change(1));
    journaling.flush(start_ns + 5 * SECOND_NS);
    assert_eq!((&journaling.warning, journaling.counts.failures), (&None, 0));
    assert_eq!(journaling.counts().unwrap().waiting, 1);
    drop(held);
    journaling.flush(start_ns + 6 * SECOND_NS);
    assert_eq!((journaling.counts.waiting, journaling.counts.entries, entries(&path)), (0, 1, 2));

    // Another who has it later begins anew; one who never ends is a failure.
    let held = Held::open(&path).unwrap();
    for (second, fails) in [(20, false), (29, false), (31, true)] {
        journaling.late = (Entry::Task(change(2)).encode(), 1);
        journaling.flush(start_ns + second * SECOND_NS);
        assert_eq!(journaling.warning.is_some(), fails, "after {second} s");
    }
    drop(held);
}

#[test]
fn one_that_cannot_be_opened_is_opened_off_the_loop() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_dir, path) = place();
    fs::create_dir_all(&path).unwrap();
    let mut journaling = Journaling::start(Some(path.clone())).unwrap();
    assert!(journaling.warning.is_some(), "a folder is no journal");
    fs::remove_dir(&path).unwrap();
    grow(&path);
    // Who opens it has to rewrite it, and waits for this one.
    let other = File::open(&path).unwrap();
    sys::lock(&other, true).unwrap();
    let _runtime = runtime.enter();
    let start = Instant::now();
    journaling.write(change(2));
    journaling.flush(u64::MAX);
    journaling.open_if_needed();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    drop(other);
    let done = runtime.block_on(journaling.opening.take().unwrap());
    journaling.opened(done, u64::MAX);
    assert_eq!((journaling.counts.waiting, journaling.counts.entries), (0, 1));
    assert_eq!(journaling.warning, None, "it is over");
    // Of the long one nothing is left: nobody of it lives.
    assert_eq!(entries(&path), 2, "which boot, and the new one");
}

#[test]
fn one_that_has_grown_is_rewritten_off_the_loop() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_dir, path) = place();
    let mut journaling = Journaling::start(Some(path.clone())).unwrap();
    let _runtime = runtime.enter();
    journaling.open_if_needed();
    assert!(journaling.opening.is_none(), "it is short");
    while !journaling.journal.as_ref().unwrap().is_long() {
        journaling.write(change(1));
    }
    journaling.open_if_needed();
    // Meanwhile it is written to.
    journaling.write(change(2));
    let done = runtime.block_on(journaling.opening.take().unwrap());
    journaling.opened(done, u64::MAX);
    journaling.write(change(3));
    assert!(fs::metadata(&path).unwrap().len() < 10_000);
    assert!(!journaling.journal.as_ref().unwrap().is_long());
    assert_eq!((journaling.counts.failures, journaling.counts.waiting), (0, 0));
}
