//! `numa-agent exec`, as its users and the programs that it starts meet it, and what `bind --memory` says of them. Needs no root.
//! What takes more than one node is in `guest/memory.rs`.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Output, Stdio},
};

use nix::unistd::geteuid;
use numa_agent::core::idset::{CpuSet, NodeSet};
use numa_agent_tests::{
    agent, eventually,
    stack::{
        Family,
        puppet::{Order, Puppet},
    },
    sys::{self, Birth},
    witness::{self, Point},
};
use serde_json::{Value, json};

/// `MPOL_INTERLEAVE` and `MPOL_PREFERRED`.
const INTERLEAVE: i32 = 3;
const PREFERRED: i32 = 1;

fn exec(args: &[&str]) -> Command {
    agent::command(["exec"].iter().chain(args))
}

fn output(args: &[&str]) -> Output {
    exec(args).output().expect("numa-agent starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Expects that exit code, nothing on standard output and these words on standard error.
fn assert_refused(args: &[&str], code: i32, words: &[&str]) {
    let output = output(args);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in: {stderr}");
    }
}

/// What a program prints that is started so.
fn says(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{args:?}: nothing but the program's own words");
    text(&output.stdout)
}

/// The CPUs that we may use; the last of them.
fn last_cpu() -> u32 {
    sys::affinity(0).expect("our mask").last().expect("a CPU")
}

/// The nodes that have memory, or `None` with a word why there are no policies here.
fn nodes(test: &str) -> Option<NodeSet> {
    let list = fs::read_to_string("/sys/devices/system/node/has_memory").ok();
    let list = list.and_then(|list| list.trim().parse().ok()).filter(|_| sys::memory_policy().is_ok());
    if list.is_none() {
        println!("SKIP: {test}: no memory policies here");
    }
    list
}

#[test]
fn mask_and_policy_are_there_from_the_first_look_and_in_every_thread_and_child() {
    let Some(nodes) = nodes("inherits") else { return };
    let dir = tempfile::tempdir().unwrap();
    let exe = env!("CARGO_BIN_EXE_serving-stack").into();
    let family = Family { exe, out: dir.path().into(), tag: "exec".into() };
    let cpu = last_cpu();
    let all = nodes.to_string();
    let mut puppet =
        Puppet::start_by(exec(&["--cpus", &cpu.to_string(), "--interleave", &all, "--"]), &family, "any", 0)
            .unwrap();
    let pid = puppet.pid();
    let thread = puppet.thread("later").unwrap();
    let child = puppet.order(&Order::Fork).unwrap();
    for tid in [pid, thread] {
        puppet.order(&Order::CheckPolicy { tid, mode: INTERLEAVE, nodes: nodes.clone() }).unwrap();
    }
    let policy = format!("interleave:{nodes}");
    for pid in [pid, child] {
        let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
        let by_policy = |line: &str| line.split(' ').nth(1) == Some(policy.as_str());
        // The kernel's own pages have no place on a node.
        let others: Vec<&str> = maps.lines().filter(|line| !by_policy(line)).collect();
        assert!(maps.lines().count() > 5 && others.is_empty(), "not by {policy}: {others:?}");
    }
    let one: CpuSet = [cpu].into_iter().collect();
    for (tid, point) in [(pid, Point::Main), (thread, Point::Start), (child, Point::Start)] {
        // Nobody waits for a child's.
        let first = eventually(|| {
            let looks = witness::read(&family.out).unwrap();
            looks.into_iter().find(|look| look.tid == tid).ok_or_else(|| format!("{tid} has not looked"))
        });
        assert_eq!((first.point, &first.cpus, first.cpu), (point, &one, cpu), "{first:?}");
    }
    puppet.stop().unwrap();
}

#[test]
fn one_node_is_preferred_and_what_is_not_asked_for_stays() {
    let Some(nodes) = nodes("preferred") else { return };
    let node = nodes.first().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let exe = env!("CARGO_BIN_EXE_serving-stack").into();
    let family = Family { exe, out: dir.path().into(), tag: "exec-preferred".into() };
    let mut puppet = Puppet::start_by(exec(&["--preferred-many", &node]), &family, "any", 0).unwrap();
    let pid = puppet.pid();
    let expected = Order::CheckPolicy { tid: pid, mode: PREFERRED, nodes: node.parse().unwrap() };
    puppet.order(&expected).unwrap();
    assert_eq!(sys::affinity(pid).unwrap(), sys::affinity(0).unwrap());
    puppet.stop().unwrap();
    let plain = Puppet::start(&family, "any", 1, Birth::Session).unwrap();
    assert_eq!(sys::affinity(plain.pid()).unwrap(), sys::affinity(0).unwrap());
}

#[test]
fn the_process_stays_the_same() {
    let cpu = last_cpu().to_string();
    let child = exec(&["-C", &cpu, "sh", "-c", "echo $$ $0 $1 $KEPT; cat", "zero", "--show"])
        .env("KEPT", "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    child.stdin.as_ref().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), format!("{pid} zero --show yes\ninput\n"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(exec(&["-C", &cpu, "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
}

/// A field of the program's `/proc/self/status`, with the program started by `starter`, which starts the agent.
fn status_field(starter: &[&str], field: &str) -> u64 {
    let agent = agent::binary();
    let cpu = last_cpu().to_string();
    let words = starter.iter().map(OsStr::new).chain([agent.as_os_str()]);
    let rest = ["exec", "--cpus", &cpu, "--", "grep", field, "/proc/self/status"].map(OsStr::new);
    let words: Vec<&OsStr> = words.chain(rest).collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let line = text(&output.stdout);
    let number = line.split_whitespace().nth(1).unwrap_or_else(|| panic!("{}", text(&output.stderr)));
    u64::from_str_radix(number, 16).unwrap()
}

#[test]
fn signals_are_as_they_were() {
    const PIPE: u64 = 1 << 12;
    const USR1: u64 = 1 << 9;
    assert_eq!(status_field(&["env", "--default-signal=PIPE"], "SigIgn") & PIPE, 0);
    assert_eq!(status_field(&["env", "--ignore-signal=PIPE"], "SigIgn") & PIPE, PIPE);
    assert_eq!(status_field(&["env", "--block-signal=USR1"], "SigBlk") & USR1, USR1);
}

#[test]
fn a_program_that_cannot_run_ends_as_in_a_shell() {
    let cpu = last_cpu().to_string();
    assert_refused(&["--cpus", &cpu, "--", "no-such-program"], 127, &["no-such-program", "No such file"]);
    assert_refused(&["--cpus", &cpu, "--", "/etc/passwd"], 126, &["/etc/passwd", "Permission denied"]);
    assert_refused(&["--cpus", &cpu, "--", "/etc"], 126, &["/etc"]);
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "echo no interpreter named\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = exec(&["--cpus", &cpu, "script"]).env("PATH", path).output().unwrap();
    assert_eq!(text(&output.stdout), "no interpreter named\n", "{}", text(&output.stderr));
}

#[test]
fn nonsense_is_refused_before_anything_runs() {
    assert_refused(&[], 2, &["needs a command"]);
    assert_refused(&["true"], 2, &["say where", "--group"]);
    assert_refused(&["--cpus", "0", "--nodes", "0", "true"], 2, &["--cpus", "--nodes"]);
    assert_refused(&["--interleave", "0", "--membind", "0", "true"], 2, &["--interleave", "--membind"]);
    assert_refused(&["--local", "--preferred", "0", "true"], 2, &["--local", "--preferred"]);
    assert_refused(&["--group", "auto", "--cpus", "0", "true"], 2, &["--group", "--cpus"]);
    assert_refused(&["--group", "auto", "--membind", "0", "true"], 2, &["--group", "--membind"]);
    assert_refused(&["--cpus", "0", "--group-pattern", "x", "true"], 2, &["--group alone"]);
    assert_refused(&["--cpus", "3-1", "true"], 2, &["backwards"]);
    assert_refused(&["--interleave", "!0", "true"], 2, &["numactl"]);
    assert_refused(&["--group", "socket9_group9", "true"], 2, &["socket9_group9", "socket0_group0"]);
    assert_refused(&["--group", "auto", "--preset", "a3", "true"], 2, &["not at hand"]);
    assert_refused(&["--cpus", "8000", "true"], 1, &["no CPU 8000"]);
    assert_refused(&["--cpus", "node:900", "true"], 1, &["no node 900"]);
    assert_refused(&["--membind", "0,900", "true"], 1, &["no node 900"]);
    assert_refused(&["--unknown", "true"], 2, &["--unknown"]);
}

#[test]
fn show_tells_what_would_be_and_runs_nothing() {
    let cpu = last_cpu().to_string();
    let shown = says(&["--cpus", &cpu, "--show", "touch", "/nonexistent/file"]);
    assert!(shown.contains(&format!("cpus: {cpu}\n")) && shown.contains("memory policy: "), "{shown}");
    let now = says(&["--dry-run"]);
    assert!(now.contains(&format!("cpus: {}\n", sys::affinity(0).unwrap())), "{now}");
    if let Some(nodes) = nodes("show") {
        let shown = says(&["-s", "-i", "all"]);
        assert!(shown.contains(&format!("memory policy: interleave:{nodes}\n")), "{shown}");
        let inherited =
            says(&["-w", "all", "--strict", "--", agent::binary().to_str().unwrap(), "exec", "-s"]);
        assert!(inherited.contains(&format!("memory policy: weighted interleave:{nodes}\n")), "{inherited}");
    }
}

#[test]
fn a_group_of_the_plan_has_its_members_cpus() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.md");
    let plan = ["--policy", "generic", "--groups-per-socket", "1"];
    let bind = ["bind", "--format", "json", "--report", report.to_str().unwrap()];
    let bind = agent::json(bind.iter().chain(&plan));
    let group = &bind["groups"][0];
    let name = group["name"].as_str().unwrap();
    for asked in [name, "auto"] {
        let mut args = vec!["--group", asked, "--show"];
        args.extend(plan);
        let shown = says(&args);
        assert!(shown.starts_with(&format!("group: {name}\n")), "{shown}");
        assert!(shown.contains(&format!("\ncpus: {}\n", group["primary_cpus"].as_str().unwrap())), "{shown}");
        if nodes("group").is_some() {
            let policy = format!("\nmemory policy: interleave:{}\n", group["mem_nodes"].as_str().unwrap());
            assert!(shown.contains(&policy), "{shown}");
        }
    }
    let loud = output(&["-v", "--group", name, "--", "true"]);
    assert!(text(&loud.stderr).contains(name) && loud.status.success(), "{}", text(&loud.stderr));
}

#[test]
fn it_needs_no_rights() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("numa-agent");
    fs::copy(agent::binary(), &copy).unwrap();
    let mut command = Command::new(copy);
    command.args(["exec", "--cpus", &last_cpu().to_string()]);
    if nodes("rights").is_some() {
        command.args(["--interleave", "all"]);
    }
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.args(["id", "-u"]).output().unwrap();
    let user = if geteuid().is_root() { NOBODY } else { geteuid().as_raw() };
    assert_eq!(text(&output.stdout), format!("{user}\n"), "{}", text(&output.stderr));
}

