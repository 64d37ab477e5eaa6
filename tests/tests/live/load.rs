//! Many threads, and storms that go on: everybody is where they belong, and the agent is no larger for it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::task::ThreadRole;
use numa_agent_tests::{agent, recorder};

use super::{restore::while_it_storms, *};

/// How many threads there are, unless `NUMA_AGENT_THREADS` says otherwise.
const THREADS: u32 = 10_000;
/// What `bind` and the agent may take for them: so much, and for each thread so much more. A debug build's, with its report as JSON.
const BASE_KIB: u64 = 64 << 10;
const KIB_EACH: u64 = 8;
/// How long the storm goes on, unless `NUMA_AGENT_SOAK_SECONDS` says otherwise.
const SOAK_SECONDS: u64 = 30;
/// What the agent keeps of threads that have ended, and of intervals, it may still be filling by then.
const GROWTH_KIB: u64 = 16 << 10;

/// CPU time that the agent may take for each thread that it places, with all that it hears of it from birth to end, in microseconds: a debug
/// build's.
const CPU_US_EACH: u64 = 1300;

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// A process with threads that do nothing; every tenth of them is a forward thread by its name.
struct Sleepers {
    child: Child,
    tids: Vec<u32>,
}

impl Sleepers {
    fn start(stage: &Stage, threads: u32) -> Self {
        // What tells it from others' on this machine.
        let tick = format!("36{:07}", std::process::id());
        let mut config = stage.config();
        config["group_patterns"] = json!([format!("bench-load threads --count {threads} --tick-ms {tick}")]);
        config["forward_thread_patterns"] = json!(["^tick_[0-9]*7$"]);
        stage.write_config(&config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-load"));
        command.args(["threads", "--count", &threads.to_string(), "--tick-ms", &tick]);
        sys::born(&mut command, Birth::Plain);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut word = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut word).unwrap();
        assert_eq!(
            word, "ready\n",
            "{threads} threads: see kernel.threads-max, kernel.pid_max, vm.max_map_count"
        );
        let mut sleepers = Self { child, tids: Vec::new() };
        // The last of them may not have taken its name yet.
        sleepers.tids = eventually(|| {
            let tids = restore::threads_of(sleepers.child.id());
            let unnamed = tids.iter().filter(|tid| **tid != sleepers.child.id());
            match unnamed.filter(|tid| !sleepers.name(**tid).starts_with("tick_")).count() {
                0 => Ok(tids.clone()),
                count => Err(format!("{count} threads have no name")),
            }
        });
        assert_eq!(sleepers.tids.len(), threads as usize + 1);
        sleepers
    }

    fn name(&self, tid: u32) -> String {
        fs::read_to_string(format!("/proc/{}/task/{tid}/comm", self.child.id())).unwrap()
    }

