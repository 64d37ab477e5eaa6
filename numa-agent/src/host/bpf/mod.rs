//! The kernel programs: loading them, reading their events, and telling them whom to watch.
//!
//! Owns every BPF object. Decides nothing: which processes are marked and what the filter lets through comes from `core`,
//! and [`crate::core::decode`] makes events of bytes.

mod accounts;
mod btf;
mod error;
mod hold;
mod hooks;
mod load;
mod log;
mod offsets;
mod tap;

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use numa_ebpf::{
    account::{Account, NO_SLOT},
    counter::Counters,
    filter, mark,
    place::{CpuState, Place, PlanSet},
};

use self::{accounts::Accounts, error::explain, log::LogReader};
pub use self::{
    accounts::PLAN_SETS,
    error::BpfError,
    hold::{HeldTasks, HoldRing, Holds},
    tap::{Sends, TapOptions, TapRing},
};
pub use crate::core::health::{DropCounts, Health, ProgramResult, Untold, Verdict};
use crate::core::{
    decode::{self, DecodeError, start_ticks},
    event::TaskEvent,
    filter::{ACCEPT, KernelFilter, MAX_TRANSITIONS},
    task::TaskId,
};

/// How the programs are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Our own pid, whose doings are no events.
    pub self_pid: u32,
    /// Have the programs log what they do.
    pub debug_log: bool,
    /// Where each CPU is; of one that is not listed nothing is known.
    pub places: Vec<(u32, Place)>,
    /// Size of the ring buffer in bytes; rounded up to a power of two of at least a page.
    pub ring_bytes: u32,
    /// How many tasks can be marked at once.
    pub max_tasks: u32,
    /// How many tasks can be measured at once, those that ended and have not been read included.
    pub max_accounts: u32,
    /// Report sends on some TCP connections.
    pub tap: Option<TapOptions>,
    /// Be able to hold tasks at exec.
    pub hold: bool,
    /// Tell of tasks that use device files, see [`Programs::set_devices`].
    pub devices: bool,
}

impl Default for LoadOptions {
    /// A ring of 1 MiB, which holds half a second of the worst storm measured on two CPUs (3000 programs a second, two records each) at 350 bytes
    /// a record, and counts twice in our resident memory, where it is mapped twice. Room for 262 144 tasks: 400 processes with a thread on each of
    /// 640 CPUs; that takes 24 MiB of kernel memory, 96 bytes a task (`memlock` in `/proc/PID/fdinfo`, 6.18).
    fn default() -> Self {
        Self {
            self_pid: std::process::id(),
            debug_log: false,
            places: Vec::new(),
            ring_bytes: 1 << 20,
            max_tasks: 1 << 18,
            max_accounts: 1 << 12,
            tap: None,
            hold: false,
            devices: false,
        }
    }
}

/// What [`Programs::mark`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// No mark: the task's doings are reported from now on only.
    New,
    /// The task's own mark, or that of a later owner of its tid.
    Known,
}

/// The programs in force. Dropping it detaches them.
pub struct Programs {
    health: Health,
    ring: RingBuf<MapData>,
    tasks: HashMap<MapData, u32, mark::Words>,
    accounts: Accounts,
    devices: HashMap<MapData, u32, u32>,
    device_users: HashMap<MapData, u32, u64>,
    filter: Array<MapData, [u32; filter::WORDS]>,
    filter_bank: Array<MapData, u32>,
    counters: PerCpuArray<MapData, Counters>,
    /// Of those whose birth was not told.
    heard_of: u64,
    tap: Option<TapRing>,
    holds: Option<Holds>,
    _log: Option<LogReader>,
    /// Holds programs and links.
    _ebpf: Ebpf,
}

