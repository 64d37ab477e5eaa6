//! Moves and CPU time by node, where the test itself moves a thread from one CPU to another: `jitter record` against what the thread
//! saw of itself (`getcpu`, its own CPU clock) and what the kernel counted for it elsewhere.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::time::{ClockId, clock_gettime};
use numa_agent::core::jitter::figures::{BySpan, Figures};
use numa_agent_tests::{
    eventually,
    recorder::{self, Recorder},
    stack::crew::migrations,
    sys,
    witness::now_ns,
};

use crate::stage::{Machine, Stage, read, stage};

/// Machines with more than one node that has CPUs.
const WITH_NODES: [&str; 5] = ["a3-mini", "2s1n", "snc", "cxl", "sparse"];

/// From when to when, by its own CPU clock, a thread has seen itself on a CPU. Between two of them is what it cannot tell of, and so is
/// what it was charged as it went to sleep and woke up.
#[derive(Debug, Clone, Copy)]
struct Stay {
    cpu: u32,
    from_ns: u64,
    to_ns: u64,
    asleep_ns: u64,
}

impl Stay {
    fn begin(cpu: u32) -> Self {
        Self { cpu, from_ns: cpu_clock_ns(), to_ns: cpu_clock_ns(), asleep_ns: 0 }
    }
}

/// What a walker is told.
enum Errand {
    /// Have this CPU, however long it takes.
    Reach(u32),
    /// Use so much CPU time.
    Burn(u64),
}

/// A thread that goes where the test puts it, and keeps a diary.
struct Walker {
    tid: u32,
    errands: mpsc::Sender<Errand>,
    /// Once when it begins with an errand, once when it is done.
    word: mpsc::Receiver<()>,
    thread: JoinHandle<Vec<Stay>>,
}

impl Walker {
    /// Starts on `cpu`.
    fn start(cpu: u32) -> Self {
        let (errands, inbox) = mpsc::channel();
        let (say, word) = mpsc::channel();
        let (tell, tid) = mpsc::channel();
        let walk = move || {
            sys::set_affinity(0, &[cpu].into_iter().collect()).expect("my own mask");
            tell.send(nix::unistd::gettid().as_raw().cast_unsigned()).expect("the test waits");
            walk(&inbox, &say)
        };
        let thread = thread::Builder::new().name("walker".into()).spawn(walk).expect("a thread");
        let walker = Self { tid: tid.recv().expect("its tid"), errands, word, thread };
        walker.send(Errand::Reach(cpu));
        walker.done();
        walker.sleeps();
        walker
    }

    fn send(&self, errand: Errand) {
        self.errands.send(errand).expect("it waits");
        self.word.recv().expect("it begins");
    }

    fn done(&self) {
        self.word.recv().expect("it is done");
    }

    /// Waits until it sleeps.
    fn sleeps(&self) {
        eventually(|| {
            let stat = read(&format!("/proc/{}/stat", self.tid));
            if stat.contains(") S ") { Ok(()) } else { Err(format!("{stat} is no sleeper's")) }
        });
    }

    /// Has it on `cpu`, moved there while it sleeps: it gets there as it wakes up.
    fn move_asleep(&self, cpu: u32) {
        self.sleeps();
        sys::set_affinity(self.tid, &[cpu].into_iter().collect()).expect("it is there");
        self.send(Errand::Reach(cpu));
        self.done();
    }

    /// Has it on `cpu`, moved there while it runs.
    fn move_awake(&self, cpu: u32) {
        self.send(Errand::Reach(cpu));
        sys::set_affinity(self.tid, &[cpu].into_iter().collect()).expect("it is there");
        self.done();
    }

    fn burn(&self, ns: u64) {
        self.send(Errand::Burn(ns));
        self.done();
    }

    /// CPU time by the kernel's own count, once it sleeps.
    fn kernels_ns(&self) -> u64 {
        self.sleeps();
        let schedstat = read(&format!("/proc/{}/schedstat", self.tid));
        schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_else(|| panic!("{schedstat}"))
    }

