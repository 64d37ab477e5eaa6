//! A comparison of two recordings for people and programs: the verdicts with their figures first, all else behind them.

mod json;

pub use json::json;

use super::{
    NOT_MEASURED,
    units::{count, duration, or_not_measured, seconds, share},
};
use crate::{
    core::jitter::{
        compare::{Amount, Comparison, Criterion, Name, Verdict},
        distribution::Percentiles,
        rollup::{Critical, Rollup},
        tokens::{Fluctuation, Tokens},
    },
    report::{escape, many, table::Table},
};

/// What the sides are called.
const NAMES: [&str; 2] = ["base", "bound"];

/// For a terminal.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let mut out = format!("{}\n\n", headline(comparison));
    out += &sides(comparison, escape::text).aligned("");
    for unproven in unproven(comparison) {
        out += &format!("\n{}\n", escape::text(&unproven));
    }
    out += "\n";
    out += &criteria(comparison, escape::text).aligned("");
    for (title, list) in lists(comparison) {
        out += &format!("\n{title}:\n");
        out.extend(list.iter().map(|line| format!("  - {}\n", escape::text(line))));
    }
    for (title, table) in tables(comparison) {
        out += &format!("\n{title}\n{}", table.aligned(""));
    }
    out
}

/// As GitHub-flavoured Markdown.
#[must_use]
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = format!("# Jitter before and after: {}\n\n", verdict_word(comparison));
    out += &format!("{}\n\n", escape::markdown(&headline(comparison)));
    out += &sides(comparison, escape::markdown).markdown();
    for unproven in unproven(comparison) {
        out += &format!("\n**{}**\n", escape::markdown(&unproven));
    }
    out += &format!("\n## Criteria\n\n{}", criteria(comparison, escape::markdown).markdown());
    for (title, list) in lists(comparison) {
        out += &format!("\n## {}\n\n", capitalised(title));
        out.extend(list.iter().map(|line| format!("- {}\n", escape::markdown(line))));
    }
    for (title, table) in tables(comparison) {
        out += &format!("\n## {}\n\n{}", capitalised(&title), table.markdown());
    }
    out
}

/// A criterion's figures in a line: `base 1.2 ms, bound 0.4 ms, limit 1 ms`.
#[must_use]
pub fn in_a_line(comparison: &Comparison, criterion: &Criterion) -> String {
    let name = criterion.name;
    let of = |amount: Option<Amount>| amount.map_or(NOT_MEASURED.to_owned(), |amount| shown(name, amount));
    let limit = criterion
        .limit
        .map_or(String::new(), |limit| format!(", limit {}", limit_shown(comparison, name, limit)));
    format!("{}: base {}, bound {}{limit}", title(comparison, name), of(criterion.base), of(criterion.bound))
}

/// `FAIL: 1 of 5 criteria not met, 1 not measured`.
fn headline(comparison: &Comparison) -> String {
    let all = comparison.criteria.len();
    let (passed, failed) = (comparison.count(Verdict::Pass), comparison.count(Verdict::Fail));
    let mut parts =
        vec![format!("{passed} of {} met", many(all, "criteri", if all == 1 { "on" } else { "a" }))];
    if failed > 0 {
        parts.push(format!("{failed} not met"));
    }
    let so_far = if all > passed + failed {
        parts.push(format!("{} not measured", all - passed - failed));
        if failed == 0 { " as far as measured" } else { "" }
    } else {
        ""
    };
    let begin = match (comparison.passed(), comparison.forced()) {
        (true, true) => "forced: not comparable".to_owned(),
        (false, true) => "FAIL (forced: not comparable)".to_owned(),
        (_, false) => format!("{}{so_far}", verdict_word(comparison)),
    };
    format!("{begin}: {}", parts.join(", "))
}

fn verdict_word(comparison: &Comparison) -> &'static str {
    match (comparison.passed(), comparison.forced()) {
        (true, false) => "PASS",
        (true, true) => "NOT COMPARABLE",
        (false, _) => "FAIL",
    }
}

/// Criteria that were not measured, each as a sentence that cannot be overlooked.
fn unproven(comparison: &Comparison) -> Vec<String> {
    let unmeasured = comparison.criteria.iter().filter(|criterion| criterion.verdict == Verdict::NotMeasured);
    let sentence = |criterion: &Criterion| {
        let so = if criterion.required { "it was required, and fails" } else { "that is no pass" };
        format!("NOT MEASURED: {}: {}; {so}", title(comparison, criterion.name), criterion.why)
    };
    unmeasured.map(sentence).collect()
}

