//! The metrics endpoint: figures that agree with what the workload was told to do, a real Prometheus that takes them, and clients
//! that hold up nobody.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use numa_agent_tests::{
    agent,
    http::{get, say},
    prometheus::{Server, programs_or_skip},
};

use super::*;

const OPEN: &str = "application/openmetrics-text; version=1.0.0";

/// Where it says that it serves metrics.
fn endpoint(agent: &Agent) -> SocketAddr {
    let said = agent.stderr();
    let address = said.split("metrics at http://").nth(1).and_then(|rest| rest.split("/metrics").next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address: {said}"))
}

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

fn scrape(address: SocketAddr) -> Samples {
    let answer = get(address, "/metrics", OPEN).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        (name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{error}: {line:?}")))
    });
    samples.collect()
}

/// The sum of all samples of that name that have all these labels.
fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let of =
        |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
    samples.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
}

/// Whatever can only grow has not become less.
fn assert_grown(before: &Samples, now: &Samples) {
    for (key, value) in before {
        let name = key.split('{').next().unwrap_or_default();
        let counts = ["_total", "_bucket", "_count", "_sum"].iter().any(|ending| name.ends_with(ending));
        if counts && !name.starts_with("numa_agent_thread_") {
            let later = now.get(key).unwrap_or_else(|| panic!("{key} is gone"));
            assert!(later >= value, "{key}: {value}, then {later}");
        }
    }
}

#[test]
fn figures_are_what_happened_and_stay_when_the_threads_are_gone() {
    let Some(stage) = stage("metrics") else { return };
    let agent = stage.agent_with(&["--metrics", "127.0.0.1:0", "--metrics-threads", "1"]);
    let address = endpoint(&agent);
    let first = scrape(address);
    let role = "role=\"forward\"";
    assert_eq!(sum(&first, "numa_agent_threads", &[]), 0.0);
    assert_eq!(sum(&first, "numa_agent_binds_total", &["result=\"bound\""]), 0.0);

    let mut puppet = stage.puppet("worker");
    let forward = puppet.thread("forward_0").unwrap();
    stage.settle_on(forward, &stage.forward);
    for _ in 0..3 {
        puppet.pin(forward, &stage.members).unwrap();
        stage.settle_on(forward, &stage.forward);
    }
    let busy = eventually(|| {
        let now = scrape(address);
        let ran = sum(&now, "numa_agent_cpu_seconds_total", &[role]);
        let off = sum(&now, "numa_agent_off_node_seconds_total", &[role]);
        if ran > 0.0 && off > 0.0 { Ok(now) } else { Err(format!("ran {ran}, off node {off}")) }
    });
    assert_grown(&first, &busy);
    assert_eq!(sum(&busy, "numa_agent_threads", &[role]), 1.0);
    for (name, label) in [("changes", "by=\"itself\""), ("answers", "answer=\"put_back\"")] {
        let count = sum(&busy, &format!("numa_agent_drift_{name}_total"), &[role, label]);
        assert!(count >= 3.0, "{name}: {busy:#?}");
    }
    let entries = sum(&busy, "numa_agent_journal_entries_total", &[]);
    assert!(entries >= 1.0 && sum(&busy, "numa_agent_journal_failures_total", &[]) == 0.0, "{busy:#?}");
    let moves = sum(&busy, "numa_agent_migrations_total", &[role, "distance=\"socket\""]);
    assert!(moves >= 6.0, "there and back three times, between the nodes of the socket: {moves}");
    let by_cause = sum(&busy, "numa_agent_migrations_by_cause_total", &[role]);
    assert_eq!(by_cause, sum(&busy, "numa_agent_migrations_total", &[role]));
    let waits = sum(&busy, "numa_agent_run_queue_wait_seconds_count", &[role]);
    assert!(waits > 0.0);
    assert_eq!(waits, sum(&busy, "numa_agent_run_queue_wait_seconds_bucket", &[role, "le=\"+Inf\""]));
    let ran = sum(&busy, "numa_agent_cpu_seconds_total", &[role]);
    assert!(sum(&busy, "numa_agent_off_node_seconds_total", &[role]) <= ran);
    assert!(sum(&busy, "numa_agent_event_to_bound_seconds_count", &["cause=\"rename\""]) >= 1.0);
    assert!(sum(&busy, "process_cpu_seconds_total", &[]) > 0.0);
    // One thread is listed by itself, the forward one, and the others are counted.
    assert!(
        sum(
            &busy,
            "numa_agent_thread_cpu_seconds_total",
            &[&format!("tid=\"{forward}\""), "comm=\"forward_0\""]
        ) > 0.0
    );
    assert!(sum(&busy, "numa_agent_threads_unlisted", &[]) >= 1.0);

    // The agent's own word, by another way.
    let args = ["status", "--format", "json", "--socket"]
        .map(str::to_owned)
        .into_iter()
        .chain([utf8(&agent.socket())]);
    let status = agent::json(args);
    let now = scrape(address);
    assert_grown(&busy, &now);
    for (result, count) in status["counts"]["results"].as_object().unwrap() {
        let ours = |samples| sum(samples, "numa_agent_binds_total", &[&format!("result=\"{result}\"")]);
        let count = count.as_f64().unwrap();
        assert!(
            ours(&busy) <= count && count <= ours(&now),
            "{result}: {count} between {} and {}",
            ours(&busy),
            ours(&now)
        );
    }

    // It becomes a member, and then all of it ends: what it did as a forward thread stays.
    puppet.rename(forward, "helper").unwrap();
    stage.settle_on(forward, &stage.members);
    puppet.stop().unwrap();
    let ended = eventually(|| {
        let now = scrape(address);
        let left = sum(&now, "numa_agent_threads", &[]);
        if left == 0.0 { Ok(now) } else { Err(format!("{left} threads")) }
    });
    assert_grown(&now, &ended);
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    let mut agent = agent;
    agent.wait_for("reloaded", |event| event["event"] == "reloaded");
    assert_grown(&ended, &scrape(address));
    agent.stop();
}

