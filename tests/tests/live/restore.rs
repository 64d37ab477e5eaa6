//! What was changed gets back what it had: after an agent that was killed, at the end of one, and of what `bind` did.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;
use numa_agent::{core::journal::decode, host::journal};
use numa_agent_tests::{agent, cpuset::Cpuset};

use super::*;

/// How often the agent is killed in a storm, unless `NUMA_AGENT_KILLS` says otherwise.
const KILLS: u32 = 10;
/// How many threads a process of the storm has at most.
const THREADS: usize = 100;

fn restore(journal: &Path, more: &[&str]) -> Value {
    let journal = utf8(journal);
    agent::json(["restore", "--format", "json", "--journal", &journal].iter().chain(more))
}

/// What became of each thread, by tid.
fn results(report: &Value) -> Vec<(u64, String)> {
    let changes = report["changes"].as_array().unwrap().iter();
    changes
        .map(|change| (change["tid"].as_u64().unwrap(), change["result"].as_str().unwrap().to_owned()))
        .collect()
}

pub(super) fn threads_of(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The living processes of the test.
pub(super) fn living(tag: &str) -> BTreeSet<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).contains(&format!("\0--tag\0{tag}\0"))
    };
    pids.filter(ours).collect()
}

/// Threads of the test's processes with another mask than that; how many were looked at.
fn strays(tag: &str, cpus: &CpuSet) -> (usize, Vec<(u32, u32, String)>) {
    let mut looked_at = 0;
    let mut strays = Vec::new();
    for pid in living(tag) {
        for tid in threads_of(pid) {
            let Ok(mask) = sys::affinity(tid) else { continue };
            looked_at += 1;
            if mask != *cpus {
                strays.push((pid, tid, mask.to_string()));
            }
        }
    }
    (looked_at, strays)
}

#[test]
fn after_a_killed_agent_everybody_has_what_they_had() {
    let Some(stage) = stage("restore-killed") else { return };
    let journal = stage.dir.path().join("journal");
    let mut puppet = stage.puppet("worker");
    let one: CpuSet = stage.forward.iter().take(1).collect();
    let own = puppet.thread("has_its_own").unwrap();
    puppet.pin(own, &one).unwrap();
    let agent = stage.agent_with(&["--journal", &utf8(&journal)]);
    stage.settle_on(own, &stage.members);
    let forward = puppet.thread("forward_0").unwrap();
    stage.settle_on(forward, &stage.forward);
    let heir = puppet.order(&Order::Thread { from: forward, name: Some("forward_1".into()) }).unwrap();
    stage.settle_on(heir, &stage.forward);
    let late = stage.puppet("worker");
    stage.settle_on(late.pid(), &stage.members);
    let child = puppet.order(&Order::Fork).unwrap();
    stage.settle_on(child, &stage.members);
    let _ = agent.end_by(Signal::SIGKILL);
    // Somebody else's since, and somebody born with no agent to see it.
    let other = puppet.thread("omp_1").unwrap();
    puppet.pin(forward, &stage.all).unwrap();
    puppet.pin(forward, &stage.members).unwrap();

    let plan = restore(&journal, &["--dry-run"]);
    assert!(
        results(&plan).iter().any(|(tid, result)| *tid == u64::from(own) && result == "planned"),
        "{plan}"
    );
    assert_eq!(sys::affinity(own).unwrap(), stage.members, "a dry run changes nothing");
    let done = restore(&journal, &[]);
    let result = |tid: u32| {
        let of = |change: &&Value| change["tid"] == tid;
        let change = done["changes"].as_array().unwrap().iter().find(of);
        change.unwrap_or_else(|| panic!("{tid} is not in {done:#}"))["result"].as_str().unwrap().to_owned()
    };
    for tid in [puppet.pid(), own, heir, late.pid(), child, other] {
        assert_eq!(result(tid), "restored", "{tid}");
    }
    assert_eq!(result(forward), "changed");
    assert_eq!(sys::affinity(own).unwrap(), one);
    assert_eq!(sys::affinity(forward).unwrap(), stage.members, "it is left alone");
    for tid in [puppet.pid(), heir, late.pid(), child, other] {
        assert_eq!(sys::affinity(tid).unwrap(), stage.all, "{tid}");
    }
    let again = restore(&journal, &[]);
    assert_eq!(results(&again), [], "what is done is struck: {again}");
}

