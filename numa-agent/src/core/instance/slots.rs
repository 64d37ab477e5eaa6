//! Slots: which group of the plan each serving instance has.
//!
//! Slots are numbered in the order that [`crate::core::plan::Plan::slots`] gives them, sockets first, so that taking
//! the lowest number deals instances over the sockets.

use std::collections::BTreeMap;

use super::InstanceKey;

/// Which group a slot is: socket, and index within it.
pub type Place = (u32, u32);

/// The plan's slots and who has them.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    live: BTreeMap<InstanceKey, Holder>,
    /// Those that the machine has no room for now.
    gone: Vec<Slot>,
    /// Where live instances that have no slot yet belong: theirs is gone.
    homes: BTreeMap<InstanceKey, Place>,
    /// How many slots a socket had before any was gone.
    depth: u32,
}

#[derive(Debug, Clone)]
struct Slot {
    place: Place,
    load: usize,
    used: bool,
    /// Who left it last, while nobody else has taken it since.
    last: Option<(InstanceKey, String)>,
}

#[derive(Debug, Clone)]
struct Holder {
    slot: usize,
    fingerprint: String,
    /// Where it goes back to, if that is gone now.
    home: Place,
}

/// The slot that an instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Index into the plan's slots.
    pub slot: usize,
    /// Whether another live instance has it too: there are more instances than slots, and the user should be told.
    pub shared: bool,
}

/// There is no slot at all, or the slots are not those that were dealt before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// A plan without groups.
    #[error("the plan has no group to put an instance in")]
    Empty,
    /// The first slots are others than they were.
    #[error("the places of the groups in use changed; instances must be assigned anew")]
    Changed,
}

impl Slots {
    /// Slots at those places, in the plan's order.
    #[must_use]
    pub fn new(places: &[Place]) -> Self {
        let slot = |place: &Place| Slot { place: *place, load: 0, used: false, last: None };
        Self { slots: places.iter().map(slot).collect(), ..Self::default() }
    }

    /// The same instances on a machine that has these places: each at home, where that is still there or there again.
    /// Those whose home is gone have no slot until they are assigned one; they go home when it returns.
    #[must_use]
    pub fn moved_to(&self, places: &[Place]) -> Self {
        let mut next = Self { depth: self.depth(), ..Self::new(places) };
        let mut known: BTreeMap<Place, Slot> =
            self.slots.iter().chain(&self.gone).map(|slot| (slot.place, slot.clone())).collect();
        for slot in &mut next.slots {
            *slot = known.remove(&slot.place).unwrap_or_else(|| slot.clone());
        }
        next.gone = known.into_values().collect();
        next.slots.iter_mut().chain(&mut next.gone).for_each(|slot| slot.load = 0);
        next.homes.clone_from(&self.homes);
        for (key, holder) in &self.live {
            match places.iter().position(|place| *place == holder.home) {
                Some(slot) => {
                    (next.slots[slot].load, next.slots[slot].last) = (next.slots[slot].load + 1, None);
                    next.live.insert(key.clone(), Holder { slot, ..holder.clone() });
                }
                None => {
                    next.homes.insert(key.clone(), holder.home);
                }
            }
        }
        next
    }

    /// How many slots each socket needs for everybody to be at home, the room that is left free included.
    #[must_use]
    pub fn depth(&self) -> u32 {
        let away = |holder: &Holder| self.slots[holder.slot].place != holder.home;
        let depth_of = |place: Place| place.1 + 1;
        if self.homes.is_empty() && !self.live.values().any(away) {
            return self.slots.iter().map(|slot| depth_of(slot.place)).max().unwrap_or(0);
        }
        let homes = self.homes.values().copied().chain(self.live.values().map(|holder| holder.home));
        homes.map(depth_of).max().unwrap_or(0).max(self.depth)
    }

    /// The slot of an instance, for as long as it lives. A new one gets, in this order: the slot it had before; the
    /// slot that an instance with the same fingerprint (its first process's comm and command line) left; a slot that
    /// nobody had yet; one that somebody left; the slot with the fewest instances. Among equals the preferred socket's
    /// come first, then the lowest number.
    ///
    /// # Errors
    /// [`SlotsError::Empty`] if there are no slots.
    pub fn assign(
        &mut self,
        key: &InstanceKey,
        fingerprint: &str,
        preferred_socket: Option<u32>,
    ) -> Result<Assignment, SlotsError> {
        if let Some(holder) = self.live.get(key) {
            return Ok(Assignment { slot: holder.slot, shared: self.slots[holder.slot].load > 1 });
        }
        let rank = |index: &usize| {
            let slot = &self.slots[*index];
            let left_by = |who: &dyn Fn(&(InstanceKey, String)) -> bool| slot.last.as_ref().is_some_and(who);
            let claim = match slot {
                Slot { load: 1.., .. } => 4,
                _ if left_by(&|(last, _)| last == key) => 0,
                _ if left_by(&|(_, last)| last == fingerprint) => 1,
                Slot { used: false, .. } => 2,
                _ => 3,
            };
            let elsewhere = claim != 4 && preferred_socket.is_some_and(|socket| socket != slot.place.0);
            (claim, slot.load, elsewhere, *index)
        };
        let slot = (0..self.slots.len()).min_by_key(rank).ok_or(SlotsError::Empty)?;
        let taken = &mut self.slots[slot];
        taken.load += 1;
        taken.used = true;
        taken.last = None;
        let shared = taken.load > 1;
        let home = self.homes.remove(key).unwrap_or(taken.place);
        self.live.insert(key.clone(), Holder { slot, fingerprint: fingerprint.to_owned(), home });
        Ok(Assignment { slot, shared })
    }

