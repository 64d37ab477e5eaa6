//! What `restore` came to.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{escape, many};
use crate::core::journal::done::{Outcome, Restored, Row};

/// For a terminal: what was done, threads of a process in one line, and each thing that was left alone or failed.
#[must_use]
pub fn text(restored: &Restored) -> String {
    lines(restored, |_| true) + &summary(restored) + "\n"
}

/// Only those that were left alone or failed; empty if there are none.
#[must_use]
pub fn troubles(restored: &Restored) -> String {
    lines(restored, |outcome| matches!(outcome, Outcome::Changed | Outcome::Failed(_)))
}

/// Lines of what came to an end as `wanted`.
fn lines(restored: &Restored, wanted: fn(&Outcome) -> bool) -> String {
    let mut groups = BTreeMap::<_, (u64, &Row)>::new();
    for row in restored.rows.iter().filter(|row| wanted(&row.outcome)) {
        let key =
            (place(row), row.outcome.name(), row.before.as_str(), row.given.as_deref(), row.now.as_deref());
        groups.entry((row.class.name(), key)).or_insert((0, row)).0 += 1;
    }
    let mut out = String::new();
    for (count, row) in groups.values() {
        out += &format!("{}\n", escape::text(&line(row, *count)));
    }
    out
}

/// Where it is: threads of a process with the same fate are one.
fn place(row: &Row) -> String {
    match (&row.task, &row.path) {
        (Some((pid, _)), _) => format!("{pid:>10}"),
        (None, path) => path.clone().unwrap_or_default(),
    }
}

fn line(row: &Row, count: u64) -> String {
    let subject = match (&row.task, &row.path) {
        (Some((pid, task)), _) if count == 1 => format!("thread {} ({}) of {pid}", task.tid, row.what),
        (Some((pid, _)), _) => format!("{} of {pid} ({})", many(count, "thread", "s"), row.what),
        (None, path) => format!("{} ({})", row.what, path.as_deref().unwrap_or_default()),
    };
    let shown = |text: &str| if text.is_empty() { "(empty)".to_owned() } else { text.to_owned() };
    let (before, now) = (shown(&row.before), row.now.as_deref().map_or("?".to_owned(), shown));
    let given = row.given.as_deref().map_or("what its process was given".to_owned(), shown);
    match &row.outcome {
        Outcome::Planned => format!("{subject}: has {now}, would get {before} back"),
        Outcome::Restored if row.now.as_deref() == Some(row.before.as_str()) => {
            format!("{subject}: has {before} again")
        }
        Outcome::Restored => format!("{subject}: had {before}, the kernel grants {now} of that now"),
        Outcome::AsBefore => format!("{subject}: has {before} already"),
        Outcome::Changed => {
            format!(
                "{subject}: left alone; it was given {given}, and somebody else has made that {now} (it was {before})"
            )
        }
        Outcome::Gone => format!("{subject}: is no more"),
        Outcome::Failed(why) => format!("{subject}: could not be undone: {why}"),
    }
}

/// One line for all of it.
#[must_use]
pub fn summary(restored: &Restored) -> String {
    let mut counts = BTreeMap::<&str, u64>::new();
    for row in &restored.rows {
        *counts.entry(row.outcome.name()).or_default() += 1;
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(name, count)| match *name {
            "planned" => format!("{count} would be undone"),
            "restored" => format!("{count} undone"),
            "unchanged" => format!("{count} had what they had before"),
            "changed" => format!("{count} left alone, because others have changed them"),
            "gone" => format!("{count} gone"),
            _ => format!("{count} failed"),
        })
        .collect();
    if restored.damaged > 0 {
        parts.push(format!("{} of the journal unreadable", many(restored.damaged as u64, "line", "s")));
    }
    if restored.unknown > 0 {
        parts.push(format!("{} of another version kept", many(restored.unknown as u64, "line", "s")));
    }
    if restored.over > 0 {
        parts.push(format!(
            "{} of another boot dropped, which has undone {} itself",
            many(restored.over as u64, "change", "s"),
            if restored.over == 1 { "it" } else { "them" }
        ));
    }
    if parts.is_empty() { "nothing to undo".to_owned() } else { parts.join(", ") }
}

/// The same as JSON.
#[must_use]
pub fn json(restored: &Restored, path: &str, dry_run: bool) -> Value {
    let rows = restored.rows.iter().map(|row| {
        json!({
            "class": row.class.name(),
            "pid": row.task.map(|(pid, _)| pid),
            "tid": row.task.map(|(_, task)| task.tid),
            "start_time": row.task.map(|(_, task)| task.start_time),
            "what": row.what,
            "path": row.path,
            "before": row.before,
            "given": row.given,
            "now": row.now,
            "result": match &row.outcome {
                Outcome::Failed(why) => format!("failed: {why}"),
                other => other.name().to_owned(),
            },
        })
    });
    json!({
        "schema": 1,
        "journal": path,
        "dry_run": dry_run,
        "damaged_lines": restored.damaged,
        "unknown_lines": restored.unknown,
        "changes_of_another_boot": restored.over,
        "changes": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{journal::Class, task::TaskId};

    fn thread(tid: u32, now: &str, outcome: Outcome) -> Row {
        Row {
            class: Class::Task,
            task: Some((10, TaskId { tid, start_time: 7 })),
            what: "w\x1b[31m".into(),
            path: None,
            before: "0-7".into(),
            given: Some("2".into()),
            now: Some(now.into()),
            outcome,
        }
    }

    #[test]
    fn threads_with_the_same_fate_are_one_line_and_names_are_harmless() {
        let rows = vec![
            thread(10, "0-7", Outcome::Restored),
            thread(11, "0-7", Outcome::Restored),
            thread(12, "0-3", Outcome::Restored),
            thread(13, "5", Outcome::Changed),
            thread(14, "2", Outcome::Failed("no".into())),
        ];
        let restored = Restored { rows, damaged: 1, unknown: 0, over: 0 };
        let text = text(&restored);
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("2 threads of 10") && text.contains("has 0-7 again"), "{text}");
        assert!(text.contains("thread 12") && text.contains("grants 0-3"), "{text}");
        assert!(text.contains("thread 13") && text.contains("left alone"), "{text}");
        assert!(text.ends_with("1 left alone, because others have changed them, 1 failed, 3 undone, 1 line of the journal unreadable\n"), "{text}");
        let troubles = troubles(&restored);
        assert_eq!(troubles.lines().count(), 2, "{troubles}");
        assert!(troubles.contains("thread 13") && troubles.contains("could not be undone: no"), "{troubles}");
        assert_eq!(json(&restored, "/j", false)["changes"][4]["result"], "failed: no");
        assert_eq!(summary(&Restored::default()), "nothing to undo");
        let over = summary(&Restored { over: 3, ..Restored::default() });
        assert!(over.contains("3 changes of another boot dropped"), "{over}");
    }
}
