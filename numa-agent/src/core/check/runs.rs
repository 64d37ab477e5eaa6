//! Section C: the same work before and after binding, by the comparison of `core::jitter::compare`.

use std::collections::BTreeSet;

use super::{Item, Point, Verdict};
use crate::core::{
    jitter::{
        compare::{Comparison, Criterion, Name, Verdict as Compared},
        recording::{Recording, Run},
    },
    remedy::{self, Finding, plan::first},
};

/// What tells whether a recording is of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThisHost {
    /// Host name.
    pub name: String,
    /// `/etc/machine-id`; empty where there is none.
    pub machine_id: String,
    /// Kernel release.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
}

/// The criteria, in the order of their items.
const CRITERIA: [(Point, Name); 5] = [
    (Point("C3", "token-to-token fluctuation is 1 ms at most"), Name::Fluctuation),
    (Point("C4", "critical threads wait no longer for a CPU than before"), Name::Wait),
    (Point("C5", "critical threads spend no more than 1 % of their CPU time off node"), Name::OffNode),
    (Point("C6", "critical threads move between nodes no more than before"), Name::NodeMoves),
    (Point("C7", "critical threads move between CPUs no more than before"), Name::Moves),
];

const THIS: Point = Point("C1", "both recordings are of this host and kernel");
const COMPARABLE: Point = Point("C2", "the two can be compared");

/// Section C. `figures` puts a criterion's figures into words.
#[must_use]
pub fn items(comparison: &Comparison, host: &ThisHost, figures: impl Fn(&Criterion) -> String) -> Vec<Item> {
    let reasons =
        comparison.reasons.iter().map(|reason| (Verdict::Fail, remedy::runs::not_comparable(reason)));
    let comparable = COMPARABLE.judge(
        || comparison.sides.map(|side| format!("{}: {}", side.file, runs(side.recording))).join("; "),
        reasons.collect(),
    );
    let mut items = vec![of_this_host(comparison, host), comparable];
    items.extend(CRITERIA.iter().map(|(point, name)| {
        let criterion = comparison.criteria.iter().find(|criterion| criterion.name == *name);
        match criterion {
            _ if comparison.forced() => point.skipped("the two cannot be compared", first(COMPARABLE.0)),
            Some(criterion) => judged(*point, criterion, &figures(criterion)),
            None => point.skipped("it was not asked for", ""),
        }
    }));
    items
}

/// `60 s on infer-07 from 2025-03-01T12:00:00Z, Linux 5.10 (aarch64)`.
fn runs(recording: &Recording) -> String {
    let run = |run: &Run| {
        format!(
            "{:.0} s on {} from {}, Linux {} ({})",
            run.seconds, run.host.name, run.started_at, run.host.kernel, run.host.arch
        )
    };
    recording.runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

fn of_this_host(comparison: &Comparison, host: &ThisHost) -> Item {
    let mut findings = BTreeSet::new();
    for side in comparison.sides {
        let (here, elsewhere): (Vec<&Run>, Vec<&Run>) =
            side.recording.runs.iter().partition(|run| run.host.name == host.name);
        if here.is_empty() {
            let hosts: BTreeSet<&str> = elsewhere.iter().map(|run| run.host.name.as_str()).collect();
            let hosts: Vec<&str> = hosts.into_iter().collect();
            findings.insert(format!("{} is of {}, and this is {}", side.file, hosts.join(", "), host.name));
        }
        for run in here {
            let same = [
                ("machine id", &run.host.machine_id, &host.machine_id),
                ("kernel", &run.host.kernel, &host.kernel),
                ("architecture", &run.host.arch, &host.arch),
            ];
            // A host without a machine id has none in its recordings either.
            findings.extend(same.into_iter().filter(|(_, theirs, ours)| theirs != ours).map(
                |(what, theirs, ours)| {
                    format!("{}, {}: {what} {theirs}, and this host's is {ours}", side.file, run.started_at)
                },
            ));
        }
    }
    THIS.judge(
        || format!("{}, Linux {} ({}), machine id {}", host.name, host.kernel, host.arch, host.machine_id),
        findings.into_iter().map(|found| (Verdict::Fail, remedy::runs::elsewhere(found))).collect(),
    )
}

fn judged(point: Point, criterion: &Criterion, figures: &str) -> Item {
    let found =
        if criterion.why.is_empty() { figures.to_owned() } else { format!("{figures} ({})", criterion.why) };
    let Finding { found, fix, .. } =
        remedy::runs::criterion(criterion.name, criterion.verdict == Compared::NotMeasured, found);
    match criterion.verdict {
        Compared::Pass => point.pass(found),
        Compared::NotMeasured if !criterion.required => point.skipped(found, fix),
        _ => point.item(Verdict::Fail, vec![found], vec![fix]),
    }
}
