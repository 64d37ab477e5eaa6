//! `jitter record --tap` on a server that streams, whose own clock is the witness.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::jitter::{file, recording::Recording};
use numa_agent_tests::agent::command;

use super::*;

/// Chunks of an answer, besides its head.
const CHUNKS: usize = 15;

/// A server of this process.
struct Server {
    /// Locked from a connection's begin until it is accepted: who serves has the end of its own client.
    listener: Mutex<TcpListener>,
    address: SocketAddr,
}

/// An answer by the server's own account: when each send had begun and ended.
type Stamps = Vec<[u64; 2]>;

impl Server {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("binds");
        let address = listener.local_addr().expect("bound");
        Self { listener: Mutex::new(listener), address }
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    /// A client on one connection asks for that many answers; the port it has, and the answers.
    fn serve(&self, answers: usize, pause: Duration) -> (u16, Vec<Stamps>) {
        let (mut client, mut server) = {
            let listener = self.listener.lock().expect("nobody panicked");
            let client = TcpStream::connect(self.address).expect("connects");
            (client, listener.accept().expect("a client").0)
        };
        let port = client.local_addr().expect("bound").port();
        let all = (0..answers).map(|_| {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
            server.read_exact(&mut [0; 18]).expect("the question");
            let stamps = stream(&mut server, pause);
            read_answer(&mut client);
            stamps
        });
        (port, all.collect())
    }
}

/// The head, and chunks as a server of events writes them.
fn stream(server: &mut TcpStream, pause: Duration) -> Stamps {
    let mut send = |bytes: &[u8]| {
        let begun = now_ns();
        server.write_all(bytes).expect("sent");
        [begun, now_ns()]
    };
    let mut stamps = vec![send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")];
    // To the first token it takes longer.
    thread::sleep(10 * pause);
    for number in 1..CHUNKS {
        stamps.push(send(format!("c\r\ndata: {number:>4}\n\n\r\n").as_bytes()));
        thread::sleep(pause);
    }
    stamps.push(send(b"0\r\n\r\n"));
    stamps
}

fn read_answer(client: &mut TcpStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n0\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the answer");
        text.push(byte[0]);
    }
}

/// All gaps lie between the stamps they are gaps of.
#[track_caller]
fn assert_gaps(recording: &Recording, server: &Server, expected: &[(u16, Vec<Stamps>)]) {
    let me = std::process::id();
    for (remote_port, answers) in expected {
        let ports = (server.port(), *remote_port);
        let connection =
            recording.connections.iter().find(|found| (found.local_port, found.remote_port) == ports);
        let connection = connection.unwrap_or_else(|| panic!("no {ports:?} in {:?}", recording.connections));
        assert_eq!(connection.pid, me);
        assert_eq!(connection.answers.len(), answers.len());
        for (gaps, stamps) in connection.answers.iter().zip(answers) {
            assert_eq!(gaps.len(), CHUNKS, "{gaps:?}");
            for (gap, pair) in gaps.iter().zip(stamps.windows(2)) {
                let [before, after] = [pair[0], pair[1]];
                let within = after[0].saturating_sub(before[1])..=after[1] - before[0];
                assert!(within.contains(gap), "{gap} is not in {within:?}");
            }
        }
        let tokens: Vec<usize> = connection.token_gaps().map(<[u64]>::len).collect();
        assert_eq!(tokens, vec![CHUNKS - 1; answers.len()], "without the time to the first token");
    }
}

fn read(path: &Path) -> Recording {
    let recording = file::parse("the recording", &fs::read(path).expect("it is there")).expect("a recording");
    assert_eq!(recording.runs[0].lost, [""; 0]);
    recording
}

/// Starts `jitter record`.
fn record(output: &Path, args: &[&str]) -> Child {
    let mut record = command(["jitter", "record", "--interval", "100ms", "--no-numa-maps", "-o"]);
    record.arg(output).args(args);
    record.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    record.spawn().expect("numa-agent starts")
}

/// What is said until a line holds that.
fn said(stderr: &mut BufReader<ChildStderr>, word: &str) -> String {
    let mut all = String::new();
    while !all.contains(word) {
        assert_ne!(stderr.read_line(&mut all).expect("text"), 0, "it ended: {all}");
    }
    all
}

#[test]
fn a_port_is_tapped_while_a_command_runs() {
    let Some(stage) = stage("tap-port") else { return };
    let output = stage.dir.path().join("recording.json");
    let servers = ["127.0.0.1:0", "[::1]:0"].map(Server::new);
    let [tapped, other] = &servers;
    let tap = format!("port:{}", tapped.port());
    let mut record = record(&output, &["--tap", &tap, "--", "/bin/sh", "-c", "echo up; read end"]);
    let mut up = String::new();
    BufReader::new(record.stdout.as_mut().expect("a pipe")).read_line(&mut up).expect("text");
    assert_eq!(up, "up\n");
    let pause = Duration::from_millis(3);
    let expected = thread::scope(|scope| {
        let clients = [2, 1, 3].map(|answers| scope.spawn(move || tapped.serve(answers, pause)));
        other.serve(1, pause);
        clients.map(|client| client.join().expect("no panic"))
    });
    record.stdin.take().expect("a pipe").write_all(b"end\n").expect("it reads");
    let ended = record.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{stderr}");
    let recording = read(&output);
    assert_gaps(&recording, tapped, &expected);
    assert_eq!(recording.connections.len(), expected.len(), "and nothing else: {:?}", recording.connections);
    let count = 6 * (CHUNKS - 1);
    assert!(stderr.contains(&format!(", {count} token times on 3 connections in ")), "{stderr}");
}

#[test]
fn a_process_is_tapped_by_itself() {
    let Some(stage) = stage("tap-process") else { return };
    let output = stage.dir.path().join("recording.json");
    let server = Server::new("[::1]:0");
    let me = std::process::id();
    let mut record = record(&output, &["--tap", &format!("pid:{me}")]);
    let pid = Pid::from_raw(i32::try_from(record.id()).expect("a pid"));
    let mut stderr = BufReader::new(record.stderr.take().expect("a pipe"));
    let begun = said(&mut stderr, " threads of 1 process");
    assert!(begun.contains(&format!("recording pid {me}; tapping process {me}\n")), "{begun}");
    let expected = [server.serve(2, Duration::from_millis(3))];
    kill(pid, Signal::SIGINT).expect("it runs");
    assert!(record.wait().expect("it ends").success());
    let recording = read(&output);
    assert_gaps(&recording, &server, &expected);
    assert!(recording.threads.iter().all(|thread| thread.pid == me) && !recording.threads.is_empty());
}

#[test]
fn a_silent_port_is_said_to_be_silent() {
    let Some(stage) = stage("tap-silence") else { return };
    let output = stage.dir.path().join("recording.json");
    let server = Server::new("127.0.0.1:0");
    let port = server.port().to_string();
    let ended = record(&output, &["--tap", &port, "--duration", "100ms", "--quiet"]);
    let ended = ended.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{stderr}");
    assert!(stderr.contains(&format!("warning: nothing was streamed on TCP port {port}")), "{stderr}");
    assert_eq!(read(&output).connections, []);
}
