//! What accounts say, held against what the kernel says in `/proc/TID/schedstat` and against what the test itself did.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use nix::time::{ClockId, clock_gettime};
use numa_agent::{core::idset::CpuSet, host::sys::monotonic_ns};
use numa_ebpf::{
    account::{Occupant, Stolen, cause, duration, span},
    place::{CPUS, PlanSet},
};

use super::*;

/// CPU time, run-queue wait (both in nanoseconds) and number of runs, by the kernel (`Documentation/scheduler/sched-stats.rst`),
/// and how often it left its CPU to sleep and because it had to.
#[derive(Debug, Clone, Copy)]
struct SchedStat {
    run_ns: u64,
    wait_ns: u64,
    runs: u64,
    slept: u64,
    preempted: u64,
}

impl SchedStat {
    fn since(self, before: Self) -> Self {
        Self {
            run_ns: self.run_ns - before.run_ns,
            wait_ns: self.wait_ns - before.wait_ns,
            runs: self.runs - before.runs,
            slept: self.slept - before.slept,
            preempted: self.preempted - before.preempted,
        }
    }
}

fn schedstat(tid: u32) -> SchedStat {
    let read =
        |file: &str| fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).expect("a thread of ours");
    let (text, status) = (read("schedstat"), read("status"));
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [run_ns, wait_ns, runs] = numbers[..] else { panic!("{text}") };
    let switches = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        line.trim().parse().expect("a number")
    };
    let (slept, preempted) = (switches("voluntary_ctxt_switches:"), switches("nonvoluntary_ctxt_switches:"));
    SchedStat { run_ns, wait_ns, runs, slept, preempted }
}

/// CPU time up to now, also of a thread that runs: what `/proc` says of that is as old as the last tick.
fn cpu_time_ns(tid: u32) -> u64 {
    // `MAKE_THREAD_CPUCLOCK` (`include/linux/posix-timers_types.h`), of `CPUCLOCK_SCHED`.
    let clock = ClockId::from_raw((!tid as i32) << 3 | 4 | 2);
    Duration::from(clock_gettime(clock).expect("a thread of ours")).as_nanos() as u64
}

