//! What `/proc` says of processes and threads, at the moment it is asked.
//!
//! Every process is read through one directory handle, so that a recycled pid cannot mix two processes into one. A task
//! that vanished is no error: it is simply not in the answer.

use std::{
    collections::HashSet,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use procfs::{
    CurrentSI, ProcessCGroup,
    net::TcpState,
    process::{FDInfo, FDTarget, LimitValue, Process},
};

use super::{
    aside::{Aside, Patience, Stuck},
    device_files::Devices,
    sys::Kernel,
    threads,
};
use crate::core::{
    metrics::Usage,
    rules::Needs,
    task::{ProcessFacts, TaskId, ThreadFacts},
};

/// `PF_KTHREAD` of `include/linux/sched.h` (6.18), field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// How far up the ancestors are followed: more than any real process tree, fewer than a loop of recycled pids.
const MAX_ANCESTORS: usize = 64;

/// The most of a command line that is read, in bytes; a process may have megabytes of it, and patterns are searched in all that is read.
pub const MAX_CMDLINE: u64 = 64 << 10;
/// The same of an environment.
const MAX_ENVIRON: u64 = 256 << 10;

/// How long a reader waits for what is in a process's memory.
const PATIENCE: Patience = Patience { wait: Duration::from_secs(2), urgent: false };
/// The event thread does not have that long: a scan follows, which has.
const HURRY: Patience = Patience { wait: Duration::from_millis(100), urgent: true };
/// How many open files are looked at for devices. Whoever has used one when it had more open already is found by none.
const MAX_FILES: usize = 64 << 10;
/// The same on the event thread: who has just run a program has few, and scans look at all.
const FEW_FILES: usize = 256;

/// `(uid_t)-1`, which is nobody's and no rule's.
const NO_UID: u32 = u32::MAX;

/// `/proc` could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; is procfs mounted, and is this the host's pid namespace?")]
pub struct ProcError {
    path: PathBuf,
    source: std::io::Error,
}

/// A reader of one procfs mount.
#[derive(Debug, Clone)]
pub struct ProcReader {
    root: PathBuf,
    needs: Needs,
    devices: Devices,
    aside: Aside,
    patience: Patience,
    files: usize,
}

impl ProcReader {
    /// A reader of `root` (`/proc`) that fetches what the rules look at.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, needs: Needs) -> Self {
        Self {
            root: root.into(),
            needs: Needs::default(),
            devices: Devices::default(),
            aside: Aside::default(),
            patience: PATIENCE,
            files: MAX_FILES,
        }
        .renewed(needs)
    }

    /// The same for other rules, and with the device files that there are now. Patterns may match any number of files: not for the event loop.
    #[must_use]
    pub fn renewed(self, needs: Needs) -> Self {
        let devices = Devices::read("/sys".as_ref(), &needs.devices);
        Self { needs, devices, ..self }
    }

    /// The same for the event thread, which must not be kept from its events.
    #[must_use]
    pub fn in_a_hurry(self) -> Self {
        Self { patience: HURRY, files: FEW_FILES, ..self }
    }

    /// The same for who has time.
    #[must_use]
    pub fn in_no_hurry(self) -> Self {
        Self { patience: PATIENCE, files: MAX_FILES, ..self }
    }

    /// The process of that pid, if it is there and does not let its memory be read.
    #[must_use]
    pub fn stuck(&self, pid: u32) -> Option<TaskId> {
        let stuck = self.aside.stuck(pid)?;
        let stat = self.open(pid)?.stat().ok()?;
        (stat.starttime == stuck.start_time).then_some(stuck)
    }

    /// Those that have not let it be read for so long.
    #[must_use]
    pub fn stuck_for(&self, age: Duration) -> Vec<TaskId> {
        self.aside.stuck_for(age)
    }

    /// All processes' pids, kernel threads included, ascending.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn pids(&self) -> Result<Vec<u32>, ProcError> {
        let error = |source| ProcError { path: self.root.clone(), source };
        let mut pids: Vec<u32> = std::fs::read_dir(&self.root)
            .map_err(error)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Identity, name and arguments of a process: what most rules need to reject it.
    #[must_use]
    pub fn brief(&self, pid: u32) -> Option<ProcessFacts> {
        let process = self.open(pid)?;
        let facts = self.brief_of(&process)?;
        let uid = if self.needs.uid { real_uid(&process).unwrap_or(NO_UID) } else { facts.uid };
        Some(ProcessFacts { uid, ..facts })
    }

    /// Fetches what [`ProcReader::brief`] left out and the rules need.
    ///
    /// `None` if the process is gone or another has its pid by now.
    #[must_use]
    pub fn complete(&self, brief: ProcessFacts) -> Option<ProcessFacts> {
        let process = self.open(brief.pid)?;
        let stat = process.stat().ok()?;
        if stat.starttime != brief.start_time {
            return None;
        }
        let needs = &self.needs;
        let exe = || Some(process.exe().ok()?.to_string_lossy().into_owned());
        Some(ProcessFacts {
            ppid: stat.ppid.max(0) as u32,
            session: stat.session.max(0) as u32,
            exe: needs.exe.then(exe).flatten(),
            cgroup: needs.cgroup.then(|| cgroup(&process)).flatten(),
            env: needs.env.as_deref().map_or(Ok(None), |name| self.env(&process, brief.id(), name)).ok()?,
            device_node: self.device_node(&process, brief.id()),
            parent: needs.parent.then(|| Some(self.brief(stat.ppid as u32)?.subject())).flatten(),
            ancestors: if needs.ancestors || stat.session <= 0 {
                self.ancestors(stat.ppid)
            } else {
                Vec::new()
            },
            ..brief
        })
    }

    /// The threads of a process, by tid, with their masks.
    #[must_use]
    pub fn threads(&self, pid: u32, kernel: &impl Kernel) -> Vec<ThreadFacts> {
        threads::of_one(&self.folder(pid), kernel)
    }

    /// The same of each of those processes, of whom each takes a descriptor meanwhile. By more than one of our threads where there are
    /// many.
    #[must_use]
    pub fn threads_of(&self, pids: &[u32], kernel: &(impl Kernel + Sync)) -> Vec<Vec<ThreadFacts>> {
        let folders: Vec<PathBuf> = pids.iter().map(|pid| self.folder(*pid)).collect();
        threads::of_all(&folders, kernel)
    }

    /// Who has that pid now.
    #[must_use]
    pub fn id(&self, pid: u32) -> Option<TaskId> {
        Some(TaskId { tid: pid, start_time: self.open(pid)?.stat().ok()?.starttime })
    }

    /// How many threads a process has, without reading any.
    #[must_use]
    pub fn count_threads(&self, pid: u32) -> usize {
        threads::count(&self.folder(pid))
    }

    /// The process that a thread belongs to, by any of its tids.
    #[must_use]
    pub fn process_of(&self, tid: u32) -> Option<TaskId> {
        let pid = status_number(&*self.open(tid)?, b"Tgid:\t")?;
        let stat = self.open(pid)?.stat().ok()?;
        Some(TaskId { tid: pid, start_time: stat.starttime })
    }

    /// The processes that have a socket which listens on that TCP port, in any network namespace that a process is in.
    #[must_use]
    pub fn listeners(&self, port: u16) -> Vec<TaskId> {
        let pids = self.pids().unwrap_or_default();
        let mut seen = HashSet::new();
        let mut sockets = HashSet::new();
        for pid in &pids {
            let namespace = std::fs::read_link(self.root.join(pid.to_string()).join("ns/net"));
            let Some(process) = self.open(*pid).filter(|_| namespace.is_ok_and(|name| seen.insert(name)))
            else {
                continue;
            };
            let all = [process.tcp(), process.tcp6()].into_iter().flatten().flatten();
            let listens = all.filter(|one| one.state == TcpState::Listen && one.local_address.port() == port);
            sockets.extend(listens.map(|one| one.inode));
        }
        let holds = |fd: FDInfo| matches!(fd.target, FDTarget::Socket(inode) if sockets.contains(&inode));
        let listener = |pid: u32| {
            let process = self.open(pid)?;
            let holds = process.fd().ok()?.flatten().any(holds);
            let stat = process.stat().ok().filter(|_| holds)?;
            Some(TaskId { tid: pid, start_time: stat.starttime })
        };
        if sockets.is_empty() { Vec::new() } else { pids.into_iter().filter_map(listener).collect() }
    }

    /// The node of the first device that it has open, or else was given by its environment.
    fn device_node(&self, process: &Arc<Process>, id: TaskId) -> Option<u32> {
        if self.devices.is_empty() {
            return None;
        }
        let is_file = |fd: &FDInfo| matches!(&fd.target, FDTarget::Path(path) if path.starts_with("/dev"));
        let files = process.fd().ok().into_iter().flatten().take(self.files).flatten().filter(is_file);
        let folder = self.root.join(process.pid().to_string()).join("fd");
        let open = files.filter_map(|fd| std::fs::metadata(folder.join(fd.fd.to_string())).ok());
        let open = self.devices.of_open(open.map(|facts| facts.rdev()));
        open.or_else(|| self.devices.of_environment(|name| self.env(process, id, name).ok().flatten()))
    }

    fn brief_of(&self, process: &Arc<Process>) -> Option<ProcessFacts> {
        let stat = process.stat().ok()?;
        let kernel_thread = stat.flags & PF_KTHREAD != 0;
        let id = TaskId { tid: stat.pid as u32, start_time: stat.starttime };
        let arguments = match kernel_thread {
            true => Vec::new(),
            false => self.memory_file(process, id, "cmdline", MAX_CMDLINE).ok()?.ok()?,
        };
        Some(ProcessFacts {
            pid: id.tid,
            start_time: id.start_time,
            ppid: stat.ppid.max(0) as u32,
            session: stat.session.max(0) as u32,
            cmdline: crate::core::task::join_arguments(&arguments).into(),
            kernel_thread,
            comm: stat.comm,
            ..ProcessFacts::default()
        })
    }

    /// The value of a variable of the environment, as far as that is read; `None` where it is not set or may not be read.
    fn env(&self, process: &Arc<Process>, id: TaskId, name: &str) -> Result<Option<String>, Stuck> {
        let environ = self.memory_file(process, id, "environ", MAX_ENVIRON)?.unwrap_or_default();
        let mut values = environ.split(|byte| *byte == 0).filter_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(String::from_utf8_lossy(value).into_owned())
        });
        Ok(values.next())
    }

    /// The beginning of a file that is read out of the process's memory.
    fn memory_file(
        &self,
        process: &Arc<Process>,
        id: TaskId,
        name: &'static str,
        limit: u64,
    ) -> Result<std::io::Result<Vec<u8>>, Stuck> {
        let process = Arc::clone(process);
        self.aside.read(id, self.patience, move || {
            let mut bytes = Vec::new();
            let file = process.open_relative(name).map_err(std::io::Error::other)?;
            file.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }

    fn ancestors(&self, parent: i32) -> Vec<TaskId> {
        let stat = |pid: i32| self.open(u32::try_from(pid).ok()?)?.stat().ok();
        std::iter::successors(stat(parent), |child| stat(child.ppid))
            .take(MAX_ANCESTORS)
            .map(|stat| TaskId { tid: stat.pid as u32, start_time: stat.starttime })
            .collect()
    }

    fn open(&self, pid: u32) -> Option<Arc<Process>> {
        Process::new_with_root(self.folder(pid)).ok().map(Arc::new)
    }

    fn folder(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

/// What there is to say of a process that does not let its memory be read, for so long.
#[must_use]
pub fn unread_text(pid: u32, long: Option<Duration>) -> String {
    let long = long.map_or(String::new(), |long| format!(" for {} s", long.as_secs()));
    format!(
        "process {pid} has not let its command line be read{long}: its memory is locked, as by mmap of a file whose NFS or FUSE server does not \
         answer (grep . /proc/{pid}/task/*/wchan tells where it waits); it is left as it is until it can be read again"
    )
}

/// This process and those of its ancestors that are only there to start it: `sudo numa-agent ...`, `sh -c 'numa-agent
/// ...'`. Their command lines hold our patterns, but they are no part of the workload.
#[must_use]
pub fn own_processes(root: &Path) -> Vec<TaskId> {
    let reader = ProcReader::new(root, Needs::default());
    let Some(me) = reader.brief(std::process::id()) else { return Vec::new() };
    let parent =
        |child: &ProcessFacts| Some(child.ppid).filter(|ppid| *ppid > 1).and_then(|ppid| reader.brief(ppid));
    let wrappers = std::iter::successors(parent(&me), parent).take(MAX_ANCESTORS);
    let arguments = me.cmdline.split_once(' ').map_or("", |(_, arguments)| arguments);
    let own = wrappers.filter(|wrapper| is_wrapper(&wrapper.cmdline, arguments)).map(|wrapper| wrapper.id());
    own.chain([me.id()]).collect()
}

/// The threads of this process.
///
/// # Errors
/// If `/proc/self/task` cannot be read.
pub fn own_threads() -> std::io::Result<Vec<u32>> {
    let names: Vec<_> = std::fs::read_dir("/proc/self/task")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// Our resident memory in bytes, and the CPU time of all our threads in seconds.
#[must_use]
pub fn own_usage() -> Option<(u64, f64)> {
    let own = Process::myself().ok()?;
    let (memory, times) = (own.statm().ok()?, own.stat().ok()?);
    let ticks = (times.utime + times.stime) as f64 / procfs::ticks_per_second() as f64;
    Some((memory.resident * procfs::page_size(), ticks))
}

/// Everything that metrics say of our own process.
#[must_use]
pub fn own_metrics() -> Usage {
    let Ok(own) = Process::myself() else { return Usage::default() };
    let (stat, ticks) = (own.stat().ok(), procfs::ticks_per_second() as f64);
    let booted_at = procfs::KernelStats::current().ok().map(|kernel| kernel.btime as f64);
    let files = own.limits().ok().map(|limits| limits.max_open_files.soft_limit);
    Usage {
        cpu_seconds: stat.as_ref().map(|stat| (stat.utime + stat.stime) as f64 / ticks),
        resident_bytes: stat.as_ref().map(|stat| stat.rss * procfs::page_size()),
        virtual_bytes: stat.as_ref().map(|stat| stat.vsize),
        open_fds: own.fd_count().ok().map(|count| count as u64),
        max_fds: files.and_then(|limit| match limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        }),
        threads: stat.as_ref().map(|stat| stat.num_threads.max(0) as u64),
        started_at_seconds: stat
            .zip(booted_at)
            .map(|(stat, booted_at)| booted_at + stat.starttime as f64 / ticks),
    }
}

/// Whether a command line starts an agent by name, or holds the agent's own arguments.
fn is_wrapper(cmdline: &str, arguments: &str) -> bool {
    let names_us = cmdline.split(|c: char| c.is_whitespace() || c == '/').any(|word| word == "numa-agent");
    names_us || (!arguments.is_empty() && cmdline.contains(arguments))
}

fn real_uid(process: &Process) -> Option<u32> {
    status_number(process, b"Uid:\t")
}

/// The first number of a line of `status`. From its bytes: the name above need not be text.
fn status_number(process: &Process, label: &[u8]) -> Option<u32> {
    let mut status = Vec::new();
    process.open_relative("status").ok()?.read_to_end(&mut status).ok()?;
    let numbers = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(label))?;
    std::str::from_utf8(numbers).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The path that tells containers and services apart: the v1 cpuset controller's, whose limits our masks meet, if it is
/// not the root; else the unified hierarchy's likewise; else the longest of the v1 controllers' (a v1 host may put a
/// process into some hierarchies only).
fn cgroup(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?.0;
    let has_cpuset = |group: &&ProcessCGroup| group.controllers.iter().any(|name| name == "cpuset");
    let below_root = |group: &&ProcessCGroup| group.pathname != "/";
    let cpuset = groups.iter().filter(has_cpuset).find(below_root);
    let unified = || groups.iter().filter(|group| group.hierarchy == 0).find(below_root);
    let longest = || groups.iter().max_by_key(|group| group.pathname.len());
    cpuset.or_else(unified).or_else(longest).map(|group| group.pathname.clone())
}

/// The same of the process `pid`.
#[must_use]
pub fn cgroup_of(pid: u32) -> Option<String> {
    cgroup(&Process::new(pid.try_into().ok()?).ok()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::host::sys::Host;

    fn needs_all() -> Needs {
        Needs {
            uid: true,
            exe: true,
            cgroup: true,
            parent: true,
            env: Some("NUMA_AGENT_TEST".into()),
            devices: Vec::new(),
            ancestors: true,
        }
    }

    #[test]
    fn reads_a_real_process_whole() {
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read line", "", "an argument", "\x1b[31m"])
            .env("NUMA_AGENT_TEST", "seven")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The name changes before the arguments are there: only a word from the shell says that its exec is over.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let reader = ProcReader::new("/proc", needs_all());
        let facts = reader.complete(reader.brief(child.id()).unwrap()).unwrap();
        let threads = reader.threads(child.id(), &Host);
        child.kill().unwrap();
        child.wait().unwrap();
        let me = reader.brief(std::process::id()).unwrap();
        assert_eq!(facts.comm, "sh");
        assert_eq!(facts.uid, nix::unistd::getuid().as_raw());
        assert_eq!(&*facts.cmdline, "sh -c echo up; read line an argument \x1b[31m");
        assert_eq!((facts.ppid, facts.session), (me.pid, me.session));
        assert_eq!(facts.parent, Some(me.subject()));
        assert_eq!(facts.ancestors.first(), Some(&me.id()));
        assert_eq!(facts.env.as_deref(), Some("seven"));
        assert!(facts.exe.is_some_and(|exe| exe.starts_with('/')));
        assert!(!facts.kernel_thread);
        assert_eq!(threads.len(), 1);
        assert_eq!(threads[0].id, TaskId { tid: facts.pid, start_time: facts.start_time });
        assert!(threads[0].allowed.as_ref().is_some_and(|mask| !mask.is_empty()));
        assert_eq!(reader.brief(child.id()), None, "a process that ended is not there");
    }

    #[test]
    fn of_a_long_command_line_and_environment_the_beginning_is_read() {
        let long = "x".repeat(100 << 10);
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read line", "", &long, &long, &long])
            .env_clear()
            .env("NUMA_AGENT_TEST", "seven")
            .envs((0..4).map(|number| (format!("ZZ_{number}"), &long)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let reader = ProcReader::new("/proc", needs_all());
        let facts = reader.brief(child.id());
        let open = reader.open(child.id()).unwrap();
        let environ = reader.memory_file(&open, facts.as_ref().unwrap().id(), "environ", MAX_ENVIRON);
        child.kill().unwrap();
        child.wait().unwrap();
        let cmdline = facts.unwrap().cmdline;
        // An empty argument is left out of it.
        assert!(
            (MAX_CMDLINE as usize - 2..=MAX_CMDLINE as usize).contains(&cmdline.len()),
            "{}",
            cmdline.len()
        );
        assert_eq!(environ.unwrap().unwrap().len(), MAX_ENVIRON as usize);
    }

    #[test]
    fn a_name_that_is_no_text_hides_nobody() {
        let mut child = Command::new("sh")
            .args(["-c", r"printf '\377\376' > /proc/$$/comm; echo up; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let reader = ProcReader::new("/proc", needs_all());
        let facts = reader.brief(child.id()).and_then(|brief| reader.complete(brief));
        let threads = reader.threads(child.id(), &Host);
        child.kill().unwrap();
        child.wait().unwrap();
        let facts = facts.expect("it is there");
        assert_eq!((facts.comm.as_str(), facts.uid), ("\u{fffd}\u{fffd}", nix::unistd::getuid().as_raw()));
        assert_eq!(threads.len(), 1);
    }

    #[test]
    fn kernel_threads_are_known_as_such() {
        let reader = ProcReader::new("/proc", Needs::default());
        if let Some(kthreadd) = reader.brief(2).filter(|facts| facts.comm == "kthreadd") {
            assert!(kthreadd.kernel_thread);
        }
        assert!(reader.pids().unwrap().contains(&std::process::id()));
    }

    #[test]
    fn a_thread_leads_to_its_process() {
        let reader = ProcReader::new("/proc", Needs::default());
        let me = reader.brief(std::process::id()).unwrap().id();
        let tid = std::thread::spawn(|| nix::unistd::gettid().as_raw() as u32).join().unwrap();
        assert_eq!(reader.process_of(tid), None, "it has ended");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tid = nix::unistd::gettid().as_raw() as u32;
                assert_eq!((reader.process_of(tid), reader.process_of(me.tid)), (Some(me), Some(me)));
            });
        });
    }

    #[test]
    fn listeners_are_found_in_both_families_and_clients_are_none() {
        use std::net::{TcpListener, TcpStream};
        let reader = ProcReader::new("/proc", Needs::default());
        let me = reader.brief(std::process::id()).unwrap().id();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap().local_addr().unwrap();
            assert!(reader.listeners(server.port()).contains(&me));
            assert_eq!(reader.listeners(client.port()), []);
            drop(listener);
            assert_eq!(reader.listeners(server.port()), []);
        }
    }

    #[test]
    fn a_missing_proc_is_named() {
        let error = ProcReader::new("/nonexistent/proc", Needs::default()).pids().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/proc"), "{error}");
    }

    #[test]
    fn only_wrappers_of_the_agent_count_as_its_own() {
        assert!(is_wrapper("sudo /usr/bin/numa-agent bind --group-pattern worker", ""));
        assert!(is_wrapper("sh -c numa-agent run --config x", ""));
        assert!(!is_wrapper("python worker.py", ""));
        assert!(is_wrapper("timeout 3 /opt/na run --group-pattern worker", "run --group-pattern worker"));
        assert!(!is_wrapper("/opt/numa-agent-tests/serving-stack worker", ""));
    }
}
