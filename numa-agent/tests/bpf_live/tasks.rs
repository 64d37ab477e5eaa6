//! What marked tasks do, and those that may match the filter: fork, exec, rename, exit, moves.

use std::os::unix::process::CommandExt as _;

use numa_ebpf::account::span;

use super::*;

#[test]
fn a_marked_process_and_all_it_creates_are_followed() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut shell = waiting_shell("/bin/true one '' 'two  three'; exec /bin/sleep 0");
    let pid = shell.id();
    let task = live.mark(pid, pid);
    go(&mut shell);
    let by_shell =
        |event: &TaskEvent| matches!(event.kind, EventKind::Fork { parent_pid, .. } if parent_pid == pid);
    let fork = live.wait("fork", by_shell);
    let child = fork.pid;
    let EventKind::Fork { parent_pid, parent_tid, comm, slot: Some(_), plan: None } = &fork.kind else {
        panic!("{fork:?}")
    };
    assert_eq!((*parent_pid, *parent_tid, comm.as_str()), (pid, pid, "sh"));
    assert_eq!(fork.task.tid, child);
    // The filter would not let this exec through: it is seen because the mark was there before the child ran.
    let exec = live.wait_exec(child);
    let EventKind::Exec { ppid, uid, comm, cmdline, truncated, held } = &exec.kind else { unreachable!() };
    assert_eq!((*ppid, *uid, comm.as_str(), *truncated), (pid, 0, "true", false));
    assert!(!held, "nobody has asked for that");
    assert_eq!(&**cmdline, "/bin/true one two  three");
    let exit = live.wait_exit(child);
    assert!(fork.at_ns < exec.at_ns && exec.at_ns < exit.at_ns);
    assert!(fork.task == exec.task && exec.task == exit.task);
    assert_eq!(live.wait_exec(pid).task, task, "start time as /proc has it");
    live.wait_exit(pid);
    shell.wait().expect("sleep ends");
    assert_eq!(live.programs.slot_of(task), None, "the mark went with the task");
    assert_eq!(live.of(child).len(), 3, "exec is no rename: {:?}", live.of(child));
    assert_eq!(live.programs.drops().total(), 0);
}

#[test]
fn threads_are_followed_from_birth_through_their_names_to_their_end() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let pid = std::process::id();
    live.mark(pid, own_tid());
    let name = "zebra_forward_0";
    let tid =
        thread::Builder::new().name(name.into()).spawn(own_tid).expect("thread").join().expect("no panic");
    let exit = live.wait_exit(tid);
    let of_thread: Vec<TaskEvent> = live.seen.iter().filter(|event| event.task.tid == tid).cloned().collect();
    let kinds: Vec<EventKind> = of_thread
        .iter()
        .map(|event| event.kind.clone())
        .filter(|kind| !matches!(kind, EventKind::Migrate { .. }))
        .collect();
    let [EventKind::Fork { parent_pid, parent_tid, .. }, rename, EventKind::Exit { .. }] = &kinds[..] else {
        panic!("{kinds:?}")
    };
    assert_eq!((*parent_pid, *parent_tid), (pid, own_tid()));
    assert_eq!(*rename, EventKind::Rename { comm: name.into() });
    assert_eq!(exit.pid, pid);
    live.programs
        .unmark(TaskId { tid: own_tid(), start_time: Host.start_time(own_tid()).expect("we live") })
        .expect("unmark");
    live.drain();
    let seen = live.seen.len();
    thread::spawn(|| ()).join().expect("no panic");
    live.drain();
    assert_eq!(live.seen.len(), seen, "an unmarked thread's doings are no events");
}

#[test]
fn the_kernel_lets_through_only_execs_that_may_match() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let unmatched = run("/bin/true", &["zebra", "walk"]);
    let truncated = run("/bin/true", &[&"x".repeat(2000)]);
    // Two arguments with an empty one between: user space sees "zebra crossing".
    let matched = run("/bin/sh", &["-c", "/bin/true; :", "zebra", "", "crossing"]);
    live.wait_exit(matched);
    assert_eq!(live.of(unmatched), Vec::<&EventKind>::new());
    let [EventKind::Exec { truncated: true, cmdline, .. }, EventKind::Exit { .. }] = &live.of(truncated)[..]
    else {
        panic!("{:?}", live.of(truncated))
    };
    assert!(cmdline.len() == 1024 && cmdline.starts_with("/bin/true xxx"), "{cmdline}");
    let [EventKind::Exec { truncated: false, cmdline, .. }, EventKind::Exit { .. }] = &live.of(matched)[..]
    else {
        panic!("{:?}", live.of(matched))
    };
    assert_eq!(&**cmdline, "/bin/sh -c /bin/true; : zebra crossing");
    let child =
        |event: &TaskEvent| matches!(event.kind, EventKind::Fork { parent_pid, .. } if parent_pid == matched);
    assert!(live.seen.iter().any(child), "children of a match are followed before user space says so");
    // The same under a filter for something else is no event any more.
    live.programs.set_filter(&matching("okapi")).expect("filter");
    let unmatched = run("/bin/sh", &["-c", ":", "zebra crossing"]);
    let matched = run("/bin/sh", &["-c", ":", "okapi"]);
    live.wait_exec(matched);
    assert_eq!(live.of(unmatched), Vec::<&EventKind>::new());
    live.programs.set_filter(&KernelFilter { pass_all: true, ..matching(WORD) }).expect("filter");
    let any = run("/bin/true", &[]);
    live.wait_exec(any);
}

