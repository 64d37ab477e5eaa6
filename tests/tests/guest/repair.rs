//! `repair`: pages of a process that keeps using them, on other nodes than the plan's. It finds out by itself that its data is right, and
//! `numa_maps` says where the pages are.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{
    agent,
    cast::utf8,
    eventually, guest,
    stack::{
        occupation::{Occupation, TOUCHED_PAGES},
        puppet::{Order, Puppet},
    },
    sys,
};
use serde_json::Value;

use crate::stage::{Stage, node_bytes, read, stage};

/// Machines whose sockets have two nodes.
const ON: [&str; 2] = ["a3-mini", "snc"];

/// `MPOL_INTERLEAVE`.
const INTERLEAVE: i32 = 3;

/// Bytes by node of what a policy governs, as the kernel lists it.
fn governed(pid: u32) -> BTreeMap<u32, u64> {
    let mut nodes = BTreeMap::new();
    for line in read(&format!("/proc/{pid}/numa_maps")).lines().filter(|line| !line.contains(" file=")) {
        for (node, pages) in line.split(' ').filter_map(|word| word.strip_prefix('N')?.split_once('=')) {
            let (node, pages): (u32, u64) = (node.parse().expect("a node"), pages.parse().expect("pages"));
            *nodes.entry(node).or_default() += pages * sys::page_bytes() as u64;
        }
    }
    nodes
}

/// A worker whose memory is all on a node that the plan has not for it, and a thread of it that is busy with some.
struct Strayed {
    puppet: Puppet,
    busy: u32,
    planned: NodeSet,
    off_plan: u32,
}

fn strayed(stage: &Stage) -> Strayed {
    let planned: NodeSet = stage.machine.sockets.values().next().expect("a socket").iter().copied().collect();
    let off_plan = stage.roomy().difference(&planned).last().expect("another node with room");
    let starter = agent::command(["exec", "--membind", &off_plan.to_string(), "--"]);
    let mut puppet = Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker");
    let busy = puppet.occupied(Occupation::Touch).expect("a busy thread");
    let mut strayed = Strayed { puppet, busy, planned, off_plan };
    strayed.go_on();
    strayed
}

impl Strayed {
    /// Waits until it has been through its memory twice more, and found it right.
    fn go_on(&mut self) {
        let rounds =
            |puppet: &mut Puppet, tid| puppet.order(&Order::Rounds { tid }).expect("its data is right");
        let since = rounds(&mut self.puppet, self.busy);
        eventually(|| match rounds(&mut self.puppet, self.busy) {
            done if done >= since + 2 => Ok(()),
            done => Err(format!("{done} rounds, {since} of them before")),
        });
    }

    fn longest_wait_us(&mut self, tid: u32) -> u32 {
        self.puppet.order(&Order::LongestWait { tid }).expect("it touches or maps")
    }

    /// What its busy thread and one that maps pages wait while somebody moves its memory.
    fn waits(&mut self, mapping: u32, work: impl FnOnce()) -> Waits {
        let both = [self.busy, mapping];
        // Forgotten: what was before.
        let _ = both.map(|tid| self.longest_wait_us(tid));
        let start = Instant::now();
        work();
        let move_us = start.elapsed().as_micros() as u32;
        let [touch_us, map_us] = both.map(|tid| self.longest_wait_us(tid));
        Waits { touch_us, map_us, move_us }
    }
}

