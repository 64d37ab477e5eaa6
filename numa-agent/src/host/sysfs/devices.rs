//! PCI devices, from a real or captured `/sys`.

use std::{collections::BTreeMap, fs, path::Path};

use super::{SysfsError, tree::Tree};
use crate::core::device::{Device, Kind, is_address};

const PCI: &str = "bus/pci/devices";

/// Where links lead from what people call a device to where it is: interfaces, disks' controllers, RDMA devices, device files.
const NAMES: [&str; 4] = ["class/net", "class/nvme", "class/infiniband", "dev/char"];

/// Reads the devices of the tree at `root`, by address. A machine without PCI has none.
///
/// # Errors
/// [`SysfsError`], naming the file.
pub fn read(root: &Path) -> Result<Vec<Device>, SysfsError> {
    let tree = Tree { root };
    let mut names = names(&tree);
    let mut devices = Vec::new();
    for address in entries(&tree, PCI).into_iter().filter(|name| is_address(name)) {
        let file = |name: &str| format!("{PCI}/{address}/{name}");
        let hex = |name: &str| -> Result<u32, SysfsError> {
            let Some(text) = tree.text(&file(name))? else { return Ok(0) };
            let number = u32::from_str_radix(text.trim_start_matches("0x"), 16);
            number.map_err(|_| tree.content(&file(name), &text, "not a number like 0x020000"))
        };
        let vendor = u16::try_from(hex("vendor")?).unwrap_or(0);
        let signalled =
            entries(&tree, &file("msi_irqs")).iter().filter_map(|name| name.parse().ok()).collect();
        let mut device = Device {
            kind: Kind::of(hex("class")?, vendor),
            // -1 is the kernel's word for unknown.
            node: tree.number(&file("numa_node"))?.and_then(|node| u32::try_from(node).ok()),
            names: names.remove(&address).unwrap_or_default(),
            irqs: signalled,
            address,
        };
        if device.irqs.is_empty() {
            let pin = tree.number(&format!("{PCI}/{}/irq", device.address))?;
            device.irqs.extend(pin.and_then(|irq| u32::try_from(irq).ok()).filter(|irq| *irq != 0));
        }
        devices.push(device);
    }
    devices.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(devices)
}

/// The PCI function that a link of sysfs leads into.
#[must_use]
pub fn address_of(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    let parts = target.iter().filter_map(|part| part.to_str());
    parts.rev().find(|part| is_address(part)).map(str::to_owned)
}

/// What people call the devices, by address.
fn names(tree: &Tree<'_>) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::<String, Vec<String>>::new();
    for folder in NAMES {
        for entry in entries(tree, folder) {
            let link = tree.path(&format!("{folder}/{entry}"));
            let Some(address) = address_of(&link) else { continue };
            // Device files are listed by number.
            let name = match folder {
                "dev/char" => {
                    fs::read_link(&link).ok().and_then(|to| Some(to.file_name()?.to_str()?.to_owned()))
                }
                _ => Some(entry),
            };
            let known = names.entry(address).or_default();
            known.extend(name.filter(|name| !known.contains(name)));
        }
    }
    names.values_mut().for_each(|names| names.sort());
    names
}

/// The names in a folder; none if it is not there.
fn entries(tree: &Tree<'_>, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(tree.path(folder)) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(root: &Path, name: &str, target: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    #[test]
    fn devices_have_kind_node_names_and_interrupts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let npu = "devices/pci0000:c0/0000:c0:00.0/0000:c1:00.0";
        for (file, text) in [
            ("class", "0x120000\n"),
            ("vendor", "0x19e5\n"),
            ("numa_node", "6\n"),
            ("msi_irqs/2753", "msix"),
            ("msi_irqs/2754", ""),
        ] {
            write(root, &format!("{npu}/{file}"), text);
        }
        link(root, "bus/pci/devices/0000:c1:00.0", &format!("../../../{npu}"));
        link(root, "dev/char/236:7", &format!("../../{npu}/davinci/davinci7"));
        let card = "devices/pci0000:00/0000:00:03.0";
        for (file, text) in [("class", "0x020000"), ("vendor", "0x1af4"), ("numa_node", "-1"), ("irq", "11")]
        {
            write(root, &format!("{card}/{file}"), text);
        }
        link(root, "bus/pci/devices/0000:00:03.0", &format!("../../../{card}"));
        link(root, "class/net/eth0", &format!("../../{card}/virtio2/net/eth0"));
        link(root, "class/net/lo", "../../devices/virtual/net/lo");
        let devices = read(root).unwrap();
        let labels: Vec<_> = devices.iter().map(|device| (device.label(), device.node)).collect();
        assert_eq!(
            labels,
            [
                ("0000:00:03.0 network eth0".to_owned(), None),
                ("0000:c1:00.0 npu davinci7".to_owned(), Some(6))
            ]
        );
        assert_eq!(devices[0].irqs, [11].into(), "it has but its pin");
        assert_eq!(devices[1].irqs, [2753, 2754].into());
        write(root, &format!("{npu}/class"), "NPU");
        let error = read(root).unwrap_err().to_string();
        assert!(error.contains("0000:c1:00.0/class"), "{error}");
    }

    #[test]
    fn a_machine_without_pci_has_none() {
        assert!(read(tempfile::tempdir().unwrap().path()).unwrap().is_empty());
    }
}
