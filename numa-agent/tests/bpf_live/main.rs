//! The kernel programs on this kernel, as root: real tasks do things, and the ring buffer tells. No agent is involved.

mod accounts;
mod affinity;
mod devices;
mod marks;
mod tap;
mod tasks;

use std::{
    io::{Read as _, Write as _},
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
        settings::Settings,
        task::TaskId,
    },
    host::{
        bpf::{LoadOptions, Marked, Programs, Verdict},
        sys::{Host, Kernel as _},
    },
};
use numa_ebpf::{account::Account, place::Place};

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

/// Options under which the test's own process is an ordinary one, and every CPU a node on a socket of its own.
fn seeing_ourselves() -> LoadOptions {
    let place = |cpu| (cpu, Place { node: cpu, row: cpu, socket: cpu, cluster: cpu, core: cpu, critical: 0 });
    let last = Host.affinity(0).expect("own mask").last().unwrap_or_default().max(1);
    LoadOptions { self_pid: 0, places: (0..=last).map(place).collect(), ..LoadOptions::default() }
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

    /// The account of a marked task, as it is now.
    #[track_caller]
    fn account(&self, task: TaskId) -> Account {
        let slot = self.programs.slot_of(task).expect("an account");
        self.programs.read_account(slot).expect("its slot")
    }

    /// How many accounts of tasks that ended wait to be read.
    fn closed_slots(&self) -> usize {
        let is_closed = |slot: &u32| {
            let closed_at_ns = self.programs.read_account(*slot).expect("a slot").closed_at_ns;
            closed_at_ns != 0 && !self.programs.is_given_back(*slot, closed_at_ns)
        };
        (1..self.programs.slots()).filter(is_closed).count()
    }

    /// The account that a task left as it ended.
    #[track_caller]
    fn ended(&mut self, exit: &TaskEvent) -> Account {
        let EventKind::Exit { slot: Some(slot), brief } = exit.kind else { panic!("no account: {exit:?}") };
        let account = self.programs.read_account(slot).expect("its slot");
        if let Some(brief) = brief {
            let told = brief.account();
            assert!(exit.at_ns > told.opened_at_ns);
            if (account.tid, account.opened_at_ns) == (exit.task.tid, told.opened_at_ns) {
                // Nobody has its slot since it was given back. Those are of a task that lives; the rest is whose it is.
                let Account { stopped_at_ns, waits_as, start_boottime_ns, tgid, tid, .. } = account;
                assert_eq!((tgid, account.closed_at_ns), (exit.pid, 0));
                assert_eq!(
                    Account { stopped_at_ns, waits_as, start_boottime_ns, tgid, tid, ..told },
                    account
                );
            }
            return told;
        }
        assert_eq!((account.tid, account.tgid), (exit.task.tid, exit.pid));
        assert!(account.closed_at_ns > account.opened_at_ns);
        assert_eq!(account.closed_at_ns, exit.at_ns, "one end");
        assert!(!self.programs.is_given_back(slot, exit.at_ns));
        self.programs.give_back(slot, exit.at_ns).expect("a closed account");
        assert!(self.programs.is_given_back(slot, exit.at_ns));
        account
    }

    fn mark(&mut self, pid: u32, tid: u32) -> TaskId {
        let task = identity(tid);
        assert_eq!(self.programs.mark(pid, task).expect("mark"), Marked::New);
        task
    }
}

/// Whether this is a guest of `cargo xtask vm`: its processors are emulated, one instruction after the other, and may stand still
/// for milliseconds between any two.
fn emulated() -> bool {
    std::env::var_os("NUMA_AGENT_VM_TOPOLOGY").is_some()
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
