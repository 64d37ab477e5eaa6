//! What packages ship besides the binary and the binary writes itself: completions, as a real bash takes them, and manual pages,
//! as groff does.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output, Stdio},
};

use numa_agent_tests::agent;

fn said(args: &[&str]) -> String {
    let output = agent::command(args).output().expect("numa-agent starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The subcommands that `numa-agent --help` shows.
fn subcommands() -> BTreeSet<String> {
    let help = said(&["--help"]);
    let list = help.split_once("Commands:").expect("commands").1.split_once("\n\n").expect("an end").0;
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: BTreeSet<String> =
        names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains("run") && names.contains("man"), "{help}");
    names
}

/// The long flags that `numa-agent COMMAND --help` shows.
fn flags(command: &str) -> BTreeSet<String> {
    let help = said(&[command, "--help"]);
    let words = help.lines().filter_map(|line| {
        line.trim_start().strip_prefix("--").or(line.trim_start().get(4..)?.strip_prefix("--"))
    });
    words
        .map(|rest| {
            format!(
                "--{}",
                rest.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).next().unwrap_or_default()
            )
        })
        .collect()
}

const FILE: &str = "a-file";
const FOLDER: &str = "a-folder";

/// What bash offers for the last of `words`, with the function that the script has registered.
fn completed(script: &str, words: &[&str]) -> BTreeSet<String> {
    let play = r#"
        source "$1" || exit 1
        shift
        # Bash has it only while it completes.
        compopt() { :; }
        registered=$(complete -p numa-agent) || exit 1
        [[ $registered =~ -F\ ([^ ]+) ]] || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        "${BASH_REMATCH[1]}" numa-agent "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numa-agent");
    fs::write(&path, script).unwrap();
    // What it would offer for any file.
    fs::write(dir.path().join(FILE), "").unwrap();
    fs::create_dir(dir.path().join(FOLDER)).unwrap();
    let output = Command::new("bash")
        .current_dir(dir.path())
        .args(["--norc", "-c", play, "bash"])
        .arg(path)
        .args(words)
        .output()
        .expect("bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_the_command_line() {
    let script = said(&["completions", "bash"]);
    let offers = |words: &[&str]| completed(&script, words);
    assert_eq!(offers(&["numa-agent", "ru"]), BTreeSet::from(["run".to_owned()]));
    let commands: BTreeSet<_> =
        offers(&["numa-agent", ""]).into_iter().filter(|word| !word.starts_with('-')).collect();
    assert_eq!(commands, subcommands(), "all of them, and none that is hidden");
    assert_eq!(offers(&["numa-agent", "run", "--format", ""]), ["json", "text"].map(str::to_owned).into());
    assert_eq!(offers(&["numa-agent", "jitter", "comp"]), ["compare".to_owned()].into());
    for command in ["run", "bind", "status"] {
        let offered = offers(&["numa-agent", command, "--"]);
        assert!(offered.len() > 3, "{offered:?}");
        assert_eq!(offered, flags(command), "{command}");
    }
}

#[test]
fn values_are_offered_and_files_only_where_one_is_meant() {
    let script = said(&["completions", "bash"]);
    let offers = |words: &[&str]| completed(&script, &[&["numa-agent"], words].concat());
    for (words, values) in [
        (["bind", "--preset", ""], "a2 a3"),
        (["bind", "--policy", ""], "auto generic paired"),
        (["bind", "--layout", ""], "shared split"),
        (["bind", "--align", "c"], "cluster core"),
        (["run", "--group-by", ""], "auto cgroup pid session tree"),
        (["run", "--drift", ""], "enforce observe reapply"),
        (["check", "--section", ""], "A B C"),
    ] {
        assert_eq!(offers(&words), values.split(' ').map(str::to_owned).collect(), "{words:?}");
    }
    let mut seen = [0; 2];
    for command in ["run", "bind", "exec", "check", "repair", "watch", "restore"] {
        for (flag, value) in said(&[command, "--help"]).lines().filter_map(|line| {
            let (flag, rest) = line.trim_start().split_once(" <")?;
            let flag = flag.split(' ').find(|word| word.starts_with("--"))?.to_owned();
            Some((flag, rest.split('>').next()?.to_owned()))
        }) {
            let means_file = ["FILE", "PATH"].contains(&value.as_str());
            seen[usize::from(means_file)] += 1;
            assert_eq!(
                offers(&[command, &flag, ""]).contains(FILE),
                means_file,
                "{command} {flag} <{value}>"
            );
        }
    }
    assert!(seen[0] > 20 && seen[1] > 5, "{seen:?}");
}

#[test]
fn every_shell_hears_of_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&["completions", shell]);
        for name in subcommands() {
            assert!(script.contains(&name), "{name} in {shell}'s");
        }
        for hidden in ["guard", "ring-bytes"] {
            assert!(!script.contains(hidden), "{hidden} in {shell}'s");
        }
    }
    let refused = agent::command(["completions", "tcsh"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

/// The page as a terminal shows it; groff complains about nothing.
fn shown(page: &str) -> String {
    let mut groff = Command::new("groff");
    groff
        .args(["-man", "-Tutf8", "-ww", "-rLL=200n", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = groff.spawn().expect("groff");
    let text = page.to_owned();
    let mut stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, text.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "groff: {stderr}\n{page}");
    let text = String::from_utf8_lossy(&stdout);
    // Bold and underlined.
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{8}' => drop(plain.pop()),
            '\u{1b}' => while chars.next().is_some_and(|char| char != 'm') {},
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn manual_pages_say_what_the_help_says() {
    if Command::new("groff").arg("--version").stdout(Stdio::null()).status().is_err() {
        return numa_agent_tests::skip("manual_pages_say_what_the_help_says: it needs groff");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(said(&["man", "--dir", path]), "");
    let read = |name: &str| {
        fs::read_to_string(dir.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let main = read("numa-agent.1");
    assert_eq!(said(&["man"]), main);
    let main = shown(&main);
    assert!(main.contains("Exit status: 0 done and verified"), "{main}");
    for name in subcommands().iter().filter(|name| *name != "help") {
        assert!(main.contains(&format!("numa-agent-{name}(1)")), "{name} in {main}");
        let page = shown(&read(&format!("numa-agent-{name}.1")));
        for flag in flags(name) {
            assert!(page.contains(&flag), "{flag} in {page}");
        }
    }
    for file in fs::read_dir(dir.path()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("guard") && !name.contains("help"), "{name}");
        shown(&read(&name));
    }
    let nowhere = agent::command(["man", "--dir", "/proc/nowhere"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/proc/nowhere"));
}
