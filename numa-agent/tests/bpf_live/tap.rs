//! Sends on tapped connections, by every call, with the sender's own clock as witness.

use std::{
    io::{ErrorKind, IoSlice},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::{
    sys::{
        socket::{MsgFlags, send, sendmsg},
        uio::writev,
    },
    time::{ClockId, clock_gettime},
    unistd::write,
};
use numa_agent::{
    core::jitter::tap::{Send, Tap, Taps},
    host::bpf::{Sends, TapOptions, TapRing},
};

use super::*;

/// A call that sends.
type Call = fn(&TcpStream, &[u8]) -> nix::Result<usize>;

const CALLS: [Call; 4] = [
    |stream, bytes| write(stream, bytes),
    |stream, bytes| send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL),
    |stream, bytes| writev(stream, &[IoSlice::new(&bytes[..1]), IoSlice::new(&bytes[1..])]),
    |stream, bytes| {
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(stream.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)
    },
];

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Both ends of a connection.
struct Pair {
    server: TcpStream,
    client: TcpStream,
}

/// What the server sent by its own account: when it had begun and ended, on which connection, how much, first or not.
#[derive(Debug)]
struct Sent {
    between_ns: [u64; 2],
    remote_port: u16,
    bytes: u32,
    first: bool,
}

impl Pair {
    fn new(listener: &TcpListener) -> Self {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (server, _) = listener.accept().expect("a client");
        Self { server, client }
    }

    /// The client asks, and the server reads it.
    fn ask(&mut self) {
        self.client.write_all(b"tell me\n").expect("sends");
        self.server.read_exact(&mut [0; 8]).expect("the question");
    }

    fn answer(&self, call: Call, bytes: usize, first: bool) -> Sent {
        let before = now_ns();
        assert_eq!(call(&self.server, &vec![b'x'; bytes]), Ok(bytes));
        let between_ns = [before, now_ns()];
        Sent { between_ns, remote_port: self.remote_port(), bytes: bytes as u32, first }
    }

    fn remote_port(&self) -> u16 {
        self.client.local_addr().expect("bound").port()
    }
}

/// Listeners on one port of both families.
fn listeners() -> [TcpListener; 2] {
    let bind = |address: IpAddr, port: u16| TcpListener::bind((address, port));
    let pair = || {
        let ipv4 = bind(Ipv4Addr::LOCALHOST.into(), 0).expect("binds");
        let port = ipv4.local_addr().expect("bound").port();
        Some([ipv4, bind(Ipv6Addr::LOCALHOST.into(), port).ok()?])
    };
    (0..100).find_map(|_| pair()).expect("a port that is free in both families")
}

fn tapping(tap: Tap, sends: Sends) -> Option<(Live, TapRing)> {
    let options = LoadOptions { tap: Some(TapOptions { tap, sends }), ..seeing_ourselves() };
    let mut live = live(&options)?;
    let health = live.programs.health();
    assert_eq!(health.verdict(), Verdict::Full, "{}", health.summary());
    assert_ne!(health.tap_verdict(), Some(Verdict::Unusable), "{:?}", health.tap);
    let ring = live.programs.take_tap().expect("it was asked for");
    Some((live, ring))
}

fn drain(ring: &mut TapRing) -> Vec<Send> {
    let sends = std::iter::from_fn(|| ring.next_send()).map(|send| send.expect("it decodes")).collect();
    assert_eq!(ring.lost(), 0);
    sends
}

#[track_caller]
fn assert_same(seen: &[Send], sent: &[Sent], port: u16) {
    let facts = |seen: &Send| (seen.local_port, seen.remote_port, seen.bytes, seen.first);
    let expected: Vec<_> = sent.iter().map(|sent| (port, sent.remote_port, sent.bytes, sent.first)).collect();
    assert_eq!(seen.iter().map(facts).collect::<Vec<_>>(), expected);
    for (seen, sent) in seen.iter().zip(sent) {
        let [begun, ended] = sent.between_ns;
        assert!((begun..=ended).contains(&seen.at_ns), "{seen:?} {sent:?}");
    }
}