#[test]
fn repair_moves_pages_that_are_in_use() {
    let Some(stage) = stage("repair", &ON) else { return };
    let mut it = strayed(&stage);
    let pid = it.puppet.pid();
    let (taken, before) = ((TOUCHED_PAGES * sys::page_bytes()) as u64, governed(pid));
    assert!(before.get(&it.off_plan).is_some_and(|bytes| *bytes >= taken), "{before:?}");

    let repair = |more: &[&str]| agent::json(std::iter::once("repair".to_owned()).chain(stage.args(more)));
    let dry = repair(&["--format", "json"]);
    let process = &dry["processes"][0];
    assert_eq!(
        (process["pid"].as_u64(), &process["result"]),
        (Some(pid.into()), &Value::from("planned")),
        "{dry}"
    );
    assert!(process["wrong_bytes"].as_u64().is_some_and(|bytes| bytes >= taken), "{dry}");
    assert_eq!((&process["moved_bytes"], process["batches"].as_u64()), (&Value::from(0), Some(0)), "{dry}");
    assert!(governed(pid)[&it.off_plan] >= taken, "nothing has moved");

    let calm_us = it.longest_wait_us(it.busy);
    let report = repair(&["--apply", "--set-policy", "--format", "json"]);
    let during_us = it.longest_wait_us(it.busy);
    it.go_on();
    let process = &report["processes"][0];
    assert_eq!(process["result"], "moved", "{report}");
    assert_eq!(process["threads"]["refused"], Value::Array(Vec::new()), "{report}");
    // The kernel's word, not the agent's.
    let after = governed(pid);
    let on = |node: u32| after.get(&node).copied().unwrap_or(0);
    let total: u64 = after.values().sum();
    let planned: Vec<u64> = it.planned.iter().map(on).collect();
    assert!(planned.iter().sum::<u64>() * 100 >= total * 95, "{after:?}");
    assert!(planned.iter().min() >= Some(&(total * 2 / 5)), "even: {after:?}");
    for tid in [pid, it.busy] {
        let order = Order::CheckPolicy { tid, mode: INTERLEAVE, nodes: it.planned.clone() };
        it.puppet.order(&order).expect("the plan's policy");
    }
    println!(
        "longest touch: {calm_us} us before, {during_us} us during the repair; longest batch {} us of {}",
        process["longest_batch_ns"].as_u64().expect("a figure") / 1000,
        process["batches"]
    );
    // Nothing is left to do.
    let again = repair(&["--apply", "--format", "json"]);
    assert_eq!(again["processes"][0]["result"], "on plan", "{again}");
    it.puppet.stop().expect("stop a puppet");
}

#[test]
fn repair_ends_between_two_batches() {
    let Some(stage) = stage("repair-stopped", &ON) else { return };
    let mut it = strayed(&stage);
    let mut args = vec!["repair".to_owned()];
    // A batch now and then.
    args.extend(stage.args(&["--apply", "--duty", "1", "--max-pause", "2ms", "--format", "json"]));
    let mut repair = agent::command(args);
    let mut repair = repair.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("numa-agent starts");
    let mut progress = BufReader::new(repair.stderr.take().expect("piped")).lines();
    let line = progress.find(|line| line.as_ref().is_ok_and(|line| line.contains(" of "))).expect("progress");
    let line = line.expect("a line");
    assert!(line.starts_with(&format!("process {}: [", it.puppet.pid())), "{line}");
    kill(Pid::from_raw(repair.id().cast_signed()), Signal::SIGINT).expect("it is there");
    // Who reads no more must not hold it up.
    drop(progress);
    let output = repair.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON, also then");
    let process = &report["processes"][0];
    assert_eq!(process["result"], "stopped: interrupted", "{report}");
    let bytes = |key: &str| process[key].as_u64().expect("a figure");
    assert!(bytes("moved_bytes") > 0 && bytes("moved_bytes") < bytes("wrong_bytes"), "{report}");
    let pid = it.puppet.pid();
    let planned: u64 =
        governed(pid).iter().filter(|(node, _)| it.planned.contains(**node)).map(|(_, bytes)| bytes).sum();
    assert!(planned >= bytes("moved_bytes"), "what was moved stays: {planned} of {report}");
    it.go_on();
    it.puppet.stop().expect("stop a puppet");
}

/// Memory of [`Strayed`] beside what its thread touches: together 32 MiB.
const MORE_PAGES: u32 = 16 << 8;

/// The longest that a page made a thread wait which touches its pages, and one that maps and unmaps pages; and what the move took.
#[derive(Debug, Clone, Copy)]
struct Waits {
    touch_us: u32,
    map_us: u32,
    move_us: u32,
}

impl Waits {
    fn text(self) -> String {
        format!(
            "{} us to touch a page, {} us to map one, {} us in all",
            self.touch_us, self.map_us, self.move_us
        )
    }
}

