//! One program per tracepoint.

mod affinity;
mod device;
mod exec;
mod exit;
mod fork;
mod interrupt;
mod migrate;
mod numa;
mod rename;
mod switch;
mod tap;
