//! The evidence report: where and when, what was lost, and the figures in tables.

use super::{
    digest::Digest,
    tables::{self, Shown},
    units::count,
    words,
};
use crate::{
    core::jitter::recording::Recording,
    report::{escape, table::Table},
};

/// Rows of the table of threads, and of the others.
const THREADS: usize = 2_000;
const ROWS: usize = 50;
const WORST: usize = 10;

/// The report as GitHub-flavoured Markdown.
#[must_use]
pub fn markdown(recording: &Recording) -> String {
    let digest = Digest::new(recording);
    let md: tables::Escape = &escape::markdown;
    let whole = |table| Shown { table, left_out: 0 };
    let (critical, part) = &digest.critical;
    let preemptors = tables::preemptors(&part.rollup.figures, md, ROWS);
    let worst = |index: usize| {
        let rank = tables::RANKS[index];
        (rank.0.to_owned(), whole(tables::worst(&digest, rank, md, WORST)))
    };
    let sections = [
        ("Run-queue wait by role".to_owned(), whole(tables::roles(&digest))),
        ("Durations".to_owned(), whole(tables::durations(&digest))),
        ("Run-queue wait by group".to_owned(), tables::groups(&digest, md, ROWS)),
        worst(0),
        worst(1),
        worst(2),
        (format!("Who had the CPU while {critical} waited"), preemptors),
        ("Who else ran on CPUs of critical threads".to_owned(), tables::intruders(&digest, md, ROWS)),
        ("Moves between CPUs".to_owned(), whole(tables::causes(&digest))),
        (format!("Moves from {0} to {0}", digest.matrix_of()), whole(tables::matrix(&digest))),
        ("Interrupts and NUMA balancing".to_owned(), whole(tables::kernel(&digest))),
        ("Gaps between sends on tapped connections".to_owned(), tables::connections(&digest, md, ROWS)),
        ("Memory by node".to_owned(), tables::memory(&digest, md, ROWS)),
        ("Threads".to_owned(), tables::threads(&digest, md, THREADS)),
    ];
    let sections = sections.iter().filter(|(_, shown)| !shown.table.is_empty());
    heading(&digest) + &sections.map(|(title, shown)| section(title, shown)).collect::<String>()
}

fn section(title: &str, shown: &Shown) -> String {
    let more = match shown.left_out {
        0 => String::new(),
        more => format!("\n{} more: the JSON report has all.\n", count(more as u64)),
    };
    format!("\n## {title}\n\n{}{more}", shown.table.markdown())
}

fn heading(digest: &Digest) -> String {
    let md = escape::markdown;
    let mut runs = Table::new(&["Host", "Kernel", "Machine", "numa-agent", "From", "Length", "What"]);
    for run in &digest.recording.runs {
        runs.row([
            md(&run.host.name),
            md(&run.host.kernel),
            md(&words::nodes(run)),
            md(&run.agent_version),
            md(&run.started_at),
            words::length(run),
            md(&digest.subject(run)),
        ]);
    }
    let mut out = format!(
        "# Jitter report\n\n{}\n**{}**\n\n{}. {}\n",
        runs.markdown(),
        words::verdict(digest),
        words::size(digest),
        digest.home()
    );
    let lost = digest.lost().into_iter().map(|line| ("Lost", line));
    let missing = digest.missing().into_iter().map(|line| ("Not measured", line));
    let detail = digest.lost_detail().into_iter().map(|line| ("Lost of detail only", line));
    for (index, (what, line)) in lost.chain(missing).chain(detail).enumerate() {
        out += if index == 0 { "\n" } else { "" };
        out += &format!("- **{what}:** {}\n", md(&line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    #[test]
    fn the_evidence_names_host_times_losses_and_every_thread() {
        let recording = synthetic::a3();
        let text = markdown(&recording);
        let has = |row: &str| assert!(text.lines().any(|line| line == row), "no line {row}\n{text}");
        has("| infer-07 | 5.10.0-216.0.0.115.oe2203sp4.aarch64 | 8 nodes on 4 sockets, aarch64 | 0.1.0 \
             | 2025-03-01T12:00:00+08:00 | 1 min | paired plan, 16 groups, bound by the recording agent |");
        has("- **Lost:** 3 sends of tapped connections");
        let listed = text.lines().skip_while(|line| *line != "## Threads").skip(4);
        assert_eq!(listed.count(), recording.threads.len());
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut recording = synthetic::two_cpus();
        let thread = recording.threads[0].clone();
        recording.threads = vec![thread; THREADS + 5];
        assert!(markdown(&recording).ends_with("\n5 more: the JSON report has all.\n"));
    }
}
