//! Section B: an instance with a scheduler and a worker on two sockets of two nodes.

use std::collections::BTreeMap;

use super::*;
use crate::core::{
    check::placement::{Observed, Placement, Ran, items},
    config::Overrides,
    engine::{Cause, Engine, Snapshot},
    memory::{numa_maps::Memory, verify::Verified},
    plan::Group,
    remedy::plan::Commands,
    settings::Settings,
    synthetic::Machine,
    task::{ProcessFacts, TaskId, ThreadFacts},
};

const BIND: &str = "numa-agent bind --apply --config x.json";

fn commands() -> Commands {
    Commands::new(&["--config".to_owned(), "x.json".to_owned()])
}

/// Everything that section B looks at; threads are where they belong unless a mask says otherwise.
struct Facts {
    machine: Machine,
    groups_per_socket: u32,
    /// Names of the worker's threads after its first.
    names: Vec<&'static str>,
    /// Masks that are not as planned, by tid.
    masks: BTreeMap<u32, &'static str>,
    unmet: Vec<u32>,
    settled: bool,
    unseen: u64,
    /// Classes of real-time threads, by tid.
    spared: BTreeMap<u32, &'static str>,
    /// Policy and MiB by node, as `numa_maps` has them.
    memory: (&'static str, Vec<(u32, u64)>),
    observed: Result<Observed, String>,
}

fn good() -> Facts {
    let ran = Ran { pid: 20, tid: 21, comm: "forward_0".into(), run_ns: 900, off_node_ns: 0 };
    let mut observed = Observed { by: "the agent (pid 9)".into(), seconds: 2.0, ..Observed::default() };
    observed.add(Some(ran));
    Facts {
        machine: Machine { sockets: 2, nodes_per_socket: 2, cores_per_node: 8, ..Machine::default() },
        groups_per_socket: 2,
        names: vec!["forward_0", "helper"],
        masks: BTreeMap::new(),
        unmet: Vec::new(),
        settled: true,
        unseen: 0,
        spared: BTreeMap::new(),
        memory: ("interleave:0-1", vec![(0, 500), (1, 500)]),
        observed: Ok(observed),
    }
}

fn snapshot(pid: u32, comm: &str, names: &[&str], masks: impl Fn(u32, &str) -> String) -> Snapshot {
    let facts = ProcessFacts {
        pid,
        start_time: u64::from(pid),
        session: 5,
        comm: comm.into(),
        cmdline: format!("/opt/{comm}").into(),
        ..ProcessFacts::default()
    };
    let all = std::iter::once(&comm).chain(names);
    let threads = (pid..).zip(all).map(|(tid, name)| ThreadFacts {
        id: TaskId { tid, start_time: u64::from(pid) },
        comm: (*name).to_owned(),
        allowed: Some(masks(tid, name).parse().unwrap()),
    });
    Snapshot { facts, threads: threads.collect(), as_of_ns: 1, after_loss: false }
}

fn judged(facts: &Facts) -> Vec<Item> {
    let overrides = Overrides {
        group_patterns: vec!["scheduler|worker".into()],
        groups_per_socket: Some(facts.groups_per_socket),
        others_socket_index: Some(1),
        use_isolated: Some(true),
        ..Overrides::default()
    };
    let settings = Settings::from_sources(None, overrides).unwrap();
    let engine = Engine::new(facts.machine.topology(), settings, []);
    let mut memory = BTreeMap::new();
    let engine = engine.map_err(|why| why.to_string()).map(|mut engine| {
        let mask = |tid: u32, name: &str| {
            let planned = if name.starts_with("forward") { "8-15" } else { "0-3" };
            facts.masks.get(&tid).unwrap_or(&planned).to_string()
        };
        if !facts.names.contains(&"nobody") {
            engine.observe(&snapshot(10, "scheduler", &[], mask), &Cause::Scan, None);
            engine.observe(&snapshot(20, "worker", &facts.names, mask), &Cause::Scan, None);
        }
        for process in engine.processes() {
            let mut read = Memory::default();
            for (node, mib) in &facts.memory.1 {
                let pages = mib << 8;
                read.add_line(&format!(
                    "7f00 {} anon={pages} N{node}={pages} kernelpagesize_kB=4",
                    facts.memory.0
                ));
            }
            let planned = engine.group_of(process).and_then(Group::memory_policy);
            let verified = Verified::new(planned, Ok(read), &"0-3".parse().unwrap());
            memory.insert(process.facts.id(), verified);
        }
        engine
    });
    let spared =
        facts.spared.iter().map(|(tid, class)| (TaskId { tid: *tid, start_time: 20 }, *class)).collect();
    items(&Placement {
        engine: engine.as_ref().map_err(String::as_str),
        unmet: &facts.unmet,
        spared: &spared,
        settled: facts.settled,
        unseen: facts.unseen,
        memory: &memory,
        observed: facts.observed.as_ref().map_err(String::as_str),
        commands: &commands(),
    })
}

fn expect(id: &str, verdict: Verdict, fix: &str, change: impl FnOnce(&mut Facts)) -> Item {
    let mut facts = good();
    change(&mut facts);
    let now = judged(&facts);
    let mut changed = changed(&judged(&good()), &now);
    let (found, so, fixes) = changed.pop().expect("some item differs");
    assert_eq!(changed, [], "only that one");
    assert_eq!((found, so), (id, verdict), "{fixes}");
    assert!(fixes.contains(fix), "{id}: no {fix:?} in {fixes}");
    item(&now, id).clone()
}

#[test]
fn a_service_that_is_in_place_passes() {
    let items = judged(&good());
    let open: Vec<_> = items.iter().filter(|item| item.verdict != Verdict::Pass).collect();
    assert!(open.is_empty(), "{open:#?}");
    assert_eq!(ids(&items), ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]);
    assert_eq!(
        item(&items, "B2").found,
        ["socket0_group0: pids 10, 20 (4 threads); 0 processes in the background"]
    );
}

