//! Results as tables and as JSON. Pure.

use serde_json::{Value, json};

use super::{
    figures::{self, Bound},
    machine::Facts,
};

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// What one section found.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its name, as the filter knows it.
    pub name: &'static str,
    /// The tables.
    pub tables: Vec<Table>,
    /// What was to be held.
    pub bounds: Vec<Bound>,
    /// What should have been measured and was not, and why.
    pub failures: Vec<String>,
    /// All measurements.
    pub data: Value,
}

impl Section {
    /// One that was not measured at all.
    #[must_use]
    pub fn failed(name: &'static str, error: &anyhow::Error) -> Self {
        Self { name, failures: vec![format!("{error:#}")], ..Self::default() }
    }

    /// What is not there and should be: failures, and figures that are none.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        let cells = |table: &Table| {
            let rows = table.rows.iter().filter(|row| row.iter().any(|cell| cell.contains("NaN")));
            rows.map(|row| format!("{}: {}: no figure", table.title, row[0])).collect::<Vec<_>>()
        };
        let bounds = self.bounds.iter().filter(|bound| bound.measured.is_nan() || bound.at_most.is_nan());
        let bounds = bounds.map(|bound| format!("{}: no figure", bound.what));
        let all = self.failures.iter().cloned().chain(self.tables.iter().flat_map(cells)).chain(bounds);
        all.map(|what| format!("{}: {what}", self.name)).collect()
    }
}

/// How the bench ends: 1 if something is not there that should be; otherwise by the bounds, of which small loads prove nothing.
#[must_use]
pub fn exit_code(sections: &[Section], quick: bool) -> u8 {
    if sections.iter().any(|section| !section.gaps().is_empty()) {
        return 1;
    }
    if quick { 0 } else { figures::exit_code(sections.iter().flat_map(|section| &section.bounds)) }
}

/// A table, in Markdown when printed.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Heads of the columns; the first column is text, the others are figures.
    pub columns: Vec<&'static str>,
    /// Cells. A row with fewer has its last one stand for the rest.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// In Markdown, columns aligned for reading as it is.
    #[must_use]
    pub fn markdown(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter(|row| row.len() == self.columns.len());
            let cells = cells.map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count(), 4]).max().unwrap_or(4)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cell = |(index, cell): (usize, &String)| match index {
                0 => format!(" {cell:<width$} |", width = widths[0]),
                _ => format!(" {cell:>width$} |", width = widths[index]),
            };
            format!("|{}\n", cells.iter().enumerate().map(cell).collect::<String>())
        };
        let head: Vec<String> = self.columns.iter().map(|column| (*column).to_owned()).collect();
        let rule = |(index, width): (usize, &usize)| {
            if index == 0 {
                format!(" {} |", "-".repeat(*width))
            } else {
                format!(" {}: |", "-".repeat(width - 1))
            }
        };
        let rule: String = widths.iter().enumerate().map(rule).collect();
        let rows = self.rows.iter().map(|row| {
            let mut row = row.clone();
            row.resize(self.columns.len(), String::new());
            line(&row)
        });
        format!("{}\n\n{}|{rule}\n{}", self.title, line(&head), rows.collect::<String>())
    }
}

/// All of it as text.
#[must_use]
pub fn text(facts: &Facts, rounds: usize, sections: &[Section]) -> String {
    let mut text = format!("{}\n", machine(facts, rounds));
    for section in sections {
        for table in &section.tables {
            text += &format!("\n{}", table.markdown());
        }
    }
    let bounds: Vec<&Bound> = sections.iter().flat_map(|section| &section.bounds).collect();
    if !bounds.is_empty() {
        let row = |bound: &&Bound| {
            let figure = |value: f64| format!("{value:.2} {}", bound.unit);
            let verdict = bound.verdict().to_owned();
            vec![bound.what.clone(), figure(bound.measured), figure(bound.at_most), verdict]
        };
        let table = Table {
            title: "Bounds".to_owned(),
            columns: vec!["", "measured", "at most", "verdict"],
            rows: bounds.iter().map(row).collect(),
        };
        text += &format!("\n{}", table.markdown());
    }
    let gaps: Vec<String> = sections.iter().flat_map(Section::gaps).collect();
    if !gaps.is_empty() {
        text += &format!("\nNOT MEASURED\n\n- {}\n", gaps.join("\n- "));
    }
    text
}

