//! The table of marks, and what does not fit into it or into the ring.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_mark_belongs_to_one_owner_of_the_tid() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut shell = waiting_shell("/bin/true; exit");
    let task = identity(shell.id());
    let (tid, programs) = (task.tid, &mut live.programs);
    let before = TaskId { tid, start_time: task.start_time - 1 };
    assert_eq!(programs.mark(1, before).expect("mark"), Marked::New);
    assert_eq!(programs.mark(tid, task).expect("mark"), Marked::New, "a mark left behind is replaced");
    assert_eq!(programs.mark(tid, task).expect("mark"), Marked::Known);
    assert_eq!(programs.mark(1, before).expect("mark"), Marked::Known);
    assert_eq!(programs.marked(), [task], "what comes too late replaces nothing");
    programs.unmark(before).expect("unmark");
    assert_eq!(programs.marked(), [task]);
    go(&mut shell);
    shell.wait().expect("ends");
    let child = live
        .wait("fork", |event| matches!(event.kind, EventKind::Fork { parent_pid, .. } if parent_pid == tid));
    live.wait_exit(child.pid);
    live.wait_exit(tid);
    let own = live.mark(std::process::id(), own_tid());
    live.programs.unmark(own).expect("unmark");
    live.programs.unmark(own).expect("unmarked already");
    assert_eq!(live.programs.marked(), []);
}

#[test]
fn what_the_ring_refuses_is_counted() {
    let Some(mut live) = live(&LoadOptions { ring_bytes: 4096, ..seeing_ourselves() }) else { return };
    live.mark(std::process::id(), own_tid());
    let burst = || (0..200).for_each(|_| thread::spawn(|| ()).join().expect("no panic"));
    burst();
    let first = live.programs.drops();
    let count = |name: &str| first.iter().find(|(counter, _)| *counter == name).expect("a counter").1;
    live.drain();
    let forks = live.seen.iter().filter(|event| matches!(event.kind, EventKind::Fork { .. })).count() as u64;
    assert_eq!(count("fork") + forks, 200, "every fork is an event or counted: {first}");
    assert!(count("fork") > 0 && count("exit") > 0 && first.state_lost());
    burst();
    assert!(live.programs.drops().total() > first.total());
}

#[test]
fn a_full_table_of_marks_is_counted() {
    let Some(mut live) = live(&LoadOptions { max_tasks: 1, ..seeing_ourselves() }) else { return };
    live.mark(std::process::id(), own_tid());
    thread::spawn(|| ()).join().expect("no panic");
    assert_eq!(live.programs.drops().to_string(), "unmarked 1");
    assert!(live.programs.mark(1, identity(1)).is_err());
}

#[test]
fn who_is_marked_while_the_programs_are_attached_finds_a_slot() {
    let (name, done) = (std::fs::read("/proc/self/comm").expect("our name"), AtomicBool::new(false));
    let live = thread::scope(|scope| {
        // A leader that another thread names passes the filter, also when none is loaded yet.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::fs::write("/proc/self/comm", &name).expect("our name");
                thread::sleep(Duration::from_millis(1));
            }
        });
        let live = live(&seeing_ourselves());
        done.store(true, Ordering::Relaxed);
        live
    });
    let Some(live) = live else { return };
    assert!(live.programs.marked().contains(&identity(std::process::id())));
    assert_eq!(live.programs.drops().to_string(), "nothing");
}
