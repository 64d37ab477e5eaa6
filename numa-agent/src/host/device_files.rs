//! Device files by the patterns of the configuration, and the numbers that the kernel knows them by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};
use numa_ebpf::record::device_number;

use super::sysfs::devices::address_of;

/// The numbers of the character devices that there are now. What cannot be looked at is none.
#[must_use]
pub fn numbers(patterns: &[String]) -> BTreeSet<u32> {
    files(patterns).filter_map(|(_, device)| number(device)).collect()
}

/// The character devices, with their numbers as programs know them.
fn files(patterns: &[String]) -> impl Iterator<Item = (PathBuf, u64)> + '_ {
    // Patterns have been checked when they were read.
    let files = patterns.iter().filter_map(|pattern| glob::glob(pattern).ok()).flatten().flatten();
    files.filter_map(|file| {
        let facts = fs::metadata(&file).ok().filter(|facts| facts.file_type().is_char_device())?;
        Some((file, facts.rdev()))
    })
}

/// As the kernel keeps it; `None` for numbers that it does not have.
fn number(device: u64) -> Option<u32> {
    let (major, minor) = (u32::try_from(major(device)).ok()?, u32::try_from(minor(device)).ok()?);
    (major < 1 << 12 && minor < 1 << 20).then(|| device_number(major, minor))
}

/// More than any machine has.
const MAX_DEVICES: u32 = 4096;

/// Which NPUs a container was given, by their numbers on the host (Ascend Docker Runtime).
const OF_CONTAINER: &str = "ASCEND_VISIBLE_DEVICES";
/// Which of those that it sees a process was given, counted from 0 (CANN).
const OF_PROCESS: &str = "ASCEND_RT_VISIBLE_DEVICES";

/// The device files of the patterns whose node is known: their drivers tell sysfs which PCI function they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Nodes by the kernel's number.
    by_number: BTreeMap<u32, u32>,
    /// Nodes by the number at the end of the file's name.
    by_name: BTreeMap<u32, u32>,
}

impl Devices {
    /// Reads them; `sysfs` is `/sys`.
    #[must_use]
    pub fn read(sysfs: &Path, patterns: &[String]) -> Self {
        let mut devices = Self::default();
        for (path, device) in files(patterns) {
            let (Some(number), Some(node)) = (number(device), node_of(sysfs, device)) else { continue };
            devices.by_number.insert(number, node);
            devices.by_name.extend(number_in(&path.to_string_lossy()).map(|name| (name, node)));
        }
        devices
    }

    /// Whether nothing is known of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// The node of the first of these open files that is one of them.
    pub fn of_open(&self, devices: impl Iterator<Item = u64>) -> Option<u32> {
        let first = devices.filter_map(number).filter(|number| self.by_number.contains_key(number)).min();
        self.by_number.get(&first?).copied()
    }

    /// The node of the first one that a process was given by its environment.
    pub fn of_environment(&self, env: impl Fn(&str) -> Option<String>) -> Option<u32> {
        let own = env(OF_PROCESS).and_then(|list| numbers_in(&list).next());
        let given = env(OF_CONTAINER);
        let first = match (own, given) {
            (Some(own), Some(given)) => numbers_in(&given).nth(own as usize),
            (own, given) => own.or_else(|| numbers_in(&given?).next()),
        };
        self.by_name.get(&first?).copied()
    }
}

/// The node of the PCI function that a character device is of.
fn node_of(sysfs: &Path, device: u64) -> Option<u32> {
    let link = sysfs.join(format!("dev/char/{}:{}", major(device), minor(device)));
    let node = sysfs.join("bus/pci/devices").join(address_of(&link)?).join("numa_node");
    fs::read_to_string(node).ok()?.trim().parse().ok()
}

/// `davinci7`: 7.
fn number_in(name: &str) -> Option<u32> {
    name[name.trim_end_matches(|c: char| c.is_ascii_digit()).len()..].parse().ok()
}

/// `0,2-3`, `Ascend910-4,Ascend910-5`: the numbers, in order; words that are none are left out. Somebody else's text: one by one, and no
/// more than there can be.
fn numbers_in(list: &str) -> impl Iterator<Item = u32> {
    let word = |word: &str| match word.split_once('-').map(|(from, to)| (from.parse(), to.parse::<u32>())) {
        Some((Ok(from), Ok(to))) if to < MAX_DEVICES => Some(from..=to),
        _ => number_in(word).map(|number| number..=number),
    };
    list.split(',').filter_map(move |each| word(each.trim())).flatten().take(MAX_DEVICES as usize)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn of(patterns: &[&str]) -> Vec<u32> {
        numbers(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>()).into_iter().collect()
    }

    #[test]
    fn lists_of_numbers_have_an_end() {
        let numbers = |list: &str| numbers_in(list).collect::<Vec<_>>();
        assert_eq!(numbers("0, 2-3,x,Ascend910-4,Ascend910-5,9-7"), [0, 2, 3, 4, 5]);
        assert_eq!(numbers(&"0-4095,".repeat(10_000)).len(), MAX_DEVICES as usize);
    }

    #[test]
    fn character_devices_are_known_by_their_numbers() {
        // Documentation/admin-guide/devices.txt: memory devices are major 1.
        assert_eq!(of(&["/dev/nul[l]", "/dev/zero", "/dev/null"]), [1 << 20 | 3, 1 << 20 | 5]);
        assert_eq!(of(&["/dev", "/proc/self/exe", "/dev/no-such-*"]), Vec::<u32>::new());
    }

    /// A machine with two NPUs: number 3 on node 6, number 4 on node 1; `/dev/full` and `/dev/zero` are their files.
    fn machine(dir: &Path) -> Devices {
        for (name, file, device, address, node) in [
            ("npu3", "/dev/full", "1:7", "0000:c1:00.0", "6"),
            ("npu4", "/dev/zero", "1:5", "0000:01:00.0", "1"),
        ] {
            let home = dir.join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&home).unwrap();
            fs::write(home.join("numa_node"), node).unwrap();
            fs::create_dir_all(dir.join("sys/dev/char")).unwrap();
            let target = format!("../../devices/pci0000:00/{address}/davinci/{name}");
            symlink(target, dir.join("sys/dev/char").join(device)).unwrap();
            symlink(file, dir.join(name)).unwrap();
        }
        Devices::read(&dir.join("sys"), &[dir.join("npu*").to_str().unwrap().to_owned()])
    }

    #[test]
    fn the_first_device_that_a_process_has_says_where_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let devices = machine(dir.path());
        let rdev = |path: &str| fs::metadata(path).unwrap().rdev();
        assert_eq!(devices.of_open([rdev("/dev/null"), rdev("/dev/full")].into_iter()), Some(6));
        assert_eq!(devices.of_open([rdev("/dev/null")].into_iter()), None);
        let env = |container: Option<&str>, process: Option<&str>| {
            devices.of_environment(|name| {
                let value = if name == OF_CONTAINER { container } else { process };
                value.map(str::to_owned)
            })
        };
        assert_eq!(env(None, Some("4,3")), Some(1));
        assert_eq!(env(Some("3-4"), None), Some(6));
        assert_eq!(
            env(Some("Ascend910-3,Ascend910-4"), Some("1")),
            Some(1),
            "the second of those that it sees"
        );
        assert_eq!([env(None, None), env(Some("void"), None), env(None, Some("9"))], [None; 3]);
        assert!(
            Devices::read(&dir.path().join("no"), &[dir.path().join("npu*").to_str().unwrap().to_owned()])
                .is_empty()
        );
    }
}