#[test]
fn who_came_by_way_of_programs_that_are_not_managed_gets_back_what_the_first_had() {
    let Some(stage) = stage("restore-descent") else { return };
    let agent = stage.agent();
    // A shell whose arguments make it a worker; one, and another, which are nobody's; a worker.
    let scripts = ["first.sh", "second.sh"].map(|name| stage.dir.path().join(name));
    let worker = stage.family.command("worker", 0);
    let words =
        worker.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    fs::write(&scripts[0], format!("sh {}\n:\n", scripts[1].display())).unwrap();
    fs::write(&scripts[1], format!("{} {words} --puppet\n:\n", stage.family.exe.display())).unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "sh \"$0\"; :"]).arg(&scripts[0]);
    let mut puppet = Puppet::start_by(shell, &stage.family, "worker", 0).unwrap();
    let forward = puppet.thread("forward_0").unwrap();
    stage.settle_on(forward, &stage.forward);
    stage.settle_on(puppet.pid(), &stage.members);
    let journal = stage.dir.path().join("journal");
    fs::copy(agent.journal(), &journal).unwrap();
    let _ = agent.end_by(Signal::SIGKILL);
    let done = restore(&journal, &[]);
    for tid in [puppet.pid(), forward] {
        assert_eq!(sys::affinity(tid).unwrap(), stage.all, "{tid}: {done:#}");
    }
}

#[test]
fn masks_that_were_the_planned_ones_already_are_kept() {
    let Some(stage) = stage("restore-own") else { return };
    let mut puppet = stage.puppet("worker");
    let [own, other, forward] = ["own", "other", "forward_0"].map(|name| puppet.thread(name).unwrap());
    for tid in [own, forward] {
        puppet.pin(tid, &stage.members).unwrap();
    }
    let mut at_home = stage.puppet("worker");
    at_home.pin(at_home.pid(), &stage.members).unwrap();
    let journal = stage.dir.path().join("journal");
    for bind in [false, true] {
        if bind {
            let args = ["bind", "--apply", "--journal"].map(str::to_owned);
            assert!(
                agent::run(args.into_iter().chain([utf8(&journal)]).chain(stage.args())).status.success()
            );
        } else {
            let agent = stage.agent_with(&["--journal", &utf8(&journal)]);
            stage.settle_on(other, &stage.members);
            stage.settle_on(forward, &stage.forward);
            // Who is born of it is where it belongs, until it takes another name.
            let child = at_home.thread("decode_0").unwrap();
            stage.settle_on(child, &stage.forward);
            let _ = agent.end_by(Signal::SIGKILL);
        }
        let done = restore(&journal, &[]);
        for tid in [own, forward].into_iter().chain(threads_of(at_home.pid())) {
            assert_eq!(sys::affinity(tid).unwrap(), stage.members, "{tid}: {done:#}");
        }
        for tid in [puppet.pid(), other] {
            assert_eq!(sys::affinity(tid).unwrap(), stage.all, "{tid}: {done:#}");
        }
    }
}

/// A cpuset of `cpus`, or `None` with a word why not.
fn cpuset(test: &str, cpus: &CpuSet) -> Option<Cpuset> {
    Cpuset::new(test, cpus).map_err(|why| skip(test, &why)).ok()
}