#[test]
fn a_process_that_takes_a_matching_name_is_seen() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    // The word is not in the shell's arguments, or they would match.
    let script = "a=zebra; printf \"$a crossing\" > /proc/$$/comm; printf okapi > /proc/$$/comm; read end";
    let mut shell = waiting_shell(script);
    let pid = shell.id();
    let mut input = shell.stdin.take().expect("a pipe");
    input.write_all(b"go\n").expect("the shell reads");
    let okapi = EventKind::Rename { comm: "okapi".into() };
    live.wait("second rename", |event| event.kind == okapi);
    // Marked by the match, so that giving the name up is known too.
    assert_eq!(live.of(pid), [&EventKind::Rename { comm: "zebra crossing".into() }, &okapi]);
    assert!(live.programs.marked().contains(&identity(pid)));
    assert_eq!(live.programs.mark(pid, identity(pid)).expect("mark"), Marked::Known);
    input.write_all(b"end\n").expect("the shell reads");
    shell.wait().expect("ends");
}

#[test]
fn moves_are_counted_and_those_between_nodes_are_events() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let cpus = Host.affinity(0).expect("own mask");
    if !cpus.contains(0) || !cpus.contains(1) {
        return skip(&format!("moves need CPUs 0 and 1, we have {cpus}")).unwrap_or(());
    }
    let mut shell = waiting_shell("while :; do :; done");
    let pid = shell.id();
    let task = live.mark(pid, pid);
    go(&mut shell);
    for cpu in [0, 1, 0, 1] {
        Host.set_affinity(pid, &[cpu].into_iter().collect()).expect("a CPU of ours");
        thread::sleep(Duration::from_millis(20));
    }
    let account = live.account(task);
    shell.kill().expect("ours");
    shell.wait().expect("ends");
    let exit = live.wait_exit(pid);
    let moves: Vec<(u32, u32)> = live
        .seen
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Migrate { from_cpu, to_cpu } if event.pid == pid => Some((from_cpu, to_cpu)),
            _ => None,
        })
        .collect();
    // The first pinning may find it there already.
    assert!(moves.len() >= 3, "{moves:?}");
    assert!(moves.windows(2).all(|pair| pair[0].1 == pair[1].0), "moves form a chain: {moves:?}");
    assert!(moves.iter().all(|(from, to)| from != to), "{moves:?}");
    let ended = live.ended(&exit);
    // Every CPU is a socket here, so every move is one between sockets.
    let count = moves.len() as u64;
    assert_eq!(ended.moves_by_span, [0, 0, 0, 0, count]);
    assert_eq!(ended.moves_by_cause.iter().sum::<u64>(), count);
    assert!(account.moves_by_span[span::MACHINE] >= 3 && account.moves_by_span[span::MACHINE] <= count);
}

#[test]
fn a_thread_that_execs_becomes_the_leader() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut helper = helper("tasks::helper_execs_from_a_thread");
    let pid = helper.id();
    // The harness runs the test on a thread of its own.
    let thread = wait_threads(pid, 2).into_iter().find(|tid| *tid != pid).expect("a second thread");
    live.mark(pid, pid);
    live.mark(pid, thread);
    go(&mut helper);
    let exec = live.wait_exec(pid);
    assert_eq!(exec.task.tid, pid);
    let old = live.wait_exit(thread);
    assert!(old.at_ns <= exec.at_ns || old.at_ns - exec.at_ns < 1_000_000);
    helper.wait().expect("ends");
    let ended = |event: &TaskEvent| {
        event.task == exec.task && event.at_ns > exec.at_ns && matches!(event.kind, EventKind::Exit { .. })
    };
    live.wait("end of the new program", ended);
    assert_eq!(live.programs.marked(), Vec::new(), "no mark is left behind");
}

/// Run by the test above only.
#[test]
fn helper_execs_from_a_thread() {
    if std::env::var_os("NUMA_AGENT_TEST_HELPER").is_some() {
        std::io::stdin().read_line(&mut String::new()).expect("a line");
        panic!("exec failed: {}", Command::new("/bin/sleep").arg("0").exec());
    }
}
