//! `numa-agent watch` with a made-up agent at the other end of a socket: in a real terminal, in pipes, with an agent that goes away.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{OpenptyResult, Winsize, openpty},
    sys::termios::{Termios, tcgetattr},
};
use numa_agent::{
    core::view::{Line, Request, Snapshot},
    view::synthetic,
};
use numa_agent_tests::{
    agent, eventually,
    terminal::{Terminal, terminal_or_skip},
};
use serde_json::json;
use tempfile::TempDir;

/// An agent of a made-up A3, which tells its whole story at once and then repeats its last snapshot.
struct Pretender {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Between two of its snapshots, whatever a viewer asks for.
const PAUSE: Duration = Duration::from_millis(100);

impl Pretender {
    fn start(path: &Path) -> Self {
        Self::start_with(path, false)
    }

    /// One with nothing but events, as fast as they are taken, if it is to `flood`.
    fn start_with(path: &Path, flood: bool) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket that does not wait");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut viewers = Vec::<JoinHandle<()>>::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let stopped = Arc::clone(&stopped);
                    let number = viewers.len();
                    viewers.push(thread::spawn(move || tell(&stream, number, &stopped, flood)));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(listener);
            viewers.into_iter().for_each(|viewer| viewer.join().expect("no panic"));
        });
        Self { path: path.into(), stop, thread: Some(thread) }
    }

    /// Ends, and leaves nothing behind.
    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Pretender {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whoever is at the other end may go at any time.
fn tell(stream: &UnixStream, number: usize, stopped: &AtomicBool, flood: bool) {
    stream.set_nonblocking(false).expect("a stream that waits");
    let (told, asked) = (Arc::new(AtomicU64::new(0)), stream.try_clone().expect("a descriptor"));
    let heard = Arc::clone(&told);
    let listening = thread::spawn(move || {
        for request in BufReader::new(asked).lines().map_while(Result::ok) {
            let request = serde_json::from_str(&request).expect("a request that is understood");
            let Request::Watch { interval_ms } = request else { panic!("{request:?}") };
            heard.store(interval_ms, Ordering::Relaxed);
        }
    });
    while told.load(Ordering::Relaxed) == 0 && !stopped.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
    let lines = synthetic::a3(24);
    let Some(Line::Snapshot(last)) = lines.last() else { panic!("a snapshot is last") };
    let mut snapshot: Snapshot = (**last).clone();
    let send = |line: &Line| {
        let text = serde_json::to_string(line).expect("JSON") + "\n";
        (&mut &*stream).write_all(text.as_bytes()).is_ok()
    };
    let mut sent = send(&Line::Status(Box::new(snapshot.status.clone()))) && lines.iter().all(send);
    // What the viewer asked for, and on which connection, can be read from its screen.
    let mut shows = || {
        snapshot.status.agent.host = format!("asked-{}-on-{number}", told.load(Ordering::Relaxed));
        send(&Line::Snapshot(Box::new(snapshot.clone())))
    };
    sent = sent && shows();
    for count in 0.. {
        if !flood || !sent || stopped.load(Ordering::Relaxed) {
            break;
        }
        sent = send(&synthetic::event(&json!({ "event": "warning", "warning": format!("flood {count}") })));
    }
    while sent && !stopped.load(Ordering::Relaxed) {
        sent = shows();
        thread::sleep(PAUSE);
    }
    let _ = stream.shutdown(Shutdown::Both);
    listening.join().expect("no panic");
}

/// A place for a socket, with an agent there or not yet.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn pretender(&self) -> Pretender {
        Pretender::start(&self.socket())
    }

    /// The command in words for a shell.
    fn command(&self, more: &str) -> String {
        format!("{} watch --socket {} {more}", agent::binary().display(), self.socket().display())
    }

    fn watch(&self, more: &[&str]) -> Command {
        let mut command = agent::command(["watch", "--socket"]);
        command.arg(self.socket()).args(more);
        command
    }

    fn output(&self, more: &[&str]) -> Output {
        self.watch(more).output().expect("numa-agent starts")
    }
}

