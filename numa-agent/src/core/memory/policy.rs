//! A memory policy, as `set_mempolicy(2)` takes it and `/proc/PID/numa_maps` shows it.

use std::{fmt, str::FromStr};

use crate::core::idset::{ListError, NodeSet};

/// Which nodes new pages come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// How they are taken from `nodes`.
    pub mode: Mode,
    /// Empty for [`Mode::Default`] and [`Mode::Local`].
    pub nodes: NodeSet,
    /// What happens to it besides.
    pub flags: Flags,
}

/// How new pages are taken from a policy's nodes: the `MPOL_*` of `include/uapi/linux/mempolicy.h` (5.10 to 6.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Mode {
    /// None set: the node of the CPU that touches a page first.
    #[default]
    Default = 0,
    /// From one node, while it has any.
    Preferred = 1,
    /// From these nodes and no others, the nearest first.
    Bind = 2,
    /// From each in turn.
    Interleave = 3,
    /// As by default, whatever is set around it.
    Local = 4,
    /// From these nodes, while they have any; since 5.15.
    PreferredMany = 5,
    /// From each in turn, as many as `/sys/kernel/mm/mempolicy/weighted_interleave` says; since 6.9.
    WeightedInterleave = 6,
}

/// Flags of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Flags {
    /// The nodes stay these when the cpuset's change.
    pub fixed: bool,
    /// The nodes are counted within the cpuset's.
    pub relative: bool,
    /// NUMA balancing may move its pages; since 5.12.
    pub balancing: bool,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It begins with no mode that we know.
    #[error("{0:?} is no memory policy that numa-agent knows")]
    Mode(String),
    /// A flag of a mode that we do not know.
    #[error("{0:?} is no flag of a memory policy that numa-agent knows")]
    Flag(String),
    /// Its nodes are no list.
    #[error("the nodes of a memory policy: {0}")]
    Nodes(String),
}

impl From<ListError> for PolicyError {
    fn from(error: ListError) -> Self {
        Self::Nodes(error.to_string())
    }
}

impl Mode {
    /// All, and how the kernel calls them (`policy_modes` of `mm/mempolicy.c`).
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Default, "default"),
        // Before the name that it begins with.
        (Self::PreferredMany, "prefer (many)"),
        (Self::Preferred, "prefer"),
        (Self::Bind, "bind"),
        (Self::Interleave, "interleave"),
        (Self::Local, "local"),
        (Self::WeightedInterleave, "weighted interleave"),
    ];

    /// The kernel's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(mode, _)| *mode == self).map_or("default", |(_, name)| name)
    }

    /// The nearest mode that older kernels have.
    #[must_use]
    pub fn older(self) -> Option<Self> {
        match self {
            Self::WeightedInterleave => Some(Self::Interleave),
            Self::PreferredMany => Some(Self::Preferred),
            _ => None,
        }
    }

    /// The Linux that it came with, where older ones are in use.
    #[must_use]
    pub fn since(self) -> Option<&'static str> {
        match self {
            Self::WeightedInterleave => Some("6.9"),
            Self::PreferredMany => Some("5.15"),
            _ => None,
        }
    }
}

impl Flags {
    /// Bits in the mode's number, and what the kernel calls them.
    const BITS: [(Self, u32, &'static str); 3] = [
        (Self { fixed: true, relative: false, balancing: false }, 1 << 15, "static"),
        (Self { fixed: false, relative: true, balancing: false }, 1 << 14, "relative"),
        (Self { fixed: false, relative: false, balancing: true }, 1 << 13, "balancing"),
    ];

    fn has(self, other: Self) -> bool {
        self.fixed && other.fixed || self.relative && other.relative || self.balancing && other.balancing
    }

    fn with(self, other: Self) -> Self {
        Self {
            fixed: self.fixed || other.fixed,
            relative: self.relative || other.relative,
            balancing: self.balancing || other.balancing,
        }
    }
}

impl Policy {
    /// One without flags.
    #[must_use]
    pub fn new(mode: Mode, nodes: NodeSet) -> Self {
        Self { mode, nodes, flags: Flags::default() }
    }

    /// The number that system calls take for mode and flags.
    #[must_use]
    pub fn number(&self) -> u32 {
        let flags = Flags::BITS.iter().filter(|(flag, ..)| self.flags.has(*flag)).map(|(_, bit, _)| bit);
        self.mode as u32 | flags.sum::<u32>()
    }

    /// What a system call says; `None`: a mode or flag that we do not know.
    #[must_use]
    pub fn from_number(number: u32, nodes: NodeSet) -> Option<Self> {
        let bits = Flags::BITS.iter().filter(|(_, bit, _)| number & bit != 0);
        let (flags, left) = bits.fold((Flags::default(), number), |(flags, left), (flag, bit, _)| {
            (flags.with(*flag), left & !bit)
        });
        let mode = Mode::NAMES.iter().map(|(mode, _)| *mode).find(|mode| *mode as u32 == left)?;
        // Kernels before 5.14 give it out as what they keep it as.
        let local = mode == Mode::Preferred && nodes.is_empty();
        Some(Self { mode: if local { Mode::Local } else { mode }, nodes, flags })
    }

