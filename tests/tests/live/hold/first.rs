//! No instruction off plan.

use super::*;

#[test]
fn a_held_program_has_not_run_its_first_instruction() {
    let Some(stage) = stage("hold-first") else { return };
    let mut holder = hold(&stage);
    let mut one = holder.frozen_with_one_held(&stage);
    let pid = one.pid();
    assert_eq!(program_counter(pid), elf_entry(pid), "where the kernel has put it");
    sleep(Duration::from_millis(300));
    assert_eq!(
        (state(pid), program_counter(pid)),
        (Some('T'), elf_entry(pid)),
        "for as long as nobody answers"
    );
    assert!(!stage.records().iter().any(|look| look.pid == pid));
    holder.thaw();
    one.ends_well();
    let release = holder.released(pid);
    assert_eq!((&release["by"], &release["end"]), (&json!("agent"), &json!("continued")), "{release}");
    let records = stage.records();
    let first = records.iter().find(|look| look.pid == pid).unwrap();
    assert!(first.cpus == stage.members && stage.members.contains(first.cpu), "{first:?}");
    let summary = holder.agent.stop().events.pop().unwrap();
    assert!(summary["hold"]["held"].as_u64() >= Some(1), "{summary}");
    is_gone(holder.guard);
}

/// How many programs a test starts.
const STARTS: usize = 30;

/// Has plain shells start workers while others burn all CPUs; how many were held.
fn start_by_shells(stage: &Stage, agent: Agent) -> u64 {
    let stack = stage.stack(4);
    let before = stage.records().iter().filter(|look| look.role == "worker").count();
    assert_eq!(before, 0);
    let words: Vec<String> = std::iter::once(blink(stage).get_program().to_str().unwrap().to_owned())
        .chain(blink(stage).get_args().map(|arg| arg.to_str().unwrap().to_owned()))
        .collect();
    for _ in 0..STARTS {
        let status = Command::new("sh").arg("-c").arg(words.join(" ")).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    }
    let left = agent.stop();
    stack.stop().unwrap();
    let summary = left.events.last().unwrap();
    let releases = left.events.iter().filter(|event| event["event"] == "released");
    assert_eq!(summary["hold"]["released_by"], json!({}), "{summary}");
    let held = summary["hold"]["held"].as_u64().unwrap();
    assert_eq!(releases.count() as u64, held, "{summary}");
    held
}

#[test]
fn programs_of_plain_shells_are_on_plan_from_their_first_look_also_on_a_busy_machine() {
    let Some(stage) = stage("hold-shells") else { return };
    let holder = hold(&stage);
    let held = start_by_shells(&stage, holder.agent);
    assert!(held >= STARTS as u64, "{held}");
    assert_on_plan_from_the_first_look(&stage, STARTS);
}

#[test]
fn nobody_is_held_unless_that_is_asked_for() {
    let Some(stage) = stage("hold-off") else { return };
    let held = start_by_shells(&stage, stage.agent());
    assert_eq!(held, 0);
}

#[test]
fn a_reload_begins_and_ends_it() {
    let Some(stage) = stage("hold-reload") else { return };
    let mut agent = stage.agent();
    let reload = |agent: &mut Agent, hold: bool, count: usize| {
        let mut config = stage.config();
        config["hold"] = json!(hold);
        stage.write_config(&config);
        agent.signal(Signal::SIGHUP);
        eventually(|| {
            let reloads = agent.events().iter().filter(|event| event["event"] == "reloaded").count();
            (reloads == count).then_some(()).ok_or_else(|| format!("{reloads} reloads: {}", agent.stderr()))
        });
    };
    reload(&mut agent, true, 1);
    let guard = next_guard(&mut agent, 0);
    let mut one = Held::start(blink(&stage));
    one.ends_well();
    agent.wait_for("end of the hold", |event| is_release_of(event, one.pid()));
    reload(&mut agent, false, 2);
    is_gone(guard);
    let mut other = Held::start(blink(&stage));
    other.ends_well();
    stage.barrier();
    assert!(!agent.events().iter().any(|event| is_release_of(event, other.pid())));
    assert_eq!(agent.warnings("guard"), Vec::<String>::new(), "it was told to go");
    reload(&mut agent, true, 3);
    next_guard(&mut agent, guard);
    agent.stop();
}
