//! The unit that packages install, run by a real service manager: it does its job with exactly the capabilities that it lists, and each of
//! them is needed.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent_tests::manager::{GROUP, Manager};

use super::*;

/// Nobody's user and group id.
const NOBODY: &str = "65534";

/// The capabilities that the unit may list: name, number, and whether the agent keeps it once its programs are in force.
const CAPABILITIES: [(&str, u32, bool); 6] = [
    ("CAP_DAC_READ_SEARCH", 2, true),
    ("CAP_KILL", 5, true),
    ("CAP_SYS_PTRACE", 19, true),
    ("CAP_SYS_NICE", 23, true),
    ("CAP_PERFMON", 38, false),
    ("CAP_BPF", 39, true),
];

/// The unit.
fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../numa-agent/packaging/numa-agent.service")
}

/// What the unit says of `key`.
fn says(key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit()).unwrap();
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// Those capabilities as `/proc/PID/status` shows them.
fn mask(has: impl Fn(&str, bool) -> bool) -> String {
    let bits = CAPABILITIES.iter().filter(|(name, _, kept)| has(name, *kept)).map(|(_, bit, _)| 1u64 << bit);
    format!("{:016x}", bits.sum::<u64>())
}

/// The stage and a manager with the unit, and a configuration that takes all that the agent can tell of other users' processes: two
/// groups, the CPUs divided between them; `TEAM` in the environment says who belongs together.
fn managed_stage(test: &str) -> Option<(Stage, Manager)> {
    let mut stage = stage(test)?;
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(stage.dir.path(), 0o755);
    open(&stage.family.out, 0o777);
    let exe = stage.dir.path().join("serving-stack");
    assert!(Command::new("cp").arg(&stage.family.exe).arg(&exe).status().unwrap().success());
    stage.cast.family.exe = exe;
    let config = format!(
        "policy = 'generic'\ngroups_per_socket = 2\nalign = 'none'\nforward_thread_patterns = []\ngroup_by = 'env:TEAM'\nhold = true\n\
         [[rules]]\nrole = 'group'\nexe = '/serving-stack$'\ncmdline = '--role worker --tag {} '\nuid = {NOBODY}\n",
        stage.family.tag
    );
    match Manager::start(&unit(), &config) {
        Ok(manager) => Some((stage, manager)),
        Err(why) => {
            skip(test, &why);
            None
        }
    }
}

/// A worker of another user's, in that team.
fn worker(stage: &Stage, team: &str) -> Puppet {
    let mut starter = Command::new("setpriv");
    starter.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
    starter.env("TEAM", team);
    Puppet::start_by(starter, &stage.family, "worker", 0).expect("start a worker as another user")
}

/// Starts the service; whether it is up.
fn start(manager: &Manager) -> bool {
    manager.control(&["start", "numa-agent"]).status.success()
}

fn stop(manager: &Manager) {
    let output = manager.control(&["stop", "numa-agent"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A line of `/proc/PID/status` of each of its threads.
fn lines(pid: &str, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let line = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix(key))?.trim().to_owned())
    };
    tasks.filter_map(line).collect()
}

/// The guard of the agent `pid`.
fn guard(pid: &str) -> String {
    eventually(|| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let is_guard = |child: &&str| {
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim() == "numa-guard")
        };
        children
            .split_whitespace()
            .find(is_guard)
            .map(str::to_owned)
            .ok_or_else(|| format!("no guard in {children:?}"))
    })
}

