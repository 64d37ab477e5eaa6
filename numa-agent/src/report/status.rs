//! What a running agent says of itself, for a terminal of 80 columns.

use std::collections::BTreeMap;

use super::{escape, table::Table, units};
use crate::core::{
    hold::Tally,
    view::{Agent, Place, Process, Status},
};

/// The most of a CPU list that is shown.
const CPUS: usize = 13;
/// The most of an instance's name, or a process's.
const NAME: usize = 18;

/// The state as plain text, without colours.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = about(&status.agent);
    out += &field("managed", &managed(status));
    let counts = &status.counts;
    let bound = match counts.results.is_empty() {
        true => "nothing to bind so far".to_owned(),
        false => listed(&counts.results),
    };
    let scans = units::many(counts.scans, "scan", "s");
    out += &field("binds", &format!("{bound}; {scans}"));
    if !counts.bound_by_cause.is_empty() {
        out += &field("bound by", &listed(&counts.bound_by_cause));
    }
    if let Some(hold) = counts.hold.as_ref().and_then(Tally::text) {
        out += &field("at exec", &escape::text(&hold));
    }
    if let Some(drift) = status.drift.text() {
        out += &field("drift", &escape::text(&drift));
    }
    out += &field("lost", &lost(status));
    let groups = groups(status);
    if !groups.is_empty() {
        out += &format!("\n{}", groups.aligned(""));
    }
    let processes = processes(status);
    if !processes.is_empty() {
        out += &format!("\n{}", processes.aligned(""));
    }
    if !status.warnings.is_empty() {
        out += "\nwarnings:\n";
        for warning in &status.warnings {
            out += &format!("  - {}\n", escape::text(warning));
        }
    }
    out
}

fn about(agent: &Agent) -> String {
    let mut out = format!(
        "numa-agent {} on {}, Linux {}\n",
        escape::text(&agent.version),
        escape::text(&agent.host),
        escape::text(&agent.kernel)
    );
    out += &field("agent", &format!("pid {}, {}, {}", agent.pid, agent.mode(), escape::text(&agent.plan())));
    let uptime = units::duration((agent.uptime * 1e9) as u64);
    out += &field("running", &format!("{uptime}, since {}", escape::text(&agent.started_at)));
    let memory = agent.rss.map_or("not known".to_owned(), |rss| format!("{:.1} MB", rss as f64 / 1e6));
    let time = agent.cpu_seconds.map_or("not known".to_owned(), |seconds| {
        let share = if agent.uptime > 0.0 { seconds / agent.uptime } else { 0.0 };
        format!("{} of CPU time ({} of a CPU)", units::duration((seconds * 1e9) as u64), units::share(share))
    });
    out += &field("costs", &format!("{memory} of memory, {time}"));
    out + &field("programs", &escape::text(&agent.programs))
}

fn field(name: &str, text: &str) -> String {
    format!("  {name:<9} {text}\n")
}

fn managed(status: &Status) -> String {
    let counts = &status.counts;
    let taken = status.groups.iter().filter(|group| group.instance.is_some()).count();
    let groups = match status.groups.len() {
        0 => String::new(),
        groups => format!("; {taken} of {groups} groups taken"),
    };
    format!(
        "{} of {}{groups}",
        units::counted(counts.threads, "thread", "s"),
        units::counted(counts.processes, "process", "es")
    )
}

fn lost(status: &Status) -> String {
    let counts = &status.counts;
    let mut lost = Vec::new();
    if !counts.lost.is_empty() {
        lost.push(format!("in the kernel: {}", listed(&counts.lost)));
    }
    if counts.unreadable > 0 {
        lost.push(format!("events that made no sense: {}", counts.unreadable));
    }
    if lost.is_empty() { "nothing".to_owned() } else { lost.join("; ") }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{} {}", units::count(*count), escape::text(name)))
        .collect();
    words.join(", ")
}

fn groups(status: &Status) -> Table {
    let mut table = Table::new(&["GROUP", "CPUS", "FORWARD", "INSTANCE", "PROCS", "THREADS"]).figures_from(4);
    let row = |table: &mut Table, name: &str, cpus: [&Place; 2], instance: &str, processes: &[Process]| {
        let threads: u64 = processes.iter().map(|process| process.threads).sum();
        let [members, forward] = cpus.map(cpus_of);
        let instance = escape::shortened(&escape::text(instance), NAME);
        let counts = [processes.len() as u64, threads].map(units::count);
        let [processes, threads] = counts;
        table.row([escape::text(name), members, forward, instance, processes, threads]);
    };
    for group in &status.groups {
        let instance = group.instance.as_deref().unwrap_or("-");
        row(&mut table, &group.name, [&group.members, &group.forward], instance, &group.processes);
    }
    if let Some(others) = &status.others {
        row(&mut table, "others", [others, &Place::default()], "-", &status.background);
    }
    table
}

fn cpus_of(place: &Place) -> String {
    match place.cpus.is_empty() {
        true => "-".to_owned(),
        false => escape::shortened(&place.cpus.to_string(), CPUS),
    }
}

