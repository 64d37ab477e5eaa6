//! One program per tracepoint.

mod affinity;
mod exec;
mod exit;
mod fork;
mod migrate;
mod rename;
