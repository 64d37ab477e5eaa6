//! The functional core stays functional: `core`, `report` and all of `view` but the terminal reach for nothing outside their parameters.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a pure module must not name: the outside world, the crates that reach it, and the rooms that may.
const FORBIDDEN: [&str; 17] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "libc",
    "nix",
    "procfs",
    "aya",
    "tokio",
    "tracing",
    "crate::host",
    "crate::agent",
    "crate::cli",
];

/// The same where no path tells.
const FORBIDDEN_WORDS: [&str; 3] = ["Instant", "SystemTime", "println!"];

/// The files of `view` that have a terminal, threads, or a clock.
const SHELL_OF_VIEW: [&str; 4] = ["terminal.rs", "session.rs", "signals.rs", "source.rs"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

/// The source without lines of comment.
fn code(source: &str) -> Vec<&str> {
    source.lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

/// Names, and marks that mean something in a `use`.
fn tokens(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = code;
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(name.max(first.len_utf8()));
        if name > 0 || "{},;*".contains(first) {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

/// The full paths that `use` brings in: `use a::{b, c::{self, d as e}}` gives `a::b`, `a::c::self` and `a::c::d`.
fn imports(code: &str) -> Vec<String> {
    let mut imports = Vec::new();
    let mut tokens = tokens(code).into_iter();
    while tokens.by_ref().any(|token| token == "use") {
        // The path so far, and at how many names each open group begins.
        let (mut path, mut groups) = (Vec::new(), vec![0]);
        while let Some(token) = tokens.next() {
            match token {
                "{" => groups.push(path.len()),
                "as" => drop(tokens.next()),
                "," | "}" | ";" => {
                    let begin = groups.last().copied().unwrap_or(0);
                    if path.len() > begin {
                        imports.push(path.join("::"));
                    }
                    if token == "}" {
                        groups.pop();
                    }
                    path.truncate(groups.last().copied().unwrap_or(0));
                }
                name => path.push(name),
            }
            if token == ";" {
                break;
            }
        }
    }
    imports
}

/// Whether an import is, lies in, or by a glob holds, what `path` names.
fn brings_in(import: &str, path: &str) -> bool {
    // However many rooms up, these three are the crate's.
    let up = import.trim_start_matches("super::");
    let import = if up == import { import.to_owned() } else { format!("crate::{up}") };
    let glob = import.strip_suffix('*').filter(|parent| !parent.is_empty() && up != "*");
    format!("{import}::").starts_with(&format!("{path}::"))
        || glob.is_some_and(|parent| format!("{path}::").starts_with(parent))
}

/// What names something forbidden: lines and imports.
fn offences(source: &str) -> Vec<String> {
    let code = code(source);
    let says = |line: &str| {
        FORBIDDEN.iter().any(|path| line.contains(&format!("{path}::")))
            || FORBIDDEN_WORDS.iter().any(|word| line.contains(word))
    };
    let lines = code.iter().filter(|line| says(line)).map(|line| (*line).to_owned());
    let imports = imports(&code.join("\n"));
    let forbidden = imports.into_iter().filter(|import| FORBIDDEN.iter().any(|path| brings_in(import, path)));
    lines.chain(forbidden).collect()
}

#[test]
fn core_report_and_view_are_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let view = root.join("view");
    let in_shell = |file: &PathBuf| SHELL_OF_VIEW.iter().any(|name| *file == view.join(name));
    let mut files: Vec<PathBuf> =
        ["core", "report", "view"].iter().flat_map(|folder| sources(&root.join(folder))).collect();
    files.retain(|file| !in_shell(file));
    assert!(files.len() > 15, "the folders moved: {files:?}");
    for file in files {
        let found = offences(&fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{} is a pure module, but says {found:#?}", file.display());
    }
}

#[test]
fn unsafe_and_libc_live_in_one_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&root).iter().filter(|file| !file.ends_with("host/sys.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = code(&text);
        let found: Vec<&&str> =
            code.iter().filter(|line| line.contains("unsafe ") || line.contains("libc::")).collect();
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
        let imports = imports(&code.join("\n"));
        assert!(!imports.iter().any(|import| brings_in(import, "libc")), "{}", file.display());
    }
}

/// The source without its inline test module.
fn without_tests(source: &str) -> &str {
    let tests = source
        .match_indices("#[cfg(test)]\nmod ")
        .find(|(at, _)| source[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{')));
    tests.map_or(source, |(at, _)| &source[..at])
}

/// Programs are started by name with a list of arguments, and only the agent itself, and the command that `jitter record` was given.
#[test]
fn no_shell_is_ever_run() {
    const STARTERS: [&str; 2] = ["cli/jitter/record.rs", "host/guard/mod.rs"];
    const SHELLS: [&str; 8] = [
        "\"sh\"",
        "\"bash\"",
        "\"dash\"",
        "/bin/sh\"",
        "/bin/bash\"",
        "\"-c\"",
        "libc::system",
        "libc::popen",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_test = |file: &PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        path.ends_with("tests.rs") || path.contains("tests/")
    };
    let mut starters = 0;
    for file in sources(&root).iter().filter(|file| !is_test(file)) {
        let text = fs::read_to_string(file).unwrap();
        for line in code(without_tests(&text)) {
            assert!(!SHELLS.iter().any(|shell| line.contains(shell)), "{}: {line}", file.display());
            let starts = line.contains("Command::new(") && !file.ends_with("cli/completions.rs");
            assert!(
                !starts || STARTERS.iter().any(|name| file.ends_with(name)),
                "{}: {line}",
                file.display()
            );
            starters += usize::from(starts);
        }
    }
    assert_eq!(starters, STARTERS.len(), "one each");
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n"), "a\n");
    assert_eq!(without_tests("#[cfg(test)]\nmod tests;\nb"), "#[cfg(test)]\nmod tests;\nb");
}

#[test]
fn groups_are_seen_through() {
    let source = "use a;\npub(super) use b::c as d;\nuse e::{\n    f, g::{self, h as i, j::*},\n    k,\n};\nuse {l, m::n};";
    let expected = ["a", "b::c", "e::f", "e::g::self", "e::g::h", "e::g::j::*", "e::k", "l", "m::n"];
    assert_eq!(imports(source), expected);
    assert_eq!(imports("fn used() { let user = \"x\"; }"), [""; 0]);
}

#[test]
fn an_offence_is_seen() {
    assert_eq!(offences("let x = std::fs::read(y);\n// std::fs::read in words is fine\nlet x = 1;").len(), 1);
    for import in [
        "std::fs",
        "std::{fmt, fs}",
        "std::{fmt, fs::{self, File}}",
        "std::{time::{Duration, Instant}}",
        "crate::{core, host}",
        "crate::{core, agent::Agent}",
        "crate::cli",
        "super::super::host",
        "super::{super::host}",
        "tokio",
        "{fmt, libc}",
        "std::*",
        "crate::*",
    ] {
        assert!(!offences(&format!("use {import};")).is_empty(), "{import}");
    }
    for import in
        ["std::{fmt, time::Duration}", "crate::core::{plan::hosts, task}", "super::*", "super::{plan::*, x}"]
    {
        assert_eq!(offences(&format!("use {import};")), [""; 0], "{import}");
    }
}