fn processes(status: &Status) -> Table {
    let mut table = Table::new(&["PID", "NAME", "GROUP", "THREADS"]).figures_from(3);
    let groups = status.groups.iter().map(|group| (group.name.as_str(), &group.processes));
    let background = if status.others.is_some() { "others" } else { "-" };
    for (group, processes) in groups.chain([(background, &status.background)]) {
        for process in processes {
            table.row([
                process.pid.to_string(),
                escape::shortened(&escape::text(&process.comm), NAME),
                escape::text(group),
                units::count(process.threads),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        engine::{DriftCounts, Party},
        plan::Plan,
        preset,
        settings::LayoutSettings,
        task::ProcessRole,
        view::{Counts, Group, SCHEMA},
    };

    /// An A3, whose groups have the longest names, with two instances.
    fn a3() -> Status {
        let topology = preset::a3();
        let plan = Plan::new(&topology, &LayoutSettings::default(), 16).unwrap();
        let place = |cpus: &crate::core::idset::CpuSet| Place { cpus: cpus.clone(), nodes: Vec::new() };
        let group = |(index, group): (usize, &crate::core::plan::Group)| Group {
            name: group.name.clone(),
            socket: group.socket,
            members: place(&group.primary_cpus),
            forward: place(&group.forward_cpus),
            memory: group.memory_policy().map(|policy| policy.to_string()),
            instance: (index < 2).then(|| format!("cgroup:/kubepods.slice/pod{index}/a very long name")),
            processes: match index {
                0 => vec![process(4711, "python3", 37)],
                1 => vec![process(4_194_303, "x\x1b[2J\n\u{202e}", 1_234)],
                _ => Vec::new(),
            },
        };
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        Status {
            schema: SCHEMA,
            at: "2026-11-23T06:00:00Z".into(),
            agent: Agent {
                pid: 812,
                version: "0.1.0".into(),
                host: "infer-07".into(),
                kernel: "5.10.0-216.0.0.115.oe2203sp4.aarch64".into(),
                started_at: "2026-11-23T04:00:00Z".into(),
                uptime: 7200.0,
                enforcing: true,
                policy: Some("paired".into()),
                programs: "all 19 attached".into(),
                missing_programs: Vec::new(),
                rss: Some(34_000_000),
                cpu_seconds: Some(7.2),
            },
            sockets: Vec::new(),
            groups: plan.groups.iter().enumerate().map(group).collect(),
            others: Some(place(&plan.others.cpus)),
            background: vec![process(99, "motor", 4)],
            counts: Counts {
                processes: 3,
                threads: 1275,
                results: counts(&[("bound", 1270), ("failed", 2), ("unchanged", 3)]),
                bound_by_cause: counts(&[("fork", 900), ("exec", 370)]),
                scans: 241,
                lost: BTreeMap::new(),
                unreadable: 0,
                hold: None,
            },
            drift: DriftCounts {
                policy: "reapply".into(),
                changes: 3,
                put_back: 2,
                left: 1,
                by: vec![Party { comm: Some("omp\x1b".into()), pid: 7, changes: 3 }],
                ..DriftCounts::default()
            },
            warnings: vec!["beware\nof the dog".into()],
        }
    }

    fn process(pid: u32, comm: &str, threads: u64) -> Process {
        Process { pid, start_time: 1, comm: comm.into(), role: ProcessRole::Group, threads }
    }

    #[test]
    fn a_status_fits_eighty_columns_and_has_everything() {
        let text = text(&a3());
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 80, "{longest}:\n{text}");
        for words in [
            "pid 812, enforcing, paired plan",
            "2 h, since",
            "34.0 MB of memory, 7.20 s of CPU time (0.10 % of a CPU)",
            "1,275 threads of 3 processes; 2 of 16 groups taken",
            "1,270 bound, 2 failed, 3 unchanged; 241 scans",
            "lost      nothing",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        let row = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(
            row("socket0_group0"),
            ["socket0_group0", "0-11", "40-79", "cgroup:/kubepods.…", "1", "37"]
        );
        assert_eq!(row("socket3_group3"), ["socket3_group3", "272-279", "280-319", "-", "0", "0"]);
        assert_eq!(row("others"), ["others", "160-199", "-", "-", "1", "4"]);
        assert_eq!(row("4711"), ["4711", "python3", "socket0_group0", "37"]);
        assert!(text.contains("  drift     3 by others (reapply): 2 put back, 1 left; 3 by omp"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.ends_with("warnings:\n  - beware\\nof the dog\n"), "{text}");
    }

    #[test]
    fn hostile_names_cannot_reach_the_terminal() {
        let mut status = a3();
        status.agent.host = "h\x1b]0;x\x07".into();
        status.groups[0].instance = Some("env:X=\x1b[31m".into());
        let text = text(&status);
        assert!(!text.chars().any(|c| c != '\n' && escape::is_hidden(c)), "{text:?}");
    }

    #[test]
    fn losses_are_said_and_an_agent_without_a_plan_has_none() {
        let mut status = a3();
        status.counts.lost = BTreeMap::from([("fork".into(), 12)]);
        status.counts.unreadable = 1;
        status.counts.hold = Some(Tally { held: 3, longest_ns: 90_000, ..Tally::default() });
        let lossy = text(&status);
        assert!(lossy.contains("at exec   3 held, 90 us at the longest\n"), "{lossy}");
        assert!(lossy.contains("in the kernel: 12 fork; events that made no sense: 1"), "{lossy}");
        (status.groups, status.others, status.agent.policy) = (Vec::new(), None, None);
        let planless = text(&status);
        assert!(planless.contains("no plan") && !planless.contains("FORWARD"), "{planless}");
    }
}
