//! The accounts of marked tasks: opening those of tasks that ran before us, reading them, giving slots back; and what the
//! kernel side is told about the machine and the plan.

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, Stack},
};
use numa_ebpf::{
    account::{self, Account, NO_SLOT},
    mark::TICK_NS,
    place::{CpuState, CpuWords, NO_PLAN, Place, PlaceWords, PlanSet, PlanSetWords},
};

use super::{BpfError, failed, take, unfit};
use crate::{core::task::TaskId, host::sys};

/// How many plan sets there can be, that for tasks without one included.
pub const PLAN_SETS: u32 = 4096;
/// The maps around accounts.
pub(super) struct Accounts {
    accounts: Array<MapData, account::Words>,
    free_slots: Stack<MapData, u32>,
    slot_of: Array<MapData, u32>,
    plan_of: Array<MapData, u32>,
    untold: Array<MapData, u32>,
    plan_sets: Array<MapData, PlanSetWords>,
    places: Array<MapData, PlaceWords>,
    cpus: Array<MapData, CpuWords>,
    /// When the account was closed with which the slot was given back last, by slot. It stands there until another is opened in its place.
    given_back: Vec<u64>,
}

impl Accounts {
    /// Takes the maps of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            accounts: Array::try_from(take(ebpf, "accounts")?).map_err(unfit("accounts"))?,
            free_slots: Stack::try_from(take(ebpf, "free_slots")?).map_err(unfit("free_slots"))?,
            slot_of: Array::try_from(take(ebpf, "slot_of")?).map_err(unfit("slot_of"))?,
            plan_of: Array::try_from(take(ebpf, "plan_of")?).map_err(unfit("plan_of"))?,
            untold: Array::try_from(take(ebpf, "untold")?).map_err(unfit("untold"))?,
            plan_sets: Array::try_from(take(ebpf, "plan_sets")?).map_err(unfit("plan_sets"))?,
            places: Array::try_from(take(ebpf, "places")?).map_err(unfit("places"))?,
            cpus: Array::try_from(take(ebpf, "cpus")?).map_err(unfit("cpus"))?,
            given_back: Vec::new(),
        })
    }

    /// Says where CPUs are, and makes all slots free: before the first program runs.
    pub(super) fn prepare(&mut self, places: &[(u32, Place)]) -> Result<(), BpfError> {
        self.given_back.resize(self.accounts.len() as usize, 0);
        for cpu in 0..self.places.len() {
            let place = places.iter().find(|(known, _)| *known == cpu);
            self.set_place(cpu, place.map_or(Place::NOWHERE, |(_, place)| *place))?;
        }
        // The lowest are taken first.
        (1..self.accounts.len()).rev().try_for_each(|slot| self.free(slot))
    }

    /// Opens the account of a task that the kernel side does not know yet; `None` if no slot is free.
    pub(super) fn open(&mut self, pid: u32, task: TaskId) -> Result<Option<u32>, BpfError> {
        let slot = match self.free_slots.pop(0) {
            Ok(slot) => slot,
            Err(error) if super::known_by_now(&error) => return Ok(None),
            Err(error) => return Err(failed("taking a slot".to_owned(), &error)),
        };
        let account = Account {
            start_boottime_ns: task.start_time * TICK_NS,
            tgid: pid,
            tid: task.tid,
            opened_at_ns: sys::monotonic_ns(),
            ..Account::EMPTY
        };
        self.write(slot, &account)?;
        self.assign(slot, NO_PLAN)?;
        Ok(Some(slot))
    }

    /// From now on the scheduler's programs enter what this tid does.
    pub(super) fn connect(&mut self, tid: u32, slot: u32) -> Result<(), BpfError> {
        self.slot_of
            .set(tid, slot, 0)
            .map_err(|error| failed(format!("opening the account of {tid}"), &error))
    }

    /// The account in that slot, as it is now.
    pub(super) fn read(&self, slot: u32) -> Result<Account, BpfError> {
        let words = self.accounts.get(&slot, 0);
        let words = words.map_err(|error| failed(format!("reading account {slot}"), &error))?;
        Ok(*Account::from_words(&words))
    }

    /// Gives the slot of a tid's account back, which nobody has closed.
    pub(super) fn release(&mut self, tid: u32, slot: u32) -> Result<(), BpfError> {
        if self.slot_of.get(&tid, 0).is_ok_and(|known| known == slot) {
            self.connect(tid, NO_SLOT)?;
        }
        self.free(slot)
    }

    /// Gives the slot of an account back that was closed then.
    pub(super) fn give_back(&mut self, slot: u32, closed_at_ns: u64) -> Result<(), BpfError> {
        if let Some(given_back) = self.given_back.get_mut(slot as usize) {
            *given_back = closed_at_ns;
        }
        self.free(slot)
    }

    /// Whether that has been done, or was done with a later one.
    pub(super) fn is_given_back(&self, slot: u32, closed_at_ns: u64) -> bool {
        self.given_back.get(slot as usize).is_some_and(|last_ns| *last_ns >= closed_at_ns)
    }

    /// Somebody has heard of the task with that slot, of whose birth nobody was told; whether that was so.
    pub(super) fn reveal(&mut self, slot: u32) -> Result<bool, BpfError> {
        let wrong = |error: MapError| failed(format!("hearing of who has account {slot}"), &error);
        if self.untold.get(&slot, 0).map_err(wrong)? == 0 {
            return Ok(false);
        }
        self.untold.set(slot, 0, 0).map_err(wrong)?;
        Ok(true)
    }

    /// Slots are below this, from 1 on.
    pub(super) fn slots(&self) -> u32 {
        self.accounts.len()
    }

    /// The task in that slot belongs to that plan set.
    pub(super) fn assign(&mut self, slot: u32, plan_set: u32) -> Result<(), BpfError> {
        let set = self.plan_of.set(slot, plan_set, 0);
        set.map_err(|error| failed(format!("plan set {plan_set} of account {slot}"), &error))
    }

    /// Defines a plan set; [`PLAN_SETS`] is their number.
    pub(super) fn set_plan_set(&mut self, index: u32, set: &PlanSet) -> Result<(), BpfError> {
        let written = self.plan_sets.set(index, set.to_words(), 0);
        written.map_err(|error| failed(format!("plan set {index}"), &error))
    }

    /// Says where a CPU is. One beyond those there were at load is ignored.
    pub(super) fn set_place(&mut self, cpu: u32, place: Place) -> Result<(), BpfError> {
        if cpu >= self.places.len() {
            return Ok(());
        }
        let wrong = |error: MapError| failed(format!("place of CPU {cpu}"), &error);
        let known = self.places.get(&cpu, 0).map_err(wrong)?;
        self.places.set(cpu, place.to_words(), 0).map_err(wrong)?;
        if known[Place::CRITICAL] == place.critical {
            return Ok(());
        }
        // Who intrudes is told anew.
        self.cpus.set(cpu, [0; size_of::<CpuWords>() / 8], 0).map_err(wrong)
    }

    /// What the kernel side keeps of a CPU; `None` for one beyond those there were at load.
    pub(super) fn cpu(&self, cpu: u32) -> Option<CpuState> {
        self.cpus.get(&cpu, 0).ok().map(|words| *CpuState::from_words(&words))
    }

    fn write(&mut self, slot: u32, account: &Account) -> Result<(), BpfError> {
        let written = self.accounts.set(slot, account.as_words(), 0);
        written.map_err(|error: MapError| failed(format!("writing account {slot}"), &error))
    }

    fn free(&mut self, slot: u32) -> Result<(), BpfError> {
        self.free_slots.push(slot, 0).map_err(|error| failed(format!("giving back slot {slot}"), &error))
    }
}