#[test]
fn repair_holds_up_less_than_one_big_move() {
    let Some(stage) = stage("repair-pause", &["snc"]) else { return };
    let mut it = strayed(&stage);
    let pid = it.puppet.pid();
    it.puppet.order(&Order::Take { pages: MORE_PAGES }).expect("pages");
    let mapping = it.puppet.occupied(Occupation::Map).expect("a busy thread");
    let off_plan: NodeSet = [it.off_plan].into_iter().collect();
    let args = std::iter::once("repair".to_owned()).chain(stage.args(&["--apply", "--format", "json"]));
    let args: Vec<String> = args.collect();

    it.go_on();
    let calm = it.waits(mapping, || thread::sleep(Duration::from_secs(10)));
    let mut report = Value::Null;
    let repaired = it.waits(mapping, || report = agent::json(&args));
    let process = &report["processes"][0];
    assert_eq!(process["result"], "moved", "{report}");
    let (planned, moved) = (it.planned.clone(), process["moved_bytes"].as_u64().expect("a figure"));
    assert!(moved >= (TOUCHED_PAGES as u64 + u64::from(MORE_PAGES)) * sys::page_bytes() as u64, "{report}");
    let migrated = it.waits(mapping, || {
        sys::migrate_pages(pid, &planned, &off_plan).expect("it may");
    });
    assert!(governed(pid)[&it.off_plan] >= moved, "all of it, and back");
    it.puppet.stop().expect("stop a puppet");
    let figures = guest::FIGURES;
    println!("{figures}nothing moved: {}", calm.text());
    let said =
        ["batches", "longest_batch_ns", "longest_pause_ns"].map(|key| format!("{key} {}", process[key]));
    println!("{figures}repair of {moved} bytes: {}; {}", repaired.text(), said.join(", "));
    println!("{figures}migrate_pages: {}", migrated.text());
    // The first kernel whose `migrate_pages(2)` lets others change the mappings meanwhile.
    if kernel() < [6, 7] {
        assert!(migrated.map_us > migrated.move_us / 2, "who maps waits for the one call: {migrated:?}");
        assert!(repaired.map_us * 2 < migrated.map_us, "and not for batches: {repaired:?} {migrated:?}");
    }
}

/// The kernel's version, as far as its second number.
fn kernel() -> [u32; 2] {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().expect("a number"));
    [(); 2].map(|()| numbers.next().expect("two numbers"))
}

/// Threads that keep a machine's CPUs from everybody else, but for the twentieth of the time that the kernel keeps for them.
struct Hogs {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    fn on(cpus: &CpuSet) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let hog = |cpu: u32| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                sys::set_affinity(0, &[cpu].into_iter().collect()).expect("it may");
                sys::go_first().expect("it may");
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Self { threads: cpus.iter().map(hog).collect(), over }
    }

    fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|hog| hog.join().expect("it ends"));
    }
}