#[test]
fn the_plan_and_who_it_is_for() {
    use Verdict::Fail;
    expect("B1", Fail, "numa-agent bind --config x.json #", |facts| {
        facts.machine.isolated = "9".parse().unwrap()
    });
    let item = expect("B2", Fail, "--group-pattern", |facts| facts.unmet = vec![77]);
    assert_eq!(item.found, ["1 process asked for by pid do not run: 77"]);
    expect("B2", Fail, "numa-agent run --config x.json #", |facts| facts.settled = false);
    let item =
        expect("B3", Fail, "--forward-thread-pattern", |facts| facts.names = vec!["helper", "python3"]);
    assert!(item.found[0].contains("socket0_group0: no thread's name matches forward, prefill, decode; the names there are: helper, python3, scheduler, worker"), "{item:?}");
    assert!(item.fixes[0].contains("/proc/10/task/*/comm") && item.fixes[0].contains("Python"), "{item:?}");
}

#[test]
fn a_thread_elsewhere_is_named() {
    for mask in ["0-31", "8-14", "3"] {
        let item = expect("B4", Verdict::Fail, BIND, |facts| facts.masks = [(21, mask)].into());
        assert_eq!(
            item.found,
            [format!(
                "pid 20 tid 21 (forward_0), forward of socket0_group0: planned 8-15, may run on {mask}"
            )]
        );
    }
}

#[test]
fn who_may_be_a_forward_thread_that_the_agent_does_not_name_is_not_judged() {
    let item = expect("B3", Verdict::Skipped, "numa-agent watch", |facts| {
        facts.names = vec!["helper"];
        facts.unseen = 3;
    });
    assert!(item.found[0].starts_with("socket0_group0: not judged"), "{item:?}");
    assert!(item.found[0].contains("3 more forward threads by the device"), "{item:?}");
    let item = expect("B4", Verdict::Skipped, "numa-agent watch", |facts| {
        facts.masks = [(22, "8-15"), (10, "8-15")].into();
        facts.unseen = 3;
    });
    assert!(item.found[0].starts_with("socket0_group0: 2 members on CPUs of forward threads"), "{item:?}");
    let strayed = |facts: &mut Facts| facts.masks = [(22, "8-15")].into();
    expect("B4", Verdict::Fail, BIND, strayed);
    // Wherever forward threads belong, it is not there.
    let item = expect("B4", Verdict::Fail, BIND, |facts| {
        facts.masks = [(22, "0-31"), (10, "8-15")].into();
        facts.unseen = 3;
    });
    assert_eq!(item.found.len(), 2, "{item:?}");
}

