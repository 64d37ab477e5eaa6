//! The memory policy of a held program, as the program itself and the kernel see it.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// `MPOL_INTERLEAVE`.
const INTERLEAVE: i32 = 3;

#[test]
fn a_program_of_a_plain_shell_has_its_groups_policy_before_it_runs() {
    let Some(stage) = stage("inject") else { return };
    if !PathBuf::from("/proc/self/numa_maps").exists() {
        return skip("inject", "this kernel has no memory policies");
    }
    let mut holder = inject(&stage);
    let mut shell = Command::new("sh");
    // What starts it runs another program first, and this one after that.
    shell.args(["-c", "cd / && \"$0\" \"$@\""]);
    let mut puppet = Puppet::start_by(shell, &stage.family, "worker", 0).unwrap();
    let pid = puppet.pid();
    let policy = injected();
    // Its own question to the kernel, and what the kernel says of memory that it has touched since.
    puppet.order(&Order::CheckPolicy { tid: pid, mode: INTERLEAVE, nodes: nodes() }).unwrap();
    puppet.order(&Order::Take { pages: 64 }).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    assert!(maps.lines().all(|line| line.split(' ').nth(1) == Some(&policy)), "{maps}");
    let thread = puppet.thread("forward_0").unwrap();
    puppet.order(&Order::CheckPolicy { tid: thread, mode: INTERLEAVE, nodes: nodes() }).unwrap();
    let release = holder.released(pid);
    assert_eq!((&release["memory"], &release["end"]), (&json!(policy), &json!("continued")), "{release}");
    puppet.stop().unwrap();
    assert_on_plan_from_the_first_look(&stage, 1);
    let summary = holder.agent.stop().events.pop().unwrap();
    assert!(summary["hold"]["injected"].as_u64() >= Some(1), "{summary}");
    assert_eq!(summary["hold"]["refused"], json!({}), "{summary}");
}

#[test]
fn the_policy_is_there_before_the_first_instruction() {
    let Some(stage) = stage("inject-first") else { return };
    let mut holder = inject(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    let (pid, entry) = (one.pid(), elf_entry(one.pid()));
    // Somebody else's stop keeps it where it is, so that it can be looked at.
    signal(pid, Signal::SIGSTOP);
    holder.thaw();
    let release = holder.released(pid);
    assert_eq!((&release["end"], &release["memory"]), (&json!("stopped"), &json!(injected())), "{release}");
    assert_eq!((state(pid), program_counter(pid)), (Some('T'), entry));
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    assert!(maps.lines().all(|line| line.contains(" interleave:")), "{maps}");
    signal(pid, Signal::SIGCONT);
    one.ends_well();
    holder.agent.stop();
}

#[test]
fn programs_of_other_users_have_it_too() {
    let Some(stage) = stage("inject-user") else { return };
    let mut holder = inject(&stage);
    for dir in [stage.dir.path(), &stage.family.out] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let worker = blink(&stage);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups", "--"]).arg(worker.get_program()).args(worker.get_args());
    let mut one = Held::start(command);
    one.ends_well();
    assert_eq!(holder.released(one.pid())["memory"], json!(injected()));
    holder.agent.stop();
}

#[test]
fn many_that_start_at_once_all_have_it() {
    let Some(stage) = stage("inject-many") else { return };
    // The limit of its own accord.
    let holder = hold_with(&stage, &json!({ "hold_limit_ms": 1000, "memory": { "apply": "inject" } }));
    let mut all: Vec<Held> = (0..32).map(|_| Held::start(blink(&stage))).collect();
    all.iter_mut().for_each(Held::ends_well);
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(
        (&summary["hold"]["held"], &summary["hold"]["injected"]),
        (&json!(32), &json!(32)),
        "{summary}"
    );
}

#[test]
fn background_processes_and_strangers_keep_theirs() {
    let Some(stage) = stage("inject-others") else { return };
    let mut holder = inject(&stage);
    let mut motor = stage.puppet("motor");
    let release = holder.released(motor.pid());
    assert_eq!(release["memory"], Value::Null, "{release}");
    motor.order(&Order::CheckPolicy { tid: motor.pid(), mode: 0, nodes: NodeSet::new() }).unwrap();
    motor.stop().unwrap();
    holder.agent.stop();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_program_is_held_and_goes_on_without_a_policy() {
    let Some(stage) = stage("inject-narrow") else { return };
    let mut holder = inject(&stage);
    let mut command = Command::new(numa_agent_tests::narrow::write(stage.dir.path()).unwrap());
    // It ends at the end of its input; its arguments are a worker's.
    command.args(blink(&stage).get_args()).stdin(Stdio::null());
    let mut one = Held::start(command);
    one.ends_well();
    let release = holder.released(one.pid());
    assert_eq!(release["end"], "continued", "{release}");
    assert_eq!(release["memory"], "refused: a 32-bit program", "{release}");
    let summary = holder.agent.stop().events.pop().unwrap();
    assert_eq!(summary["hold"]["refused"].as_object().map(serde_json::Map::len), Some(1), "{summary}");
}
