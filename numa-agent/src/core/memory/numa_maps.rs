//! Memory by node from the text of `/proc/PID/numa_maps`.

use std::collections::BTreeMap;

/// What was read of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes by node.
    pub nodes: BTreeMap<u32, u64>,
}

impl Memory {
    /// Adds one line, which is one mapping: `N0=12 N1=3 kernelpagesize_kB=4` among other words. A path with blanks in it is
    /// escaped by the kernel.
    pub fn add_line(&mut self, line: &str) {
        let words = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        let page_kb = words.clone().find(|(key, _)| *key == "kernelpagesize_kB");
        let page_kb: u64 = page_kb.and_then(|(_, kb)| kb.parse().ok()).unwrap_or(4);
        for (key, pages) in words {
            let node = key.strip_prefix('N').and_then(|node| node.parse::<u32>().ok());
            if let Some((node, pages)) = node.zip(pages.parse::<u64>().ok()) {
                let sum = self.nodes.entry(node).or_default();
                *sum = sum.saturating_add(pages.saturating_mul(page_kb << 10));
            }
        }
    }

    /// The node with most of it; the lower one of two with the same.
    #[must_use]
    pub fn most(&self) -> Option<u32> {
        let most = self.nodes.iter().max_by_key(|(node, bytes)| (**bytes, std::cmp::Reverse(**node)));
        most.filter(|(_, bytes)| **bytes > 0).map(|(node, _)| *node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