impl Programs {
    /// Loads and attaches the programs. Until [`Programs::set_filter`], no exec of an unmarked
    /// task is reported: scan after that.
    ///
    /// # Errors
    /// If the maps cannot be made or a required program cannot be attached; a failed optional program is in
    /// [`Programs::health`] only.
    pub fn load(options: &LoadOptions) -> Result<Self, BpfError> {
        let (mut ebpf, accounts, health) =
            load::load(options, Accounts::take, |accounts| accounts.prepare(&options.places))?;
        let log =
            options.debug_log.then(|| LogReader::start(&mut ebpf)).transpose().map_err(BpfError::Load)?;
        Ok(Self {
            health,
            ring: RingBuf::try_from(take(&mut ebpf, "events")?).map_err(unfit("events"))?,
            accounts,
            tasks: HashMap::try_from(take(&mut ebpf, "tasks")?).map_err(unfit("tasks"))?,
            devices: HashMap::try_from(take(&mut ebpf, "devices")?).map_err(unfit("devices"))?,
            device_users: HashMap::try_from(take(&mut ebpf, "device_users")?)
                .map_err(unfit("device_users"))?,
            filter: Array::try_from(take(&mut ebpf, "filter")?).map_err(unfit("filter"))?,
            filter_bank: Array::try_from(take(&mut ebpf, "filter_bank")?).map_err(unfit("filter_bank"))?,
            counters: PerCpuArray::try_from(take(&mut ebpf, "counters")?).map_err(unfit("counters"))?,
            heard_of: 0,
            tap: options.tap.map(|_| TapRing::open(&mut ebpf)).transpose()?,
            holds: options.hold.then(|| Holds::open(&mut ebpf)).transpose()?,
            _log: log,
            _ebpf: ebpf,
        })
    }

