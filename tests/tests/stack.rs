//! The stack itself: the witness must be able to see what it is there to see.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use numa_agent_tests::{
    stack::{
        Family, Load, PATIENCE,
        crew::Stack,
        puppet::{Order, Puppet},
    },
    sys::{self, Birth},
    witness::{self, Point, Record, now_ns},
};

fn family(dir: &Path) -> Family {
    Family { exe: env!("CARGO_BIN_EXE_serving-stack").into(), out: dir.to_owned(), tag: "self".into() }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "did not happen within {PATIENCE:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn of(records: &[Record], tid: u32) -> Vec<&Record> {
    records.iter().filter(|record| record.tid == tid).collect()
}

#[test]
fn a_stack_makes_tokens_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let load = Load { workers: 2, forward: 3, tick_ms: 5, work: 1000 };
    let mut stack = Stack::start(family(dir.path()), load, 1).unwrap();
    let since = now_ns();
    for _ in 0..2 {
        stack.start_instance().unwrap();
    }
    let gaps = eventually(|| {
        Some(stack.gaps(since).unwrap())
            .filter(|gaps| gaps.len() == 2 && gaps.iter().all(|gaps| gaps.count > 20))
    });
    assert!(gaps.iter().all(|gaps| gaps.p50_us >= 4000), "tokens come on a clock of 5 ms: {gaps:?}");
    let pids: Vec<u32> = (0..2).flat_map(|instance| stack.pids(instance)).collect();
    assert_eq!(pids.len(), 8, "scheduler, two workers, rpc_proxy, twice");
    let session =
        |pid: u32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.cast_signed()))).unwrap();
    assert!(stack.pids(0).iter().all(|pid| session(*pid).as_raw().cast_unsigned() == stack.pids(0)[0]));
    assert_ne!(session(stack.pids(0)[0]), session(stack.pids(1)[0]));
    stack.stop().unwrap();

    let records = witness::read(dir.path()).unwrap();
    for pid in &pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
        let main = of(&records, *pid);
        assert_eq!(main.first().unwrap().point, Point::Main);
        assert_eq!(main.last().unwrap().point, Point::End);
    }
    let worker = records.iter().find(|record| record.role == "worker").unwrap().pid;
    let threads = witness::by_thread(&records, 0);
    let mut names = Vec::new();
    for ((_, tid), looks) in threads.iter().filter(|((pid, tid), _)| *pid == worker && tid != pid) {
        assert_eq!(looks[0].point, Point::Start, "{tid}");
        assert_eq!(looks[0].comm, "serving-stack", "a thread is born with its creator's name");
        assert_eq!(looks[1].point, Point::Renamed);
        names.push(looks[1].comm.as_str());
    }
    names.sort_unstable();
    assert_eq!(names, ["decode_0", "forward_0", "prefill_0"]);
}

#[test]
fn a_killed_launcher_takes_its_stack_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_serving-stack"));
    command.args(["--instances", "1", "--hogs", "1", "--tag", "self", "--out"]).arg(dir.path());
    let mut launcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
    let ready: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(ready["instances"][0].as_array().unwrap().len(), 3, "{ready}");
    launcher.stdin.as_ref().unwrap().write_all(b"mark\n").unwrap();
    let mark: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(mark["threads"].as_array().unwrap().len() >= 8, "{mark}");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    for thread in mark["threads"].as_array().unwrap() {
        let path = format!("/proc/{}", thread["pid"]);
        eventually(|| (!Path::new(&path).exists()).then_some(()));
    }
}

#[test]
fn a_puppet_does_as_told_and_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let family = family(dir.path());
    let all = sys::affinity(0).unwrap();
    let one = all.iter().take(1).collect();
    let mut puppet = Puppet::start(&family, "idle", 7, Birth::Daemon).unwrap();
    let pid = puppet.pid();
    let thread = puppet.thread("forward_0").unwrap();
    puppet.pin(thread, &one).unwrap();
    let heir = puppet.order(&Order::Thread { from: thread, name: None }).unwrap();
    puppet.rename(thread, "back_again").unwrap();
    puppet.order(&Order::PinOther { from: thread, tid: pid, cpus: one.clone() }).unwrap();
    let child = puppet.order(&Order::Fork).unwrap();
    puppet.order(&Order::Storm { count: 3, role: "worker".into() }).unwrap();
    assert!(puppet.order(&Order::Rename { tid: 1, name: "x".into() }).is_err(), "there is no such thread");
    let records = eventually(|| {
        let records = witness::read(dir.path()).unwrap();
        [pid, child]
            .iter()
            .all(|tid| of(&records, *tid).last().is_some_and(|look| look.cpus == one))
            .then_some(records)
    });
    let looks = of(&records, thread);
    assert_eq!((looks[0].point, &looks[0].cpus), (Point::Start, &all));
    assert!(
        looks.iter().any(|look| look.point == Point::Pinned && look.cpus == one && look.comm == "forward_0")
    );
    assert_eq!(looks.last().unwrap().comm, "back_again");
    assert_eq!(of(&records, heir)[0].cpus, one, "a thread inherits its creator's mask");
    let blinks = records.iter().filter(|look| look.role == "worker" && look.point == Point::Main).count();
    assert_eq!(blinks, 3);

    puppet.exec("worker").unwrap();
    assert_eq!(puppet.pid(), pid);
    puppet.stop().unwrap();
    let records = witness::read(dir.path()).unwrap();
    let last = *of(&records, pid).last().unwrap();
    assert_eq!((last.role.as_str(), last.point, last.instance), ("worker", Point::End, 7));
}
