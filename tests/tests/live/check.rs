//! `check` beside a running service: what it says of placement is what the kernel says, with an agent and without.

use std::process::Output;

use numa_agent_tests::agent;

use super::*;

/// What `check` says of section B, and its exit code.
pub(super) fn check(stage: &Stage, more: &[&str]) -> (Value, Output) {
    let report = utf8(&stage.dir.path().join("check.md"));
    let own = ["check", "--section", "B", "--format", "json", "--report", &report].map(str::to_owned);
    let more = more.iter().map(|&arg| arg.to_owned());
    let output = agent::run(own.into_iter().chain(stage.args()).chain(more));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    (value, output)
}

pub(super) fn item<'a>(report: &'a Value, id: &str) -> &'a Value {
    let items = report["sections"][0]["items"].as_array().expect("items");
    items.iter().find(|item| item["id"] == id).expect("the item")
}

fn verdict<'a>(report: &'a Value, id: &str) -> &'a str {
    item(report, id)["verdict"].as_str().expect("a verdict")
}

#[test]
fn check_verifies_every_thread_and_names_the_one_that_strays() {
    let Some(stage) = stage("check") else { return };
    let mut config = stage.config();
    // There is no third socket, and the plan would say so.
    config["others_socket_index"] = json!(0);
    stage.write_config(&config);
    let mut stack = stage.stack(0);
    stack.start_instance().unwrap();
    let agent = stage.agent();
    stage.settle();
    let socket = utf8(&agent.socket());
    // Who was bound a moment ago may have run elsewhere in that moment.
    let (placed, _) = check(&stage, &["--socket", &socket, "--observe", "1s"]);
    for id in ["B1", "B2", "B3", "B4", "B7"] {
        assert_eq!(verdict(&placed, id), "pass", "{placed:#}");
    }
    let found = item(&placed, "B7")["found"][0].to_string();
    assert!(found.contains(&format!("the agent (pid {})", agent.pid())), "{found}");
    let threads = placed["evidence"]["bind"]["processes"].as_array().unwrap().iter();
    let threads: Vec<&Value> = threads.flat_map(|process| process["threads"].as_array().unwrap()).collect();
    assert!(threads.iter().all(|thread| thread["result"] == "unchanged"), "{threads:#?}");
    assert_eq!(placed["agent"].as_str().map(|agent| agent.contains("enforcing")), Some(true), "{placed:#}");

    // Somebody changes the configuration, and the agent goes by the old one.
    let mut other = config.clone();
    other["layout"] = json!("shared");
    other["groups_per_socket"] = json!(2);
    stage.write_config(&other);
    let (differs, _) = check(&stage, &["--socket", &socket, "--observe", "1s"]);
    assert_eq!(verdict(&differs, "B7"), "fail", "{differs:#}");
    let (found, fix) =
        (item(&differs, "B7")["found"][0].to_string(), item(&differs, "B7")["fixes"][0].to_string());
    assert!(found.contains("another plan than the one that is checked: "), "{found}");
    assert!(
        found.contains("none there") && fix.contains(&format!("kill -HUP {}", agent.pid())),
        "{found}; {fix}"
    );
    stage.write_config(&config);
    agent.stop();

    // Nobody puts it back now.
    let records = stage.records();
    let forward = records.iter().find(|look| is_forward(&look.comm) && look.role == "worker").unwrap();
    let (pid, tid) = (forward.pid, forward.tid);
    sys::set_affinity(tid, &stage.members).unwrap();
    let (strayed, output) = check(&stage, &["--socket", &socket, "--observe", "2s"]);
    assert_eq!(output.status.code(), Some(1));
    let (members, forward) = (&stage.members, &stage.forward);
    let name = &forward_name(tid);
    assert_eq!(
        item(&strayed, "B4")["found"],
        json!([format!(
            "pid {pid} tid {tid} ({name}), forward of socket0_group0: planned {forward}, may run on {members}"
        )]),
    );
    let found = item(&strayed, "B7")["found"].as_array().unwrap();
    assert_eq!(verdict(&strayed, "B7"), "fail", "{strayed:#}");
    assert!(
        found.len() == 1 && found[0].to_string().contains(&format!("tid {tid} ({name}): ")),
        "{found:#?}"
    );
    let report = fs::read_to_string(stage.dir.path().join("check.md")).unwrap();
    assert!(
        report.contains("# NUMA acceptance check: FAIL") && report.contains(&tid.to_string()),
        "{report}"
    );
    stack.stop().unwrap();
}

fn forward_name(tid: u32) -> String {
    fs::read_to_string(format!("/proc/{tid}/comm")).unwrap().trim().to_owned()
}