#[test]
fn who_had_no_mask_of_its_own_follows_its_cpuset_afterwards() {
    let Some(stage) = stage("restore-cpuset") else { return };
    // As its cpuset is when it is first bound, and as it is when that is undone.
    let Some(narrow) = cpuset("restore-narrow", &stage.forward) else { return };
    let Some(wide) = cpuset("restore-wide", &stage.all) else { return };
    let agent = stage.agent_with(&["--reconcile", "1"]);
    let (late, mut early) = (stage.puppet("idle"), stage.puppet("worker"));
    narrow.take(late.pid());
    wide.take(early.pid());
    let mut late = late;
    late.exec("worker").unwrap();
    let pid = late.pid();
    eventually(|| {
        let failed = |event: &Value| event["event"] == "bound" && event["pid"] == pid;
        match agent.events().iter().any(failed) {
            true => Ok(()),
            false => Err(format!("no attempt: {}", agent.stderr())),
        }
    });
    narrow.allow(&stage.all);
    stage.settle_on(pid, &stage.members);
    let forward = early.thread("forward_0").unwrap();
    stage.settle_on(forward, &stage.forward);
    let journal = stage.dir.path().join("journal");
    fs::copy(agent.journal(), &journal).unwrap();
    let _ = agent.end_by(Signal::SIGKILL);
    // Of what that thread was given nothing is left.
    wide.allow(&stage.members);
    let done = restore(&journal, &[]);
    let restored = |tid: u32| results(&done).contains(&(u64::from(tid), "restored".to_owned()));
    assert!([pid, forward, early.pid()].into_iter().all(restored), "{done:#}");
    for cpus in [&stage.forward, &stage.members, &stage.all] {
        [&narrow, &wide].iter().for_each(|cpuset| cpuset.allow(cpus));
        for tid in [pid, forward, early.pid()] {
            assert_eq!(sys::affinity(tid).unwrap(), *cpus, "{tid}: {done:#}");
        }
    }
}

#[test]
fn a_cpuset_that_cuts_a_mask_while_no_agent_runs_is_nobody_elses_change() {
    let Some(stage) = stage("restore-cut") else { return };
    let Some(cpuset) = cpuset("restore-cut", &stage.all) else { return };
    let mut puppet = stage.puppet("worker");
    let own = puppet.thread("own").unwrap();
    puppet.pin(own, &stage.forward).unwrap();
    cpuset.take(puppet.pid());
    // Everybody belongs everywhere.
    write_sysfs(&one_socket(&[&stage.all]), &stage.dir.path().join("sys")).unwrap();
    let mut config = stage.config();
    config["policy"] = json!("generic");
    stage.write_config(&config);
    let journal = stage.dir.path().join("journal");
    let agent = stage.agent_with(&["--journal", &utf8(&journal)]);
    stage.settle_on(own, &stage.all);
    let _ = agent.end_by(Signal::SIGKILL);
    cpuset.allow(&stage.members);
    assert_eq!(sys::affinity(own).unwrap(), stage.members);
    let done = restore(&journal, &["--dry-run"]);
    assert!(results(&done).contains(&(u64::from(own), "planned".to_owned())), "{done:#}");
    // It has been there all the time.
    cpuset.allow(&stage.forward);
    let done = restore(&journal, &[]);
    assert!(results(&done).contains(&(u64::from(own), "restored".to_owned())), "{done:#}");
    cpuset.allow(&stage.all);
    assert_eq!(sys::affinity(own).unwrap(), stage.forward);
}

#[test]
fn a_recycled_pid_gets_nothing_back() {
    let Some(stage) = stage("restore-recycled") else { return };
    let journal = stage.dir.path().join("journal");
    let agent = stage.agent_with(&["--journal", &utf8(&journal)]);
    let puppet = stage.puppet("worker");
    let pid = puppet.pid();
    stage.settle_on(pid, &stage.members);
    let _ = agent.end_by(Signal::SIGKILL);
    puppet.stop().unwrap();
    // Another gets its pid, with the very mask that it was given.
    let mut next = None;
    for _ in 0..100 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut command = std::process::Command::new("taskset");
        command.args(["-c", &stage.members.to_string(), "sleep", "600"]);
        let mut child = command.spawn().unwrap();
        if child.id() == pid {
            next = Some(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let Some(mut next) = next else { return skip("restore-recycled", "others take the pid each time") };
    eventually(|| match sys::affinity(pid) {
        Ok(mask) if mask == stage.members => Ok(()),
        mask => Err(format!("{mask:?}")),
    });
    let done = restore(&journal, &[]);
    assert!(results(&done).contains(&(u64::from(pid), "gone".to_owned())), "{done:#}");
    assert_eq!(sys::affinity(pid).unwrap(), stage.members);
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn while_an_agent_runs_nothing_is_restored_but_at_its_end() {
    let Some(stage) = stage("restore-exit") else { return };
    let agent = stage.agent_with(&["--restore-on-exit"]);
    let puppet = stage.puppet("worker");
    stage.settle_on(puppet.pid(), &stage.members);
    let output = agent::run(["restore", "--journal", &utf8(&agent.journal())]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("an agent runs") && said.contains("--force"), "{said}");
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.members);
    let left = agent.stop();
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.all);
    let event = left.events.iter().find(|event| event["event"] == "restored").unwrap();
    assert!(results(event).contains(&(u64::from(puppet.pid()), "restored".to_owned())), "{event}");
    let summary = left.events.last().unwrap();
    assert!(summary["journal"]["entries"].as_u64() >= Some(1), "{summary}");
    assert_eq!((&summary["journal"]["failures"], &summary["journal"]["lost"]), (&json!(0), &json!(0)));
}

#[test]
fn an_agent_does_not_start_in_the_middle_of_a_restore() {
    let Some(stage) = stage("restore-start") else { return };
    let path = stage.dir.path().join("journal");
    // As `restore` has it.
    let alone = journal::keep_agents_out(&path).unwrap().expect("a folder to lock in");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_secs(3));
            over.store(true, Ordering::SeqCst);
            drop(alone);
        });
        let agent = stage.agent_with(&["--journal", &utf8(&path)]);
        assert!(over.load(Ordering::SeqCst), "it has not waited");
        agent.stop();
    });
}

