//! Whether a process's memory is where the plan says: its policy, its pages, and how evenly they are spread.

use std::{collections::BTreeMap, fmt};

use super::{Mode, Policy, numa_maps::Memory};
use crate::core::idset::NodeSet;

/// With less than this, a process's pages prove nothing: 32 huge pages of 2 MiB.
pub const LEAST_BYTES: u64 = 64 << 20;

/// The least share of its pages on planned nodes. A few are off in any process: what the kernel shares, what fell back when a
/// node was full for a moment.
pub const LEAST_ON_PLAN: f64 = 0.95;

/// The least that a planned node has, as a share of what each would have if all had the same.
pub const LEAST_BALANCE: f64 = 0.8;

/// A process's memory beside its plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The policy that it should have; `None` for a process that the plan says nothing of.
    pub planned: Option<Policy>,
    /// What it has.
    pub memory: Memory,
    /// Where it is, and how evenly.
    pub spread: Spread,
    /// What that comes to.
    pub verdict: Verdict,
}

/// Where memory is beside the nodes that it should be on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// The share on these nodes; `None` where there is no memory, or no plan.
    pub on_plan: Option<f64>,
    /// What the node with the least of it has, as a share of an even part: 1 is even. `None` also for a single node.
    pub balance: Option<f64>,
}

/// What a process's memory comes to. Prints as the `verdict` of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The planned policy, and the pages are where it puts them, as far as there are enough to tell.
    Ok,
    /// Nobody has given it a policy, or `local`.
    DefaultPolicy,
    /// Too many pages are on other nodes.
    OffPlan,
    /// On the planned nodes, but under another policy, which new pages come by.
    OtherPolicy,
    /// Planned policy and nodes, but unevenly.
    Unbalanced,
    /// The plan says nothing of its memory.
    NotPlanned,
    /// Its memory could not be read, and why.
    Unknown(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::DefaultPolicy => "default policy",
            Self::OffPlan => "off plan",
            Self::OtherPolicy => "other policy",
            Self::Unbalanced => "unbalanced",
            Self::NotPlanned => "not planned",
            Self::Unknown(why) => return write!(f, "unknown: {why}"),
        })
    }
}

impl Verdict {
    /// Whether something is to be done about it.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::Ok | Self::NotPlanned)
    }
}

impl Spread {
    /// That of those bytes by node.
    #[must_use]
    pub fn of(bytes: &BTreeMap<u32, u64>, nodes: &NodeSet) -> Self {
        let total: u64 = bytes.values().sum();
        let on_node = |node: u32| bytes.get(&node).copied().unwrap_or(0);
        let planned: u64 = nodes.iter().map(on_node).sum();
        let least = nodes.iter().map(on_node).min().unwrap_or(0);
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Self {
            on_plan: share(planned, total).filter(|_| !nodes.is_empty()),
            balance: share(least * nodes.len() as u64, planned).filter(|_| nodes.len() > 1),
        }
    }
}

impl Verified {
    /// Judges what was read. `holders` are all nodes that could hold the process's memory.
    #[must_use]
    pub fn new(planned: Option<Policy>, read: Result<Memory, String>, holders: &NodeSet) -> Self {
        let memory = read.as_ref().cloned().unwrap_or_default();
        let spread =
            planned.as_ref().map(|planned| Spread::of(&memory.governed, &planned.nodes)).unwrap_or_default();
        let verdict = match (&planned, read) {
            (_, Err(why)) => Verdict::Unknown(why),
            (None, Ok(_)) => Verdict::NotPlanned,
            (Some(planned), Ok(_)) => judge(planned, &memory, spread, holders),
        };
        Self { planned, memory, spread, verdict }
    }
}