/// Two connections, interleaved, one in each family; two answers on the first, by all calls.
fn serve(pairs: &mut [Pair; 2], step: impl Fn()) -> Vec<Sent> {
    let mut sent = Vec::new();
    pairs.iter_mut().for_each(Pair::ask);
    for round in 0..12 {
        thread::sleep(Duration::from_millis(1));
        if round == 6 {
            pairs[0].ask();
        }
        let first = [round == 0 || round == 6, round == 0];
        for (index, pair) in pairs.iter().enumerate() {
            sent.push(pair.answer(CALLS[(round + index) % CALLS.len()], 10 + round, first[index]));
            step();
        }
    }
    sent
}

/// What must not be seen: writes that are no sends, sends on other ports, datagrams.
fn noise(other: &Pair) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"to a file").expect("written");
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(b"to a pipe").expect("written");
    let (mut local, _other) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    local.write_all(b"to a unix socket").expect("sent");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    datagrams.send_to(b"a datagram", datagrams.local_addr().expect("bound")).expect("sent");
    CALLS.iter().for_each(|call| assert_eq!(call(&other.server, b"other"), Ok(5)));
    assert!(write(std::fs::File::open("/").expect("a directory").as_fd(), b"x").is_err());
}

fn port_is_tapped(sends: Sends) {
    let listeners = listeners();
    let port = listeners[0].local_addr().expect("bound").port();
    let Some((_live, mut ring)) = tapping(Tap::Port(port), sends) else { return };
    let mut pairs = listeners.each_ref().map(Pair::new);
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("binds");
    let other = Pair::new(&elsewhere);
    let sent = serve(&mut pairs, || noise(&other));
    let seen = drain(&mut ring);
    assert_same(&seen, &sent, port);
    assert!(seen.iter().all(|send| send.pid == std::process::id()), "{seen:?}");
    let comm = std::fs::read_to_string("/proc/self/comm").expect("own name");
    assert!(seen.iter().all(|send| send.comm == comm.trim_end()), "{seen:?}");
    gaps_agree(&seen, &sent);

    // Another process answers on it, as the worker of a server with several.
    let connection = pairs[0].server.try_clone().expect("a descriptor");
    pairs[0].ask();
    let script = "echo one; echo three; echo 4 > /dev/null";
    let mut worker = Command::new("/bin/sh");
    let mut worker =
        worker.args(["-c", script]).stdout(std::os::fd::OwnedFd::from(connection)).spawn().expect("a shell");
    worker.wait().expect("ends");
    let seen = drain(&mut ring);
    let facts = |send: &Send| (send.pid, send.comm.clone(), send.bytes, send.first);
    let of = |bytes, first| (worker.id(), "sh".to_owned(), bytes, first);
    assert_eq!(seen.iter().map(facts).collect::<Vec<_>>(), [of(4, true), of(6, false)]);
}

/// The gaps that come out are those between the server's own stamps.
fn gaps_agree(seen: &[Send], sent: &[Sent]) {
    let mut taps = Taps::default();
    seen.iter().for_each(|send| taps.send(send));
    let connections = taps.into_connections(0);
    let lengths: Vec<Vec<usize>> =
        connections.iter().map(|connection| connection.answers.iter().map(Vec::len).collect()).collect();
    assert_eq!(lengths, [vec![5, 5], vec![11]]);
    for connection in connections {
        let own: Vec<&Sent> = sent.iter().filter(|sent| sent.remote_port == connection.remote_port).collect();
        let pairs = own.windows(2).filter(|pair| !pair[1].first);
        for (gap, pair) in connection.answers.iter().flatten().zip(pairs) {
            let least = pair[1].between_ns[0].saturating_sub(pair[0].between_ns[1]);
            let most = pair[1].between_ns[1] - pair[0].between_ns[0];
            assert!((least..=most).contains(gap), "{gap} is not in {least}..={most}");
            assert!(*gap >= 1_000_000, "it slept a millisecond in between");
        }
    }
}