/// Who only observes counts what others do all the same; what waits, what is left alone and what cannot be written is told.
#[test]
fn what_the_agent_does_not_do_is_counted_too() {
    let Some(stage) = stage("metrics-not") else { return };
    let mut config = stage.config();
    config["max_bind_rate"] = json!(1);
    stage.write_config(&config);
    let folder = stage.dir.path().join("a-folder");
    fs::create_dir(&folder).unwrap();
    let journal = utf8(&folder);
    let args = ["--metrics", "127.0.0.1:0", "--drift", "observe", "--reconcile", "0", "--journal", &journal];
    let agent = stage.agent_with(&args);
    let address = endpoint(&agent);
    let first = scrape(address);

    let mut puppet = stage.puppet("worker");
    let threads = [0, 1, 2, 3].map(|number| puppet.thread(&format!("forward_{number}")).unwrap());
    let waiting = eventually(|| {
        let now = scrape(address);
        if sum(&now, "numa_agent_binds_waiting", &[]) > 0.0 { Ok(now) } else { Err(format!("{now:#?}")) }
    });
    assert!(sum(&waiting, "numa_agent_binds_deferred_total", &[]) >= 1.0);
    threads.into_iter().for_each(|tid| stage.settle_on(tid, &stage.forward));
    let done = scrape(address);
    assert_eq!(sum(&done, "numa_agent_binds_waiting", &[]), 0.0);
    assert_grown(&first, &done);

    // A folder is no journal: it says so once, and keeps what it could not write.
    assert_eq!(sum(&done, "numa_agent_journal_entries_total", &[]), 0.0);
    assert!(sum(&done, "numa_agent_journal_failures_total", &[]) >= 1.0, "{done:#?}");
    assert!(sum(&done, "numa_agent_journal_waiting", &[]) >= 1.0, "{done:#?}");
    let warned = sum(&done, "numa_agent_warnings_total", &[]);
    assert!(warned >= 1.0, "{done:#?}");

    // One moves itself, and we move another: both stay.
    puppet.pin(threads[0], &stage.members).unwrap();
    sys::set_affinity(threads[1], &stage.members).unwrap();
    let place = "role=\"forward\"";
    let drifted = eventually(|| {
        let now = scrape(address);
        let left = sum(&now, "numa_agent_drift_answers_total", &[place, "answer=\"left\""]);
        if left == 2.0 { Ok(now) } else { Err(format!("{left} left")) }
    });
    for (by, changes) in [("itself", 1.0), ("other", 1.0), ("unseen", 0.0)] {
        let by = format!("by=\"{by}\"");
        assert_eq!(sum(&drifted, "numa_agent_drift_changes_total", &[place, &by]), changes, "{by}");
    }
    assert_eq!(sum(&drifted, "numa_agent_drift_answers_total", &["answer=\"put_back\""]), 0.0);
    assert!(sum(&drifted, "numa_agent_warnings_total", &[]) > warned, "of what was left");

    let real_time = threads[2].to_string();
    let made = Command::new("chrt").args(["--fifo", "--pid", "1", &real_time]).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("metrics-not", "chrt is not there, or real-time is refused");
    }
    puppet.rename(threads[2], "helper").unwrap();
    eventually(|| {
        let spared = sum(&scrape(address), "numa_agent_threads_spared", &["role=\"member\""]);
        if spared == 1.0 { Ok(()) } else { Err(format!("{spared} spared")) }
    });
    agent.stop();
}

