//! Which of a running process's pages go where, and how many at a time: `numa-agent repair`'s decisions.

use std::collections::{BTreeMap, VecDeque};

use super::{numa_maps::SHARED_MEMORY, verify::LEAST_BALANCE};
use crate::core::idset::NodeSet;

/// Pages of one such part of the address space go to one node: a transparent huge page is one on x86_64, and on aarch64 with pages of
/// 4 KiB, and would otherwise be moved to and fro.
pub const BLOCK_BYTES: u64 = 2 << 20;

/// Memory of a process that comes from where a policy says, as `numa_maps` has it: all but the pages of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// Bytes of its pages, as far as they are known to be larger than the others: huge pages of the pool.
    pub huge_bytes: Option<u64>,
}

/// The pools of huge pages (`hugetlbfs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes of one where nothing else is said.
    pub default_bytes: u64,
    /// Where files of them are, and their size.
    pub mounts: Vec<(String, u64)>,
}

impl Mapping {
    /// A line of `/proc/PID/maps`; `None`: no policy governs it, or nobody may touch it.
    #[must_use]
    pub fn parse(line: &str, huge: &HugePages) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        let rights = words.next()?;
        let path = words.nth(3).unwrap_or("");
        let of_mount = |(mount, _): &&(String, u64)| {
            path.strip_prefix(mount.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let huge_bytes = if path.starts_with("/anon_hugepage") {
            Some(huge.default_bytes)
        } else {
            huge.mounts.iter().find(of_mount).map(|(_, bytes)| *bytes)
        };
        let own = path.is_empty() || ["[heap]", "[stack", "[anon"].iter().any(|name| path.starts_with(name));
        let governed = own || huge_bytes.is_some() || SHARED_MEMORY.iter().any(|name| path.starts_with(name));
        (governed && start < end && !rights.starts_with("---")).then_some(Self { start, end, huge_bytes })
    }

    /// Its pages' addresses, a block at a time; `page_bytes` is the size of ordinary ones.
    pub fn blocks(self, page_bytes: u64) -> impl Iterator<Item = Vec<u64>> {
        let page = self.huge_bytes.unwrap_or(page_bytes).max(1);
        let block = BLOCK_BYTES.max(page);
        let mut at = self.start;
        std::iter::from_fn(move || {
            let end = ((at / block + 1) * block).min(self.end);
            let pages: Vec<u64> = (at..end).step_by(page as usize).collect();
            at = end;
            (!pages.is_empty()).then_some(pages)
        })
    }
}

/// Where pages are to go, by how much each node has: to the planned nodes that lack most, in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// By planned node: what it lacks, and what of that is still to come.
    lacking: BTreeMap<u32, (u64, i64)>,
    /// By planned node: what it has, what of that is too much, and how far the next block is from being too much.
    surplus: BTreeMap<u32, (u64, u64, u64)>,
    nodes: NodeSet,
}

impl Targets {
    /// For a process that has those bytes by node, and should have them on `nodes`, the same on each. What is on one of these nodes stays,
    /// unless they would be out of balance as `bind --memory` has it.
    #[must_use]
    pub fn new(bytes: &BTreeMap<u32, u64>, nodes: &NodeSet) -> Self {
        let total: u64 = bytes.values().sum();
        let on = |node: u32| bytes.get(&node).copied().unwrap_or(0);
        let even = total / (nodes.len() as u64).max(1);
        let lacking: BTreeMap<u32, (u64, i64)> = nodes
            .iter()
            .map(|node| (node, even.saturating_sub(on(node))))
            .map(|(node, bytes)| (node, (bytes, i64::try_from(bytes).unwrap_or(i64::MAX))))
            .collect();
        let wanted: u64 = lacking.values().map(|(bytes, _)| bytes).sum();
        let strayed = total - nodes.iter().map(on).sum::<u64>();
        // Once what strayed is back, each has this share of what it lacked.
        let filled = if wanted == 0 { 1.0 } else { strayed as f64 / wanted as f64 };
        let worst = lacking
            .iter()
            .map(|(node, (lack, _))| on(*node) as f64 + *lack as f64 * filled.min(1.0))
            .fold(f64::INFINITY, f64::min);
        let unbalanced = worst < LEAST_BALANCE * even as f64;
        let over = nodes.iter().filter(|node| unbalanced && on(*node) > even);
        let surplus = over.map(|node| (node, (on(node), on(node) - even, 0))).collect();
        Self { lacking, surplus, nodes: nodes.clone() }
    }

