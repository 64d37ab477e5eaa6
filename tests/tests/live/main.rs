//! The real agent on the real kernel, judged by what the workload sees of itself.
//!
//! A made-up sysfs tree has the machine's CPUs as one socket with two nodes, so that members and forward threads belong on
//! different CPUs also where there are only two. Tests wait for states and never measure time: a late answer is no failure here.

mod bind;
mod check;
mod confined;
mod containers;
mod devices;
mod drift;
mod hold;
mod inject;
mod irq;
mod jitter;
mod launch;
mod lifecycle;
mod load;
mod machine;
mod metrics;
mod placement;
mod programs;
mod restore;
mod restricted;
mod service;
mod tap;
mod unseen;
mod viewers;
mod watch;

use std::{
    fs,
    ops::Deref,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use numa_agent::core::{
    idset::{CpuSet, NodeSet},
    topology::Topology,
};
use numa_agent_tests::{
    agent::Agent,
    cast::{Cast, is_forward, utf8},
    eventually,
    stack::{
        Load,
        crew::Stack,
        puppet::{Order, Puppet},
    },
    sys::{self, Birth},
    sysfs_tree::{one_socket, write_sysfs},
    witness::{self, Point, Record, now_ns},
};
use serde_json::{Value, json};

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
    cast: Cast,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for Stage {
    type Target = Cast;

    fn deref(&self) -> &Cast {
        &self.cast
    }
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
    numa_agent_tests::skip(&format!("{test}: {why}"));
}

impl Stage {
    fn new(test: &str, all: CpuSet, turn: MutexGuard<'static, ()>) -> Self {
        let members: CpuSet = all.iter().take(all.len() / 2).collect();
        let forward = all.difference(&members);
        // Not only the test's name: other runs on this machine must not match.
        let tag = format!("{test}-{}", std::process::id());
        let cast = Cast::new(env!("CARGO_BIN_EXE_serving-stack"), &tag);
        let sys = cast.dir.path().join("sys");
        write_sysfs(&one_socket(&[&members, &forward]), &sys).expect("write a sysfs tree");
        let stage = Self { all, members, forward, cast, _turn: turn };
        stage.write_config(&stage.config());
        stage
    }

    /// A configuration for this test's processes only, on the stage's machine.
    fn config(&self) -> Value {
        let mut config = self.cast.config();
        (config["policy"], config["layout"]) = (json!("paired"), json!("shared"));
        config["groups_per_socket"] = json!(0);
        config
    }

    /// Arguments that lead `run` and `bind` to the stage's machine and configuration.
    fn args(&self) -> Vec<String> {
        let mut args = self.cast.args();
        args.extend(["--sysfs-root".to_owned(), utf8(&self.dir.path().join("sys"))]);
        args
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
        self.cast.puppet(role, 0)
    }

    /// Where a thread with such a record belongs; `None`: it is nobody's business.
    fn plan(&self, look: &Record) -> Option<&CpuSet> {
        match look.role.as_str() {
            "scheduler" | "worker" | "rpc_proxy" if is_forward(&look.comm) => Some(&self.forward),
            "scheduler" | "worker" | "rpc_proxy" | "motor" => Some(&self.members),
            _ => None,
        }
    }

    /// Waits until every living thread that has a place has seen itself on it, mask and CPU, twice in a row from now on.
    fn settle(&self) -> Vec<Record> {
        self.settle_all(|look| self.plan(look).cloned(), |mask, place| mask == place, 2)
    }

    /// Waits until thread `tid` has seen itself with mask `cpus` twice in a row from now on.
    fn settle_on(&self, tid: u32, cpus: &CpuSet) {
        self.settle_thread(tid, cpus, |look| look.cpus == *cpus);
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
