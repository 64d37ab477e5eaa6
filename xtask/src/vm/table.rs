//! What came out, as tables: for the terminal and for `docs/kernels.md`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Arch, Ran, console::End, kernels::Kernels, matrix::Machine, topology};
use crate::tally::Tally;

/// What the table replaces in the document.
const BEGIN: &str = "<!-- written by `cargo xtask vm test --all` -->";
const FINISH: &str = "<!-- end of what it wrote -->";

/// What has come out so far.
pub struct Report<'a> {
    machines: &'a [Machine],
    kernels: &'a Kernels,
    commit: String,
    /// Whether these are all there are: a test that is about none of them is about nothing.
    all: bool,
    ran: Vec<Ran>,
}

impl<'a> Report<'a> {
    /// Nothing yet, of these machines, with the tests of that commit; `all`: there are no other machines.
    pub fn new(machines: &'a [Machine], kernels: &'a Kernels, commit: String, all: bool) -> Self {
        Self { machines, kernels, commit, all, ran: Vec::new() }
    }

    /// One more.
    pub fn add(&mut self, one: Ran) {
        self.ran.push(one);
        self.ran.sort_by_key(|one| self.machines.iter().position(|machine| *machine == one.machine));
    }

    /// Tests that every machine there is has called another's; none before all have run.
    fn nobodys(&self) -> Vec<&str> {
        if !self.all || self.ran.len() != self.machines.len() {
            return Vec::new();
        }
        let ended = |name: &str| {
            let tests = self.ran.iter().flat_map(|one| &one.console.tests);
            tests.filter(move |test| test.name == name).all(|test| test.end == End::Elsewhere)
        };
        names(&self.ran.iter().collect::<Vec<_>>()).into_iter().filter(|name| ended(name)).collect()
    }

    /// Counts all tests; a machine that gave no verdict is one failure, and so is a test that is about no machine.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for one in &self.ran {
            let count = |end| one.console.count(end) as u64;
            tally.passed += count(End::Ok);
            tally.failed += count(End::Failed) + u64::from(one.console.fault().is_some());
            tally.skipped += count(End::Skipped);
        }
        tally.failed += self.nobodys().len() as u64;
        tally
    }

    /// Machines, and what did not pass.
    pub fn summary(&self) -> String {
        self.machines() + &remarks(&self.ran, &self.nobodys())
    }

    fn machines(&self) -> String {
        let (ran, all) = (self.ran.len(), self.machines.len());
        let early = if ran < all { ", ended early" } else { "" };
        let mut text =
            format!("{ran} of {all} machines{early}, at commit {}: {}.\n\n", self.commit, self.tally());
        text.push_str(&machines(&self.ran, self.kernels));
        text
    }

    /// Machines, then tests by shape with the kernels in the cells, and what did not pass.
    pub fn markdown(&self) -> String {
        let mut text = self.machines();
        for arch in Arch::ALL {
            let of_arch: Vec<&Ran> = self.ran.iter().filter(|one| one.machine.arch == arch).collect();
            if !of_arch.is_empty() {
                let _ = writeln!(text, "\n{arch}, tests by shape of the machine:\n");
                text.push_str(&tests(&of_arch));
            }
        }
        text.push_str(&remarks(&self.ran, &self.nobodys()));
        text
    }
}

fn machines(ran: &[Ran], kernels: &Kernels) -> String {
    let mut text = "| machine | kernel | CPUs | passed | failed | skipped | not about it | seconds |\n\
                    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for one in ran {
        let count = |end| one.console.count(end);
        let package = kernels.get(&one.machine.key()).map_or("", |kernel| kernel.package.as_str());
        let release = one.console.kernel.as_deref().unwrap_or(package);
        let _ = writeln!(
            text,
            "| {} | {release} | {} | {} | {}{} | {} | {} | {} |",
            one.machine,
            one.machine.topology.cpus(one.machine.arch),
            count(End::Ok),
            count(End::Failed),
            if one.console.fault().is_some() { " + no verdict" } else { "" },
            count(End::Skipped),
            count(End::Elsewhere),
            one.seconds,
        );
    }
    text
}

