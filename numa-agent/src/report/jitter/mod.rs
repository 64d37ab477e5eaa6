//! What people and programs read about a recording of jitter: text, Markdown, JSON, HTML. Pure: from the recording to text.
//!
//! All say the same, each as far as its reader's patience goes: JSON has everything but the raw histograms, HTML pictures
//! and the worst threads, Markdown tables, text what fits a terminal. What was not measured is said to be, and is never 0.
//! Names of processes go through [`super::escape`] in each.

pub mod compare;
mod digest;
mod html;
mod json;
mod markdown;
mod tables;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use self::{html::html, json::json, markdown::markdown, text::text};
use super::units::{self, NOT_MEASURED};
