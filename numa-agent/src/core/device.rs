//! PCI devices as far as placement cares: what kind, on which node, and which interrupts are theirs.
//!
//! Built by `host::sysfs::devices` from a real or captured `/sys`.

use std::{collections::BTreeSet, fmt};

/// Huawei's PCI vendor id: Ascend NPUs, and the network and storage controllers of Kunpeng CPUs.
const HUAWEI: u16 = 0x19e5;

/// What a device is, by its PCI class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Processing accelerators of Huawei: Ascend NPUs.
    Npu,
    /// Display and 3D controllers.
    Gpu,
    /// Other processing accelerators and co-processors.
    Accelerator,
    /// Ethernet, InfiniBand and such.
    Network,
    /// NVMe, SAS, SATA.
    Storage,
    /// Bridges, USB, management: nothing that a plan cares for.
    Other,
}

impl Kind {
    /// By the class (`0x120000`: class, subclass, interface) and the vendor.
    #[must_use]
    pub fn of(class: u32, vendor: u16) -> Self {
        match (class >> 16, class >> 8) {
            (0x12, _) | (_, 0x0b40) if vendor == HUAWEI => Self::Npu,
            (0x12, _) | (_, 0x0b40) => Self::Accelerator,
            (0x03, _) => Self::Gpu,
            (0x02, _) => Self::Network,
            (0x01, _) => Self::Storage,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Npu => "npu",
            Self::Gpu => "gpu",
            Self::Accelerator => "accelerator",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Other => "other",
        })
    }
}

/// One PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Domain, bus, device and function: `0000:c1:00.0`.
    pub address: String,
    /// What it is.
    pub kind: Kind,
    /// The node it is attached to; `None` where the firmware does not say (`numa_node` is -1).
    pub node: Option<u32>,
    /// What the system calls it: network interfaces, NVMe controllers, RDMA devices.
    pub names: Vec<String>,
    /// Its message-signalled interrupts; the one of its pin where it has none.
    pub irqs: BTreeSet<u32>,
}

impl Device {
    /// `0000:c1:00.0 npu davinci0`; not escaped.
    #[must_use]
    pub fn label(&self) -> String {
        let Self { address, kind, names, .. } = self;
        let words = [address.clone(), kind.to_string()];
        words.into_iter().chain(names.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
}

/// Whether that is the name of a PCI function's directory: `0000:c1:00.0`.
#[must_use]
pub fn is_address(name: &str) -> bool {
    let mut parts = name.split([':', '.']);
    let mut hex = |digits: std::ops::RangeInclusive<usize>| {
        parts.next().is_some_and(|part| {
            digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    // Domains of virtual functions behind some host bridges have more than 4 digits.
    hex(4..=8) && hex(2..=2) && hex(2..=2) && hex(1..=1) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_and_the_vendor_say_what_it_is() {
        for (class, vendor, kind) in [
            (0x12_0000, 0x19e5, Kind::Npu),
            (0x12_0000, 0x1da3, Kind::Accelerator),
            (0x0b_4000, 0x8086, Kind::Accelerator),
            (0x03_0200, 0x10de, Kind::Gpu),
            (0x02_0000, 0x19e5, Kind::Network),
            (0x02_0700, 0x15b3, Kind::Network),
            (0x01_0802, 0x144d, Kind::Storage),
            (0x06_0400, 0x19e5, Kind::Other),
        ] {
            assert_eq!(Kind::of(class, vendor), kind, "{class:06x}");
        }
    }

    #[test]
    fn addresses_are_told_from_other_names() {
        assert!(is_address("0000:c1:00.0") && is_address("10000:01:00.7"));
        for name in ["", "virtio0", "pci0000:00", "0000:c1:00", "0000:c1:00.0:pcie001", "00:c1:00.0"] {
            assert!(!is_address(name), "{name}");
        }
    }
}
