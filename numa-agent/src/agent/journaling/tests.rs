use std::{
    fs::{self, File},
    time::Instant,
};

use super::*;
use crate::{
    core::{config::Overrides, engine::Engine, settings::Settings, synthetic::Machine},
    host::journal::Held,
};

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
fn one_that_was_written_anew_is_opened_off_the_loop_and_nothing_is_lost() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_dir, path) = place();
    let mut journaling = Journaling::start(Some(path.clone())).unwrap();
    journaling.write(change(1));
    Journal::open(&path).unwrap().rewrite().unwrap();
    let _runtime = runtime.enter();
    journaling.write(change(2));
    assert!(journaling.journal.is_none() && journaling.opening.is_some(), "at once");
    assert_eq!((journaling.counts.waiting, journaling.counts.failures, entries(&path)), (1, 0, 1));
    let done = runtime.block_on(journaling.opening.take().unwrap());
    journaling.opened(done, sys::monotonic_ns());
    assert_eq!((journaling.counts.waiting, journaling.counts.entries, entries(&path)), (0, 2, 2));
    // At its end it goes on with what is there by itself.
    Journal::open(&path).unwrap().rewrite().unwrap();
    journaling.late = (Entry::Task(change(3)).encode(), 1);
    runtime.block_on(journaling.end());
    assert_eq!((journaling.counts.waiting, entries(&path)), (0, 2));
}

/// This process, or a child of it that nobody knows.
fn who(tid: u32, parent: u32) -> Who<'static> {
    let start_time = Host.start_time(tid).unwrap_or(u64::MAX);
    let task = TaskId { tid, start_time };
    Who { task, comm: "x", process: task, parent, ancestors: &[] }
}

#[test]
fn what_one_that_is_opened_late_tells_is_known_from_then_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_dir, path) = place();
    let set = |text: &str| text.parse::<CpuSet>().unwrap();
    let me = std::process::id();
    let task = who(me, 0).task;
    let told = TaskChange { pid: me, task, comm: "x".into(), before: set("900"), given: set("901") };
    Journal::open(&path).unwrap().before_task(&told).unwrap();
    let mut journaling = Journaling { path: Some(path.clone()), ..Journaling::default() };
    let _runtime = runtime.enter();
    journaling.open_if_needed();
    let done = runtime.block_on(journaling.opening.take().unwrap());
    journaling.opened(done, sys::monotonic_ns());
    let born = who(u32::MAX >> 1, me);
    let change = journaling.lineage.change(&mut journaling.here, &born, &set("901"), &set("902"));
    assert_eq!(change.before, set("900"));
}

#[test]
fn processes_are_remembered_for_as_long_as_they_live() {
    let set = |text: &str| text.parse::<CpuSet>().unwrap();
    let settings = Settings::from_sources(None, Overrides::default()).unwrap();
    let engine = Engine::new(Machine::default().topology(), settings, []).unwrap();
    let mut journaling = Journaling::default();
    let (me, ended) = (std::process::id(), u32::MAX >> 1);
    for pid in [me, ended] {
        journaling.lineage.change(&mut journaling.here, &who(pid, 0), &set("900"), &set("901"));
    }
    // They run programs that are none of ours, and no scan has seen them.
    journaling.sweep(&engine, &BTreeSet::new());
    let mut before = |parent| {
        let born = who(parent + 1 + (1 << 23), parent);
        journaling.lineage.change(&mut journaling.here, &born, &set("901"), &set("902")).before
    };
    assert_eq!((before(ended), before(me)), (set("901"), set("900")));
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

#[test]
fn a_mask_that_was_told_costs_no_line_until_somebody_else_has_written() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (_dir, path) = place();
    let mut journaling = Journaling::start(Some(path.clone())).unwrap();
    let change = change(1);
    let bind = Bind {
        pid: 1,
        task: change.task,
        comm: "x".into(),
        role: crate::core::task::ThreadRole::Member,
        group: None,
        cpus: change.given.clone(),
        cause: crate::core::engine::Cause::Rename,
        at_ns: None,
        seen_ns: 0,
    };
    assert!(!journaling.has(&bind));
    journaling.write(change.clone());
    assert!(journaling.has(&bind) && journaling.has(&bind));
    assert!(!journaling.has(&Bind { cpus: change.before.clone(), ..bind.clone() }), "never given");
    // As `restore --force` does, which strikes it.
    let held = Held::open(&path).unwrap();
    let subject = crate::core::journal::Subject::Task(change.task);
    held.strike(&[subject].into(), false).unwrap();
    assert!(!journaling.has(&bind), "it has to be told again");
    // What has taken its place is opened by a job.
    let _runtime = runtime.enter();
    journaling.write(change.clone());
    // Or removes it.
    fs::remove_file(&path).unwrap();
    assert!(!journaling.has(&bind));
}
