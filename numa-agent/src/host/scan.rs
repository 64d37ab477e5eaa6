//! A scan: every process that may be ours, with its threads and their masks.

use std::collections::BTreeSet;

use super::{
    device_files,
    procfs::{ProcError, ProcReader},
    sys::{self, Kernel},
};
use crate::core::{
    engine::Snapshot,
    rules::Rules,
    task::{ProcessFacts, TaskId},
};

/// Processes whose threads are read together: each takes a descriptor, of which we may have 1024.
const TOGETHER: usize = 64;

/// What to look for.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// Where to look.
    pub reader: ProcReader,
    /// What may be ours.
    pub rules: Rules,
    /// Pids that are ours already, and may have stopped to match.
    pub managed: BTreeSet<u32>,
    /// See [`Snapshot::after_loss`].
    pub after_loss: bool,
}

/// The most threads that a look reads, some 20 us each: events wait meanwhile, so what has more is left to a scan, which is a second away.
pub const MAX_THREADS: usize = 512;

/// What a look at one process came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It has ended.
    Gone,
    /// It does not let its memory be read.
    Unread(TaskId),
    /// It is not ours; its threads were not read.
    Foreign(TaskId),
    /// It may be ours, and has more than [`MAX_THREADS`] threads, which were not read.
    Large,
    /// This is it.
    Seen(Snapshot),
}

/// What was there.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Processes that may be ours, oldest first: the order in which live events would have told of them.
    pub snapshots: Vec<Snapshot>,
    /// All processes alive.
    pub alive: BTreeSet<TaskId>,
    /// Of those, the ones that do not let their memory be read.
    pub unread: Vec<TaskId>,
    /// The numbers of the device files that only forward threads use. Patterns may match any number of files: not for the event loop.
    pub devices: BTreeSet<u32>,
    /// Monotonic nanoseconds when it began.
    pub as_of_ns: u64,
}

