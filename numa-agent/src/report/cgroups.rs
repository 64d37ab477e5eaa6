//! Cgroups beside the plan: a row for each.

use serde_json::{Value, json};

use super::{BindReport, escape, shown, table::Table};
use crate::core::memory::cgroup::{Fence, FenceOutcome, News};

const HEAD: [&str; 5] = ["Cgroup", "Groups", "Planned", "In force", "Result"];

/// A row for each cgroup that was looked at, for documents; `None` if none was. `escape` makes other processes' names safe.
pub fn table(report: &BindReport, escape: impl Fn(&str) -> String) -> Option<Table> {
    filled(Table::new(&HEAD), report, escape)
}

/// The same for a terminal.
pub fn terminal(report: &BindReport) -> Option<Table> {
    let head = HEAD.map(str::to_uppercase);
    filled(Table::new(&head.each_ref().map(String::as_str)), report, escape::text)
}

fn filled(mut table: Table, report: &BindReport, escape: impl Fn(&str) -> String) -> Option<Table> {
    for fence in &report.fences {
        table.row([
            escape(&fence.cgroup),
            escape(&groups(fence)),
            shown(&fence.planned),
            shown(&fence.effective),
            escape(&fence.outcome.to_string()),
        ]);
    }
    (!table.is_empty()).then_some(table)
}

fn groups(fence: &Fence) -> String {
    fence.groups.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// What is to be known of it beside the table: what could not be set, and who may undo what was.
pub fn warnings(report: &BindReport) -> Vec<String> {
    let warning = |fence: &Fence| match (&fence.outcome, fence.manager) {
        (FenceOutcome::Failed(why), _) => {
            Some(format!("cpuset.mems of {} is left alone: {why}", fence.cgroup))
        }
        (FenceOutcome::Set(_), Some(manager)) => Some(format!(
            "{manager} may rewrite cpuset.mems of {}; `numa-agent run` puts it back",
            fence.cgroup
        )),
        _ => None,
    };
    report.fences.iter().filter_map(warning).collect()
}

/// What JSON says of a cgroup.
pub fn json(fence: &Fence) -> Value {
    json!({
        "cgroup": fence.cgroup,
        "groups": fence.groups,
        "planned_mems": fence.planned,
        "effective_mems": fence.effective,
        "manager": fence.manager,
        "result": fence.outcome.to_string(),
    })
}

/// What the agent says of one, and whether it is bad.
#[must_use]
pub fn line(news: &News) -> (String, bool) {
    let News { fence, rewritten } = news;
    let (cgroup, groups) = (&fence.cgroup, groups(fence));
    match &fence.outcome {
        FenceOutcome::Failed(why) => {
            (format!("cpuset.mems of {cgroup} ({groups}) is left alone: {why}"), true)
        }
        outcome => {
            let again = match (rewritten, fence.manager) {
                (0, None) => String::new(),
                (0, Some(manager)) => format!("; {manager} may rewrite it"),
                (times, manager) => {
                    let who = manager.unwrap_or("somebody");
                    format!(", put back after {who} rewrote it, {}", super::many(*times, "time", "s"))
                }
            };
            (format!("cpuset.mems of {cgroup} is {} for {groups}: {outcome}{again}", fence.effective), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{self, sample};

    fn fence(cgroup: &str, manager: Option<&'static str>, outcome: FenceOutcome) -> Fence {
        Fence {
            cgroup: cgroup.into(),
            groups: ["socket0_group0".to_owned()].into(),
            planned: "0-1".parse().unwrap(),
            effective: "0-1".parse().unwrap(),
            manager,
            outcome,
        }
    }

    fn set() -> FenceOutcome {
        FenceOutcome::Set("0-1".parse().unwrap())
    }

    #[test]
    fn every_format_has_them_and_says_that_a_fence_is_no_interleaving() {
        let mut report = sample::a3();
        report.fences = vec![
            fence("/kubepods/x", Some("the kubelet"), set()),
            fence("/a\x1b[2J|<b>", None, FenceOutcome::Failed("it is not ours".into())),
        ];
        report.warnings = warnings(&report);
        let text = report::text::bind(&report);
        assert!(text.contains("is a fence, not interleaving") && !text.contains('\x1b'), "{text}");
        assert!(text.contains("the kubelet may rewrite cpuset.mems of /kubepods/x"), "{text}");
        assert!(text.contains("is left alone: it is not ours"), "{text}");
        let markdown = report::markdown::bind(&report);
        assert!(markdown.contains("| /kubepods/x | socket0_group0 | 0-1 | 0-1 | set |"), "{markdown}");
        assert!(report::html::bind(&report).contains("<h2>Cgroups</h2>"));
        let json = report::json::bind(&report);
        assert_eq!(
            (&json["cpusets"][0]["result"], &json["cpusets"][1]["result"]),
            (&json!("set"), &json!("failed: it is not ours"))
        );
        assert!(terminal(&sample::a3()).is_none());
    }

    #[test]
    fn the_agents_lines_name_who_rewrote_it() {
        let said = |manager, rewritten| line(&News { fence: fence("/x", manager, set()), rewritten }).0;
        assert_eq!(said(None, 0), "cpuset.mems of /x is 0-1 for socket0_group0: set");
        assert!(said(Some("systemd"), 0).ends_with("; systemd may rewrite it"));
        assert!(said(None, 2).ends_with("put back after somebody rewrote it, 2 times"));
        let (text, bad) =
            line(&News { fence: fence("/x", None, FenceOutcome::Failed("y".into())), rewritten: 0 });
        assert!(bad && text.ends_with("is left alone: y"), "{text}");
    }
}
