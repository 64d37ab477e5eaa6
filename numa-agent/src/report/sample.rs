//! Reports to render in tests.

use super::{BindReport, HostFacts, Outcome, ProcessRow, ThreadRow};
use crate::core::{
    idset::CpuSet,
    plan::{Group, Plan},
    preset,
    settings::LayoutSettings,
    synthetic::Machine,
    task::{ProcessRole, TaskId, ThreadRole},
    topology::Topology,
};

/// A dry run's report without processes.
pub(crate) fn plan_only(topology: Topology, settings: &LayoutSettings, instances: usize) -> BindReport {
    let plan = Plan::new(&topology, settings, instances).expect("a plan");
    BindReport {
        warnings: plan.warnings.clone(),
        topology,
        plan,
        applied: false,
        processes: Vec::new(),
        fences: Vec::new(),
        host: HostFacts {
            hostname: "infer-07".into(),
            kernel: "5.10.0-216.0.0.115.oe2203sp4.aarch64".into(),
            time: "2025-03-01T12:00:00Z".into(),
            version: "0.1.0".into(),
        },
    }
}

/// An applied report on an A3 with two instances and a Motor; one thread could not be bound.
pub(crate) fn a3() -> BindReport {
    let mut report = plan_only(preset::a3(), &LayoutSettings::default(), 2);
    report.applied = true;
    let groups: Vec<Group> = report.plan.slots().into_iter().take(2).cloned().collect();
    for (session, group) in [77, 91].into_iter().zip(&groups) {
        let instance = format!("session:{session}");
        let base = session * 100;
        report.processes.push(group_process(group, &instance, base, "scheduler", 3, 0));
        report.processes.push(group_process(group, &instance, base + 10, "worker", 2, 12));
        report.processes.push(group_process(group, &instance, base + 40, "rpc_proxy", 1, 0));
    }
    let threads = &mut report.processes[1].threads;
    threads[1].outcome = Outcome::Unchanged;
    threads[2].outcome = Outcome::Failed("EPERM (Operation not permitted)".into());
    threads[2].actual_cpus = "0-319".parse().expect("a list");
    report.processes.push(other_process(&report.plan, 9900, "Motor"));
    report
}

/// A dry run on the smallest machine that we mean: one node, two CPUs.
pub(crate) fn two_cpus() -> BindReport {
    let topology = Machine { cores_per_node: 2, ..Machine::default() }.topology();
    let mut report = plan_only(topology, &LayoutSettings::default(), 2);
    for (index, name) in ["session:310", "docker-4f1c2b7a99d0"].into_iter().enumerate() {
        let group = report.plan.groups[index].clone();
        report.processes.push(group_process(&group, name, 300 + 100 * index as u32, "worker", 2, 2));
    }
    report.processes.push(other_process(&report.plan, 900, "Servicer"));
    for thread in report.processes.iter_mut().flat_map(|process| &mut process.threads) {
        thread.outcome = Outcome::Planned;
        thread.actual_cpus = "0-1".parse().expect("a list");
    }
    report
}

/// Every text that another process chooses tries to break out.
pub(crate) fn hostile() -> BindReport {
    let mut report = a3();
    let evil = "\u{1b}]0;x\u{7}\u{9b}2J</script><script>alert(1)</script>|`\"'&\n# x\u{202e}";
    for process in &mut report.processes {
        process.comm = evil.into();
        process.cmdline = evil.repeat(3);
        process.instance = process.instance.as_ref().map(|_| format!("cgroup:{evil}"));
        for thread in &mut process.threads {
            thread.comm = evil.into();
            thread.outcome = Outcome::Failed(evil.into());
        }
    }
    report.topology.source = evil.into();
    report.host.hostname = evil.into();
    report.warnings.push(evil.into());
    report
}

fn group_process(
    group: &Group,
    instance: &str,
    pid: u32,
    comm: &str,
    members: u32,
    forwards: u32,
) -> ProcessRow {
    let forward = |index: u32| match index.checked_sub(members) {
        Some(nth) => (format!("forward_{nth}"), ThreadRole::Forward, group.forward_cpus.clone()),
        None => (comm.to_owned(), ThreadRole::Member, group.primary_cpus.clone()),
    };
    ProcessRow {
        id: TaskId { tid: pid, start_time: 4_000 + u64::from(pid) },
        comm: comm.into(),
        cmdline: format!("python3 -m serving.{comm} --port 8000"),
        role: ProcessRole::Group,
        group: Some(group.name.clone()),
        instance: Some(instance.into()),
        container: None,
        threads: (0..members + forwards).map(|index| thread(pid + index, forward(index))).collect(),
        memory: None,
    }
}

fn other_process(plan: &Plan, pid: u32, comm: &str) -> ProcessRow {
    ProcessRow {
        id: TaskId { tid: pid, start_time: 900 },
        comm: comm.into(),
        cmdline: format!("/usr/bin/{comm}"),
        role: ProcessRole::Other,
        group: None,
        instance: None,
        container: None,
        threads: vec![thread(pid, (comm.to_owned(), ThreadRole::Other, plan.others.cpus.clone()))],
        memory: None,
    }
}

fn thread(tid: u32, (comm, role, planned_cpus): (String, ThreadRole, CpuSet)) -> ThreadRow {
    ThreadRow {
        id: TaskId { tid, start_time: 4_000 + u64::from(tid) },
        comm,
        role,
        actual_cpus: planned_cpus.clone(),
        planned_cpus,
        outcome: Outcome::Bound,
    }
}
