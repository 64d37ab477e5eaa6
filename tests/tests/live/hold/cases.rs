//! Who is held and who is not: traced, filtered, set-user-id, process 1 of a namespace, of a terminal.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use nix::sys::{
    ptrace,
    wait::{WaitStatus, waitpid},
};
use numa_agent_tests::{sys, terminal::terminal_or_skip};

use super::*;

#[test]
fn who_is_traced_is_not_held() {
    let Some(stage) = stage("hold-traced") else { return };
    let mut holder = hold(&stage);
    let mut command = blink(&stage);
    sys::traced(&mut command, libc_reboot(), u32::MAX);
    let child = Held::start(command);
    let pid = Pid::from_raw(child.pid().cast_signed());
    // The debugger sees its own stop and no other.
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGTRAP));
    stage.barrier();
    assert_eq!(program_counter(child.pid()), elf_entry(child.pid()));
    ptrace::detach(pid, None).unwrap();
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
    assert!(!holder.agent.events().iter().any(|event| is_release_of(event, child.pid())));
    assert_on_plan_from_the_first_look(&stage, 2);
    holder.agent.wait_for("answer to exec", |event| event["event"] == "bound" && event["pid"] == child.pid());
    holder.agent.stop();
}

/// Not called by anybody here.
fn libc_reboot() -> i64 {
    169
}

#[test]
fn who_has_a_seccomp_filter_is_held_like_others() {
    let Some(stage) = stage("hold-seccomp") else { return };
    let mut holder = inject(&stage);
    let mut command = blink(&stage);
    sys::filtered(&mut command);
    let mut one = Held::start(command);
    one.ends_well();
    let release = holder.released(one.pid());
    assert_eq!(release["end"], "continued", "{release}");
    // Where the kernel lets a tracer suspend filters.
    let memory = release["memory"].as_str().unwrap();
    assert!(memory == injected() || memory.contains("a seccomp filter"), "{release}");
    assert_on_plan_from_the_first_look(&stage, 1);
    holder.agent.stop();
}

