//! The command line, as a user or a script that replaces the old ones meets it. Needs no root, except to give it up.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use numa_agent::core::preset::Preset;
use numa_agent_tests::{
    agent,
    stack::{Family, puppet::Puppet},
    sys::Birth,
    sysfs_tree::write_sysfs,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs in `dir`, so that default report paths stay in there.
fn run_in(dir: &Path, args: &[&str]) -> Output {
    agent::command(args).current_dir(dir).output().expect("numa-agent starts")
}

fn json_in(dir: &Path, args: &[&str]) -> Value {
    let output = run_in(dir, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Expects exit code `code`, nothing on standard output, and all `words` on standard error.
fn assert_refused(output: &Output, code: i32, words: &[&str], what: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{what}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{what}: machine output stays clean");
    for word in words {
        assert!(stderr.contains(word), "{what}: no {word:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{what}: {stderr}");
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_guides_layout_for_a3() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("{ROOT}/docs/examples/numa_bind.json");
    let plan = json_in(dir.path(), &["bind", "--preset", "a3", "--config", &config, "--format", "json"]);
    assert_eq!((&plan["schema"], &plan["policy"]), (&json!(1), &json!("paired")));
    let groups: Vec<Value> = (0..4)
        .flat_map(|socket| (0..4).map(move |index| (socket, index)))
        .map(|(socket, index)| {
            let first = socket * 80 + index * 10;
            json!({
                "name": format!("socket{socket}_group{index}"), "socket": socket, "index": index,
                "primary_node": 2 * socket, "secondary_node": 2 * socket + 1,
                "primary_cpus": format!("{}-{}", first, first + 9),
                "forward_cpus": format!("{}-{}", socket * 80 + 40, socket * 80 + 79),
                "mem_nodes": format!("{}-{}", 2 * socket, 2 * socket + 1), "memory_policy": "interleave",
            })
        })
        .collect();
    let planned: Vec<Value> = plan["groups"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&groups)
        .map(|(group, expected)| {
            // Fields may be added; those of the contract stay.
            let keys = expected.as_object().unwrap().keys();
            Value::Object(keys.map(|key| (key.clone(), group[key].clone())).collect())
        })
        .collect();
    assert_eq!(plan["groups"].as_array().unwrap().len(), 16);
    // By default the largest unit of which there is one per group is not cut: on 10 clusters of 4 CPUs, the cluster.
    let sizes: Vec<usize> = planned[..4].iter().map(|group| cpus(&group["primary_cpus"])).collect();
    assert_eq!(sizes, [12, 12, 8, 8]);
    let aligned = &["bind", "--preset", "a3", "--config", &config, "--format", "json", "--align", "none"];
    let plan_by_cpu = json_in(dir.path(), aligned);
    for (group, expected) in plan_by_cpu["groups"].as_array().unwrap().iter().zip(&groups) {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&group[key], value, "{key} of {}", expected["name"]);
        }
    }
    for (group, expected) in planned.iter().zip(&groups) {
        for key in ["name", "primary_node", "secondary_node", "forward_cpus", "mem_nodes", "memory_policy"] {
            assert_eq!(group[key], expected[key], "{key} of {}", expected["name"]);
        }
    }
    assert_eq!(plan["others"], json!({"socket": 2, "node": 4, "cpus": "160-199"}));
    assert_eq!(plan["topology"]["sockets"][1]["nodes"][0], json!({"id": 2, "cpus": "80-119"}));
    let report =
        fs::read_to_string(dir.path().join("workflow_visualization/numa_binding_report.md")).unwrap();
    assert!(report.contains("socket3_group3") && report.contains("160-199"), "{report}");
}

fn cpus(list: &Value) -> usize {
    list.as_str().unwrap().parse::<numa_agent::core::idset::CpuSet>().unwrap().len()
}

#[test]
fn a_users_json_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("{ROOT}/tests/tests/fixtures/user_numa_bind.json");
    let plan = json_in(dir.path(), &["bind", "--preset", "a2", "--config", &config, "--format", "json"]);
    assert_eq!(plan["groups"].as_array().unwrap().len(), 8);
    assert_eq!(plan["groups"][1]["primary_cpus"], "12-23");
    assert_eq!(plan["others"], json!({"socket": 1, "node": 2, "cpus": "48-71"}));
    assert!(dir.path().join("out/report.md").exists(), "the report is where the file asked for it");
}

#[test]
fn every_flag_of_the_replaced_scripts_works() {
    let dir = tempfile::tempdir().unwrap();
    let family =
        Family { exe: env!("CARGO_BIN_EXE_serving-stack").into(), out: dir.path().into(), tag: "cli".into() };
    let mut grouped = Puppet::start(&family, "anything", 0, Birth::Session).unwrap();
    let thread = grouped.thread("my_own_name").unwrap();
    grouped.thread("forward_0").unwrap();
    let background = Puppet::start(&family, "whatever", 0, Birth::Session).unwrap();
    let tag = std::process::id();
    let matched =
        Puppet::start(&Family { tag: format!("cli-{tag}"), ..family.clone() }, "m", 0, Birth::Session)
            .unwrap();
    let (group_pid, other_pid) = (grouped.pid().to_string(), background.pid().to_string());
    let report = dir.path().join("deep/report.html");
    let config =
        write(&dir, "c.json", r#"{"groups_per_socket": 4, "group_patterns": ["no_such_process_pattern"]}"#);
    let plan = json_in(
        dir.path(),
        &[
            "bind",
            "--preset",
            "a3",
            "--format",
            "json",
            "--config",
            config.to_str().unwrap(),
            "--group-pattern",
            &format!("role m --tag cli-{tag} "),
            "--group-pattern",
            "second_group_pattern",
            "--other-pattern",
            "first_other_pattern",
            "--other-pattern",
            "second_other_pattern",
            "--forward-thread-pattern",
            "^my_own",
            "--forward-thread-pattern",
            "other_name",
            "--group-pid",
            &group_pid,
            "--other-pid",
            &other_pid,
            "--groups-per-socket",
            "2",
            "--others-socket-index",
            "3",
            "--report",
            report.to_str().unwrap(),
        ],
    );
    assert_eq!(plan["groups"].as_array().unwrap().len(), 8, "a flag stands over the file");
    assert_eq!(plan["others"]["socket"], 3);
    let processes = plan["processes"].as_array().unwrap();
    let find = |pid: u32| {
        processes.iter().find(|process| process["pid"] == pid).unwrap_or_else(|| panic!("{pid} in {plan}"))
    };
    assert_eq!(find(grouped.pid())["role"], "group");
    assert_eq!(find(matched.pid())["role"], "group");
    assert_eq!(find(background.pid())["role"], "other");
    assert_eq!(find(background.pid())["threads"][0]["planned_cpus"], "240-279");
    assert_eq!(processes.len(), 3);
    for row in find(grouped.pid())["threads"].as_array().unwrap() {
        // The user's list replaces the default one: `forward_0` is a name like any other.
        let role = if row["tid"] == thread { "forward" } else { "member" };
        assert_eq!(row["role"], role, "{row}");
        assert_eq!(row["result"], "planned");
    }
    let html = fs::read_to_string(report).unwrap();
    assert!(html.contains("<svg") && html.contains("socket0_group0"), "the ending chooses the format");
}

#[test]
fn a_bad_configuration_is_refused_with_file_key_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, words) in [
        ("broken.json", "{\"group_patterns\": [\"a\",", &["broken.json"][..]),
        (
            "key.json",
            "{\n\"group_patern\": [\"a\"]}",
            &["key.json:2", "group_patern", "did you mean group_patterns"],
        ),
        ("regex.json", r#"{"group_patterns": ["ok", "b("]}"#, &["regex.json", "group_patterns[1]", "b("]),
        (
            "thread.json",
            r#"{"forward_thread_patterns": ["a_name_of_sixteen"]}"#,
            &["thread.json", "forward_thread_patterns", "15"],
        ),
        (
            "comm.json",
            r#"{"rules": [{"role": "group", "comm": "a_name_of_sixteen"}]}"#,
            &["comm.json", "rules[0].comm", "15"],
        ),
        ("many.json", r#"{"groups_per_socket": 41, "align": "none"}"#, &["41", "40"]),
        ("type.json", r#"{"groups_per_socket": "four"}"#, &["type.json", "groups_per_socket"]),
        ("range.json", r#"{"groups_per_socket": -1}"#, &["range.json", "groups_per_socket"]),
        ("socket.json", r#"{"others_socket_index": 4}"#, &["others_socket_index", "4"]),
        ("table.toml", "policy = \"pared\"\n", &["table.toml:1", "policy", "paired"]),
    ] {
        let path = write(&dir, name, text);
        for command in [
            &["bind", "--preset", "a3", "--config"][..],
            &["bind", "--preset", "a3", "--format", "json", "--config"],
        ] {
            let args: Vec<&str> = command.iter().copied().chain([path.to_str().unwrap()]).collect();
            assert_refused(&run_in(dir.path(), &args), 2, words, name);
        }
    }
    let reports = dir.path().join("workflow_visualization");
    assert!(!reports.exists(), "nothing is written for a configuration that is refused");
}

#[test]
fn bad_usage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code, words) in [
        (&["bind", "--preset", "a4"][..], 2, &["a4", "a2", "a3"][..]),
        (&["bind", "--config", "not-there.json"], 1, &["not-there.json"]),
        (&["run", "--config", "not-there.json"], 1, &["not-there.json"]),
        (
            &["run", "--group-pattern", "y", "--reconcile", "18446744073709551615"],
            2,
            &["--reconcile", "31536000"],
        ),
        (&["bind", "--frobnicate"], 2, &["--frobnicate"]),
        (&["bind", "--group-pattern", "x("], 2, &["--group-pattern", "x("]),
        (&["bind", "--preset", "a3", "--groups-per-socket", "999", "--align", "none"], 2, &["999"]),
        (&["bind", "--preset", "a3", "--apply"], 2, &["a3"]),
        (&[], 2, &["Usage"]),
    ] {
        let output = run_in(dir.path(), args);
        // Whether a file that is not there is bad usage or a failure is a matter of taste; silence is not.
        let code = if output.status.code() == Some(2) { 2 } else { code };
        assert_refused(&output, code, words, &args.join(" "));
    }
}

#[test]
fn a_configuration_that_is_no_plain_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for file in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
        let output = run_in(dir.path(), &["bind", "--config", file.to_str().unwrap()]);
        assert_refused(&output, 2, &[file.to_str().unwrap(), "not a regular file"], "no plain file");
    }
}

#[test]
fn pids_that_cannot_be_bound_fail_an_apply_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    // No process has the highest pid that a kernel can give but by a very long chance.
    let asked = ["bind", "--group-pid", "4194304"];
    let output = run_in(dir.path(), &asked);
    assert!(output.status.success(), "a dry run only says so: {}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("4194304"));
    let output = run_in(dir.path(), &[&asked[..], &["--apply", "--no-journal"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn a_report_that_cannot_be_written_stops_an_apply_before_it_binds() {
    let dir = tempfile::tempdir().unwrap();
    let mut puppet = Command::new("sleep").arg("600.25").spawn().unwrap();
    let pid = puppet.id();
    let before = numa_agent_tests::sys::affinity(pid).unwrap();
    let asked = ["bind", "--group-pid", &pid.to_string(), "--groups-per-socket", "2", "--apply"];
    let output = run_in(dir.path(), &[&asked[..], &["--report", "/proc/nowhere/report.md"]].concat());
    let after = numa_agent_tests::sys::affinity(pid).unwrap();
    puppet.kill().unwrap();
    puppet.wait().unwrap();
    assert_refused(&output, 1, &["/proc/nowhere/report.md", "--report"], "unwritable report");
    assert_eq!(after, before, "nothing was bound");
}

#[test]
fn a_tree_with_files_missing_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let tree = dir.path().join("sys");
    write_sysfs(&Preset::A2.topology(), &tree).unwrap();
    // Either of the two says which CPUs a node has.
    fs::remove_file(tree.join("devices/system/node/node3/cpumap")).unwrap();
    json_in(dir.path(), &["bind", "--format", "json", "--sysfs-root", tree.to_str().unwrap()]);
    fs::remove_file(tree.join("devices/system/node/node3/cpulist")).unwrap();
    for command in ["bind", "topology"] {
        let output = run_in(dir.path(), &[command, "--sysfs-root", tree.to_str().unwrap()]);
        assert_refused(&output, 1, &["devices/system/node/node3/cpulist"], command);
    }
    let output = run_in(dir.path(), &["bind", "--sysfs-root", empty.to_str().unwrap()]);
    assert_refused(&output, 1, &["empty", "devices/system/cpu"], "an empty tree");
    let output = run_in(dir.path(), &["bind", "--sysfs-root", "/no/such/dir"]);
    assert_refused(&output, 1, &["/no/such/dir"], "no tree");
}

#[test]
fn a_captured_tree_gives_the_plan_of_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    write_sysfs(&Preset::A2.topology(), &dir.path().join("sys")).unwrap();
    let tree = dir.path().join("sys").to_str().unwrap().to_owned();
    let mut captured = json_in(dir.path(), &["bind", "--sysfs-root", &tree, "--format", "json"]);
    let preset = json_in(dir.path(), &["bind", "--preset", "a2", "--format", "json"]);
    assert_eq!(captured["groups"].as_array().unwrap().len(), 16);
    assert_eq!(captured["groups"].take(), preset["groups"]);
    assert_eq!(captured["others"], preset["others"]);
    let other_machine = run_in(dir.path(), &["bind", "--apply", "--sysfs-root", &tree]);
    assert_refused(&other_machine, 2, &[&tree, "online"], "a plan for CPUs that are not here is not applied");
}

#[test]
fn a_report_that_cannot_be_written_fails_if_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "file", "");
    let below = file.join("report.md");
    let output = run_in(dir.path(), &["bind", "--preset", "a3", "--report", below.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(below.to_str().unwrap()), "{}", stderr(&output));
    write(&dir, "workflow_visualization", "a file where the default report's folder would be");
    let output = run_in(dir.path(), &["bind", "--preset", "a3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("workflow_visualization"), "{}", stderr(&output));
}

#[test]
fn a_report_for_a_fifo_that_nobody_reads_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("report.md");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let report = || run_in(dir.path(), &["bind", "--preset", "a3", "--report", fifo.to_str().unwrap()]);
    assert_refused(&report(), 1, &["report.md", "nobody reads"], "a FIFO");
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    assert_eq!(report().status.code(), Some(0));
    let mut first = [0; 2];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"# ");
}

#[test]
fn an_answer_that_is_no_state_is_refused_in_few_words() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let long = "x".repeat(10_000);
    for (schema, words) in [(1, "other than its state"), (2, "schema 2")] {
        let line = json!({"kind": "event", "schema": schema, "event": {"event": &long}});
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                writeln!(stream, "{line}").unwrap();
            });
            run_in(dir.path(), &["status", "--socket", socket.to_str().unwrap()])
        });
        assert_refused(&output, 1, &[words, "agent.sock"], "status");
        assert!(output.stderr.len() < 1000, "{}", stderr(&output));
    }
}

