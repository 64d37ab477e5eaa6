//! What was measured: the figures of threads, how they add up, and the recordings that keep them.
//!
//! The kernel side keeps an account of each managed task ([`numa_ebpf::account`]); [`figures`] are what it says, in the
//! machine's own node ids. A [`recording::Recording`] is a stretch of time on one host, or several such merged.

pub mod distribution;
pub mod figures;
pub mod file;
pub mod recording;
pub mod rollup;
#[cfg(test)]
pub(crate) mod sample;
pub mod synthetic;
pub mod tap;
pub mod tokens;
