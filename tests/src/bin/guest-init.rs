//! Process 1 of the virtual machines that `cargo xtask vm` boots: mounts, runs the tests one by one, says how each ended, powers off.
//!
//! What it says on the console is `numa_agent_tests::guest::say`'s lines, for `xtask/src/vm/console.rs` to read.

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitStatus, wait},
    },
    unistd::Pid,
};
use numa_agent_tests::{
    guest::{self, Guest, say},
    sys,
};

/// What the kernel command line says after `--`.
#[derive(Parser)]
struct Args {
    /// The shape that this machine was given
    #[arg(long)]
    topology: String,
    /// Test programs to run, in this order
    #[arg(long = "suite")]
    suites: Vec<PathBuf>,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// What the names of the tests that this machine is for contain, one or the other
    #[arg(long)]
    only: Vec<String>,
    /// Seconds that a test may take
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Bring all processors online that the kernel was told to leave
    #[arg(long)]
    online: bool,
    /// Processors to take offline before anything else
    #[arg(long)]
    offline: Vec<u32>,
    /// Give a shell instead of running tests
    #[arg(long)]
    shell: bool,
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return work();
    }
    // Process 1 only prepares, and reaps what loses its parent: the work is a child's.
    let done = prepare().and_then(|()| {
        let me = std::env::current_exe().context("cannot tell my own path")?;
        let child =
            Command::new(me).args(std::env::args_os().skip(1)).spawn().context("cannot start myself")?;
        reap_until(Pid::from_raw(child.id().cast_signed()))
    });
    if let Err(error) = done {
        say(&format!("broken: {error:#}"));
    }
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

/// Waits for children, whoever they are, until that one has ended.
fn reap_until(child: Pid) -> Result<()> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == child => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
    }
}

fn prepare() -> Result<()> {
    let at = |kind: &str, target: &str| {
        fs::create_dir_all(target).with_context(|| target.to_owned())?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {kind} at {target}"))
    };
    at("proc", "/proc")?;
    at("sysfs", "/sys")?;
    // The kernel may have mounted it (`CONFIG_DEVTMPFS_MOUNT` does not for an initramfs).
    at("devtmpfs", "/dev")?;
    // Plain directories, if anybody asks: programs may have been built, and be, below one of them.
    ["/tmp", "/run"].into_iter().try_for_each(|dir| fs::create_dir_all(dir).context(dir))?;
    at("cgroup2", "/sys/fs/cgroup")?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset +cpu").context("cgroup controllers")?;
    sys::loopback_up().context("cannot bring up lo")
}

fn work() -> ExitCode {
    // Ours begin with dashes; the kernel also hands on what it does not know itself.
    let (name, rest) = (std::env::args().take(1), std::env::args().skip(1));
    let args = match Args::try_parse_from(name.chain(rest.filter(|arg| arg.starts_with("--")))) {
        Ok(args) => args,
        Err(error) => {
            say(&format!("broken: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    say(&format!("up {} {}", release.trim(), args.topology));
    let Some(guest) = Guest::here() else {
        say("broken: this is no guest");
        return ExitCode::FAILURE;
    };
    if let Err(error) = set_online(&guest, &args) {
        say(&format!("broken: {error:#}"));
    }
    if args.shell {
        return shell(&args);
    }
    let plan = guest::Plan {
        suites: args.suites,
        filter: args.filter,
        only: args.only,
        limit: Duration::from_secs(args.limit),
        topology: args.topology,
    };
    match guest::run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("broken: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn set_online(guest: &Guest, args: &Args) -> Result<()> {
    let all = guest.cpus(if args.online { "present" } else { "online" })?;
    guest.set_online(&all.difference(&args.offline.iter().copied().collect()))
}

/// A shell on the console, with a terminal of its own so that Ctrl-C is its.
fn shell(args: &Args) -> ExitCode {
    let console = || fs::OpenOptions::new().read(true).write(true).open("/dev/console");
    let run = || -> io::Result<()> {
        let mut shell = Command::new("/bin/sh");
        shell.env(guest::TOPOLOGY, &args.topology).env("PATH", "/bin").env("HOME", "/");
        shell.stdin(console()?).stdout(console()?).stderr(console()?);
        shell.status().map(drop)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("broken: /bin/sh: {error}"));
            ExitCode::FAILURE
        }
    }
}