fn row<'a>(screen: &'a str, word: &str) -> Option<&'a str> {
    screen.lines().find(|row| row.split_whitespace().any(|found| found == word))
}

/// The view in a terminal, with its table of threads showing.
fn view(stage: &Stage, terminal: &Terminal) {
    terminal.run(&stage.command("--interval 500ms"));
    terminal.wait_for_text("asked-500");
}

#[test]
fn keys_lead_through_the_view_and_the_terminal_is_left_as_it_was() {
    let Some(terminal) = terminal_or_skip(100, 30) else { return };
    let stage = Stage::new();
    let _agent = stage.pretender();
    view(&stage, &terminal);
    let screen = terminal.wait_for_text("tokenizer_pool");
    let strayed = row(&screen, "21107").unwrap_or_else(|| panic!("{screen}"));
    assert!(strayed.contains("forward_1") && strayed.contains("n7:287!"), "{strayed}");
    assert!(screen.contains(" moved ") && screen.contains("off plan!"), "{screen}");

    terminal.press(&["?"]);
    terminal.wait_for_text("pause: the view stands");
    terminal.press(&["Escape"]);
    terminal.type_text("/forward s1.g2");
    terminal.wait_for_text("filter: forward s1.g2");
    terminal.press(&["Enter"]);
    let screen = terminal.wait_for_text("Threads 24 of 512");
    assert!(screen.contains("s1.g2 n3") && row(&screen, "21107").is_none(), "{screen}");
    terminal.press(&["Enter"]);
    terminal.wait_for_text("members on 104-111, forward on 120-159");
    terminal.press(&["Escape"]);
    terminal.wait_for_text("Threads 24 of 512");
    terminal.press(&["Escape"]);
    terminal.wait_for_text("Threads 512 ");
    terminal.press(&["s"]);
    terminal.wait_for_text("by longest wait");
    terminal.press(&["Space"]);
    terminal.wait_for_text("PAUSED");
    terminal.press(&["Space"]);
    terminal.wait_for("end of the pause", |screen| !screen.contains("PAUSED"));

    terminal.press(&["-"]);
    terminal.wait_for_text("asked-1000-on-0");
    terminal.resize(70, 20);
    terminal.wait_for_text("70 x 20");
    terminal.resize(200, 60);
    terminal.wait_for_text("session:20000");

    terminal.press(&["q"]);
    terminal.assert_restored();
}

#[test]
fn where_the_interval_is_long_there_are_figures_at_once() {
    let Some(terminal) = terminal_or_skip(100, 30) else { return };
    let stage = Stage::new();
    let _agent = stage.pretender();
    terminal.run(&stage.command("--interval 1h"));
    // On the connection on which the first snapshot was asked for after a second.
    let screen = terminal.wait_for_text("asked-3600000-on-0");
    assert!(screen.contains("every 60 min") && screen.contains("forward_1"), "{screen}");
    terminal.press(&["q"]);
    terminal.assert_restored();
}

#[test]
fn the_view_goes_into_the_background_and_comes_back() {
    let Some(terminal) = terminal_or_skip(90, 26) else { return };
    let stage = Stage::new();
    let _agent = stage.pretender();
    view(&stage, &terminal);
    terminal.press(&["C-z"]);
    terminal.wait_for_text("Stopped");
    terminal.assert_restored();
    terminal.run("fg");
    terminal.wait_for_text("asked-500");
    terminal.press(&["s"]);
    terminal.wait_for_text("by longest wait");
    terminal.press(&["C-c"]);
    terminal.assert_restored();
}

