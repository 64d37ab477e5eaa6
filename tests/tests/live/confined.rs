//! Processes in containers' walls: cpusets and pid namespaces.

use std::io;

use numa_agent_tests::agent;

use super::*;

/// A cgroup of the cpuset controller, for the time of a test.
struct Cpuset {
    path: PathBuf,
    name: String,
}

impl Cpuset {
    /// Makes one that allows `cpus`; `Err`: why this host has none to offer.
    fn new(test: &str, cpus: &CpuSet) -> Result<Self, String> {
        let (root, mems) = Self::hierarchy()?;
        let name = format!("numa-agent-{test}-{}", std::process::id());
        let cpuset = Self { path: root.join(&name), name };
        let at = |path: PathBuf, error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&cpuset.path).map_err(|error| at(cpuset.path.clone(), error))?;
        let mems = fs::read_to_string(root.join(mems)).map_err(|error| at(root, error))?;
        for (file, value) in [("cpuset.cpus", cpus.to_string()), ("cpuset.mems", mems)] {
            let file = cpuset.path.join(file);
            fs::write(&file, value.trim()).map_err(|error| at(file, error))?;
        }
        Ok(cpuset)
    }

    /// Where the controller is at hand without a change to the host, and which file there lists the memory nodes.
    fn hierarchy() -> Result<(PathBuf, &'static str), String> {
        let mounts = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
        for mount in mounts.lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let [_, path, kind, options, ..] = fields[..] else { continue };
            let path = PathBuf::from(path);
            let delegated = || fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
            match kind {
                "cgroup" if options.split(',').any(|option| option == "cpuset") => {
                    return Ok((path, "cpuset.mems"));
                }
                "cgroup2" if delegated().split_whitespace().any(|name| name == "cpuset") => {
                    return Ok((path, "cpuset.mems.effective"));
                }
                _ => {}
            }
        }
        Err("no cgroup hierarchy has the cpuset controller".to_owned())
    }

    fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("move a process into the cpuset");
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        // Its tasks end with the test; the kernel may take a moment to see them off.
        for _ in 0..200 {
            match fs::remove_dir(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        eprintln!("cannot remove {}", self.path.display());
    }
}

/// A cpuset of `cpus`, or `None` with a word why not.
fn cpuset(test: &str, cpus: &CpuSet) -> Option<Cpuset> {
    Cpuset::new(test, cpus).map_err(|why| skip(test, &why)).ok()
}

#[test]
fn a_cpuset_that_allows_part_of_the_plan_is_named() {
    let Some(stage) = stage("cpuset-part") else { return };
    let Some(cpuset) = cpuset("cpuset-part", &stage.forward) else { return };
    // A machine of one node: everybody's plan is all CPUs.
    write_sysfs(&machine(&[&stage.all]), &stage.dir.path().join("one")).unwrap();
    let mut config = stage.config();
    config["policy"] = json!("generic");
    stage.write_config(&config);
    let one = stage.dir.path().join("one").to_str().unwrap().to_owned();
    let mut args = stage.args();
    args.truncate(2);
    let mut agent = Agent::start(args.into_iter().chain(["--sysfs-root".to_owned(), one]));

    let puppet = stage.puppet("idle");
    cpuset.take(puppet.pid());
    let mut puppet = puppet;
    puppet.exec("worker").unwrap();
    let pid = puppet.pid();
    let event = agent.wait_for("answer to exec", |event| event["event"] == "bound" && event["pid"] == pid);
    assert_eq!(
        (&event["cpus"], &event["actual_cpus"]),
        (&json!(stage.all), &json!(stage.forward)),
        "{event}"
    );
    let result = event["result"].as_str().unwrap();
    assert!(["bound", "unchanged"].contains(&result), "it is as good as can be: {event}");
    let warning = agent.wait_for("warning", |event| event["event"] == "warning");
    let text = warning["warning"].as_str().unwrap();
    assert!(text.contains(&cpuset.name) && text.contains("cpuset"), "{text}");
    assert!(agent.stderr().contains(&cpuset.name), "also for people: {}", agent.stderr());
    stage.settle_on(pid, &stage.forward);
    agent.stop();
}

#[test]
fn a_cpuset_beside_the_plan_is_a_failure() {
    let Some(stage) = stage("cpuset-beside") else { return };
    let Some(cpuset) = cpuset("cpuset-beside", &stage.forward) else { return };
    let puppet = stage.puppet("worker");
    cpuset.take(puppet.pid());
    stage.settle_on(puppet.pid(), &stage.forward);

    let args = ["bind", "--apply", "--format", "json"].map(str::to_owned);
    let output = agent::run(args.into_iter().chain(stage.args()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let process = &report["processes"][0];
    assert_eq!(process["pid"], puppet.pid(), "{report}");
    let result = process["threads"][0]["result"].as_str().unwrap();
    assert!(result.starts_with("failed: ") && result.contains("cpuset"), "{result}");
    assert!(result.contains(&stage.members.to_string()), "what was asked for: {result}");

    let mut agent = stage.agent();
    let event = agent.wait_for("failure", |event| event["event"] == "bound" && event["pid"] == puppet.pid());
    let result = event["result"].as_str().unwrap();
    assert!(result.starts_with("failed: ") && result.contains("cpuset"), "{event}");
    stage.settle_on(puppet.pid(), &stage.forward);
    agent.stop();
}

#[test]
fn a_thread_re_pinned_inside_a_pid_namespace_is_put_back() {
    let Some(stage) = stage("pid-namespace") else { return };
    let mut agent = stage.agent();
    let mut puppet = Puppet::start_in_pid_namespace(&stage.family, "worker").unwrap();
    assert_eq!(puppet.pid(), 1, "its number in there");
    let thread = puppet.thread("forward_0").unwrap();
    stage.settle_on(1, &stage.members);
    stage.settle_on(thread, &stage.forward);
    // By the number in there, which out here is somebody else's or nobody's.
    puppet.order(&Order::PinOther { from: 1, tid: thread, cpus: stage.members.clone() }).unwrap();
    let event = agent.wait_for("answer to the pin", |event| {
        event["event"] == "bound" && event["cause"] == "setaffinity" && event["comm"] == "forward_0"
    });
    assert_eq!(event["caller"]["pid"], event["pid"], "by its own process: {event}");
    assert_ne!(event["tid"], thread, "the number out here: {event}");
    stage.settle_on(thread, &stage.forward);
    puppet.stop().unwrap();
    agent.stop();
}
