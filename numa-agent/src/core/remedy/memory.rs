//! What works against a memory plan.

use super::Finding;
use crate::core::{
    memory::conditions::{Concern, Conditions, NodeRoom},
    units::{bytes, share},
};

/// A file about memory makes no sense.
#[must_use]
pub fn unknown(error: &str) -> Finding {
    Finding::new(
        "memory",
        format!("what works against a memory plan is not known: {error}"),
        "# look at that file; report it if the kernel is not at fault",
    )
}

/// The concern in words.
#[must_use]
pub fn finding(concern: &Concern) -> Finding {
    let (name, found, fix) = match concern {
        Concern::Balancing(value) => (
            "balancing",
            format!(
                "kernel.numa_balancing is {value}: {}",
                if value & 1 == 1 {
                    "the kernel makes threads fault to see where they are, and moves their pages and them"
                } else {
                    "the kernel makes threads fault to see which pages are hot, and moves those to faster nodes"
                }
            ),
            "sysctl -w kernel.numa_balancing=0 # and in /etc/sysctl.d to keep it".into(),
        ),
        Concern::ZoneReclaim(value) => (
            "reclaim",
            format!("vm.zone_reclaim_mode is {value}: on a full node threads wait for pages to be taken back"),
            "sysctl -w vm.zone_reclaim_mode=0 # and in /etc/sysctl.d to keep it".into(),
        ),
        Concern::HugePagesAlways => (
            "huge pages",
            "transparent huge pages are given to everybody: memory is spread in pieces of 2 MiB and more, and \
             khugepaged puts pages of running threads together on one node"
                .into(),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled # measure before and after: numa-agent jitter".into(),
        ),
        Concern::DefragAlways => (
            "compaction",
            "transparent_hugepage/defrag is always: threads that touch memory first wait until a huge page is made".into(),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/defrag".into(),
        ),
        Concern::Short(nodes) => (
            "room",
            format!("{}: new memory comes from other nodes", nodes.iter().map(room).collect::<Vec<_>>().join(", ")),
            if nodes.iter().any(|node| node.file_bytes > node.free_bytes) {
                "sync; echo 1 > /proc/sys/vm/drop_caches # before the start: file pages are not given up while other nodes have room"
            } else {
                "numa-agent bind --memory # with the plan's flags says where its processes have theirs; move or end what else fills it"
            }
            .into(),
        ),
        Concern::Stalled(percent) => (
            "pressure",
            format!("in the last minute some task waited for memory {percent} % of the time (/proc/pressure/memory)"),
            "# give the machine or the service's cgroup more memory, or less to do".into(),
        ),
    };
    Finding { name, found, fix }
}

/// What there is, where nothing of it is a concern: one line.
#[must_use]
pub fn summary(conditions: &Conditions) -> String {
    let number = |value: Option<u32>| value.map_or("-".into(), |value| value.to_string());
    let word = |word: &Option<String>| word.clone().unwrap_or("-".into());
    let least = conditions.nodes.iter().min_by(|a, b| a.free_share().total_cmp(&b.free_share()));
    format!(
        "numa_balancing {}, zone_reclaim_mode {}, huge pages {}, defrag {}, {}",
        number(conditions.balancing),
        number(conditions.zone_reclaim),
        word(&conditions.huge_pages),
        word(&conditions.defrag),
        least.map_or("no node's memory known".into(), room),
    )
}

/// `node 3 has 1.00 GiB of 128 GiB free (0.78 %), 100 GiB are of files`.
#[must_use]
pub fn room(node: &NodeRoom) -> String {
    format!(
        "node {} has {} of {} free ({}), {} are of files",
        node.id,
        bytes(node.free_bytes),
        bytes(node.total_bytes),
        share(node.free_share()),
        bytes(node.file_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(file_bytes: u64) -> Finding {
        let node = NodeRoom { id: 3, total_bytes: 128 << 30, free_bytes: 1 << 30, file_bytes };
        finding(&Concern::Short(vec![node]))
    }

    #[test]
    fn the_cache_is_dropped_only_where_that_helps() {
        let full = short(100 << 30);
        assert_eq!(
            full.found,
            "node 3 has 1.00 GiB of 128 GiB free (0.78 %), 100 GiB are of files: new memory comes from other nodes"
        );
        assert!(full.fix.contains("drop_caches"), "{}", full.fix);
        assert!(!short(0).fix.contains("drop_caches"));
    }

    #[test]
    fn balancing_and_tiering_are_told_apart() {
        let found = |value| finding(&Concern::Balancing(value)).found;
        assert!(
            found(1).contains("moves their pages and them")
                && found(3).contains("moves their pages and them")
        );
        assert!(found(2).contains("faster nodes"));
        assert!(finding(&Concern::Balancing(1)).warning().ends_with("to keep it"));
    }

    #[test]
    fn what_a_kernel_does_not_have_is_a_dash() {
        assert_eq!(
            summary(&Conditions { balancing: Some(0), ..Conditions::default() }),
            "numa_balancing 0, zone_reclaim_mode -, huge pages -, defrag -, no node's memory known"
        );
    }
}