    /// Which programs are attached.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A descriptor that is readable while there are events, for an event loop.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn ring_fd(&self) -> Result<OwnedFd, BpfError> {
        self.ring.as_fd().try_clone_to_owned().map_err(BpfError::Ring)
    }

    /// The next event, if there is one. An error stands for one record; those after it are there to be read.
    pub fn next_event(&mut self) -> Option<Result<TaskEvent, DecodeError>> {
        self.ring.next().map(|record| decode::decode(&record))
    }

    /// Has the programs report what this task does, measure it, and mark what it creates. The account of a task that is
    /// marked already goes on.
    ///
    /// # Errors
    /// If the table of marked tasks is full. A task for whose account there is no room is marked all the same.
    pub fn mark(&mut self, pid: u32, task: TaskId) -> Result<Marked, BpfError> {
        const NEW_ONLY: u64 = 1; // BPF_NOEXIST
        let known = self.mark_of(task.tid);
        let flags = match known {
            // The same task, or a later owner of the tid, marked by the kernel: its mark is not ours to overwrite.
            Some(known) if start_ticks(known.start_boottime_ns) >= task.start_time => {
                self.hear_of(task)?;
                return Ok(Marked::Known);
            }
            Some(_) => 0,
            None => NEW_ONLY,
        };
        let slot = self.accounts.open(pid, task)?;
        let fresh = mark::Mark::new(pid, task.start_time * mark::TICK_NS, slot.unwrap_or(NO_SLOT)).to_words();
        let marked = match self.tasks.insert(task.tid, fresh, flags) {
            Ok(()) => {
                known
                    .and_then(|known| known.account())
                    .map_or(Ok(()), |slot| self.accounts.release(task.tid, slot))?;
                slot.map_or(Ok(()), |slot| self.accounts.connect(task.tid, slot))?;
                return Ok(Marked::New);
            }
            // The kernel was faster.
            Err(error) if known_by_now(&error) => Ok(Marked::Known),
            Err(error) => Err(failed(format!("marking thread {} of process {pid}", task.tid), &error)),
        };
        slot.map_or(Ok(()), |slot| self.accounts.release(task.tid, slot))?;
        marked
    }

    /// Has the programs leave this task alone, and drops its account. A later owner of its tid keeps its mark.
    ///
    /// # Errors
    /// As the kernel gives them; a task that is not marked is fine.
    pub fn unmark(&mut self, task: TaskId) -> Result<(), BpfError> {
        self.hear_of(task)?;
        let Some(mark) = self.mark_of_task(task) else { return Ok(()) };
        match self.tasks.remove(&task.tid) {
            // It ended: its exit record has the slot.
            Err(error) if known_by_now(&error) => return Ok(()),
            result => result.map_err(|error| failed(format!("unmarking thread {}", task.tid), &error))?,
        }
        mark.account().map_or(Ok(()), |slot| self.accounts.release(task.tid, slot))
    }

    /// All marked tasks, those that the kernel marked itself included. A task that is marked meanwhile may be missing,
    /// and if marks go meanwhile, a task may be there twice.
    pub fn marked(&self) -> Vec<TaskId> {
        let task = |(tid, words)| {
            let start_time = start_ticks(mark::Mark::from_words(words).start_boottime_ns);
            TaskId { tid, start_time }
        };
        self.tasks.iter().filter_map(Result::ok).map(task).collect()
    }

    /// Puts a new filter in force, at once and as a whole.
    ///
    /// # Errors
    /// If it has more transitions than the kernel's table, or as the kernel gives them.
    pub fn set_filter(&mut self, filter: &KernelFilter) -> Result<(), BpfError> {
        let table: &[u32; filter::WORDS] = &*filter_words(filter)?;
        let set = |error: MapError| failed("setting the exec filter".to_owned(), &error);
        let bank = (self.filter_bank.get(&0, 0).map_err(set)? + 1) % filter::BANKS;
        self.filter.set(bank, table, 0).map_err(set)?;
        self.filter_bank.set(0, bank, 0).map_err(set)
    }

    /// The slot of a marked task's account; `None` without one.
    #[must_use]
    pub fn slot_of(&self, task: TaskId) -> Option<u32> {
        self.mark_of_task(task)?.account()
    }

    /// Has the end of a marked task told, if its birth was not ([`numa_ebpf::counter::UNTOLD_BIRTHS`]). Whoever ends meanwhile may have been counted as one
    /// of whom nobody has heard.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn hear_of(&mut self, task: TaskId) -> Result<(), BpfError> {
        if let Some(slot) = self.slot_of(task)
            && self.accounts.reveal(slot)?
        {
            self.heard_of += 1;
        }
        Ok(())
    }

    /// An account as it is now: a copy of 5 KB, taken while the kernel side goes on with it.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn read_account(&self, slot: u32) -> Result<Account, BpfError> {
        self.accounts.read(slot)
    }

    /// Gives the slot of a task that ended back, whose account was closed then.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn give_back(&mut self, slot: u32, closed_at_ns: u64) -> Result<(), BpfError> {
        self.accounts.give_back(slot, closed_at_ns)
    }

    /// Whether the slot has been given back since the account that was closed then.
    #[must_use]
    pub fn is_given_back(&self, slot: u32, closed_at_ns: u64) -> bool {
        self.accounts.is_given_back(slot, closed_at_ns)
    }

    /// Slots are below this, from 1 on.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.accounts.slots()
    }

    /// Defines a plan set, from 1 to [`PLAN_SETS`] - 1.
    ///
    /// # Errors
    /// If there is no such plan set.
    pub fn set_plan_set(&mut self, index: u32, set: &PlanSet) -> Result<(), BpfError> {
        self.accounts.set_plan_set(index, set)
    }

    /// The task with that account belongs to that plan set.
    ///
    /// # Errors
    /// If there is no such slot.
    pub fn assign(&mut self, slot: u32, plan_set: u32) -> Result<(), BpfError> {
        self.accounts.assign(slot, plan_set)
    }

    /// Says anew where CPUs are, and which are critical threads'. CPUs beyond those there were at load are ignored.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn set_places(&mut self, places: &[(u32, Place)]) -> Result<(), BpfError> {
        places.iter().try_for_each(|(cpu, place)| self.accounts.set_place(*cpu, *place))
    }

    /// What the kernel side keeps of a CPU; `None` for one beyond those there were at load.
    #[must_use]
    pub fn cpu_state(&self, cpu: u32) -> Option<CpuState> {
        self.accounts.cpu(cpu)
    }

    /// Has uses of these devices told, and of no others ([`numa_ebpf::record::device_number`]). Who uses one of them already is told of anew where
    /// they are not those of before.
    ///
    /// # Errors
    /// If there are too many.
    pub fn set_devices(&mut self, numbers: &BTreeSet<u32>) -> Result<(), BpfError> {
        let known: BTreeSet<u32> = self.devices.keys().filter_map(Result::ok).collect();
        if known == *numbers {
            return Ok(());
        }
        let said = |error: &MapError| failed("telling the kernel programs of devices".to_owned(), error);
        for number in known.difference(numbers) {
            self.devices.remove(number).map_err(|error| said(&error))?;
        }
        for number in numbers.difference(&known) {
            self.devices.insert(number, 1, 0).map_err(|error| said(&error))?;
        }
        let users: Vec<u32> = self.device_users.keys().filter_map(Result::ok).collect();
        // One that has fallen out meanwhile is told of anew too.
        users.iter().map(|tid| self.device_users.remove(tid)).for_each(drop);
        Ok(())
    }

    fn mark_of_task(&self, task: TaskId) -> Option<mark::Mark> {
        self.mark_of(task.tid).filter(|known| start_ticks(known.start_boottime_ns) == task.start_time)
    }

    fn mark_of(&self, tid: u32) -> Option<mark::Mark> {
        self.tasks.get(&tid, 0).ok().map(mark::Mark::from_words)
    }

    /// The tap, if one was asked for and not taken before.
    pub fn take_tap(&mut self) -> Option<TapRing> {
        self.tap.take()
    }

    /// The switch that has tasks held, if that was asked for and not taken before.
    pub fn take_holds(&mut self) -> Option<Holds> {
        self.holds.take()
    }

    /// What was lost since loading.
    #[must_use]
    pub fn drops(&self) -> DropCounts {
        DropCounts::sum(&self.counters())
    }

    /// Threads born on plan since loading of which nobody was told.
    #[must_use]
    pub fn untold(&self) -> Untold {
        Untold::sum(&self.counters(), self.heard_of)
    }

    fn counters(&self) -> Vec<Counters> {
        match self.counters.get(&0, 0) {
            Ok(cpus) => cpus.to_vec(),
            // Reading an array element that exists cannot fail; if it does, nothing is known to be lost.
            Err(error) => {
                tracing::error!("counters of the kernel programs: {error}");
                Vec::new()
            }
        }
    }
}

