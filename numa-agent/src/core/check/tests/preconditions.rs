//! Section A.

use super::*;
use crate::core::{
    check::{
        facts::{
            AgentState, Around, CpusetInForce, Daemon, DaemonKind, ProcessSurroundings, Shape, Surroundings,
            Tuned, binds_by_argument, binds_by_variable, launches_bound, placing_setting,
        },
        preconditions::{Host, Preconditions, items},
    },
    health::{Health, ProgramResult},
    memory::conditions::{Conditions, NodeRoom},
    plan::Plan,
    preset::Preset,
    remedy::plan::Commands,
    settings::LayoutSettings,
    synthetic::Machine,
    task::TaskId,
    topology::Topology,
};

/// Everything that section A looks at.
struct Facts {
    topology: Topology,
    /// The plan is that of the machine as it was.
    plan: Result<Plan, String>,
    expected: Option<Shape>,
    surroundings: Surroundings,
    processes: Vec<Around>,
    programs: Option<Result<Health, String>>,
    agent: Result<AgentState, String>,
}

/// An A3 on which all is well, with a process.
fn good() -> Facts {
    let topology = Preset::A3.topology();
    let plan = Plan::new(&topology, &LayoutSettings::default(), 1).unwrap();
    let group = &plan.groups[0];
    let nodes = topology.nodes.iter();
    let room = |id| NodeRoom { id, total_bytes: 100 << 30, free_bytes: 50 << 30, file_bytes: 0 };
    let process = Around {
        task: TaskId { tid: 7, start_time: 1 },
        comm: "worker".into(),
        cpus: group.primary_cpus.union(&group.forward_cpus),
        nodes: group.mem_nodes.clone(),
        read: ProcessSurroundings {
            own_binding: Some(Vec::new()),
            cpuset: Some(CpusetInForce {
                cgroup: "/sys/fs/cgroup/serve".into(),
                cpus: Some(topology.online()),
                mems: Some(topology.memory_nodes()),
            }),
            swapped_bytes: Some(0),
            ..ProcessSurroundings::default()
        },
    };
    Facts {
        surroundings: Surroundings {
            conditions: Conditions {
                balancing: Some(0),
                zone_reclaim: Some(0),
                huge_pages: Some("madvise".into()),
                defrag: Some("madvise".into()),
                nodes: nodes.map(|node| room(node.id)).collect(),
                stalled: Some(0.0),
            },
            smt: Some("notsupported".into()),
            governors: [("performance".to_owned(), topology.online())].into(),
            clock: Some(("arch_sys_counter".into(), vec!["arch_sys_counter".into()])),
            daemons: Vec::new(),
        },
        processes: vec![process],
        programs: None,
        agent: Ok(AgentState {
            pid: 9,
            version: "0.1.0".into(),
            enforcing: true,
            programs: "all 18 attached".into(),
            lacks_programs: false,
            differs: Vec::new(),
            compared: true,
        }),
        expected: Some("a3".parse().unwrap()),
        plan: Ok(plan),
        topology,
    }
}

fn judged(facts: &Facts) -> Vec<Item> {
    let host = Host {
        surroundings: &facts.surroundings,
        processes: &facts.processes,
        programs: facts.programs.as_ref(),
        agent: facts.agent.as_ref().map_err(String::as_str),
        version: "0.1.0",
        kernel: "5.10",
    };
    items(&Preconditions {
        topology: &facts.topology,
        plan: facts.plan.as_ref().map_err(String::as_str),
        expected: facts.expected,
        host: Some(host),
        commands: &commands(),
    })
}

fn commands() -> Commands {
    Commands::new(&["--config".to_owned(), "x.json".to_owned()])
}

/// What becomes of a machine on which all is well, but for this.
fn broken(change: impl FnOnce(&mut Facts)) -> (&'static str, Verdict, String) {
    let mut facts = good();
    change(&mut facts);
    let mut changed = changed(&judged(&good()), &judged(&facts));
    let one = changed.pop().expect("some item differs");
    assert_eq!(changed, [], "only that one");
    one
}

/// Expects that item, that verdict, and those words in the fix.
fn expect(id: &str, verdict: Verdict, fix: &str, change: impl FnOnce(&mut Facts)) {
    let (found, so, fixes) = broken(change);
    assert_eq!((found, so), (id, verdict), "{fixes}");
    assert!(fixes.contains(fix), "{id}: no {fix:?} in {fixes}");
}

