//! What the verifier says of each program that a command loads: the command is traced, and its `bpf(2)` calls are given a
//! log to write to; nothing else of it is stopped. Works where the kernel tells the loader nothing (before 5.16), and needs nothing of the command.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read as _, Seek as _},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    sys::{self, SyscallStop},
    verifier::Counts,
};

/// The statistics take a few hundred bytes; a log that is too small is an error.
const LOG_BYTES: usize = 4096;
/// How far below the caller's stack pointer the log is: far enough for what lies below it by right, near enough to be stack.
const LOG_DEPTH: u64 = 4 * LOG_BYTES as u64;

/// `BPF_PROG_LOAD` and where its attributes have what we need (`union bpf_attr`, `include/uapi/linux/bpf.h`).
const PROG_LOAD: u32 = 5;
const LOG_OFFSET: u64 = 24;
const NAME_OFFSET: u64 = 48;
const NAME_BYTES: usize = 16;
/// `BPF_LOG_STATS` (`include/linux/bpf_verifier.h`).
const LOG_STATS: u32 = 4;

/// A program that is being loaded.
struct Loading {
    name: String,
    log: u64,
}

/// Runs `command`, which must succeed, and returns its standard output and the instructions that the verifier went through, by
/// the names under which programs were loaded: their first 15 bytes.
///
/// # Errors
/// If the command cannot be started or traced, or fails.
pub fn run(mut command: Command) -> Result<(Vec<u8>, Counts)> {
    let mut output = tempfile::tempfile().context("a temporary file")?;
    command.stdout(output.try_clone()?);
    sys::traced(&mut command, libc::SYS_bpf, PROG_LOAD);
    // Our child is waited for by its pid below: its handle would find nothing to wait for.
    let child =
        command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let status = follow(Pid::from_raw(child.id().cast_signed()))?;
    match status {
        (0, counts) => Ok((read(&mut output)?, counts)),
        (code, _) => bail!("{} ended with {code}", command.get_program().display()),
    }
}

fn read(output: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Follows a process that waits at its first instruction, and all its threads, to its end: its exit code, and what was loaded.
fn follow(process: Pid) -> Result<(i32, Counts)> {
    let mut counts = Counts::new();
    let mut loading: HashMap<Pid, Loading> = HashMap::new();
    let mut known = false;
    loop {
        // Only what this thread traces: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let gone_on = match waitpid(Pid::from_raw(-1), Some(flags)).context("waitpid")? {
            WaitStatus::Exited(task, code) if task == process => return Ok((code, counts)),
            WaitStatus::Signaled(task, signal, _) if task == process => bail!("killed by {signal}"),
            WaitStatus::Stopped(task, Signal::SIGTRAP) if task == process && !known => {
                let options = Options::PTRACE_O_TRACESYSGOOD
                    | Options::PTRACE_O_TRACECLONE
                    | Options::PTRACE_O_TRACESECCOMP
                    | Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(task, options).context("PTRACE_SETOPTIONS")?;
                known = true;
                ptrace::cont(task, None)
            }
            WaitStatus::PtraceEvent(task, _, libc::PTRACE_EVENT_SECCOMP) => {
                if let SyscallStop::Filter { arguments, stack } = sys::syscall_stop(task)? {
                    loading.insert(task, give_log(task, arguments[1], stack - LOG_DEPTH)?);
                }
                // To the end of the call.
                ptrace::syscall(task, None)
            }
            WaitStatus::PtraceSyscall(task) => {
                if let (SyscallStop::Exit { result: 0.. }, Some(loading)) =
                    (sys::syscall_stop(task)?, loading.remove(&task))
                {
                    counts.insert(loading.name, processed(task, loading.log)?);
                }
                ptrace::cont(task, None)
            }
            // A new thread begins so.
            WaitStatus::Stopped(task, Signal::SIGSTOP) | WaitStatus::PtraceEvent(task, ..) => {
                ptrace::cont(task, None)
            }
            WaitStatus::Stopped(task, signal) => ptrace::cont(task, signal),
            _ => continue,
        };
        match gone_on {
            // Ended with its process.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("ptrace"),
        }
    }
}

/// Has a load that is about to begin write the verifier's statistics to `log`, in place of what its caller asked for.
fn give_log(task: Pid, attributes: u64, log: u64) -> Result<Loading> {
    let mut name = [0; NAME_BYTES];
    peek(task, attributes + NAME_OFFSET, &mut name)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // log_level, log_size, log_buf.
    let mut asked = [LOG_STATS.to_ne_bytes(), (LOG_BYTES as u32).to_ne_bytes()].concat();
    asked.extend(log.to_ne_bytes());
    poke(task, attributes + LOG_OFFSET, &asked)?;
    Ok(Loading { name: String::from_utf8_lossy(name).into_owned(), log })
}

/// `processed N insns (limit ..) ..`, the verifier's last line.
fn processed(task: Pid, log: u64) -> Result<u32> {
    let mut bytes = [0; LOG_BYTES];
    peek(task, log, &mut bytes)?;
    let text =
        String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let number = |line: &str| line.strip_prefix("processed ")?.split(' ').next()?.parse().ok();
    text.lines().find_map(number).with_context(|| format!("no statistics in the verifier's log: {text:?}"))
}

fn peek(task: Pid, base: u64, to: &mut [u8]) -> Result<()> {
    let len = to.len();
    let place = RemoteIoVec { base: base as usize, len };
    let read = process_vm_readv(task, &mut [IoSliceMut::new(to)], &[place]).context("process_vm_readv")?;
    if read == len { Ok(()) } else { bail!("process_vm_readv: {read} of {len} bytes") }
}

fn poke(task: Pid, base: u64, from: &[u8]) -> Result<()> {
    let place = RemoteIoVec { base: base as usize, len: from.len() };
    let written = process_vm_writev(task, &[IoSlice::new(from)], &[place]).context("process_vm_writev")?;
    if written == from.len() { Ok(()) } else { bail!("process_vm_writev: {written} of {} bytes", from.len()) }
}