#[test]
fn bind_tells_of_memory_when_asked_to() {
    let Some(nodes) = nodes("verify") else { return };
    let dir = tempfile::tempdir().unwrap();
    let exe = env!("CARGO_BIN_EXE_serving-stack").into();
    let family = Family { exe, out: dir.path().into(), tag: "verify".into() };
    let mut puppet = Puppet::start_by(exec(&["--interleave", "all"]), &family, "any", 0).unwrap();
    puppet.order(&Order::Take { pages: 1000 }).unwrap();
    let pid = puppet.pid().to_string();
    let report = dir.path().join("report.md");
    let args = ["bind", "--group-pid", &pid, "--report", report.to_str().unwrap()];
    let asked = agent::json(args.iter().chain(&["--memory", "--format", "json"]));
    let memory = &asked["processes"][0]["memory"];
    assert_eq!(memory["policy"], format!("interleave:{nodes}"));
    let bytes: u64 = memory["nodes"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum();
    let page = sys::page_bytes() as u64;
    assert!(bytes >= 1000 * page && bytes < 1000 * page + (64 << 20), "{memory}");
    assert!(memory["file_nodes"].as_object().is_some_and(|files| !files.is_empty()), "{memory}");
    if nodes.len() == 1 {
        assert_eq!((&memory["verdict"], &memory["on_plan_share"]), (&json!("ok"), &json!(1.0)), "{memory}");
    }
    assert!(fs::read_to_string(&report).unwrap().contains("## Memory\n"));
    let text = agent::run(args.iter().chain(&["--memory"])).stdout;
    assert!(String::from_utf8_lossy(&text).contains("MIB BY NODE"), "{}", String::from_utf8_lossy(&text));

    let plain = agent::json(args.iter().chain(&["--format", "json"]));
    assert!(plain["processes"][0]["memory"].is_null() && plain["groups"][0]["memory"].is_null(), "{plain}");
    assert!(!fs::read_to_string(&report).unwrap().contains("## Memory\n"));
    puppet.stop().unwrap();
}

#[test]
fn doctor_tells_what_the_kernel_does_with_memory() {
    let output = agent::command(["doctor", "--format", "json"]).output().unwrap();
    let doctor: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |name: &str| {
        let mut checks = doctor["checks"].as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).map(|check| check["found"].as_str().unwrap())
    };
    let setting = |file: &str| fs::read_to_string(file).map_or("-".to_owned(), |text| text.trim().to_owned());
    let balancing = setting("/proc/sys/kernel/numa_balancing");
    let one_node = nodes("doctor").is_none_or(|nodes| nodes.len() == 1);
    // Either all of it is in one line, or what works against a plan has a line of its own.
    match (found("memory"), found("balancing")) {
        (Some(all), None) => assert!(all.starts_with(&format!("numa_balancing {balancing}, ")), "{all}"),
        (None, Some(on)) => assert!(on.contains(&format!("is {balancing}:")) && !one_node, "{on}"),
        (None, None) => assert!(balancing == "0" || balancing == "-" || one_node, "{doctor}"),
        both => panic!("{both:?}"),
    }
}

#[test]
fn repair_says_what_it_cannot_go_by() {
    let refused = |args: &[&str], words: &[&str]| {
        let args = [&["repair", "--group-pattern", "no such program"], args].concat();
        let output = agent::command(args).output().expect("numa-agent starts");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        words.iter().for_each(|word| assert!(stderr.contains(word), "no {word:?} in: {stderr}"));
    };
    // The highest that a pid can be.
    let nobody = "4194303".to_owned();
    refused(&["--pid", &nobody], &["there is no process", &nobody]);
    refused(&["--group-pid", &nobody], &["there is no process", &nobody]);
    refused(&["--pid", &std::process::id().to_string()], &["the plan has no group for it", "--group-pid"]);
    refused(&["--group", "nosuch"], &["--group nosuch", "its groups: socket0_group0"]);
    refused(&["--max-wait", "0s"], &["--max-wait 0"]);
}

#[test]
fn what_scripts_for_numactl_have_is_understood() {
    let cpu = last_cpu().to_string();
    assert_eq!(says(&["--all", "-C", &cpu, "echo", "on it"]), "on it\n");
    assert_eq!(says(&["-a", "--physcpubind", &cpu, "echo", "on it"]), "on it\n");
}
