//! Others who set masks too: two who insist do not fight in a loop, whatever the policy; binds are paced; real-time threads stay.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use numa_agent_tests::{agent, sys::Class};

use super::*;

/// How long the other one insists.
const FIGHT: Duration = Duration::from_secs(4);

fn status(agent: &Agent) -> Value {
    agent::json(["status", "--format", "json", "--socket", &utf8(&agent.socket())])
}

/// Somebody sets the mask of a thread every millisecond; how often.
fn fight(tid: u32, away: &CpuSet) -> u64 {
    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                sys::set_affinity(tid, away).unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1));
            }
        });
        sleep(FIGHT);
        over.store(true, Ordering::Relaxed);
    });
    calls.into_inner()
}

/// How often the agent put that thread back.
fn put_back(agent: &Agent, tid: u32) -> usize {
    let answers =
        |event: &&Value| event["tid"] == tid && event["cause"] == "setaffinity" && event["event"] == "bound";
    agent.events().iter().filter(answers).count()
}

/// What came of a fight under that policy: how often it was put back, the drift that the status tells, and where the thread is.
fn fought(stage: &Stage, policy: &str) -> (usize, Value, CpuSet) {
    let agent = stage.agent_with(&["--drift", policy, "--reconcile", "0"]);
    let puppet = stage.puppet("worker");
    stage.settle_on(puppet.pid(), &stage.members);
    let calls = fight(puppet.pid(), &stage.forward);
    stage.barrier();
    let status = status(&agent);
    let drift = status["drift"].clone();
    assert_eq!(drift["policy"], policy);
    // Calls beyond what the ring takes in a burst are counted there.
    assert!(drift["changes"].as_u64().unwrap() + 50 >= calls, "{calls} calls: {status:#}");
    let party = &drift["by"][0];
    assert_eq!(party["pid"], std::process::id(), "{drift}");
    assert!(party["comm"].is_string(), "{drift}");
    let times = put_back(&agent, puppet.pid());
    println!("{policy}: {calls} calls in {FIGHT:?}, put back {times} times");
    let text = String::from_utf8(agent::run(["status", "--socket", &utf8(&agent.socket())]).stdout).unwrap();
    assert!(text.contains(&format!("by others ({policy})")), "{text}");
    let at_last = sys::affinity(puppet.pid()).unwrap();
    let summary = agent.stop().events.pop().unwrap();
    assert_eq!(summary["drift"]["policy"], policy);
    (times, drift, at_last)
}

#[test]
fn two_who_insist_do_not_fight_in_a_loop() {
    let Some(stage) = stage("drift-fight") else { return };
    let (times, drift, at_last) = fought(&stage, "observe");
    assert_eq!((times, drift["put_back"].as_u64()), (0, Some(0)), "{drift}");
    assert_eq!(at_last, stage.forward, "it is left where it was put");
    let (times, drift, _) = fought(&stage, "reapply");
    assert!((1..=8).contains(&times), "{times}: {drift}");
    // At once, and after 10, 20, 40 ms and so on.
    let (times, drift, _) = fought(&stage, "enforce");
    assert!((4..=11).contains(&times), "{times}: {drift}");
}

/// What came of a thread that takes a name and a mask for each of its jobs, and a leader that takes a name too: how many jobs there were, and
/// how often that thread was put back.
fn pooled(stage: &Stage, policy: &str) -> (u64, usize) {
    let agent = stage.agent_with(&["--drift", policy, "--reconcile", "0"]);
    let mut puppet = stage.puppet("worker");
    let (pid, thread) = (puppet.pid(), puppet.thread("helper").unwrap());
    stage.settle_on(pid, &stage.members);
    stage.settle_on(thread, &stage.members);
    let (began, mut jobs) = (Instant::now(), 0);
    while began.elapsed() < FIGHT {
        puppet.rename(thread, &format!("job_{jobs}")).unwrap();
        puppet.pin(thread, &stage.forward).unwrap();
        puppet.rename(pid, &format!("worker_{jobs}")).unwrap();
        jobs += 1;
        sleep(Duration::from_millis(1));
    }
    let answers = |event: &&Value| {
        event["tid"] == thread
            && event["event"] == "bound"
            && ["setaffinity", "rename"].iter().any(|cause| event["cause"] == *cause)
    };
    let times = agent.stop().events.iter().filter(answers).count();
    println!("{policy}: {jobs} jobs in {FIGHT:?}, put back {times} times");
    (jobs, times)
}

#[test]
fn who_takes_a_name_and_a_mask_for_each_job_is_not_fought_at_each() {
    let Some(stage) = stage("drift-pool") else { return };
    for (policy, times) in [("observe", 0..=0), ("reapply", 1..=8), ("enforce", 4..=11)] {
        let (jobs, put_back) = pooled(&stage, policy);
        assert!(jobs > 50, "{jobs} jobs are no fight");
        assert!(times.contains(&put_back), "{policy}: put back {put_back} times in {jobs} jobs");
    }
}

#[test]
fn who_enforces_has_the_last_word() {
    let Some(stage) = stage("drift-last") else { return };
    let agent = stage.agent_with(&["--drift", "enforce", "--reconcile", "0"]);
    let mut puppet = stage.puppet("worker");
    let pid = puppet.pid();
    stage.settle_on(pid, &stage.members);
    for _ in 0..20 {
        puppet.pin(pid, &stage.forward).unwrap();
    }
    stage.settle_on(pid, &stage.members);
    assert!(put_back(&agent, pid) < 20);
    agent.stop();
}

