//! Tasks that the programs hold at exec: the switch, and the two maps that tell who is held.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, RingBuf},
};
use numa_ebpf::hold::{Control, ControlWords, Held, HeldWords};

use super::{error::BpfError, failed, take, unfit};
use crate::core::{
    decode::{decode_hold, start_ticks},
    hold::Hold,
    task::TaskId,
};

/// How many tasks can be held at once; those beyond run at once.
const MAX_HELD: u32 = 4096;
/// Room for word of 2048 of them.
const RING_BYTES: u32 = 64 << 10;

/// Sizes of the maps: as small as can be where nothing is ever held.
pub(super) fn map_sizes(hold: bool) -> [(&'static str, u32); 2] {
    if hold { [("held", MAX_HELD), ("holds", RING_BYTES)] } else { [("held", 1), ("holds", 4096)] }
}

/// The agent's side.
pub struct Holds {
    control: Array<MapData, ControlWords>,
    held: HeldTasks,
    ring_fd: OwnedFd,
    held_fd: OwnedFd,
}

impl Holds {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let control = Array::try_from(take(ebpf, "hold")?).map_err(unfit("hold"))?;
        let ring_fd = fd_of(&take(ebpf, "holds")?)?;
        let held = take(ebpf, "held")?;
        let held_fd = fd_of(&held)?;
        let held = HeldTasks { map: HashMap::try_from(held).map_err(unfit("held"))? };
        Ok(Self { control, held, ring_fd, held_fd })
    }

    /// Has the programs hold tasks for as long as the heartbeat is fresh; 0: not any more. `terminals`: those with a controlling
    /// terminal too.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn beat(&mut self, heartbeat_ns: u64, terminals: bool) -> Result<(), BpfError> {
        let control = Control { heartbeat_ns, terminals: terminals.into() };
        let result = self.control.set(0, control.to_words(), 0);
        result.map_err(|error| failed("telling the programs to hold".to_owned(), &error))
    }

    /// Who is held.
    pub fn held(&mut self) -> &mut HeldTasks {
        &mut self.held
    }

    /// Descriptors of the ring buffer and of the map, for the guard's [`HoldRing`] and [`HeldTasks`].
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.ring_fd.as_fd(), self.held_fd.as_fd()]
    }
}

/// The map of held tasks.
pub struct HeldTasks {
    map: HashMap<MapData, u32, HeldWords>,
}

impl HeldTasks {
    /// The map that another process has made.
    ///
    /// # Errors
    /// If it is no such map.
    pub fn of_fd(map: OwnedFd) -> Result<Self, BpfError> {
        Ok(Self { map: HashMap::try_from(map_of(map, "held")?).map_err(unfit("held"))? })
    }

    /// All of them. One that is let go or added meanwhile may be missing.
    #[must_use]
    pub fn all(&self) -> Vec<Hold> {
        let hold = |(tid, words)| hold(tid, Held::from_words(words));
        self.map.iter().filter_map(Result::ok).map(hold).collect()
    }

    /// Whether the task is held since that exec.
    #[must_use]
    pub fn has(&self, wanted: &Hold) -> bool {
        let found = self.map.get(&wanted.task.tid, 0).ok();
        found.is_some_and(|words| hold(wanted.task.tid, Held::from_words(words)) == *wanted)
    }

    /// It is let go; whether it was held.
    pub fn forget(&mut self, hold: &Hold) -> bool {
        // Gone is what it should be.
        self.has(hold) && self.map.remove(&hold.task.tid).is_ok()
    }
}

/// Word of tasks as they are held. One process at a time reads it.
pub struct HoldRing {
    ring: RingBuf<MapData>,
}

impl HoldRing {
    /// The ring that another process has made.
    ///
    /// # Errors
    /// If it is no such ring.
    pub fn of_fd(ring: OwnedFd) -> Result<Self, BpfError> {
        Ok(Self { ring: RingBuf::try_from(map_of(ring, "holds")?).map_err(unfit("holds"))? })
    }

    /// The next task; records that make no sense are left out.
    pub fn next_hold(&mut self) -> Option<Hold> {
        loop {
            if let Ok(hold) = decode_hold(&self.ring.next()?) {
                return Some(hold);
            }
        }
    }
}

impl AsFd for HoldRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

fn fd_of(map: &Map) -> Result<OwnedFd, BpfError> {
    let (Map::RingBuf(map) | Map::HashMap(map)) = map else {
        return Err(BpfError::Load("a map of held tasks is of another type".to_owned()));
    };
    map.fd().as_fd().try_clone_to_owned().map_err(BpfError::Ring)
}

fn map_of(fd: OwnedFd, name: &'static str) -> Result<Map, BpfError> {
    MapData::from_fd(fd).and_then(Map::from_map_data).map_err(unfit(name))
}

fn hold(tid: u32, held: Held) -> Hold {
    let task = TaskId { tid, start_time: start_ticks(held.start_boottime_ns) };
    Hold { task, at_ns: held.at_ns }
}