/// Where and when the two were recorded.
fn sides(comparison: &Comparison, escape: fn(&str) -> String) -> Table {
    let mut table = Table::new(&["", "RECORDING", "HOST", "FROM", "LENGTH", "THREADS", "TOKENS"]);
    let who = match comparison.critical {
        Critical::All => "threads".to_owned(),
        some => some.to_string(),
    };
    for (index, side) in comparison.sides.iter().enumerate() {
        let runs = &side.recording.runs;
        let listed = |field: fn(&crate::core::jitter::recording::Run) -> &str| {
            let mut all: Vec<&str> = runs.iter().map(field).collect();
            all.dedup();
            all.join(", ")
        };
        let tokens =
            side.tokens.map(|tokens| format!("{} of {}", count(tokens.gaps.count() as u64), tokens.source));
        table.row([
            NAMES[index].to_owned(),
            escape(side.file),
            escape(&listed(|run| &run.host.name)),
            escape(&listed(|run| &run.started_at)),
            seconds(runs.iter().map(|run| run.seconds).sum()),
            format!("{} {who}", count(comparison.rollups[index].threads)),
            tokens.unwrap_or_else(|| "none".to_owned()),
        ]);
    }
    table
}

fn criteria(comparison: &Comparison, escape: fn(&str) -> String) -> Table {
    let mut table = Table::new(&["CRITERION", "BASE", "BOUND", "AT MOST", "VERDICT", ""]);
    for criterion in &comparison.criteria {
        let amount = |amount: Option<Amount>| {
            amount.map_or_else(|| NOT_MEASURED.to_owned(), |amount| shown(criterion.name, amount))
        };
        let measured = criterion.verdict != Verdict::NotMeasured;
        table.row([
            title(comparison, criterion.name),
            amount(criterion.base),
            amount(criterion.bound),
            criterion.limit.map_or_else(String::new, |limit| limit_shown(comparison, criterion.name, limit)),
            if measured { word(criterion.verdict) } else { "NOT MEASURED" }.to_owned(),
            if measured { escape(&criterion.why) } else { String::new() },
        ]);
    }
    table
}

/// What speaks against the comparison, if it was made all the same; and what one should know.
fn lists<'a>(comparison: &'a Comparison) -> impl Iterator<Item = (&'static str, &'a Vec<String>)> {
    let lists = [("compared by --force, though", &comparison.reasons), ("notes", &comparison.notes)];
    lists.into_iter().filter(|(_, list)| !list.is_empty())
}

/// The figures side by side.
fn tables(comparison: &Comparison) -> Vec<(String, Table)> {
    let mut tables = vec![(format!("{} side by side", comparison.critical), figures(comparison))];
    if comparison.sides.iter().any(|side| side.tokens.is_some()) {
        tables.push(("token to token side by side".to_owned(), tokens(comparison)));
    }
    tables
}

fn figures(comparison: &Comparison) -> Table {
    type Row = (&'static str, fn(&Rollup, Option<Percentiles>) -> String);
    let rows: [Row; 15] = [
        ("threads", |rollup, _| count(rollup.threads)),
        ("CPU time", |rollup, _| duration(rollup.figures.run_ns)),
        ("off node", |rollup, _| or_not_measured(rollup.off_node_share(), share)),
        ("longest run off node", |rollup, _| {
            or_not_measured(rollup.figures.off_node, |off_node| duration(off_node.longest_ns))
        }),
        ("CPU time off plan", |rollup, _| or_not_measured(rollup.figures.off_plan_ns, duration)),
        ("run-queue waits", |rollup, _| count(rollup.figures.wait().count)),
        ("wait p50", |_, wait| wait_at(wait, |wait| wait.p50_ns)),
        ("wait p99", |_, wait| wait_at(wait, |wait| wait.p99_ns)),
        ("wait p99.9", |_, wait| wait_at(wait, |wait| wait.p999_ns)),
        ("longest wait", |_, wait| wait_at(wait, |wait| wait.max_ns)),
        ("preemptions", |rollup, _| count(rollup.figures.preempt_wait.count)),
        ("moves", |rollup, _| {
            or_not_measured(rollup.figures.migrations.as_ref(), |moves| count(moves.total()))
        }),
        ("moves between nodes", |rollup, _| {
            or_not_measured(rollup.figures.migrations.as_ref(), |moves| count(moves.between_nodes()))
        }),
        ("taken by interrupts", |rollup, _| or_not_measured(rollup.figures.irq, |irq| duration(irq.ns))),
        ("taken by softirqs", |rollup, _| or_not_measured(rollup.figures.softirq, |irq| duration(irq.ns))),
    ];
    let waits = comparison.rollups.each_ref().map(|rollup| rollup.figures.wait().percentiles());
    let mut table = Table::new(&["", "BASE", "BOUND"]).figures_from(1);
    for (what, show) in rows {
        let [base, bound] = [0, 1].map(|side| show(&comparison.rollups[side], waits[side]));
        table.row([what.to_owned(), base, bound]);
    }
    table
}

fn wait_at(wait: Option<Percentiles>, of: fn(&Percentiles) -> u64) -> String {
    wait.as_ref().map_or_else(|| "none".to_owned(), |wait| duration(of(wait)))
}

fn tokens(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["", "BASE", "BOUND"]).figures_from(1);
    let mut row = |what: String, show: &dyn Fn(&Tokens) -> Option<String>| {
        let [base, bound] = comparison
            .sides
            .map(|side| side.tokens.and_then(show).unwrap_or_else(|| NOT_MEASURED.to_owned()));
        table.row([what, base, bound]);
    };
    row("requests".into(), &|tokens| Some(count(tokens.requests as u64)));
    row("failed requests".into(), &|tokens| Some(count(tokens.failed as u64)));
    row("times between tokens".into(), &|tokens| Some(count(tokens.gaps.count() as u64)));
    for (what, percent) in [
        ("min", 0.0),
        ("p5", 5.0),
        ("p50", 50.0),
        ("p95", 95.0),
        ("p99", 99.0),
        ("p99.9", 99.9),
        ("max", 100.0),
    ] {
        row(what.into(), &|tokens| tokens.gaps.percentile_ns(percent).map(microseconds));
    }
    for definition in Fluctuation::ALL {
        let decides = if definition == comparison.limits.fluctuation { " (decides)" } else { "" };
        row(format!("fluctuation {definition}{decides}"), &|tokens| {
            definition.of(&tokens.gaps).map(microseconds)
        });
    }
    table
}

