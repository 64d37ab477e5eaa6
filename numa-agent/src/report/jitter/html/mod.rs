//! The report as one self-contained page: the figures that matter, pictures, then tables. No script, nothing loaded from
//! elsewhere. Its size is bounded: of long lists, the worst are shown and the rest counted.

mod axis;
mod charts;
mod places;
mod style;

use super::{
    digest::Digest,
    tables::{self, CAUSES, Moves, SPANS, Shown, off_node, waits},
    units::{NOT_MEASURED, count, duration, seconds},
    words,
};
use crate::{
    core::jitter::{
        figures::{Migrations, Occupant},
        recording::Recording,
        tokens::{Fluctuation, Tokens},
    },
    report::{escape, escape::xml, table::Table},
};

/// Points of a line over time.
const BINS: usize = 240;
/// Rows of the table of threads, and of the other lists.
const THREADS: usize = 300;
const WORST: usize = 8;
const CONNECTIONS: usize = 12;
/// Names are cut to this many characters.
const NAME: usize = 40;

/// The report as an HTML document.
#[must_use]
pub fn html(recording: &Recording) -> String {
    let digest = Digest::new(recording);
    let hosts: Vec<String> = recording.runs.iter().map(|run| name(&run.host.name)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Jitter report: {}</title><style>{}</style></head><body>\n{}{}</body></html>\n",
        hosts.join(", "),
        style::SHEET,
        heading(&digest),
        sections(&digest),
    )
}

fn sections(digest: &Digest) -> String {
    // Without threads, pictures and tables of nothing help nobody.
    if digest.threads.is_empty() {
        return connections(digest);
    }
    let all: [fn(&Digest) -> String; 8] =
        [waiting, over_time, moving, offenders, others, connections, memory, threads];
    all.map(|section| section(digest)).concat()
}

fn heading(digest: &Digest) -> String {
    let mut out = "<h1>Jitter report</h1>".to_owned();
    for run in &digest.recording.runs {
        let facts = [
            run.host.name.clone(),
            format!("{} from {}", words::length(run), run.started_at),
            digest.subject(run),
            words::nodes(run),
            format!("Linux {}", run.host.kernel),
            format!("numa-agent {}", run.agent_version),
        ];
        let facts = facts.map(|fact| format!("<span>{}</span>", xml(&fact)));
        out += &format!("<p class=\"dim facts\">{}</p>", facts.join(" · "));
    }
    out += &format!("<p class=\"verdict\">{}</p>", xml(&words::verdict(digest)));
    out += &alarm(digest);
    out + &tiles(digest) + &format!("<p class=\"dim\">{}</p>\n", xml(digest.home()))
}

/// What was lost or is missing, where nobody can overlook it.
fn alarm(digest: &Digest) -> String {
    let list =
        |lines: Vec<String>| lines.iter().map(|line| format!("<li>{}</li>", xml(line))).collect::<String>();
    let (lost, missing) = (list(digest.lost()), list(digest.missing()));
    let detail = list(digest.lost_detail());
    let part = |title: &str, lines: &str| match lines {
        "" => String::new(),
        _ => format!("<b>{title}</b><ul>{lines}</ul>"),
    };
    if [&lost, &detail, &missing].iter().all(|list| list.is_empty()) {
        return "<p class=\"good\">✓ Nothing was lost, and nothing is missing.</p>".into();
    }
    let lost = part("⚠ Lost: the figures are too low by this", &lost);
    let detail = part("Lost of detail: the figures are whole", &detail);
    let missing = part("⚠ Not measured on this kernel", &missing);
    format!("<div class=\"alarm\">{lost}{missing}{detail}</div>")
}