#[test]
fn in_a_pid_namespace_of_its_own_nothing_is_bound_or_undone() {
    let Some(stage) = stage("restore-namespace") else { return };
    let puppet = stage.puppet("worker");
    let journal = utf8(&stage.dir.path().join("journal"));
    let with = |command: &str, more: &[&str]| -> Vec<String> {
        let words = [command].into_iter().chain(more.iter().copied()).map(str::to_owned);
        words.chain(["--journal".to_owned(), journal.clone()]).collect()
    };
    let bind = with("bind", &["--apply"]).into_iter().chain(stage.args());
    assert!(agent::run(bind).status.success());
    let within = |args: Vec<String>| {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc"]).arg(agent::binary()).args(args);
        let output = unshare.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let run = with("run", &["--no-socket"]).into_iter().chain(stage.args()).collect();
    let (code, said) = within(run);
    assert!(code == Some(1) && said.contains("hostPID"), "{code:?}: {said}");
    let (code, said) = within(with("restore", &[]));
    assert!(code == Some(1) && said.contains("nothing was undone"), "{code:?}: {said}");
    let report = utf8(&stage.dir.path().join("check.md"));
    let check = ["check", "--section", "B", "--report", &report].map(str::to_owned);
    let check = check.into_iter().chain(stage.args()).collect();
    let (code, said) = within(check);
    assert!(code == Some(1) && said.contains("hostPID"), "{code:?}: {said}");
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.members);
    restore(Path::new(&journal), &[]);
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.all);
}

#[test]
fn what_bind_has_done_is_undone_and_nothing_is_done_that_could_not_be() {
    let Some(stage) = stage("restore-bind") else { return };
    let puppet = stage.puppet("worker");
    let journal = stage.dir.path().join("journal");
    let bind = |journal: &[&str]| {
        let mut args = vec!["bind".to_owned(), "--apply".into(), "--format".into(), "json".into()];
        args.extend(stage.args());
        args.extend(journal.iter().map(|&arg| arg.to_owned()));
        agent::run(args)
    };
    // A folder is no journal.
    let refused = bind(&["--journal", &utf8(stage.dir.path())]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("--no-journal"), "{said}");
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.all);

    assert!(bind(&["--journal", &utf8(&journal)]).status.success());
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.members);
    let done = restore(&journal, &["--class", "irq"]);
    assert_eq!(results(&done), [], "no interrupts were changed: {done}");
    let done = restore(&journal, &["--class", "task"]);
    assert!(results(&done).contains(&(u64::from(puppet.pid()), "restored".to_owned())), "{done}");
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.all);

    assert!(bind(&["--no-journal"]).status.success());
    assert_eq!(sys::affinity(puppet.pid()).unwrap(), stage.members);
    let done = restore(&journal, &[]);
    assert_eq!(results(&done), [], "{done}");
}