/// What a criterion is about. Not escaped, and needs none.
fn title(comparison: &Comparison, name: Name) -> String {
    let critical = comparison.critical;
    match name {
        Name::Fluctuation => format!("token-to-token fluctuation ({})", comparison.limits.fluctuation),
        Name::Wait => format!("run-queue wait p99.9 of {critical}, against base"),
        Name::WaitLimit => format!("run-queue wait p99.9 of {critical}"),
        Name::OffNode => format!("CPU time off node of {critical}"),
        Name::NodeMoves => format!("moves between nodes of {critical}, against base"),
        Name::Moves => format!("moves between CPUs of {critical}, against base"),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::NotMeasured => NOT_MEASURED,
    }
}

fn shown(name: Name, amount: Amount) -> String {
    match amount {
        Amount::Time(ns) if name == Name::Fluctuation => milliseconds(ns),
        Amount::Time(ns) => duration(ns),
        Amount::Share(value) => share(value),
        Amount::Rate(value) => rate(value),
    }
}

/// The limit of waits says what it is made of.
fn limit_shown(comparison: &Comparison, name: Name, limit: Amount) -> String {
    let shown = shown(name, limit);
    match name {
        Name::Wait => format!("{shown} (base's bucket + {})", share(comparison.limits.wait_tolerance)),
        _ => shown,
    }
}

