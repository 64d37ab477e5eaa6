//! The synthetic serving stack, its witnesses, and what the tests that run the real binary share.

pub mod hwloc;
pub mod stack;
pub mod sys;
pub mod sysfs_tree;
pub mod witness;
