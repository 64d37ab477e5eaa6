//! What the agent itself takes: memory, kernel memory and CPU time, with no managed thread and with many.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::{
    Session,
    fdinfo::{self, Map},
    figures::Bound,
    load::{Load, Waiting},
    observer::cpu_ns,
    report::{Section, Table},
};
use crate::agent::Agent;

/// The agent's resident memory with nothing to manage.
const RSS_AT_MOST_MB: f64 = 20.0;
/// What each managed thread may add to it.
const THREAD_AT_MOST_MB: f64 = 0.001;
/// How many threads are managed.
const THREADS: u32 = 1000;
/// Each of them wakes up so often, in milliseconds.
const TICK_MS: u32 = 100;
/// The maps with an element for each thread.
const PER_THREAD: [&str; 4] = ["accounts", "tasks", "plan_of", "free_slots"];

/// The agent at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
struct Footprint {
    /// Managed threads.
    threads: u32,
    /// `VmRSS`.
    rss_kib: u64,
    /// `VmHWM`.
    peak_rss_kib: u64,
    /// CPU time a second, over some seconds.
    cpu_ms_per_second: f64,
}

/// Measures it.
///
/// # Errors
/// If the agent or the load does not run.
pub fn section(session: &Session) -> Result<Section> {
    let load = Load::Threads { count: THREADS, tick_ms: TICK_MS };
    let config = session.dir.path().join("managed.json");
    let report = session.dir.path().join("report.md");
    let patterns = json!({ "group_patterns": ["bench-load threads"], "report": report });
    fs::write(&config, patterns.to_string()).with_context(|| format!("cannot write {}", config.display()))?;
    let mut agent = Agent::start(["--config".as_ref(), config.as_os_str()]);
    let watch = Duration::from_secs(if session.quick { 1 } else { 10 });
    let without = footprint(agent.pid(), 0, watch)?;
    let mut threads = Waiting::start(load)?;
    threads.begin()?;
    wait_until_managed(&mut agent, threads.pid());
    let with = footprint(agent.pid(), THREADS, watch)?;
    let maps = fdinfo::maps(agent.pid())?;
    threads.end()?;
    agent.stop();

    let row = |at: &Footprint| {
        let mb = |kib: u64| format!("{:.1}", kib as f64 * 1024.0 / 1e6);
        let cpu = format!("{:.2}", at.cpu_ms_per_second);
        vec![at.threads.to_string(), mb(at.rss_kib), mb(at.peak_rss_kib), cpu]
    };
    let process = Table {
        title: format!("The agent's process; each managed thread wakes up every {TICK_MS} ms"),
        columns: vec!["managed threads", "RSS MB", "peak RSS MB", "CPU ms a second"],
        rows: vec![row(&without), row(&with)],
    };
    let bound = Bound {
        what: format!("agent's RSS with {THREADS} managed threads"),
        measured: with.rss_kib as f64 * 1024.0 / 1e6,
        at_most: RSS_AT_MOST_MB + f64::from(THREADS) * THREAD_AT_MOST_MB,
        unit: "MB",
        // What others do with the CPUs makes no difference to it.
        noisy: false,
    };
    let data = json!({ "process": [without, with], "maps": maps });
    let tables = vec![process, kernel_memory(&maps)];
    Ok(Section { name: "memory", tables, bounds: vec![bound], data, ..Section::default() })
}

/// A thread is managed once the agent has said what its mask is.
fn wait_until_managed(agent: &mut Agent, pid: u32) {
    crate::eventually(|| {
        let events = agent.events();
        let bound = events.iter().filter(|event| event["event"] == "bound" && event["pid"] == pid);
        let tids: BTreeSet<u64> = bound.filter_map(|event| event["tid"].as_u64()).collect();
        // Its first thread is one more.
        if tids.len() > THREADS as usize { Ok(()) } else { Err(format!("{} managed threads", tids.len())) }
    });
}

fn footprint(pid: u32, threads: u32, watch: Duration) -> Result<Footprint> {
    let before = cpu_ns(pid)?;
    thread::sleep(watch);
    let cpu_ms_per_second = (cpu_ns(pid)? - before) as f64 / 1e6 / watch.as_secs_f64();
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = |key| status_kib(&status, key).with_context(|| format!("no {key} in {path}"));
    Ok(Footprint { threads, rss_kib: kib("VmRSS")?, peak_rss_kib: kib("VmHWM")?, cpu_ms_per_second })
}

/// The resident memory of a process.
///
/// # Errors
/// If it is gone.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(status_kib(&status, "VmRSS").with_context(|| format!("no VmRSS in {path}"))? * 1024)
}

/// A size in `/proc/PID/status`: `VmRSS:      1234 kB`.
fn status_kib(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn kernel_memory(maps: &[Map]) -> Table {
    let each = |map: &Map| map.memlock as f64 / map.max_entries.max(1) as f64;
    let row = |map: &Map| {
        let kib = format!("{:.0}", map.memlock as f64 / 1024.0);
        vec![map.name.clone(), map.max_entries.to_string(), kib, format!("{:.0}", each(map))]
    };
    let all: u64 = maps.iter().map(|map| map.memlock).sum();
    let per_thread: f64 = maps.iter().filter(|map| PER_THREAD.contains(&map.name.as_str())).map(each).sum();
    let mut rows: Vec<Vec<String>> = maps.iter().filter(|map| map.memlock >= 16 << 10).map(row).collect();
    let dash = || "-".to_owned();
    rows.push(vec!["all maps".to_owned(), dash(), format!("{:.0}", all as f64 / 1024.0), dash()]);
    rows.push(vec![
        format!("a thread: {}", PER_THREAD.join(" + ")),
        dash(),
        dash(),
        format!("{per_thread:.0}"),
    ]);
    Table {
        title: "Kernel memory of the agent's maps (`memlock`), those of 16 KiB and more".to_owned(),
        columns: vec!["map", "room for", "KiB", "bytes each"],
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t3\n";
        assert_eq!((status_kib(status, "VmRSS"), status_kib(status, "VmHWM")), (Some(10240), Some(20480)));
        assert_eq!((status_kib(status, "Vm"), status_kib(status, "Threads")), (None, None));
    }

    #[test]
    fn a_threads_share_is_that_of_the_maps_by_thread() {
        let map = |name: &str, max_entries, memlock| Map { name: name.to_owned(), max_entries, memlock };
        let maps = [map("accounts", 100, 500_000), map("events", 4096, 65_536), map("tasks", 1000, 100_000)];
        let table = kernel_memory(&maps);
        assert_eq!(table.rows.last().unwrap()[3], "5100");
        assert_eq!(table.rows[3][2], "650");
    }
}