/// `30.5 ms`, to the last nanosecond: a limit is met or not by any of them.
fn milliseconds(ns: u64) -> String {
    let digits = format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    format!("{} ms", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// `30.500 ms`, to the microsecond.
fn microseconds(ns: u64) -> String {
    format!("{:.3} ms", ns as f64 / 1e6)
}

/// `0`, `12.3/s`, `0.25/min`, `0.7/h`: of a thread, whatever is readable.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        _ if per_second >= 0.1 => format!("{per_second:.2}/s"),
        _ if per_second * 60.0 >= 0.1 => format!("{:.2}/min", per_second * 60.0),
        _ => format!("{:.2}/h", per_second * 3600.0),
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{json as as_json, *};
    use crate::core::jitter::{
        compare::{Limits, Side, compare},
        recording::Recording,
        sample, tokens,
    };

    const HOSTILE: &str = "<b>|\u{1b}[2J`x";

    fn tokens() -> Tokens {
        let lines: String = (0..1200u64)
            .scan(0u64, |at, index| {
                *at += if index % 50 == 0 { 31_500_000 } else { 30_000_000 };
                Some(format!("{at}\n"))
            })
            .collect();
        tokens::parse("x", format!("t_ns\n{lines}").as_bytes()).unwrap()
    }

    fn recordings() -> [Recording; 2] {
        let mut before = sample::recording();
        before.connections.clear();
        let mut after = before.clone();
        before.runs[0].started_at = "2025-03-01T11:00:00Z".into();
        after.threads[1].figures.irq = None;
        after.threads[1].figures.migrations.as_mut().unwrap().by_span.core = 90;
        [before, after]
    }

    fn with_all<T>(tokens: Option<&Tokens>, see: impl FnOnce(&Comparison) -> T) -> T {
        let [before, after] = recordings();
        let base = Side { file: "before.json", recording: &before, tokens };
        let bound = Side { file: HOSTILE, recording: &after, tokens };
        let mut comparison = compare(base, bound, Limits::default());
        comparison.notes.push(HOSTILE.into());
        comparison.reasons.push(HOSTILE.into());
        see(&comparison)
    }

    fn row<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        let line = text
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no {start} in\n{text}"));
        line[start.len()..].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn verdicts_come_first_with_their_figures() {
        let text = with_all(Some(&tokens()), text);
        assert!(
            text.starts_with("FAIL (forced: not comparable): 3 of 5 criteria met, 2 not met\n"),
            "{text}"
        );
        let wait = row(&text, "run-queue wait p99.9 of forward threads, against base");
        assert_eq!(wait[2], "33.8 us (base's bucket + 10.0 %)");
        let fluctuation = row(&text, "token-to-token fluctuation (p99-p50)");
        assert_eq!(fluctuation, ["1.5 ms", "1.5 ms", "1 ms", "FAIL"]);
        let moves = row(&text, "moves between CPUs of forward threads, against base");
        assert_eq!(moves, ["0", "0.75/s", "0", "FAIL"]);
        assert_eq!(row(&text, "CPU time off node of forward threads"), ["0 %", "0 %", "1.00 %", "pass"]);
        assert_eq!(row(&text, "threads "), ["2", "2"]);
        assert_eq!(row(&text, "taken by interrupts"), ["not measured", "not measured"]);
        assert_eq!(row(&text, "p99.9 "), ["31.500 ms", "31.500 ms"]);
        for definition in Fluctuation::ALL {
            row(&text, &format!("fluctuation {definition}"));
        }
        assert_eq!(row(&text, "fluctuation p99-p50 (decides)"), ["1.500 ms", "1.500 ms"]);
    }

    #[test]
    fn what_was_not_measured_is_said_loudly() {
        for say in [text, markdown] {
            let said = with_all(None, say);
            assert!(said.contains("1 not measured"), "{said}");
            assert!(said.contains("NOT MEASURED: token-to-token fluctuation"), "{said}");
        }
    }

    #[test]
    fn hostile_names_do_no_harm() {
        let (text, md) = with_all(Some(&tokens()), |comparison| (text(comparison), markdown(comparison)));
        assert!(text.contains("compared by --force, though:\n  - <b>|\\u{1b}[2J`x\n"), "{text}");
        assert!(!text.chars().chain(md.chars()).any(|c| c != '\n' && escape::is_hidden(c)));
        assert!(md.contains("&lt;b&gt;\\|") && !md.contains("<b>"), "{md}");
        let json = with_all(Some(&tokens()), as_json);
        assert!(!json.chars().any(|c| c != '\n' && escape::is_hidden(c)));
    }

    #[test]
    fn programs_get_every_figure() {
        let json: Value = serde_json::from_str(&with_all(Some(&tokens()), as_json)).unwrap();
        assert_eq!((&json["schema"], &json["verdict"]), (&json!(1), &json!("fail")));
        let fluctuation = &json["criteria"][0];
        assert_eq!(fluctuation["name"], "fluctuation");
        assert_eq!(fluctuation["verdict"], "fail");
        assert_eq!((&fluctuation["bound"], &fluctuation["limit"]), (&json!(1_500_000), &json!(1_000_000)));
        assert_eq!(json["bound"]["tokens"]["fluctuation_ns"]["max-min"], 1_500_000);
        assert_eq!(json["bound"]["critical"]["threads"], 2);
        assert_eq!(json["bound"]["critical"]["migrations"]["total"], 90);
        let json: Value = serde_json::from_str(&with_all(None, as_json)).unwrap();
        assert_eq!(
            (&json["criteria"][0]["verdict"], &json["complete"]),
            (&json!("not measured"), &json!(false))
        );
        assert_eq!((&json["criteria"][0]["bound"], &json["base"]["tokens"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn limits_are_told_to_the_nanosecond() {
        let shown = [0, 1, 1_000_000, 1_000_001, 30_500_000].map(milliseconds);
        assert_eq!(shown, ["0 ms", "0.000001 ms", "1 ms", "1.000001 ms", "30.5 ms"]);
        assert_eq!([0.0, 12.345, 0.02, 0.0001].map(rate), ["0", "12.35/s", "1.20/min", "0.36/h"]);
    }
}
