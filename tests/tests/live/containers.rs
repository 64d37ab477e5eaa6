//! Containers of a real runtime: bound by rule, each an instance of its own, and called by their names.

use numa_agent_tests::{agent, container::Runtime};

use super::*;

#[test]
fn containers_are_bound_by_rule_and_called_by_name() {
    let Some(stage) = stage("containers") else { return };
    let mut runtime = match Runtime::new(&stage.family.exe) {
        Ok(runtime) => runtime,
        Err(why) => return skip("containers", &why),
    };
    let mut config = stage.config();
    // Two groups that divide the CPUs, so that one container can be told from the other.
    (config["policy"], config["layout"]) = (json!("generic"), json!("split"));
    (config["groups_per_socket"], config["align"]) = (json!(2), json!("none"));
    (config["group_patterns"], config["forward_thread_patterns"]) = (json!([]), json!([]));
    config["rules"] = json!([{
        "role": "group", "cgroup": "libpod", "cmdline": format!("--role worker --tag {} ", stage.family.tag),
    }]);
    write_sysfs(&one_socket(&[&stage.all]), &stage.dir.path().join("sys")).unwrap();
    stage.write_config(&config);
    let agent = stage.agent();

    // The same command line outside is nobody's.
    let outside = stage.puppet("worker");
    let names = ["first", "second"].map(|name| format!("{name}-{}", std::process::id()));
    let arguments =
        ["--role", "worker", "--tag", &stage.family.tag, "--instance", "0", "--out", "/witness", "--puppet"];
    let pids = names.each_ref().map(|name| runtime.start(name, &stage.family.out, &arguments));
    for (pid, place) in pids.iter().zip([&stage.members, &stage.forward]) {
        eventually(|| match sys::affinity(*pid) {
            Ok(mask) if mask == *place => Ok(()),
            mask => Err(format!("{pid} is on {mask:?}, not {place}: {}", agent.stderr())),
        });
    }
    assert_eq!(sys::affinity(outside.pid()).unwrap(), stage.all);

    let socket = utf8(&agent.socket());
    let status = agent::json(["status", "--format", "json", "--socket", &socket]);
    let containers: Vec<&Value> =
        status["groups"].as_array().unwrap().iter().map(|group| &group["container"]).collect();
    for (container, name) in containers.iter().zip(&names) {
        assert_eq!(container["name"], **name, "{status}");
        assert_eq!((&container["runtime"], &container["pod"]), (&json!("podman"), &Value::Null));
        assert_eq!(container["id"], runtime.inspect(name, "{{.Id}}"));
    }
    let text = agent::run(["status", "--socket", &socket]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(names.iter().all(|name| text.contains(&format!("{name} (pod"))), "{text}");
    agent.stop();
    outside.stop().unwrap();
}