#[test]
fn repair_pauses_while_critical_threads_wait() {
    let Some(stage) = stage("repair-waits", &["a3-mini"]) else { return };
    let places = stage.forward_places(0);
    if places.len() > 2 {
        return guest::elsewhere("repair-waits", "it keeps a node's CPUs busy, which takes few of them");
    }
    // khugepaged would put pages of a block that is half moved together again, on either node.
    let huge = "/sys/kernel/mm/transparent_hugepage/enabled";
    let was = read(huge).split(['[', ']']).nth(1).expect("one is chosen").to_owned();
    fs::write(huge, "never").expect("no huge pages");
    let agent = stage.agent(&[]);
    let mut it = strayed(&stage);
    let forward = it.puppet.thread("forward_0").expect("a thread");
    stage.settle_on_any(forward, &places);
    let socket = agent.socket();
    let start = |max_wait: &str| {
        let mut args = vec!["repair".to_owned()];
        // A batch now and then.
        args.extend(stage.args(&["--apply", "--duty", "4", "--max-pause", "2ms", "--format", "json"]));
        args.extend(["--max-wait", max_wait, "--socket", utf8(&socket).as_str()].map(str::to_owned));
        let mut repair = agent::command(args);
        let mut repair = repair.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(repair.stderr.take().expect("piped")).lines();
        let heard = Arc::new(Mutex::new(String::new()));
        let last = Arc::clone(&heard);
        thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| *last.lock().expect("no panic") = line)
        });
        (repair, heard)
    };
    let pid = it.puppet.pid();
    let on_plan = |it: &Strayed| {
        let governed = governed(pid);
        it.planned.iter().filter_map(|node| governed.get(&node)).sum::<u64>()
    };
    let wait_for = |heard: &Mutex<String>, what: &str, wanted: &dyn Fn(&str) -> bool| {
        eventually(|| match heard.lock().expect("no panic").as_str() {
            line if wanted(line) => Ok(()),
            line => Err(format!("not {what}: {line}")),
        });
    };

    // Longer than anybody waits on an emulated machine that is left alone, and shorter than who is kept from its CPU.
    let (repair, heard) = start("300ms");
    wait_for(&heard, "at work", &|line| line.contains(" of ") && !line.contains("paused"));
    let hogs = Hogs::on(&places);
    wait_for(&heard, "paused", &|line| line.contains("paused: critical threads wait"));
    // The first wait to end may have been a short one, and enough calm after it before the next ends: then a batch moves in between.
    let stays = |_| {
        let before = on_plan(&it);
        thread::sleep(Duration::from_secs(3));
        (on_plan(&it) == before).then_some(before)
    };
    let paused = (0..3).find_map(stays).expect("nothing moves for three seconds");
    hogs.end();
    eventually(|| match on_plan(&it) {
        now if now > paused => Ok(()),
        now => Err(format!("{now} on plan, {paused} when it paused")),
    });
    kill(Pid::from_raw(repair.id().cast_signed()), Signal::SIGINT).expect("it is there");
    let output = repair.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let process = &report["processes"][0];
    assert_eq!(
        (output.status.code(), &process["result"]),
        (Some(1), &Value::from("stopped: interrupted")),
        "{report}"
    );
    assert!(process["halts"].as_u64() >= Some(1), "{report}");
    assert!(process["halted_ns"].as_u64() >= Some(3_000_000_000), "{report}");

    // Nobody's word any more.
    let (repair, heard) = start("1h");
    wait_for(&heard, "at work", &|line| line.contains(" of ") && !line.contains("paused"));
    agent.stop();
    let output = repair.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        report["processes"][0]["result"], "stopped: the agent that --max-wait goes by has ended",
        "{report}"
    );
    it.go_on();
    it.puppet.stop().expect("stop a puppet");
    fs::write(huge, was).expect("as it was");
}

/// What became of that process, and the exit code.
fn repair(stage: &Stage, pid: u32, more: &[&str]) -> (Value, Option<i32>) {
    let mut args = vec!["repair".to_owned(), "--pid".to_owned(), pid.to_string()];
    args.extend(
        stage.args(&["--apply", "--format", "json"]).into_iter().chain(more.iter().map(|&arg| arg.into())),
    );
    let output = agent::run(args);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report["processes"][0].clone(), output.status.code())
}

#[test]
fn repair_ends_where_a_node_has_no_room() {
    let Some(stage) = stage("repair-room", &ON) else { return };
    let mut it = strayed(&stage);
    // The kernel and the files of the guest are in node 0, so that it may be the one that is short anyway.
    let full = it.planned.iter().min_by_key(|node| node_bytes(*node, "MemFree:")).expect("a node");
    // Not bound to it for all it does: the kernel would end it for a page that is not there any more.
    let mut filler = stage.puppet("idle", 0);
    // All but two thirds of its half of what is to be moved: the kernel itself wants to have some free, and may take or give back a few
    // megabytes meanwhile.
    let more = 2 * MORE_PAGES;
    it.puppet.order(&Order::Take { pages: more }).expect("pages");
    let left = (TOUCHED_PAGES as u64 + u64::from(more)) / 3;
    let free = node_bytes(full, "MemFree:") / sys::page_bytes() as u64;
    let pages = u32::try_from(free.checked_sub(left).expect("room")).expect("few");
    let nodes = [full].into_iter().collect();
    filler.order(&Order::Interleave { nodes, pages }).expect("pages");
    println!(
        "of {free} free pages of node {full}, {} are left",
        node_bytes(full, "MemFree:") / sys::page_bytes() as u64
    );
    let (process, code) = repair(&stage, it.puppet.pid(), &["--duty", "100"]);
    let result = format!("stopped: node {full} has no room without reclaim");
    assert_eq!((code, &process["result"]), (Some(1), &Value::from(result)), "{process}");
    let bytes = |key: &str| process[key].as_u64().expect("a figure");
    assert!(bytes("moved_bytes") > 0 && bytes("moved_bytes") < bytes("wrong_bytes"), "{process}");
    assert!(node_bytes(full, "MemFree:") > node_bytes(full, "MemTotal:") / 100, "the rest is left alone");
    filler.stop().expect("stop a puppet");
    // Then there is room, and it goes on where it was.
    let (process, code) = repair(&stage, it.puppet.pid(), &["--duty", "100"]);
    assert_eq!((code, &process["result"]), (Some(0), &Value::from("moved")), "{process}");
    it.go_on();
    it.puppet.stop().expect("stop a puppet");
}

