//! The real agent on the real kernel, judged by what the workload sees of itself.
//!
//! A made-up sysfs tree has the machine's CPUs as one socket with two nodes, so that members and forward threads belong on
//! different CPUs also where there are only two. Tests wait for states and never measure time: a late answer is no failure here.

mod bind;
mod confined;
mod jitter;
mod lifecycle;
mod machine;
mod placement;
mod programs;
mod tap;
mod unseen;

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use numa_agent::core::{
    idset::CpuSet,
    topology::{Cpu, Node, Topology},
};
use numa_agent_tests::{
    agent::Agent,
    eventually,
    stack::{
        Family, Load,
        crew::Stack,
        puppet::{Order, Puppet},
    },
    sys::{self, Birth},
    sysfs_tree::write_sysfs,
    witness::{self, Point, Record, now_ns},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Agents of different tests would bind each other's CPUs full; the machine has few.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What one live test works with.
struct Stage {
    /// All CPUs we may use.
    all: CpuSet,
    /// The first half of them: where members and background processes belong.
    members: CpuSet,
    /// The second half: where forward threads belong.
    forward: CpuSet,
    /// What the test's processes have in common.
    family: Family,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// The stage for `test`, or `None` with a word why not.
fn stage(test: &str) -> Option<Stage> {
    let all = sys::affinity(0).expect("my own mask");
    let missing = if !nix::unistd::geteuid().is_root() {
        "it needs root"
    } else if !PathBuf::from("/sys/kernel/btf/vmlinux").exists() {
        "this kernel has no BTF"
    } else if all.len() < 2 {
        "it needs two CPUs"
    } else {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        return Some(Stage::new(test, all, turn));
    };
    skip(test, missing);
    None
}

/// Says that `test` cannot run here, and why.
fn skip(test: &str, why: &str) {
    eprintln!("SKIP: {test}: {why}");
    assert!(
        std::env::var_os("NUMA_AGENT_FORBID_SKIP").is_none_or(|value| value != "1"),
        "skips are forbidden"
    );
}

impl Stage {
    fn new(test: &str, all: CpuSet, turn: MutexGuard<'static, ()>) -> Self {
        let members: CpuSet = all.iter().take(all.len() / 2).collect();
        let forward = all.difference(&members);
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_sysfs(&machine(&[&members, &forward]), &dir.path().join("sys")).expect("write a sysfs tree");
        fs::create_dir(dir.path().join("witness")).expect("a directory for the witness");
        let family = Family {
            exe: env!("CARGO_BIN_EXE_serving-stack").into(),
            out: dir.path().join("witness"),
            // Not only the test's name: other runs on this machine must not match.
            tag: format!("{test}-{}", std::process::id()),
        };
        let stage = Self { all, members, forward, family, dir, _turn: turn };
        stage.write_config(&stage.config());
        stage
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("numa.json")
    }

    /// A configuration for this test's processes only.
    fn config(&self) -> Value {
        json!({
            "policy": "paired", "layout": "shared", "groups_per_socket": 0,
            "group_patterns": [format!("--role (scheduler|worker|rpc_proxy) --tag {} ", self.family.tag)],
            "other_patterns": [format!("--role motor --tag {} ", self.family.tag)],
            "report": self.dir.path().join("report.md"),
        })
    }

    fn write_config(&self, config: &Value) {
        fs::write(self.config_path(), config.to_string()).expect("write the configuration");
    }

    /// Arguments that lead `run` and `bind` to the stage's machine and configuration.
    fn args(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().expect("a temporary directory in UTF-8").to_owned();
        let (config, sys) = (text(self.config_path()), text(self.dir.path().join("sys")));
        vec!["--config".into(), config, "--sysfs-root".into(), sys]
    }

    fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    fn agent_with(&self, more: &[&str]) -> Agent {
        Agent::start(self.args().into_iter().chain(more.iter().map(|&arg| arg.to_owned())))
    }

    fn stack(&self, hogs: u32) -> Stack {
        let load = Load { workers: 2, forward: 3, tick_ms: 10, work: 2000 };
        Stack::start(self.family.clone(), load, hogs).expect("start the stack")
    }

    fn puppet(&self, role: &str) -> Puppet {
        Puppet::start(&self.family, role, 0, Birth::Session).expect("start a puppet")
    }

    fn records(&self) -> Vec<Record> {
        witness::read(&self.family.out).expect("read the witness records")
    }

    /// Where a thread with such a record belongs; `None`: it is nobody's business.
    fn plan(&self, look: &Record) -> Option<&CpuSet> {
        let forward = ["forward", "prefill", "decode"].iter().any(|name| look.comm.contains(name));
        match look.role.as_str() {
            "scheduler" | "worker" | "rpc_proxy" if forward => Some(&self.forward),
            "scheduler" | "worker" | "rpc_proxy" | "motor" => Some(&self.members),
            _ => None,
        }
    }

    /// Waits until every living thread that has a place has seen itself on it, mask and CPU, twice in a row from now on.
    fn settle(&self) -> Vec<Record> {
        let since = now_ns();
        eventually(|| {
            let records = self.records();
            for ((pid, tid), looks) in witness::by_thread(&records, 0) {
                let last = looks[looks.len() - 1];
                let Some(plan) = self.plan(last).filter(|_| last.point != Point::End && lives(pid, tid))
                else {
                    continue;
                };
                let on_plan =
                    |look: &&Record| look.at_ns >= since && look.cpus == *plan && plan.contains(look.cpu);
                if looks.iter().rev().take_while(|look| on_plan(look)).count() < 2 {
                    return Err(format!("belongs on {plan}: {last:?}"));
                }
            }
            Ok(records)
        })
    }

    /// Waits until thread `tid` has seen itself with mask `cpus` twice in a row from now on.
    fn settle_on(&self, tid: u32, cpus: &CpuSet) {
        let since = now_ns();
        eventually(|| {
            let records = self.records();
            let looks: Vec<_> =
                records.iter().filter(|look| look.tid == tid && look.at_ns >= since).collect();
            if looks.iter().rev().take_while(|look| look.cpus == *cpus).count() >= 2 {
                return Ok(());
            }
            Err(format!("{tid} is not on {cpus}: {:?}", looks.last()))
        });
    }

    /// Asserts that every look of `pid` from `since` until one from now on saw the mask `cpus`.
    fn assert_untouched(&self, pid: u32, cpus: &CpuSet, since: u64) {
        let now = now_ns();
        let records = eventually(|| {
            let records = self.records();
            let looked = records.iter().any(|look| look.pid == pid && look.at_ns >= now);
            if looked { Ok(records) } else { Err(format!("{pid} does not look any more")) }
        });
        for look in records.iter().filter(|look| look.pid == pid && look.at_ns >= since) {
            assert_eq!(look.cpus, *cpus, "somebody touched {look:?}");
        }
    }

    /// Waits until a process that matches and starts now is where it belongs: everything before has been dealt with.
    fn barrier(&self) {
        let puppet = self.puppet("worker");
        self.settle_on(puppet.pid(), &self.members);
        puppet.stop().expect("stop a puppet");
    }
}

fn lives(pid: u32, tid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/task/{tid}")).exists()
}

/// One socket with nodes that have these CPUs.
fn machine(nodes: &[&CpuSet]) -> Topology {
    let distance = |from: usize, to: usize| if from == to { 10 } else { 12 };
    let node = |(id, cpus): (usize, &&CpuSet)| Node {
        id: id as u32,
        cpus: (*cpus).clone(),
        memory_bytes: Some(1 << 30),
        free_bytes: Some(1 << 29),
        distances: (0..nodes.len()).map(|to| (to as u32, distance(id, to))).collect(),
    };
    let cpus = nodes.iter().enumerate().flat_map(|(node, cpus)| {
        cpus.iter().map(move |id| Cpu {
            id,
            socket: 0,
            node: node as u32,
            core: [id].into_iter().collect(),
            cluster: None,
            caches: Vec::new(),
        })
    });
    let mut cpus: Vec<Cpu> = cpus.collect();
    cpus.sort_by_key(|cpu| cpu.id);
    Topology { nodes: nodes.iter().enumerate().map(node).collect(), cpus, ..Topology::default() }.settled()
}