    /// Those that are not where they belong.
    fn strays(&self, place: impl Fn(&str) -> CpuSet) -> Vec<u32> {
        let stray = |tid: &u32| sys::affinity(*tid).unwrap() != place(self.name(*tid).trim());
        self.tids.iter().copied().filter(stray).collect()
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of the agent's to its end, its output in a file: what it said, and its peak of memory.
fn peak_kib(stage: &Stage, args: &[String]) -> (Value, u64) {
    let path = stage.dir.path().join("output");
    let out = fs::File::create(&path).unwrap();
    let mut child = agent::command(args).stdout(out).spawn().unwrap();
    let mut peak_kib = 0;
    // Not by `wait4`: what that tells of a child begins with the peak of the process that it was forked off (`exec_mmap` of fs/exec.c, 6.18).
    let status = loop {
        peak_kib = figure_of(child.id(), "VmHWM").unwrap_or(peak_kib);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => sleep(Duration::from_millis(5)),
        }
    };
    assert!(peak_kib > 0, "{args:?} was over before it was looked at");
    assert!(status.success(), "{args:?}: {status}");
    (serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(), peak_kib)
}

/// A figure of a process; `None`: it has ended.
fn figure_of(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

fn status_of(pid: u32, key: &str) -> u64 {
    figure_of(pid, key).unwrap_or_else(|| panic!("no {key} of {pid}"))
}

/// What the storm's threads have seen of themselves would fill a disk in time.
fn forget_looks(stage: &Stage) {
    for entry in fs::read_dir(&stage.family.out).unwrap().filter_map(Result::ok) {
        let pid = entry.path().file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        match pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            true => fs::File::options().write(true).open(entry.path()).unwrap().set_len(0).unwrap(),
            // Its process may have ended only now.
            false => drop(fs::remove_file(entry.path())),
        }
    }
}

/// CPU time that a process has taken, in microseconds.
fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields 14 and 15, in hundredths of a second; the name is the second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10_000).sum()
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn ten_thousand_threads_are_planned_placed_and_given_back() {
    let Some(stage) = stage("load-threads") else { return };
    let threads = from_environment("NUMA_AGENT_THREADS", THREADS);
    let most_kib = BASE_KIB + KIB_EACH * u64::from(threads);
    let sleepers = Sleepers::start(&stage, threads);
    let place = |name: &str| if name.ends_with('7') { stage.forward.clone() } else { stage.members.clone() };

    let start = Instant::now();
    let args = ["bind", "--format", "json"].map(str::to_owned).into_iter().chain(stage.args());
    let (plan, bind_kib) = peak_kib(&stage, &args.collect::<Vec<_>>());
    let planned = start.elapsed();
    assert_eq!(
        plan["threads"]["planned"].as_u64(),
        Some(u64::from(threads) + 1),
        "all of them: {}",
        plan["threads"]
    );
    let rows = plan["processes"][0]["threads"].as_array().unwrap();
    for row in rows {
        let wanted = place(row["comm"].as_str().unwrap()).to_string();
        assert_eq!(row["planned_cpus"].as_str(), Some(wanted.as_str()), "{row}");
    }
    assert!(bind_kib < most_kib, "bind took {bind_kib} KiB for {threads} threads");

    let (start, journal) = (Instant::now(), stage.dir.path().join("journal"));
    let agent = stage.agent_with(&["--reconcile", "1", "--journal", &utf8(&journal)]);
    eventually(|| match sleepers.strays(place).len() {
        0 => Ok(()),
        count => Err(format!("{count} threads are elsewhere: {}", agent.stderr())),
    });
    let placed = start.elapsed();
    agent.wait_for_scans();
    let run_kib = status_of(agent.pid(), "VmHWM");
    assert!(run_kib < most_kib, "run took {run_kib} KiB for {threads} threads");
    let summary = agent.stop().events.pop().unwrap();
    // Beyond those that there is room to measure they are bound all the same.
    for kind in ["unmarked", "fork", "exec", "rename", "exit", "set_affinity"] {
        assert_eq!(summary["lost"][kind], 0, "{summary}");
    }

    let start = Instant::now();
    let args = ["restore", "--format", "json", "--journal", &utf8(&journal)].map(str::to_owned);
    let (undone, restore_kib) = peak_kib(&stage, &args);
    let restored = start.elapsed();
    let changes = undone["changes"].as_array().unwrap();
    assert_eq!(changes.len(), sleepers.tids.len());
    assert!(changes.iter().all(|change| change["result"] == "restored"), "{}", changes[0]);
    assert_eq!(sleepers.strays(|_| stage.all.clone()), [0; 0]);
    assert!(restore_kib < most_kib, "restore took {restore_kib} KiB for {threads} threads");
    println!(
        "{threads} threads: bind {planned:.1?} and {bind_kib} KiB; run {placed:.1?} until all were in place, {run_kib} KiB; \
         restore {restored:.1?} and {restore_kib} KiB"
    );
}