#[test]
fn a_machine_on_which_all_is_well_passes() {
    let items = judged(&good());
    let open: Vec<_> = items.iter().filter(|item| item.verdict != Verdict::Pass).collect();
    assert!(open.is_empty(), "{open:#?}");
    assert_eq!(items.len(), 21);
    assert!(item(&items, "A1").found[0].contains("socket 3: node 6 (CPUs 240-279), node 7 (CPUs 280-319)"));
}

#[test]
fn the_machine() {
    use Verdict::{Fail, Warn};
    expect("A1", Fail, "--expect", |facts| facts.expected = Some("a2".parse().unwrap()));
    expect("A1", Fail, "numa-agent bind --config x.json #", |facts| {
        (facts.expected, facts.plan) = (None, Err("no CPUs".into()));
    });
    expect("A2", Fail, "for cpu in $(seq 320 321); do echo 1 >", |facts| {
        facts.topology.offline = "320-321".parse().unwrap();
    });
    expect("A3", Fail, "dmidecode", |facts| facts.topology.nodes[3].memory_bytes = Some(0));
    expect("A4", Warn, "channels", |facts| facts.topology.nodes[3].memory_bytes = Some(64 << 30));
    expect("A5", Fail, "isolcpus", |facts| facts.topology.isolated = "41".parse().unwrap());
    expect("A5", Warn, "nohz_full", |facts| facts.topology.nohz_full = "41".parse().unwrap());
    expect("A6", Fail, "cpuset.cpus", |facts| {
        facts.topology.allowed = facts.topology.online().difference(&"319".parse().unwrap());
    });
}

#[test]
fn smt_that_is_off_leaves_cpus_offline() {
    let mut facts = good();
    facts.topology.offline = "320-639".parse().unwrap();
    facts.surroundings.smt = Some("off".into());
    assert_eq!(item(&judged(&facts), "A2").verdict, Verdict::Pass);
    // One of them is none, or one has been brought up: either is told by the number.
    for offline in ["319-639", "321-639"] {
        facts.topology = good().topology;
        facts.topology.cpus.retain(|cpu| cpu.id < 319 || offline.starts_with("321"));
        facts.topology.offline = offline.parse().unwrap();
        let judged = judged(&facts);
        let item = item(&judged, "A2");
        assert_eq!(item.verdict, Verdict::Fail, "{item:?}");
        assert!(item.found[0].contains("SMT is off, but that would be 3"), "{item:?}");
        assert!(item.fixes[0].contains("/online; done # second threads"), "{item:?}");
    }
}

#[test]
fn what_the_kernel_does_by_itself() {
    use Verdict::{Fail, Warn};
    let set =
        |change: fn(&mut Conditions)| move |facts: &mut Facts| change(&mut facts.surroundings.conditions);
    expect("A8", Fail, "numa-agent bind --memory", set(|c| c.nodes[5].free_bytes = 1 << 30));
    expect("A8", Warn, "more memory", set(|c| c.stalled = Some(5.0)));
    expect("A9", Fail, "sysctl -w kernel.numa_balancing=0", set(|c| c.balancing = Some(1)));
    expect("A9", Warn, "sysctl -w vm.zone_reclaim_mode=0", set(|c| c.zone_reclaim = Some(1)));
    expect("A10", Warn, "echo madvise >", set(|c| c.huge_pages = Some("always".into())));
    expect("A10", Warn, "defrag", set(|c| c.defrag = Some("always".into())));
}

#[test]
fn other_daemons() {
    use Verdict::{Fail, Warn};
    let add = |kind| move |facts: &mut Facts| facts.surroundings.daemons.push(Daemon { pid: 3, kind });
    let forward = "40-79,120-159,200-239,280-319";
    let fix = format!("IRQBALANCE_BANNED_CPULIST={forward}");
    expect("A12", Fail, &fix, add(DaemonKind::Irqbalance(None)));
    let part = add(DaemonKind::Irqbalance(Some("0-79".parse().unwrap())));
    expect("A12", Fail, "IRQBALANCE_BANNED_CPULIST=120-159,200-239,280-319 in", part);
    expect("A13", Fail, "systemctl disable --now numad", add(DaemonKind::Numad));
    let tuned = |tuned| add(DaemonKind::Tuned(tuned));
    let places = Tuned::Places { profile: "cpu-partitioning".into(), setting: "isolated_cores=1".into() };
    expect("A13", Fail, "tuned-adm profile", tuned(places));
    expect("A13", Warn, "tuned-adm active", tuned(Tuned::Unknown("no".into())));
    let mut facts = good();
    facts.plan = Err("no CPUs".into());
    let unplanned = judged(&facts);
    assert_eq!(item(&unplanned, "A12").verdict, Verdict::Pass);
    add(DaemonKind::Irqbalance(None))(&mut facts);
    let unplanned = judged(&facts);
    assert_eq!(item(&unplanned, "A12").verdict, Verdict::Skipped, "whose CPUs, nobody knows");
    let mut facts = good();
    add(DaemonKind::Irqbalance(Some(forward.parse().unwrap())))(&mut facts);
    tuned(Tuned::Quiet { profile: "balanced".into() })(&mut facts);
    assert_eq!(changed(&judged(&good()), &judged(&facts)), []);
}