fn judge(planned: &Policy, memory: &Memory, spread: Spread, holders: &NodeSet) -> Verdict {
    let Some(policy) = memory.policy() else {
        return Verdict::Unknown("it has no memory of its own".to_owned());
    };
    // All policies are the same there.
    if holders.len() == 1 && planned.nodes == *holders {
        return Verdict::Ok;
    }
    let actual: Option<Policy> = policy.parse().ok();
    if actual.as_ref().is_some_and(|actual| matches!(actual.mode, Mode::Default | Mode::Local)) {
        return Verdict::DefaultPolicy;
    }
    let enough = memory.governed.values().sum::<u64>() >= LEAST_BYTES;
    let under = |share: Option<f64>, least: f64| enough && share.is_some_and(|share| share < least);
    if under(spread.on_plan, LEAST_ON_PLAN) {
        return Verdict::OffPlan;
    }
    // From one node all of them take the same.
    let same = |actual: &Policy| {
        actual.nodes == planned.nodes && (actual.mode == planned.mode || planned.nodes.len() == 1)
    };
    if !actual.is_some_and(|actual| same(&actual)) {
        return Verdict::OtherPolicy;
    }
    if planned.mode == Mode::Interleave && under(spread.balance, LEAST_BALANCE) {
        return Verdict::Unbalanced;
    }
    Verdict::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> NodeSet {
        text.parse().unwrap()
    }

    /// A process that has those MiB on nodes, by one policy.
    fn verified(policy: &str, mib: &[(u32, u64)]) -> Verified {
        let mut memory = Memory::default();
        for (node, mib) in mib {
            let pages = mib << 8;
            memory
                .add_line(&format!("7f0000000000 {policy} anon={pages} N{node}={pages} kernelpagesize_kB=4"));
        }
        let planned = Policy::new(Mode::Interleave, set("0-1"));
        Verified::new(Some(planned), Ok(memory), &set("0-3"))
    }

    fn verdict(policy: &str, mib: &[(u32, u64)]) -> String {
        verified(policy, mib).verdict.to_string()
    }

    #[test]
    fn the_cause_comes_before_what_follows_from_it() {
        assert_eq!(verdict("interleave:0-1", &[(0, 500), (1, 500)]), "ok");
        assert_eq!(verdict("default", &[(3, 1000)]), "default policy");
        assert_eq!(verdict("local", &[(0, 500), (1, 500)]), "default policy");
        assert_eq!(verdict("interleave:2-3", &[(2, 500), (3, 500)]), "off plan");
        assert_eq!(verdict("interleave:0-1", &[(0, 480), (1, 460), (2, 60)]), "off plan");
        assert_eq!(verdict("bind:0-1", &[(0, 1000)]), "other policy");
        assert_eq!(verdict("interleave:0", &[(0, 1000)]), "other policy");
        assert_eq!(verdict("weighted interleave:0-1", &[(0, 600), (1, 400)]), "other policy");
        assert_eq!(verdict("striped:0-1", &[(0, 500), (1, 500)]), "other policy");
        assert_eq!(verdict("interleave:0-1", &[(0, 700), (1, 300)]), "unbalanced");
    }

    #[test]
    fn tolerances_are_as_said() {
        assert_eq!(verdict("interleave:0-1", &[(0, 475), (1, 476), (2, 49)]), "ok");
        assert_eq!(verdict("interleave:0-1", &[(0, 470), (1, 479), (2, 51)]), "off plan");
        assert_eq!(verdict("interleave:0-1", &[(0, 600), (1, 400)]), "ok");
        assert_eq!(verdict("interleave:0-1", &[(0, 601), (1, 399)]), "unbalanced");
        let spread = verified("interleave:0-1", &[(0, 600), (1, 300), (2, 100)]).spread;
        assert_eq!((spread.on_plan, spread.balance), (Some(0.9), Some(2.0 / 3.0)));
    }

    #[test]
    fn little_memory_is_judged_by_its_policy_alone() {
        assert_eq!(verdict("interleave:0-1", &[(0, 63)]), "ok");
        assert_eq!(verdict("interleave:0-1", &[(0, 64)]), "unbalanced");
        assert_eq!(verdict("interleave:0-1", &[(3, 63)]), "ok");
        assert_eq!(verdict("default", &[(0, 1)]), "default policy");
        assert_eq!(verdict("bind:3", &[(3, 1)]), "other policy");
        assert_eq!(verdict("interleave:0-1", &[]), "unknown: it has no memory of its own");
    }

    #[test]
    fn one_node_leaves_no_choice() {
        let on_one = |policy: &str, holders: &str| {
            let planned = Some(Policy::new(Mode::Interleave, set("1")));
            let memory = verified(policy, &[(1, 500)]).memory;
            Verified::new(planned, Ok(memory), &set(holders))
        };
        for policy in ["interleave:1", "bind:1", "prefer:1"] {
            assert_eq!(on_one(policy, "0-1").verdict, Verdict::Ok, "{policy}");
        }
        assert_eq!(on_one("default", "0-1").verdict, Verdict::DefaultPolicy);
        assert_eq!(on_one("default", "1").verdict, Verdict::Ok, "the machine has no other");
        assert_eq!(on_one("bind:1", "1").spread, Spread { on_plan: Some(1.0), balance: None });
    }

    #[test]
    fn without_a_plan_or_a_reading_there_is_no_judgement() {
        let memory = verified("default", &[(0, 500)]).memory;
        let unplanned = Verified::new(None, Ok(memory), &set("0-1"));
        assert_eq!((unplanned.verdict.clone(), unplanned.spread), (Verdict::NotPlanned, Spread::default()));
        assert!(!unplanned.verdict.is_bad());
        let planned = Some(Policy::new(Mode::Interleave, set("0-1")));
        let unread = Verified::new(planned, Err("it is gone".into()), &set("0-1"));
        assert_eq!(
            (unread.verdict.to_string().as_str(), unread.spread.on_plan),
            ("unknown: it is gone", None)
        );
    }
}