/// One row a test, one column a shape; a cell says how it ended on all kernels, or on which of them how.
fn tests(ran: &[&Ran]) -> String {
    let shapes: Vec<&str> = topology::ALL
        .iter()
        .map(|topology| topology.name)
        .filter(|name| ran.iter().any(|one| one.machine.topology.name == *name))
        .collect();
    let mut text = format!("| test | {} |\n| --- |{}\n", shapes.join(" | "), " --- |".repeat(shapes.len()));
    for name in names(ran) {
        let cells: Vec<String> = shapes.iter().map(|shape| cell(ran, name, shape)).collect();
        let _ = writeln!(text, "| `{name}` | {} |", cells.join(" | "));
    }
    text
}

/// All tests, in the order in which they ran.
fn names<'a>(ran: &[&'a Ran]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for test in ran.iter().flat_map(|one| &one.console.tests) {
        if !names.contains(&test.name.as_str()) {
            names.push(&test.name);
        }
    }
    names
}

fn cell(ran: &[&Ran], test: &str, shape: &str) -> String {
    let mut by_end: Vec<(String, Vec<&str>)> = Vec::new();
    for one in ran.iter().filter(|one| one.machine.topology.name == shape) {
        let tested = one.console.tests.iter().find(|tested| tested.name == test);
        let end = match tested {
            Some(tested) => tested.end.to_string(),
            None if one.console.done => continue,
            None => "NOT REACHED".to_owned(),
        };
        match by_end.iter_mut().find(|(known, _)| *known == end) {
            Some((_, kernels)) => kernels.push(one.machine.series.name),
            None => by_end.push((end, vec![one.machine.series.name])),
        }
    }
    match &by_end[..] {
        [(end, _)] if *end == End::Elsewhere.to_string() => end.clone(),
        all => {
            let parts: Vec<String> = all.iter().map(|(end, on)| format!("{end} {}", on.join(", "))).collect();
            parts.join("; ")
        }
    }
}

/// Everything that did not pass, by name and with its last words; of what passed, what it could not tell.
fn remarks(ran: &[Ran], nobodys: &[&str]) -> String {
    let mut text = String::new();
    for name in nobodys {
        let _ = writeln!(text, "- `{name}` is about no machine there is: FAILED");
    }
    for one in ran {
        for test in &one.console.tests {
            let said = match test.end {
                End::Failed | End::Skipped => why(&test.said),
                End::Ok => match left_out(&test.said) {
                    Some(said) => said,
                    None => continue,
                },
                End::Elsewhere => continue,
            };
            let _ = writeln!(text, "- {}: `{}` {}: {said}", one.machine, test.name, test.end);
        }
        if let Some(fault) = one.console.fault() {
            let _ = writeln!(text, "- {}: {fault}", one.machine);
        }
        for complaint in &one.console.complaints {
            let _ = writeln!(text, "- {}, the kernel: {complaint}", one.machine);
        }
    }
    if text.is_empty() { text } else { format!("\nNot passed, or not in full:\n\n{text}") }
}

/// What a test that passed says of the verifier in words: its numbers are all that is in order.
fn left_out(said: &[String]) -> Option<&str> {
    let words = said.iter().filter_map(|line| line.split_once("verifier: ").map(|(_, words)| words));
    words.map(str::trim).find(|words| !words.starts_with('{'))
}

/// The line that matters most: that it hung, what a panic says, why a test was skipped, else the last one.
fn why(said: &[String]) -> &str {
    let hang = said.iter().find(|line| line.starts_with("HANG:"));
    let after_panic =
        said.iter().position(|line| line.contains(" panicked at ")).and_then(|at| said.get(at + 1));
    let skip = said.iter().find(|line| line.contains("SKIP:"));
    let last = said.iter().rfind(|line| !line.is_empty());
    hang.or(after_panic).or(skip).or(last).map_or("", |line| line.trim())
}

/// Puts the tables into the document.
///
/// # Errors
/// If it cannot be read or written, or has no place for them.
pub fn keep(tables: &str, document: &Path) -> Result<()> {
    let name = document.display();
    let text = fs::read_to_string(document).with_context(|| name.to_string())?;
    let text =
        replaced(&text, tables).with_context(|| format!("{name} has no line {BEGIN:?} or {FINISH:?}"))?;
    fs::write(document, text).with_context(|| name.to_string())
}