#[test]
fn what_surrounds_a_process() {
    use Verdict::{Fail, Skipped, Warn};
    let set =
        |change: fn(&mut ProcessSurroundings)| move |facts: &mut Facts| change(&mut facts.processes[0].read);
    let cpuset =
        |read: &mut ProcessSurroundings| read.cpuset.as_mut().map(|cpuset| cpuset.cpus = "0-9".parse().ok());
    let mems =
        |read: &mut ProcessSurroundings| read.cpuset.as_mut().map(|cpuset| cpuset.mems = "0".parse().ok());
    expect("A7", Fail, "echo 0-11,40-79 > /sys/fs/cgroup/serve/cpuset.cpus", |facts| {
        cpuset(&mut facts.processes[0].read);
    });
    expect("A7", Fail, "echo 0-1 > /sys/fs/cgroup/serve/cpuset.mems", |facts| {
        mems(&mut facts.processes[0].read);
    });
    expect("A11", Warn, "swapoff", set(|read| read.swapped_bytes = Some(4096)));
    expect(
        "A14",
        Fail,
        "env -u OMP_PROC_BIND",
        set(|read| read.own_binding = Some(vec!["OMP_PROC_BIND=true".into()])),
    );
    expect("A14", Skipped, "as root", set(|read| read.own_binding = None));
    expect("A15", Warn, "numa-agent exec", set(|read| read.launchers = vec!["pid 5 (taskset 1 x)".into()]));
    let unit = ("/etc/systemd/system/serve.service".to_owned(), "CPUAffinity=0".to_owned());
    expect("A15", Warn, "systemctl restart serve.service", |facts| facts.processes[0].read.unit = vec![unit]);
    let mut facts = good();
    facts.processes.clear();
    let nobody = changed(&judged(&good()), &judged(&facts));
    let skipped: Vec<_> = nobody.iter().map(|(id, verdict, _)| (*id, *verdict)).collect();
    assert_eq!(skipped, ["A7", "A11", "A14", "A15"].map(|id| (id, Skipped)));
}

#[test]
fn speed_clock_and_agent() {
    use Verdict::{Fail, Skipped, Warn};
    expect("A16", Warn, "cpupower frequency-set -g performance", |facts| {
        facts.surroundings.governors.insert("schedutil".into(), "40".parse().unwrap());
    });
    expect("A16", Skipped, "", |facts| facts.surroundings.governors.clear());
    expect("A17", Warn, "smt/control", |facts| facts.surroundings.smt = Some("on".into()));
    expect("A17", Warn, "smt/control", |facts| {
        facts.surroundings.smt = Some("notimplemented".into());
        facts.topology.cpus[1].core = facts.topology.cpus[0].core.union(&facts.topology.cpus[1].core);
        facts.topology.cpus[0].core = facts.topology.cpus[1].core.clone();
    });
    expect("A18", Warn, "echo tsc >", |facts| {
        facts.surroundings.clock = Some(("hpet".into(), vec!["tsc".into(), "hpet".into()]));
    });
    let program = |required, result: Result<(), &str>| {
        let result = result.map_err(str::to_owned);
        Some(Ok(Health {
            programs: vec![ProgramResult { name: "fork", required, result, verified: None }],
            ..Health::default()
        }))
    };
    expect("A19", Fail, "5.10 or later", |facts| facts.programs = program(true, Err("ENOENT")));
    expect("A19", Warn, "docs/architecture.md", |facts| facts.programs = program(false, Err("ENOENT")));
    expect("A19", Fail, "sudo", |facts| facts.programs = Some(Err("Operation not permitted".into())));
    let agent =
        |change: fn(&mut AgentState)| move |facts: &mut Facts| facts.agent.iter_mut().for_each(change);
    expect("A19", Warn, "numa-agent doctor", agent(|agent| agent.lacks_programs = true));
    expect("A20", Warn, "without --dry-run", agent(|agent| agent.enforcing = false));
    expect(
        "A20",
        Fail,
        "numa-agent run --config x.json",
        agent(|agent| agent.differs = vec!["policy: generic there, paired here".into()]),
    );
    expect("A21", Warn, "restart", agent(|agent| agent.version = "0.0.9".into()));
    let mut facts = good();
    (facts.agent, facts.programs) = (Err("nobody listens".into()), program(true, Ok(())));
    let none: Vec<_> =
        changed(&judged(&good()), &judged(&facts)).into_iter().map(|one| (one.0, one.1)).collect();
    assert_eq!(none, [("A20", Warn), ("A21", Skipped)]);
}

