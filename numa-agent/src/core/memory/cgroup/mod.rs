//! Memory nodes by cgroup: what `cpuset.mems` of a group's cgroup is to be, and when it is not ours to set. Facts in, a
//! decision out.
//!
//! The nodes that a cgroup allows are a fence, not a policy: within it new pages come from the node of the CPU that touches
//! them first. Two nodes in `cpuset.mems` are not interleaving.

mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use self::upkeep::{News, Upkeep};
use crate::core::{idset::NodeSet, task::TaskId};

/// The most memory on other nodes with which a cgroup is fenced in. A v2 kernel moves it at once, by one worker for each process
/// (`cpuset_migrate_mm` in `kernel/cgroup/cpuset.c`): who touches what is being moved waits, and so does who maps memory.
pub const MOST_MOVED_BYTES: u64 = 256 << 20;

/// A cgroup with managed processes in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cgroup {
    /// Whose it is.
    pub owner: Owner,
    /// `cpuset.mems`; `None` where the cgroup has no such file: the controller is not enabled for it.
    pub mems: Option<NodeSet>,
    /// The nodes that are in force.
    pub effective: NodeSet,
    /// Those in force in the cgroup above it.
    pub above: NodeSet,
    /// Processes in it, and in the cgroups below it, that neither a group of the plan has nor one of theirs has started.
    pub strangers: usize,
    /// Bytes by node of the memory that the kernel moves when the nodes change, without a node where that is not known; empty
    /// where it moves none.
    pub moves: BTreeMap<Option<u32>, u64>,
}

/// Whose cgroup it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Owner {
    /// The top of what we see: everybody's.
    #[default]
    Root,
    /// A container's, and who may write to it beside us: its runtime, or the kubelet.
    Container(&'static str),
    /// A systemd unit's.
    Unit,
    /// Somebody made it by hand.
    Plain,
}

impl Owner {
    /// Whose a cgroup at `path` is, of which `container` says whether it is a container's.
    #[must_use]
    pub fn of(path: &str, container: bool) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        match name {
            "" => Self::Root,
            _ if container && path.contains("kubepods") => Self::Container("the kubelet"),
            _ if container => Self::Container("the container's runtime"),
            _ if [".service", ".scope", ".slice"].iter().any(|ending| name.ends_with(ending)) => Self::Unit,
            _ => Self::Plain,
        }
    }

    /// Who may rewrite it, if anybody is known to.
    #[must_use]
    pub fn manager(&self) -> Option<&'static str> {
        match self {
            Self::Container(manager) => Some(manager),
            Self::Unit => Some("systemd"),
            Self::Root | Self::Plain => None,
        }
    }
}

/// What is to be done about a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// What is in force is what it should be.
    Fits,
    /// `cpuset.mems` is to be this; what the cgroup above lets through of the plan.
    Set(NodeSet),
    /// Nothing, and why.
    Refused(Refusal),
}

/// Why a cgroup is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is the top of what we see.
    Root,
    /// It has no `cpuset.mems`.
    NoController,
    /// Others would be fenced in too, this many.
    Strangers(usize),
    /// Groups with other memory nodes have processes in it.
    Shared,
    /// None of the planned nodes is allowed above it.
    Excluded(NodeSet),
    /// This much would be moved at once, in bytes.
    MuchMemory(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("it is not in a cgroup of its own; start it in a container or a service"),
            Self::NoController => f.write_str(
                "the cpuset controller is not enabled for it; write +cpuset to cgroup.subtree_control of the cgroup above it, or have its manager do so",
            ),
            Self::Strangers(count) => write!(
                f,
                "{count} other process{} in it, and would be fenced in too; give the service a cgroup of its own",
                if *count == 1 { " is" } else { "es are" }
            ),
            Self::Shared => f.write_str("groups with other memory nodes are in it; give each instance a cgroup of its own"),
            Self::Excluded(above) => {
                write!(f, "the cgroup above it allows nodes {above} alone; widen cpuset.mems there, or plan for those")
            }
            Self::MuchMemory(bytes) => write!(
                f,
                "{} MiB are on other nodes, which the kernel would move in one go, while the threads wait; move them first, or restart the service",
                bytes >> 20
            ),
        }
    }
}

impl Cgroup {
    /// What is to be done, with `planned` for the memory nodes of each group that has a process in it.
    #[must_use]
    pub fn decide<'a>(&self, planned: impl IntoIterator<Item = &'a NodeSet>) -> Decision {
        let mut planned = planned.into_iter();
        let nodes = planned.next().cloned().unwrap_or_default();
        let target = nodes.intersection(&self.above);
        let is_there = |node: &Option<u32>| node.is_some_and(|node| target.contains(node));
        let elsewhere = self.moves.iter().filter(|(node, _)| !is_there(node)).map(|(_, bytes)| bytes).sum();
        let refusal = match () {
            () if self.owner == Owner::Root => Refusal::Root,
            () if self.mems.is_none() => Refusal::NoController,
            () if planned.any(|others| *others != nodes) => Refusal::Shared,
            // A container is one thing, whatever runs in it.
            () if self.strangers > 0 && !matches!(self.owner, Owner::Container(_)) => {
                Refusal::Strangers(self.strangers)
            }
            () if target.is_empty() => Refusal::Excluded(self.above.clone()),
            () if self.effective == target => return Decision::Fits,
            () if elsewhere > MOST_MOVED_BYTES => Refusal::MuchMemory(elsewhere),
            () => return Decision::Set(target),
        };
        Decision::Refused(refusal)
    }
}