#[test]
fn an_agent_in_a_storm_that_goes_on_does_not_grow() {
    let Some(stage) = stage("load-soak") else { return };
    let seconds = from_environment("NUMA_AGENT_SOAK_SECONDS", SOAK_SECONDS).max(3);
    let rounds = AtomicU64::new(0);
    let mut puppets = [stage.puppet("worker"), stage.puppet("worker")];
    let agent = stage.agent_with(&["--reconcile", "5"]);
    let pid = agent.pid();
    let size = || (status_of(pid, "VmRSS"), open_files(pid), status_of(pid, "Threads"));
    let cpu_before = cpu_us(pid);
    // The first third is for what it may keep.
    let third = seconds.div_ceil(3);
    let (warm, most, fewest) = while_it_storms(&mut puppets, &rounds, || {
        // What a scan, a rewritten journal or a status has open is closed again: what stays is what there is at the quietest moment.
        let mut fewest = [usize::MAX; 3];
        let mut look = |second: u64| {
            sleep(Duration::from_secs(1));
            forget_looks(&stage);
            let now = size();
            let least = &mut fewest[(second / third) as usize];
            *least = now.1.min(*least);
            now
        };
        let warm = (0..third).map(&mut look).last().unwrap();
        let mut most = warm;
        for second in third..seconds {
            let now = look(second);
            most = (most.0.max(now.0), most.1.max(now.1), most.2.max(now.2));
        }
        (warm, most, fewest)
    });
    // How fast it goes is the machine's affair.
    assert!(rounds.load(Ordering::Relaxed) > seconds, "{rounds:?} rounds: that is no storm");
    // Once it is over, all is as it should be, and every one is known.
    let living = restore::living(&stage.family.tag);
    let tids = || living.iter().flat_map(|pid| restore::threads_of(*pid).into_iter().map(|tid| (*pid, tid)));
    let threads = tids().count();
    eventually(|| {
        let name =
            |(pid, tid): (u32, u32)| fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap();
        let place = |task| if is_forward(&name(task)) { &stage.forward } else { &stage.members };
        match tids().filter(|task| sys::affinity(task.1).unwrap() != *place(*task)).count() {
            0 => Ok(()),
            count => Err(format!("{count} of {threads} threads are elsewhere: {}", agent.stderr())),
        }
    });
    let status = || agent::json(["status", "--format", "json", "--socket", &utf8(&agent.socket())]);
    eventually(|| match status()["counts"].clone() {
        counts if counts["threads"] == threads && counts["processes"] == living.len() => Ok(()),
        counts => Err(format!("{} processes with {threads} threads live: {counts}", living.len())),
    });
    let (ended, cpu_us) = (size(), cpu_us(pid) - cpu_before);
    let summary = agent.stop().events.pop().unwrap();
    println!(
        "{seconds} s, {rounds:?} rounds, {threads} threads at last, {} events lost and told; RSS KiB, files, threads: {warm:?} after a third, \
         {most:?} at most, {ended:?} at last; {fewest:?} files at least in each third",
        summary["lost"]["total"]
    );
    let placed: u64 = summary["results"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    let each = cpu_us / placed;
    println!(
        "{cpu_us} us of CPU time for {placed} threads that were placed, or gone when their turn came: {each} us each"
    );
    assert!(each <= CPU_US_EACH, "it took {each} us of CPU time for each thread");
    assert!(most.0 < warm.0 + warm.0 / 4 + GROWTH_KIB, "it grows: {warm:?}, then {most:?}");
    // What is under way at every look of a third; each round of the storm would leave some.
    assert!(fewest[2] <= fewest[0] + 8, "files stay open: {fewest:?}");
    // Readers of a scan, each with directories and a file; a rewritten journal, a status that is asked for.
    assert!(most.1 <= fewest[0] + 24, "many files are open: {fewest:?}, {most:?}");
    assert!(most.2 <= warm.2 + 4, "threads stay: {warm:?}, {most:?}");
    // Who rewrites it may keep others waiting: they write later.
    let journal = &summary["journal"];
    assert_eq!((&journal["lost"], &journal["waiting"]), (&json!(0), &json!(0)), "{journal}");
}

/// Threads and processes that are born where they belong, and their ends, are told in good time, not each at once.
#[test]
fn what_can_wait_does_not_wake_the_agent_each_time() {
    const CHILDREN: u64 = 1000;
    const ROUNDS: usize = 20;
    /// Several times what the agent takes to look again, and far less than to look at its counters of losses.
    const SOON: Duration = Duration::from_millis(50);
    let Some(stage) = stage("load-wakes") else { return };
    let tag = format!("woken-{}", std::process::id());
    let mut config = stage.config();
    config["group_patterns"] = json!([format!("{tag}$")]);
    stage.write_config(&config);
    let agent = stage.agent_with(&[]);
    let script = format!(
        "read go; i=0; while [ $i -lt {CHILDREN} ]; do (:); i=$((i+1)); done; echo done; \
         while read go; do (:); echo done; done"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, &tag]).stdin(Stdio::piped()).stdout(Stdio::piped());
    sys::born(&mut command, Birth::Plain);
    let mut shell = command.spawn().unwrap();
    eventually(|| match sys::affinity(shell.id()).unwrap() {
        mask if mask == stage.members => Ok(()),
        mask => Err(format!("on {mask}: {}", agent.stderr())),
    });
    let sleeps = || status_of(agent.pid(), "voluntary_ctxt_switches");
    let (before, began) = (sleeps(), Instant::now());
    shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut answers = BufReader::new(shell.stdout.take().unwrap()).lines();
    assert_eq!(answers.next().unwrap().unwrap(), "done");
    let (took, slept) = (began.elapsed(), sleeps() - before);
    // Nor is it forgotten: the end of a child that ends right after its birth is known long before anything else has the agent look.
    let processes = || {
        agent::json(["status", "--format", "json", "--socket", &utf8(&agent.socket())])["counts"]["processes"]
            .clone()
    };
    let late = (0..ROUNDS).filter(|_| {
        shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), "done");
        sleep(SOON);
        processes() != 1
    });
    let late = late.count();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    let summary = agent.stop().events.pop().unwrap();
    println!("{CHILDREN} children in {took:?}: the agent slept {slept} times; {summary:#}");
    // It is woken, and looks again after 5 ms; the rest is for its timers. Each child makes two records.
    let at_most = took.as_millis() as u64 * 6 / 10 + 50;
    assert!(late <= ROUNDS / 4, "{late} of {ROUNDS} ends were not known after {SOON:?}");
    assert!(slept <= at_most, "{slept} times in {took:?}, {at_most} are enough");
    assert_eq!(summary["lost"]["total"], 0);
}