#[test]
fn run_without_root_says_what_it_needs() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(agent::binary_for_everyone(dir.path()));
    command.args(["run", "--group-pattern", "no_such_process_pattern"]).current_dir(dir.path());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_refused(&command.output().unwrap(), 1, &["root"], "run as nobody");
}

#[test]
fn run_without_btf_says_what_it_needs() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: run_without_btf_says_what_it_needs: it needs root");
        assert!(
            std::env::var_os("NUMA_AGENT_FORBID_SKIP").is_none_or(|value| value != "1"),
            "skips are forbidden"
        );
        return;
    }
    let hide =
        "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" run --group-pattern no_such_process_pattern";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide]).arg(agent::binary());
    assert_refused(&command.output().unwrap(), 1, &["BTF", "/sys/kernel/btf/vmlinux"], "run without BTF");
}

#[test]
fn nobody_at_standard_error_changes_no_result() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the default report's folder should be: a warning, and no more.
    write(&dir, "workflow_visualization", "");
    let code = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        agent::command(args).current_dir(dir.path()).stderr(writer).output().unwrap().status.code()
    };
    assert_eq!(code(&["bind", "--preset", "a3", "--group-pattern", "no such process"]), Some(0));
    assert_eq!(code(&["bind", "--preset", "a3", "--config", "missing.toml"]), Some(2));
    assert_eq!(code(&["bind", "--no-such-flag"]), Some(2));
    assert_eq!(code(&["topology", "--sysfs-root", "missing"]), Some(1));
}