impl Scanner {
    /// Reads all of `/proc` once.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn scan(&self, kernel: &(impl Kernel + Sync)) -> Result<Scan, ProcError> {
        let as_of_ns = sys::monotonic_ns();
        let devices = device_files::numbers(&self.rules.settings().forward_thread_devices);
        let mut scan =
            Scan { snapshots: Vec::new(), alive: BTreeSet::new(), unread: Vec::new(), devices, as_of_ns };
        let mut found = Vec::new();
        for pid in self.reader.pids()? {
            let as_of_ns = sys::monotonic_ns();
            let Some(brief) = self.reader.brief(pid) else {
                // What is known of it stays.
                let stuck = self.reader.stuck(pid);
                scan.unread.extend(stuck);
                scan.alive.extend(stuck.or_else(|| self.reader.id(pid)));
                continue;
            };
            scan.alive.insert(brief.id());
            if self.may_be_ours(&brief) {
                let Some(facts) = self.reader.complete(brief) else { continue };
                // Threads are what takes long to read.
                if self.managed.contains(&pid) || self.rules.process_role(&facts).is_some() {
                    found.push((facts, as_of_ns));
                }
            }
            if found.len() == TOGETHER {
                scan.snapshots.extend(self.with_threads(std::mem::take(&mut found), kernel));
            }
        }
        scan.snapshots.extend(self.with_threads(found, kernel));
        scan.snapshots.sort_by_key(|snapshot| (snapshot.facts.start_time, snapshot.facts.pid));
        Ok(scan)
    }

    /// Reads one process on the event thread. `managed`: it is ours already, whatever it has become.
    #[must_use]
    pub fn look(&self, pid: u32, managed: bool, kernel: &impl Kernel) -> Look {
        let as_of_ns = sys::monotonic_ns();
        let unread =
            || self.reader.stuck(pid).or_else(|| self.reader.id(pid)).map_or(Look::Gone, Look::Unread);
        let Some(brief) = self.reader.brief(pid) else { return unread() };
        let id = brief.id();
        if !managed && !self.rules.may_match(&brief, false) {
            return Look::Foreign(id);
        }
        let Some(facts) = self.reader.complete(brief) else { return unread() };
        if !managed && self.rules.process_role(&facts).is_none() {
            return Look::Foreign(id);
        }
        if self.reader.count_threads(pid) > MAX_THREADS {
            return Look::Large;
        }
        let threads = self.reader.threads(pid, kernel);
        Look::Seen(Snapshot { facts, threads, as_of_ns, after_loss: self.after_loss })
    }

    fn may_be_ours(&self, brief: &ProcessFacts) -> bool {
        let matches = || self.rules.may_match(brief, false);
        !brief.kernel_thread && (self.managed.contains(&brief.pid) || matches())
    }

    fn with_threads(&self, found: Vec<(ProcessFacts, u64)>, kernel: &(impl Kernel + Sync)) -> Vec<Snapshot> {
        let pids: Vec<u32> = found.iter().map(|(facts, _)| facts.pid).collect();
        let threads = self.reader.threads_of(&pids, kernel);
        let snapshot =
            |((facts, as_of_ns), threads)| Snapshot { facts, threads, as_of_ns, after_loss: self.after_loss };
        found.into_iter().zip(threads).map(snapshot).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        core::{config::Overrides, settings::Settings},
        host::sys::Host,
    };

    fn scanner(root: &Path) -> Scanner {
        let flags = Overrides { group_patterns: vec!["worker".into()], ..Overrides::default() };
        let rules = Rules::new(Settings::from_sources(None, flags).unwrap());
        let reader = ProcReader::new(root, rules.needs()).in_a_hurry();
        Scanner { reader, rules, managed: BTreeSet::new(), after_loss: false }
    }

    /// A process as `/proc` shows it.
    fn process(root: &Path, pid: u32, cmdline: &str, threads: u32) {
        let folder = root.join(pid.to_string());
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let rest = own.rsplit_once(')').unwrap().1;
        for tid in pid..pid + threads {
            fs::create_dir_all(folder.join(format!("task/{tid}"))).unwrap();
            fs::write(folder.join(format!("task/{tid}/stat")), format!("{tid} (name){rest}")).unwrap();
        }
        fs::write(folder.join("stat"), format!("{pid} (name){rest}")).unwrap();
        fs::write(folder.join("cmdline"), cmdline).unwrap();
    }

    #[test]
    fn one_that_cannot_be_read_keeps_nobody_waiting_and_is_read_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        process(root, 10, "worker\0", 1);
        process(root, 11, "", 1);
        process(root, 12, "worker\0", 1);
        let cmdline = root.join("11/cmdline");
        fs::remove_file(&cmdline).unwrap();
        // Who opens it waits for somebody to write.
        nix::unistd::mkfifo(&cmdline, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let scanner = scanner(root);
        let pids = |scan: &Scan| scan.snapshots.iter().map(|seen| seen.facts.pid).collect::<Vec<_>>();
        let scan = scanner.scan(&Host).unwrap();
        assert_eq!(pids(&scan), [10, 12]);
        let [stuck] = scan.unread[..] else { panic!("{:?}", scan.unread) };
        assert_eq!((stuck.tid, scan.alive.len(), scan.alive.contains(&stuck)), (11, 3, true));
        assert_eq!(scanner.look(11, true, &Host), Look::Unread(stuck));
        assert_eq!(scanner.reader.stuck_for(Duration::ZERO), [stuck]);
        let began = Instant::now();
        assert_eq!(scanner.clone().scan(&Host).unwrap().unread, [stuck], "by another scan's reader too");
        assert!(began.elapsed() < Duration::from_secs(5));
        fs::write(&cmdline, "worker\0").unwrap();
        while scanner.reader.stuck(11).is_some() {
            std::thread::yield_now();
        }
        fs::remove_file(&cmdline).unwrap();
        fs::write(&cmdline, "worker\0").unwrap();
        let scan = scanner.scan(&Host).unwrap();
        assert_eq!((pids(&scan), scan.unread), (vec![10, 11, 12], vec![]));
    }

    #[test]
    fn a_look_reads_the_threads_of_what_is_ours_alone_and_not_too_many() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 1000, "worker\0", 3);
        process(dir.path(), 2000, "stranger\0", MAX_THREADS as u32 + 1);
        process(dir.path(), 3000, "worker\0", MAX_THREADS as u32 + 1);
        let scanner = scanner(dir.path());
        let Look::Seen(seen) = scanner.look(1000, false, &Host) else { panic!("it is ours") };
        assert_eq!(seen.threads.len(), 3);
        let Look::Foreign(stranger) = scanner.look(2000, false, &Host) else { panic!("it is none of ours") };
        assert_eq!(stranger.tid, 2000);
        assert_eq!(scanner.look(3000, false, &Host), Look::Large);
        assert_eq!(scanner.look(2000, true, &Host), Look::Large, "it was ours");
        assert_eq!(scanner.look(4000, false, &Host), Look::Gone);
        let threads: Vec<usize> =
            scanner.scan(&Host).unwrap().snapshots.iter().map(|seen| seen.threads.len()).collect();
        assert_eq!(threads, [3, MAX_THREADS + 1], "a scan reads them all");
    }
}
