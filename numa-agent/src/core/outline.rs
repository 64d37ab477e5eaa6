//! What of a machine may change while we run and a plan depends on: little enough to be read every second.
//!
//! Reading it is `host::sysfs`'s part, and what follows from a change the agent's.

use super::idset::{CpuSet, IdSet, NodeSet};

/// A machine as far as it may change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Online CPUs.
    pub online: CpuSet,
    /// Online nodes.
    pub nodes: NodeSet,
    /// Those of the online CPUs that our own cgroup allows.
    pub allowed: CpuSet,
    /// The nodes whose memory we may use: online, with memory, allowed by our own cgroup.
    pub memory: NodeSet,
}

impl Outline {
    /// What is different in `now`, in words. A CPU that our cgroup lost or got by going offline or coming online is not
    /// named twice.
    #[must_use]
    pub fn changes(&self, now: &Self) -> String {
        let lost = |before: &IdSet, after: &IdSet| before.difference(after);
        let kept = |set: IdSet, still: &IdSet| set.intersection(still);
        let (cpus, nodes) = (["CPU", "CPUs"], ["node", "nodes"]);
        let changes = [
            (cpus, lost(&self.online, &now.online), "went offline"),
            (cpus, lost(&now.online, &self.online), "came online"),
            (nodes, lost(&self.nodes, &now.nodes), "went offline"),
            (nodes, lost(&now.nodes, &self.nodes), "came online"),
            (
                cpus,
                kept(lost(&self.allowed, &now.allowed), &now.online),
                "not allowed by our cgroup any more",
            ),
            (cpus, kept(lost(&now.allowed, &self.allowed), &self.online), "allowed by our cgroup now"),
            (nodes, kept(lost(&self.memory, &now.memory), &now.nodes), "without memory for us now"),
            (nodes, kept(lost(&now.memory, &self.memory), &self.nodes), "with memory for us now"),
        ];
        let words = |([one, many], set, what): ([&str; 2], IdSet, &str)| {
            (!set.is_empty()).then(|| format!("{} {set} {what}", if set.len() == 1 { one } else { many }))
        };
        changes.into_iter().filter_map(words).collect::<Vec<_>>().join(", ")
    }
}

/// Tells which looks at a machine are worth an answer: a machine in the middle of a change is not.
#[derive(Debug, Clone)]
pub struct Settling {
    last: Outline,
    /// Looks since the change that nobody has been told of; 0: there is none.
    unsettled: u32,
}

/// Looks in a row that differ, after which it is told all the same: many CPUs may take a while to go one by one.
const PATIENCE: u32 = 10;

impl Settling {
    /// Begins with a machine at rest.
    #[must_use]
    pub fn new(first: Outline) -> Self {
        Self { last: first, unsettled: 0 }
    }

    /// Whether this look is to be told: it is as the one before it, which was another than those before. It may be as it was
    /// at the very first: what came and went has left its traces on the tasks.
    pub fn look(&mut self, now: &Outline) -> bool {
        let same = self.last == *now;
        if !same {
            self.last.clone_from(now);
        }
        if !same || self.unsettled > 0 {
            self.unsettled += 1;
        }
        let told = self.unsettled > 0 && (same || self.unsettled > PATIENCE);
        if told {
            self.unsettled = 0;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(online: &str, allowed: &str) -> Outline {
        let set = |text: &str| text.parse().unwrap();
        Outline { online: set(online), nodes: set("0-1"), allowed: set(allowed), memory: set("0-1") }
    }

    #[test]
    fn each_change_is_named_once() {
        let before = outline("0-7", "0-7");
        assert_eq!(before.changes(&before), "");
        assert_eq!(before.changes(&outline("0-3,6-7", "0-3,6-7")), "CPUs 4-5 went offline");
        assert_eq!(outline("0-6", "0-6").changes(&before), "CPU 7 came online");
        assert_eq!(
            before.changes(&outline("0-6", "0-3")),
            "CPU 7 went offline, CPUs 4-6 not allowed by our cgroup any more"
        );
        assert_eq!(outline("0-7", "0-3").changes(&before), "CPUs 4-7 allowed by our cgroup now");
        // A v1 cpuset does not get back what it lost with a CPU.
        assert_eq!(outline("0-6", "0-6").changes(&outline("0-7", "0-6")), "CPU 7 came online");
        let set = |text: &str| text.parse::<NodeSet>().unwrap();
        let fewer = Outline { nodes: set("0"), memory: set("0"), ..before.clone() };
        assert_eq!(before.changes(&fewer), "node 1 went offline");
        assert_eq!(
            before.changes(&Outline { memory: set("1"), ..before.clone() }),
            "node 0 without memory for us now"
        );
    }

    #[test]
    fn whatever_differs_has_a_word() {
        let sets = ["", "0", "1", "0-1"].map(|text| text.parse::<IdSet>().unwrap());
        let mut all = Vec::new();
        for online in &sets {
            for nodes in &sets {
                for allowed in sets.iter().filter(|set| set.is_subset(online)) {
                    for memory in sets.iter().filter(|set| set.is_subset(nodes)) {
                        let [online, nodes, allowed, memory] =
                            [online, nodes, allowed, memory].map(Clone::clone);
                        all.push(Outline { online, nodes, allowed, memory });
                    }
                }
            }
        }
        for before in &all {
            for now in &all {
                assert_eq!(before == now, before.changes(now).is_empty(), "{before:?} {now:?}");
            }
        }
    }

    #[test]
    fn a_change_is_told_when_it_is_over() {
        let (whole, less, least) = (outline("0-3", "0-3"), outline("0-2", "0-2"), outline("0-1", "0-1"));
        let mut settling = Settling::new(whole.clone());
        let told: Vec<bool> =
            [&whole, &less, &least, &least, &least, &whole].map(|now| settling.look(now)).into();
        assert_eq!(told, [false, false, false, true, false, false]);
        assert!(settling.look(&whole));
        assert!(!settling.look(&less) && !settling.look(&whole));
        assert!(settling.look(&whole), "there and back is news too");
        assert!(!settling.look(&whole));
    }

    #[test]
    fn a_change_without_end_is_told_now_and_then() {
        let (whole, less) = (outline("0-3", "0-3"), outline("0-2", "0-2"));
        let mut settling = Settling::new(whole.clone());
        let told = (0..110).filter(|look| settling.look(if look % 2 == 0 { &less } else { &whole })).count();
        assert_eq!(told, 10);
    }
}
