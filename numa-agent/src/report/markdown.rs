//! The evidence report: what was planned, what was done to every single thread, and what was read back.

use super::{BindReport, Outcome, cgroups, escape, gib, memory, process_role, shown, table::Table};

/// The report as GitHub-flavoured Markdown.
#[must_use]
pub fn bind(report: &BindReport) -> String {
    let host = &report.host;
    let md = escape::markdown;
    let mut facts = Table::new(&["Host", "Kernel", "Time", "numa-agent", "Mode"]);
    facts.row([
        md(&host.hostname),
        md(&host.kernel),
        md(&host.time),
        md(&host.version),
        report.mode().into(),
    ]);
    let memory = memory::table(report, md).map(|table| ("## Memory", table.markdown()));
    let cgroups = cgroups::table(report, md).map(|table| ("## Cgroups", table.markdown()));
    let sections = [
        ("# NUMA binding report", facts.markdown() + "\n" + &md(&report.shape()) + ".\n"),
        ("## Summary", summary(report)),
        ("## Topology", topology(report)),
        ("## Groups", groups(report)),
        ("## Background processes", background(report)),
        ("## Processes and threads", threads(report)),
    ];
    let sections =
        sections.into_iter().chain(memory).chain(cgroups).chain([("## Warnings", warnings(report))]);
    sections.map(|(title, body)| format!("{title}\n\n{body}")).collect::<Vec<_>>().join("\n")
}

/// What another report shows of one as evidence, by title.
pub(super) fn evidence(report: &BindReport) -> Vec<(&'static str, String)> {
    let md = escape::markdown;
    let memory = memory::table(report, md).map(|table| ("memory", table.markdown()));
    let sections = [
        ("topology", topology(report)),
        ("groups", groups(report)),
        ("background processes", background(report)),
        ("processes and threads", threads(report)),
    ];
    sections.into_iter().chain(memory).collect()
}

fn summary(report: &BindReport) -> String {
    let counts = report.counts();
    let mut table = Table::new(&["Result", "Threads"]);
    let all = [
        ("planned", counts.planned),
        ("bound", counts.bound),
        ("unchanged", counts.unchanged),
        ("spared", counts.spared),
        ("off plan", counts.off_plan),
        ("failed", counts.failed),
    ];
    let rare = ["spared", "off plan"];
    for (result, count) in all.into_iter().filter(|(result, count)| *count > 0 || !rare.contains(result)) {
        table.row([result.into(), count.to_string()]);
    }
    table.markdown()
}

fn topology(report: &BindReport) -> String {
    let mut table = Table::new(&["Socket", "Node", "CPUs", "Memory", "Distances"]);
    for node in &report.topology.nodes {
        let sockets =
            report.topology.sockets.iter().filter(|socket| socket.nodes.iter().any(|n| n.id == node.id));
        let sockets: Vec<String> = sockets.map(|socket| socket.id.to_string()).collect();
        let distances: Vec<String> = node.distances.values().map(u32::to_string).collect();
        table.row([
            if sockets.is_empty() { "none".into() } else { sockets.join(", ") },
            node.id.to_string(),
            shown(&node.cpus),
            gib(node.memory_bytes),
            distances.join(" "),
        ]);
    }
    let special = [
        ("Offline CPUs", &report.topology.offline),
        ("Isolated CPUs", &report.topology.isolated),
        (
            "CPUs that our cgroup does not allow",
            &report.topology.online().difference(&report.topology.allowed),
        ),
    ];
    let special = special.iter().filter(|(_, cpus)| !cpus.is_empty());
    special.fold(table.markdown(), |text, (what, cpus)| format!("{text}\n{what}: {cpus}\n"))
}

