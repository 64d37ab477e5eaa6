use numa_ebpf::{
    account::{Occupant as KernelOccupant, duration::SLICE},
    histogram::{bucket, record},
};
use proptest::prelude::*;

use super::*;
use crate::core::{
    jitter::{account::Measured, places::Places},
    synthetic::Machine,
};

/// Nodes 0 (CPUs 0-3) and 1 (CPUs 4-7).
fn places() -> Places {
    Places::new(&Machine { nodes_per_socket: 2, ..Machine::default() }.topology())
}

/// What a thread does for a while.
#[derive(Debug, Clone, Default)]
struct Life {
    wake_waits: Vec<u64>,
    preempt_waits: Vec<u64>,
    slices: Vec<u64>,
    off_node_ns: u64,
    moves: [u64; span::COUNT],
    preemptors: Vec<(u8, u64)>,
}

impl Life {
    fn goes_on(&self, account: &mut Account) {
        for (index, durations) in [
            (duration::WAKE_WAIT, &self.wake_waits),
            (duration::PREEMPT_WAIT, &self.preempt_waits),
            (SLICE, &self.slices),
        ] {
            for ns in durations {
                record(&mut account.durations[index], &mut account.buckets[index], *ns);
            }
        }
        account.off_node.ns += self.off_node_ns;
        account.moves_by_span.iter_mut().zip(self.moves).for_each(|(sum, moves)| *sum += moves);
        for (name, ns) in &self.preemptors {
            let slot = &mut account.preemptors[usize::from(*name)];
            (slot.comm[0], slot.ns, slot.count) = (b'a' + name, slot.ns + ns, slot.count + 1);
        }
    }

    /// What it comes to by itself.
    fn account(&self) -> Account {
        let mut account = Account { opened_at_ns: 1, ..Account::EMPTY };
        self.goes_on(&mut account);
        account
    }
}

fn lives() -> impl Strategy<Value = Life> {
    let durations = || proptest::collection::vec(0u64..1 << 36, 0..20);
    let moves = proptest::array::uniform5(0u64..1000);
    let preemptors = proptest::collection::vec((0u8..8, 0u64..1 << 30), 0..20);
    (durations(), durations(), durations(), 0u64..1 << 40, moves, preemptors).prop_map(
        |(wake_waits, preempt_waits, slices, off_node_ns, moves, preemptors)| Life {
            wake_waits,
            preempt_waits,
            slices,
            off_node_ns,
            moves,
            preemptors,
        },
    )
}

fn home(cpus: &str) -> Home {
    Home { set: places().plan_set(&cpus.parse().unwrap()), planned: true }
}

fn between(before: Option<&Account>, now: &Account) -> Gained {
    let places = places();
    let reader = Reader { places: &places, measured: Measured::ALL, began_ns: 0 };
    let before = before.map(|account| Read { account, at_ns: 5000 });
    Gained::between(before, Read { account: now, at_ns: 9000 }, Some(&home("0-3")), &reader)
}

proptest! {
    #[test]
    fn the_difference_of_a_and_a_plus_b_is_b(first in lives(), second in lives()) {
        let before = first.account();
        let (mut now, alone) = (before, second.account());
        second.goes_on(&mut now);
        prop_assert_eq!(between(Some(&before), &now), between(None, &alone));
        let (gained, expected) = (waits(Some(&before), &now), waits(None, &alone));
        prop_assert_eq!((gained.count, gained.total_ns), (expected.count, expected.total_ns));
        prop_assert_eq!(&gained.buckets, &expected.buckets);
        prop_assert!(gained.max_ns >= expected.max_ns, "{} {}", gained.max_ns, expected.max_ns);
        prop_assert!(bucket(gained.max_ns.saturating_sub(1)) <= bucket(expected.max_ns), "{} {}", gained.max_ns, expected.max_ns);
        prop_assert_eq!(preemptor(Some(&before), &now), preemptor(None, &alone));
    }

    #[test]
    fn nothing_happened_is_nothing(life in lives()) {
        let account = life.account();
        let none = Gained { run_ns: Some(0),
            off_node_ns: Some(0), migrations: Some(0), node_migrations: Some(0), ..Gained::default() };
        prop_assert_eq!(between(Some(&account), &account), none);
        prop_assert_eq!(waits(Some(&account), &account), Distribution::default());
        prop_assert_eq!(preemptor(Some(&account), &account), None);
    }
}

#[test]
fn a_run_that_goes_on_counts_once() {
    // It has CPU 6, off node, since 3000; the run ends at 6000, the next begins at 8000.
    let before = Account { running_since_ns: 3000, cpu: 6, ..Account::EMPTY };
    let mut now = Account { running_since_ns: 8000, cpu: 6, ..Account::EMPTY };
    record(&mut now.durations[SLICE], &mut now.buckets[SLICE], 3000);
    now.off_node.ns = 3000;
    // Of 5000 to 9000 it ran until 6000 and from 8000 on.
    let gained = between(Some(&before), &now);
    assert_eq!((gained.run_ns, gained.off_node_ns), (Some(2000), Some(2000)));
    assert_eq!((between(None, &now).run_ns, between(None, &now).off_node_ns), (Some(4000), Some(4000)));
}

#[test]
fn what_is_not_measured_is_unknown() {
    let places = places();
    let measured = Measured { times: false, migrations: false, ..Measured::ALL };
    let reader = Reader { places: &places, measured, began_ns: 0 };
    let now = Read { account: &Account::EMPTY, at_ns: 1 };
    let gained = Gained::between(None, now, Some(&home("0-3")), &reader);
    assert_eq!((gained.off_node_ns, gained.migrations, gained.node_migrations), (None, None, None));
    let reader = Reader { places: &places, measured: Measured::ALL, began_ns: 0 };
    assert_eq!(Gained::between(None, now, None, &reader).off_node_ns, None, "no home");
}

#[test]
fn a_name_that_gave_way_and_came_back_counts_from_then() {
    let occupant = |name: u8, ns, count| KernelOccupant { comm: [name; 16], ns, count };
    let (mut before, mut now) = (Account::EMPTY, Account::EMPTY);
    before.preemptors[0] = occupant(b'x', 900, 9);
    before.preemptors_rest = occupant(0, 10, 1);
    now.preemptors[0] = occupant(b'y', 50, 1);
    now.preemptors[1] = occupant(b'x', 60, 1);
    now.preemptors_rest = occupant(0, 5000, 12);
    let longest = preemptor(Some(&before), &now).unwrap();
    assert_eq!((longest.comm.as_deref(), longest.ns), (Some("xxxxxxxxxxxxxxxx"), 60));
    now.preemptors = [KernelOccupant { comm: [0; 16], ns: 0, count: 0 }; 8];
    let unnamed = preemptor(Some(&before), &now).unwrap();
    assert_eq!((unnamed.comm, unnamed.ns, unnamed.count), (None, 4990, 11));
}
