//! Memory by node, and by policy, from the text of `/proc/PID/numa_maps`.

use std::collections::BTreeMap;

use super::Policy;

/// What was read of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes by node.
    pub nodes: BTreeMap<u32, u64>,
    /// Those of them that come from where the process's policy says: all but the pages of files and of the kernel.
    pub governed: BTreeMap<u32, u64>,
    /// The same by the policy in force: one that the mapping has for itself, else the main thread's.
    pub policies: BTreeMap<String, u64>,
}

/// How the kernel calls files that are but shared memory: POSIX's, memfds, System V's, anonymous, in huge pages.
pub(super) const SHARED_MEMORY: [&str; 5] = ["/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage"];

impl Memory {
    /// Adds one line, which is one mapping: an address and a policy, then `N0=12 N1=3 kernelpagesize_kB=4` among other words.
    /// A path with blanks in it is escaped by the kernel.
    pub fn add_line(&mut self, line: &str) {
        let (_, mapping) = line.split_once(' ').unwrap_or((line, ""));
        let policy = Policy::split(mapping);
        let rest = policy.as_ref().map_or(mapping, |(_, rest)| rest);
        let words = rest.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        let page_kb = words.clone().find(|(key, _)| *key == "kernelpagesize_kB");
        let page_kb: u64 = page_kb.and_then(|(_, kb)| kb.parse().ok()).unwrap_or(4);
        let file = words.clone().find(|(key, _)| *key == "file").map(|(_, path)| path);
        let shared = |path: &str| SHARED_MEMORY.iter().any(|name| path.starts_with(name));
        let is_huge = rest.split_ascii_whitespace().any(|word| word == "huge");
        // Without a file and not the process's own are what the kernel lends it, such as the time of day.
        let is_own = words.clone().any(|(key, _)| key == "anon");
        let is_governed = is_huge || file.map_or(is_own, shared);
        let mut all: u64 = 0;
        for (key, pages) in words {
            let node = key.strip_prefix('N').and_then(|node| node.parse::<u32>().ok());
            if let Some((node, pages)) = node.zip(pages.parse::<u64>().ok()) {
                let bytes = pages.saturating_mul(page_kb << 10);
                all = all.saturating_add(bytes);
                add(&mut self.nodes, node, bytes);
                if is_governed {
                    add(&mut self.governed, node, bytes);
                }
            }
        }
        if is_governed && all > 0 {
            let first_word = || mapping.split_ascii_whitespace().next().unwrap_or_default().to_owned();
            let policy = policy.map_or_else(|_| first_word(), |(policy, _)| policy.to_string());
            add(&mut self.policies, policy, all);
        }
    }

