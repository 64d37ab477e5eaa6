//! What grows with the machine and the number of threads: the plan, scans, reports, the agent's memory; and how soon a new agent binds.

use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike as _},
    },
    unistd::Pid,
};
use numa_agent::{
    core::{
        config::Overrides,
        idset::CpuSet,
        jitter::synthetic,
        plan::Plan,
        preset,
        rules::Rules,
        settings::{Layout, LayoutSettings, PolicyChoice, Settings},
    },
    host::{cpuset::Cpuset, procfs::ProcReader, scan::Scanner, sys::Host, sysfs},
};
use serde_json::{Value, json};

use super::{
    Session,
    figures::{Bound, best, median, samples},
    halves::Halves,
    load::{Load, Waiting},
    machine::Stretch,
    memory::rss_bytes,
    observer::cpu_ns,
    progress,
    report::{Section, Table},
    target::{PROGRAM, Stayer},
};
use crate::{
    agent::{self, Agent},
    cast::utf8,
    sys,
    sysfs_tree::write_sysfs,
};

/// Planning 320 CPUs for 1024 groups.
const PLAN_AT_MOST_MS: f64 = 10.0;
/// A scan takes at most so large a part of what `ps -eLo` takes.
const SCAN_AT_MOST: f64 = 1.0 / 3.0;
/// A scan of one thread: 100 000 of them in a second.
const SCAN_AT_MOST_US: f64 = 10.0;
/// From the agent's start to the first mask that it sets.
const FIRST_BIND_AT_MOST_MS: f64 = 150.0;
/// The agent with nothing to manage.
const IDLE_AT_MOST_MB: f64 = 20.0;
/// Each managed thread.
const THREAD_AT_MOST_BYTES: f64 = 1000.0;

/// Threads that the scans are to find.
const MANY: [u32; 2] = [10_000, 100_000];
/// Threads of a process: of address space each takes two mappings, of which a process may have 65 530.
const EACH: u32 = 10_000;
/// Tasks that come and go.
const TASKS: u32 = 100_000;

/// What repeated measurements of one thing gave.
struct Timed {
    what: String,
    ms: Vec<f64>,
    /// CPU time of it, of whichever process: what others take the CPU for is not in it.
    cpu_ms: Vec<f64>,
    /// Whether others disturbed it.
    noisy: Vec<bool>,
}

impl Timed {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ms: Vec::new(), cpu_ms: Vec::new(), noisy: Vec::new() }
    }

    /// Measures once.
    fn measure(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.measure_with(work, || Ok(0))
    }

    /// The same; `others_ns` tells the CPU time of whoever else belongs to it and still lives, which is not foreign.
    fn measure_with(
        &mut self,
        work: impl FnOnce() -> Result<()>,
        others_ns: impl FnOnce() -> Result<u64>,
    ) -> Result<()> {
        let (stretch, before) = (Stretch::begin()?, own_ns()?);
        let begin = Instant::now();
        work()?;
        self.ms.push(begin.elapsed().as_secs_f64() * 1e3);
        let used_ns = own_ns()?.saturating_sub(before) + others_ns()?;
        self.cpu_ms.push(used_ns as f64 / 1e6);
        self.noisy.push(!stretch.end(used_ns)?.is_quiet());
        Ok(())
    }

    fn best(&self) -> f64 {
        best(&self.ms).unwrap_or(f64::NAN)
    }

    /// Of the quiet ones, if there are any.
    fn median(&self) -> f64 {
        let kept = self.ms.iter().zip(&self.noisy).filter(|(_, noisy)| self.is_noisy() || !**noisy);
        median(&kept.map(|(ms, _)| *ms).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }

    /// Whether none was quiet.
    fn is_noisy(&self) -> bool {
        self.noisy.iter().all(|noisy| *noisy)
    }

    /// A bound for it.
    fn bound(&self, what: &str, measured: f64, at_most: f64, unit: &'static str) -> Bound {
        Bound { what: format!("{}, {what}", self.what), measured, at_most, unit, noisy: self.is_noisy() }
    }

    fn row(&self) -> Vec<String> {
        let samples = samples(self.ms.len(), self.noisy.iter().filter(|noisy| **noisy).count());
        let cpu = best(&self.cpu_ms).unwrap_or(f64::NAN);
        let figures = [self.median(), self.best(), cpu].map(|ms| format!("{ms:.2}"));
        [&[self.what.clone()][..], &figures, &[samples]].concat()
    }

    fn json(&self) -> Value {
        json!({ "what": self.what, "ms": self.ms, "cpu_ms": self.cpu_ms, "noisy": self.noisy })
    }
}

