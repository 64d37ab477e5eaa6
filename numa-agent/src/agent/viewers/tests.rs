//! A loop without a kernel, and viewers of all kinds.

use std::{
    future::poll_fn,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{hub::Hub, *};
use crate::{
    core::{
        config::Overrides,
        engine::Engine,
        health::DropCounts,
        jitter::{account::Measured, places::Places},
        settings::Settings,
        stats::Stats,
        synthetic::Machine,
        view::{Line, MAX_REQUEST, Request, Snapshot, tests::agent},
    },
    host::client::{self, ClientError, Lines},
};

const WATCH: Request = Request::Watch { interval_ms: 200 };
/// More than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// An agent that does nothing but tell.
struct Stage {
    dir: TempDir,
    feed: Option<Feed>,
    /// How many readings viewers have wanted.
    readings: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    turning: Option<JoinHandle<()>>,
    server: Option<Server>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listening = Listening::start(&dir.path().join("agent.sock"), None, false).unwrap();
        Self::behind(Door::Socket(listening), dir)
    }

    fn behind(door: Door, dir: TempDir) -> Self {
        let (server, feed) = Server::start(door).unwrap();
        let readings = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let viewing = Viewing::new(feed.clone(), agent());
        let turning = std::thread::spawn({
            let readings = Arc::clone(&readings);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        () = turn(viewing, &readings) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        let (feed, stop, turning) = (Some(feed), Some(stop), Some(turning));
        Self { dir, feed, readings, stop, turning, server: Some(server) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn ask(&self, request: Request) -> Lines {
        client::connect(&self.path(), request).unwrap()
    }

    /// A connection on which nothing has been said.
    fn call(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// A viewer who has heard the state.
    fn viewer(&self) -> Lines {
        let mut lines = self.ask(WATCH);
        assert!(matches!(lines.answer().unwrap(), Line::Status(_)));
        lines
    }

    fn feed(&self) -> &Feed {
        self.feed.as_ref().unwrap()
    }

    fn event(&self, number: usize) {
        self.feed().event(&format!("{{\"schema\":1,\"event\":\"{number}\"}}"));
    }

    /// The agent ends.
    fn end(&mut self) {
        drop(self.feed.take());
        drop(self.stop.take());
        if let Some(turning) = self.turning.take() {
            turning.join().unwrap();
        }
        drop(self.server.take());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until viewers want something.
async fn wanted(viewing: &mut Viewing) -> Want {
    poll_fn(|context| viewing.poll_wanted(context)).await
}

/// Until nobody can look on any more.
async fn turn(viewing: Viewing, readings: &AtomicU64) {
    let mut viewing = Some(viewing);
    loop {
        let Some(told) = &mut viewing else { return };
        match wanted(told).await {
            Want::Status => told.tell_status(state(), tokio::time::Instant::now()),
            Want::Reading => {
                told.begin();
                let number = readings.fetch_add(1, Ordering::SeqCst);
                told.tell_reading(reading(number));
            }
            Want::Nothing => return,
        }
    }
}

fn state() -> view::Status {
    let flags = Overrides { group_patterns: vec!["serve".into()], ..Overrides::default() };
    let settings = Settings::from_sources(None, flags).unwrap();
    let engine = Engine::new(Machine::default().topology(), settings, []).unwrap();
    let (stats, lost) = (Stats::default(), DropCounts::default());
    let known = Known { engine: &engine, planned: true, stats: &stats, lost: &lost, unreadable: 0 };
    status(&known, agent())
}

/// One second after another.
fn reading(number: u64) -> Reading {
    Reading {
        status: state(),
        at_ns: number * 1_000_000_000,
        threads: Vec::new(),
        ended: Default::default(),
        moves_of_ended: [0; 64],
        places: Arc::new(Places::new(&Machine::default().topology())),
        measured: Measured::ALL,
        cpus: None,
    }
}

/// The first snapshot among the lines.
fn next_snapshot(lines: &mut Lines) -> Box<Snapshot> {
    loop {
        if let Line::Snapshot(snapshot) = lines.answer().unwrap() {
            return snapshot;
        }
    }
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What comes until the other end closes the connection.
fn rest(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    // Closed with something unread is an error after the last byte.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_status_is_one_line_with_what_only_a_clock_knows() {
    let stage = Stage::new();
    let mut lines = stage.ask(Request::Status);
    let Some(Ok(Line::Status(status))) = lines.next() else { panic!() };
    assert!(lines.next().is_none());
    assert!(!status.at.is_empty() && status.agent.uptime > 0.0);
    assert!(status.agent.rss.is_some_and(|rss| rss > 100_000) && status.agent.cpu_seconds.is_some());
    assert_eq!(stage.readings.load(Ordering::SeqCst), 0, "no account was read for it");
}

#[test]
fn a_viewer_gets_the_state_then_events_and_snapshots() {
    let stage = Stage::new();
    assert!(!stage.feed().is_watched());
    stage.event(0);
    let mut lines = stage.viewer();
    eventually("watched", || stage.feed().is_watched());
    stage.event(1);
    let Line::Event { event, .. } = lines.answer().unwrap() else { panic!() };
    assert_eq!(event["event"], "1", "the one before was for nobody");
    let (first, second) = (next_snapshot(&mut lines), next_snapshot(&mut lines));
    assert!(first.seconds >= 1.0 && second.seconds >= 1.0);
    assert!(!first.status.at.is_empty() && first.load.is_some());
    drop(lines);
    eventually("nobody watches", || !stage.feed().is_watched());
    // One may have been on its way.
    std::thread::sleep(Duration::from_millis(50));
    let readings = stage.readings.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(stage.readings.load(Ordering::SeqCst), readings, "no viewer, no work");
}

#[test]
fn there_is_one_reading_on_its_way_at_most() {
    let (feed, demand, mut news) = Feed::new();
    let viewing = Viewing::new(feed, agent());
    demand.set_pace(Some(Duration::from_millis(1)));
    let readings = AtomicU64::new(0);
    alone(async {
        // Nobody takes them.
        let _ = tokio::time::timeout(Duration::from_millis(300), turn(viewing, &readings)).await;
    });
    assert_eq!(readings.load(Ordering::SeqCst), 1);
    assert!(matches!(news.try_recv(), Ok(News::Reading(_))) && news.try_recv().is_err());
}

fn alone(what: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what);
}

#[test]
fn who_asks_for_the_state_while_there_is_no_room_is_told_later() {
    let (feed, demand, mut news) = Feed::new();
    let viewing = Viewing::new(feed.clone(), agent());
    (0..NEWS).for_each(|_| feed.event("{}"));
    demand.ask_status();
    let readings = AtomicU64::new(0);
    let server = async {
        // Meanwhile it is tried.
        tokio::time::sleep(Duration::from_millis(100)).await;
        loop {
            match tokio::time::timeout(LONG, news.recv()).await {
                Ok(Some(News::Event(_))) => {}
                Ok(Some(News::Status(_))) => return,
                other => panic!("{other:?}"),
            }
        }
    };
    alone(async {
        tokio::select! {
            () = turn(viewing, &readings) => panic!("over"),
            () = server => {}
        }
    });
}

#[test]
fn a_state_that_takes_long_is_not_told_often() {
    let (feed, demand, _news) = Feed::new();
    let mut viewing = Viewing::new(feed, agent());
    alone(async {
        let began = tokio::time::Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        viewing.tell_status(state(), began);
        demand.ask_status();
        assert_eq!(wanted(&mut viewing).await, Want::Status);
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    });
}

#[test]
fn of_too_many_callers_root_goes_last() {
    let mut hub = Hub::new(Arc::default());
    alone(async {
        let mut call = |is_root| {
            let calling = tokio::spawn(std::future::pending::<()>());
            let id = hub.next_id();
            hub.came(id, is_root, calling.abort_handle());
            calling
        };
        let root = call(true);
        let others: Vec<_> = (0..CALLERS + 1).map(|_| call(false)).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let gone: Vec<bool> = others.iter().map(|other| other.is_finished()).collect();
        assert!(!root.is_finished() && gone[..2] == [true, true] && !gone[2..].contains(&true), "{gone:?}");
        // Of root's own, the oldest.
        let roots: Vec<_> = (0..CALLERS).map(|_| call(true)).collect();
        for gone in others.into_iter().chain([root]) {
            assert!(tokio::time::timeout(LONG, gone).await.unwrap().unwrap_err().is_cancelled());
        }
        assert!(!roots.iter().any(|root| root.is_finished()));
    });
}

#[test]
fn after_a_snapshot_that_could_not_be_made_comes_another() {
    let mut hub = Hub::new(Arc::default());
    let _queue = hub.subscribe(1, true, Duration::from_millis(1)).unwrap();
    let wanted = |hub: &mut Hub, number| {
        std::thread::sleep(Duration::from_millis(2));
        hub.reading(&Arc::new(reading(number))).len()
    };
    assert_eq!([0, 1, 2].map(|number| wanted(&mut hub, number)), [0, 1, 0], "one at a time");
    hub.not_made();
    assert_eq!(wanted(&mut hub, 3), 1);
}

/// A viewer's queue is full of events that it does not read: its snapshot has a place all the same, and so has what it missed.
#[test]
fn events_leave_room_for_the_snapshot() {
    let mut hub = Hub::new(Arc::default());
    let mut queue = hub.subscribe(1, true, Duration::ZERO).unwrap();
    assert!(hub.reading(&Arc::new(reading(0))).is_empty());
    (0..2 * QUEUE).for_each(|_| hub.event("{}".to_owned()));
    let wanted = hub.reading(&Arc::new(reading(1)));
    assert_eq!(
        wanted.iter().map(|(since, who)| (since.at_ns, who.clone())).collect::<Vec<_>>(),
        [(0, vec![1])]
    );
    hub.snapshot(&"the snapshot".into(), &[1]);
    let mut lines = Vec::new();
    while let Ok(line) = queue.lines.try_recv() {
        lines.push(line);
    }
    let (snapshot, before) = lines.split_last().unwrap();
    assert!(snapshot.snapshot && &*snapshot.text == "the snapshot", "{snapshot:?}");
    let (missed, events) = before.split_last().unwrap();
    assert_eq!(events.len(), QUEUE - 2);
    assert!(missed.text.contains(&format!("\"events\":{}", 2 * QUEUE - events.len())), "{missed:?}");
}

/// Viewers who come one after the other and look once an hour: each would keep a reading of its own.
#[test]
fn few_readings_are_kept_for_many_viewers() {
    let mut hub = Hub::new(Arc::default());
    let mut readings = Vec::new();
    let mut queues = Vec::new();
    for number in 0..VIEWERS as u64 {
        queues.push(hub.subscribe(number, true, LONG * 60).unwrap());
        std::thread::sleep(Duration::from_millis(1));
        let now = Arc::new(reading(number));
        readings.push(Arc::downgrade(&now));
        let wanted = hub.reading(&now);
        for (_, viewers) in wanted {
            // One that was kept too long: its viewer gets a snapshot early, and takes it.
            viewers.iter().for_each(|viewer| queues[*viewer as usize].awaits.set(false));
        }
        drop(now);
        let kept = readings.iter().filter(|reading| reading.strong_count() > 0).count();
        assert!(kept <= READINGS, "{kept} readings after {} viewers", number + 1);
    }
    assert_eq!(readings.iter().filter(|reading| reading.strong_count() > 0).count(), READINGS);
}

#[test]
fn each_viewer_has_its_own_pace() {
    let stage = Stage::new();
    let mut slow = stage.ask(Request::Watch { interval_ms: 1000 });
    let mut fast = stage.viewer();
    let of_slow = next_snapshot(&mut slow).seconds;
    let of_fast = next_snapshot(&mut fast).seconds;
    // A reading of the stage is a second after the one before.
    assert!(of_slow >= 4.0 && of_fast <= 2.0, "{of_slow} {of_fast}");
}

#[test]
fn a_viewer_changes_its_pace_while_it_watches() {
    let stage = Stage::new();
    let mut lines = stage.ask(Request::Watch { interval_ms: 3_600_000 });
    assert!(matches!(lines.answer().unwrap(), Line::Status(_)));
    eventually("a first reading", || stage.readings.load(Ordering::SeqCst) == 1);
    let pace = lines.pacer().unwrap();
    pace(200);
    // A reading of the stage is a second after the one before: nothing between the two is left out.
    assert_eq!(next_snapshot(&mut lines).seconds, 1.0);
    assert_eq!(next_snapshot(&mut lines).seconds, 1.0);
    pace(3_600_000);
    // Those that were on their way.
    std::thread::sleep(Duration::from_millis(400));
    let readings = stage.readings.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(stage.readings.load(Ordering::SeqCst), readings);
}

#[test]
fn who_asks_for_one_interval_after_another_is_not_always_listened_to() {
    let stage = Stage::new();
    let mut stream = stage.call();
    let watch = |ms: u64| format!("{{\"request\":\"watch\",\"interval_ms\":{ms}}}\n");
    let requests: String = (0..1000).map(|count| watch(100_000 + count % 2)).collect();
    stream.write_all((requests + &watch(1)).as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut said = String::new();
    // The last of them would be refused, and is not heard yet.
    let _ = stream.read_to_string(&mut said);
    assert!(said.contains("\"kind\":\"status\"") && !said.contains("\"kind\":\"error\""), "{said}");
}

#[test]
fn who_does_not_keep_up_is_told_what_is_missing() {
    const EVENTS: usize = 200_000;
    let stage = Stage::new();
    let (mut lazy, mut keen) = (stage.viewer(), stage.viewer());
    eventually("watched", || stage.feed().is_watched());
    let reading = std::thread::spawn(move || {
        let mut events = 0;
        loop {
            match keen.answer().unwrap() {
                Line::Event { event, .. } if event["event"] == "last" => return events,
                Line::Event { .. } => events += 1,
                Line::Missed { events: missed, .. } => events += missed,
                _ => {}
            }
        }
    });
    for number in 0..EVENTS {
        stage.event(number);
        if number % 512 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let (mut events, mut missed) = (0, 0);
    while events + missed < EVENTS as u64 {
        match lazy.answer().unwrap() {
            Line::Event { .. } => events += 1,
            Line::Missed { events, .. } => missed += events,
            // It comes with the next event.
            Line::Snapshot(_) if events > 0 => stage.event(EVENTS),
            _ => {}
        }
    }
    assert!(missed > 0 && events > 0, "{missed} of {EVENTS}");
    while !reading.is_finished() {
        stage.feed().event("{\"schema\":1,\"event\":\"last\"}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(reading.join().unwrap() >= EVENTS as u64);
}

#[test]
fn who_takes_nothing_is_dropped_and_others_go_on() {
    let stage = Stage::new();
    let mut keen = stage.viewer();
    let mut stuck = stage.call();
    stuck.write_all(b"{\"request\":\"watch\",\"interval_ms\":200}\n").unwrap();
    let mut reader = BufReader::new(stuck.try_clone().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    let start = Instant::now();
    let text = format!("{{\"schema\":1,\"event\":\"{}\"}}", "x".repeat(2000));
    // Whether the server has closed the connection shows without reading from it.
    let is_dropped = || {
        let mut hangup =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&stuck), nix::poll::PollFlags::POLLHUP)];
        nix::poll::poll(&mut hangup, nix::poll::PollTimeout::ZERO).unwrap() > 0
    };
    while !is_dropped() {
        assert!(start.elapsed() < LONG);
        stage.feed().event(&text);
        keen.answer().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() >= PATIENCE);
    next_snapshot(&mut keen);
}

#[test]
fn whatever_is_sent_the_agent_goes_on() {
    let stage = Stage::new();
    let mut keen = stage.viewer();
    let binary: Vec<u8> = (0..=255).collect();
    let endless = vec![b'x'; 10 * MAX_REQUEST];
    for (bytes, words) in [
        (binary.as_slice(), "request"),
        (b"\n", "request"),
        (b"{\"request\":\"bind\"}\n", "request"),
        (b"{\"request\":\"watch\",\"interval_ms\":1}\n", "interval_ms"),
        (&endless, "4096 bytes"),
    ] {
        let mut stream = stage.call();
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes);
        let answer = rest(stream);
        let Line::Error { error, .. } = serde_json::from_str(&answer).unwrap() else { panic!("{answer}") };
        assert!(error.contains(words), "{error}");
    }
    // A viewer may ask for another interval, and for nothing else, be it said with the first request or later.
    let watch = b"{\"request\":\"watch\",\"interval_ms\":200}\n".as_slice();
    for (more, words) in [
        (b"more\n".as_slice(), "not a request"),
        (b"{\"request\":\"status\"}\n", "another interval"),
        (b"{\"request\":\"watch\",\"interval_ms\":1}\n", "interval_ms"),
        (&endless, "4096 bytes"),
    ] {
        let mut at_once = stage.call();
        let _ = at_once.write_all(&[watch, more].concat());
        let mut later = stage.call();
        later.write_all(watch).unwrap();
        BufReader::new(later.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
        let _ = later.write_all(more);
        for stream in [at_once, later] {
            let said = rest(stream);
            assert!(said.lines().last().unwrap().contains(words), "{words}: {said}");
        }
    }
    // Half a request, and gone; a request without its end, and no more to come.
    stage.call().write_all(b"{\"request\":").unwrap();
    let mut stream = stage.call();
    stream.write_all(b"{\"request\":\"status\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(rest(stream).starts_with("{\"kind\":\"status\""));
    next_snapshot(&mut keen);
    assert!(matches!(stage.ask(Request::Status).answer(), Ok(Line::Status(_))));
}

#[test]
fn a_thousand_who_say_nothing_keep_nobody_out() {
    let stage = Stage::new();
    let mut keen = stage.viewer();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(stage.call());
    }
    assert!(matches!(stage.ask(Request::Status).answer(), Ok(Line::Status(_))));
    next_snapshot(&mut keen);
    // The first of them have given way.
    assert_eq!(rest(idle.remove(0)), "");
    drop(idle);
    assert!(matches!(stage.ask(Request::Status).answer(), Ok(Line::Status(_))));
}

#[test]
fn a_request_that_does_not_come_is_not_waited_for() {
    let stage = Stage::new();
    let mut stream = stage.call();
    stream.write_all(b"{\"request\"").unwrap();
    assert!(rest(stream).contains("within 5 s"));
}

#[test]
fn there_are_only_so_many_viewers() {
    let stage = Stage::new();
    let most = if sys::own_uid() == 0 { VIEWERS } else { VIEWERS - FOR_ROOT };
    let mut viewers: Vec<Lines> = (0..most).map(|_| stage.viewer()).collect();
    let error = stage.ask(WATCH).answer().unwrap_err();
    assert!(matches!(&error, ClientError::Refused(_, why) if why.contains(&most.to_string())), "{error}");
    assert!(matches!(stage.ask(Request::Status).answer(), Ok(Line::Status(_))), "who only asks may");
    next_snapshot(&mut viewers[most - 1]);
    drop(viewers.pop());
    eventually("room for another", || stage.ask(WATCH).answer().is_ok());
}

#[test]
fn the_last_words_are_heard_and_the_socket_goes() {
    let mut stage = Stage::new();
    let mut lines = stage.viewer();
    eventually("watched", || stage.feed().is_watched());
    stage.feed().event("{\"schema\":1,\"event\":\"summary\"}");
    let path = stage.path();
    stage.end();
    assert!(!path.exists());
    let last = std::iter::from_fn(|| lines.next()).map(Result::unwrap);
    let last = last.filter(|line| matches!(line, Line::Event { .. })).last().unwrap();
    assert!(matches!(last, Line::Event { event, .. } if event["event"] == "summary"));
}

#[test]
fn an_only_viewer_has_no_need_of_a_socket_and_takes_all_with_it() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut stage = Stage::behind(Door::One(far), tempfile::tempdir().unwrap());
    let mut lines = client::ask(near, client::Peer::Ourselves, WATCH).unwrap();
    assert!(matches!(lines.answer().unwrap(), Line::Status(_)));
    next_snapshot(&mut lines);
    drop(lines);
    // The loop is told that it is over.
    stage.turning.take().unwrap().join().unwrap();
}