#[test]
fn a_real_time_thread_elsewhere_is_spared() {
    let item = expect("B4", Verdict::Warn, "taskset -pc 8-15 21 #", |facts| {
        facts.masks = [(21, "0-31")].into();
        facts.spared = [(21, "SCHED_FIFO")].into();
    });
    assert!(item.found[0].contains("spared, because it is SCHED_FIFO"), "{item:?}");
    assert!(item.found[0].ends_with("planned 8-15, may run on 0-31"), "{item:?}");
    let item = expect("B4", Verdict::Fail, BIND, |facts| {
        facts.masks = [(21, "0-31"), (22, "0-31")].into();
        facts.spared = [(21, "SCHED_FIFO")].into();
    });
    assert_eq!(item.found.len(), 2, "the other one was not: {item:?}");
}

#[test]
fn what_an_agent_with_another_plan_counts_proves_nothing() {
    let item = expect("B7", Verdict::Fail, "kill -HUP 9 #", |facts| {
        let other = Some((9, vec!["socket0_group0: 0-7 there, 0-3 here".to_owned()]));
        facts.observed.as_mut().unwrap().by_other_plan = other;
    });
    assert!(item.found[0].ends_with("socket0_group0: 0-7 there, 0-3 here"), "{item:?}");
    assert!(item.fixes[0].ends_with("numa-agent run --config x.json"), "{item:?}");
}

#[test]
fn memory_elsewhere_is_named_by_its_cause() {
    let repair = "numa-agent repair --apply --config x.json --set-policy";
    expect("B6", Verdict::Fail, repair, |facts| facts.memory.1 = vec![(0, 500), (3, 500)]);
    expect("B6", Verdict::Fail, repair, |facts| facts.memory.1 = vec![(0, 900), (1, 100)]);
    let policy = |policy| {
        let mut facts = good();
        facts.memory.0 = policy;
        changed(&judged(&good()), &judged(&facts))
    };
    for policy in ["default", "bind:0-1"].map(policy) {
        let so: Vec<_> = policy.iter().map(|(id, verdict, _)| (*id, *verdict)).collect();
        assert_eq!(so, [("B5", Verdict::Fail), ("B6", Verdict::Skipped)]);
        assert!(policy[0].2.contains(repair), "{policy:?}");
    }
}

#[test]
fn a_thread_that_ran_elsewhere_is_named() {
    let item = expect("B7", Verdict::Fail, BIND, |facts| {
        facts.observed.as_mut().unwrap().threads[0].off_node_ns = 300;
    });
    assert_eq!(item.found, ["pid 20 tid 21 (forward_0): 300 ns of 900 ns off its nodes"]);
    expect("B7", Verdict::Skipped, "--observe", |facts| facts.observed = Err("no agent".into()));
    expect("B7", Verdict::Skipped, "has something to do", |facts| facts.observed = Ok(Observed::default()));
    expect("B7", Verdict::Skipped, "doctor", |facts| facts.observed.as_mut().unwrap().add(None));
}

#[test]
fn without_a_plan_or_a_process_the_rest_is_not_known() {
    let rest = |facts: &Facts| {
        let items = judged(facts);
        items
            .iter()
            .map(|item| (item.id, item.verdict))
            .filter(|one| one.1 != Verdict::Pass)
            .collect::<Vec<_>>()
    };
    let mut facts = good();
    facts.groups_per_socket = 100;
    let skipped = ["B2", "B3", "B4", "B5", "B6", "B7"].map(|id| (id, Verdict::Skipped));
    assert_eq!(rest(&facts), [vec![("B1", Verdict::Fail)], skipped.to_vec()].concat());
    let mut facts = good();
    facts.names = vec!["nobody"];
    let skipped = ["B3", "B4", "B5", "B6"].map(|id| (id, Verdict::Skipped));
    assert_eq!(rest(&facts), [vec![("B2", Verdict::Fail)], skipped.to_vec()].concat());
}