#[test]
fn signals_and_panics_leave_the_terminal_as_it_was() {
    let Some(terminal) = terminal_or_skip(90, 26) else { return };
    let stage = Stage::new();
    let _agent = stage.pretender();
    for signal in ["TERM", "HUP", "INT"] {
        view(&stage, &terminal);
        // The shell stays at it, so somebody else has to.
        let pid = agent::watching(&stage.socket()).expect("it runs");
        send_signal(signal, &pid.to_string());
        terminal.assert_restored();
    }
    let program = draw_watch();
    terminal.run(&format!("{} --panic", program.display()));
    terminal.wait_for_text("this panic was asked for");
    terminal.assert_restored();
    terminal.run(&format!("{} --panic-elsewhere", program.display()));
    let screen = terminal.wait_for_text("drawn: Err");
    assert!(screen.contains("asked for elsewhere") && screen.contains("has panicked"), "{screen}");
    terminal.assert_restored();
}

fn send_signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), pid]).status();
    assert!(status.expect("kill").success());
}

#[test]
fn a_storm_of_events_does_not_hold_up_a_signal() {
    let Some(terminal) = terminal_or_skip(90, 26) else { return };
    let stage = Stage::new();
    let _agent = Pretender::start_with(&stage.socket(), true);
    for signal in ["TERM", "HUP", "INT"] {
        terminal.run(&format!("{}; echo code $?", stage.command("--interval 500ms")));
        terminal.wait_for_text("flood 5");
        send_signal(signal, &agent::watching(&stage.socket()).expect("it runs").to_string());
        terminal.wait_for_text("code 0");
        terminal.assert_restored();
    }
}