#[test]
fn the_unit_does_its_job_with_the_capabilities_that_it_lists() {
    let Some((stage, manager)) = managed_stage("unit") else { return };
    // As the unit has it: other tests want to see it end.
    manager.amend(&format!("Restart={}", says("Restart").join(" ")));
    // It returns as soon as the service says that it is ready.
    assert!(start(&manager), "{}", manager.said());
    assert_eq!(manager.property("ActiveState"), "active");

    let (half, other) = (stage.members.clone(), stage.forward.clone());
    let team = [worker(&stage, "one"), worker(&stage, "one"), worker(&stage, "two")];
    for (worker, place) in team.iter().zip([&half, &half, &other]) {
        stage.settle_on(worker.pid(), place);
    }

    let pid = manager.property("MainPID");
    let guard = guard(&pid);
    let listed = mask(|_, _| true);
    let kept = mask(|_, kept| kept);
    for process in [&pid, &guard] {
        assert_eq!(lines(process, "CapBnd:").pop(), Some(listed.clone()));
        assert_eq!(lines(process, "Seccomp:").pop().as_deref(), Some("2"));
        for set in ["CapEff:", "CapPrm:"] {
            let threads = lines(process, set);
            let none = mask(|_, _| false);
            // The thread that writes messages has none.
            assert!(threads.iter().all(|has| *has == kept || *has == none), "{set} {threads:?}, not {kept}");
            assert!(threads.contains(&kept));
        }
    }
    let socket = fs::metadata(manager.path("/run/numa-agent/agent.sock")).unwrap();
    assert_eq!((socket.gid(), socket.mode() & 0o777), (GROUP, 0o660));
    let status = manager.inside("numa-agent").args(["status", "--format", "json"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status.to_string().contains("socket0_group1"), "{status}");

    // A crash: who is bound stays bound, and another agent goes on with them.
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    eventually(|| {
        assert_eq!(sys::affinity(team[2].pid()).unwrap(), other, "while there is none");
        let (now, state) = (manager.property("MainPID"), manager.property("ActiveState"));
        let up = now != pid && now != "0" && state == "active";
        if up { Ok(()) } else { Err(format!("{state}, pid {now}, after {pid}: {}", manager.said())) }
    });
    assert_eq!(manager.property("NRestarts"), "1");
    let late = worker(&stage, "two");
    stage.settle_on(late.pid(), &other);
    assert_eq!(sys::affinity(team[0].pid()).unwrap(), half);

    let config = manager.path("/etc/numa-agent/config.toml");
    fs::write(&config, "rubbish").unwrap();
    assert!(manager.control(&["reload", "numa-agent"]).status.success());
    eventually(|| match manager.said() {
        said if said.contains("config.toml:1") => Ok(()),
        said => Err(format!("no word of the bad configuration: {said}")),
    });

    stop(&manager);
    assert_eq!(manager.property("Result"), "success");
    let said = manager.said();
    assert!(
        !said.contains("not permitted") && !said.contains("EPERM"),
        "something is forbidden that it does: {said}"
    );
    assert!(fs::metadata(manager.path("/var/lib/numa-agent/jitter.md")).is_ok(), "{said}");
    assert_eq!(sys::affinity(team[0].pid()).unwrap(), half, "who is bound stays bound");
}

#[test]
fn each_capability_of_the_unit_is_needed() {
    let Some((stage, manager)) = managed_stage("unit-capabilities") else { return };
    let (listed, known) = (says("CapabilityBoundingSet"), CAPABILITIES.map(|(name, ..)| name.to_owned()));
    assert_eq!(BTreeSet::from_iter(listed.iter()), BTreeSet::from_iter(known.iter()));

    // There before the service, so that it has dealt with them when it is ready.
    let team = [worker(&stage, "one"), worker(&stage, "one")];
    let both = |cpus: &CpuSet| [cpus.clone(), cpus.clone()];
    // Starts without a capability; whether that went well, and where the two are then.
    let attempt = |without: Option<&str>| {
        team.iter().for_each(|worker| sys::set_affinity(worker.pid(), &stage.all).unwrap());
        fs::write(manager.path("/run/said"), "").unwrap();
        let rest: Vec<&str> =
            listed.iter().map(String::as_str).filter(|name| Some(*name) != without).collect();
        manager.amend(&format!("CapabilityBoundingSet=\nCapabilityBoundingSet={}", rest.join(" ")));
        let up = start(&manager);
        let masks = team.each_ref().map(|worker| sys::affinity(worker.pid()).unwrap());
        (up, masks)
    };
    let said_of = |words: &str| {
        eventually(|| match manager.said() {
            said if said.contains(words) => Ok(()),
            said => Err(format!("not a word of {words}: {said}")),
        });
    };
    assert_eq!(attempt(None), (true, both(&stage.members)), "{}", manager.said());
    stop(&manager);
    assert!(!manager.said().contains("CAP_"), "{}", manager.said());

    for name in &listed {
        let (up, masks) = attempt(Some(name));
        let (expected, words) = match name.as_str() {
            "CAP_BPF" => ((false, both(&stage.all)), "failed to create map"),
            "CAP_PERFMON" => ((false, both(&stage.all)), "BPF_PROG_LOAD"),
            "CAP_SYS_NICE" => ((true, both(&stage.all)), "run as root or with CAP_SYS_NICE"),
            // Whose program they run cannot be told, so no rule fits.
            "CAP_SYS_PTRACE" => ((true, both(&stage.all)), "managing 0 threads"),
            // Nor their team: each is an instance of its own.
            "CAP_DAC_READ_SEARCH" => ((true, [stage.members.clone(), stage.forward.clone()]), "TEAM"),
            "CAP_KILL" => ((true, both(&stage.members)), "without CAP_KILL"),
            other => panic!("{other} is listed and not tested"),
        };
        assert_eq!((up, masks), expected, "without {name}: {}", manager.said());
        said_of(words);
        stop(&manager);
    }
}
