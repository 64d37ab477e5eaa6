//! A running process's pages, moved to where its plan has them, a few at a time; and its threads' policies.
//!
//! One batch is one `move_pages(2)`. Who touches a page of it meanwhile waits, until the call is over at the longest: so its length is
//! what is kept short. Nothing else of the process is stopped for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    inject,
    sys::{self, Host, Kernel, UNTOLD},
};
use crate::core::{
    idset::NodeSet,
    memory::{
        Policy,
        repair::{HugePages, Mapping, Pace, Shortage, Targets},
    },
    task::TaskId,
};

/// How many pages one query asks for.
const QUERY: usize = 4096;

/// The same pages are tried again so often, in ever smaller batches: one page that cannot be moved ends the call for those behind it.
const ATTEMPTS: [usize; 3] = [usize::MAX, 32, 1];

/// So many in a row that cannot be moved one by one: the rest of the batch will not be either (memory that a device has pinned).
const HOPELESS: usize = 64;

/// What a target node keeps free, in percent of it, unless the kernel begins to reclaim before that.
const RESERVE_PERCENT: u64 = 2;

/// Between two looks whether pages may be moved again.
const HALT_PAUSE: Duration = Duration::from_millis(50);

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Pages are moved, in so much of the time.
    Move {
        /// In percent.
        duty_percent: u64,
    },
    /// None for now.
    Halt,
    /// It is over, and why.
    End(String),
}

/// How it is to be done.
#[derive(Debug, Clone)]
pub struct Manner {
    /// The longest that one call may take.
    pub max_pause: Duration,
    /// Pages that other processes have mapped too.
    pub shared: bool,
}

/// What became of a process's pages.
#[derive(Debug, Clone, Default)]
pub struct Moved {
    /// Bytes by node before, of what a policy governs.
    pub before: BTreeMap<u32, u64>,
    /// The same after; as before, if nothing was to be moved.
    pub after: BTreeMap<u32, u64>,
    /// Bytes that were to be moved.
    pub wrong_bytes: u64,
    /// Bytes that were, as the kernel then said.
    pub moved_bytes: u64,
    /// Pages that were not, by why.
    pub unmoved: BTreeMap<String, u64>,
    /// Calls that moved pages.
    pub batches: u64,
    /// The longest of them, in nanoseconds.
    pub longest_ns: u64,
    /// The longest without what a call takes that has nothing to move.
    pub longest_pause_ns: u64,
    /// Times that it halted.
    pub halts: u64,
    /// For how long in all, in nanoseconds.
    pub halted_ns: u64,
    /// Why it ended before all was looked at.
    pub stopped: Option<String>,
}

/// What became of a process's threads.
#[derive(Debug, Clone, Default)]
pub struct Threads {
    /// Those that have the policy now.
    pub set: u64,
    /// Those that have not, and why.
    pub refused: Vec<String>,
}

/// Why it could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It ended.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// Its mappings could not be read.
    #[error("the mappings of process {pid}: {error}{}", if error.kind() == io::ErrorKind::PermissionDenied { "; run as root or with CAP_SYS_PTRACE" } else { "" })]
    Mappings {
        /// The process.
        pid: u32,
        /// Why.
        error: io::Error,
    },
    /// Its pages could not be asked for.
    #[error("where the pages of process {pid} are: {errno}{}", if *.errno == Errno::EPERM { "; run as root or with CAP_SYS_PTRACE" } else { "" })]
    Query {
        /// The process.
        pid: u32,
        /// Why.
        errno: Errno,
    },
}

/// A process whose pages are looked at and moved.
#[derive(Debug)]
pub struct Repair<'a> {
    process: TaskId,
    nodes: &'a NodeSet,
    mappings: Vec<Mapping>,
    page_bytes: u64,
    /// What was found, and done.
    pub moved: Moved,
}