/// CPU time of a thread of the agent, in nanoseconds: the event loop's, which is the process's first, or another by its name.
fn cpu_ns(agent: &Agent, name: Option<&str>) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().map(|task| task.unwrap().path());
    let mut tasks = tasks.filter(|task| match name {
        None => task.ends_with(agent.pid().to_string()),
        Some(name) => fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name),
    });
    let stat = fs::read_to_string(tasks.next().expect("the thread").join("schedstat")).unwrap();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

/// What a scrape costs with many threads. Who scrapes as fast as he can takes no more of the event loop than was promised, and events are
/// answered between the pieces.
#[test]
fn scrapes_of_many_threads_leave_the_loop_its_time() {
    const SCRAPES: u32 = 10;
    const PAUSE: Duration = Duration::from_secs(1);
    let Some(stage) = stage("metrics-many") else { return };
    let threads = std::env::var("NUMA_AGENT_THREADS").ok().and_then(|number| number.parse().ok());
    let threads: u32 = threads.unwrap_or(300);
    for listed in ["0", "4096"] {
        let args = ["--metrics", "127.0.0.1:0", "--max-threads", "16384", "--metrics-threads", listed];
        let agent = stage.agent_with(&args);
        let address = endpoint(&agent);
        let mut puppet = stage.puppet("worker");
        let named = puppet.thread("forward_0").unwrap();
        for number in 2..threads {
            puppet.thread(&format!("forward_{number}")).unwrap();
        }
        eventually(|| {
            let known = sum(&scrape(address), "numa_agent_threads", &[]);
            if known >= f64::from(threads) { Ok(()) } else { Err(format!("{known} of {threads}")) }
        });
        let spent_since = |before: [u64; 2]| {
            let after = [cpu_ns(&agent, None), cpu_ns(&agent, Some("metrics"))];
            [0, 1].map(|index| (after[index] - before[index]) as f64 / 1e6)
        };
        let now = || [cpu_ns(&agent, None), cpu_ns(&agent, Some("metrics"))];

        let before = now();
        sleep(SCRAPES * PAUSE);
        let idle = spent_since(before);
        let before = now();
        for _ in 0..SCRAPES {
            scrape(address);
            sleep(PAUSE);
        }
        let busy = spent_since(before);
        let [looped, served] = [0, 1].map(|index| (busy[index] - idle[index]) / f64::from(SCRAPES));
        let page = get(address, "/metrics", OPEN).unwrap().body.len();

        // As fast as they are answered; meanwhile a thread takes another name now and then.
        let over = AtomicBool::new(false);
        let (scrapes, wall, share, late) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut scrapes = 0;
                while !over.load(Ordering::Relaxed) {
                    get(address, "/metrics", OPEN).unwrap();
                    scrapes += 1;
                }
                scrapes
            });
            let (start, before) = (Instant::now(), now());
            sleep(5 * PAUSE);
            let (wall, [looped, _]) = (start.elapsed(), spent_since(before));
            let before = scrape(address);
            for round in 0..100 {
                puppet.rename(named, if round % 2 == 0 { "helper" } else { "forward_0" }).unwrap();
                sleep(Duration::from_millis(10));
            }
            stage.barrier();
            let after = scrape(address);
            over.store(true, Ordering::Relaxed);
            let answered = |le: &str| {
                let labels = ["cause=\"rename\"", &format!("le=\"{le}\"")];
                let name = "numa_agent_event_to_bound_seconds_bucket";
                sum(&after, name, &labels) - sum(&before, name, &labels)
            };
            let late = (answered("+Inf") - answered("0.001048576"), answered("+Inf"));
            (flood.join().unwrap(), wall, looped / 1e3 / wall.as_secs_f64(), late)
        });
        println!(
            "{threads} threads, {listed} listed: {page} bytes; {looped:.1} ms of the event loop and {served:.1} ms of the other thread for \
             each scrape; {scrapes} scrapes in a flood, {:.1} % of the event loop in {wall:.1?}, {} of {} renames answered later than 1.05 ms",
            100.0 * share,
            late.0,
            late.1
        );
        assert!(late.1 >= 100.0, "the loop answers meanwhile: {late:?}");
        assert!(share < 0.25, "{share} of the event loop's time");
        puppet.stop().unwrap();
        agent.stop();
    }
}

