//! Running a guest under QEMU: its command line, a wall clock, and what is heard on its console.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Arch, console::Console, topology::Topology};

/// A guest that can be started.
pub struct Guest<'a> {
    pub arch: Arch,
    pub topology: Topology,
    pub kernel: &'a Path,
    pub image: &'a Path,
    /// For init.
    pub init_args: Vec<String>,
}

impl Guest<'_> {
    /// The command that runs it, with its console on standard input and output.
    pub fn command(&self) -> Command {
        // It is to end with us, however we end.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", self.arch.qemu()]);
        // Said explicitly: KVM in a virtual machine may hang, and a chain of fallbacks would hang with it.
        match self.arch {
            Arch::X86_64 => {
                // Half the time of `max`, and it has die ids. QEMU 7.2 spoils the flags after a CMPXCHG16B, which the kernel's
                // allocator uses where there is one: many boots of 6.12 die of that. With a thread for each CPU it may run
                // code that the kernel is just patching.
                qemu.args(["-accel", "tcg,thread=single", "-machine", "q35", "-cpu", "Nehalem,-cx16"]);
            }
            Arch::Aarch64 => {
                // With one CPU up, the second host CPU can drain what the others' translations were told to forget.
                let threads = if self.topology.online_later { "multi" } else { "single" };
                qemu.args(["-accel", &format!("tcg,thread={threads}"), "-machine", "virt,gic-version=3"]);
                qemu.args(["-cpu", "cortex-a72"]);
            }
        }
        qemu.args(self.topology.arguments(self.arch));
        // Ctrl-C is the guest's, where there is somebody to press it.
        qemu.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.image);
        qemu.arg("-append").arg(self.append());
        qemu
    }

    fn append(&self) -> String {
        let machine = match self.arch {
            // On a busy host the timer's interrupts come too late for 5.10's check of them, which ends in a panic.
            Arch::X86_64 => "console=ttyS0 no_timer_check",
            Arch::Aarch64 => "console=ttyAMA0",
        };
        // A panic, and so any oops, ends QEMU; NUMA balancing would move what the tests place.
        let all = "quiet loglevel=5 panic=-1 oops=panic nokaslr numa_balancing=disable";
        let later = if self.topology.online_later {
            " maxcpus=1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 audit=0"
        } else {
            ""
        };
        format!("{machine} {all}{later} -- {}", self.init_args.join(" "))
    }

    /// Runs it until it ends or `limit` is over; what it says is kept in `log`.
    ///
    /// # Errors
    /// If QEMU does not start, or the log cannot be written.
    pub fn run(&self, limit: Duration, log: &Path, mut heard: impl FnMut(&Console)) -> Result<Console> {
        let mut log = Log::create(log)?;
        let mut qemu = self.command();
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(qemu.spawn().with_context(|| format!("cannot run {}", self.arch.qemu()))?);
        let (send, lines) = mpsc::channel();
        for source in [child.0.stdout.take().map(Source::Console), child.0.stderr.take().map(Source::Errors)]
        {
            let send = send.clone();
            thread::spawn(move || source.into_iter().for_each(|source| source.send_lines(&send)));
        }
        drop(send);
        let (start, mut console) = (Instant::now(), Console::default());
        let mut complaint = None;
        loop {
            match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    log.line(&line)?;
                    if line.starts_with(ERRORS) {
                        complaint = Some(line.clone());
                    }
                    let known = console.tests.len();
                    console.line(&line);
                    if console.tests.len() != known {
                        heard(&console);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    console.broken.push(format!("not done after {} s", limit.as_secs()));
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.0.wait().context("QEMU")?;
                    if !status.success() {
                        let said = complaint.unwrap_or_else(|| format!("{ERRORS}nothing said"));
                        console.broken.push(format!("QEMU ended with {status}; {said}"));
                    }
                    break;
                }
            }
        }
        Ok(console)
    }
}

/// QEMU, until this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or has to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a line begins that QEMU itself has said.
const ERRORS: &str = "qemu: ";

/// What QEMU says on either side.
enum Source {
    Console(std::process::ChildStdout),
    Errors(std::process::ChildStderr),
}

impl Source {
    fn send_lines(self, to: &mpsc::Sender<String>) {
        let (mut reader, prefix): (Box<dyn std::io::BufRead>, _) = match self {
            Self::Console(source) => (Box::new(BufReader::new(source)), ""),
            Self::Errors(source) => (Box::new(BufReader::new(source)), ERRORS),
        };
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            if to.send(format!("{prefix}{}", text.trim_end())).is_err() {
                return;
            }
            line.clear();
        }
    }
}

struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").with_context(|| self.path.display().to_string())
    }
}
