//! The report for a terminal: the plan in full, the threads summed up, every failure by name.

use super::{
    BindReport, Counts, Outcome, ProcessRow, ThreadRow, cgroups, escape, memory, process_role, shown,
    table::Table,
};

/// A process with more threads than this has its threads summed up.
const LISTED_THREADS: usize = 6;

/// Command lines are cut to this many characters.
const CMDLINE: usize = 60;

/// The report as plain text, without colours.
#[must_use]
pub fn bind(report: &BindReport) -> String {
    let host = &report.host;
    let mut out = format!(
        "numa-agent {} on {}, Linux {}, {}\n{}: {} of {} processes\n{}\n\n",
        escape::text(&host.version),
        escape::text(&host.hostname),
        escape::text(&host.kernel),
        escape::text(&host.time),
        report.mode(),
        report.counts(),
        report.processes.len(),
        escape::text(&report.shape())
    );
    out += &groups(report);
    for process in &report.processes {
        out.push('\n');
        out += &process_block(process);
    }
    out += &memory::text(memory::rows(report));
    if let Some(table) = cgroups::terminal(report) {
        out += &format!(
            "\ncgroups (which nodes cpuset.mems allows is a fence, not interleaving):\n{}",
            table.aligned("  ")
        );
    }
    if !report.warnings.is_empty() {
        out += "\nwarnings:\n";
        for warning in &report.warnings {
            out += &format!("  - {}\n", escape::text(warning));
        }
    }
    out
}

fn groups(report: &BindReport) -> String {
    let mut table = Table::new(&["GROUP", "CPUS", "FORWARD", "MEMORY (PLANNED)", "UNIT", "INSTANCES"]);
    for group in &report.plan.groups {
        let tenants: Vec<String> = report.tenants(group).keys().map(|name| escape::text(name)).collect();
        table.row([
            group.name.clone(),
            shown(&group.primary_cpus),
            shown(&group.forward_cpus),
            format!("{} {}", super::memory_policy(group), shown(&group.mem_nodes)),
            super::unit(group).into(),
            tenants.join(", "),
        ]);
    }
    let others = &report.plan.others;
    let background: Vec<String> = report.background().keys().map(|name| escape::text(name)).collect();
    table.row([
        "others".into(),
        shown(&others.cpus),
        String::new(),
        String::new(),
        String::new(),
        background.join(", "),
    ]);
    table.aligned("")
}

fn process_block(process: &ProcessRow) -> String {
    let mut counts = Counts::default();
    process.threads.iter().for_each(|thread| counts.add(&thread.outcome));
    let place = match (&process.group, process.instance_name()) {
        (Some(group), Some(instance)) => format!("{} ({})", escape::text(group), escape::text(&instance)),
        (Some(group), None) => escape::text(group),
        (None, _) => "others".to_owned(),
    };
    let out = format!(
        "{} {} [{}] in {place}: {counts}\n  {}\n",
        process.id.tid,
        escape::text(&process.comm),
        process_role(process.role),
        escape::shortened(&escape::text(&process.cmdline), CMDLINE),
    );
    let mut table = Table::new(&["THREADS", "ROLE", "NAME", "PLANNED", "ACTUAL", "RESULT"]);
    let listed = process.threads.len() <= LISTED_THREADS;
    // Alike threads next to each other share a line, but a failure has its own.
    let alike = |a: &ThreadRow, b: &ThreadRow| {
        let failed = matches!(a.outcome, Outcome::Failed(_));
        let same = (a.role, &a.planned_cpus, &a.actual_cpus) == (b.role, &b.planned_cpus, &b.actual_cpus);
        !listed && !failed && same && a.outcome == b.outcome
    };
    for run in process.threads.chunk_by(alike) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let (threads, name) = match run.len() {
            1 => (first.id.tid.to_string(), escape::text(&first.comm)),
            count => (
                format!("{}..{} ({count})", first.id.tid, last.id.tid),
                format!("{} .. {}", escape::text(&first.comm), escape::text(&last.comm)),
            ),
        };
        table.row([
            threads,
            first.role.name().into(),
            name,
            shown(&first.planned_cpus),
            if first.actual_cpus.is_empty() { "unreadable".into() } else { first.actual_cpus.to_string() },
            escape::text(&first.outcome.to_string()),
        ]);
    }
    out + &table.aligned("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a3_says_who_sits_where_and_lists_the_failure() {
        let text = bind(&sample::a3());
        assert!(text.starts_with("numa-agent 0.1.0 on infer-07, Linux 5.10.0"), "{text}");
        assert!(text.contains("\napplied: 35 bound, 1 unchanged, 1 failed of 7 processes\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("socket0_group0 ")).expect("the group's row");
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["socket0_group0", "0-11", "40-79", "interleave", "0-1", "cluster", "session:77"]
        );
        let others = text.lines().find(|line| line.starts_with("others ")).expect("others");
        assert_eq!(others.split_whitespace().collect::<Vec<_>>(), ["others", "160-199", "Motor"]);
        let failure = text.lines().find(|line| line.contains("EPERM")).expect("the failure");
        assert!(
            failure.contains("7712") && failure.contains("forward_0") && failure.contains("0-319"),
            "{failure}"
        );
        assert!(text.contains("7713..7723 (11)"), "the eleven forward threads alike are one line: {text}");
    }

    #[test]
    fn a_dry_run_says_so_and_warnings_come_last() {
        let text = bind(&sample::two_cpus());
        assert!(text.contains("dry run: nothing was changed: 9 planned of 3 processes"), "{text}");
        let mut warned = sample::two_cpus();
        warned.warnings.push("beware".into());
        assert!(bind(&warned).ends_with("warnings:\n  - beware\n"));
    }

    #[test]
    fn hostile_names_cannot_reach_the_terminal() {
        let text = bind(&sample::hostile());
        assert!(!text.chars().any(|c| c != '\n' && escape::is_hidden(c)));
        assert!(!text.lines().any(|line| line.starts_with("# x")), "a name cannot start a line");
    }
}