fn replaced(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(FINISH)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{FINISH}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{console::Console, kernels},
        *,
    };

    fn ran(kernel: &str, shape: &str, lines: &str) -> Ran {
        let mut console = Console::default();
        lines.lines().for_each(|line| console.line(line));
        let (series, topology) = (kernels::find(kernel).unwrap(), topology::find(shape).unwrap());
        Ran { machine: Machine { arch: Arch::X86_64, series, topology }, console, seconds: 9 }
    }

    #[test]
    fn nothing_that_did_not_pass_is_hidden() {
        let ran = [
            ran(
                "5.10",
                "snc",
                "vm: up 5.10.0 snc\nvm: | no such thing\nvm: skipped guest::a 1\nvm: ok guest::b 1\nvm: verdict 1 0 1 0",
            ),
            ran(
                "6.1",
                "snc",
                "vm: up 6.1.0 snc\nvm: ok guest::a 1\nvm: | thread 'b' panicked at x.rs:1:1:\nvm: | off by one\nvm: | note\nvm: failed guest::b 1\nvm: verdict 1 1 0 0",
            ),
            ran("6.1", "one", "vm: up 6.1.0 one\nvm: elsewhere guest::a 1\nvm: begin guest::b"),
        ];
        let (machines, kernels) = (ran.each_ref().map(|one| one.machine), Kernels::new());
        let mut report = Report::new(&machines, &kernels, "abc".to_owned(), false);
        // In whatever order they are done.
        ran.into_iter().rev().for_each(|one| report.add(one));
        let (text, summary) = (report.markdown(), report.summary());
        assert!(
            summary.contains("| x86_64 5.10 snc |") && summary.contains("FAILED: off by one"),
            "{summary}"
        );
        assert!(!summary.contains("skipped 5.10; ok 6.1"), "{summary}");
        assert!(
            text.starts_with("3 of 3 machines, at commit abc: 2 passed, 2 failed, 1 skipped.\n"),
            "{text}"
        );
        assert!(text.contains("| `guest::a` | skipped 5.10; ok 6.1 | - |"), "{text}");
        assert!(text.contains("| `guest::b` | ok 5.10; FAILED 6.1 | NOT REACHED 6.1 |"), "{text}");
        assert!(text.contains("- x86_64 5.10 snc: `guest::a` skipped: no such thing"), "{text}");
        assert!(text.contains("- x86_64 6.1 snc: `guest::b` FAILED: off by one\n"), "{text}");
        assert!(text.contains("- x86_64 6.1 one: it ended without a verdict, in guest::b"), "{text}");
    }

    #[test]
    fn a_hang_is_named_and_so_is_what_a_test_left_out() {
        let lines = "vm: up 6.1.0 one\nvm: | HANG: not done after 9 s\nvm: | x\nvm: failed guest::a 1\n\
                     vm: | test b ... verifier: {\"arch\":1}\nvm: | verifier: nothing kept\nvm: ok guest::b 1\n\
                     vm: | verifier: {}\nvm: ok guest::c 1\nvm: verdict 2 1 0 0";
        let remarks = remarks(&[ran("6.1", "one", lines)], &[]);
        assert!(remarks.contains("`guest::a` FAILED: HANG: not done after 9 s\n"), "{remarks}");
        assert!(remarks.contains("`guest::b` ok: nothing kept\n") && !remarks.contains("::c"), "{remarks}");
    }

    #[test]
    fn a_test_about_no_machine_there_is_fails() {
        let ran = || {
            ["one", "snc"].map(|shape| {
                ran("6.1", shape, "vm: up 6.1.0 x\nvm: elsewhere guest::a 1\nvm: verdict 0 0 0 1")
            })
        };
        let (machines, kernels) = (ran().each_ref().map(|one| one.machine), Kernels::new());
        for (all, failed) in [(false, 0), (true, 1)] {
            let mut report = Report::new(&machines, &kernels, String::new(), all);
            let [first, second] = ran();
            report.add(first);
            assert_eq!(report.tally().failed, 0, "it may be about the second");
            assert!(report.markdown().starts_with("1 of 2 machines, ended early, "));
            report.add(second);
            assert_eq!(report.tally().failed, failed);
            assert_eq!(report.markdown().contains("`guest::a` is about no machine"), all);
        }
    }

    #[test]
    fn the_document_around_the_tables_stays() {
        let document = format!("# Kernels\n{BEGIN}\nold\n{FINISH}\nrest\n");
        let new = replaced(&document, "new").unwrap();
        assert_eq!(new, format!("# Kernels\n{BEGIN}\n\nnew\n{FINISH}\nrest\n"));
        assert_eq!(replaced(&new, "new").as_deref(), Some(new.as_str()));
        assert_eq!(replaced("nothing", "x"), None);
    }
}