/// A process of a group, and the memory nodes that the plan gives that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The process.
    pub process: TaskId,
    /// The group's name.
    pub group: String,
    /// Its memory nodes.
    pub nodes: NodeSet,
}

/// A cgroup beside the plan: what reports and events say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Its path in the hierarchy of the cpuset controller.
    pub cgroup: String,
    /// The groups that have processes in it.
    pub groups: BTreeSet<String>,
    /// The memory nodes that the plan has for the first of them.
    pub planned: NodeSet,
    /// Those in force now.
    pub effective: NodeSet,
    /// Who may rewrite it.
    pub manager: Option<&'static str>,
    /// What became of it.
    pub outcome: FenceOutcome,
}

/// What became of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceOutcome {
    /// It was as it should be.
    Unchanged,
    /// Dry run: `cpuset.mems` would be this.
    Planned(NodeSet),
    /// `cpuset.mems` is this now.
    Set(NodeSet),
    /// It is left alone, or could not be set; why.
    Failed(String),
}

impl fmt::Display for FenceOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Planned(_) => f.write_str("planned"),
            Self::Set(_) => f.write_str("set"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(text: &str) -> NodeSet {
        text.parse().unwrap()
    }

    fn container() -> Cgroup {
        Cgroup {
            owner: Owner::Container("the kubelet"),
            mems: Some(NodeSet::new()),
            effective: nodes("0-7"),
            above: nodes("0-7"),
            ..Cgroup::default()
        }
    }

    fn refused(cgroup: &Cgroup, planned: &[&str]) -> Refusal {
        let planned: Vec<NodeSet> = planned.iter().map(|text| nodes(text)).collect();
        match cgroup.decide(&planned) {
            Decision::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_containers_nodes_are_the_groups_as_far_as_they_are_allowed() {
        let cgroup = Cgroup { strangers: 3, ..container() };
        assert_eq!(cgroup.decide([&nodes("2-3"), &nodes("2-3")]), Decision::Set(nodes("2-3")));
        let cut = Cgroup { above: nodes("3-5"), ..cgroup.clone() };
        assert_eq!(cut.decide([&nodes("2-3")]), Decision::Set(nodes("3")));
        let done = Cgroup { effective: nodes("2-3"), ..cgroup };
        assert_eq!(done.decide([&nodes("2-3")]), Decision::Fits);
    }

    #[test]
    fn what_is_not_ours_alone_is_left_alone() {
        assert_eq!(refused(&Cgroup::default(), &["0"]), Refusal::Root);
        assert_eq!(refused(&Cgroup { mems: None, ..container() }, &["0"]), Refusal::NoController);
        assert_eq!(refused(&container(), &["0-1", "2-3"]), Refusal::Shared);
        for owner in [Owner::Unit, Owner::Plain] {
            let cgroup = Cgroup { owner, strangers: 2, ..container() };
            assert_eq!(refused(&cgroup, &["0"]), Refusal::Strangers(2));
            assert_eq!(Cgroup { strangers: 0, ..cgroup }.decide([&nodes("0")]), Decision::Set(nodes("0")));
        }
        let excluded = Cgroup { above: nodes("4-5"), ..container() };
        assert_eq!(refused(&excluded, &["0-1"]), Refusal::Excluded(nodes("4-5")));
    }

    #[test]
    fn much_memory_on_other_nodes_is_not_moved_at_once() {
        let with =
            |elsewhere| Cgroup { moves: [(Some(0), 1 << 40), (Some(4), elsewhere)].into(), ..container() };
        assert_eq!(with(MOST_MOVED_BYTES).decide([&nodes("0-1")]), Decision::Set(nodes("0-1")));
        assert_eq!(refused(&with(MOST_MOVED_BYTES + 1), &["0-1"]), Refusal::MuchMemory(MOST_MOVED_BYTES + 1));
        let anywhere = Cgroup { moves: [(None, 1 << 40)].into(), ..container() };
        assert_eq!(refused(&anywhere, &["0-1"]), Refusal::MuchMemory(1 << 40));
        let there = Cgroup { effective: nodes("0-1"), ..with(1 << 40) };
        assert_eq!(there.decide([&nodes("0-1")]), Decision::Fits, "nothing moves any more");
    }

    #[test]
    fn the_owner_is_told_by_the_path() {
        let owner = |path: &str, container| Owner::of(path, container);
        assert_eq!(owner("/", false), Owner::Root);
        assert_eq!(owner("/kubepods.slice/x/crio-1.scope", true).manager(), Some("the kubelet"));
        assert_eq!(owner("/system.slice/docker-1.scope", true).manager(), Some("the container's runtime"));
        assert_eq!(owner("/system.slice/serving.service", false).manager(), Some("systemd"));
        assert_eq!(owner("/serving", false), Owner::Plain);
        assert_eq!(owner("/serving", false).manager(), None);
    }
}