#[test]
fn a_real_prometheus_scrapes_the_agent() {
    let Some(stage) = stage("prometheus") else { return };
    let Some(programs) = programs_or_skip() else { return };
    let agent = stage.agent_with(&["--metrics", "[::1]:0"]);
    let address = endpoint(&agent);
    let rules =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../numa-agent/packaging/prometheus/numa-agent.rules.yml");
    let server = Server::start(&programs, address, rules.as_ref());
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    stage.settle();
    server.query("up{job=\"numa-agent\"}", |series| series.len() == 1 && series[0]["value"][1] == "1");
    let value =
        |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(0.0_f64);
    let rate = "sum(rate(numa_agent_cpu_seconds_total{role=\"forward\"}[10s]))";
    let cpus = stage.all.len() as f64;
    let rates = server.query(rate, |series| series.first().is_some_and(|one| value(one) > 0.0));
    assert!(value(&rates[0]) <= cpus * 1.5, "{rates:?}");
    // The recording rules come to something, on what a real agent says.
    server.query("numa_agent:run_queue_wait_seconds:p99_5m{role=\"forward\"}", |series| {
        series.first().is_some_and(|one| value(one) > 0.0)
    });
    let rules = server.api("/api/v1/rules").unwrap();
    let all: Vec<&Value> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(all.len() >= 13 && all.iter().all(|rule| rule["health"] != "err"), "{all:#?}");
    let targets = server.api("/api/v1/targets").unwrap();
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");

    // What a person gets with curl is what promtool likes.
    let plain = get(address, "/metrics", "*/*").unwrap();
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    let mut check = Command::new(&programs.promtool);
    let mut check = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(plain.body.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = [&checked.stdout, &checked.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    assert!(checked.status.success() && said.iter().all(String::is_empty), "{said:#?}\n{}", plain.body);
    stack.stop().unwrap();
    agent.stop();
}

#[test]
fn clients_hold_up_nobody() {
    let Some(stage) = stage("hostile") else { return };
    let agent = stage.agent_with(&["--metrics", "127.0.0.1:0"]);
    let address = endpoint(&agent);
    let request = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    };
    let status = |request: &str| say(address, request).map(|answer| answer.status).unwrap_or(0);
    assert_eq!(status(&request("POST", "/metrics")), 405);
    assert_eq!(status(&request("GET", "/../etc/passwd")), 404);
    assert_eq!(status(&request("GET", "/healthz")), 200);
    assert_eq!(status("gar\u{1b}bage\r\n\r\n"), 400);
    assert_eq!(status(&format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20))), 431);
    let head = say(address, &request("HEAD", "/metrics")).unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));

    // Many who say nothing, many who say half of it, and some who take nothing of the answer.
    let connect = |said: &str| {
        let mut stream = TcpStream::connect(address).expect("accepted");
        let _ = stream.write_all(said.as_bytes());
        stream
    };
    let mut crowd: Vec<TcpStream> = (0..500).map(|_| connect("")).collect();
    crowd.extend((0..490).map(|_| connect("GET /metrics HTTP/1.1\r\nHost:")));
    crowd.extend((0..10).map(|_| connect(&request("GET", "/metrics"))));
    stage.barrier();
    scrape(address);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    assert!(descriptors < 200, "{descriptors} file descriptors");
    // Those who said nothing are shown out: the first to come long ago.
    let mut first = crowd.swap_remove(0);
    first.set_read_timeout(Some(numa_agent_tests::stack::PATIENCE)).unwrap();
    assert!(matches!(first.read(&mut [0; 64]), Ok(0) | Err(_)));
    drop(crowd);
    scrape(address);
    agent.stop();
}

#[test]
fn an_endpoint_that_cannot_be_had_is_an_error_at_start() {
    let Some(stage) = stage("taken") else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut config = stage.config();
    config["metrics"] = json!(address);
    stage.write_config(&config);
    let args = |more: &[&str]| {
        let args = ["run", "--no-socket"].map(str::to_owned).into_iter().chain(stage.args());
        args.chain(more.iter().map(|&arg| arg.to_owned())).collect::<Vec<_>>()
    };
    let output = agent::command(args(&[])).current_dir(stage.dir.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&address) && stderr.contains("in use") && stderr.contains("--metrics"),
        "{stderr}"
    );
    let output = agent::command(args(&["--metrics", "localhost"])).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9464"));
    // A flag stands over the file; everybody may see what is not loopback, and is told so.
    let agent = stage.agent_with(&["--metrics", "0.0.0.0:0"]);
    let said = agent.stderr();
    assert!(said.contains("no authentication"), "{said}");
    let port = endpoint(&agent).port();
    scrape(SocketAddr::from(([127, 0, 0, 1], port)));
    agent.stop();
}
