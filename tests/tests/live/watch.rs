//! `numa-agent watch` with the real agent, or with programs of its own: real threads, real events, in a real terminal.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use numa_agent::core::{
    task::ThreadRole,
    view::{Line, Snapshot, Thread},
};
use numa_agent_tests::{
    agent::{self, Agent},
    bench::fdinfo,
    terminal::{Terminal, terminal_or_skip},
};

use super::*;

fn command(socket: &str, more: &str) -> String {
    format!("{} watch --socket {socket} {more}", agent::binary().display())
}

fn once(agent: &Agent) -> Snapshot {
    let socket = utf8(&agent.socket());
    let value = agent::json(["watch", "--socket", &socket, "--interval", "300ms", "--once", "--json"]);
    serde_json::from_value(value).expect("a snapshot")
}

fn find(snapshot: &Snapshot, tid: u32) -> Option<&Thread> {
    snapshot.threads.iter().find(|thread| thread.tid == tid)
}

/// The row of the table of threads that begins with a tid.
fn row(screen: &str, tid: u32) -> Option<&str> {
    let tid = tid.to_string();
    screen.lines().find(|row| row.split_whitespace().next() == Some(&tid))
}

/// Whether a row says that its thread is on such a CPU of such a node.
fn is_on(row: &str, node: u32, cpus: &CpuSet) -> bool {
    cpus.iter().any(|cpu| row.split_whitespace().any(|word| word == format!("n{node}:{cpu}")))
}

#[test]
fn threads_and_events_of_the_running_agent_show_in_a_terminal() {
    let Some(stage) = stage("watch-terminal") else { return };
    let Some(terminal) = terminal_or_skip(120, 40) else { return };
    let agent = stage.agent();
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    stage.settle();
    let mut puppet = stage.puppet("worker");
    let tid = puppet.thread("forward_77").unwrap();
    stage.settle_on(tid, &stage.forward);

    terminal.run(&command(&utf8(&agent.socket()), "--interval 300ms"));
    let screen = terminal.wait_for("thread where it belongs", |screen| {
        row(screen, tid).is_some_and(|row| row.contains("forward_77") && is_on(row, 1, &stage.forward))
    });
    for words in
        ["enforcing", "paired plan", "s0 n0", "forward_0", "prefill_0", "decode_0", "connected to the agent"]
    {
        assert!(screen.contains(words), "no {words} in\n{screen}");
    }

    // Somebody sets its mask, and the agent puts it back.
    puppet.pin(tid, &stage.members).unwrap();
    let told = format!("forward_77 ({tid}) by itself; put back on {}", stage.forward);
    let screen = terminal.wait_for("event", |screen| screen.contains(&told));
    assert!(screen.lines().any(|row| row.contains(" re-pin ") && row.contains(&told)), "{screen}");

    terminal.type_text("/forward_77");
    terminal.press(&["Enter"]);
    terminal.wait_for_text("Threads 1 of");
    terminal.press(&["Enter"]);
    let screen = terminal.wait_for_text(&format!("thread {tid} "));
    assert!(screen.contains(&format!("CPUs {} of node 1", stage.forward)), "{screen}");
    terminal.wait_for_text(&told);
    terminal.press(&["q"]);
    terminal.assert_restored();
    puppet.stop().unwrap();
    stack.stop().unwrap();
    agent.stop();
}

#[test]
fn figures_are_of_the_thread_that_did_it() {
    let Some(stage) = stage("watch-figures") else { return };
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    let tid = puppet.thread("decode_5").unwrap();
    stage.settle_on(tid, &stage.forward);
    let snapshot = eventually(|| {
        let snapshot = once(&agent);
        match find(&snapshot, tid) {
            Some(thread) if thread.role == ThreadRole::Forward && thread.run_ns > Some(0) => Ok(snapshot),
            other => Err(format!("{other:?}")),
        }
    });
    let thread = find(&snapshot, tid).unwrap();
    assert_eq!((thread.pid, thread.comm.as_str(), thread.node), (puppet.pid(), "decode_5", Some(1)));
    assert_eq!(thread.planned.as_ref().map(|place| &place.cpus), Some(&stage.forward));
    assert!(snapshot.status.agent.enforcing && snapshot.status.agent.pid == agent.pid());
    puppet.stop().unwrap();
    agent.stop();
}

