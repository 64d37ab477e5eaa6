//! Writes interrupts and the devices that they are of as `/proc` and `/sys` show them.

use std::{fmt::Write as _, fs, os::unix::fs::symlink, path::Path};

use numa_agent::core::topology::Topology;

use crate::sysfs_tree::write_sysfs;

/// A PCI function and its interrupts.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// `0000:c1:00.0`.
    pub address: &'static str,
    /// `0x120000`.
    pub class: &'static str,
    /// `0x19e5`.
    pub vendor: &'static str,
    /// `numa_node`.
    pub node: i32,
    /// Its network interface, and how many queues it has each way.
    pub interface: Option<(&'static str, u32)>,
    /// Numbers and names.
    pub irqs: &'static [(u32, &'static str)],
}

/// Writes the machine below `sys` and `proc`, which then stand for `/sys` and `/proc`. Where an interrupt goes to is where it may go: one file
/// is a link to the other.
///
/// # Panics
/// If a file cannot be written.
pub fn write(topology: &Topology, functions: &[Function], sys: &Path, proc: &Path) {
    write_sysfs(topology, sys).expect("a tree");
    let cpus = topology.online();
    let mut interrupts = " ".repeat(8);
    for cpu in cpus.iter() {
        write!(interrupts, "{:>11}", format!("CPU{cpu}")).expect("a string");
    }
    interrupts += "\n";
    let counts = |number: u32| format!("{:>11}", number).repeat(cpus.len());
    for function in functions {
        let home = format!("devices/pci0000:00/{}", function.address);
        let line = |file: &str, text: &str| put(&sys.join(&home).join(file), text);
        line("class", function.class);
        line("vendor", function.vendor);
        line("numa_node", &function.node.to_string());
        link(&sys.join("bus/pci/devices").join(function.address), &format!("../../../{home}"));
        for (number, name) in function.irqs {
            line(&format!("msi_irqs/{number}"), "msix");
            interrupts +=
                &format!("{number:>6}: {}   ITS-MSI {} Edge      {name}\n", counts(*number), number * 7);
            irq(proc, *number, &cpus.to_string());
        }
        if let Some((name, queues)) = function.interface {
            link(&sys.join("class/net").join(name), &format!("../../{home}/net/{name}"));
            for queue in 0..queues {
                line(&format!("net/{name}/queues/rx-{queue}/rps_cpus"), "0");
                line(&format!("net/{name}/queues/tx-{queue}/xps_cpus"), "0");
            }
        }
    }
    interrupts += &format!("    11: {}     GICv3  30 Level     arch_timer\n", counts(1));
    irq(proc, 11, &cpus.to_string());
    interrupts += &format!("  IPI0: {}       Rescheduling interrupts\n", counts(2));
    put(&proc.join("interrupts"), &interrupts);
}

fn irq(proc: &Path, number: u32, cpus: &str) {
    let folder = proc.join(format!("irq/{number}"));
    put(&folder.join("smp_affinity_list"), cpus);
    link(&folder.join("effective_affinity_list"), "smp_affinity_list");
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, format!("{}\n", text.trim_end()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn link(path: &Path, target: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    symlink(target, path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