impl AsFd for Programs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// `core` builds what the programs walk.
const _: () = assert!(MAX_TRANSITIONS == filter::TRANSITIONS && ACCEPT == filter::MATCH);

/// The kernel's table for a filter.
fn filter_words(filter: &KernelFilter) -> Result<Box<[u32; filter::WORDS]>, BpfError> {
    let needed = filter.transitions.len();
    if needed > filter::TRANSITIONS {
        return Err(BpfError::FilterTooLarge { needed });
    }
    let mut words = Vec::with_capacity(filter::WORDS);
    words.extend([u32::from(filter.pass_all), filter.class_count, filter.start, 0]);
    words.extend(
        filter.classes.chunks_exact(4).map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]])),
    );
    words.extend(&filter.transitions);
    words.resize(filter::WORDS, 0);
    words.into_boxed_slice().try_into().map_err(|_| BpfError::FilterTooLarge { needed })
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, BpfError> {
    ebpf.take_map(name).ok_or_else(|| BpfError::Load(format!("the object has no map {name}")))
}

fn unfit(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |error| BpfError::Load(format!("map {name}: {}", explain(&error)))
}

fn failed(operation: String, error: &MapError) -> BpfError {
    BpfError::Map { operation, reason: explain(error) }
}

/// The element that should not be there is, or the one that should be is not.
fn known_by_now(error: &MapError) -> bool {
    use nix::errno::Errno;
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => {
            let errno = error.io_error.raw_os_error().map(Errno::from_raw);
            matches!(errno, Some(Errno::EEXIST | Errno::ENOENT))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_the_kernels_table() {
        let mut classes = [0; 256];
        classes[usize::from(b'a')] = 1;
        let transitions = vec![0, 1, 2, filter::MATCH];
        let mut filter = KernelFilter { pass_all: false, classes, class_count: 2, start: 1, transitions };
        let words = filter_words(&filter).unwrap();
        assert_eq!(words[..4], [0, 2, 1, 0]);
        let byte = words[4 + usize::from(b'a') / 4].to_ne_bytes()[usize::from(b'a') % 4];
        assert_eq!(byte, 1);
        assert_eq!(words[filter::HEAD_WORDS..][..4], [0, 1, 2, filter::MATCH]);
        filter.transitions = vec![0; filter::TRANSITIONS + 1];
        assert!(matches!(filter_words(&filter), Err(BpfError::FilterTooLarge { needed: 65_537 })));
        let all = KernelFilter { pass_all: true, transitions: vec![0], ..filter };
        assert_eq!(filter_words(&all).unwrap()[..2], [1, 2]);
    }
}