impl<'a> Repair<'a> {
    /// Looks where its pages are.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn look(process: TaskId, nodes: &'a NodeSet) -> Result<Self, RepairError> {
        let mappings = mappings(process.tid, &huge_pages())?;
        let page_bytes = sys::page_bytes();
        let mut repair = Self { process, nodes, mappings, page_bytes, moved: Moved::default() };
        repair.moved.before = repair.bytes_by_node()?;
        repair.moved.after = repair.moved.before.clone();
        let mut targets = repair.targets();
        // What is to be moved of each node: the same that moving them finds.
        let blocks = repair.moved.before.iter().map(|(node, bytes)| (*node, bytes / repair.page_bytes));
        let wrong = blocks.map(|(node, pages)| {
            (0..pages).filter(|_| targets.target(node, repair.page_bytes).is_some()).count() as u64
        });
        repair.moved.wrong_bytes = wrong.sum::<u64>() * repair.page_bytes;
        Ok(repair)
    }

    fn targets(&self) -> Targets {
        Targets::new(&self.moved.before, self.nodes)
    }

    fn gone(&self) -> bool {
        Host.start_time(self.process.tid) != Some(self.process.start_time)
    }

    /// Pages and where they are, a block at a time, until `each` says that it is enough.
    fn each_block(
        &self,
        mut each: impl FnMut(u64, Vec<(u64, u32)>) -> Result<bool, RepairError>,
    ) -> Result<(), RepairError> {
        for mapping in &self.mappings {
            let page = mapping.huge_bytes.unwrap_or(self.page_bytes);
            for block in mapping.blocks(self.page_bytes) {
                if !each(page, self.places(&block)?)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Those of the pages that are there, and their nodes.
    fn places(&self, pages: &[u64]) -> Result<Vec<(u64, u32)>, RepairError> {
        let pid = self.process.tid;
        let mut places = Vec::new();
        for pages in pages.chunks(QUERY) {
            let nodes = sys::move_pages(pid, pages, None, false).map_err(|errno| match errno {
                Errno::ESRCH => RepairError::Gone { pid },
                errno => RepairError::Query { pid, errno },
            })?;
            let there =
                pages.iter().zip(nodes).filter_map(|(page, node)| Some((*page, u32::try_from(node).ok()?)));
            places.extend(there);
        }
        Ok(places)
    }

    fn bytes_by_node(&self) -> Result<BTreeMap<u32, u64>, RepairError> {
        let mut bytes = BTreeMap::new();
        self.each_block(|page, places| {
            for (_, node) in places {
                *bytes.entry(node).or_default() += page;
            }
            Ok(true)
        })?;
        if self.gone() { Err(RepairError::Gone { pid: self.process.tid }) } else { Ok(bytes) }
    }

    /// Moves them. `next` is asked between two batches, with what was done so far.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn run(&mut self, manner: &Manner, next: impl FnMut(&Moved) -> Next) -> Result<(), RepairError> {
        if self.moved.wrong_bytes == 0 {
            return Ok(());
        }
        let mut moved = std::mem::take(&mut self.moved);
        let done = Mover {
            repair: self,
            manner,
            pace: Pace::new(manner.max_pause.as_nanos() as u64),
            duty_percent: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            swapped: swapped_out(),
            watermarks: watermarks(&fs::read_to_string("/proc/zoneinfo").unwrap_or_default()),
            next,
        }
        .run(&mut moved);
        self.moved = moved;
        done?;
        self.moved.after = self.bytes_by_node()?;
        Ok(())
    }
}

/// One run over all pages.
struct Mover<'a, F> {
    repair: &'a Repair<'a>,
    manner: &'a Manner,
    pace: Pace,
    /// As it was said last.
    duty_percent: u64,
    /// Address, size and target.
    batch: Vec<(u64, u64, u32)>,
    batch_bytes: u64,
    swapped: Option<u64>,
    watermarks: BTreeMap<u32, u64>,
    next: F,
}