#[test]
fn without_an_agent_it_observes_by_itself() {
    let Some(stage) = stage("watch-own") else { return };
    let mut puppet = stage.puppet("worker");
    let tid = puppet.thread("forward_3").unwrap();
    let born = now_ns();
    let socket = utf8(&stage.dir.path().join("nobody.sock"));
    let args = [vec!["--socket".to_owned(), socket.clone()], stage.args()].concat();
    let first = ["watch", "--interval", "300ms", "--json"].map(str::to_owned);
    let mut watch = agent::command(first.iter().chain(&args)).stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let mut lines = lines.map(|line| serde_json::from_str::<Line>(&line.unwrap()).unwrap());
    let found = lines.find_map(|line| match line {
        Line::Snapshot(snapshot) => find(&snapshot, tid).cloned().map(|thread| (snapshot, thread)),
        _ => None,
    });
    let (snapshot, thread) = found.expect("a snapshot with the thread");
    assert!(!snapshot.status.agent.enforcing);
    assert_eq!(thread.planned.map(|place| place.cpus), Some(stage.forward.clone()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watch.id().cast_signed()), nix::sys::signal::SIGTERM)
        .unwrap();
    assert!(lines.count() < 1_000, "it ends");
    assert!(watch.wait().unwrap().success());

    // The same on a terminal, which says whose figures they are.
    if let Some(terminal) = terminal_or_skip(100, 30) {
        let line = command(&socket, &format!("{} --interval 300ms", stage.args().join(" ")));
        own_view(&terminal, &line, socket.as_ref(), tid);
        stage.assert_untouched(puppet.pid(), &stage.all, born);
        // An agent that comes takes over, on the same screen.
        let agent = stage.agent_with(&["--socket", &socket]);
        let screen = terminal.wait_for("agent", |screen| {
            screen.contains(" enforcing ")
                && row(screen, tid).is_some_and(|row| is_on(row, 1, &stage.forward))
        });
        assert!(
            screen.contains("connected to the agent")
                && !screen.lines().next().unwrap().contains("observing")
        );
        terminal.press(&["q"]);
        terminal.assert_restored();
        agent.stop();
    }
    puppet.stop().unwrap();
}

fn own_view(terminal: &Terminal, command: &str, socket: &Path, tid: u32) {
    terminal.run(command);
    let screen = terminal.wait_for("thread", |screen| row(screen, tid).is_some());
    assert!(screen.contains("observing: no agent"), "{screen}");
    // Another pace, of the same programs.
    let pid = agent::watching(socket).unwrap();
    let programs = || fdinfo::programs(pid).unwrap().into_keys().collect::<Vec<u32>>();
    let before = programs();
    terminal.press(&["-"]);
    terminal.wait_for_text("every 500 ms");
    std::thread::sleep(Duration::from_millis(1500));
    let screen = terminal.wait_for("thread still", |screen| row(screen, tid).is_some());
    assert!(!screen.contains("NO AGENT") && !before.is_empty(), "{screen}");
    assert_eq!(programs(), before);
}

#[test]
fn whoever_may_not_load_programs_is_told() {
    let Some(stage) = stage("watch-nobody") else { return };
    let socket = utf8(&stage.dir.path().join("nobody.sock"));
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    nobody.arg(agent::binary_for_everyone(stage.dir.path()));
    nobody.args(["watch", "--once", "--socket", &socket, "--group-pattern", "x"]);
    let output = nobody.stdin(Stdio::null()).output().expect("setpriv is part of util-linux");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root") || said.contains("CAP_BPF") || said.contains("permitted"), "{said}");
}