    /// The slot of a live instance.
    #[must_use]
    pub fn slot_of(&self, key: &InstanceKey) -> Option<usize> {
        self.live.get(key).map(|holder| holder.slot)
    }

    /// How many instances are live.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.live.len()
    }

    /// Whether a new instance would have to share.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots.iter().all(|slot| slot.load > 0)
    }

    /// The instance goes by another name from now on: its only process ran another program in the same place.
    pub fn rename(&mut self, key: &InstanceKey, new: &InstanceKey, fingerprint: &str) {
        if let Some(holder) = self.live.remove(key) {
            self.live.insert(new.clone(), Holder { fingerprint: fingerprint.to_owned(), ..holder });
        }
    }

    /// Takes the slot for an instance that is found sitting in it, if nobody else has it. Whether that was so.
    pub fn adopt(&mut self, key: &InstanceKey, fingerprint: &str, slot: usize) -> bool {
        let Some(free) = self.slots.get_mut(slot).filter(|free| free.load == 0) else { return false };
        (free.load, free.used, free.last) = (1, true, None);
        let home = self.homes.remove(key).unwrap_or(free.place);
        self.live.insert(key.clone(), Holder { slot, fingerprint: fingerprint.to_owned(), home });
        true
    }

    /// The instance ended. Its slot is kept in mind for it until somebody else takes it.
    pub fn release(&mut self, key: &InstanceKey) {
        if let Some(holder) = self.live.remove(key) {
            let slot = &mut self.slots[holder.slot];
            slot.load -= 1;
            slot.last = Some((key.clone(), holder.fingerprint));
        }
    }

    /// Releases the instances that `keep` does not name.
    pub fn retain(&mut self, keep: impl Fn(&InstanceKey) -> bool) {
        let gone: Vec<InstanceKey> = self.live.keys().filter(|key| !keep(key)).cloned().collect();
        gone.iter().for_each(|key| self.release(key));
        self.homes.retain(|key, _| keep(key));
    }

    /// How many slots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// More slots: the plan for more instances. The first ones keep their numbers.
    ///
    /// # Errors
    /// [`SlotsError::Changed`] if the first ones are not those that were there; nothing is changed then.
    pub fn grow(&mut self, places: &[Place]) -> Result<(), SlotsError> {
        let known = self.slots.len();
        if !places.get(..known).is_some_and(|same| same.iter().eq(self.slots.iter().map(|slot| &slot.place)))
        {
            return Err(SlotsError::Changed);
        }
        for place in &places[known..] {
            let returned = self.gone.iter().position(|slot| slot.place == *place);
            let fresh = || Slot { place: *place, load: 0, used: false, last: None };
            self.slots.push(returned.map_or_else(fresh, |index| self.gone.remove(index)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Slots on those sockets, in that order.
    fn on(sockets: &[u32]) -> Vec<Place> {
        let index = |at: usize| sockets[..at].iter().filter(|socket| **socket == sockets[at]).count() as u32;
        (0..sockets.len()).map(|at| (sockets[at], index(at))).collect()
    }

    fn key(session: u32) -> InstanceKey {
        InstanceKey::Session(session)
    }

    fn take(slots: &mut Slots, session: u32, fingerprint: &str) -> usize {
        slots.assign(&key(session), fingerprint, None).unwrap().slot
    }

    #[test]
    fn new_instances_take_never_used_slots_in_order() {
        let mut slots = Slots::new(&on(&[0, 1, 0, 1]));
        assert_eq!([1, 2, 3].map(|session| take(&mut slots, session, "same")), [0, 1, 2]);
        slots.release(&key(1));
        assert_eq!(take(&mut slots, 4, "new"), 3, "a slot that nobody had comes before one that was left");
        assert_eq!(take(&mut slots, 5, "new"), 0);
        assert_eq!(take(&mut slots, 2, "same"), 1, "asking again changes nothing");
    }

    #[test]
    fn a_restarted_instance_gets_its_slot_back() {
        let mut slots = Slots::new(&on(&[0, 1, 2, 3]));
        for (session, fingerprint) in [(1, "a"), (2, "b"), (3, "b")] {
            take(&mut slots, session, fingerprint);
        }
        slots.release(&key(2));
        slots.release(&key(3));
        assert_eq!(take(&mut slots, 3, "changed"), 2, "by its key");
        assert_eq!(take(&mut slots, 9, "b"), 1, "by its fingerprint");
        slots.release(&key(1));
        assert_eq!(take(&mut slots, 10, "z"), 3);
        assert_eq!(take(&mut slots, 11, "y"), 0, "a stranger takes what is left");
        slots.release(&key(11));
        assert_eq!(take(&mut slots, 1, "a"), 0, "no longer remembered, and free all the same");
    }

    #[test]
    fn the_preferred_socket_is_taken_while_it_has_room() {
        let mut slots = Slots::new(&on(&[0, 1, 0, 1]));
        let mut take =
            |session, fingerprint: &str| slots.assign(&key(session), fingerprint, Some(1)).unwrap().slot;
        assert_eq!([take(1, "a"), take(2, "b"), take(3, "c"), take(4, "d")], [1, 3, 0, 2]);
        slots.release(&key(3));
        slots.release(&key(2));
        assert_eq!(slots.assign(&key(5), "e", Some(1)).unwrap().slot, 3, "of two that were left");
    }

    #[test]
    fn without_a_free_slot_the_least_loaded_is_shared_and_said_so() {
        let mut slots = Slots::new(&on(&[0, 1]));
        for session in 1..=2 {
            assert!(!slots.assign(&key(session), "", None).unwrap().shared);
        }
        assert!(slots.is_full());
        for (session, slot) in [(3, 0), (4, 1), (5, 0)] {
            assert_eq!(slots.assign(&key(session), "", Some(1)), Ok(Assignment { slot, shared: true }));
        }
        slots.release(&key(1));
        slots.release(&key(5));
        assert_eq!(
            slots.assign(&key(3), "", None),
            Ok(Assignment { slot: 0, shared: false }),
            "it stays, now alone"
        );
        assert_eq!(Slots::new(&on(&[])).assign(&key(1), "", None), Err(SlotsError::Empty));
    }

    #[test]
    fn growing_keeps_everybody_in_place() {
        let mut slots = Slots::new(&on(&[0, 1]));
        for session in 1..=3 {
            take(&mut slots, session, "");
        }
        slots.grow(&on(&[0, 1, 0, 1])).unwrap();
        assert_eq!([1, 2, 3, 4].map(|session| take(&mut slots, session, "")), [0, 1, 0, 2]);
        assert_eq!(slots.grow(&on(&[0, 1])), Err(SlotsError::Changed));
        assert_eq!(slots.grow(&on(&[1, 0, 0, 1, 2])), Err(SlotsError::Changed));
        assert_eq!(slots.instances(), 4);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Assign(u32, u8, Option<u32>),
        Release(u32),
        Grow(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..12, 0u8..3, prop::option::of(0u32..4)).prop_map(|(k, f, p)| Step::Assign(k, f, p)),
            3 => (0u32..12).prop_map(Step::Release),
            1 => (0u32..4).prop_map(Step::Grow),
        ]
    }

    proptest! {
        /// Against a plain model: nobody moves while alive, nobody shares while a slot is free, loads are even, and
        /// who comes back to a slot that nobody took since gets it.
        #[test]
        fn slots_keep_their_promises(sockets in prop::collection::vec(0u32..4, 1..6), steps in prop::collection::vec(step(), 1..60)) {
            let mut sockets = sockets;
            let mut slots = Slots::new(&on(&sockets));
            let mut live: BTreeMap<u32, usize> = BTreeMap::new();
            let mut left: BTreeMap<usize, u32> = BTreeMap::new();
            for step in steps {
                let load = |slot: usize, live: &BTreeMap<u32, usize>| live.values().filter(|held| **held == slot).count();
                match step {
                    Step::Assign(session, fingerprint, socket) => {
                        let loads: Vec<usize> = (0..sockets.len()).map(|slot| load(slot, &live)).collect();
                        let got = slots.assign(&key(session), &fingerprint.to_string(), socket).unwrap();
                        if let Some(slot) = live.get(&session) {
                            prop_assert_eq!(got.slot, *slot);
                            prop_assert_eq!(got.shared, loads[*slot] > 1);
                            continue;
                        }
                        prop_assert_eq!(got.shared, loads.iter().all(|load| *load > 0));
                        prop_assert_eq!(Some(&loads[got.slot]), loads.iter().min());
                        if let Some((slot, _)) = left.iter().find(|(slot, who)| **who == session && loads[**slot] == 0) {
                            prop_assert_eq!(got.slot, *slot);
                        }
                        left.remove(&got.slot);
                        live.insert(session, got.slot);
                    }
                    Step::Release(session) => {
                        slots.release(&key(session));
                        if let Some(slot) = live.remove(&session) {
                            // A key is remembered for one slot at a time only if it left no other since.
                            left.retain(|_, who| *who != session);
                            left.insert(slot, session);
                        }
                    }
                    Step::Grow(socket) => {
                        sockets.push(socket);
                        slots.grow(&on(&sockets)).unwrap();
                    }
                }
                prop_assert_eq!(slots.instances(), live.len());
                for (session, slot) in &live {
                    prop_assert_eq!(slots.slot_of(&key(*session)), Some(*slot));
                }
            }
        }
    }
}