fn tiles(digest: &Digest) -> String {
    let (_, part) = &digest.critical;
    let figures = &part.rollup.figures;
    let [p50, _, p99, p999, max] = waits(part.wait);
    let tile = |(what, figure, more): (&str, String, String)| {
        format!(
            "<div class=\"tile\"><span>{what}</span><b>{figure}</b><span class=\"dim\">{more}</span></div>"
        )
    };
    let off = figures.off_node.filter(|off| off.ns > 0);
    let off = off.map(|off| format!("{}, {} at a stretch", duration(off.ns), duration(off.longest_ns)));
    let unmeasured = figures.off_node.and_then(|_| words::unmeasured(digest));
    let off: Vec<String> = off.into_iter().chain(unmeasured).collect();
    let off = off.join("; ");
    let moves = figures.migrations.as_ref();
    let waited = figures.wait().count;
    let length =
        digest.recording.runs.iter().map(|run| run.seconds).filter(|s| s.is_finite()).fold(0.0, f64::max);
    let mut all = vec![
        ("CPU time off node", off_node(&part.rollup), off),
        ("Wait for a CPU, p99.9", p999, format!("p50 {p50}, p99 {p99}")),
        ("Longest wait", max, if waited > 0 { format!("of {} waits", count(waited)) } else { String::new() }),
        (
            "Moves between nodes",
            tables::node_moves(figures),
            moves.map_or(String::new(), |moves| format!("of {} between CPUs", count(moves.total()))),
        ),
    ];
    if let Some(tokens) = Tokens::tapped(digest.recording)
        && let Some(fluctuation) = Fluctuation::P99P50.of(&tokens.gaps)
    {
        let of = format!("of {} gaps between sends", count(tokens.gaps.count() as u64));
        all.push(("Token gaps, p99 - p50", duration(fluctuation), of));
    }
    all.push(("Recorded", seconds(length), words::size(digest)));
    format!("<div class=\"tiles\">{}</div>", all.into_iter().map(tile).collect::<String>())
}

fn waiting(digest: &Digest) -> String {
    section(
        "How long threads waited for a CPU",
        "from being woken or preempted to running again; each step to the right is ten times rarer",
    ) + &pair([
        card("Run-queue wait by percentile", &charts::percentiles(digest)),
        card("Run-queue wait by role", &table(&tables::roles(digest).transposed())),
    ]) + &whole("All durations by role", &table(&tables::durations(digest)))
}

fn over_time(digest: &Digest) -> String {
    let timeline = digest.timeline(BINS);
    let step = seconds(timeline.seconds / timeline.bins as f64);
    let about = format!("a point for each {step}; of several intervals in one point, the highest percentile");
    let waits = |title, of| card(title, &charts::waits(digest, &timeline, title, of));
    let mut out = section("Over time", if timeline.roles.is_empty() { "" } else { &about });
    // On one node nobody can be off it.
    if digest.several_nodes() {
        out += &pair([
            card("Share of CPU time off node", &charts::off_node(digest, &timeline)),
            card("Moves between nodes per second", &charts::moves(digest, &timeline)),
        ]);
    }
    out + &pair([
        waits("Run-queue wait, 99th percentile", |bin| bin.wait_p99_ns),
        waits("Longest run-queue wait", |bin| bin.wait_max_ns),
    ])
}

fn moving(digest: &Digest) -> String {
    let (critical, part) = &digest.critical;
    let moves = part.rollup.figures.migrations.as_ref();
    let bars = |kinds: &[Moves]| counted(moves, kinds);
    let unit = digest.matrix_of();
    section("Moves between CPUs", "of all threads; the numbers say how often, the colour repeats them")
        + &pair([
            card(&format!("From {unit} to {unit}"), &places::matrix(digest)),
            card(
                &format!("What moved {critical}, and how far"),
                &format!("{}{}", bars(&CAUSES), bars(&SPANS)),
            ),
        ])
        + &whole("CPU time by node", &places::cpu_time(digest))
}

fn offenders(digest: &Digest) -> String {
    let tables = tables::RANKS.map(|rank| {
        let table = tables::worst(digest, rank, &name, WORST);
        let body = if table.is_empty() { none() } else { self::table(&table) };
        whole(rank.0, &body)
    });
    section("Whom to look at first", "") + &tables.concat()
}

fn others(digest: &Digest) -> String {
    let (critical, part) = &digest.critical;
    let preemptors: Vec<(&Occupant, String)> = part
        .rollup
        .figures
        .preemptors
        .iter()
        .map(|who| (who, format!("{} times", count(who.count))))
        .collect();
    let intruders = digest.intruders();
    let on = |cpus: usize| format!("{cpus} CPU{}", if cpus == 1 { "" } else { "s" });
    let intruders: Vec<(&Occupant, String)> = intruders.iter().map(|(who, cpus)| (who, on(*cpus))).collect();
    let intruded = match digest.has_critical_cpus() {
        true => occupants(&intruders),
        false => dim("not measured: no CPU is for forward threads alone"),
    };
    section("Who else had the CPU", "")
        + &pair([
            card(&format!("While {critical} waited"), &occupants(&preemptors)),
            card("Intruders on CPUs of critical threads", &intruded),
        ])
        + &whole(
            "Interrupts during threads' turns, and the kernel's NUMA balancing",
            &table(&tables::kernel(digest)),
        )
}