#[test]
fn repair_leaves_shared_pages_unless_it_is_asked_to_move_them() {
    let Some(stage) = stage("repair-shared", &ON) else { return };
    let planned: NodeSet = stage.home(0).iter().copied().collect();
    let off_plan = stage.roomy().difference(&planned).last().expect("another node with room");
    let starter = agent::command(["exec", "--membind", &off_plan.to_string(), "--"]);
    let mut puppet = Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker");
    let pid = puppet.pid();
    let pages = TOUCHED_PAGES as u32;
    puppet.order(&Order::Take { pages }).expect("pages");
    // A child that has all of it too, until one of them writes.
    puppet.order(&Order::Fork).expect("a child");
    let (process, code) = repair(&stage, pid, &[]);
    assert_eq!(
        (code, &process["result"]),
        (Some(1), &Value::from("failed: not all could be moved")),
        "{process}"
    );
    let shared = process["unmoved_pages"]["shared with other processes; --shared moves them"].as_u64();
    assert!(shared >= Some(pages.into()), "{process}");
    let mut on = |node| puppet.order(&Order::PagesOn { node }).expect("its pages");
    assert_eq!(on(off_plan), pages, "all are where they were");
    let (process, code) = repair(&stage, pid, &["--shared"]);
    assert_eq!((code, &process["result"]), (Some(0), &Value::from("moved")), "{process}");
    assert_eq!((on(off_plan), planned.iter().map(on).sum::<u32>()), (0, pages), "{process}");
    puppet.stop().expect("stop a puppet");
}

/// Pages of the pool that a puppet takes: those of the default size.
const HUGE_PAGES: u32 = 4;

#[test]
fn repair_moves_pages_of_the_pool_whole() {
    let Some(stage) = stage("repair-huge", &ON) else { return };
    let planned: NodeSet = stage.home(0).iter().copied().collect();
    let off_plan = stage.roomy().difference(&planned).last().expect("another node with room");
    let pool = |node: u32| format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
    for node in planned.iter().chain([off_plan]) {
        let path = format!("{}/nr_hugepages", pool(node));
        std::fs::write(&path, HUGE_PAGES.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(read(&path), HUGE_PAGES.to_string(), "{path}");
    }
    let starter = agent::command(["exec", "--membind", &off_plan.to_string(), "--"]);
    let mut puppet = Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker");
    let pid = puppet.pid();
    puppet.order(&Order::TakeHuge { pages: HUGE_PAGES }).expect("huge pages");
    // As the kernel lists them.
    let taken = |node: u32| {
        let maps = read(&format!("/proc/{pid}/numa_maps"));
        let huge =
            maps.lines().find(|line| line.contains(" huge ")).unwrap_or_else(|| panic!("{maps}")).to_owned();
        let word = format!("N{node}=");
        huge.split(' ').find_map(|on| on.strip_prefix(&word)?.parse::<u32>().ok()).unwrap_or(0)
    };
    assert_eq!(taken(off_plan), HUGE_PAGES);
    let (process, code) = repair(&stage, pid, &[]);
    assert_eq!((code, &process["result"]), (Some(0), &Value::from("moved")), "{process}");
    let huge_bytes = u64::from(HUGE_PAGES) << 21;
    assert!(process["nodes_before"][off_plan.to_string()].as_u64() >= Some(huge_bytes), "{process}");
    let each: Vec<u32> = planned.iter().map(taken).collect();
    assert_eq!((taken(off_plan), each), (0, vec![HUGE_PAGES / 2; 2]), "{process}");
    puppet.order(&Order::HugeAsWritten).expect("what was written");
    puppet.stop().expect("stop a puppet");
    for node in planned.iter().chain([off_plan]) {
        std::fs::write(format!("{}/nr_hugepages", pool(node)), "0").expect("the pool");
    }
}
