//! The threads of many processes, read by several of ours where that is worth it.
//!
//! What it takes is four system calls a thread, 13 us (6.18), nearly all of it spent in procfs: what helps is CPUs. No more of them than
//! [`READERS`], and only for many threads: scans go on while the machine serves, and whoever reads is where background processes are, as
//! the agent itself.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::sys::Kernel;
use crate::core::task::{TaskId, ThreadFacts};

/// At most as many of our threads read, the caller included.
const READERS: usize = 4;
/// What each of them is to have to read: half as long takes starting it on a busy machine.
const THREADS_EACH: usize = 1024;
/// Threads that one takes at a time.
const CHUNK: usize = 256;

/// A process's threads, by tid, with their masks; none if it is gone. By the caller alone.
pub fn of_one(folder: &Path, kernel: &impl Kernel) -> Vec<ThreadFacts> {
    Tasks::open(folder).map_or_else(Vec::new, |tasks| sorted(tasks.read(&tasks.tids, kernel)))
}

/// The same of all those processes, in that order; `folders` are theirs in procfs, each of which is held open meanwhile.
pub fn of_all(folders: &[PathBuf], kernel: &(impl Kernel + Sync)) -> Vec<Vec<ThreadFacts>> {
    let readers = readers(folders.iter().map(|folder| count(folder)).sum());
    let tasks = spread(folders, readers, |folder| Tasks::open(folder));
    let of_process = |(index, tasks)| {
        let tids: &[u32] = Option::as_ref(tasks).map_or(&[], |tasks: &Tasks| &tasks.tids);
        tids.chunks(CHUNK).map(move |tids| (index, tids))
    };
    let chunks: Vec<(usize, &[u32])> = tasks.iter().enumerate().flat_map(of_process).collect();
    let read = spread(&chunks, readers, |(index, tids)| {
        tasks[*index].as_ref().map_or_else(Vec::new, |tasks| tasks.read(tids, kernel))
    });
    let mut threads: Vec<Vec<ThreadFacts>> = tasks.iter().map(|_| Vec::new()).collect();
    for ((index, _), read) in chunks.iter().zip(read) {
        threads[*index].extend(read);
    }
    threads.into_iter().map(sorted).collect()
}

/// How many are to read so many threads.
fn readers(threads: usize) -> usize {
    let worth = threads / THREADS_EACH;
    // Asked for only then: it takes a look at our cgroup.
    if worth < 2 { 1 } else { worth.min(READERS).min(thread::available_parallelism().map_or(1, usize::from)) }
}

/// How many threads there are about, without a look at each: the folder's links (`proc_task_getattr` of `fs/proc/base.c`, 5.10 to 6.18).
pub fn count(folder: &Path) -> usize {
    fs::metadata(folder.join("task")).map_or(0, |facts| facts.nlink().saturating_sub(2) as usize)
}

fn sorted(mut threads: Vec<ThreadFacts>) -> Vec<ThreadFacts> {
    threads.sort_by_key(|thread| thread.id);
    threads
}

/// What `work` makes of each item, in the items' order, whoever of that many does it.
fn spread<T: Sync, R: Send>(items: &[T], workers: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let some = || {
        let next = || Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)));
        std::iter::from_fn(next).map(|(at, item)| (at, work(item))).collect::<Vec<_>>()
    };
    let mut done = thread::scope(|scope| {
        let start = |_| thread::Builder::new().name("scan".to_owned()).spawn_scoped(scope, some);
        // Whom there is no room for does not help.
        let helpers: Vec<_> = (1..workers.min(items.len())).filter_map(|helper| start(helper).ok()).collect();
        let mut done = some();
        done.extend(
            helpers.into_iter().flat_map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic))),
        );
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A process's folder of threads: if the process ends, what it leads to is nothing, and not another's.
struct Tasks {
    folder: File,
    tids: Vec<u32>,
}

impl Tasks {
    fn open(process: &Path) -> Option<Self> {
        let path = process.join("task");
        let folder = File::open(&path).ok()?;
        let entries = fs::read_dir(path).ok()?;
        let tids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        Some(Self { folder, tids })
    }

    /// What is there of those threads.
    fn read(&self, tids: &[u32], kernel: &impl Kernel) -> Vec<ThreadFacts> {
        // One open and one read each, of what never exceeds a page: there may be a hundred thousand.
        let mut stat = [0; 1024];
        let thread = |tid: &u32| {
            let length = self.stat(*tid, &mut stat)?;
            let (comm, start_time) = comm_and_start_time(&stat[..length])?;
            let id = TaskId { tid: *tid, start_time };
            Some(ThreadFacts { id, comm, allowed: kernel.affinity(*tid).ok() })
        };
        tids.iter().filter_map(thread).collect()
    }