#[test]
fn who_observes_still_places_what_is_new() {
    let Some(stage) = stage("drift-observe") else { return };
    let agent = stage.agent_with(&["--drift", "observe", "--reconcile", "1"]);
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("helper").unwrap();
    stage.settle_on(thread, &stage.members);
    puppet.pin(thread, &stage.all).unwrap();
    agent.wait_for_scans();
    stage.settle_on(thread, &stage.all);
    puppet.rename(thread, "forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    let other = puppet.thread("decode_0").unwrap();
    stage.settle_on(other, &stage.forward);
    let third = puppet.thread("helper_2").unwrap();
    stage.settle_on(third, &stage.members);
    puppet.pin(third, &stage.all).unwrap();
    agent.wait_for_scans();
    let warnings = agent.warnings("were re-pinned by");
    assert!(
        warnings.len() == 1 && warnings[0].contains(&puppet.pid().to_string()),
        "one for all: {warnings:?}"
    );
    agent.stop();
}

#[test]
fn binds_beyond_the_rate_are_put_off_and_all_are_done() {
    const THREADS: usize = 30;
    let Some(stage) = stage("drift-rate") else { return };
    let mut config = stage.config();
    config["max_bind_rate"] = json!(10);
    stage.write_config(&config);
    let agent = stage.agent_with(&["--reconcile", "0"]);
    let mut puppet = stage.puppet("worker");
    let start = Instant::now();
    let threads: Vec<u32> =
        (0..THREADS).map(|number| puppet.thread(&format!("forward_{number}")).unwrap()).collect();
    for tid in threads {
        stage.settle_on(tid, &stage.forward);
    }
    // One more is the process, and one a second's tenth.
    assert!(start.elapsed() >= Duration::from_millis(2700), "{:?}", start.elapsed());
    let summary = agent.stop().events.pop().unwrap();
    assert!(summary["deferred"].as_u64() >= Some(THREADS as u64 / 2), "{summary}");
}

#[test]
fn real_time_threads_stay_where_they_are_and_are_named_until_they_are_none() {
    let Some(stage) = stage("drift-real-time") else { return };
    let agent = stage.agent_with(&["--reconcile", "1"]);
    let mut puppet = stage.puppet("worker");
    let thread = puppet.thread("helper").unwrap();
    stage.settle_on(thread, &stage.members);
    if let Err(error) = sys::schedule(thread, Class::Fifo) {
        return skip("drift-real-time", &format!("real-time is refused: {error}"));
    }
    puppet.rename(thread, "forward_0").unwrap();
    let ordinary = puppet.thread("forward_1").unwrap();
    stage.settle_on(ordinary, &stage.forward);
    stage.settle_on(thread, &stage.members);
    agent.wait_for_scans();
    assert_eq!(sys::affinity(thread).unwrap(), stage.members);
    // Where it is, is no failure; how to move it is said.
    let checked = super::check::check(&stage, &["--socket", &utf8(&agent.socket())]).0;
    let placed = super::check::item(&checked, "B4");
    assert_eq!(placed["verdict"], "warn", "{placed:#}");
    assert!(
        placed["found"][0].as_str().is_some_and(|found| found.contains("spared, because it is SCHED_FIFO"))
    );
    let fix = placed["fixes"][0].as_str().unwrap();
    assert!(fix.starts_with(&format!("taskset -pc {} {thread} #", stage.forward)), "{fix}");
    let warnings = agent.warnings("SCHED_FIFO");
    assert!(warnings.len() == 1 && warnings[0].contains(&puppet.pid().to_string()), "{warnings:?}");
    sys::schedule(thread, Class::Ordinary).unwrap();
    stage.settle_on(thread, &stage.forward);
    let summary = agent.stop().events.pop().unwrap();
    assert_eq!(summary["results"]["spared"], 1, "however often it was looked at: {summary}");
}

#[test]
fn bind_says_which_threads_it_spares() {
    let Some(stage) = stage("drift-spared") else { return };
    let mut puppet = stage.puppet("worker");
    for (class, name) in [(Class::Fifo, "SCHED_FIFO"), (Class::Deadline, "SCHED_DEADLINE")] {
        let thread = puppet.thread("helper").unwrap();
        // The first of them has been bound by then, and a deadline is for all CPUs.
        sys::set_affinity(thread, &stage.all).unwrap();
        if let Err(error) = sys::schedule(thread, class) {
            return skip("drift-spared", &format!("{name} is refused: {error}"));
        }
        for apply in [&[][..], &["--apply", "--no-journal"]] {
            let args = ["bind", "--format", "json"].map(str::to_owned).into_iter().chain(stage.args());
            let report = agent::json(args.chain(apply.iter().map(|&arg| arg.to_owned())));
            let threads = report["processes"][0]["threads"].as_array().unwrap();
            let row = threads.iter().find(|row| row["tid"] == thread).unwrap();
            assert_eq!(row["result"], format!("spared: {name}"), "{apply:?}: {report:#}");
            assert_eq!(row["actual_cpus"], stage.all.to_string());
            assert!(report["threads"]["spared"].as_u64() >= Some(1) && report["threads"]["failed"] == 0);
            if !apply.is_empty() {
                let warnings = report["warnings"].to_string();
                assert!(
                    warnings.contains(name) && warnings.contains(&puppet.pid().to_string()),
                    "{warnings}"
                );
            }
        }
        assert_eq!(sys::affinity(thread).unwrap(), stage.all);
    }
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.members, "the others are bound");
}