/// A program whose threads are born and end as fast as they can, and are to be bound.
fn storming(stage: &Stage) -> PathBuf {
    let program = stage.dir.path().join(format!("births-{}", std::process::id()));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bench-load"), &program).unwrap();
    let mut config = stage.config();
    config["group_patterns"] = json!([format!("{} births", utf8(&program))]);
    stage.write_config(&config);
    program
}

/// Starts it, which waits for a word; it is where it belongs, and all that it starts is born on plan.
fn births(stage: &Stage, program: &Path, count: usize) -> Child {
    let mut command = Command::new(program);
    command.args(["births", "--count", &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
    sys::born(&mut command, Birth::Plain);
    let load = command.spawn().unwrap();
    eventually(|| match sys::affinity(load.id()).unwrap() {
        mask if mask == stage.members => Ok(()),
        mask => Err(format!("on {mask}")),
    });
    load
}

/// For the births and ends of threads that are where they belong a stopped agent needs no room: none is lost, and all are counted.
#[test]
fn a_stopped_agent_loses_nothing_of_a_storm_of_threads_on_plan() {
    const BIRTHS: usize = 20_000;
    let Some(stage) = stage("load-stopped") else { return };
    let program = storming(&stage);
    let agent = stage.agent_with(&["--reconcile", "0", "--ring-bytes", "65536"]);
    let mut load = births(&stage, &program, BIRTHS);
    agent.signal(Signal::SIGSTOP);
    load.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(load.wait().unwrap().success());
    agent.signal(Signal::SIGCONT);
    let summary = agent.stop().events.pop().unwrap();
    let untold = summary["untold"]["threads"].as_u64().unwrap() as usize;
    println!("{untold} of {BIRTHS} threads were not told of one by one");
    assert_eq!(summary["lost"]["total"], 0, "{summary:#}");
    // 64 KiB are room for some three hundred of them.
    assert!((BIRTHS - 1000..BIRTHS).contains(&untold), "{untold}");
    assert!(summary["untold"]["run_ns"].as_u64().unwrap() > 1000 * untold as u64, "{summary:#}");
}

/// Threads that have ended when their turn comes to be bound: all are counted and measured, and their slots are there for the next.
#[test]
fn lives_that_are_over_already_are_all_accounted_for() {
    /// More than there are slots.
    const BIRTHS: usize = 6000;
    let Some(stage) = stage("load-births") else { return };
    let program = storming(&stage);
    let report = stage.dir.path().join("jitter.md");
    // Where each attempt to bind is a line of JSON, none is left out.
    let mut command = agent::command(["run", "--no-socket", "--no-journal", "--jitter-report"]);
    command.arg(&report).args(stage.args()).stdout(Stdio::null());
    sys::born(&mut command, Birth::Plain);
    let mut agent = command.spawn().unwrap();
    let mut load = births(&stage, &program, BIRTHS);
    load.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(load.wait().unwrap().success());
    // The ends of the last are there to be read when the agent is told to stop.
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(agent.wait().unwrap().success());
    let recording = recorder::read(&report.with_extension("recording.json"));
    let mut births = 0;
    for thread in recording.threads.iter().filter(|thread| thread.pid == load.id() && thread.tid != load.id())
    {
        assert!(thread.ended && thread.role == ThreadRole::Member, "{thread:?}");
        let figures = &thread.figures;
        assert!(figures.run_ns > 0 && figures.wake_wait.count > 0, "{thread:?}");
        assert_eq!((figures.off_plan_ns, figures.before_bind_ns), (Some(0), Some(0)), "{thread:?}");
        births += 1;
    }
    let number = |what: &str| -> usize {
        let told = recording.runs[0].lost_detail.iter().find(|detail| detail.contains(what));
        told.and_then(|told| told.split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    let (together, untold) = (number("added up"), number("before anybody was told of them"));
    println!("{births} threads one by one, {together} together, {untold} untold");
    assert_eq!(births + together + untold, BIRTHS + stage.members.len(), "and those that start them");
    assert!(untold < BIRTHS - 1024, "a burst is told");
    assert_eq!(recording.runs[0].lost, Vec::<String>::new());
}