    /// The policy that a text begins with, and the rest: a line of `numa_maps` after the address. Names of modes may have
    /// blanks in them.
    ///
    /// # Errors
    /// [`PolicyError`] for what we do not know, with the text's first word.
    pub fn split(text: &str) -> Result<(Self, &str), PolicyError> {
        let named = |(mode, name): &(Mode, &str)| {
            let rest = text.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with([' ', '=', ':', '\n'])).then_some((*mode, rest))
        };
        let first_word = || text.split_ascii_whitespace().next().unwrap_or_default().to_owned();
        let (mode, rest) =
            Mode::NAMES.iter().find_map(named).ok_or_else(|| PolicyError::Mode(first_word()))?;
        let (details, rest) = rest.split_at(rest.find([' ', '\n']).unwrap_or(rest.len()));
        let (flags, nodes) = details.split_once(':').unwrap_or((details, ""));
        let mut policy = Self::new(mode, nodes.parse()?);
        // A kernel that knows a flag may not name it: 5.17 prints nothing for `balancing`.
        for word in flags.trim_start_matches('=').split('|').filter(|word| !word.is_empty()) {
            let flag = Flags::BITS.iter().find(|(.., name)| *name == word);
            let (flag, ..) = flag.ok_or_else(|| PolicyError::Flag(word.to_owned()))?;
            policy.flags = policy.flags.with(*flag);
        }
        Ok((policy, rest))
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match Self::split(text)? {
            (policy, rest) if rest.trim().is_empty() => Ok(policy),
            _ => Err(PolicyError::Mode(text.to_owned())),
        }
    }
}

impl fmt::Display for Policy {
    /// As in `numa_maps` (`mpol_to_str` of `mm/mempolicy.c`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.name())?;
        let flags = Flags::BITS.iter().filter(|(flag, ..)| self.flags.has(*flag)).map(|(.., name)| *name);
        let flags: Vec<&str> = flags.collect();
        if !flags.is_empty() {
            write!(f, "={}", flags.join("|"))?;
        }
        if !self.nodes.is_empty() {
            write!(f, ":{}", self.nodes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(text: &str) -> NodeSet {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        for (text, mode, list) in [
            ("default", Mode::Default, ""),
            ("local", Mode::Local, ""),
            ("prefer:3", Mode::Preferred, "3"),
            ("prefer (many):0-1,8", Mode::PreferredMany, "0-1,8"),
            ("bind:4", Mode::Bind, "4"),
            ("interleave:0-1", Mode::Interleave, "0-1"),
            ("weighted interleave:0,2", Mode::WeightedInterleave, "0,2"),
        ] {
            let policy = Policy::new(mode, nodes(list));
            assert_eq!(text.parse(), Ok(policy.clone()));
            assert_eq!(policy.to_string(), text);
        }
        let fixed = "interleave=static:0-1".parse::<Policy>().unwrap();
        assert!(fixed.flags.fixed && !fixed.flags.relative && fixed.nodes == nodes("0-1"));
        assert!("bind=relative|balancing:0".parse::<Policy>().unwrap().flags.balancing);
        assert_eq!("bind=:0".parse(), Ok(Policy::new(Mode::Bind, nodes("0"))), "balancing on 5.17");
    }

    #[test]
    fn the_rest_of_a_line_stays() {
        let (policy, rest) = Policy::split("weighted interleave:0-1 anon=4 N0=2\n").unwrap();
        assert_eq!((policy.mode, rest), (Mode::WeightedInterleave, " anon=4 N0=2\n"));
        assert_eq!(Policy::split("default\n").unwrap().1, "\n");
        assert_eq!(Policy::split("prefer (many):0 heap").unwrap().1, " heap");
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert_eq!("striped:0 anon=1".parse::<Policy>(), Err(PolicyError::Mode("striped:0".into())));
        assert_eq!("binding:0".parse::<Policy>(), Err(PolicyError::Mode("binding:0".into())));
        assert_eq!("bind=new:0".parse::<Policy>(), Err(PolicyError::Flag("new".into())));
        assert!(matches!("bind:x".parse::<Policy>(), Err(PolicyError::Nodes(_))));
        assert_eq!(Policy::from_number(7, NodeSet::new()), None);
        assert_eq!(Policy::from_number(1 << 12, NodeSet::new()), None);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let mut policy = Policy::new(Mode::Interleave, nodes("0-1"));
        assert_eq!(policy.number(), 3);
        policy.flags.fixed = true;
        assert_eq!(policy.number(), 3 | 1 << 15);
        // What 5.10 says of MPOL_LOCAL.
        assert_eq!(Policy::from_number(1, NodeSet::new()).map(|policy| policy.mode), Some(Mode::Local));
    }

    proptest! {
        #[test]
        fn texts_and_numbers_come_back(mode in 0u32..7, flags in 0u32..8, ids in prop::collection::btree_set(0u32..200, 1..5)) {
            let list: NodeSet = ids.into_iter().collect();
            let policy = Policy::from_number(mode | flags << 13, list.clone()).expect("known");
            prop_assert_eq!(policy.number(), mode | flags << 13);
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }
}
