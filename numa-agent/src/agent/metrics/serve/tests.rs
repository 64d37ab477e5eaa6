//! Real connections, and a loop that the tests play.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener as StdListener, TcpStream},
    thread,
};

use super::*;
use crate::core::{
    jitter::{account::Measured, totals::ThreadTotal},
    metrics::Sample,
    task::{TaskId, ThreadRole},
};

/// More than there is room for.
const MANY: usize = 100;

/// The serving thread's other end.
struct Loop {
    address: SocketAddr,
    asked: mpsc::Receiver<Asker>,
}

/// Serves; `seen`: whether the loop has just been seen, or not since the machine came up.
fn served(patience: Duration, seen: bool) -> Loop {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (asks, asked) = mpsc::channel(1);
    let alive = Arc::new(Pulse::default());
    if seen {
        alive.beat();
    }
    start(listener, asks, alive, patience).unwrap();
    Loop { address, asked }
}

impl Loop {
    /// A connection that has said that.
    fn connect(&self, said: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, path: &str) -> TcpStream {
        self.connect(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// Waits until somebody wants a sample.
    fn asker(&mut self) -> Asker {
        self.asked.blocking_recv().unwrap()
    }

    /// Gives samples to whoever asks, for so long.
    fn give_until(&mut self, over: impl Fn() -> bool, sample: impl Fn() -> Sample) {
        while !over() {
            match self.asked.try_recv() {
                Ok(asker) => drop(asker.send(sample())),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// All that comes, or as much as came before the connection was reset.
fn told(mut stream: TcpStream) -> String {
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    String::from_utf8(told).unwrap()
}

/// One that makes an answer longer than what the kernel keeps for those who do not read.
fn long_sample() -> Sample {
    let thread = |tid| ThreadTotal {
        pid: 1,
        task: TaskId { tid, start_time: 1 },
        comm: "x".repeat(15),
        place: (None, ThreadRole::Other),
        run_ns: 0,
        off_node_ns: 0,
        moves: 0,
        wait_ns: 0,
    };
    Sample { listed: (0..20_000).map(thread).collect(), measured: Measured::ALL, ..Sample::default() }
}

#[test]
fn who_waits_for_an_answer_stays_and_who_says_nothing_goes() {
    let mut agent = served(Duration::from_secs(600), true);
    let first_idle = agent.connect("");
    let scrape = agent.ask("/metrics");
    let asker = agent.asker();
    let mut idle: Vec<TcpStream> = (0..MANY).map(|_| agent.connect("")).collect();
    // Everybody before it has been let in by now.
    assert!(told(agent.ask("/healthz")).ends_with("ok\n"));
    assert_eq!(told(first_idle), "", "the oldest of those who said nothing");
    assert_eq!(told(idle.swap_remove(0)), "");
    asker.send(Sample::default()).unwrap();
    let told = told(scrape);
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("numa_agent_scans_total 0"), "{told}");
}

#[test]
fn who_comes_while_everybody_waits_for_an_answer_waits_too() {
    let mut agent = served(Duration::from_secs(600), true);
    let scrapes: Vec<TcpStream> = (0..MANY).map(|_| agent.ask("/metrics")).collect();
    let asker = agent.asker();
    thread::sleep(3 * ACCEPT_PAUSE);
    asker.send(Sample { scans: 7, ..Sample::default() }).unwrap();
    // Those who could not be let in may have come too late for that sample.
    let answers = thread::spawn(move || scrapes.into_iter().map(told).collect::<Vec<_>>());
    agent.give_until(|| answers.is_finished(), || Sample { scans: 7, ..Sample::default() });
    for told in answers.join().unwrap() {
        assert!(told.starts_with("HTTP/1.1 200") && told.contains("scans_total 7"), "{told}");
    }
}

#[test]
fn who_does_not_take_the_answer_gives_way() {
    let mut agent = served(Duration::from_secs(600), true);
    let slow: Vec<TcpStream> = (0..MANY).map(|_| agent.ask("/metrics")).collect();
    agent.asker().send(long_sample()).unwrap();
    // It answers those who come after them, though nobody before has read a byte. A later sample is as long.
    let health = agent.ask("/healthz");
    let answer = thread::spawn(|| told(health));
    agent.give_until(|| answer.is_finished(), long_sample);
    let answer = answer.join().unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    drop(slow);
}

#[test]
fn a_loop_that_is_silent_is_not_healthy() {
    let agent = served(Duration::from_secs(2), true);
    assert!(told(agent.ask("/healthz")).starts_with("HTTP/1.1 200"));
    thread::sleep(Duration::from_millis(2100));
    let silent = told(agent.ask("/healthz"));
    assert!(silent.starts_with("HTTP/1.1 503") && silent.contains("silent for "), "{silent}");
    let silent = told(served(Duration::from_secs(10), false).ask("/healthz"));
    assert!(silent.starts_with("HTTP/1.1 503"), "{silent}");
}

#[test]
fn without_a_sample_there_are_no_metrics() {
    let mut agent = served(Duration::from_secs(2), true);
    let late = agent.ask("/metrics");
    let asker = agent.asker();
    let said = told(late);
    assert!(said.starts_with("HTTP/1.1 503") && said.ends_with("event loop does not answer\n"), "{said}");
    assert!(asker.is_closed(), "nobody waits for it any more");
    // A loop that is gone, or gives none.
    let none = agent.ask("/metrics");
    drop(agent.asker());
    assert!(told(none).starts_with("HTTP/1.1 503"));
    // It answers again when the loop does.
    let good = agent.ask("/metrics");
    agent.asker().send(Sample::default()).unwrap();
    assert!(told(good).starts_with("HTTP/1.1 200"));
}
