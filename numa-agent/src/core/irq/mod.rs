//! Interrupts: which there are, which of them belong to devices, and on which CPUs they and their softirqs should be.
//!
//! Reading and writing is `host::irq`'s.

pub mod balancer;
pub mod interrupts;
pub mod outcome;
pub mod plan;
pub mod reserve;
pub mod room;

use std::collections::BTreeMap;

use super::{device::Device, idset::CpuSet};

/// What is known of one interrupt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What drivers registered for it (`eth0-rx-0`), joined by commas. Empty: nobody did.
    pub name: String,
    /// The CPUs that it may go to; `None`: it has no such file.
    pub affinity: Option<CpuSet>,
    /// The CPUs that it goes to, where the kernel says so (`CONFIG_GENERIC_IRQ_EFFECTIVE_AFF_MASK`).
    pub effective: Option<CpuSet>,
    /// The node that it was made for.
    pub node: Option<u32>,
    /// Whether the kernel manages its affinity; `None`: not known before something is written (no `debugfs`).
    pub managed: Option<bool>,
    /// How often it came, on all CPUs.
    pub count: u64,
}

/// A queue of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The interface.
    pub interface: String,
    /// The PCI function it is of.
    pub address: String,
    /// What its mask is for.
    pub side: Side,
    /// Its number.
    pub index: u32,
    /// The mask now; `None`: it has none (a device with one queue has no XPS).
    pub cpus: Option<CpuSet>,
}

/// A queue's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `rps_cpus`: CPUs that received packets are handed on to.
    Receive,
    /// `xps_cpus`: CPUs that send by this queue.
    Send,
}

impl Queue {
    /// `rx-0 rps_cpus`: the queue's directory and file.
    #[must_use]
    pub fn file(&self) -> String {
        let (prefix, file) = match self.side {
            Side::Receive => ("rx", "rps_cpus"),
            Side::Send => ("tx", "xps_cpus"),
        };
        format!("{prefix}-{}/{file}", self.index)
    }
}

/// Everything that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Interrupts, by number.
    pub irqs: BTreeMap<u32, Irq>,
    /// Devices, by address.
    pub devices: Vec<Device>,
    /// Queues of network interfaces.
    pub queues: Vec<Queue>,
    /// What `/proc/interrupts` lists without a number: timers, calls between CPUs. Their names, by label.
    pub local: BTreeMap<String, String>,
    /// What was odd, in words for the user.
    pub warnings: Vec<String>,
}

/// A set as the kernel takes masks: 32-bit groups, highest first, with commas between them.
#[must_use]
pub fn mask(cpus: &CpuSet) -> String {
    let groups = cpus.words().iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]);
    let mut groups: Vec<u32> = groups.collect();
    while groups.len() > 1 && groups.last() == Some(&0) {
        groups.pop();
    }
    let words: Vec<String> = groups.iter().rev().map(|group| format!("{group:08x}")).collect();
    if words.is_empty() { "0".to_owned() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mask_is_what_a_list_is(cpus in prop::collection::btree_set(0u32..400, 0..20)) {
            let cpus: CpuSet = cpus.into_iter().collect();
            prop_assert_eq!(CpuSet::from_mask(&mask(&cpus)), Ok(cpus));
        }
    }

    #[test]
    fn masks_look_like_the_kernels() {
        assert_eq!(mask(&CpuSet::new()), "0");
        assert_eq!(mask(&"0-3,32".parse().unwrap()), "00000001,0000000f");
        assert_eq!(mask(&"31".parse().unwrap()), "80000000");
    }
}