/// A thread of this process that does what it is told.
struct Puppet {
    tid: u32,
    orders: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Puppet {
    fn new(name: &str) -> Self {
        let (orders, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (report, done) = mpsc::channel();
        let (tell, tid) = mpsc::channel();
        let body = move || {
            tell.send(own_tid()).expect("the test waits");
            for order in inbox {
                order();
                let _ = report.send(());
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(body).expect("a thread");
        Self { tid: tid.recv().expect("it runs"), orders: Some(orders), done, thread: Some(thread) }
    }

    /// Has it do something, and does not wait.
    fn start(&self, order: impl FnOnce() + Send + 'static) {
        self.orders.as_ref().expect("alive").send(Box::new(order)).expect("it listens");
    }

    fn wait(&self) {
        self.done.recv().expect("it answers");
    }

    fn order(&self, order: impl FnOnce() + Send + 'static) {
        self.start(order);
        self.wait();
    }

    fn end(&mut self) {
        drop(self.orders.take());
        self.thread.take().expect("once").join().expect("no panic");
    }

    /// Waits until the kernel says that it sleeps in a system call, and has left its CPU: its state says so before that.
    fn asleep(&self) {
        let path = format!("/proc/self/task/{}/syscall", self.tid);
        let sleeps =
            || fs::read_to_string(&path).expect("alive").starts_with(|first: char| first.is_ascii_digit());
        while !sleeps() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        drop(self.orders.take());
    }
}

/// Uses that much CPU time.
fn spin_for(time: Duration) {
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("own clock"));
    let until = used() + time;
    while used() < until {}
}

fn only(cpu: u32) -> CpuSet {
    [cpu].into_iter().collect()
}

fn pin(tid: u32, cpu: u32) {
    Host.set_affinity(tid, &only(cpu)).expect("a CPU of ours");
}

/// CPUs 0 and 1, or a visible skip.
fn two_cpus() -> bool {
    let cpus = Host.affinity(0).expect("own mask");
    let both = cpus.contains(0) && cpus.contains(1);
    both || skip(&format!("needs CPUs 0 and 1, we have {cpus}")).unwrap_or(false)
}

/// Where the first node's CPU is all the plan there is.
fn first_cpu() -> PlanSet {
    let mut set = PlanSet { nodes: 1, ..PlanSet::EMPTY };
    set.cpus[0] = 1;
    set
}

#[track_caller]
fn assert_close(what: &str, ours: u64, kernels: u64, share: f64) {
    // A few microseconds lie between our stamps and the kernel's, however short the time.
    let allowed = kernels as f64 * share + 200_000.0;
    assert!(ours.abs_diff(kernels) as f64 <= allowed, "{what}: {ours} ns, by the kernel {kernels} ns");
}

#[track_caller]
fn wait_ns(account: &Account) -> u64 {
    account.durations[duration::WAKE_WAIT].total_ns + account.durations[duration::PREEMPT_WAIT].total_ns
}

/// What happened to the victim of a hog on its CPU for a while, by our account and by the kernel's.
struct Ordeal {
    account: Account,
    kernels: SchedStat,
}

impl Ordeal {
    fn new(live: &mut Live, victim: &Puppet, hog: &Puppet) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        victim.asleep();
        let task = live.mark(std::process::id(), victim.tid);
        let before = schedstat(victim.tid);
        let stopped = Arc::clone(&stop);
        hog.start(move || while !stopped.load(Ordering::Relaxed) {});
        victim.order(|| {
            spin_for(Duration::from_millis(200));
            for _ in 0..50 {
                thread::sleep(Duration::from_millis(1));
                spin_for(Duration::from_micros(500));
            }
        });
        stop.store(true, Ordering::Relaxed);
        hog.wait();
        victim.asleep();
        let (account, after) = (live.account(task), schedstat(victim.tid));
        live.programs.unmark(task).expect("unmark");
        Self { account, kernels: after.since(before) }
    }

    fn count(&self, duration: usize) -> u64 {
        self.account.durations[duration].count
    }

    /// Whether the programs were called for each wake-up of the victim and each switch to it. The development machine's kernel
    /// calls no tracepoint in threads of pid 1 (perf misses the same ones): who they wake, and who comes after them,
    /// goes unseen.
    fn seen_whole(&self) -> bool {
        let waits = self.count(duration::WAKE_WAIT) + self.count(duration::PREEMPT_WAIT);
        [waits, self.count(duration::SLICE), self.count(duration::GAP) + 1] == [self.kernels.runs; 3]
    }

    /// Whether it was the hog that the victim waited for, at least ten times and 10 ms; on a busy machine it may be others.
    fn hogged(&self) -> bool {
        let is_hog = |occupant: &&Occupant| occupant.comm.starts_with(b"zebra_hog\0");
        let hog = self.account.preemptors.iter().find(is_hog);
        hog.is_some_and(|hog| hog.count >= 10 && hog.ns >= 10_000_000)
    }
}

#[test]
fn run_and_wait_times_are_the_kernels_own() {
    const TRIES: usize = 20;
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    if !two_cpus() {
        return;
    }
    let (victim, hog) = (Puppet::new("victim"), Puppet::new("zebra_hog"));
    pin(victim.tid, 1);
    pin(hog.tid, 1);
    let whole = (0..TRIES)
        .map(|_| Ordeal::new(&mut live, &victim, &hog))
        .find(|ordeal| ordeal.seen_whole() && ordeal.hogged());
    let ordeal = whole.expect("a stretch beside the hog without switches that no tracepoint tells of");
    let (account, kernels) = (&ordeal.account, ordeal.kernels);
    // The kernel looks at its clock a little before it calls us: as many instructions take an emulated processor 50 us.
    let share = if emulated() { 0.05 } else { 0.01 };
    assert_close("CPU time", account.run_ns(), kernels.run_ns, share);
    assert_close("run-queue wait", wait_ns(account), kernels.wait_ns, share);
    let waits = [ordeal.count(duration::WAKE_WAIT), ordeal.count(duration::PREEMPT_WAIT)];
    assert_eq!(waits, [kernels.slept, kernels.preempted], "{kernels:?}");
    // Where a processor may stand still, a millisecond may be over before its sleep began.
    let woken = if emulated() { 10 } else { 51 };
    assert!(waits[0] >= woken, "woken for its order and after each sleep: {kernels:?}");
    assert!(waits[1] >= 10, "a fifth of a second beside a hog: {kernels:?}");
    for (summary, buckets) in account.durations.iter().zip(&account.buckets) {
        assert_eq!(summary.count, buckets.iter().map(|count| u64::from(*count)).sum::<u64>());
    }
    assert_eq!(account.node_ns[..2], [0, account.run_ns()], "CPU 1 is node 1 here");
    let named: u64 = account.preemptors.iter().map(|occupant| occupant.ns).sum();
    assert!(named + account.preemptors_rest.ns <= wait_ns(account));
}

#[test]
fn a_run_that_goes_on_counts_from_its_begin() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let spinner = Puppet::new("spinner");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    spinner.start(move || while !stopped.load(Ordering::Relaxed) {});
    thread::sleep(Duration::from_millis(20));
    // It has a CPU already, and may keep it for as long as it likes. By the kernel, from just before to just after, and within.
    let begin = cpu_time_ns(spinner.tid);
    let task = live.mark(std::process::id(), spinner.tid);
    let marked = cpu_time_ns(spinner.tid);
    thread::sleep(Duration::from_millis(500));
    let reading = cpu_time_ns(spinner.tid);
    let (account, now) = (live.account(task), monotonic_ns());
    let (least, most) = (reading - marked, cpu_time_ns(spinner.tid) - begin);
    stop.store(true, Ordering::Relaxed);
    spinner.wait();
    let current = if account.running_since_ns > 0 { now - account.running_since_ns } else { 0 };
    let ours = account.run_ns() + current;
    // Known from the first interrupt on: a tick later at most, of 10 ms where it is slowest; an emulated one comes when it can.
    let tick = if emulated() { 100_000_000 } else { 12_000_000 };
    // Some kernels take interrupts' time off.
    let stolen = account.irq.ns + account.softirq.ns;
    assert!(
        ours + tick >= least && ours <= most + stolen + 5_000_000,
        "{ours}, {stolen} of it interrupts, by the kernel {least} to {most}"
    );
    if cfg!(target_arch = "x86_64") {
        let Stolen { ns, count, max_ns } = account.irq;
        assert!(
            count > 10 && max_ns > 0 && ns >= max_ns && ns < ours / 2,
            "ticks take time: {:?}",
            account.irq
        );
    }
}

#[test]
fn moves_are_told_by_what_made_them() {
    const ROUNDS: u64 = 50;
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    if !two_cpus() {
        return;
    }
    let mover = Puppet::new("mover");
    pin(mover.tid, 0);
    mover.order(|| ());
    mover.asleep();
    let task = live.mark(std::process::id(), mover.tid);
    // It runs, and moves itself: the call does it.
    mover.order(|| {
        for round in 0..ROUNDS {
            pin(0, 1 - (round % 2) as u32);
        }
    });
    let by_itself = live.account(task);
    assert_eq!(by_itself.moves_by_cause[cause::AFFINITY], ROUNDS, "{:?}", by_itself.moves_by_cause);
    assert_eq!(by_itself.moves_by_span, [0, 0, 0, 0, ROUNDS]);
    assert_eq!((by_itself.moves[1], by_itself.moves[8]), (ROUNDS as u32 / 2, ROUNDS as u32 / 2));
    // It sleeps while its mask changes, and moves as it wakes up.
    for round in 0..ROUNDS {
        mover.asleep();
        pin(mover.tid, 1 - (round % 2) as u32);
        mover.order(|| ());
    }
    let asleep = live.account(task);
    assert_eq!(asleep.moves_by_cause[cause::AFFINITY], 2 * ROUNDS, "{:?}", asleep.moves_by_cause);
    assert_eq!(asleep.moves_by_cause.iter().sum::<u64>(), 2 * ROUNDS);
    assert_eq!(asleep.moves_by_span[span::MACHINE], 2 * ROUNDS);
    // It may run anywhere, and is woken where it slept or on the other CPU, as the scheduler likes.
    Host.set_affinity(mover.tid, &[0, 1].into_iter().collect()).expect("CPUs of ours");
    let anywhere = live.account(task).moves_by_cause[cause::AFFINITY];
    (0..ROUNDS).for_each(|_| mover.order(|| spin_for(Duration::from_micros(100))));
    assert_eq!(live.account(task).moves_by_cause[cause::AFFINITY], anywhere, "nothing forces it to move");
}

#[test]
fn time_outside_the_plan_is_told_from_time_before_it() {
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    if !two_cpus() {
        return;
    }
    let runner = Puppet::new("runner");
    pin(runner.tid, 0);
    runner.order(|| ());
    runner.asleep();
    let task = live.mark(std::process::id(), runner.tid);
    let run_on = |cpu: u32| {
        move || {
            pin(0, cpu);
            spin_for(Duration::from_millis(30));
        }
    };
    runner.order(run_on(1));
    runner.asleep();
    let early = live.account(task);
    assert_eq!(early.running_since_ns, 0, "it has left its CPU: {:?}", early.early);
    let on_second = early.early.iter().find(|early| early.cpu == 2);
    let on_second = on_second.unwrap_or_else(|| panic!("it was on CPU 1: {:?}", early.early)).ns;
    assert!(on_second >= 25_000_000, "{:?}", early.early);
    assert_eq!(early.early.iter().map(|early| early.ns).sum::<u64>() + early.early_rest_ns, early.run_ns());
    assert_eq!((early.off_plan_ns, early.off_node.ns), (0, 0));
    let slot = live.programs.slot_of(task).expect("an account");
    live.programs.set_plan_set(1, &first_cpu()).expect("a plan set");
    live.programs.assign(slot, 1).expect("its slot");
    runner.order(run_on(0));
    runner.order(run_on(1));
    runner.order(run_on(1));
    runner.order(run_on(0));
    runner.asleep();
    let account = live.account(task);
    let off = account.off_node;
    assert_eq!(account.early, early.early, "there is a plan now");
    assert_eq!(off.ns, account.node_ns[1] - on_second, "all of what it ran on node 1 since");
    assert_eq!(account.off_plan_ns, off.ns);
    assert!(off.ns >= 50_000_000 && off.runs >= 2 && off.longest_ns <= off.ns, "{off:?}");
    assert!(off.first_at_ns >= early.stopped_at_ns && off.first_at_ns < off.last_at_ns, "{off:?}");
    assert!(account.node_ns[0] >= 50_000_000, "{:?}", account.node_ns);
}

#[test]
fn intruders_on_critical_cpus_are_named_and_timed() {
    let mut options = seeing_ourselves();
    options.places[1].1.critical = 1;
    let Some(mut live) = live(&options) else { return };
    if !two_cpus() {
        return;
    }
    let (ours, intruder) = (Puppet::new("ours"), Puppet::new("okapi"));
    pin(ours.tid, 1);
    pin(intruder.tid, 1);
    ours.asleep();
    intruder.asleep();
    live.mark(std::process::id(), ours.tid);
    let who = |live: &Live, cpu: u32, name: &[u8]| {
        let state = live.programs.cpu_state(cpu).expect("a CPU");
        let known = state.intruders.iter().find(|occupant| occupant.comm.starts_with(name));
        known.map_or((0, 0), |occupant| (occupant.ns, occupant.count))
    };
    // Both have been there before ours was marked.
    let (okapi, unmarked) = (who(&live, 1, b"okapi\0"), who(&live, 1, b"ours\0"));
    let before = schedstat(intruder.tid).run_ns;
    intruder.order(|| spin_for(Duration::from_millis(100)));
    ours.order(|| spin_for(Duration::from_millis(20)));
    intruder.asleep();
    let ran = schedstat(intruder.tid).run_ns - before;
    let intruded = who(&live, 1, b"okapi\0");
    // See `Ordeal::seen_whole`: a turn of pid 1's just before it may count as its own.
    assert_close("the intruder's time", intruded.0 - okapi.0, ran, 0.1);
    assert!(intruded.1 > okapi.1);
    assert_eq!(who(&live, 1, b"ours\0"), unmarked, "a marked task is none");
    assert_eq!(who(&live, 1, b"swapper"), (0, 0), "idle is nobody");
    let calm = live.programs.cpu_state(0).expect("a CPU");
    assert!(calm.intruders.iter().all(|occupant| occupant.count == 0), "CPU 0 is not critical");
}

#[test]
fn every_thread_of_a_storm_leaves_its_account() {
    const THREADS: usize = 500;
    let Some(mut live) = live(&LoadOptions { max_accounts: 1 + THREADS as u32, ..seeing_ourselves() }) else {
        return;
    };
    live.mark(std::process::id(), own_tid());
    for _ in 0..2 {
        live.seen.clear();
        let born = Instant::now();
        (0..THREADS).for_each(|_| thread::spawn(|| ()).join().expect("no panic"));
        live.drain();
        let exits: Vec<TaskEvent> =
            live.seen.iter().filter(|event| matches!(event.kind, EventKind::Exit { .. })).cloned().collect();
        assert_eq!(exits.len(), THREADS);
        assert_eq!(live.closed_slots(), THREADS, "all wait to be read");
        for exit in &exits {
            let account = live.ended(exit);
            assert!(account.run_ns() > 0 && account.run_ns() < born.elapsed().as_nanos() as u64);
            assert_eq!(
                account.durations[duration::WAKE_WAIT].count,
                1 + account.durations[duration::GAP].count - account.durations[duration::PREEMPT_WAIT].count,
                "each run follows a wait"
            );
        }
    }
    assert_eq!(live.programs.drops().total(), 0);
}

#[test]
fn who_is_born_on_plan_is_measured_by_it_and_a_short_life_comes_along() {
    const THREADS: usize = 200;
    let Some(mut live) = live(&seeing_ourselves()) else { return };
    let own = live.mark(std::process::id(), own_tid());
    let slot = live.programs.slot_of(own).expect("measured");
    let everywhere = PlanSet { cpus: [u64::MAX; CPUS / 64], nodes: u64::MAX };
    live.programs.set_plan_set(1, &everywhere).expect("a plan set");
    live.programs.set_plan_set(2, &PlanSet::EMPTY).expect("a plan set");
    for (plan, by_birth) in [(1, Some(1)), (2, None)] {
        live.programs.assign(slot, plan).expect("a slot");
        live.seen.clear();
        (0..THREADS).for_each(|_| thread::spawn(|| ()).join().expect("no panic"));
        live.drain();
        let (mut born, mut brief) = (0, 0);
        for event in live.seen.clone() {
            match event.kind {
                EventKind::Fork { slot, plan, .. } => {
                    assert!(slot.is_some() && plan == by_birth, "{plan:?}");
                    born += 1;
                }
                EventKind::Exit { brief: told, .. } => {
                    let account = live.ended(&event);
                    let early = account.early.iter().map(|early| early.ns).sum::<u64>();
                    assert_eq!(early > 0, by_birth.is_none(), "measured without a plan set: {early} ns");
                    assert_eq!(account.off_plan_ns, 0);
                    brief += usize::from(told.is_some());
                }
                _ => {}
            }
        }
        assert_eq!(born, THREADS);
        match by_birth {
            // Those that an interrupt met have more to say.
            Some(_) => assert!(brief > THREADS / 2, "{brief}"),
            None => assert_eq!(brief, 0, "where it belongs is not known yet"),
        }
    }
}

#[test]
fn in_a_storm_who_is_born_on_plan_is_told_of_at_a_pace_and_the_rest_is_counted() {
    const THREADS: usize = 4000;
    /// [`numa_ebpf::pace`]: so many at once.
    const BURST: usize = 1024;
    let Some(mut live) = live(&LoadOptions { ring_bytes: 4 << 20, ..seeing_ourselves() }) else { return };
    let own = live.mark(std::process::id(), own_tid());
    let slot = live.programs.slot_of(own).expect("measured");
    let everywhere = PlanSet { cpus: [u64::MAX; CPUS / 64], nodes: u64::MAX };
    live.programs.set_plan_set(1, &everywhere).expect("a plan set");
    live.programs.assign(slot, 1).expect("a slot");
    let began = Instant::now();
    (0..THREADS).for_each(|_| thread::spawn(|| ()).join().expect("no panic"));
    let paced = began.elapsed().as_millis() as usize * 2;
    live.drain();
    let told = live.seen.iter().filter(|event| matches!(event.kind, EventKind::Fork { .. })).count();
    let untold = live.programs.untold();
    assert_eq!((live.programs.drops().total(), untold.living), (0, 0), "nothing is lost, no slot is kept");
    // As many as there are, where starting them takes that long.
    assert!((BURST..=BURST + paced + 2).contains(&told), "{told} in {paced} half milliseconds");
    assert_eq!(untold.ended as usize, THREADS - told, "the others are counted");
    // Who is not where it belongs is told of all the same.
    live.programs.set_plan_set(2, &PlanSet::EMPTY).expect("a plan set");
    live.programs.assign(slot, 2).expect("a slot");
    live.seen.clear();
    (0..100).for_each(|_| thread::spawn(|| ()).join().expect("no panic"));
    live.drain();
    let told = live.seen.iter().filter(|event| matches!(event.kind, EventKind::Fork { .. })).count();
    assert_eq!(told, 100);
    for exit in live.seen.clone() {
        if let EventKind::Exit { brief: None, .. } = exit.kind {
            live.ended(&exit);
        }
    }
    live.programs.unmark(own).expect("unmark");
}

#[test]
fn where_the_ring_is_crowded_who_is_born_on_plan_is_counted_and_not_told() {
    const THREADS: usize = 3000;
    let options = LoadOptions { ring_bytes: 64 << 10, max_accounts: 64, ..seeing_ourselves() };
    let Some(mut live) = live(&options) else { return };
    let own = live.mark(std::process::id(), own_tid());
    let slot = live.programs.slot_of(own).expect("measured");
    let everywhere = PlanSet { cpus: [u64::MAX; CPUS / 64], nodes: u64::MAX };
    live.programs.set_plan_set(1, &everywhere).expect("a plan set");
    live.programs.assign(slot, 1).expect("a slot");
    (0..THREADS)
        .for_each(|_| thread::spawn(|| spin_for(Duration::from_micros(10))).join().expect("no panic"));
    let untold = live.programs.untold();
    assert_eq!((live.programs.drops().total(), untold.living), (0, 0), "nothing is lost, no slot is kept");
    // Two that stay.
    let plain = || {
        let (stay, over) = mpsc::channel::<()>();
        let (tell, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(own_tid()).expect("the test waits");
            over.recv().unwrap_err();
        });
        (tid.recv().expect("it runs"), stay, thread)
    };
    let ((heard, end_heard, heard_thread), (unheard, end_unheard, unheard_thread)) = (plain(), plain());
    assert_eq!(live.programs.untold().living, 2);
    // Who names itself is told of, and so is its end.
    let mut named = Puppet::new("named");
    assert_eq!(live.programs.untold().living, 2);
    named.end();
    live.drain();
    let told = |live: &Live, kind: fn(&EventKind) -> bool| {
        live.seen.iter().filter(|event| event.pid == event.task.tid || kind(&event.kind)).count()
    };
    let born = told(&live, |kind| matches!(kind, EventKind::Fork { .. }));
    let ended = told(&live, |kind| matches!(kind, EventKind::Exit { .. }));
    assert!(
        born > 100 && ended == born + 1 && untold.ended == (THREADS - born) as u64,
        "{born}, {ended}, {untold:?}"
    );
    assert!(untold.run_ns > untold.ended * 10_000, "{untold:?}");
    for exit in live.seen.clone() {
        if let EventKind::Exit { brief: None, .. } = exit.kind {
            live.ended(&exit);
        }
    }
    // Of whom somebody has heard, the end is told.
    live.wait_exit(named.tid);
    live.programs.hear_of(identity(heard)).expect("a slot");
    assert_eq!(live.programs.untold().living, 1);
    drop((end_unheard, end_heard));
    for thread in [unheard_thread, heard_thread] {
        thread.join().expect("no panic");
    }
    let exit = live.wait_exit(heard);
    let ended = |event: &TaskEvent| matches!(event.kind, EventKind::Exit { .. });
    assert!(!live.seen.iter().any(|event| event.task.tid == unheard && ended(event)));
    live.ended(&exit);
    let untold = live.programs.untold();
    assert_eq!((untold.living, untold.ended), (0, (THREADS - born) as u64 + 1));
    live.programs.unmark(own).expect("unmark");
    assert_eq!((live.closed_slots(), live.programs.drops().total()), (0, 0));
}

