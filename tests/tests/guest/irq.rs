//! `irq` on real interrupts, beside the irqbalance that hosts have: its own program, running.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::CpuSet;
use numa_agent_tests::{agent, eventually};
use serde_json::{Value, json};

use crate::stage::{Stage, number_list, read, stage};

/// Where the guest has the cards' modules; some kernels have some built in.
const MODULES: &str = "/modules";

/// A network card's PCI address, and its interrupts.
struct Card {
    address: String,
    irqs: Vec<u32>,
}

/// Loads the drivers of the cards; the two, by address.
fn cards() -> [Card; 2] {
    let files = fs::read_dir(MODULES).into_iter().flatten().flatten();
    let mut left: Vec<PathBuf> = files.map(|file| file.path()).collect();
    // Which needs which changes from release to release: 6.1.192 has `virtio` after `virtio_ring`, and not before it.
    while !left.is_empty() {
        let before = left.len();
        left.retain(|file| {
            let mut insmod = Command::new("/bin/busybox");
            !insmod.arg("insmod").arg(file).status().expect("busybox").success()
        });
        assert!(left.len() < before, "cannot be loaded: {left:?}");
    }
    eventually(|| {
        let mut cards = Vec::new();
        for entry in fs::read_dir("/sys/bus/pci/devices").expect("PCI").flatten() {
            let folder = entry.path();
            let is_card =
                fs::read_to_string(folder.join("class")).is_ok_and(|class| class.trim() == "0x020000");
            let address = entry.file_name().to_string_lossy().into_owned();
            cards.extend(is_card.then(|| Card { address, irqs: in_use(&folder.join("msi_irqs")) }));
        }
        cards.sort_by(|a, b| a.address.cmp(&b.address));
        let cards: Result<[Card; 2], _> = cards.try_into();
        match cards {
            Ok(cards) if cards.iter().all(|card| card.irqs.len() >= 2) => Ok(cards),
            _ => Err(read("/proc/interrupts")),
        }
    })
}

/// The interrupts listed there that a driver has asked for.
fn in_use(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut irqs: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    irqs.sort_unstable();
    irqs.retain(|irq| {
        let names = fs::read_dir(format!("/proc/irq/{irq}")).into_iter().flatten().flatten();
        names.into_iter().any(|entry| entry.path().is_dir())
    });
    irqs
}

fn cpus(irq: u32) -> CpuSet {
    number_list(&format!("/proc/irq/{irq}/smp_affinity_list"))
}

/// irqbalance, looking every second, until this is dropped.
struct Irqbalance(Child);

impl Irqbalance {
    fn start() -> Self {
        fs::create_dir_all("/run/irqbalance").expect("a folder");
        let mut command = Command::new("/usr/sbin/irqbalance");
        command.args(["--foreground", "--interval=1"]).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Self(command.spawn().expect("irqbalance"));
        let socket = format!("/run/irqbalance/irqbalance{}.sock", started.0.id());
        eventually(|| if Path::new(&socket).exists() { Ok(()) } else { Err(format!("no {socket}")) });
        started
    }

