//! Root without one capability, as in a container: what it takes is said, and nobody is worse off.

use std::process::Command;

use numa_agent_tests::{agent, holder::Holder};

use super::*;

/// The binary, without a capability.
fn without(capability: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &format!("-{capability}"), "--"]).arg(agent::binary());
    command
}

/// What `repair` says of one process that has memory where the plan has it not, without a capability; and its exit code.
fn repair(stage: &Stage, capability: &str, more: &[&str]) -> (Value, Option<i32>) {
    let mut command = without(capability);
    command.args(["repair", "--format", "json"]).args(stage.args()).args(more);
    let output = command.output().expect("setpriv is part of util-linux");
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let processes = report["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 1, "{report}");
    (processes[0].clone(), output.status.code())
}

/// Enough to be judged by (`docs/memory.md`).
const PAGES: u32 = 72 << 8;

#[test]
fn repair_says_which_capability_it_takes() {
    let Some(stage) = stage("repair-restricted") else { return };
    if sys::memory_policy().is_err() {
        return skip("repair-restricted", "no memory policies here");
    }
    // The plan has a second node for half of what is on the first; this machine may not have it.
    let mut puppet = stage.puppet("worker");
    puppet.order(&Order::Take { pages: PAGES }).unwrap();
    let (process, code) = repair(&stage, "sys_ptrace", &["--apply", "--set-policy"]);
    let result = process["result"].as_str().unwrap();
    assert!(code == Some(1) && result.starts_with("failed: where the pages of process "), "{process}");
    assert!(result.contains("CAP_SYS_PTRACE"), "{result}");
    let refused = process["threads"]["refused"].as_array().unwrap();
    let named = |why: &Value| why.as_str().is_some_and(|why| why.contains("CAP_SYS_PTRACE"));
    assert!(!refused.is_empty() && refused.iter().all(named), "{process}");

    let (process, code) = repair(&stage, "sys_nice", &["--apply", "--shared"]);
    assert_eq!((code, &process["result"]), (Some(1), &json!("failed: not all could be moved")), "{process}");
    let reasons: Vec<&String> = process["unmoved_pages"].as_object().unwrap().keys().collect();
    assert_eq!(reasons, ["--shared takes CAP_SYS_NICE"], "{process}");
    assert_eq!(process["moved_bytes"], 0, "{process}");
    // All that is asked for without `--shared` it may, whatever this machine has no node for.
    let (process, _) = repair(&stage, "sys_nice", &["--apply", "--set-policy"]);
    let refused = process["threads"]["refused"].to_string() + &process["unmoved_pages"].to_string();
    assert!(!refused.contains("CAP_"), "{process}");
    puppet.stop().unwrap();
}

/// An agent that holds and sets policies, without a capability.
fn agent_without(stage: &Stage, capability: &str) -> Agent {
    let mut config = stage.config();
    (config["hold"], config["memory"]) = (json!(true), json!({ "apply": "inject" }));
    stage.write_config(&config);
    let mut command = without(capability);
    command.arg("run");
    Agent::start_by(command, stage.args(), std::process::Stdio::piped())
}

#[test]
fn who_may_not_trace_holds_and_says_why_no_policy_is_set() {
    let Some(stage) = stage("hold-no-ptrace") else { return };
    let mut agent = agent_without(&stage, "sys_ptrace");
    let guard = numa_agent_tests::holder::next_guard(&mut agent, 0);
    let mut holder = Holder { agent, guard };
    let mut puppet = stage.puppet("worker");
    let release = holder.released(puppet.pid());
    assert_eq!(release["end"], "continued", "{release}");
    let memory = release["memory"].as_str().unwrap();
    assert!(memory.starts_with("refused: ") && memory.contains("CAP_SYS_PTRACE"), "{release}");
    puppet.order(&Order::CheckPolicy { tid: puppet.pid(), mode: 0, nodes: NodeSet::new() }).unwrap();
    stage.settle_on(puppet.pid(), &stage.members);
    puppet.stop().unwrap();
    holder.agent.stop();
}

#[test]
fn who_may_not_signal_holds_nobody_and_binds_all_the_same() {
    let Some(stage) = stage("hold-no-kill") else { return };
    let agent = agent_without(&stage, "kill");
    assert_eq!(agent.warnings("without CAP_KILL nobody could let them go on").len(), 1, "{}", agent.stderr());
    let puppet = stage.puppet("worker");
    stage.settle_on(puppet.pid(), &stage.members);
    puppet.stop().unwrap();
    let summary = agent.stop().events.pop().unwrap();
    assert!(summary["hold"]["held"].as_u64().is_none_or(|held| held == 0), "{summary}");
}
