//! The terminal view of `watch`: what is shown of the lines of [`crate::core::view`], and how.
//!
//! Keys and lines come in as values, [`app`] decides what they change, [`draw`] makes a picture of it. Those two, and all but the
//! files named next, are pure: no I/O, no clock (`tests/purity.rs`). `terminal.rs` owns the terminal. Nothing here looks at the host, or
//! knows how an agent is reached.

pub mod app;
pub mod draw;
pub mod keys;
pub mod svg;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
#[cfg(test)]
mod tests;