    /// Moves by the kernel's own count; kernels before 6.15 show it with `CONFIG_SCHED_DEBUG` only, which all here have.
    fn kernels_moves(&self) -> u64 {
        migrations(format!("/proc/{}/sched", self.tid)).expect("se.nr_migrations")
    }

    fn end(self) -> Vec<Stay> {
        drop(self.errands);
        self.thread.join().expect("it does not panic")
    }
}

fn cpu_clock_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("CLOCK_THREAD_CPUTIME_ID");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// The walker's side.
fn walk(inbox: &mpsc::Receiver<Errand>, say: &mpsc::Sender<()>) -> Vec<Stay> {
    let mut diary = vec![Stay::begin(sys::cpu())];
    // Where it is, and since when: the time before the look is this CPU's only if it was there before.
    let mut look = |woken: bool| {
        let before_ns = cpu_clock_ns();
        let cpu = sys::cpu();
        match diary.last_mut() {
            Some(stay) if stay.cpu == cpu => {
                stay.asleep_ns += if woken { before_ns - stay.to_ns } else { 0 };
                stay.to_ns = before_ns;
            }
            _ => diary.push(Stay::begin(cpu)),
        }
        (cpu, before_ns)
    };
    while let Ok(errand) = inbox.recv() {
        let (mut cpu, from_ns) = look(true);
        let mut now_ns = from_ns;
        say.send(()).expect("the test waits");
        while match errand {
            Errand::Reach(wanted) => cpu != wanted,
            Errand::Burn(ns) => now_ns < from_ns + ns,
        } {
            (cpu, now_ns) = look(false);
        }
        say.send(()).expect("the test waits");
    }
    diary
}

/// A tour that goes from each of the CPUs to each other once at least; it begins on the first.
fn tour(cpus: &[u32]) -> Vec<u32> {
    let mut stops = Vec::new();
    for (index, from) in cpus.iter().enumerate() {
        stops.extend((index > 0).then_some(*from));
        stops.extend(cpus[index + 1..].iter().flat_map(|to| [*to, *from]));
    }
    stops
}