    /// Has it place everything anew: any CPU is allowed to `irqs`, until it has found one for each.
    fn places(&self, irqs: &[u32], all: &CpuSet) {
        for irq in irqs {
            let file = format!("/proc/irq/{irq}/smp_affinity_list");
            fs::write(&file, all.to_string()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGHUP).expect("it runs");
        eventually(|| match irqs.iter().find(|irq| cpus(**irq) == *all) {
            None => Ok(()),
            Some(irq) => Err(format!("irqbalance leaves {irq} on {all}")),
        });
    }
}

impl Drop for Irqbalance {
    fn drop(&mut self) {
        // It has ended, or has to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    fn irq(&self, command: &str, more: &[&str]) -> Value {
        let journal = self.dir.path().join("journal").display().to_string();
        let mut args = ["irq", command, "--format", "json"].map(str::to_owned).to_vec();
        match command {
            "restore" => args.extend(["--journal".to_owned(), journal]),
            "apply" => args.extend(self.args(&["--journal", &journal])),
            _ => args.extend(self.args(&[])),
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        agent::json(args)
    }

    /// The CPU that the configuration sets aside on the socket of a card, or where background processes are if nobody says whose it is.
    fn reserved(&self, card: &Card) -> CpuSet {
        let node: i64 =
            read(&format!("/sys/bus/pci/devices/{}/numa_node", card.address)).parse().expect("a node");
        let first = match u32::try_from(node) {
            Ok(node) => {
                let socket = self.machine.sockets.values().find(|nodes| nodes.contains(&node));
                self.machine.nodes[&socket.expect("its socket")[0]].clone()
            }
            Err(_) => self.others(),
        };
        first.iter().last().into_iter().collect()
    }
}

fn planned(report: &Value) -> BTreeMap<u32, CpuSet> {
    let irqs = report["irqs"].as_array().expect("interrupts").iter();
    let place = |irq: &Value| {
        let number = u32::try_from(irq["irq"].as_u64().expect("a number")).expect("a small one");
        (number, irq["planned"].as_str().expect("a list").parse().expect("a list"))
    };
    irqs.map(place).collect()
}

#[test]
fn irqbalance_keeps_off_what_is_applied_until_it_is_restored() {
    let Some(stage) = stage("irq", &["a3-mini"]) else { return };
    let mut config = stage.config();
    config["irq"] = json!({"cpus_per_socket": 1});
    stage.write_config(&config);
    let [other, ours] = cards();
    let all = stage.machine.all();
    let irqbalance = Irqbalance::start();
    irqbalance.places(&[other.irqs.as_slice(), &ours.irqs].concat(), &all);

    let plan = stage.irq("plan", &[]);
    assert_eq!(plan["irqbalance"][0]["pid"], irqbalance.0.id(), "{plan:#}");
    let places = planned(&plan);
    for card in [&other, &ours] {
        let reserved = stage.reserved(card);
        assert!(!reserved.is_empty() && reserved != all);
        for irq in &card.irqs {
            assert_eq!(places.get(irq), Some(&reserved), "IRQ {irq} of {}: {plan:#}", card.address);
        }
    }

    let device = format!("^{}", ours.address);
    let before: Vec<CpuSet> = ours.irqs.iter().map(|irq| cpus(*irq)).collect();
    let applied = stage.irq("apply", &["--device", &device]);
    assert_eq!(applied["irqbalance"][0]["keeps_off"], true, "{applied:#}");
    assert_eq!(planned(&applied).into_keys().collect::<Vec<_>>(), ours.irqs, "{applied:#}");
    let in_force = || ours.irqs.iter().all(|irq| cpus(*irq) == places[irq]);
    assert!(in_force(), "{applied:#}");
    // Twice, so that it was through with all of the first round.
    irqbalance.places(&other.irqs, &all);
    irqbalance.places(&other.irqs, &all);
    assert!(in_force(), "irqbalance has placed the other card's, and ours are where they were put");
    let again = stage.irq("apply", &["--device", &device]);
    let results = |report: &Value, list: &str| {
        let rows = report[list].as_array().expect("rows").iter();
        rows.map(|row| row["result"].as_str().expect("a result").to_owned()).collect::<Vec<_>>()
    };
    assert!(results(&again, "irqs").iter().all(|result| result == "unchanged"), "{again:#}");
    assert_eq!(results(&again, "irqbalance"), ["leaves them alone already"], "{again:#}");

    let undone = stage.irq("restore", &[]);
    let changed = before.iter().zip(&ours.irqs).filter(|(before, irq)| **before != places[*irq]).count();
    assert!(results(&undone, "changes").len() > changed, "and the ban list: {undone:#}");
    assert!(results(&undone, "changes").iter().all(|result| result == "restored"), "{undone:#}");
    // Nobody keeps it off any more: what held was the ban.
    irqbalance.places(&ours.irqs, &all);
}
