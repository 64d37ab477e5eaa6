//! A peer: the kernel's process events connector, and `sched_setaffinity` on what matches. What a C program of a hundred lines does, with
//! nothing around it.

use std::{
    fs::{self, File},
    io::Read,
};

use anyhow::{Context, Result};
use clap::Parser;
use nix::errno::Errno;
use numa_agent::core::idset::CpuSet;

use super::target::{FORWARD, MEMBER};
use crate::sys;

/// What it is told.
#[derive(Debug, Parser)]
pub struct Args {
    /// Where programs belong, and threads called `bench_member`
    #[arg(long)]
    members: CpuSet,
    /// Where threads called `bench_forward` belong
    #[arg(long)]
    forward: CpuSet,
    /// The end of a matching program's path
    #[arg(long)]
    program: String,
    /// Go before all ordinary threads
    #[arg(long)]
    first: bool,
}

/// One event; others are of no use.
#[derive(Debug, PartialEq, Eq)]
enum Event<'a> {
    Exec { pid: u32 },
    Rename { tid: u32, comm: &'a [u8] },
}

/// Binds until it is killed.
///
/// # Errors
/// If it cannot listen.
pub fn listen(args: &Args) -> Result<()> {
    sys::set_affinity(0, &args.members).context("cannot step aside")?;
    if args.first {
        sys::go_first().context("cannot go first")?;
    }
    let mut events = File::from(sys::process_events().context("cannot listen to process events")?);
    let mut message = [0; 4096];
    loop {
        let length = match events.read(&mut message) {
            // The kernel does not say how many it had no room for.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                eprintln!("lost");
                continue;
            }
            length => length.context("process events")?,
        };
        let place = match event(&message[..length]) {
            Some(Event::Exec { pid }) if runs(pid, &args.program) => (pid, &args.members),
            Some(Event::Rename { tid, comm }) if comm.starts_with(FORWARD.as_bytes()) => (tid, &args.forward),
            Some(Event::Rename { tid, comm }) if comm.starts_with(MEMBER.as_bytes()) => (tid, &args.members),
            _ => continue,
        };
        // It may have ended.
        let _ = sys::set_affinity(place.0, place.1);
    }
}

fn runs(pid: u32, program: &str) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).next().is_some_and(|path| path.ends_with(program.as_bytes()))
}

/// The event in a message: `struct nlmsghdr` (16 bytes), `struct cn_msg` (20), `struct proc_event` (`what`, CPU, time: 16), its facts.
fn event(message: &[u8]) -> Option<Event<'_>> {
    const WHAT: usize = 16 + 20;
    const FACTS: usize = WHAT + 16;
    const PROC_EVENT_EXEC: u32 = 2;
    const PROC_EVENT_COMM: u32 = 0x200;
    let number = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    match number(WHAT)? {
        PROC_EVENT_EXEC => Some(Event::Exec { pid: number(FACTS + 4)? }),
        PROC_EVENT_COMM => {
            Some(Event::Rename { tid: number(FACTS)?, comm: message.get(FACTS + 8..FACTS + 24)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, facts: &[u8]) -> Vec<u8> {
        [&[0; 36][..], &what.to_ne_bytes(), &[0; 12], facts].concat()
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let ids = [7u32.to_ne_bytes(), 5u32.to_ne_bytes()].concat();
        assert_eq!(event(&message(2, &ids)), Some(Event::Exec { pid: 5 }));
        let comm = *b"bench_forward\0\0\0";
        let rename = message(0x200, &[&ids[..], &comm].concat());
        assert_eq!(event(&rename), Some(Event::Rename { tid: 7, comm: &comm }));
        assert_eq!(event(&rename[..rename.len() - 1]), None);
        assert_eq!(event(&message(1, &ids)), None);
        assert_eq!(event(&[]), None);
    }
}
