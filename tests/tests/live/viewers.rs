//! Who looks at the agent: sees what is there, and changes nothing, whatever they do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use numa_agent::{
    agent::{self, Jitter, LineFormat, LineQueue, Options, Socket},
    core::{
        config::Overrides,
        jitter::observer::Limits,
        outline::Outline,
        settings::{Layout, PolicyChoice, Settings},
        view::{Line, Request, Snapshot, Status, Thread},
    },
    host::{
        client::{self, Lines, Peer},
        cpuset::Cpuset,
        sysfs,
    },
};
use numa_agent_tests::agent::{binary_for_everyone, command};

use super::*;

const WATCH: Request = Request::Watch { interval_ms: 200 };
const NOBODY: u32 = 65_534;

fn watch(agent: &Agent) -> Lines {
    let mut lines = client::connect(&agent.socket(), WATCH).expect("the agent listens");
    assert!(matches!(lines.answer().expect("an answer"), Line::Status(_)));
    lines
}

fn status(path: &Path) -> Box<Status> {
    match client::connect(path, Request::Status).and_then(|mut lines| lines.answer()) {
        Ok(Line::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// Waits for a snapshot that fits.
fn snapshot(lines: &mut Lines, mut fits: impl FnMut(&Snapshot) -> Result<(), String>) -> Box<Snapshot> {
    eventually(|| match lines.answer().expect("a line") {
        Line::Snapshot(snapshot) => fits(&snapshot).map(|()| snapshot),
        _ => Err("no snapshot".to_owned()),
    })
}

fn row(snapshot: &Snapshot, tid: u32) -> Option<&Thread> {
    snapshot.threads.iter().find(|thread| thread.tid == tid)
}

/// A connection on which that has been said.
fn call(path: &Path, request: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(path).expect("the agent listens");
    // It may be closed before all is sent.
    let _ = stream.write_all(request);
    stream
}

#[test]
fn a_viewer_sees_threads_where_they_are_and_what_becomes_of_them() {
    let Some(stage) = stage("viewer") else { return };
    let agent = stage.agent();
    let mut lines = watch(&agent);
    let mut puppet = stage.puppet("worker");
    let forward = puppet.thread("forward_0").unwrap();
    let bound = eventually(|| match lines.answer().expect("a line") {
        Line::Event { event, .. } if event["tid"] == forward && event["cause"] == "rename" => Ok(event),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(bound["cpus"], json!(stage.forward), "{bound}");
    let there = snapshot(&mut lines, |snapshot| {
        let row = row(snapshot, forward).ok_or("not listed")?;
        let runs = row.run_ns > Some(0) && row.waits > Some(0) && row.cpu.is_some();
        if runs && !row.is_off_plan() { Ok(()) } else { Err(format!("{row:?}")) }
    });
    let (member, forward_row) = (row(&there, puppet.pid()).unwrap(), row(&there, forward).unwrap());
    let planned = |thread: &Thread| thread.planned.clone().map(|place| (place.cpus, place.nodes));
    assert_eq!(planned(forward_row), Some((stage.forward.clone(), vec![1])));
    assert_eq!(planned(member), Some((stage.members.clone(), vec![0])));
    assert_eq!((forward_row.node, forward_row.comm.as_str()), (Some(1), "forward_0"));
    assert_eq!(there.threads[0].tid, forward, "critical threads come first");
    assert!(forward_row.run_ns.unwrap() as f64 <= 1.5e9 * there.seconds, "{forward_row:?}");
    assert!(there.load.is_some_and(|load| load.len() >= 2));
    let nodes = &there.status.sockets[0].nodes;
    assert_eq!((nodes[1].present, nodes[1].strangers), (Some(1), Some(0)));

    // Somebody moves it, and the agent puts it back: two moves, between nodes, and who it was.
    puppet.pin(forward, &stage.members).unwrap();
    let (mut there, mut back) = (0, 0);
    snapshot(&mut lines, |snapshot| {
        for step in snapshot.moves.iter().flatten() {
            match (step.from, step.to) {
                (1, 0) => there += step.count,
                (0, 1) => back += step.count,
                _ => {}
            }
        }
        if there > 0 && back > 0 { Ok(()) } else { Err(format!("{there} there, {back} back")) }
    });
    let answer = status(&agent.socket());
    assert_eq!((answer.agent.pid, answer.agent.enforcing), (agent.pid(), true));
    let group = &answer.groups[0];
    assert_eq!(group.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [puppet.pid()]);
    assert_eq!(answer.counts.threads, 2);
    assert!(answer.counts.bound_by_cause["setaffinity"] >= 1, "{:?}", answer.counts);
    drop(lines);
    puppet.stop().unwrap();
    agent.stop();
}

#[test]
fn threads_too_short_for_a_snapshot_count_in_its_moves() {
    let Some(stage) = stage("short") else { return };
    let agent = stage.agent();
    let mut lines = watch(&agent);
    // It has all CPUs, and those that it starts begin on any; some are moved as they are bound.
    let mut puppet = stage.puppet("idle");
    puppet.order(&Order::Storm { count: 200, role: "worker".into() }).unwrap();
    let mut moves = 0;
    let mut over = 0;
    snapshot(&mut lines, |snapshot| {
        moves += snapshot.moves.iter().flatten().map(|step| step.count).sum::<u64>();
        let counts = &snapshot.status.counts;
        let all_ended = counts.threads == 0 && counts.results.values().sum::<u64>() >= 200;
        over += u64::from(all_ended);
        if over >= 2 { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    let left = agent.stop();
    let all = left.events.last().unwrap()["migrations"]["cpu"].as_u64().unwrap();
    assert!(all > 0, "{:?}", left.events.last());
    assert_eq!(moves, all, "as many as the agent has counted in the end");
    puppet.stop().unwrap();
}

/// Nobody was bound later than half of what a stuck viewer is waited for: the loop has not waited with it.
fn assert_prompt(events: &[Value]) {
    let latencies = events.iter().filter_map(|event| event["latency_us"].as_f64());
    let (count, slowest) = latencies.fold((0, 0.0), |(count, most), us| (count + 1, us.max(most)));
    assert!(
        count > 0 && slowest < 2.5e6,
        "{count} answers to events, the slowest {slowest} us after its event"
    );
}

#[test]
fn a_viewer_that_reads_nothing_is_dropped_and_binding_goes_on() {
    let Some(stage) = stage("stuck") else { return };
    let agent = stage.agent();
    let mut keen = watch(&agent);
    let stuck = call(&agent.socket(), b"{\"request\":\"watch\",\"interval_ms\":200}\n");
    BufReader::new(&stuck).read_line(&mut String::new()).unwrap();
    let reading = std::thread::spawn(move || {
        let lines = keen.by_ref().map_while(Result::ok);
        lines.filter(|line| matches!(line, Line::Event { .. })).count()
    });
    let mut noise = stage.puppet("worker");
    let is_dropped = || {
        let mut hangup = [PollFd::new(stuck.as_fd(), PollFlags::POLLHUP)];
        poll(&mut hangup, PollTimeout::ZERO).unwrap() > 0
    };
    eventually(|| {
        noise.order(&Order::Storm { count: 100, role: "worker".into() }).unwrap();
        // Whatever is stuck, who comes is bound.
        stage.barrier();
        if is_dropped() { Ok(()) } else { Err("still connected".to_owned()) }
    });
    let left = agent.stop();
    assert_eq!(left.events.last().unwrap()["lost"]["total"], 0, "{}", left.events.last().unwrap());
    assert_prompt(&left.events);
    assert!(reading.join().unwrap() > 0, "the other has heard of it");
    noise.stop().unwrap();
}

#[test]
fn hostile_viewers_change_nothing() {
    let Some(stage) = stage("hostile") else { return };
    let agent = stage.agent();
    let socket = agent.socket();
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    let binary: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(7919) >> 3) as u8).collect();
    for bytes in [binary.as_slice(), &vec![b'x'; 1 << 20], b"{}\n", b"[[[[[[", b"\n\n\n\n"] {
        let mut answer = String::new();
        let mut stream = call(&socket, bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("{\"kind\":\"error\""), "{answer:?}");
    }
    let mut open = vec![call(&socket, b"{\"request\":")];
    for number in 0..1000 {
        open.push(call(&socket, if number % 2 == 0 { b"" } else { b"{\"request\":\"watch\"" }));
    }
    assert_eq!(status(&socket).agent.pid, agent.pid(), "while a thousand are connected");
    for take in [1, 100, 3000] {
        // Gone in the middle of a line.
        let mut stream = call(&socket, b"{\"request\":\"watch\",\"interval_ms\":200}\n");
        stream.read_exact(&mut vec![0; take]).unwrap();
    }
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    drop(open);
    stage.settle();
    let mut lines = watch(&agent);
    snapshot(&mut lines, |snapshot| {
        row(snapshot, thread).map(drop).ok_or_else(|| format!("not listed: {:?}", snapshot.threads))
    });
    puppet.stop().unwrap();
    stack.stop().unwrap();
    let left = agent.stop();
    assert_prompt(&left.events);
    assert_eq!(left.events.last().unwrap()["lost"]["total"], 0);
}

#[test]
fn only_members_of_the_sockets_group_may_look() {
    let Some(stage) = stage("group") else { return };
    let agent = stage.agent();
    let socket = agent.socket();
    // Whoever is kept out must be so by the socket alone.
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let facts = fs::metadata(&socket).unwrap();
    assert!(facts.file_type().is_socket());
    assert_eq!(facts.permissions().mode() & 0o7777, 0o660);
    let group = facts.gid();
    let binary = binary_for_everyone(stage.dir.path());
    let ask = |gid: u32| -> Output {
        let mut command = Command::new(&binary);
        command.args(["status", "--format", "json", "--socket"]).arg(&socket);
        command.uid(NOBODY).gid(gid).output().unwrap()
    };
    let inside = ask(group);
    let stderr = String::from_utf8_lossy(&inside.stderr).into_owned();
    assert!(inside.status.success(), "{stderr}");
    let answer: Status = serde_json::from_slice(&inside.stdout).unwrap();
    assert_eq!(answer.agent.pid, agent.pid());
    for (mode, words) in [(0o660, "permission"), (0o666, "members of the socket's group")] {
        // Also where somebody has opened it to all.
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
        let outside = ask(NOBODY);
        let stderr = String::from_utf8_lossy(&outside.stderr).into_owned();
        assert_eq!((outside.status.code(), outside.stdout.len()), (Some(1), 0), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    agent.stop();
}

#[test]
fn who_is_only_in_the_viewers_group_may_look_and_change_nothing() {
    let Some(stage) = stage("alice") else { return };
    let group = 54_321;
    // A host that has the group, for the agent alone.
    let groups = stage.dir.path().join("group");
    fs::write(&groups, format!("root:x:0:\nnuma-agent:x:{group}:alice\n")).unwrap();
    let mut host = Command::new("unshare");
    host.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/group && exec \"$@\""]).arg(&groups);
    host.arg(numa_agent_tests::agent::binary()).arg("run");
    let socket = stage.dir.path().join("run/agent.sock");
    let path = utf8(&socket);
    let args = [stage.args(), vec!["--socket".to_owned(), path.clone()]].concat();
    let agent = Agent::start_by(host, args, Stdio::piped());
    for (file, mode) in [(socket.parent().unwrap(), 0o750), (&socket, 0o660)] {
        let facts = fs::metadata(file).unwrap();
        let owner = (facts.uid(), facts.gid(), facts.permissions().mode() & 0o7777);
        assert_eq!(owner, (0, group, mode), "{}", file.display());
    }
    let mut puppet = stage.puppet("worker");
    let forward = puppet.thread("forward_0").unwrap();
    stage.settle_on(forward, &stage.forward);

    let binary = binary_for_everyone(stage.dir.path());
    let alice = |program: &Path, args: &[&str]| -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", &format!("--groups={group}"), "--"]).arg(program);
        command.args(args).stdin(Stdio::null()).output().expect("setpriv is part of util-linux")
    };
    let look = |args: &[&str]| -> serde_json::Value {
        let output = alice(&binary, &[&args[..1], &["--socket", &path], &args[1..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let shown = look(&["watch", "--once", "--json", "--interval", "300ms"]);
    assert_eq!(shown["agent"]["pid"], agent.pid());
    assert!(shown["threads"].as_array().unwrap().iter().any(|thread| thread["tid"] == forward), "{shown}");
    assert_eq!(look(&["status", "--format", "json"])["agent"]["pid"], agent.pid());

    // What she may not.
    let folder = utf8(socket.parent().unwrap());
    let pid = agent.pid().to_string();
    for order in [
        format!("rm -f {path}; test -S {path}"),
        format!("! touch {folder}/mine"),
        format!("! cat {path}.lock"),
        format!("! echo > {path}.lock"),
        format!("! kill -TERM {pid}"),
    ] {
        let output = alice("/bin/sh".as_ref(), &["-c", &order]);
        assert!(output.status.success(), "{order}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for args in [&["run", "--socket", &path][..], &["bind", "--apply"]] {
        let output = alice(&binary, &[args, &["--group-pattern", "worker"]].concat());
        assert_ne!(output.status.code(), Some(0), "{args:?}");
    }
    stage.settle_on(forward, &stage.forward);
    assert_eq!(look(&["status", "--format", "json"])["agent"]["pid"], agent.pid());
    puppet.stop().unwrap();
    agent.stop();
}

#[test]
fn one_agent_listens_at_a_time_and_a_killed_ones_socket_is_taken_over() {
    let Some(stage) = stage("second") else { return };
    let socket = stage.dir.path().join("run/agent.sock");
    let path = utf8(&socket);
    let none = command(["status", "--socket", &path]).output().unwrap();
    let stderr = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&path) && stderr.contains("numa-agent run"), "{stderr}");

    let first = stage.agent_with(&["--socket", &path]);
    let second =
        command(["run", "--no-socket"]).args(stage.args()).arg("--socket").arg(&path).output().unwrap();
    assert_eq!(second.status.code(), Some(2), "one or the other");
    let second = command(["run", "--socket", &path]).args(stage.args()).output().unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&path) && stderr.contains(&format!("pid {}", first.pid())), "{stderr}");
    assert_eq!(status(&socket).agent.pid, first.pid(), "the first goes on");

    assert!(!first.end_by(Signal::SIGKILL).status.success());
    assert!(socket.exists(), "nobody was there to remove it");
    let none = command(["status", "--socket", &path]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    let third = stage.agent_with(&["--socket", &path]);
    assert_eq!(status(&socket).agent.pid, third.pid());
    third.stop();
    assert!(!socket.exists());

    // Another's by now: it stays.
    let fourth = stage.agent_with(&["--socket", &path]);
    fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    fourth.stop();
    assert!(socket.exists());
}

#[test]
fn a_socket_that_was_asked_for_and_cannot_be_made_is_an_error() {
    let Some(stage) = stage("nosocket") else { return };
    let file = stage.dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let mut puppet = stage.puppet("worker");
    let born = now_ns();
    for path in ["/proc/no/agent.sock", &utf8(&file)] {
        let output = command(["run", "--socket", path]).args(stage.args()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(path), "{stderr}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    stage.assert_untouched(puppet.pid(), &stage.all, born);
    // Without one, it works all the same.
    let agent = stage.agent_with(&["--no-socket"]);
    eventually(|| match agent.stderr() {
        said if said.contains("managing 1 thread of 1 process;") => Ok(()),
        said => Err(said),
    });
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    assert!(!agent.socket().exists());
    agent.stop();
}

#[test]
fn an_observer_in_the_same_process_sees_the_same_and_changes_nothing() {
    let Some(stage) = stage("observer") else { return };
    let pattern = format!("--role worker --tag {} ", stage.family.tag);
    let sys = stage.dir.path().join("sys");
    let options = Options {
        settings: Box::new(move || {
            let flags = Overrides {
                policy: Some(PolicyChoice::Paired),
                layout: Some(Layout::Shared),
                groups_per_socket: Some(0),
                group_patterns: vec![pattern.clone()],
                ..Overrides::default()
            };
            Ok(Settings::from_sources(None, flags)?)
        }),
        topology: Box::new(move || Ok(sysfs::read(&sys, &Cpuset::default())?)),
        outline: Box::new(|| Ok(Outline::default())),
        gives_up: false,
        real_time: false,
        metrics: None,
        dry_run: false,
        journal: None,
        restore_on_exit: false,
        format: LineFormat::Json,
        messages: LineQueue::start(std::io::sink()),
        reconcile: None,
        bpf_log: false,
        ring_bytes: None,
        max_accounts: None,
        jitter: Jitter {
            interval: Duration::from_secs(1),
            limits: Limits { ended: 100, intervals: 100 },
            reports: None,
            processes: None,
            tap: None,
        },
        socket: Socket::Default,
    };
    let stream = agent::observe(options).expect("an observer");
    let mut lines = client::ask(stream, Peer::Ourselves, WATCH).unwrap();
    let Ok(Line::Status(status)) = lines.answer() else { panic!("no status") };
    assert!(!status.agent.enforcing && status.agent.pid == std::process::id());
    let mut puppet = stage.puppet("worker");
    let born = now_ns();
    let forward = puppet.thread("forward_0").unwrap();
    let planned = eventually(|| match lines.answer().expect("a line") {
        Line::Event { event, .. } if event["tid"] == forward && event["cause"] == "rename" => Ok(event),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((&planned["cpus"], &planned["result"]), (&json!(stage.forward), &json!("planned")));
    snapshot(&mut lines, |snapshot| {
        let row = row(snapshot, forward).ok_or("not listed")?;
        let known =
            row.run_ns > Some(0) && row.planned.as_ref().is_some_and(|place| place.cpus == stage.forward);
        if known { Ok(()) } else { Err(format!("{row:?}")) }
    });
    stage.assert_untouched(puppet.pid(), &stage.all, born);
    assert!(!Path::new("/run/numa-agent/agent.sock").exists(), "it does not listen");
    drop(lines);
    // Its threads end with it.
    eventually(|| {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
        let left: Vec<String> = names.filter(|name| ["observer\n", "viewers\n"].contains(&&**name)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn status_tells_where_memory_is_when_asked_to() {
    let Some(stage) = stage("status-memory") else { return };
    let agent = stage.agent();
    let mut puppet = stage.puppet("worker");
    puppet.order(&Order::Take { pages: 1000 }).unwrap();
    stage.settle_on(puppet.pid(), &stage.members);
    let socket = agent.socket();
    let ask = |more: &[&str]| {
        let output = command(["status", "--socket"]).arg(&socket).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let process = |more: &[&str]| {
        let status: Value = serde_json::from_str(&ask(more)).unwrap();
        let group = &status["groups"][0];
        assert_eq!(group["memory"], "interleave:0-1");
        group["processes"][0].clone()
    };
    let memory = process(&["--memory", "--format", "json"])["memory"].clone();
    let bytes: u64 = memory["nodes"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    let taken = 1000 * sys::page_bytes() as u64;
    assert!((taken..taken + (64 << 20)).contains(&bytes), "{memory}");
    // The stage has two nodes, and nobody has told the puppet.
    assert_eq!((&memory["verdict"], &memory["planned"]["nodes"]), (&json!("default policy"), &json!("0-1")));
    assert!(ask(&["--memory"]).contains("MIB BY NODE") && !ask(&[]).contains("MIB BY NODE"));
    assert!(process(&["--format", "json"])["memory"].is_null());
    puppet.stop().unwrap();
    agent.stop();
}