impl<F: FnMut(&Moved) -> Next> Mover<'_, F> {
    fn run(mut self, moved: &mut Moved) -> Result<(), RepairError> {
        let mut targets = Targets::new(&moved.before, self.repair.nodes);
        self.repair.each_block(|page, places| {
            let mut by_node = BTreeMap::<u32, Vec<u64>>::new();
            for (address, node) in places {
                by_node.entry(node).or_default().push(address);
            }
            for (from, pages) in by_node {
                let Some(to) = targets.target(from, page * pages.len() as u64) else { continue };
                for address in pages {
                    self.batch.push((address, page, to));
                    self.batch_bytes += page;
                    if self.batch_bytes >= self.pace.batch_bytes() && !self.flush(moved)? {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        })?;
        if moved.stopped.is_none() {
            self.flush(moved)?;
        }
        Ok(())
    }

    /// Moves what is gathered, if it may be. `false`: enough.
    fn flush(&mut self, moved: &mut Moved) -> Result<bool, RepairError> {
        self.batch_bytes = 0;
        let mut left = std::mem::take(&mut self.batch);
        for at_a_time in ATTEMPTS {
            let (mut again, mut failed) = (Vec::new(), 0);
            let pages = std::mem::take(&mut left);
            let mut rest = pages.as_slice();
            while !rest.is_empty() {
                if failed >= HOPELESS {
                    again.extend_from_slice(rest);
                    break;
                }
                moved.stopped = self.wait_for_leave(moved)?;
                // After a wait a batch has less than was gathered for it.
                let (part, more) = rest.split_at(self.fitting(rest).min(at_a_time));
                rest = more;
                moved.stopped = moved.stopped.take().or_else(|| self.shortage(part));
                if moved.stopped.is_some() {
                    return Ok(false);
                }
                let unmoved = self.move_part(part, moved)?;
                if moved.stopped.is_some() {
                    return Ok(false);
                }
                failed = if unmoved.is_empty() || at_a_time > 1 { 0 } else { failed + 1 };
                again.extend(unmoved);
            }
            left = again;
            if left.is_empty() {
                return Ok(true);
            }
        }
        *moved.unmoved.entry("busy: pinned by a device, or in use by the kernel".to_owned()).or_default() +=
            left.len() as u64;
        Ok(true)
    }

    /// How many of these pages make a batch.
    fn fitting(&self, pages: &[(u64, u64, u32)]) -> usize {
        let mut bytes = 0;
        let fits = |(_, page, _): &&(u64, u64, u32)| {
            let room = bytes < self.pace.batch_bytes();
            bytes += page;
            room
        };
        pages.iter().take_while(fits).count()
    }

    /// Waits until pages may be moved; why they never may again.
    fn wait_for_leave(&mut self, moved: &mut Moved) -> Result<Option<String>, RepairError> {
        let mut halted = false;
        loop {
            match (self.next)(moved) {
                Next::Move { duty_percent } => {
                    self.duty_percent = duty_percent;
                    return Ok(None);
                }
                Next::End(why) => return Ok(Some(why)),
                Next::Halt if self.repair.gone() => {
                    return Err(RepairError::Gone { pid: self.repair.process.tid });
                }
                Next::Halt => {}
            }
            if !halted {
                halted = true;
                self.pace.begin_anew();
                moved.halts += 1;
            }
            let start = Instant::now();
            thread::sleep(HALT_PAUSE);
            moved.halted_ns += start.elapsed().as_nanos() as u64;
        }
    }

    /// What there is too little of to move these pages.
    fn shortage(&self, part: &[(u64, u64, u32)]) -> Option<String> {
        let mut wanted = BTreeMap::<u32, u64>::new();
        part.iter().for_each(|(_, bytes, to)| *wanted.entry(*to).or_default() += bytes);
        let swapped = swapped_out().zip(self.swapped).map(|(now, before)| now.saturating_sub(before));
        let room = |node: u32| room(node, self.watermarks.get(&node).copied().unwrap_or(0));
        Shortage::of(&wanted, room, swapped).map(|shortage| shortage.to_string())
    }

    /// One call, and a rest; returns those pages that are worth another attempt.
    fn move_part(
        &mut self,
        part: &[(u64, u64, u32)],
        moved: &mut Moved,
    ) -> Result<Vec<(u64, u64, u32)>, RepairError> {
        let pid = self.repair.process.tid;
        if self.repair.gone() {
            return Err(RepairError::Gone { pid });
        }
        if self.pace.wants_empty_call() {
            self.pace.empty_call(empty_call());
        }
        let pages: Vec<u64> = part.iter().map(|(address, ..)| *address).collect();
        let nodes: Vec<i32> = part.iter().map(|(.., to)| to.cast_signed()).collect();
        let start = Instant::now();
        let result = sys::move_pages(pid, &pages, Some(&nodes), self.manner.shared);
        let took_ns = start.elapsed().as_nanos() as u64;
        moved.batches += 1;
        moved.longest_ns = moved.longest_ns.max(took_ns);
        moved.longest_pause_ns = moved.longest_pause_ns.max(self.pace.pause_ns(took_ns));
        let mut full = None;
        let status = match result {
            Ok(status) => status,
            Err(Errno::ESRCH) => return Err(RepairError::Gone { pid }),
            // Some of them may have been moved before.
            Err(Errno::ENOMEM) => vec![-(Errno::ENOMEM as i32); part.len()],
            Err(errno) => {
                // Of the process's own pages alone, the query before would have said so.
                let why = match errno {
                    Errno::EPERM => "--shared takes CAP_SYS_NICE",
                    errno => errno.desc(),
                };
                *moved.unmoved.entry(why.to_owned()).or_default() += part.len() as u64;
                return Ok(Vec::new());
            }
        };
        // What became of them, by the kernel's word once more: a call that ends early says nothing of the rest.
        let places: BTreeMap<u64, u32> = self.repair.places(&pages)?.into_iter().collect();
        let mut again = Vec::new();
        for (page, status) in part.iter().zip(status) {
            let (address, bytes, to) = *page;
            match (places.get(&address), status) {
                (Some(node), _) if *node == to => moved.moved_bytes += bytes,
                // Freed or swapped out meanwhile.
                (None, _) => *moved.unmoved.entry("no longer there".to_owned()).or_default() += 1,
                (Some(_), UNTOLD | 0..) => again.push(*page),
                (Some(_), error) => match Errno::from_raw(-error) {
                    Errno::EBUSY | Errno::EAGAIN => again.push(*page),
                    Errno::ENOMEM => full = full.or(Some(Shortage::Node(to))),
                    errno => *moved.unmoved.entry(why(errno)).or_default() += 1,
                },
            }
        }
        moved.stopped = full.map(|full| full.to_string());
        let bytes = part.iter().map(|(_, bytes, _)| bytes).sum();
        thread::sleep(Duration::from_nanos(self.pace.took(bytes, took_ns, self.duty_percent)));
        Ok(again)
    }
}

/// What a call takes that is asked to move a page to where it is, one of our own stack; 0 if that cannot be told.
fn empty_call() -> u64 {
    let (page, pid) = (0u64, std::process::id());
    let page = [std::ptr::from_ref(&page).addr() as u64];
    let Ok(node) = sys::move_pages(pid, &page, None, false) else { return 0 };
    let start = Instant::now();
    let moved = sys::move_pages(pid, &page, Some(&node), false);
    moved.map_or(0, |_| start.elapsed().as_nanos() as u64)
}

/// What the kernel says of a page, in words.
fn why(errno: Errno) -> String {
    match errno {
        Errno::EACCES => "shared with other processes; --shared moves them".to_owned(),
        Errno::EFAULT => "not movable: the zero page, or a device's".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

/// Gives the policy to every thread of a process, until no new one is found.
pub fn set_policy(process: TaskId, policy: &Policy, patience: Duration, go_on: impl Fn() -> bool) -> Threads {
    let (mut threads, mut seen) = (Threads::default(), BTreeSet::new());
    loop {
        let listed = fs::read_dir(format!("/proc/{}/task", process.tid)).into_iter().flatten();
        let tids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let tasks = tids.filter_map(|tid| Some(TaskId { tid, start_time: Host.start_time(tid)? }));
        let new: Vec<TaskId> = tasks.filter(|task| seen.insert(*task)).collect();
        if new.is_empty() {
            return threads;
        }
        for task in new {
            if !go_on() {
                threads.refused.push("interrupted".to_owned());
                return threads;
            }
            match inject::set_policy(task, policy, patience) {
                Ok(found) if found == *policy => threads.set += 1,
                Ok(found) => {
                    threads.refused.push(format!("thread {} has {found} in place of {policy}", task.tid))
                }
                Err(inject::InjectError::Gone { .. } | inject::InjectError::KernelThread { .. }) => {}
                Err(error) => threads.refused.push(error.to_string()),
            }
        }
    }
}

fn mappings(pid: u32, huge: &HugePages) -> Result<Vec<Mapping>, RepairError> {
    match fs::read(format!("/proc/{pid}/maps")) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            Ok(text.lines().filter_map(|line| Mapping::parse(line, huge)).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RepairError::Gone { pid }),
        Err(error) => Err(RepairError::Mappings { pid, error }),
    }
}

/// The pools of huge pages of this machine.
fn huge_pages() -> HugePages {
    let field = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let default_bytes = field(&meminfo, "Hugepagesize:").map_or(2 << 20, |kib| kib << 10);
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (path, kind, options) = (words.nth(1)?, words.next()?, words.next()?);
        let size = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        (kind == "hugetlbfs").then(|| (path.to_owned(), size.and_then(bytes).unwrap_or(default_bytes)))
    });
    HugePages { default_bytes, mounts: mounts.collect() }
}

/// `2M`, `1024M`, `1G`, `64K`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return text.parse().ok(),
    };
    Some(number.parse::<u64>().ok()? << shift)
}