#[test]
fn of_another_machine_only_the_topology_is_known() {
    let facts = good();
    let plan = facts.plan.as_ref().map_err(String::as_str);
    let items = items(&Preconditions {
        topology: &facts.topology,
        plan,
        expected: None,
        host: None,
        commands: &commands(),
    });
    assert_eq!(ids(&items), ids(&judged(&facts)));
    assert!(items.iter().take(5).all(|item| item.verdict == Verdict::Pass), "{items:#?}");
    assert!(items.iter().skip(5).all(|item| item.verdict == Verdict::Skipped));
    assert!(items[0].found[0].starts_with("4 sockets x 2 nodes, as the paired policy needs"), "{items:#?}");
}

#[test]
fn shapes_are_read_and_compared() {
    let shape = |text: &str| text.parse::<Shape>();
    assert_eq!(shape("a3").unwrap().to_string(), "4 sockets x 2 nodes x 40 CPUs");
    assert_eq!(shape("2x4").unwrap().to_string(), "2 sockets x 4 nodes");
    for text in ["", "4", "4x", "0x2", "a4", "1x2x3x4", "-1x2"] {
        assert!(shape(text).unwrap_err().to_string().contains("4x2x40"), "{text}");
    }
    let machine = Machine { sockets: 4, nodes_per_socket: 2, cores_per_node: 2, ..Machine::default() };
    let fits = |text: &str| shape(text).unwrap().fits(&machine.topology());
    assert_eq!(
        ["4x2", "4x2x2", "4x2x3", "a3", "2x4", "8x1"].map(fits),
        [true, true, false, false, false, false]
    );
}

#[test]
fn variables_arguments_and_profiles_that_bind_are_told_from_those_that_do_not() {
    for (name, value) in [
        ("OMP_PROC_BIND", "close"),
        ("OMP_PLACES", "cores"),
        ("GOMP_CPU_AFFINITY", "0-3"),
        ("KMP_AFFINITY", "granularity=fine,compact,1,0"),
        ("CPU_AFFINITY_CONF", "1"),
        ("CPU_AFFINITY_CONF", "mode:2,npu0:0-1"),
        ("VLLM_CPU_OMP_THREADS_BIND", "0-31|32-63"),
        ("SGLANG_SET_CPU_AFFINITY", "1"),
    ] {
        assert!(binds_by_variable(name, value), "{name}={value}");
    }
    for (name, value) in [
        ("OMP_PROC_BIND", "FALSE"),
        ("KMP_AFFINITY", "verbose,none"),
        ("CPU_AFFINITY_CONF", "mode:0"),
        ("VLLM_CPU_OMP_THREADS_BIND", "all"),
        ("SGLANG_SET_CPU_AFFINITY", "0"),
        ("OMP_NUM_THREADS", "8"),
    ] {
        assert!(!binds_by_variable(name, value), "{name}={value}");
    }
    assert!(binds_by_argument("--numa-bind") && binds_by_argument(r#"{"enable_cpu_binding": true}"#));
    assert!(
        !binds_by_argument("--numa-bind-nodes") && !binds_by_argument(r#"{"enable_cpu_binding": false}"#)
    );
    assert!(launches_bound("/usr/bin/taskset -c 0 x") && launches_bound("sh -c exec numactl -N0 x"));
    assert!(!launches_bound("tasksetd") && !launches_bound("/opt/numactl/bin/x"));
    assert_eq!(placing_setting("[sysctl]\nisolated_cores=1\n[scheduler]\nruntime=0\n"), None);
    assert_eq!(placing_setting("[scheduler]\ngroup.x=0:f:10:3:y"), Some("group.x=0:f:10:3:y"));
}
