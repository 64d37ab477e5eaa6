//! Who is held and who is not: traced, filtered, set-user-id, process 1 of a namespace, of a terminal.

use std::os::unix::fs::{PermissionsExt, chown};

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
