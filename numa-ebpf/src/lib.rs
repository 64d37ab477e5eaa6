//! Types shared by the BPF programs and user space: the records of the ring buffer, the values of the maps, and the
//! numbers that index them.
//!
//! Every type is `#[repr(C)]`, has no padding and no field with invalid bit patterns (no `bool`, no enum, no `Option`),
//! and its size is asserted: it crosses the kernel boundary as bytes. Nothing here depends on the host or on BPF.
#![no_std]

pub mod account;
pub mod brief;
pub mod counter;
pub mod filter;
pub mod histogram;
pub mod hold;
pub mod mark;
pub mod pace;
pub mod place;
pub mod record;
pub mod tap;
pub mod wake;