fn groups(report: &BindReport) -> String {
    let mut table = Table::new(&[
        "Group",
        "Socket",
        "Node",
        "CPUs",
        "Forward node",
        "Forward CPUs",
        "Memory (planned)",
        "Unit",
        "Instances",
    ]);
    for group in &report.plan.groups {
        let tenants = report.tenants(group).into_iter().map(|(name, (processes, threads))| {
            format!(
                "{} ({}, {})",
                escape::markdown(&name),
                super::many(processes, "process", "es"),
                super::many(threads, "thread", "s")
            )
        });
        table.row([
            group.name.clone(),
            group.socket.to_string(),
            group.primary_node.to_string(),
            shown(&group.primary_cpus),
            group.secondary_node.to_string(),
            shown(&group.forward_cpus),
            format!("{} {}", super::memory_policy(group), shown(&group.mem_nodes)),
            super::unit(group).into(),
            tenants.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.markdown()
}

fn background(report: &BindReport) -> String {
    let others = &report.plan.others;
    let names: Vec<String> = report
        .background()
        .into_iter()
        .map(|(name, count)| format!("{} ({count})", escape::markdown(name)))
        .collect();
    let mut table = Table::new(&["Socket", "Node", "CPUs", "Processes"]);
    table.row([
        others.socket.to_string(),
        others.node.to_string(),
        shown(&others.cpus),
        if names.is_empty() { "none found".into() } else { names.join(", ") },
    ]);
    table.markdown()
}

fn threads(report: &BindReport) -> String {
    if report.processes.is_empty() {
        return "No process matched.\n".into();
    }
    let mut processes = Table::new(&["PID", "Role", "Group", "Instance", "Name", "Command line", "Threads"]);
    let mut threads = Table::new(&["PID", "TID", "Name", "Role", "Planned CPUs", "Actual CPUs", "Result"]);
    for process in &report.processes {
        let or_dash = |text: &Option<String>| text.as_deref().map_or("-".into(), escape::markdown);
        processes.row([
            process.id.tid.to_string(),
            process_role(process.role).into(),
            or_dash(&process.group),
            or_dash(&process.instance_name()),
            escape::markdown(&process.comm),
            escape::markdown(&process.cmdline),
            process.threads.len().to_string(),
        ]);
        for thread in &process.threads {
            let result = escape::markdown(&thread.outcome.to_string());
            threads.row([
                process.id.tid.to_string(),
                thread.id.tid.to_string(),
                escape::markdown(&thread.comm),
                thread.role.name().into(),
                shown(&thread.planned_cpus),
                if thread.actual_cpus.is_empty() {
                    "unreadable".into()
                } else {
                    thread.actual_cpus.to_string()
                },
                if matches!(thread.outcome, Outcome::Failed(_) | Outcome::OffPlan) {
                    format!("**{result}**")
                } else {
                    result
                },
            ]);
        }
    }
    processes.markdown() + "\n" + &threads.markdown()
}

fn warnings(report: &BindReport) -> String {
    if report.warnings.is_empty() {
        return "None.\n".into();
    }
    report.warnings.iter().map(|warning| format!("- {}\n", escape::markdown(warning))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn has(text: &str, row: &str) {
        assert!(text.lines().any(|line| line == row), "no line {row}\n{text}");
    }

    #[test]
    fn every_thread_is_evidence() {
        let report = sample::a3();
        let text = bind(&report);
        has(
            &text,
            "| infer-07 | 5.10.0-216.0.0.115.oe2203sp4.aarch64 | 2025-03-01T12:00:00Z | 0.1.0 | applied |",
        );
        has(&text, "| bound | 35 |");
        has(&text, "| failed | 1 |");
        has(&text, "| 1 | 3 | 120-159 | 128 GiB | 20 20 12 10 20 20 20 20 |");
        has(
            &text,
            "| socket0_group0 | 0 | 0 | 0-11 | 1 | 40-79 | interleave 0-1 | cluster | session:77 (3 processes, 18 threads) |",
        );
        has(&text, "| 2 | 4 | 160-199 | Motor (1) |");
        has(
            &text,
            "| 7710 | 7712 | forward_0 | forward | 40-79 | 0-319 | **failed: EPERM (Operation not permitted)** |",
        );
        for thread in report.processes.iter().flat_map(|process| &process.threads) {
            assert!(text.contains(&format!(" | {} | ", thread.id.tid)), "thread {}", thread.id.tid);
        }
        assert!(text.ends_with("## Warnings\n\nNone.\n"), "{text}");
    }

    #[test]
    fn hostile_names_stay_in_their_cells() {
        let text = bind(&sample::hostile());
        assert!(!text.chars().any(|c| c != '\n' && escape::is_hidden(c)));
        assert!(!text.contains('<') && !text.contains("\n# x"));
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let table =
            text.lines().skip_while(|line| !line.starts_with("| PID | TID")).take_while(|l| !l.is_empty());
        assert!(table.map(cells).all(|count| count == 8));
    }

    #[test]
    fn a_plan_alone_is_a_report_too() {
        let mut report = sample::a3();
        report.processes.clear();
        assert!(bind(&report).contains("No process matched."));
    }
}