#[test]
fn set_user_id_programs_are_held_like_others() {
    let Some(stage) = stage("hold-setuid") else { return };
    const NOBODY: u32 = 65_534;
    let program = stage.dir.path().join("serving-stack");
    assert!(Command::new("cp").arg(&stage.family.exe).arg(&program).status().unwrap().success());
    chown(&program, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    for dir in [stage.dir.path(), &stage.family.out] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut family = stage.family.clone();
    family.exe = program;
    let mut holder = inject(&stage);
    let puppet = Puppet::start(&family, "worker", 0, Birth::Session).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", puppet.pid())).unwrap();
    if !status.contains(&format!("Uid:\t0\t{NOBODY}\t")) {
        return skip("hold-setuid", "temporary files are on a file system without set-user-id");
    }
    let release = holder.released(puppet.pid());
    assert_eq!((&release["end"], &release["memory"]), (&json!("continued"), &json!(injected())), "{release}");
    assert_on_plan_from_the_first_look(&stage, 1);
    puppet.stop().unwrap();
    holder.agent.stop();
}

#[test]
fn process_1_of_a_namespace_is_held_like_others() {
    let Some(stage) = stage("hold-init") else { return };
    let holder = inject(&stage);
    let puppet = Puppet::start_in_pid_namespace(&stage.family, "worker").unwrap();
    assert_eq!(puppet.pid(), 1, "its number in there");
    assert_on_plan_from_the_first_look(&stage, 1);
    // unshare's own exec, whose arguments match, and its child's.
    let ended = |event: &&Value| {
        event["event"] == "released" && event["end"] == "continued" && event["memory"] == json!(injected())
    };
    eventually(|| match holder.agent.events().iter().filter(ended).count() {
        2.. => Ok(()),
        count => Err(format!("{count} held")),
    });
    puppet.stop().unwrap();
    holder.agent.stop();
}

#[test]
fn a_shell_with_job_control_sees_no_stop_unless_it_is_asked_for() {
    let Some(stage) = stage("hold-terminal") else { return };
    let Some(terminal) = terminal_or_skip(200, 40) else { return };
    let words: Vec<String> = blink(&stage).get_args().map(|arg| arg.to_str().unwrap().to_owned()).collect();
    let line = format!("{} {}", stage.family.exe.display(), words.join(" "));
    let workers = || {
        let records = stage.records();
        let main = records.iter().filter(|look| look.role == "worker" && look.point == Point::Main);
        main.map(|look| look.pid).collect::<Vec<u32>>()
    };
    let run = |rounds: usize| {
        for round in 0..rounds {
            let before = workers().len();
            terminal.run(&format!("clear; {line}; echo ended with $?-{round}"));
            terminal.wait_for_text(&format!("ended with 0-{round}"));
            assert_eq!(workers().len(), before + 1);
            assert!(!terminal.screen().contains("Stopped"), "{}", terminal.screen());
        }
    };
    let holder = hold(&stage);
    run(5);
    let terminals = workers();
    stage.barrier();
    let events = holder.agent.events();
    assert!(!terminals.iter().any(|pid| events.iter().any(|event| is_release_of(event, *pid))));
    holder.agent.stop();

    let mut holder = hold_with(&stage, &json!({ "hold_terminal": true, "hold_limit_ms": LONG_MS }));
    let before = workers().len();
    // In the background, where the shell only notes the stop; its prompt tells of it later.
    terminal.run(&format!("clear; {line} & wait; echo all done"));
    eventually(|| (workers().len() > before).then_some(()).ok_or_else(|| terminal.screen()));
    let held = *workers().last().unwrap();
    assert_eq!(holder.released(held)["end"], "continued");
    holder.agent.stop();
}

#[test]
fn who_waits_for_a_held_child_sees_its_end_alone() {
    let Some(stage) = stage("hold-wait") else { return };
    let holder = hold(&stage);
    let words: Vec<String> = blink(&stage).get_args().map(|arg| arg.to_str().unwrap().to_owned()).collect();
    let line = format!("{} {}", stage.family.exe.display(), words.join(" "));
    // The shell's own wait, for one and for all, and a pipeline.
    let script = format!("{line}; a=$?; {line} & {line} & wait; b=$?; {line} | {line}; echo $a $b $?");
    for shell in ["sh", "bash"] {
        let output = Command::new(shell).args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0 0 0\n", "{output:?}");
    }
    // system(3) and its like, by way of others.
    let system = format!("exit(system(\"{line}\") == 0 ? 7 : 8)");
    if Command::new("perl").arg("-v").stdout(Stdio::null()).status().is_ok() {
        let status = Command::new("perl").args(["-e", &system]).stdin(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(7));
    }
    let summary = holder.agent.stop().events.pop().unwrap();
    assert!(summary["hold"]["held"].as_u64() >= Some(10), "{summary}");
    assert_eq!(summary["hold"]["released_by"], json!({}), "{summary}");
}

/// A script, in a file: no other command line than the worker's own has the worker's words.
fn script(stage: &Stage, text: impl Fn(&str) -> String) -> PathBuf {
    let words: Vec<String> = blink(stage).get_args().map(|arg| arg.to_str().unwrap().to_owned()).collect();
    let path = stage.dir.path().join("script");
    fs::write(&path, text(&format!("{} {}", stage.family.exe.display(), words.join(" ")))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Starts it away from any terminal.
fn alone(mut command: Command) -> Held {
    sys::born(&mut command, Birth::Session);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Held::start(command)
}

/// The program with these arguments, the last of which is a script's path.
fn by(words: &[&str], script: &Path) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    if words.ends_with(&["-c"]) {
        // In the place of the shell, so that who waits for that waits for it.
        command.arg(format!("exec {}", script.display()));
    } else {
        command.arg(script);
    }
    command
}

/// Runs another program with what they run as theirs, waits for stops too, and stops with it.
const SU: [&str; 5] = ["su", "root", "-s", "/bin/sh", "-c"];

/// A script that says that it is there and waits for a word before it runs the worker in its own place.
fn waiting_script(stage: &Stage) -> PathBuf {
    let dir = stage.dir.path().display();
    script(stage, |line| {
        format!("#!/bin/sh\n: > {dir}/here\nwhile ! [ -e {dir}/go ]; do sleep 0.01; done\nexec {line}\n")
    })
}

/// Starts it, and has its child held while the agent is stopped, for long enough to be seen; once it has stopped too.
fn stopped_with_its_child(stage: &Stage, holder: &Holder, words: &[&str], script: &Path) -> Held {
    let [here, go] = ["here", "go"].map(|name| stage.dir.path().join(name));
    for _ in 0..20 {
        let _ = (fs::remove_file(&here), fs::remove_file(&go));
        let mut parent = alone(by(words, script));
        eventually(|| here.exists().then_some(()).ok_or_else(|| "the script does not run".to_owned()));
        holder.freeze();
        fs::write(&go, "").unwrap();
        if parent.stops() {
            return parent;
        }
        // The heartbeat was over before.
        holder.thaw();
        parent.ends_well();
        sleep(Duration::from_millis(500));
    }
    panic!("it never stops");
}

#[test]
fn parents_that_stop_with_a_held_child_go_on() {
    let Some(stage) = stage("hold-parents") else { return };
    let mut holder = hold(&stage);
    let script = waiting_script(&stage);
    let me = std::process::id().to_string();
    let parents: [&[&str]; 3] =
        [&SU, &["runuser", "root", "-s", "/bin/sh", "-c"], &["nsenter", "--uts", "--pid", "--target", &me]];
    for words in parents {
        let mut parent = stopped_with_its_child(&stage, &holder, words, &script);
        holder.thaw();
        parent.ends_well();
        let pid = parent.pid();
        holder.agent.wait_for("parent", |event| event["event"] == "continued" && event["pid"] == pid);
        // And at its own pace.
        (0..4).for_each(|_| alone(by(words, &script)).ends_well());
    }
    let summary = holder.agent.stop().events.pop().unwrap();
    assert!(summary["hold"]["parents_continued"].as_u64() >= Some(3), "{summary}");
    assert_eq!(summary["hold"]["ended"], json!({}), "{summary}");
}

#[test]
fn the_parent_of_who_was_held_when_the_guard_died_goes_on() {
    let Some(stage) = stage("hold-parents-guard") else { return };
    let holder = hold(&stage);
    let mut parent = stopped_with_its_child(&stage, &holder, &SU, &waiting_script(&stage));
    signal(holder.guard, Signal::SIGKILL);
    holder.thaw();
    parent.ends_well();
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(summary["hold"]["guards_lost"], 1, "{summary}");
}

#[test]
fn jobs_of_a_shell_without_a_terminal_are_not_held_unless_that_is_asked_for() {
    let Some(stage) = stage("hold-jobs") else { return };
    if Command::new("bash").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("hold-jobs", "there is no bash");
    }
    let said = stage.dir.path().join("said");
    let script = script(&stage, |line| {
        format!(
            "set -m; exec > {}\n{line}; echo $?\n{line} & wait $!; echo $?\n{line} | cat; echo $?\n",
            said.display()
        )
    });
    for asked in [false, true] {
        let holder = hold_with(&stage, &json!({ "hold_terminal": asked }));
        let mut bash = alone(by(&["bash"], &script));
        bash.end();
        let summary = holder.agent.stop().events.pop().unwrap();
        let held = summary["hold"]["held"].as_u64().unwrap_or(0);
        let said = fs::read_to_string(&said).unwrap();
        // What bash makes of a job that stops is its own affair.
        assert!(if asked { held > 0 } else { held == 0 && said == "0\n0\n0\n" }, "{asked}: {said}{summary}");
    }
}
