//! The sentences: where and when, what was lost, and how the threads that matter fared. None is escaped.

use super::{
    digest::{Digest, Timeline},
    tables::{node_moves, off_node, waits},
    units::{NOT_MEASURED, count, counted, duration, or_not_measured, seconds},
};
use crate::{
    core::jitter::{
        recording::{Run, ThreadRecord},
        rollup::{Critical, Rollup},
    },
    report::many,
};

/// A run's machine: `8 nodes on 4 sockets, aarch64`.
pub(super) fn nodes(run: &Run) -> String {
    let host = &run.host;
    let (nodes, sockets) = (many(host.nodes.len(), "node", "s"), many(host.sockets.len(), "socket", "s"));
    format!("{nodes} on {sockets}, {}", host.arch)
}

/// How long it was.
pub(super) fn length(run: &Run) -> String {
    seconds(run.seconds)
}

/// What a line over time is.
pub(super) fn over_time(timeline: &Timeline) -> String {
    let one = seconds(timeline.seconds / timeline.bins as f64);
    format!("over time: {} in steps of {one}", seconds(timeline.seconds))
}

/// `672 threads of 64 processes`.
pub(super) fn size(digest: &Digest) -> String {
    let recording = digest.recording;
    let threads = recording.threads.len() as u64;
    let processes = many(recording.processes.len(), "process", "es");
    format!("{} of {processes}", counted(threads, "thread", "s"))
}

/// How the threads that matter most fared.
pub(super) fn verdict(digest: &Digest) -> String {
    let (critical, part) = &digest.critical;
    let Rollup { threads, figures, .. } = &part.rollup;
    if *threads == 0 {
        return "No thread was seen.".to_owned();
    }
    let who = match critical {
        Critical::All => counted(*threads, "thread", "s"),
        some => format!("{} {some}", count(*threads)),
    };
    if figures.run_ns == 0 && part.wait.is_none() {
        return format!("{who}: none ran.");
    }
    let off = match figures.off_node {
        None => "time off node was not measured".to_owned(),
        Some(off) if off.ns == 0 => "never off node".to_owned(),
        Some(off) => format!(
            "{} of the CPU time off node, {} at a stretch",
            off_node(&part.rollup),
            duration(off.longest_ns)
        ),
    };
    let off = match unmeasured(digest) {
        Some(unmeasured) if figures.off_node.is_some() => format!("{off} ({unmeasured})"),
        _ => off,
    };
    let [_, _, _, p999, max] = waits(part.wait);
    let waited = match part.wait {
        None => "no wait for a CPU seen".to_owned(),
        Some(_) => format!("waited for a CPU {p999} at p99.9 and {max} at most"),
    };
    let moves = or_not_measured(figures.migrations.as_ref(), |_| node_moves(figures));
    format!("{who}: {off}; {waited}; moves between nodes: {moves}.")
}

/// Of how many of the threads that matter most time off node is not known; `None` where it is of all.
pub(super) fn unmeasured(digest: &Digest) -> Option<String> {
    let (critical, _) = &digest.critical;
    let unknown = |thread: &&ThreadRecord| critical.has(thread) && thread.figures.off_node.is_none();
    let threads = digest.recording.threads.iter().filter(unknown).count() as u64;
    (threads > 0).then(|| format!("{NOT_MEASURED} of {}", counted(threads, "thread", "s")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jitter::synthetic;

    #[test]
    fn what_is_known_of_some_is_not_said_of_all() {
        let mut recording = synthetic::two_cpus();
        assert!(verdict(&Digest::new(&recording)).starts_with("5 threads: never off node; "));
        recording.threads[0].figures.off_node = None;
        let some = verdict(&Digest::new(&recording));
        assert!(some.starts_with("5 threads: never off node (not measured of 1 thread); "), "{some}");
        recording.threads.iter_mut().for_each(|thread| thread.figures.off_node = None);
        let none = verdict(&Digest::new(&recording));
        assert!(none.starts_with("5 threads: time off node was not measured; "), "{none}");
    }
}