/// `watch` on a terminal that nobody reads from, at the moment when it waits for that.
fn stuck(stage: &Stage) -> (Child, OpenptyResult, Termios) {
    let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).expect("a terminal");
    let before = tcgetattr(&pty.slave).expect("its settings");
    let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(agent::binary()).args(["watch", "--interval", "200ms", "--socket"]);
    command.arg(stage.socket()).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
    let watch = command.spawn().expect("setsid is part of util-linux");
    let pid = watch.id();
    eventually(|| {
        let waits = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        if waits.contains("n_tty_write") || waits.contains("wait_woken") { Ok(()) } else { Err(waits) }
    });
    (watch, pty, before)
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_a_signal_and_is_as_it_was() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let (mut watch, pty, before) = stuck(&stage);
    assert_ne!(tcgetattr(&pty.slave).expect("its settings"), before, "it is raw");
    send_signal("TERM", &watch.id().to_string());
    let status = eventually(|| watch.try_wait().expect("wait").ok_or("still runs".to_owned()));
    assert!(status.success(), "{status}");
    assert_eq!(tcgetattr(&pty.slave).expect("its settings"), before);
    // What it could not show is gone, and its own screen with it.
    let (mut left, mut some) = (Vec::new(), [0; 4096]);
    let more = || poll(&mut [PollFd::new(pty.master.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
    eventually(|| {
        while more() == Ok(1) {
            let length = nix::unistd::read(&pty.master, &mut some).expect("something was written");
            left.extend_from_slice(&some[..length]);
        }
        let end = String::from_utf8_lossy(&left[left.len().saturating_sub(200)..]).into_owned();
        if end.ends_with("\u{1b}[?1049l\u{1b}[?25h") {
            Ok(())
        } else {
            Err(format!("{} bytes: {end:?}", left.len()))
        }
    });

    // A second signal is not made to wait; a machine that is busy gets another try.
    let at_once = (0..5).any(|_| {
        let (mut watch, _pty, _) = stuck(&stage);
        let began = std::time::Instant::now();
        send_signal("TERM", &watch.id().to_string());
        thread::sleep(Duration::from_millis(100));
        send_signal("INT", &watch.id().to_string());
        let status = eventually(|| watch.try_wait().expect("wait").ok_or("still runs".to_owned()));
        assert!(status.success(), "{status}");
        began.elapsed() < Duration::from_millis(1500)
    });
    assert!(at_once);
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_a_signal() {
    let stage = Stage::new();
    let _agent = Pretender::start_with(&stage.socket(), true);
    for (more, signal) in [(&[][..], "TERM"), (&["--json"], "INT"), (&[], "HUP")] {
        let mut watch = stage.watch(more).stdout(Stdio::piped()).spawn().expect("numa-agent starts");
        let pid = watch.id();
        eventually(|| {
            let waits = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            if waits.contains("pipe_write") { Ok(()) } else { Err(waits) }
        });
        send_signal(signal, &pid.to_string());
        let status = eventually(|| watch.try_wait().expect("wait").ok_or("still runs".to_owned()));
        assert!(status.success(), "{signal}: {status}");
    }
}

#[test]
fn an_agent_that_goes_away_is_waited_for() {
    let Some(terminal) = terminal_or_skip(100, 30) else { return };
    let stage = Stage::new();
    let mut agent = stage.pretender();
    view(&stage, &terminal);
    agent.stop();
    let screen = terminal.wait_for_text("NO AGENT");
    assert!(screen.contains("forward_1"), "its last figures stay: {screen}");
    let _agent = stage.pretender();
    terminal.wait_for("agent", |screen| !screen.contains("NO AGENT"));
    terminal.press(&["q"]);
    terminal.assert_restored();
}

#[test]
fn a_terminal_without_colours_or_unicode_has_neither() {
    let Some(terminal) = terminal_or_skip(90, 26) else { return };
    let stage = Stage::new();
    let _agent = stage.pretender();
    terminal.run(&format!("NO_COLOR=1 LC_ALL=C {}", stage.command("--interval 500ms")));
    let screen = terminal.wait_for_text("asked-500");
    assert!(screen.is_ascii(), "{screen}");
    assert_eq!(terminal.colours(), BTreeSet::new());
    terminal.press(&["q"]);
    terminal.assert_restored();
    terminal.run(&stage.command("--interval 500ms"));
    terminal.wait_for_text("asked-500");
    assert!(!terminal.colours().is_empty(), "there are colours where nobody forbids them");
    terminal.press(&["q"]);
    terminal.assert_restored();
    // A terminal that can do nothing gets lines.
    terminal.run(&format!("TERM=dumb {} | head -3", stage.command("")));
    terminal.wait_for_text("agent    numa-agent 0.1.0 on infer-07, enforcing");
    terminal.assert_restored();
    // High enough that what comes first is still to be seen.
    terminal.resize(90, 200);
    terminal.run(&format!("TERM=dumb {}", stage.command("")));
    terminal.wait_for_text("drift    6 threads");
    let screen = terminal.wait_for_text("TERM is dumb");
    assert_eq!(screen.matches("a line for each event instead of a screen").count(), 1, "{screen}");
    terminal.press(&["C-c"]);
    terminal.assert_restored();
}

#[test]
fn a_pipe_gets_a_line_for_each_event_until_it_is_closed() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let mut watch = stage.watch(&[]).stdout(Stdio::piped()).spawn().expect("numa-agent starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map(Result::unwrap);
    let first = lines.next().expect("a line");
    assert!(first.ends_with("agent    numa-agent 0.1.0 on infer-07, enforcing: 646 threads of 62 processes"));
    let moved = lines.find(|line| line.contains(" moved ")).expect("a line");
    assert!(moved.contains("forward_") && moved.contains("node 1 -> 7"), "{moved}");
    assert!(lines.any(|line| line.contains(" re-pin ") && line.contains("by OMP tid 3")));
    // As `| head` does.
    drop(lines);
    let status = eventually(|| watch.try_wait().expect("wait").ok_or("still runs".to_owned()));
    assert!(status.success(), "{status}");
}

#[test]
fn a_reader_that_goes_away_ends_it_also_where_there_is_nothing_to_say() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let mut watch = stage
        .watch(&["--events", "nobody-at-all"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("numa-agent starts");
    drop(watch.stdout.take());
    let status = eventually(|| watch.try_wait().expect("wait").ok_or("still runs".to_owned()));
    assert!(status.success(), "{status}");
}

#[test]
fn json_lines_are_the_agents() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let mut watch = stage.watch(&["--json"]).stdout(Stdio::piped()).spawn().expect("numa-agent starts");
    let lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map(Result::unwrap);
    let wanted: Vec<Line> = synthetic::a3(24);
    let came: Vec<Line> = lines
        .take(wanted.len() + 1)
        .map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(matches!(came[0], Line::Status(_)));
    assert_eq!(came[1..], wanted);
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
}

#[test]
fn once_is_one_snapshot() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let text = |more: &[&str]| {
        let output = stage.output(&[&["--once"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(text(&[]).contains("socket3_group3  -"));
    let json: serde_json::Value = serde_json::from_str(&text(&["--json"])).expect("JSON");
    assert_eq!(json["kind"], "snapshot");
    assert_eq!((&json["schema"], &json["agent"]["host"]), (&json!(1), &json!("infer-07")));
    let picture = text(&["--format", "svg", "--size", "100x30"]);
    assert!(picture.starts_with("<svg ") && picture.contains("infer-07"));
}

#[test]
fn of_events_those_that_are_asked_for_have_lines() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    let mut watch =
        stage.watch(&["--events", "kind:moved group:s0"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map(Result::unwrap);
    for _ in 0..3 {
        let line = lines.next().expect("a line");
        assert!(line.contains(" moved    forward_"), "{line}");
    }
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
}

#[test]
fn what_cannot_be_written_is_said() {
    let stage = Stage::new();
    let _agent = stage.pretender();
    for more in [&[][..], &["--json"], &["--once"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = stage.watch(more).stdout(full).output().expect("numa-agent starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more:?}: {said}");
        assert!(said.contains("standard output: No space left"), "{more:?}: {said}");
    }
}

#[test]
fn what_cannot_be_watched_is_said() {
    let stage = Stage::new();
    let said = |more: &[&str], code: i32| {
        let output = stage.output(more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{more:?}: {said}");
        said
    };
    for more in [&[][..], &["--once"], &["--json"]] {
        let said = said(more, 1);
        assert!(said.contains("agent.sock") && said.contains("numa-agent run"), "{said}");
        assert!(said.contains("--config FILE"), "{said}");
    }
    assert!(said(&["--format", "svg"], 2).contains("--once"));
    assert!(said(&["--size", "10x10"], 2).contains("80x24"));
    assert!(said(&["--interval", "1ms"], 2).contains("200ms"));
    for more in [&["--size", "90x30"][..], &["--once", "--size", "90x30"], &["--json", "--size", "90x30"]] {
        assert!(said(more, 2).contains("--size is that of a picture"), "{more:?}");
    }
    assert!(said(&["--events", "kind:repined"], 2).contains("re-pin"));
    assert!(said(&["--events", "x", "--format", "json"], 2).contains("jq"));
    assert!(said(&["--json", "--format", "text"], 2).contains("cannot be used with"));
    // Somebody who says no.
    let listener = UnixListener::bind(stage.socket()).expect("a socket");
    let refuse = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a viewer");
        let line = "{\"kind\":\"error\",\"schema\":1,\"error\":\"too many \\u001b[2J viewers\"}\n";
        stream.write_all(line.as_bytes()).expect("it takes a line");
        let _ = stream.read(&mut [0; 256]);
    });
    let refused = said(&["--once"], 1);
    assert!(refused.contains("refuses: too many \\u{1b}[2J viewers"), "{refused}");
    refuse.join().expect("no panic");
}

#[test]
fn the_picture_in_the_documentation_is_what_is_drawn_now() {
    let drawn = Command::new(draw_watch()).output().expect("draw-watch is built with the tests");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images/watch.svg");
    let kept = std::fs::read(kept).expect("the picture");
    assert!(
        drawn.stdout == kept,
        "the view has changed: `cargo xtask pictures` draws the picture anew; look at it"
    );
}

/// The program that draws the made-up A3, beside the tests.
fn draw_watch() -> PathBuf {
    let own = std::env::current_exe().expect("my own path");
    own.ancestors().nth(2).expect("a directory").join("draw-watch")
}
