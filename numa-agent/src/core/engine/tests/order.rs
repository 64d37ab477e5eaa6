//! A scan and the events it overlaps, in either order.

use super::*;

/// One thing that happens to a random task of a random process.
#[derive(Debug, Clone)]
enum Step {
    Spawn(bool),
    Thread(usize),
    Fork(usize),
    Exec(usize, usize),
    Rename(usize, usize, usize),
    ExitThread(usize, usize),
}

const NAMES: [&str; 6] = ["worker", "decode_0", "prefill", "python", "Motor", "scheduler"];

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..64;
    prop_oneof![
        2 => any::<bool>().prop_map(Step::Spawn),
        4 => index.clone().prop_map(Step::Thread),
        2 => index.clone().prop_map(Step::Fork),
        1 => (index.clone(), index.clone()).prop_map(|(process, name)| Step::Exec(process, name)),
        5 => (index.clone(), index.clone(), index.clone()).prop_map(|(process, thread, name)| Step::Rename(process, thread, name)),
        2 => (index.clone(), index).prop_map(|(process, thread)| Step::ExitThread(process, thread)),
    ]
}

/// Lets `steps` happen. The first process of each session is a worker that never changes, so that instances come in the
/// same order for a scan (by start time) and for events (by exec), and none is over before a scan could see it.
fn live(steps: &[Step], holds: bool) -> (Vec<Happened>, Vec<World>) {
    let mut world = World { holds, ..World::default() };
    let (mut history, mut worlds, mut founders) = (Vec::new(), vec![World::default()], BTreeSet::new());
    for step in steps {
        let pick = |index: usize, world: &World| {
            world.processes.keys().nth(index % world.processes.len().max(1)).copied()
        };
        let free = |pid: &u32| !founders.contains(pid);
        // The kernel ends a process's other threads before it runs the new program.
        let ends = match step {
            Step::Exec(process, _) => pick(*process, &world).filter(free).map(|pid| world.other_threads(pid)),
            _ => None,
        };
        for (pid, tid) in ends.into_iter().flatten() {
            history.push(world.exit_thread(pid, tid));
            worlds.push(world.clone());
        }
        let happened = match step {
            Step::Spawn(new_session) => {
                let session = 1000 + if *new_session { world.next_id + 1 } else { 0 };
                let happened = world.spawn(session, "worker");
                founders.insert(happened.event.pid);
                Some(happened)
            }
            Step::Thread(process) => pick(*process, &world).map(|pid| world.thread(pid)),
            Step::Fork(process) => pick(*process, &world).map(|pid| world.fork(pid)),
            Step::Exec(process, name) => {
                pick(*process, &world).filter(free).map(|pid| world.exec(pid, NAMES[name % NAMES.len()]))
            }
            Step::Rename(process, thread, name) => pick(*process, &world).and_then(|pid| {
                let threads: Vec<u32> = world.processes[&pid].1.keys().copied().collect();
                let tid = threads[thread % threads.len()];
                let name = NAMES[name % NAMES.len()];
                (tid != pid || free(&pid)).then(|| world.rename(pid, tid, name))
            }),
            Step::ExitThread(process, thread) => pick(*process, &world).and_then(|pid| {
                let threads: Vec<u32> = world.processes[&pid].1.keys().copied().collect();
                let tid = threads[thread % threads.len()];
                (tid != pid).then(|| world.exit_thread(pid, tid))
            }),
        };
        if let Some(happened) = happened {
            history.push(happened);
            worlds.push(world.clone());
        }
    }
    (history, worlds)
}

proptest! {
    /// However much of the history happened before the agent started, and however many events are told again after a scan
    /// has shown their result: the same placement, and every mask in force is the planned one. Where the kernel side holds processes at
    /// exec, each is let go on once, after it was bound (`World::tell`).
    #[test]
    fn scan_then_events_and_events_then_scan_agree(
        steps in prop::collection::vec(step(), 1..40), cut in 0.0..1.0f64, again in 0usize..6, fixed in any::<bool>(),
        holds in any::<bool>(),
    ) {
        let (history, worlds) = live(&steps, holds);
        let cut = (cut * history.len() as f64) as usize;
        let fresh = || if fixed { paired(3) } else { engine(Overrides::default()) };

        let (mut live_world, mut by_events) = (World::default(), fresh());
        for (happened, world) in history.iter().zip(&worlds[1..]) {
            live_world = World { masks: live_world.masks, ..world.clone() };
            live_world.tell(&mut by_events, happened);
        }

        let (mut late_world, mut by_scan) = (worlds[cut].clone(), fresh());
        late_world.show(&mut by_scan);
        for index in cut.saturating_sub(again)..history.len() {
            late_world = World { masks: late_world.masks, ..worlds[index.max(cut).max(index + 1)].clone() };
            late_world.tell(&mut by_scan, &history[index]);
        }
        prop_assert_eq!(placement(&by_events), placement(&by_scan));

        // A last scan finds nothing to do, and changes nothing.
        let before = placement(&by_events);
        prop_assert_eq!(live_world.show(&mut by_events), vec![]);
        prop_assert_eq!(placement(&by_events), before.clone());
        for (task, (_, _, planned)) in before {
            prop_assert_eq!(live_world.masks.get(&task), Some(&planned));
        }
    }
}