/// By node the free pages of `/proc/zoneinfo` below which the kernel reclaims until it has so many again: the high watermarks of its zones.
fn watermarks(text: &str) -> BTreeMap<u32, u64> {
    let (mut nodes, mut node) = (BTreeMap::new(), None);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Node"), Some(id)) => node = id.strip_suffix(',').and_then(|id| id.parse::<u32>().ok()),
            // Those of each CPU's lists have a colon.
            (Some("high"), Some(pages)) => {
                let pages = pages.parse::<u64>().unwrap_or(0);
                node.into_iter().for_each(|node| *nodes.entry(node).or_default() += pages);
            }
            _ => {}
        }
    }
    nodes
}

/// What a node can give without swapping: what is free, and pages of files that were not used lately, but for a reserve, and the pages
/// that the kernel itself wants to have free.
fn room(node: u32, watermark: u64) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).ok()?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.split_once(key))?.1;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let watermark = (watermark * sys::page_bytes()) >> 10;
    let reserve = (kib(" MemTotal:")? * RESERVE_PERCENT / 100).max(watermark);
    Some((kib(" MemFree:")? + kib(" Inactive(file):")?).saturating_sub(reserve) << 10)
}

/// Pages that the machine has swapped out since it started.
fn swapped_out() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("pswpout "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_memory_is_found_page_by_page() {
        let me = TaskId { tid: std::process::id(), start_time: Host.start_time(std::process::id()).unwrap() };
        let memory = vec![1u8; 8 << 20];
        let nodes: NodeSet = [0].into_iter().collect();
        let repair = match Repair::look(me, &nodes) {
            Ok(repair) => repair,
            Err(RepairError::Query { errno: Errno::ENOSYS, .. }) => {
                eprintln!("SKIP: its_own_memory_is_found_page_by_page: this kernel has no NUMA support");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(repair.moved.before.values().sum::<u64>() >= memory.len() as u64, "{:?}", repair.moved);
        let nobody = Repair::look(TaskId { tid: u32::MAX >> 1, ..me }, &nodes).unwrap_err();
        assert!(matches!(nobody, RepairError::Gone { .. }), "{nobody}");
        let recycled = Repair::look(TaskId { start_time: 1, ..me }, &nodes).unwrap_err();
        assert!(matches!(recycled, RepairError::Gone { .. }), "{recycled}");
    }

    #[test]
    fn a_process_that_ends_while_nothing_may_be_moved_is_not_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let task = TaskId { tid: child.id(), start_time: Host.start_time(child.id()).unwrap() };
        // Where there is no node: nothing is moved before it may be.
        let nowhere: NodeSet = [u32::from(u8::MAX)].into_iter().collect();
        let manner = Manner { max_pause: Duration::from_millis(1), shared: true };
        let asked = std::cell::Cell::new(0);
        let done = Repair::look(task, &nowhere).and_then(|mut repair| {
            repair.run(&manner, |_| {
                asked.set(asked.get() + 1);
                child.kill().and_then(|()| child.wait()).unwrap();
                Next::Halt
            })
        });
        let _ = child.kill().and_then(|()| child.wait());
        match done {
            Err(RepairError::Query { errno: Errno::ENOSYS, .. }) => {
                eprintln!(
                    "SKIP: a process that ends while nothing may be moved: this kernel has no NUMA support"
                );
            }
            done => {
                assert!(matches!(done, Err(RepairError::Gone { .. })), "{done:?}");
                assert_eq!(asked.get(), 1);
            }
        }
    }

    #[test]
    fn watermarks_are_summed_by_node() {
        let text = "Node 0, zone      DMA\n  per-node stats\n      nr_inactive_anon 3\n  pages free     3\n        boost    0\n        min      8\n        \
                    low      10\n        high     12\n  pagesets\n    cpu: 0\n              count: 0\n              high:  63\n\
                    Node 0, zone   Normal\n        high     700\nNode 2, zone   Normal\n        high     5\n";
        assert_eq!(watermarks(text), BTreeMap::from([(0, 712), (2, 5)]));
        assert!(watermarks("").is_empty());
    }

    #[test]
    fn sizes_of_huge_pages_are_as_mount_says_them() {
        let all = ["64K", "2M", "1024M", "1G", "4096", ""].map(bytes);
        assert_eq!(all, [Some(65_536), Some(2 << 20), Some(1 << 30), Some(1 << 30), Some(4096), None]);
    }
}
