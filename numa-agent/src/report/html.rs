//! The report as one self-contained page: the picture, the plan, every thread. No script, nothing loaded from elsewhere.

use super::{
    BindReport, Counts, Outcome, ProcessRow, cgroups, escape::xml, memory, memory_policy, process_role,
    shown, svg, table::Table, unit,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--paper:#fff;--line:#d1d9e0;--head:#f6f8fa;--bad:#b3261e;--good:#1a7f37}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa4af;--paper:#0d1117;--line:#3d444d;--head:#151b23;--bad:#ff8a80;--good:#56d364}}\
body{margin:0 auto;max-width:1520px;padding:24px;background:var(--paper);color:var(--ink);font:14px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0}.dim{color:var(--dim)}\
.wide{overflow-x:auto}.wide svg{max-width:100%;height:auto;min-width:560px;display:block}\
table{border-collapse:collapse;margin:8px 0}th,td{border:1px solid var(--line);padding:4px 10px;text-align:left;vertical-align:top}\
th{background:var(--head)}td.n{text-align:right;font-variant-numeric:tabular-nums}td.cmd{overflow-wrap:anywhere;max-width:520px}\
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}.tile{border:1px solid var(--line);border-radius:8px;padding:8px 18px}\
.tile b{display:block;font-size:22px}.bad{color:var(--bad);font-weight:600}.good{color:var(--good)}\
details{border:1px solid var(--line);border-radius:8px;margin:8px 0;padding:6px 12px}summary{cursor:pointer;overflow-wrap:anywhere}\
li{overflow-wrap:anywhere}";

/// The report as an HTML document.
#[must_use]
pub fn bind(report: &BindReport) -> String {
    let host = &report.host;
    let warnings: String =
        report.warnings.iter().map(|warning| format!("<li>{}</li>", xml(warning))).collect();
    let warnings =
        if warnings.is_empty() { "<p>None.</p>".to_owned() } else { format!("<ul>{warnings}</ul>") };
    let processes: String = report.processes.iter().map(process).collect();
    let processes = if processes.is_empty() { "<p>No process matched.</p>".to_owned() } else { processes };
    let section = |title: &str, table: Option<Table>| {
        let html = |table: Table| format!("\n<h2>{title}</h2><div class=\"wide\">{}</div>", table.html());
        table.map(html).unwrap_or_default()
    };
    let memory = section("Memory", memory::table(report, xml));
    let cgroups = section("Cgroups", cgroups::table(report, xml));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>NUMA binding report: {hostname}</title><style>{STYLE}</style></head><body>\n\
         <h1>NUMA binding report</h1><p class=\"dim\">{hostname} · Linux {} · {} · numa-agent {}</p>\
         <p><b>{}</b> · {}</p>{}\n<div class=\"wide\">{}</div>\n\
         <h2>Groups</h2>{}\n<h2>Processes and threads</h2>{processes}{memory}{cgroups}\n<h2>Warnings</h2>{warnings}\n</body></html>\n",
        xml(&host.kernel),
        xml(&host.time),
        xml(&host.version),
        report.mode(),
        xml(&report.shape()),
        tiles(report),
        svg::bind(report).trim_end(),
        groups(report),
        hostname = xml(&host.hostname),
    )
}

fn tiles(report: &BindReport) -> String {
    let Counts { planned, bound, unchanged, spared, off_plan, failed } = report.counts();
    let tile = |(count, what, class): (usize, &str, &str)| {
        let class = if count == 0 { "" } else { class };
        format!("<div class=\"tile\"><b class=\"{class}\">{count}</b>{what}</div>")
    };
    let all = [
        (report.processes.len(), "processes", ""),
        (planned, "threads planned", ""),
        (bound, "bound", "good"),
        (unchanged, "unchanged", ""),
        (spared, "spared", ""),
        (off_plan, "off plan", "bad"),
        (failed, "failed", "bad"),
    ];
    let rare = |(count, what, _): &(usize, &str, &str)| *count > 0 || !["spared", "off plan"].contains(what);
    format!("<div class=\"tiles\">{}</div>", all.into_iter().filter(rare).map(tile).collect::<String>())
}

