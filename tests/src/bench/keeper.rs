//! Nobody outlives the bench: its first process has another one do the measuring, and adopts and ends what that leaves behind, also when
//! a signal ends the bench or the other process crashes.
//!
//! Children die with their parent (`sys::born`); theirs, as of a shell's pipe, would go on.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{
            SigSet,
            Signal::{self, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM},
            kill,
        },
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use procfs::process::Process;

use super::observer::family;
use crate::sys::{Birth, born};

/// How long those have who end by themselves when their parent is gone: an agent's guard first lets go on whom it holds.
const GRACE: Duration = Duration::from_secs(1);
/// How long all the others may take to die.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `command` to its end or ours, and then ends whatever has descended from it. Its exit code, or 128 and the number of the signal that
/// ended it or us. The calling process must have one thread, and no other children.
///
/// # Errors
/// If it does not start, or somebody does not end.
pub fn keep(command: &mut Command) -> Result<u8> {
    prctl::set_child_subreaper(true).context("cannot adopt orphans")?;
    born(command, Birth::Plain);
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let child = Pid::from_raw(child.id().cast_signed());
    // Only now: children inherit what is blocked.
    let signals = ending()?;
    signals.thread_block().context("cannot block signals")?;
    let code = loop {
        if let Some(code) = reap(child)? {
            break code;
        }
        match signals.wait().context("cannot wait for a signal")? {
            SIGCHLD => {}
            signal => {
                let _ = kill(child, SIGKILL);
                break killed(signal);
            }
        }
    };
    end_all()?;
    Ok(code)
}

/// The signals that would end us, and the one that tells of children. What `nohup` has us ignore does not.
fn ending() -> Result<SigSet> {
    let ignored = Process::myself().and_then(|own| own.status()).context("our own status")?.sigign;
    let asks = |signal: &Signal| ignored & (1 << (*signal as u32 - 1)) == 0;
    Ok([SIGTERM, SIGINT, SIGHUP, SIGQUIT].into_iter().filter(asks).chain([SIGCHLD]).collect())
}

/// Takes note of everybody who has ended; what the process we wait for has ended with, if it has.
fn reap(child: Pid) -> Result<Option<u8>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(Some(code as u8)),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(Some(killed(signal))),
            WaitStatus::StillAlive => return Ok(None),
            _ => {}
        }
    }
}

/// As a shell has it.
fn killed(signal: Signal) -> u8 {
    128 + signal as u8
}

/// Waits until we have no children any more, orphans of our descendants among them, and kills those who do not go by themselves.
fn end_all() -> Result<()> {
    let start = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) => {
                let own = Pid::this();
                let left = family(own.as_raw().cast_unsigned())?;
                let left = left.iter().map(|stat| Pid::from_raw(stat.pid)).filter(|pid| *pid != own);
                if start.elapsed() > GRACE {
                    // It may be gone by now; whoever is not is met again.
                    left.clone().for_each(|pid| {
                        let _ = kill(pid, SIGKILL);
                    });
                }
                ensure!(start.elapsed() < PATIENCE, "these do not end: {:?}", left.collect::<Vec<_>>());
                thread::sleep(Duration::from_millis(10));
            }
            _ => {}
        }
    }
}