    /// Where `bytes` go that are on node `from`; `None`: they stay.
    pub fn target(&mut self, from: u32, bytes: u64) -> Option<u32> {
        if let Some((has, too_much, next)) = self.surplus.get_mut(&from) {
            *next += *too_much;
            if *next < *has {
                return None;
            }
            *next -= *has;
        } else if self.nodes.contains(from) {
            return None;
        }
        // The one of which the largest share is still to come; of several the one that lacked most, and the lowest.
        // More may come than was counted.
        let share = |(lack, left): &(u64, i64)| *left as f64 / (*lack).max(1) as f64;
        let first = |a: &(&u32, &(u64, i64)), b: &(&u32, &(u64, i64))| {
            let by_share = share(a.1).total_cmp(&share(b.1));
            by_share.then(a.1.0.cmp(&b.1.0)).then(b.0.cmp(a.0))
        };
        let others = self.lacking.iter().filter(|(node, _)| **node != from);
        let node = others.max_by(first).map(|(node, _)| *node)?;
        let (_, left) = self.lacking.get_mut(&node)?;
        *left = left.saturating_sub_unsigned(bytes);
        Some(node)
    }
}

/// Why the next pages are not to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// A node has no room for them.
    Node(u32),
    /// So many pages have been swapped out since it began.
    Swapped(u64),
}

/// Pages that the kernel may swap out meanwhile: other programs' doing. More is ours.
const MAX_SWAPPED: u64 = 1024;

impl Shortage {
    /// For bytes that are wanted of each node; `room`: what it has without reclaim, if that is known; and pages swapped out, if they are counted.
    #[must_use]
    pub fn of(
        wanted: &BTreeMap<u32, u64>,
        room: impl Fn(u32) -> Option<u64>,
        swapped: Option<u64>,
    ) -> Option<Self> {
        let full = wanted.iter().find(|(node, bytes)| room(**node).is_some_and(|room| room < **bytes));
        let swapped = swapped.filter(|pages| *pages > MAX_SWAPPED).map(Self::Swapped);
        full.map(|(node, _)| Self::Node(*node)).or(swapped)
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node} has no room without reclaim"),
            Self::Swapped(pages) => {
                write!(f, "the machine began to swap: {pages} pages went out since the start")
            }
        }
    }
}

/// How much is moved at a time, and for how long nothing is then: pages that are being moved hold up who touches them, for as
/// long as the call takes at most, but for what it takes before it touches any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    max_pause_ns: u64,
    batch_bytes: u64,
    /// What calls took that had nothing to move, the last ones.
    empty_ns: VecDeque<u64>,
    /// Batches since the last of them.
    batches: u32,
}

impl Pace {
    /// What the first batch has: 64 pages of 4 KiB.
    const FIRST_BYTES: u64 = 256 << 10;
    /// The most that a batch has.
    const MOST_BYTES: u64 = 256 << 20;
    /// The least, but for what is left: less takes no less time.
    const LEAST_BYTES: u64 = 64 << 10;
    /// Calls without pages that are remembered, and batches from one to the next.
    const EMPTY_CALLS: usize = 4;
    const EMPTY_EVERY: u32 = 16;

    /// Batches that take `max_pause_ns` at most.
    #[must_use]
    pub fn new(max_pause_ns: u64) -> Self {
        Self { max_pause_ns, batch_bytes: Self::FIRST_BYTES, empty_ns: VecDeque::new(), batches: 0 }
    }

    /// Whether it is time for a call that has nothing to move. The kernel begins each by having all CPUs hand in their lists of pages, which takes
    /// milliseconds on large machines, and holds up nobody who touches memory: batches are not to become smaller for it.
    #[must_use]
    pub fn wants_empty_call(&self) -> bool {
        self.empty_ns.len() < Self::EMPTY_CALLS || self.batches >= Self::EMPTY_EVERY
    }

    /// Such a call took so long.
    pub fn empty_call(&mut self, ns: u64) {
        self.batches = 0;
        self.empty_ns.push_back(ns);
        if self.empty_ns.len() > Self::EMPTY_CALLS {
            self.empty_ns.pop_front();
        }
    }

