//! The kernel programs on this kernel, as root: real tasks do things, and the ring buffer tells. No agent is involved.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use numa_agent::{
    core::{
        config::Overrides,
        event::{EventKind, TaskEvent},
        filter::KernelFilter,
        idset::CpuSet,
        settings::Settings,
        task::TaskId,
    },
    host::{
        bpf::{LoadOptions, Marked, Programs, Verdict},
        sys::{Host, Kernel as _},
    },
};

/// What the filter of these tests lets through.
const WORD: &str = "zebra crossing";

/// One test at a time: each loads programs of its own, and they would see each other's tasks.
static TURN: Mutex<()> = Mutex::new(());

struct Live {
    programs: Programs,
    seen: Vec<TaskEvent>,
    _turn: MutexGuard<'static, ()>,
}

/// Programs with [`WORD`] as filter; `None` with a visible line where that cannot work, unless skips are forbidden.
fn live(options: &LoadOptions) -> Option<Live> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !nix::unistd::geteuid().is_root() {
        return skip("not root");
    }
    if let Err(error) = std::fs::metadata("/sys/kernel/btf/vmlinux") {
        return skip(&format!("/sys/kernel/btf/vmlinux: {error}"));
    }
    let mut programs = Programs::load(options).expect("programs load");
    programs.set_filter(&matching(WORD)).expect("filter");
    Some(Live { programs, seen: Vec::new(), _turn: turn })
}

fn skip<T>(why: &str) -> Option<T> {
    let forbidden = std::env::var_os("NUMA_AGENT_FORBID_SKIP").is_some_and(|value| value == "1");
    assert!(!forbidden, "NUMA_AGENT_FORBID_SKIP=1, but the kernel programs cannot be tested: {why}");
    println!("SKIP: kernel programs not tested: {why}");
    None
}

/// Options under which the test's own process is an ordinary one, and every CPU a node.
fn seeing_ourselves() -> LoadOptions {
    LoadOptions { self_pid: 0, cpu_nodes: vec![(0, 0), (1, 1)], ..LoadOptions::default() }
}

/// The agent's own filter for processes that match `pattern`.
fn matching(pattern: &str) -> KernelFilter {
    let flags = Overrides { group_patterns: vec![pattern.to_owned()], ..Overrides::default() };
    KernelFilter::new(&Settings::from_sources(None, flags).expect("a good pattern"))
}

