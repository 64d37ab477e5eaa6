//! Masks that a cpuset cuts, and cpusets that change.

use super::*;

#[test]
fn a_mask_cut_by_a_cpuset_is_asked_for_once_and_named() {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let actions = engine.apply(&started.event, started.facts.clone());
    let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
    let granted: CpuSet = "0-1".parse().unwrap();
    engine.record(bind, BindOutcome::Bound(granted.clone()), world.now_ns);
    assert!(engine.warnings().iter().any(|warning| warning.contains("0-1") && warning.contains("0-7")));
    assert_eq!(engine.cuts(), 1);
    world.masks.insert(started.event.task, granted);
    assert!(world.show(&mut engine).is_empty(), "nothing is gained by asking again");
    world.masks.insert(started.event.task, "5".parse().unwrap());
    assert_eq!(cpus(&world.show(&mut engine)), ["0-7"], "but somebody else's change is answered");
    let drifted = Drifted { unseen: 1, put_back: 1, ..Drifted::default() };
    assert_eq!(engine.drifted().values().collect::<Vec<_>>(), [&drifted]);
    assert_eq!(engine.cuts(), 0, "and what is not so any more is not listed");
}

/// What kernels make of a task's mask when its cpuset changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cpusets {
    /// All that the cpuset allows: before 6.2.
    Wipe,
    /// What was asked for, as far as the cpuset allows it, else as above: since 6.2.
    Restore,
}

/// The task's cpuset is changed, and three reconciles follow: attempts worth a word, and warnings.
fn confine(
    kernel: Cpusets,
    world: &mut World,
    engine: &mut Engine,
    task: TaskId,
    cpuset: &str,
) -> (usize, Vec<String>) {
    let allowed: CpuSet = cpuset.parse().unwrap();
    let asked = allowed.intersection(&"0-7".parse().unwrap());
    let wiped = kernel == Cpusets::Wipe || asked.is_empty();
    world.masks.insert(task, if wiped { allowed.clone() } else { asked });
    let mut binds = 0;
    for _reconcile in 0..3 {
        let (snapshots, alive, as_of_ns) = world.scan();
        for snapshot in snapshots {
            for action in engine.observe(&snapshot, &Cause::Reconcile, None) {
                let Action::Bind(bind) = action else { continue };
                let mask = bind.cpus.intersection(&allowed);
                let outcome = match (mask.is_empty(), world.masks[&task] == mask) {
                    (true, _) => BindOutcome::Failed {
                        why: "EINVAL".into(),
                        excluded: true,
                        actual: Some(allowed.clone()),
                    },
                    (false, true) => BindOutcome::Unchanged(mask.clone()),
                    (false, false) => BindOutcome::Bound(mask.clone()),
                };
                if !mask.is_empty() {
                    world.masks.insert(task, mask);
                }
                binds += usize::from(engine.is_news(&bind, &outcome));
                engine.record(&bind, outcome, as_of_ns);
            }
        }
        engine.sweep(&alive, as_of_ns);
    }
    (binds, engine.take_news())
}

#[test]
fn a_cpuset_that_changes_and_changes_is_followed_and_said_once_each_time() {
    for kernel in [Cpusets::Wipe, Cpusets::Restore] {
        follow_changes(kernel);
    }
}

fn follow_changes(kernel: Cpusets) {
    let (mut world, mut engine) = (World::default(), paired(1));
    let started = world.spawn(7, "worker");
    let task = started.event.task;
    world.processes.get_mut(&task.tid).unwrap().0.cgroup = Some("/pod".into());
    world.tell(&mut engine, &started);
    // The plan is 0-7.
    for (cpuset, mask, said) in [
        ("0-31", "0-7", ""),
        ("4-11", "4-7", "only 4-7 of the planned 0-7"),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
        ("8-15", "8-15", "none of the planned 0-7"),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
        ("0-15", "0-7", ""),
        ("6-11", "6-7", "only 6-7 of the planned 0-7"),
    ] {
        let (attempts, news) = confine(kernel, &mut world, &mut engine, task, cpuset);
        assert_eq!(world.masks[&task].to_string(), mask, "{cpuset}");
        let restored = kernel == Cpusets::Restore && said.is_empty();
        assert_eq!(attempts, usize::from(!restored), "{kernel:?} {cpuset}: one that says something new");
        assert_eq!(news.len(), usize::from(!said.is_empty()), "{cpuset}: {news:?}");
        assert!(news.iter().all(|text| text.contains("/pod") && text.contains(said)), "{cpuset}: {news:?}");
        assert!(engine.cuts.texts().eq(&news), "what is listed is what is so now");
    }
    let ended = world.exit_thread(task.tid, task.tid);
    world.tell(&mut engine, &ended);
    world.show(&mut engine);
    assert_eq!(engine.cuts.texts().count(), 0, "nobody is in that cgroup any more");
}

#[test]
fn a_cut_is_listed_while_a_living_thread_is_cut_by_it() {
    for ends in [false, true] {
        let (mut world, mut engine) = (World::default(), paired(1));
        let started = world.spawn(7, "worker");
        world.tell(&mut engine, &started);
        let pid = started.event.pid;
        let thread = world.thread(pid);
        let task = thread.event.task;
        world.tell(&mut engine, &thread);
        let renamed = world.rename(pid, task.tid, "forward_0");
        let actions = engine.apply(&renamed.event, None);
        let Some(Action::Bind(bind)) = actions.last() else { panic!("{actions:?}") };
        engine.record(bind, BindOutcome::Bound("8-9".parse().unwrap()), world.now_ns);
        world.masks.insert(task, "8-9".parse().unwrap());
        let scanned = |world: &mut World, engine: &mut Engine| {
            let (_, alive, as_of_ns) = world.scan();
            engine.sweep(&alive, as_of_ns);
            engine.cuts.texts().count()
        };
        assert_eq!(scanned(&mut world, &mut engine), 1, "it is so still");
        let over =
            if ends { world.exit_thread(pid, task.tid) } else { world.rename(pid, task.tid, "loader") };
        world.tell(&mut engine, &over);
        assert_eq!(scanned(&mut world, &mut engine), 0, "over, in a process that lives");
    }
}

#[test]
fn more_cuts_than_are_kept_are_said_once() {
    let (mut cuts, planned) = (Cuts::default(), "0-7".parse().unwrap());
    let outcome = BindOutcome::Bound("0".parse().unwrap());
    let facts = |pid| ProcessFacts { pid, ..ProcessFacts::default() };
    let mut said = |pid| cuts.note(&facts(pid), &planned, &outcome);
    assert!((0..MAX_WARNINGS as u32).all(|pid| said(pid).is_some()));
    assert!(said(9998).is_some_and(|text| text.contains("not shown")));
    assert_eq!(said(9999), None);
}