fn machine(facts: &Facts, rounds: usize) -> String {
    let Facts { kernel, arch, cpu, cpus, virtual_machine, date, files_in_memory } = facts;
    let place = if *virtual_machine { ", virtual machine" } else { "" };
    let files = if *files_in_memory {
        "files in memory"
    } else {
        "files on disk: the agent binds later than on hosts, where its journal is in memory"
    };
    let s = if rounds == 1 { "" } else { "s" };
    format!("{date}, Linux {kernel} {arch}, {cpus} CPUs ({cpu}{place}), {rounds} round{s}, {files}")
}

/// All of it as JSON.
#[must_use]
pub fn json(facts: &Facts, rounds: usize, sections: &[Section]) -> Value {
    let bound = |bound: &Bound| {
        let Bound { what, measured, at_most, unit, noisy } = bound;
        let holds = bound.holds();
        json!({ "what": what, "measured": measured, "at_most": at_most, "unit": unit, "holds": holds, "noisy": noisy })
    };
    let section = |section: &Section| {
        let bounds: Vec<Value> = section.bounds.iter().map(bound).collect();
        json!({ "name": section.name, "bounds": bounds, "not_measured": section.gaps(), "data": section.data })
    };
    let sections: Vec<Value> = sections.iter().map(section).collect();
    json!({ "schema": SCHEMA, "machine": facts, "rounds": rounds, "sections": sections })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_a_reason_stands_alone() {
        let table = Table {
            title: "T".to_owned(),
            columns: vec!["who", "ns"],
            rows: vec![vec!["ours".to_owned(), "12345".to_owned()], vec!["theirs: not measured".to_owned()]],
        };
        let expected =
            "T\n\n| who  |    ns |\n| ---- | ----: |\n| ours | 12345 |\n| theirs: not measured |       |\n";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn what_should_be_there_and_is_not_fails_the_bench_in_any_case() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let with = |rows: Vec<Vec<String>>, measured: f64, failures: &[&str]| Section {
            name: "storm",
            tables: vec![Table { title: "T".to_owned(), columns: vec!["who", "x"], rows }],
            bounds: vec![Bound { what: "x".to_owned(), measured, at_most: 1.0, unit: "x", noisy: false }],
            failures: row(failures),
            data: Value::Null,
        };
        let quick = |section: Section| exit_code(&[section], true);
        // Who is not installed, a dash and a missed bound are no gaps.
        let whole = with(
            vec![row(&["ours", "2.00"]), row(&["theirs: not measured: no such"]), row(&["-", "-"])],
            2.0,
            &[],
        );
        assert_eq!((quick(whole.clone()), exit_code(&[whole], false)), (0, figures::MISSED));
        assert_eq!(quick(with(vec![row(&["ours", "NaN"])], 1.0, &[])), 1);
        assert_eq!(quick(with(Vec::new(), f64::NAN, &[])), 1);
        let failed = with(Vec::new(), 1.0, &["numa-agent: it fell over"]);
        assert_eq!(failed.gaps(), ["storm: numa-agent: it fell over"]);
        assert_eq!(quick(Section::failed("scale", &anyhow::anyhow!("no"))), 1);
        assert_eq!(exit_code(&[failed], false), 1);
    }

    #[test]
    fn a_missed_bound_is_seen_in_both_formats() {
        let facts = Facts {
            kernel: "6.18".to_owned(),
            arch: "x86_64",
            cpu: "x".to_owned(),
            cpus: 2,
            virtual_machine: true,
            date: "2026-01-01".to_owned(),
            files_in_memory: false,
        };
        let bound =
            |noisy| Bound { what: "switch".to_owned(), measured: 131.0, at_most: 130.0, unit: "ns", noisy };
        let section =
            Section { name: "events", bounds: vec![bound(false), bound(true)], ..Section::default() };
        let text = text(&facts, 3, std::slice::from_ref(&section));
        for verdict in
            ["131.00 ns | 130.00 ns |         MISSED |", "131.00 ns | 130.00 ns | MISSED (noisy) |"]
        {
            assert!(text.contains(verdict), "{text}");
        }
        let json = json(&facts, 3, &[section]);
        let bounds = &json["sections"][0]["bounds"];
        assert_eq!((&bounds[0]["holds"], &bounds[0]["noisy"]), (&json!(false), &json!(false)));
        assert_eq!((&bounds[1]["holds"], &bounds[1]["noisy"]), (&json!(false), &json!(true)));
        assert_eq!(
            (&json["machine"]["kernel"], &json["machine"]["files_in_memory"]),
            (&json!("6.18"), &json!(false))
        );
        assert!(text.contains("(x, virtual machine), 3 rounds, files on disk: "), "{text}");
    }
}