fn groups(report: &BindReport) -> String {
    let head =
        ["Group", "Node", "CPUs", "Forward node", "Forward CPUs", "Memory (planned)", "Unit", "Instances"];
    let mut rows = String::new();
    for group in &report.plan.groups {
        let tenants: Vec<String> = report.tenants(group).keys().map(|name| xml(name)).collect();
        rows += &row(&[
            xml(&group.name),
            group.primary_node.to_string(),
            shown(&group.primary_cpus),
            group.secondary_node.to_string(),
            shown(&group.forward_cpus),
            format!("{} {}", memory_policy(group), shown(&group.mem_nodes)),
            unit(group).to_owned(),
            tenants.join("<br>"),
        ]);
    }
    let others = &report.plan.others;
    let names: Vec<String> = report.background().keys().map(|name| xml(name)).collect();
    let nothing = String::new;
    rows += &row(&[
        "background".into(),
        others.node.to_string(),
        shown(&others.cpus),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        names.join("<br>"),
    ]);
    table(&head, &rows)
}

fn process(process: &ProcessRow) -> String {
    let mut counts = Counts::default();
    process.threads.iter().for_each(|thread| counts.add(&thread.outcome));
    let mut rows = String::new();
    for thread in &process.threads {
        let result = xml(&thread.outcome.to_string());
        let actual = &thread.actual_cpus;
        rows += &row(&[
            thread.id.tid.to_string(),
            xml(&thread.comm),
            thread.role.name().to_owned(),
            shown(&thread.planned_cpus),
            if actual.is_empty() { "unreadable".to_owned() } else { actual.to_string() },
            match thread.outcome {
                Outcome::Failed(_) | Outcome::OffPlan => format!("<span class=\"bad\">{result}</span>"),
                _ => result,
            },
        ]);
    }
    // A failure is not to be missed in a closed list.
    let open = if counts.failed > 0 { " open" } else { "" };
    let class = if counts.failed > 0 { "bad" } else { "dim" };
    let place: Vec<String> =
        [&process.group, &process.instance].into_iter().flatten().map(|text| xml(text)).collect();
    format!(
        "<details{open}><summary>{} <b>{}</b> · {} {} · <span class=\"{class}\">{counts}</span><br>\
         <span class=\"dim\">{}</span></summary><div class=\"wide\">{}</div></details>",
        process.id.tid,
        xml(&process.comm),
        process_role(process.role),
        place.join(" · "),
        xml(&process.cmdline),
        table(&["TID", "Name", "Role", "Planned CPUs", "Actual CPUs", "Result"], &rows)
    )
}

fn table(head: &[&str], rows: &str) -> String {
    let head: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    format!("<div class=\"wide\"><table><tr>{head}</tr>{rows}</table></div>")
}

/// A row of cells that are HTML already.
fn row(cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr>{cells}</tr>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{escape, sample};

    #[test]
    fn the_page_has_the_picture_and_every_thread() {
        let report = sample::a3();
        let page = bind(&report);
        assert_eq!(page.matches("<svg ").count(), 1);
        for thread in report.processes.iter().flat_map(|process| &process.threads) {
            assert!(page.contains(&format!("<tr><td>{}</td>", thread.id.tid)), "thread {}", thread.id.tid);
        }
        assert!(page.contains("<td>socket0_group0</td><td>0</td><td>0-11</td><td>1</td><td>40-79</td>"));
        assert!(page.contains("<span class=\"bad\">failed: EPERM (Operation not permitted)</span>"));
        assert_eq!(page.matches("<details open>").count(), 1, "the process with the failure is open");
        assert!(
            !page.contains("http") || page.matches("http").count() == page.matches("http-equiv").count() + 1
        );
    }

    #[test]
    fn hostile_names_make_no_markup() {
        let page = bind(&sample::hostile());
        assert!(!page.contains("<script") && !page.contains("</script"));
        assert!(!page.chars().any(|c| c != '\n' && escape::is_hidden(c)));
        let tags = |page: &str| page.matches('<').count();
        let tame = {
            let mut report = sample::hostile();
            let plain = |text: &mut String| *text = "x".into();
            report.processes.iter_mut().for_each(|process| {
                plain(&mut process.comm);
                plain(&mut process.cmdline);
                process.instance.iter_mut().for_each(plain);
                process.threads.iter_mut().for_each(|thread| {
                    plain(&mut thread.comm);
                    thread.outcome = Outcome::Failed("x".into());
                });
            });
            plain(&mut report.topology.source);
            plain(&mut report.host.hostname);
            report.warnings = vec!["x".into(); report.warnings.len()];
            bind(&report)
        };
        assert_eq!(tags(&page), tags(&tame), "names add no tag");
    }
}