    /// The policy that most of what is governed is under: the kernel keeps no record of the one that a page came by.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.policies.iter().max_by_key(|(_, bytes)| **bytes).map(|(policy, _)| policy.as_str())
    }

    /// The pages of files and of the kernel, by node.
    #[must_use]
    pub fn files(&self) -> BTreeMap<u32, u64> {
        let governed = |node: &u32| self.governed.get(node).copied().unwrap_or(0);
        let rest = self.nodes.iter().map(|(node, bytes)| (*node, bytes.saturating_sub(governed(node))));
        rest.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// The node with most of it; the lower one of two with the same.
    #[must_use]
    pub fn most(&self) -> Option<u32> {
        let most = self.nodes.iter().max_by_key(|(node, bytes)| (**bytes, std::cmp::Reverse(**node)));
        most.filter(|(_, bytes)| **bytes > 0).map(|(node, _)| *node)
    }
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, bytes: u64) {
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(lines: &[&str]) -> Memory {
        let mut memory = Memory::default();
        lines.iter().for_each(|line| memory.add_line(line));
        memory
    }

    #[test]
    fn pages_of_every_size_are_bytes() {
        let mut memory = Memory::default();
        for line in [
            "5581 default file=/usr/bin/N7=9\\040x mapped=3 N0=3 kernelpagesize_kB=4",
            "7f00 interleave:0-1 anon=4 dirty=4 active=0 N0=2 N8=2 kernelpagesize_kB=2048",
            "7fff default stack anon=2 dirty=2 N8=2 kernelpagesize_kB=64",
            "7fff default",
            "",
        ] {
            memory.add_line(line);
        }
        assert_eq!(memory.nodes, BTreeMap::from([(0, (12 << 10) + (4 << 20)), (8, (4 << 20) + (128 << 10))]));
        assert_eq!(memory.most(), Some(8));
        assert_eq!(Memory::default().most(), None);
    }

    /// From 6.18 on x86_64, of a program under `interleave:0` with a mapping of its own policy, huge pages and shared memory;
    /// huge pages and the second node made up.
    const MIXED: [&str; 12] = [
        "555a61a5c000 interleave:0-1 file=/usr/bin/cat mapped=8 active=0 N0=8 kernelpagesize_kB=4",
        "555a61a66000 interleave:0-1 file=/usr/bin/cat anon=1 dirty=1 N1=1 kernelpagesize_kB=4",
        "555a8a5b9000 interleave:0-1 heap anon=3 dirty=3 N0=2 N1=1 kernelpagesize_kB=4",
        "7f3a00000000 prefer (many):0-1 anon=8 dirty=8 N0=8 kernelpagesize_kB=4",
        "7f3a40000000 interleave:0-1 file=/anon_hugepage\\040(deleted) huge anon=2 dirty=2 N0=1 N1=1 kernelpagesize_kB=2048",
        "7f3a50000000 interleave:0-1 file=/mnt/huge/model huge dirty=1 N1=1 kernelpagesize_kB=2048",
        "7f3a60000000 interleave:0-1 file=/dev/shm/ring dirty=4 N0=2 N1=2 kernelpagesize_kB=4",
        "7f3a70000000 interleave:0-1 file=/SYSV00000000\\040(deleted) dirty=1 N0=1 kernelpagesize_kB=4",
        "7f3a80000000 interleave:0-1 file=/memfd:x\\040(deleted) dirty=1 N1=1 kernelpagesize_kB=4",
        "7ffd14a3e000 interleave:0-1 stack anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB=4",
        "7ffd14bd9000 interleave:0-1",
        "7ffd14be0000 striped:0 anon=1 N0=1 kernelpagesize_kB=4",
    ];

    #[test]
    fn what_the_kernel_lends_is_governed_by_nobody_here() {
        // `[vvar]` on 7.2, between the process's own.
        let memory = memory(&[
            "7f03807b5000 default anon=3 dirty=3 active=0 N1=3 kernelpagesize_kB=4",
            "7f03807b9000 default mapped=1 mapmax=2 active=0 N0=1 kernelpagesize_kB=4",
            "7f03807bd000 default",
        ]);
        assert_eq!(memory.nodes, BTreeMap::from([(0, 1 << 12), (1, 3 << 12)]));
        assert_eq!(memory.governed, BTreeMap::from([(1, 3 << 12)]));
        assert_eq!(memory.policies, BTreeMap::from([("default".to_owned(), 3 << 12)]));
    }

    #[test]
    fn pages_of_files_are_governed_by_nobody_here() {
        let memory = memory(&MIXED);
        let huge = 2 << 20;
        assert_eq!(memory.files(), BTreeMap::from([(0, 8 << 12), (1, 1 << 12)]));
        assert_eq!(memory.governed, BTreeMap::from([(0, huge + (15 << 12)), (1, 2 * huge + (6 << 12))]));
        let policies = BTreeMap::from([
            ("interleave:0-1".to_owned(), 3 * huge + (12 << 12)),
            ("prefer (many):0-1".to_owned(), 8 << 12),
            ("striped:0".to_owned(), 1 << 12),
        ]);
        assert_eq!(memory.policies, policies);
        assert_eq!(memory.policy(), Some("interleave:0-1"));
        assert_eq!(Memory::default().policy(), None);
    }
}
