//! The terminal view of `watch`: what is shown of the lines of [`crate::core::view`], and how.
//!
//! Keys and lines come in as values, [`app`] decides what they change, [`draw`] makes a picture of it. All of it is pure, without I/O or
//! a clock (`tests/purity.rs`), but for four files: [`terminal`] owns the terminal, [`source`] the thread that lines are read on,
//! [`signals`] the one that takes signals, [`session`] the loop. Nothing here looks at the host, or knows how an agent is reached.

pub mod app;
pub mod draw;
pub mod keys;
pub mod lines;
pub mod once;
pub mod session;
pub mod signals;
pub mod source;
pub mod svg;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
pub mod terminal;
#[cfg(test)]
mod tests;