impl Live {
    /// Reads events until one satisfies `wanted`.
    #[track_caller]
    fn wait(&mut self, what: &str, wanted: impl Fn(&TaskEvent) -> bool) -> TaskEvent {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.drain();
            if let Some(event) = self.seen.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            assert!(Instant::now() < deadline, "no {what}; seen: {:#?}", self.seen);
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn wait_exec(&mut self, pid: u32) -> TaskEvent {
        self.wait("exec", |event| event.pid == pid && matches!(event.kind, EventKind::Exec { .. }))
    }

    #[track_caller]
    fn wait_exit(&mut self, tid: u32) -> TaskEvent {
        self.wait("exit", |event| event.task.tid == tid && matches!(event.kind, EventKind::Exit { .. }))
    }

    fn drain(&mut self) {
        while let Some(event) = self.programs.next_event() {
            self.seen.push(event.expect("a record that decodes"));
        }
    }

    /// What happened to a process and its threads, moves aside: the scheduler makes those as it likes.
    fn of(&self, pid: u32) -> Vec<&EventKind> {
        let moved = |event: &TaskEvent| matches!(event.kind, EventKind::Migrate { .. });
        self.seen.iter().filter(|event| event.pid == pid && !moved(event)).map(|event| &event.kind).collect()
    }

    fn mark(&mut self, pid: u32, tid: u32) -> TaskId {
        let task = identity(tid);
        assert_eq!(self.programs.mark(pid, task).expect("mark"), Marked::New);
        task
    }
}

fn identity(tid: u32) -> TaskId {
    TaskId { tid, start_time: Host.start_time(tid).expect("a live task") }
}

fn own_tid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// A shell that waits for a line before it runs `script`. It is past its own exec, which `spawn` alone does not wait for.
fn waiting_shell(script: &str) -> Child {
    let script = format!("echo ready; read go; {script}");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().expect("a shell");
    let ready = &mut [0; 6];
    child.stdout.as_mut().expect("a pipe").read_exact(ready).expect("it writes");
    child
}

fn go(child: &mut Child) {
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
}

/// This program again, running one of its tests that waits for a line.
fn helper(test: &str) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--nocapture", "--test-threads=2"])
        .env("NUMA_AGENT_TEST_HELPER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("this test program")
}

/// The tids of a process, once it has that many threads.
#[track_caller]
fn wait_threads(pid: u32, count: usize) -> Vec<u32> {
    let tids = || -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("alive");
        tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    let enough = (0..2000).find_map(|_| {
        thread::sleep(Duration::from_millis(5));
        Some(tids()).filter(|tids| tids.len() >= count)
    });
    enough.unwrap_or_else(|| panic!("process {pid} does not get {count} threads"))
}

/// Runs a program to its end; its pid.
fn run(program: &str, arguments: &[&str]) -> u32 {
    let mut child = Command::new(program).args(arguments).stdout(Stdio::null()).spawn().expect("spawns");
    let pid = child.id();
    child.wait().expect("ends");
    pid
}

#[test]
fn all_programs_attach() {
    let Some(live) = live(&LoadOptions { debug_log: true, ..LoadOptions::default() }) else { return };
    assert_eq!(live.programs.health().verdict(), Verdict::Full, "{}", live.programs.health().summary());
}

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
    assert_eq!(fork.kind, EventKind::Fork { parent_pid: pid, parent_tid: pid, comm: "sh".into() });
    assert_eq!(fork.task.tid, child);
    // The filter would not let this exec through: it is seen because the mark was there before the child ran.
    let exec = live.wait_exec(child);
    let EventKind::Exec { ppid, uid, comm, cmdline, truncated } = &exec.kind else { unreachable!() };
    assert_eq!((*ppid, *uid, comm.as_str(), *truncated), (pid, 0, "true", false));
    assert_eq!(cmdline, "/bin/true one two  three");
    let exit = live.wait_exit(child);
    assert!(fork.at_ns < exec.at_ns && exec.at_ns < exit.at_ns);
    assert!(fork.task == exec.task && exec.task == exit.task);
    assert_eq!(live.wait_exec(pid).task, task, "start time as /proc has it");
    live.wait_exit(pid);
    shell.wait().expect("sleep ends");
    assert_eq!(live.programs.migration_counts(pid), None, "the mark went with the task");
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
    live.programs.unmark(own_tid()).expect("unmark");
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
    assert_eq!(cmdline, "/bin/sh -c /bin/true; : zebra crossing");
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
        helper("helper_pins_by_local_tids")
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

#[test]
fn moves_are_counted_and_those_between_nodes_are_events() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let cpus = Host.affinity(0).expect("own mask");
    if !cpus.contains(0) || !cpus.contains(1) {
        return skip(&format!("moves need CPUs 0 and 1, we have {cpus}")).unwrap_or(());
    }
    let mut shell = waiting_shell("while :; do :; done");
    let pid = shell.id();
    live.mark(pid, pid);
    go(&mut shell);
    for cpu in [0, 1, 0, 1] {
        Host.set_affinity(pid, &[cpu].into_iter().collect()).expect("a CPU of ours");
        thread::sleep(Duration::from_millis(20));
    }
    let counts = live.programs.migration_counts(pid).expect("marked");
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
    let EventKind::Exit { migrations } = exit.kind else { unreachable!() };
    // Every CPU is a node here, so every move is one between nodes.
    assert_eq!((migrations.cpu, migrations.node), (moves.len() as u64, moves.len() as u64));
    assert!(counts.cpu >= 3 && counts.cpu <= migrations.cpu);
}

#[test]
fn a_thread_that_execs_becomes_the_leader() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let mut helper = helper("helper_execs_from_a_thread");
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
    programs.unmark_task(before).expect("unmark");
    assert_eq!(programs.marked(), [task]);
    go(&mut shell);
    shell.wait().expect("ends");
    let child = live
        .wait("fork", |event| matches!(event.kind, EventKind::Fork { parent_pid, .. } if parent_pid == tid));
    live.wait_exit(child.pid);
    live.wait_exit(tid);
    let own = live.mark(std::process::id(), own_tid());
    live.programs.unmark_task(own).expect("unmark");
    live.programs.unmark_task(own).expect("unmarked already");
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