#[test]
fn what_finds_no_slot_is_counted_and_managed_all_the_same() {
    let Some(mut live) = live(&LoadOptions { max_accounts: 2, ..seeing_ourselves() }) else { return };
    let own = live.mark(std::process::id(), own_tid());
    let (mut first, mut second) = (Puppet::new("first"), Puppet::new("second"));
    let drops = live.programs.drops();
    assert_eq!((drops.not_measured(), drops.total()), (1, 1));
    assert!(!drops.state_lost(), "there is nothing that a scan could make good");
    let (measured, unmeasured) = (identity(first.tid), identity(second.tid));
    assert!(live.programs.slot_of(measured).is_some() && live.programs.slot_of(unmeasured).is_none());
    assert!(live.programs.marked().contains(&unmeasured));
    second.end();
    assert_eq!(live.wait_exit(unmeasured.tid).kind, EventKind::Exit { slot: None, brief: None });
    first.end();
    let exit = live.wait_exit(measured.tid);
    live.ended(&exit);
    let third = Puppet::new("third");
    let task = identity(third.tid);
    assert!(live.programs.slot_of(task).is_some(), "the slot is free again");
    assert_eq!(live.account(task).tid, third.tid);
    live.programs.unmark(task).expect("unmark");
    live.programs.unmark(own).expect("unmark");
    assert_eq!(live.closed_slots(), 0, "nothing is left behind");
    assert_eq!(live.programs.drops().not_measured(), 1);
}