fn connections(digest: &Digest) -> String {
    let connections = tables::connections(digest, &name, CONNECTIONS);
    if connections.table.is_empty() {
        return String::new();
    }
    let about = "gaps between a connection's sends within an answer; the most uneven first";
    section("Tapped connections", about) + &whole("Token gaps", &shown(&connections))
}

fn memory(digest: &Digest) -> String {
    section("Memory", "of each process at the end, the largest first")
        + &whole("Memory by node", &places::memory(digest))
}

fn threads(digest: &Digest) -> String {
    let threads = tables::threads(digest, &name, THREADS);
    section("Threads", "waits are run-queue waits; those that waited longest first")
        + &format!("<div class=\"threads\">{}</div>", shown(&threads))
}

/// Bars of numbers of moves.
fn counted(moves: Option<&Migrations>, kinds: &[Moves]) -> String {
    let Some(moves) = moves else { return format!("<p class=\"dim\">{NOT_MEASURED}</p>") };
    let rows = kinds.iter().map(|(what, of)| ((*what).to_owned(), of(moves), count(of(moves))));
    bars(rows.collect())
}

/// Bars of who had a CPU for how long.
fn occupants(who: &[(&Occupant, String)]) -> String {
    let left_out = who.len().saturating_sub(WORST);
    let who = who.iter().take(WORST);
    let row = |(who, about): &(&Occupant, String)| {
        (tables::occupant(who, &name), who.ns, format!("{}, {about}", duration(who.ns)))
    };
    let rows: Vec<(String, u64, String)> = who.map(row).collect();
    if rows.is_empty() { none() } else { bars(rows) + &more(left_out) }
}

/// Rows of a name (HTML), a bar and what it stands for.
fn bars(rows: Vec<(String, u64, String)>) -> String {
    let most = rows.iter().map(|(_, value, _)| *value).max().unwrap_or(0);
    let row = |(name, value, shown): &(String, u64, String)| {
        let width = if most == 0 { 0.0 } else { *value as f64 / most as f64 * 100.0 };
        let bar = if *value == 0 { String::new() } else { format!("<i style=\"width:{width:.1}%\"></i>") };
        format!("<div class=\"name\">{name}</div><div>{bar}</div><div class=\"n\">{shown}</div>")
    };
    format!("<div class=\"bars\">{}</div>", rows.iter().map(row).collect::<String>())
}

fn section(title: &str, about: &str) -> String {
    let about = if about.is_empty() { String::new() } else { format!("<p class=\"dim\">{about}</p>") };
    format!("<h2>{title}</h2>{about}\n")
}

fn pair(cards: [String; 2]) -> String {
    format!("<div class=\"pair\">{}</div>\n", cards.concat())
}

fn card(title: &str, body: &str) -> String {
    format!("<div class=\"card\"><h3>{title}</h3>{body}</div>")
}

fn whole(title: &str, body: &str) -> String {
    format!("<div class=\"card whole\"><h3>{title}</h3>{body}</div>\n")
}

fn table(table: &Table) -> String {
    if table.is_empty() { none() } else { format!("<div class=\"wide\">{}</div>", table.html()) }
}

fn shown(shown: &Shown) -> String {
    table(&shown.table) + &more(shown.left_out)
}

fn more(left_out: usize) -> String {
    match left_out {
        0 => String::new(),
        more => format!("<p class=\"dim\">{} more: the JSON report has all.</p>", count(more as u64)),
    }
}

fn none() -> String {
    dim("none")
}

fn dim(text: &str) -> String {
    format!("<p class=\"dim\">{text}</p>")
}

/// A name from elsewhere, cut and escaped.
fn name(raw: &str) -> String {
    xml(&escape::shortened(&escape::text(raw), NAME))
}