    /// Reads a thread's `stat`; its length.
    fn stat(&self, tid: u32, stat: &mut [u8]) -> Option<usize> {
        let mut path = [0; 16];
        let mut rest = path.as_mut_slice();
        write!(rest, "{tid}/stat").ok()?;
        let left = rest.len();
        let path = &path[..path.len() - left];
        let file = openat(&self.folder, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        File::from(file).read(stat).ok()
    }
}

/// Of a thread's `stat`: what is between the first parenthesis and the last one, and field 22. The name may hold anything.
fn comm_and_start_time(stat: &[u8]) -> Option<(String, u64)> {
    let first = stat.iter().position(|byte| *byte == b'(')?;
    let last = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = String::from_utf8_lossy(stat.get(first + 1..last)?).into_owned();
    // Field 3 comes two bytes after the parenthesis.
    let start_time = stat.get(last + 2..)?.split(|byte| *byte == b' ').nth(22 - 3)?;
    Some((comm, std::str::from_utf8(start_time).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sys::Host;

    #[test]
    fn results_are_in_the_order_of_what_they_are_of() {
        let items: Vec<u32> = (0..1000).collect();
        for workers in [0, 1, 4] {
            let done = spread(&items, workers, |item| {
                // Who comes first is done last.
                thread::sleep(std::time::Duration::from_micros(u64::from(100 / (item + 1))));
                item * 2
            });
            assert!(done.iter().zip(&items).all(|(done, item)| *done == item * 2) && done.len() == 1000);
        }
        assert!(spread(&[], 4, |item: &u32| *item).is_empty());
    }

    #[test]
    fn few_threads_are_read_by_the_caller_alone() {
        assert_eq!((readers(0), readers(2 * THREADS_EACH - 1)), (1, 1));
        assert!((1..=READERS).contains(&readers(1_000_000)));
    }

    #[test]
    fn many_are_read_as_one_by_one() {
        let (own, parent) = (PathBuf::from("/proc/self"), PathBuf::from("/proc/1"));
        let (sender, wait) = std::sync::mpsc::channel::<()>();
        let (ready, is_called_so) = std::sync::mpsc::channel();
        let sleep = move || {
            ready.send(()).unwrap();
            wait.recv()
        };
        let sleeper = thread::Builder::new().name("sleeper".to_owned()).spawn(sleep).unwrap();
        is_called_so.recv().unwrap();
        let all = of_all(&[parent.clone(), "/proc/no-such".into(), own.clone()], &Host);
        assert_eq!((all.len(), all[1].len()), (3, 0));
        assert_eq!(all[0], of_one(&parent, &Host));
        // Other tests' threads come and go.
        let known = of_one(&own, &Host);
        let names = |threads: &[ThreadFacts]| threads.iter().filter(|one| one.comm == "sleeper").count();
        assert!(names(&all[2]) == 1 && names(&known) == 1 && known.is_sorted_by_key(|one| one.id));
        assert!(count(&own) >= 2 && count("/proc/no-such".as_ref()) == 0);
        drop(sender);
        sleeper.join().unwrap().unwrap_err();
    }

    #[test]
    fn a_name_with_parentheses_hides_no_start_time() {
        let rest = "S 1 2 3 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 777 4096 9\n";
        let of = |stat: &str| comm_and_start_time(stat.as_bytes());
        assert_eq!(of(&format!("42 (a) b ( c)) {rest}")), Some(("a) b ( c)".to_owned(), 777)));
        assert_eq!(of(&format!("42 () {rest}")), Some((String::new(), 777)));
        assert_eq!(of("42 (cut) S 1 2 3"), None);
        assert_eq!((of("42 cut"), of("42 )("), of("42 (a)"), of("")), (None, None, None, None));
        let me = of_one("/proc/self".as_ref(), &Host);
        let theirs = procfs::process::Process::myself().unwrap().tasks().unwrap().flatten();
        let theirs: std::collections::HashSet<_> =
            theirs.filter_map(|task| task.stat().ok()).map(|stat| stat.starttime).collect();
        assert!(!me.is_empty() && me.iter().all(|thread| theirs.contains(&thread.id.start_time)), "{me:?}");
    }
}