#[test]
fn an_agent_that_cannot_write_its_journal_goes_on_and_says_so() {
    let Some(stage) = stage("restore-unwritable") else { return };
    // A folder is no journal.
    let journal = stage.dir.path().join("journal");
    for mends in [false, true] {
        fs::create_dir(&journal).unwrap();
        let agent = stage.agent_with(&["--journal", &utf8(&journal)]);
        let puppet = stage.puppet("worker");
        stage.settle_on(puppet.pid(), &stage.members);
        eventually(|| match agent.warnings("not written down").len() {
            1 => Ok(()),
            count => Err(format!("{count} warnings: {}", agent.stderr())),
        });
        fs::remove_dir(&journal).unwrap();
        if mends {
            eventually(|| match fs::metadata(&journal) {
                Ok(facts) if facts.len() > 100 => Ok(()),
                other => Err(format!("{other:?}: {}", agent.stderr())),
            });
            // What the agent says of it once a second is said by now.
            sleep(Duration::from_secs(2));
        } else {
            fs::create_dir(&journal).unwrap();
        }
        let summary = agent.stop().events.pop().unwrap();
        assert_eq!(summary["journal"]["waiting"].as_u64() >= Some(1), !mends, "{summary}");
        assert!(summary["journal"]["failures"].as_u64() >= Some(1), "{summary}");
        assert_eq!(summary["warnings"].to_string().contains("not written down"), !mends, "{summary}");
        if !mends {
            fs::remove_dir(&journal).unwrap();
        }
    }
}

#[test]
fn a_full_file_system_holds_up_nothing_and_leaves_no_half_line() {
    let Some(stage) = stage("restore-full") else { return };
    let run = stage.dir.path().join("run");
    fs::create_dir(&run).unwrap();
    // One of four pages that is the agent's alone, and ends with it.
    let mut alone = std::process::Command::new("unshare");
    let script = r#"mount -t tmpfs -o size=16k,mode=0700 none "$0" && exec "$@""#;
    alone.args(["--mount", "sh", "-c", script]).arg(&run).arg(agent::binary()).arg("run");
    let args = stage.args().into_iter().chain(["--journal".to_owned(), utf8(&run.join("journal"))]);
    let agent = Agent::start_by(alone, args, std::process::Stdio::piped());
    let within = Path::new("/proc").join(agent.pid().to_string()).join("root");
    let place = |name: &str| within.join(run.strip_prefix("/").unwrap()).join(name);
    let told = || {
        let bytes = fs::read(place("journal")).unwrap();
        let decoded = decode(&bytes);
        // In the middle of an attempt there may be.
        match decoded.damaged == 0 && bytes.ends_with(b"\n") {
            true => Ok(decoded.entries.len()),
            false => Err(format!("half a line: {}", String::from_utf8_lossy(&bytes))),
        }
    };
    let mut puppets = vec![stage.puppet("worker")];
    stage.settle_on(puppets[0].pid(), &stage.members);
    assert!(fs::write(place("filler"), vec![0; 1 << 20]).is_err(), "it is no small file system");
    // A line has 110 bytes, and each process one.
    for _ in 0..60 {
        let puppet = stage.puppet("worker");
        stage.settle_on(puppet.pid(), &stage.members);
        puppets.push(puppet);
    }
    eventually(|| match agent.warnings("not written down").len() {
        1 => Ok(()),
        count => Err(format!("{count} warnings: {}", agent.stderr())),
    });
    let lines = eventually(told);
    assert!((20..50).contains(&lines), "{lines}");
    fs::remove_file(place("filler")).unwrap();
    eventually(|| match told()? {
        62.. => Ok(()),
        lines => Err(format!("{lines} lines: {}", agent.stderr())),
    });
    let journal = stage.dir.path().join("journal");
    fs::copy(place("journal"), &journal).unwrap();
    let summary = agent.stop().events.pop().unwrap();
    let count = |name: &str| summary["journal"][name].as_u64().unwrap();
    assert!(count("failures") >= 1 && count("entries") >= 61, "{summary}");
    assert_eq!((count("waiting"), count("lost")), (0, 0), "{summary}");
    restore(&journal, &[]);
    let (looked_at, strays) = strays(&stage.family.tag, &stage.all);
    assert_eq!((strays, looked_at), (vec![], 61));
}