/// CPU time of this process and of the commands that it has waited for. Whoever is still there costs a look, which would be in it: ten
/// thousand sleepers as much as the scan.
fn own_ns() -> Result<u64> {
    let ns = |who| -> Result<u64> {
        let usage = getrusage(who).context("getrusage")?;
        let micros = |time: TimeVal| time.num_microseconds().cast_unsigned();
        Ok((micros(usage.user_time()) + micros(usage.system_time())) * 1000)
    };
    Ok(ns(UsageWho::RUSAGE_SELF)? + ns(UsageWho::RUSAGE_CHILDREN)?)
}

/// Measures all of it.
///
/// # Errors
/// If the agent or a load does not run.
pub fn section(session: &Session) -> Result<Section> {
    let (mut timed, mut bounds, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    plan(session, &mut timed, &mut bounds)?;
    scans(session, &mut timed, &mut bounds, &mut notes)?;
    first_bind(session, &mut timed, &mut bounds)?;
    let mut rows: Vec<Vec<String>> = timed.iter().map(Timed::row).collect();
    rows.extend(notes.into_iter().map(|note| vec![note]));
    let times = Table {
        title: "scale: times".to_owned(),
        columns: vec!["what", "ms, median", "best", "CPU ms, best", "samples"],
        rows,
    };
    let (memory, sizes) = memory(session, &mut bounds)?;
    progress("");
    let data = json!({ "times": timed.iter().map(Timed::json).collect::<Vec<_>>(), "memory": sizes });
    Ok(Section { name: "scale", tables: vec![times, memory], bounds, data, ..Section::default() })
}

/// The plan for an A3 server with 1024 groups, and reading such a machine's captured tree.
fn plan(session: &Session, timed: &mut Vec<Timed>, bounds: &mut Vec<Bound>) -> Result<()> {
    const GROUPS: u32 = 1024;
    let machine = preset::a3();
    let sockets = machine.nodes.len() as u32 / 2;
    let settings = LayoutSettings {
        layout: Layout::Shared,
        groups_per_socket: Some(GROUPS / sockets),
        ..LayoutSettings::default()
    };
    let tree = session.dir.path().join("a3");
    write_sysfs(&machine, &tree)?;
    let cpus = machine.cpus.len();
    let mut alone = Timed::new(format!("plan: {cpus} CPUs, {GROUPS} groups"));
    let mut reading = Timed::new(format!("reading the captured tree of {cpus} CPUs"));
    let mut command = Timed::new("`numa-agent topology` of that tree, the whole command");
    for round in 0..session.rounds {
        progress(&format!("scale, plan, round {} of {}", round + 1, session.rounds));
        alone.measure(|| {
            let plan = Plan::new(&machine, &settings, GROUPS as usize)?;
            ensure!(plan.groups.len() == GROUPS as usize, "{} groups", plan.groups.len());
            Ok(())
        })?;
        reading.measure(|| {
            let read = sysfs::read(&tree, &Cpuset::default())?;
            ensure!(read.cpus.len() == cpus, "{} CPUs", read.cpus.len());
            Ok(())
        })?;
        command.measure(|| quietly(agent::command(["topology", "--sysfs-root"]).arg(&tree)))?;
    }
    bounds.push(alone.bound("median", alone.median(), PLAN_AT_MOST_MS, "ms"));
    timed.extend([alone, reading, command]);
    Ok(())
}

/// Runs a command whose output nobody reads.
fn quietly(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// How many threads there can be on this machine beside those that there are; three quarters, so that others can go on. And what limits it.
fn room() -> Result<(u32, &'static str)> {
    let limit = |key: &str| -> Result<u32> {
        let path = format!("/proc/sys/kernel/{key}");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        text.trim().parse().with_context(|| format!("{path}: {text}"))
    };
    let limits = [(limit("pid_max")?, "kernel.pid_max"), (limit("threads-max")?, "kernel.threads-max")];
    let (least, which) = limits.into_iter().min().context("limits")?;
    Ok((least / 4 * 3, which))
}

/// The first scan of many threads beside `ps`, and reports of them.
fn scans(
    session: &Session,
    timed: &mut Vec<Timed>,
    bounds: &mut Vec<Bound>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let (room, limit) = room()?;
    for asked in MANY.map(|asked| if session.quick { asked / 20 } else { asked }) {
        let count = asked.min(room);
        if count < asked {
            notes.push(format!("{asked} threads: not measured, {limit} leaves room for {count}"));
        }
        progress(&format!("scale, starting {count} threads"));
        let mut loads = sleepers(count)?;
        let rules = rules("bench-load threads")?;
        let scanner = Scanner {
            reader: ProcReader::new("/proc", rules.needs()),
            rules,
            managed: [].into(),
            after_loss: false,
        };
        let mut scan = Timed::new(format!("scan of {count} threads"));
        let mut ps = Timed::new(format!("`ps -eLo tid,comm,psr` of {count} threads"));
        let mut bind = Timed::new(format!("`numa-agent bind`, a dry run with a report of {count} threads"));
        for round in 0..session.rounds {
            progress(&format!("scale, {count} threads, round {} of {}", round + 1, session.rounds));
            let of_scan = |scan: &mut Timed| {
                scan.measure(|| {
                    let found = scanner.scan(&Host)?;
                    let threads: usize = found.snapshots.iter().map(|snapshot| snapshot.threads.len()).sum();
                    ensure!(threads >= count as usize, "{threads} threads of {count} were found");
                    Ok(())
                })
            };
            // In turn, so that nobody always comes first.
            if round % 2 == 0 {
                of_scan(&mut scan)?;
            }
            ps.measure(|| quietly(Command::new("ps").args(["-eLo", "tid,comm,psr"])))?;
            if round % 2 == 1 {
                of_scan(&mut scan)?;
            }
            if asked == MANY[0] || session.quick {
                let report = session.dir.path().join("report.md");
                let mut command =
                    agent::command(["bind", "--group-pattern", "bench-load threads", "--report"]);
                bind.measure(|| quietly(command.arg(report)))?;
            }
        }
        let times = scan.bound("to ps's time, best to best", scan.best() / ps.best(), SCAN_AT_MOST, "x");
        bounds.push(Bound { noisy: times.noisy || ps.is_noisy(), ..times });
        let each_us = scan.median() * 1e3 / f64::from(count);
        bounds.push(scan.bound("median, of one thread", each_us, SCAN_AT_MOST_US, "us"));
        loads.drain(..).try_for_each(Waiting::end)?;
        timed.extend([scan, ps].into_iter().chain((!bind.ms.is_empty()).then_some(bind)));
    }
    timed.push(jitter_report(session)?);
    Ok(())
}

/// Threads that sleep all the time, in processes of their own.
fn sleepers(count: u32) -> Result<Vec<Waiting>> {
    const NEVER_MS: u32 = 3_600_000;
    let of = |first: u32| {
        let count = EACH.min(count - first);
        let mut load = Waiting::start(Load::Threads { count, tick_ms: NEVER_MS })?;
        load.begin()?;
        Ok(load)
    };
    (0..count).step_by(EACH as usize).map(of).collect()
}

fn rules(pattern: &str) -> Result<Rules> {
    let flags = Overrides {
        policy: Some(PolicyChoice::Generic),
        group_patterns: vec![pattern.to_owned()],
        ..Overrides::default()
    };
    Ok(Rules::new(Settings::from_sources(None, flags)?))
}

/// The report of a recording of 10 000 threads.
fn jitter_report(session: &Session) -> Result<Timed> {
    let mut recording = synthetic::a3();
    let known = recording.threads.clone();
    let count = if session.quick { known.len() } else { MANY[0] as usize };
    let more = known.iter().cycle().zip(100_000..).map(|(thread, tid)| {
        let mut thread = thread.clone();
        thread.tid = tid;
        thread
    });
    recording.threads.extend(more.take(count.saturating_sub(known.len())));
    let path = session.dir.path().join("many.json");
    fs::write(&path, serde_json::to_string(&recording)?)?;
    let mut timed = Timed::new(format!("`numa-agent jitter report` of {count} threads, HTML"));
    for round in 0..session.rounds {
        progress(&format!("scale, report, round {} of {}", round + 1, session.rounds));
        let page = session.dir.path().join("many.html");
        timed.measure(|| quietly(agent::command(["jitter", "report"]).arg(&path).arg("-o").arg(&page)))?;
    }
    Ok(timed)
}

/// From the agent's start to the first mask that it sets, of a process that was there before.
fn first_bind(session: &Session, timed: &mut Vec<Timed>, bounds: &mut Vec<Bound>) -> Result<()> {
    let halves = Halves::of(Pid::this())?;
    let arguments = halves.arguments(&subdir(session, "first")?, &format!("^{PROGRAM} "), &json!({}))?;
    let mut first = Timed::new("from the agent's start to its first bind");
    for round in 0..session.rounds {
        progress(&format!("scale, start, round {} of {}", round + 1, session.rounds));
        let waiting = Stayer::start(&halves)?;
        // It must be in its program, or the agent has nothing to find.
        thread::sleep(Duration::from_millis(50));
        let (pid, place) = (waiting.pid(), halves.members.clone());
        let (told, bound) = mpsc::channel();
        let watch = thread::spawn(move || watch_for(pid, &place, &told));
        let running = OnceCell::new();
        let begin = Instant::now();
        let start = || {
            let _ = running.set(Agent::start(&arguments));
            Ok(())
        };
        let used_ns = || cpu_ns(running.get().context("it runs")?.pid());
        first.measure_with(start, used_ns)?;
        let at: Instant = bound.recv_timeout(Duration::from_secs(10)).context("the agent binds nobody")?;
        // Ready comes later; what counts is the bind. The CPU time is that until the agent is ready, its own.
        let used_ns = used_ns()?;
        if let (Some(ms), Some(cpu_ms)) = (first.ms.last_mut(), first.cpu_ms.last_mut()) {
            *ms = at.duration_since(begin).as_secs_f64() * 1e3;
            *cpu_ms = used_ns as f64 / 1e6;
        }
        watch.join().expect("it does not panic");
        running.into_inner().map(Agent::stop);
        waiting.end()?;
    }
    bounds.push(first.bound("median", first.median(), FIRST_BIND_AT_MOST_MS, "ms"));
    timed.push(first);
    Ok(())
}

/// Tells when a task's mask is that.
fn watch_for(pid: u32, place: &CpuSet, told: &mpsc::Sender<Instant>) {
    while let Ok(mask) = sys::affinity(pid) {
        if mask == *place {
            let _ = told.send(Instant::now());
            return;
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn subdir(session: &Session, name: &str) -> Result<PathBuf> {
    let dir: &Path = session.dir.path();
    let dir = dir.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", utf8(&dir)))?;
    Ok(dir)
}

/// The agent's resident memory: idle, with many threads, after many more that came and went.
fn memory(session: &Session, bounds: &mut Vec<Bound>) -> Result<(Table, Value)> {
    let halves = Halves::of(Pid::this())?;
    let dir = subdir(session, "memory")?;
    let arguments = halves.arguments(&dir, "bench-load (threads|births)", &json!({}))?;
    let (living, tasks) = if session.quick { (500, 500) } else { (MANY[0], TASKS) };
    progress("scale, memory");
    let agent = Agent::start(&arguments);
    let size = |what: String| -> Result<(String, f64)> {
        // What is under way takes room that it gives back.
        thread::sleep(Duration::from_secs(2));
        Ok((what, rss_bytes(agent.pid())? as f64))
    };
    let idle = size("after start, nothing to manage".to_owned())?;
    Waiting::start(Load::Births { count: tasks })?.run()?;
    let after = size(format!("after {tasks} managed threads that came and went"))?;
    let load = sleepers(living)?;
    let with = size(format!("with {living} managed threads"))?;
    load.into_iter().try_for_each(Waiting::end)?;
    let gone = size(format!("after these {living} have ended"))?;
    let left = agent.stop();
    let summary = left.events.last().context("no summary")?;
    let managed = summary["results"]["unchanged"].as_u64().unwrap_or(0)
        + summary["results"]["bound"].as_u64().unwrap_or(0);
    ensure!(managed >= u64::from(living), "the agent has managed {managed} threads only: {summary}");
    let per_thread = (with.1 - after.1) / f64::from(living);
    let sizes = [idle, after, with, gone];
    // What others do with the CPUs makes no difference to it.
    let bound = |what: String, measured, at_most, unit| Bound { what, measured, at_most, unit, noisy: false };
    for (what, bytes) in &sizes[..2] {
        bounds.push(bound(format!("agent's RSS {what}"), bytes / 1e6, IDLE_AT_MOST_MB, "MB"));
    }
    let each = format!("agent's RSS with {living} managed threads, each");
    bounds.push(bound(each, per_thread, THREAD_AT_MOST_BYTES, "bytes"));
    let mut rows: Vec<Vec<String>> =
        sizes.iter().map(|(what, bytes)| vec![what.clone(), format!("{:.1}", bytes / 1e6)]).collect();
    rows.push(vec!["a managed thread".to_owned(), format!("{:.5}", per_thread / 1e6)]);
    let table = Table {
        title: "scale: the agent's resident memory".to_owned(),
        columns: vec!["when", "RSS MB"],
        rows,
    };
    Ok((table, json!(sizes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_of_the_quiet_samples_and_its_verdict_tells_when_there_are_none() {
        let timed = |noisy: [bool; 3]| Timed {
            what: "scan".to_owned(),
            ms: vec![9.0, 1.0, 3.0],
            cpu_ms: vec![1.0; 3],
            noisy: noisy.to_vec(),
        };
        let (some, all) = (timed([true, false, false]), timed([true; 3]));
        assert_eq!((some.median(), all.median()), (2.0, 3.0));
        assert_eq!(some.row()[4], "3 (1 noisy)");
        let verdict = |timed: &Timed| timed.bound("median", timed.median(), 2.5, "ms").verdict();
        assert_eq!((verdict(&some), verdict(&all)), ("held", "MISSED (noisy)"));
    }
}
