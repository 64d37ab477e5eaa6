//! Who sets masks.

use std::collections::HashMap;

use numa_agent::core::idset::CpuSet;

use super::*;

#[test]
fn who_set_a_mask_is_named() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut shell = waiting_shell(":");
    let pid = shell.id();
    let task = live.mark(pid, pid);
    let all = Host.affinity(pid).expect("its mask");
    let offline: CpuSet = [8191].into_iter().collect();
    assert!(Host.set_affinity(pid, &offline).is_err(), "no such CPU");
    Host.set_affinity(pid, &all).expect("its own mask again");
    let is_call = |event: &TaskEvent| matches!(event.kind, EventKind::SetAffinity { .. });
    let event = live.wait("set_affinity", is_call);
    assert_eq!((event.pid, event.task), (pid, task));
    let comm = std::fs::read_to_string(format!("/proc/self/task/{}/comm", own_tid())).expect("own comm");
    let (caller_pid, caller_tid) = (std::process::id(), own_tid());
    let expected = EventKind::SetAffinity { caller_pid, caller_tid, caller_comm: comm.trim_end().into() };
    assert_eq!(event.kind, expected);
    live.drain();
    assert_eq!(live.of(pid), [&expected], "the refused call is no event");
    // A call on itself, by pid 0.
    let own = live.mark(std::process::id(), own_tid());
    Host.set_affinity(0, &all).expect("own mask");
    live.wait("own call", |event| event.task == own && is_call(event));
    go(&mut shell);
    shell.wait().expect("ends");
}

#[test]
fn tids_of_a_container_are_understood() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut helper = thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).expect("a pid namespace for our children");
        helper("affinity::helper_pins_by_local_tids")
    })
    .join()
    .expect("no panic");
    let pid = helper.id();
    // The harness's own thread, the test's, and those that it creates.
    let (caller, others) = (2, 3..=2 + LOCAL_THREADS);
    let tids = wait_threads(pid, 2 + LOCAL_THREADS as usize);
    let roots: HashMap<u32, TaskId> =
        tids.iter().map(|tid| (local_tid(*tid), live.mark(pid, *tid))).collect();
    // Other tasks of ours have those numbers outside.
    for local in roots.keys() {
        live.programs.mark(1, TaskId { tid: *local, start_time: 0 }).expect("mark");
    }
    go(&mut helper);
    helper.wait().expect("ends");
    live.wait_exit(pid);
    let calls: Vec<(TaskId, u32)> = live
        .seen
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::SetAffinity { caller_tid, .. } => Some((event.task, caller_tid)),
            _ => None,
        })
        .collect();
    let by_caller = |local: u32| (roots[&local], roots[&caller].tid);
    // The helper goes through them in this order; a call on a task that does not exist is no loss.
    let expected: Vec<_> = [caller].into_iter().chain(others).map(by_caller).collect();
    assert_eq!(calls, expected);
    assert_eq!(live.programs.drops().total(), 0);
}

/// So many that the kernel's tree of tids has two levels.
const LOCAL_THREADS: u32 = 100;

/// Run by the test above only: pid 1 of its namespace.
#[test]
fn helper_pins_by_local_tids() {
    if std::env::var_os("NUMA_AGENT_TEST_HELPER").is_none() {
        return;
    }
    let all = Host.affinity(0).expect("own mask");
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Arc::new(Mutex::new(ended));
    let spawn = |_| {
        let (send, receive) = std::sync::mpsc::channel();
        let ended = ended.clone();
        let wait = move || {
            send.send(own_tid()).expect("the test waits");
            let _ = ended.lock().expect("no panic").recv();
        };
        (thread::spawn(wait), receive.recv().expect("its tid"))
    };
    let threads: Vec<_> = (0..LOCAL_THREADS).map(spawn).collect();
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    Host.set_affinity(own_tid(), &all).expect("own mask");
    for (_, tid) in &threads {
        Host.set_affinity(*tid, &all).expect("a sibling's mask");
    }
    assert!(Host.set_affinity(4000, &all).is_err(), "no such task");
    drop(end);
    for (thread, _) in threads {
        thread.join().expect("no panic");
    }
}

/// The tid that a task has in its own, innermost pid namespace.
fn local_tid(tid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("Linux 4.1");
    line.split_whitespace().last().and_then(|local| local.parse().ok()).expect("a number")
}

#[test]
fn our_own_calls_are_no_events() {
    let Some(mut live) = live(&LoadOptions::default()) else { return };
    let mut shell = waiting_shell(":");
    let pid = shell.id();
    live.mark(pid, pid);
    let all = Host.affinity(pid).expect("its mask");
    Host.set_affinity(pid, &all).expect("its own mask again");
    go(&mut shell);
    shell.wait().expect("ends");
    live.wait_exit(pid);
    assert!(
        !live.of(pid).iter().any(|kind| matches!(kind, EventKind::SetAffinity { .. })),
        "{:?}",
        live.seen
    );
}
