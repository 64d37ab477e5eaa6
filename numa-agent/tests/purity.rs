//! The functional core stays functional: `core` and `report` reach for nothing outside their parameters.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a pure module must not name: the outside world, and the crates that reach it.
const FORBIDDEN: [&str; 16] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::os",
    "Instant",
    "SystemTime",
    "libc::",
    "nix::",
    "procfs::",
    "aya::",
    "tokio::",
    "tracing::",
    "println!",
    "crate::host",
];

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

/// The lines that name something forbidden, comments aside.
fn offences(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| FORBIDDEN.iter().any(|word| line.contains(word))).map(str::to_owned).collect()
}

#[test]
fn core_and_report_are_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<PathBuf> =
        ["core", "report"].iter().flat_map(|folder| sources(&root.join(folder))).collect();
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
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let found: Vec<&&str> =
            code.iter().filter(|line| line.contains("unsafe ") || line.contains("libc::")).collect();
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
    }
}

#[test]
fn an_offence_is_seen() {
    assert_eq!(offences("use std::fs;\n// std::fs in words is fine\nlet x = 1;"), ["use std::fs;"]);
}