/// First and last CPU of each node; of the first node also the second, which is in the first's cluster where there are clusters.
fn stops(machine: &Machine) -> Vec<u32> {
    let mut cpus: Vec<u32> =
        machine.nodes.values().flat_map(|cpus| [cpus.first(), cpus.last()]).flatten().collect();
    cpus.extend(machine.nodes.values().next().and_then(|cpus| cpus.iter().nth(1)));
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// The figures that moves from CPU to CPU must make, by node and by how far.
fn expected(machine: &Machine, path: &[u32]) -> (BTreeMap<(u32, u32), u64>, BySpan) {
    let (mut matrix, mut spans) = (BTreeMap::new(), BySpan::default());
    for step in path.windows(2) {
        let (from, to) = (step[0], step[1]);
        let nodes = (machine.node_of(from), machine.node_of(to));
        *matrix.entry(nodes).or_default() += 1;
        // There are no hardware threads here: the smallest step is to another core.
        let cluster = machine.cluster_of(from);
        let span = if machine.socket_of(from) != machine.socket_of(to) {
            &mut spans.machine
        } else if nodes.0 != nodes.1 {
            &mut spans.socket
        } else if cluster.is_none_or(|cluster| !cluster.contains(to)) {
            &mut spans.node
        } else {
            &mut spans.cluster
        };
        *span += 1;
    }
    (matrix, spans)
}

/// Records this process.
fn record() -> Recorder {
    Recorder::start(["--pid", &std::process::id().to_string()])
}

/// Takes a walker on the tour, and compares.
fn take_on_tour(stage: &Stage, go: impl Fn(&Walker, u32)) {
    let stops = stops(&stage.machine);
    let walker = Walker::start(stops[0]);
    let recorder = record();
    let moves_before = walker.kernels_moves();
    let tour = tour(&stops);
    tour.iter().for_each(|cpu| go(&walker, *cpu));
    walker.sleeps();
    let kernels_moves = walker.kernels_moves() - moves_before;
    let figures = recorder::thread(&recorder.stop(), walker.tid).figures.clone();
    let path: Vec<u32> = walker.end().iter().map(|stay| stay.cpu).collect();
    assert_eq!(path[0], stops[0], "it began where it was told");
    assert_eq!(path[1..], tour, "the walker saw itself go where it was told");

    let moves = figures.migrations.expect("migrations are counted");
    let (matrix, spans) = expected(&stage.machine, &path);
    let counted: BTreeMap<_, _> =
        moves.matrix.iter().map(|step| ((step.from, step.to), step.count)).collect();
    assert_eq!(counted, matrix);
    assert_eq!(moves.by_span, spans);
    assert_eq!(moves.by_cause.affinity, tour.len() as u64, "{:?}", moves.by_cause);
    assert_eq!(moves.total(), tour.len() as u64, "{:?}", moves.by_cause);
    assert_eq!(kernels_moves, moves.total(), "se.nr_migrations");
    let nodes = stage.machine.nodes.len() as u64;
    assert!(moves.between_nodes() > nodes * (nodes - 1), "the tour has all pairs of nodes in it");
}

#[test]
fn moves_of_a_sleeping_thread_are_counted_exactly() {
    let Some(stage) = stage("moves-asleep", &WITH_NODES) else { return };
    take_on_tour(&stage, Walker::move_asleep);
}

#[test]
fn moves_of_a_running_thread_are_counted_exactly() {
    let Some(stage) = stage("moves-awake", &WITH_NODES) else { return };
    take_on_tour(&stage, Walker::move_awake);
}

#[test]
fn cpu_time_by_node_and_off_node_is_what_the_thread_has_used_there() {
    let Some(stage) = stage("off-node", &WITH_NODES) else { return };
    const BURN_NS: u64 = 30_000_000;
    const ROUNDS: usize = 3;
    let own_node = stage.machine.node_of(stage.member_places(0).first().expect("a CPU"));
    let homes: Vec<u32> =
        stage.machine.nodes.values().filter_map(numa_agent::core::idset::CpuSet::first).collect();
    let walker = Walker::start(stage.machine.nodes[&own_node].first().expect("a CPU"));
    let before_ns = walker.kernels_ns();
    let began = Clocks::now();
    // The plan's first group is this process's.
    let recorder = Recorder::start(["--group-pid", &std::process::id().to_string()]);
    for round in 0..ROUNDS {
        for (index, cpu) in homes.iter().enumerate() {
            if (round + index) % 2 == 0 {
                walker.move_asleep(*cpu)
            } else {
                walker.move_awake(*cpu)
            }
            walker.burn(BURN_NS);
        }
    }
    let after_ns = walker.kernels_ns();
    let speed = Clocks::now().speed_since(&began);
    let recording = recorder.stop();
    let record = recorder::thread(&recording, walker.tid);
    let diary = walker.end();
    assert_eq!(record.home_nodes, [own_node]);
    let figures = &record.figures;
    assert_eq!(figures.node_ns.values().sum::<u64>(), figures.run_ns);
    let unclear_ns = unclear_ns(figures);
    let in_kernels_ns = |ns: u64| (ns as f64 * speed) as u64;
    let run_ns = in_kernels_ns(figures.run_ns);
    // To a thread that comes after idle the kernel charges the time since it looked at its clock, and an emulated CPU may stand still
    // before the switch itself: the kernel's own trace of the switches was with the agent (202.65 and 202.66 ms), against 210.5 ms here.
    let bounds = bounds(&stage.machine, &diary, before_ns, after_ns);
    let (least, most) = (bounds.values().map(|(least, _)| least).sum::<u64>(), after_ns - before_ns);
    assert!(
        run_ns + unclear_ns >= least && run_ns <= most + unclear_ns,
        "{run_ns} of {least} to {most} ns (schedstat), {unclear_ns} ns unclear, clock at {speed}; {:?}; {diary:?}",
        figures.node_ns
    );
    println!("{run_ns} of {least} to {most} ns (schedstat), clock at {speed}");
    for (node, (least, most)) in bounds {
        let ns = in_kernels_ns(figures.node_ns.get(&node).copied().unwrap_or_default());
        assert!(least >= BURN_NS, "it worked on node {node}: {diary:?}");
        assert!(
            ns + unclear_ns >= least && ns <= most + unclear_ns,
            "node {node}: {ns} of {least} to {most} ns, {unclear_ns} ns unclear"
        );
    }
    // What a node's time is, the lines above have told from the thread's own; off node is what is not at home.
    let off = figures.off_node.expect("it has a home");
    let elsewhere = |node: &u32| *node != own_node;
    assert_eq!(
        off.ns,
        figures.node_ns.iter().filter(|(node, _)| elsewhere(node)).map(|(_, ns)| ns).sum::<u64>()
    );
    let away: Vec<&Stay> = diary.iter().filter(|stay| elsewhere(&stage.machine.node_of(stay.cpu))).collect();
    assert!(off.runs >= away.len() as u64, "{off:?}: {} stays", away.len());
    assert!(off.longest_ns <= off.ns && off.first_at_ns < off.last_at_ns, "{off:?}");
}

/// The clock that everybody sees, which the agent's times are of, and the scheduler's (`sched_clock`), which the kernel's own are of.
/// At boot the kernel measures how fast the latter goes, on an emulated machine not well: 6 % off was seen.
struct Clocks {
    monotonic_ns: u64,
    scheduler_ns: u64,
}

impl Clocks {
    /// The kernel's log has the scheduler's time, in microseconds (`local_clock` in `kernel/printk/printk.c`; the format is in
    /// `Documentation/ABI/testing/dev-kmsg`).
    fn now() -> Self {
        let mut log = File::options().read(true).write(true).open("/dev/kmsg").expect("/dev/kmsg");
        log.seek(SeekFrom::End(0)).expect("the log's end");
        let monotonic_ns = now_ns();
        let mark = format!("what time is it at {monotonic_ns}");
        // Not for the console; and without the end of the line it would wait for more.
        log.write_all(format!("<7>{mark}\n").as_bytes()).expect("a line in the log");
        let mut record = [0; 8192];
        loop {
            // A record at a time.
            let length = log.read(&mut record).expect("the line");
            let text = String::from_utf8_lossy(&record[..length]);
            if text.contains(&mark) {
                let us = text.split(',').nth(2).and_then(|us| us.parse::<u64>().ok());
                return Self { monotonic_ns, scheduler_ns: us.unwrap_or_else(|| panic!("{text}")) * 1000 };
            }
        }
    }

    /// How fast the scheduler's has gone since.
    fn speed_since(&self, before: &Self) -> f64 {
        let [ours, theirs] = [|clocks: &Self| clocks.monotonic_ns, |clocks: &Self| clocks.scheduler_ns]
            .map(|clock| (clock(self) - clock(before)) as f64);
        theirs / ours
    }
}

/// How much the agent's times may differ from the kernel's own, their clocks' speeds apart. The agent's are those between switches. The
/// kernel's leave out interrupts where it accounts for them (`CONFIG_IRQ_TIME_ACCOUNTING`).
fn unclear_ns(figures: &Figures) -> u64 {
    let stolen = [figures.irq, figures.softirq].into_iter().flatten().map(|stolen| stolen.ns).sum::<u64>();
    stolen + figures.run_ns / 50
}

/// What a thread used at least, and at most, on each node: of what is between two stays it cannot tell on which of the two it was.
fn bounds(machine: &Machine, diary: &[Stay], from_ns: u64, to_ns: u64) -> BTreeMap<u32, (u64, u64)> {
    let mut bounds = BTreeMap::<u32, (u64, u64)>::new();
    for (index, stay) in diary.iter().enumerate() {
        let before = index.checked_sub(1).map_or(from_ns, |index| diary[index].to_ns).max(from_ns);
        let after = diary.get(index + 1).map_or(to_ns, |stay| stay.from_ns);
        let (least, most) = bounds.entry(machine.node_of(stay.cpu)).or_default();
        *least += stay.to_ns.saturating_sub(stay.from_ns.max(from_ns) + stay.asleep_ns);
        *most += after - before;
    }
    bounds
}
