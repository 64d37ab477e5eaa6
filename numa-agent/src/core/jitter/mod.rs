//! What was measured: the figures of threads, how they add up, and the recordings that keep them.
//!
//! The kernel side keeps an account of each managed task ([`numa_ebpf::account`]); [`figures`] are what it says, in the
//! machine's own node ids. A [`recording::Recording`] is a stretch of time on one host, or several such merged.

pub mod account;
pub mod compare;
pub mod distribution;
pub mod draft;
pub mod figures;
pub mod file;
pub mod homes;
pub mod observer;
pub mod packed;
pub mod places;
pub mod recording;
pub mod rollup;
#[cfg(any(test, feature = "synthetic"))]
pub mod sample;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
pub mod tap;
pub mod timeline;
pub mod tokens;
pub mod totals;