    /// For how long a call that took so long may have held up somebody. The shortest of the empty ones counts: what made the others longer may not have
    /// been there.
    #[must_use]
    pub fn pause_ns(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.empty_ns.iter().min().copied().unwrap_or(0))
    }

    /// The machine has been at other things since the last batch: how long that took tells nothing any more.
    pub fn begin_anew(&mut self) {
        self.batch_bytes = self.batch_bytes.min(Self::FIRST_BYTES);
    }

    /// What the next batch may have; a page is moved whole, however large.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    /// A batch of so many bytes took so long: for how long, in nanoseconds, none is to follow if `duty_percent` of the time are batches.
    /// Aims at half of what a pause may be.
    pub fn took(&mut self, bytes: u64, ns: u64, duty_percent: u64) -> u64 {
        let (aim_ns, pause_ns) = (self.max_pause_ns / 2, self.pause_ns(ns));
        self.batches += 1;
        // At once as far down as is needed, and up in small steps: a batch that took little may have been lucky.
        let scaled = u128::from(bytes.max(1)) * u128::from(aim_ns) / u128::from(pause_ns.max(1));
        let most = u128::from(self.batch_bytes) + u128::from(self.batch_bytes) / 2;
        // A small rest of a mapping tells little of a whole batch.
        if pause_ns > aim_ns || bytes * 2 >= self.batch_bytes {
            let next = scaled.min(most).min(u128::from(Self::MOST_BYTES));
            self.batch_bytes = u64::try_from(next).unwrap_or(Self::MOST_BYTES).max(Self::LEAST_BYTES);
        }
        let duty_percent = duty_percent.clamp(1, 100);
        ns.saturating_mul(100 - duty_percent) / duty_percent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> NodeSet {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_policy_governs_is_found() {
        let huge = HugePages { default_bytes: 2 << 20, mounts: vec![("/dev/hugepages1G".into(), 1 << 30)] };
        let parse = |line: &str| Mapping::parse(line, &huge).map(|mapping| mapping.huge_bytes);
        assert_eq!(parse("7f0000000000-7f0000200000 rw-p 00000000 00:00 0 "), Some(None));
        assert_eq!(parse("55d0-55e0 rw-p 00000000 00:00 0                          [heap]"), Some(None));
        assert_eq!(parse("55d0-55e0 rw-s 00000000 00:01 7    /dev/shm/x"), Some(None));
        assert_eq!(parse("55d0-55e0 rw-s 00000000 00:01 7    /memfd:x (deleted)"), Some(None));
        assert_eq!(parse("1000-2000 rw-s 0 00:0e 7 /anon_hugepage (deleted)"), Some(Some(2 << 20)));
        assert_eq!(parse("1000-2000 rw-s 0 00:0e 7 /dev/hugepages1G/model"), Some(Some(1 << 30)));
        for line in [
            "1000-2000 r-xp 00000000 fd:00 7  /usr/bin/cat",
            "1000-2000 ---p 00000000 00:00 0 ",
            "1000-2000 r-xp 00000000 00:00 0  [vdso]",
            "1000-2000 rw-s 00000000 00:05 7  /dev/davinci0",
            "1000-2000 rw-s 00000000 00:05 7  /dev/hugepages1Gone",
            "2000-1000 rw-p 00000000 00:00 0 ",
            "nonsense",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn blocks_are_aligned_and_cover_all_pages() {
        let mapping = Mapping { start: BLOCK_BYTES - 8192, end: 3 * BLOCK_BYTES + 4096, huge_bytes: None };
        let blocks: Vec<Vec<u64>> = mapping.blocks(4096).collect();
        let sizes: Vec<usize> = blocks.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 512, 512, 1]);
        assert_eq!(blocks.concat(), (mapping.start..mapping.end).step_by(4096).collect::<Vec<u64>>());
        let huge = Mapping { start: 1 << 30, end: 3 << 30, huge_bytes: Some(1 << 30) };
        assert_eq!(huge.blocks(4096).collect::<Vec<_>>(), [[1 << 30], [2 << 30]]);
    }

    #[test]
    fn what_strayed_is_interleaved_and_the_rest_stays() {
        let mut targets = Targets::new(&BTreeMap::from([(3, 8)]), &set("0-1"));
        let order: Vec<Option<u32>> = (0..8).map(|_| targets.target(3, 1)).collect();
        let both = [Some(0), Some(1)].repeat(4);
        assert_eq!(order, both);
        assert_eq!(targets.target(0, 1), None);
        // What is there already counts.
        let mut targets = Targets::new(&BTreeMap::from([(0, 4), (3, 4)]), &set("0-1"));
        assert!((0..4).all(|_| targets.target(3, 1) == Some(1)) && targets.target(0, 1).is_none());
    }

    #[test]
    fn an_uneven_rest_is_evened_out_by_every_so_many_blocks() {
        let mut targets = Targets::new(&BTreeMap::from([(0, 90), (1, 10)]), &set("0-1"));
        let moved = (0..90).filter(|_| targets.target(0, 1) == Some(1)).count();
        assert_eq!((moved, targets.target(1, 1)), (40, None));
        // Tolerated, and so left alone.
        let mut targets = Targets::new(&BTreeMap::from([(0, 60), (1, 40)]), &set("0-1"));
        assert!((0..60).all(|_| targets.target(0, 1).is_none()));
        // A single node takes all.
        let mut targets = Targets::new(&BTreeMap::from([(0, 9), (5, 9)]), &set("5"));
        assert_eq!((targets.target(0, 9), targets.target(5, 9)), (Some(5), None));
    }

    proptest! {
        #[test]
        fn pages_end_up_even_on_the_planned_nodes_and_no_more_move_than_must(
            have in prop::collection::btree_map(0u32..6, 0u64..400, 1..6),
            planned in prop::collection::btree_set(0u32..6, 1..4),
        ) {
            let nodes: NodeSet = planned.iter().copied().collect();
            let total: u64 = have.values().sum();
            let mut targets = Targets::new(&have, &nodes);
            let (mut after, mut moved) = (have.clone(), 0);
            for (from, blocks) in &have {
                for _ in 0..*blocks {
                    if let Some(to) = targets.target(*from, 1) {
                        prop_assert!(nodes.contains(to) && to != *from);
                        *after.entry(*from).or_default() -= 1;
                        *after.entry(to).or_default() += 1;
                        moved += 1;
                    }
                }
            }
            let on = |bytes: &BTreeMap<u32, u64>, node: u32| bytes.get(&node).copied().unwrap_or(0);
            prop_assert_eq!(nodes.iter().map(|node| on(&after, node)).sum::<u64>(), total);
            let even = total as f64 / nodes.len() as f64;
            for node in nodes.iter() {
                prop_assert!(on(&after, node) as f64 >= LEAST_BALANCE * even - 8.0, "{after:?} of {have:?}");
            }
            let strayed = total - nodes.iter().map(|node| on(&have, node)).sum::<u64>();
            let over: u64 = nodes.iter().map(|node| on(&have, node).saturating_sub(even as u64)).sum();
            prop_assert!(moved >= strayed && moved <= strayed + over);
        }

        #[test]
        fn batches_come_to_stay_within_the_pause(
            max_ms in 1u64..100, ns_per_kib in 1u64..20_000, empty_us in 0u64..200_000,
        ) {
            let max_ns = max_ms * 1_000_000;
            // However long a call takes before it touches a page.
            let cost = |bytes: u64| (bytes >> 10) * ns_per_kib;
            let mut pace = Pace::new(max_ns);
            let (mut longest, mut empty) = (0, 0);
            for batch in 0..60 {
                if pace.wants_empty_call() {
                    empty += 1;
                    pace.empty_call(empty_us * 1_000 * (1 + empty % 2));
                }
                let bytes = pace.batch_bytes();
                // The first of the two lengths is known after the second call.
                let ns = cost(bytes) + empty_us * 1_000 * if batch == 0 { 2 } else { 1 };
                prop_assert_eq!(pace.took(bytes, ns, 50), ns, "half of the time");
                if batch > 0 {
                    longest = longest.max(cost(bytes));
                }
            }
            prop_assert!(longest <= max_ns.max(cost(Pace::LEAST_BYTES)), "{longest} of {max_ns}");
            // And it is not shy either.
            let last = pace.batch_bytes();
            prop_assert!(last >= Pace::MOST_BYTES || cost(last * 4) * 2 + 2_000_000 >= max_ns, "{last}");
            prop_assert!((4..10).contains(&empty), "{empty} calls that move nothing");
        }
    }

    #[test]
    fn a_batch_that_took_too_long_makes_the_next_smaller_at_once() {
        let mut pace = Pace::new(20_000_000);
        assert_eq!(pace.took(256 << 10, 40_000_000, 25), 120_000_000, "a quarter of the time");
        assert_eq!(pace.batch_bytes(), 64 << 10);
        // A rest of one page says nothing against it.
        pace.took(4096, 1_000, 25);
        assert_eq!(pace.batch_bytes(), 64 << 10);
        pace.begin_anew();
        assert_eq!(pace.batch_bytes(), 64 << 10, "no larger than it was");
        for _ in 0..9 {
            pace.took(pace.batch_bytes(), 1_000, 25);
        }
        assert!(pace.batch_bytes() > 1 << 20);
        pace.begin_anew();
        assert_eq!(pace.batch_bytes(), 256 << 10);
    }

    #[test]
    fn without_room_or_when_pages_are_swapped_out_it_is_enough() {
        let wanted = BTreeMap::from([(0, 100), (2, 100)]);
        let room = |node: u32| (node != 2).then_some(100);
        assert_eq!(
            Shortage::of(&wanted, room, Some(MAX_SWAPPED)),
            None,
            "a node that does not say, and a few pages"
        );
        assert_eq!(Shortage::of(&wanted, room, None), None);
        let swapped = Shortage::of(&wanted, room, Some(MAX_SWAPPED + 1)).unwrap();
        assert_eq!(swapped.to_string(), "the machine began to swap: 1025 pages went out since the start");
        let full = Shortage::of(&wanted, |node| Some(100 - u64::from(node)), None).unwrap();
        assert_eq!(full.to_string(), "node 2 has no room without reclaim");
    }
}