/// Threads that come, rename themselves and stay, children that stay, and programs that come and go, until it is told to end.
fn storm(puppet: &mut Puppet, over: &AtomicBool, rounds: &AtomicU64) {
    let pid = puppet.pid();
    let _child = puppet.order(&Order::Fork).unwrap();
    let mut threads = Vec::new();
    while !over.load(Ordering::Relaxed) {
        if threads.len() < THREADS {
            let from = threads.last().copied().unwrap_or(pid);
            threads.push(puppet.order(&Order::Thread { from, name: Some("helper".into()) }).unwrap());
        }
        for (tid, name) in threads.iter().rev().take(2).zip(["forward_1", "helper"]) {
            puppet.rename(*tid, name).unwrap();
        }
        puppet.order(&Order::Storm { count: 3, role: "worker".into() }).unwrap();
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does that while each of them storms, and counts their rounds meanwhile.
pub(super) fn while_it_storms<T>(
    puppets: &mut [Puppet],
    rounds: &AtomicU64,
    during: impl FnOnce() -> T,
) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However it ends, the storm does.
        let _ending = Over(&over);
        for puppet in puppets {
            scope.spawn(|| storm(puppet, &over, rounds));
        }
        during()
    })
}

#[test]
fn after_killed_agents_in_a_storm_everybody_has_what_they_had() {
    let Some(stage) = stage("restore-storm") else { return };
    let kills = std::env::var("NUMA_AGENT_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let journal = utf8(&stage.dir.path().join("journal"));
    let rounds = AtomicU64::new(0);
    let mut off = 0;
    // They end with the thread that has started them.
    let mut puppets = [stage.puppet("worker"), stage.puppet("worker")];
    while_it_storms(&mut puppets, &rounds, || {
        for round in 0..kills {
            let agent = stage.agent_with(&["--journal", &journal]);
            let so_far = rounds.load(Ordering::Relaxed);
            eventually(|| match rounds.load(Ordering::Relaxed) {
                now if now > so_far + 2 => Ok(()),
                _ => Err("the storm does not go on".to_owned()),
            });
            sleep(Duration::from_micros(u64::from(round) * 1373 % 20_000));
            let _ = agent.end_by(Signal::SIGKILL);
            off += strays(&stage.family.tag, &stage.all).1.len();
        }
    });
    let done = restore(Path::new(&journal), &[]);
    let (looked_at, strays) = strays(&stage.family.tag, &stage.all);
    println!(
        "{kills} agents killed in {rounds:?} rounds of a storm, {off} masks found changed after kills; {looked_at} threads looked at after restoring, journal {} bytes",
        fs::metadata(&journal).unwrap().len()
    );
    assert_eq!(strays, [], "{done:#}");
    assert!(looked_at > 20 && off > 20);
}

#[test]
fn an_agent_that_ends_in_a_storm_leaves_nobody_bound() {
    let Some(stage) = stage("restore-exit-storm") else { return };
    let rounds = AtomicU64::new(0);
    let mut puppets = [stage.puppet("worker"), stage.puppet("worker")];
    let mut calm = stage.puppet("worker");
    let mut bound = 0;
    while_it_storms(&mut puppets, &rounds, || {
        for _ in 0..5 {
            let agent = stage.agent_with(&["--restore-on-exit"]);
            let so_far = rounds.load(Ordering::Relaxed);
            eventually(|| match rounds.load(Ordering::Relaxed) {
                now if now > so_far + 2 => Ok(()),
                _ => Err("the storm does not go on".to_owned()),
            });
            // It finds events in its ring that came before the signal.
            agent.signal(Signal::SIGSTOP);
            for name in ["helper", "forward_1"] {
                calm.thread(name).unwrap();
            }
            agent.signal(Signal::SIGTERM);
            agent.signal(Signal::SIGCONT);
            let left = agent.stop();
            bound += left.events.last().unwrap()["results"]["bound"].as_u64().unwrap_or(0);
            let strays = strays(&stage.family.tag, &stage.all).1;
            assert_eq!(strays, [], "{:#}", left.events.last().unwrap());
        }
    });
    assert!(bound > 20, "{bound}");
}
