//! `numa-agent exec` beside a running agent.

use numa_agent_tests::agent;

use super::*;

#[test]
fn a_program_that_exec_starts_is_on_plan_before_the_agent_hears_of_it() {
    let Some(stage) = stage("launch") else { return };
    let mut agent = stage.agent();
    let mut starter = agent::command(["exec", "--group", "auto"]);
    starter.args(stage.args()).arg("--");
    let mut puppet = Puppet::start_by(starter, &stage.family, "worker", 0).unwrap();
    let pid = puppet.pid();
    let event = agent.wait_for("answer to exec", |event| event["event"] == "bound" && event["pid"] == pid);
    assert_eq!((&event["cause"], &event["result"]), (&json!("exec"), &json!("unchanged")), "{event}");
    assert_eq!(event["comm"], "serving-stack", "while it was numa-agent exec, it was nobody's: {event}");
    let records = stage.records();
    let first = records.iter().find(|look| look.tid == pid).unwrap();
    assert_eq!((first.point, &first.cpus), (Point::Main, &stage.members), "{first:?}");
    assert!(stage.members.contains(first.cpu), "{first:?}");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(thread, &stage.forward);
    stage.settle_on(pid, &stage.members);
    puppet.stop().unwrap();
    agent.stop();
}