fn process_is_tapped(sends: Sends) {
    let listeners = listeners();
    let port = listeners[0].local_addr().expect("bound").port();
    let me = identity(std::process::id());
    let Some((live, mut ring)) = tapping(Tap::Process(me), sends) else { return };
    let mut pairs = listeners.each_ref().map(Pair::new);
    let mut sent = serve(&mut pairs, || ());
    // From another process, on a socket of ours.
    let connection = pairs[0].server.try_clone().expect("a descriptor");
    let mut worker = Command::new("/bin/sh");
    let worker = worker.args(["-c", "echo one"]).stdout(std::os::fd::OwnedFd::from(connection)).status();
    assert!(worker.expect("a shell").success());
    // From another thread.
    let on_thread = || thread::scope(|scope| scope.spawn(|| pairs[1].answer(CALLS[0], 3, false)).join());
    sent.push(on_thread().expect("no panic"));
    let all = drain(&mut ring);
    let (served, asked): (Vec<Send>, Vec<Send>) = all.into_iter().partition(|send| send.local_port == port);
    assert_same(&served, &sent, port);
    assert_eq!(asked.len(), 3, "the client's questions are sends as well: {asked:?}");
    drop((live, ring));

    // A later owner of the pid is somebody else.
    let later = TaskId { start_time: me.start_time + 1, ..me };
    let Some((_live, mut ring)) = tapping(Tap::Process(later), sends) else { return };
    serve(&mut pairs, || ());
    assert_eq!(drain(&mut ring), []);
}

fn refused_sends_are_no_sends(sends: Sends) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let Some((_live, mut ring)) = tapping(Tap::Port(port), sends) else { return };
    let pair = Pair::new(&listener);
    pair.server.set_nonblocking(true).expect("set");
    let chunk = [0; 1 << 16];
    let mut sizes = Vec::new();
    loop {
        match (&pair.server).write(&chunk) {
            Ok(size) => sizes.push(size as u32),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((&pair.server).write(&chunk).is_err(), "it is still full");
    let Pair { server, client } = pair;
    drop(client);
    while let Err(error) = (&server).write(&chunk)
        && error.kind() == ErrorKind::WouldBlock
    {
        thread::sleep(Duration::from_millis(1));
    }
    let seen: Vec<u32> = drain(&mut ring).iter().map(|send| send.bytes).collect();
    assert_eq!(seen, sizes);
}

#[test]
fn a_port_is_tapped() {
    port_is_tapped(Sends::Best);
}

#[test]
fn a_port_is_tapped_by_system_calls() {
    port_is_tapped(Sends::BySyscalls);
}

#[test]
fn a_process_is_tapped() {
    process_is_tapped(Sends::Best);
}

#[test]
fn a_process_is_tapped_by_system_calls() {
    process_is_tapped(Sends::BySyscalls);
}

#[test]
fn sends_that_fail_are_not_told() {
    refused_sends_are_no_sends(Sends::Best);
    refused_sends_are_no_sends(Sends::BySyscalls);
}

#[test]
fn a_full_ring_is_counted_and_no_gap_spans_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let Some((_live, mut ring)) = tapping(Tap::Port(port), Sends::Best) else { return };
    let mut pair = Pair::new(&listener);
    let mut client = pair.client.try_clone().expect("a descriptor");
    let reader = thread::spawn(move || std::io::copy(&mut client, &mut std::io::sink()));
    let total = 100_000;
    for _ in 0..total {
        pair.server.write_all(b"x").expect("sends");
    }
    let first_batch = std::iter::from_fn(|| ring.next_send()).filter(|send| send.is_ok()).count() as u64;
    assert!(first_batch < total, "the ring was never full");
    assert_eq!(first_batch + ring.lost(), total);
    pair.server.write_all(b"y").expect("sends");
    pair.server.write_all(b"z").expect("sends");
    let seen: Vec<bool> =
        std::iter::from_fn(|| ring.next_send()).map(|send| send.expect("it decodes").first).collect();
    assert_eq!(seen, [true, false]);
    pair.server.shutdown(std::net::Shutdown::Both).expect("shut down");
    reader.join().expect("no panic").expect("end of file");
}
