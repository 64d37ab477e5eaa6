//! The reader on this machine's `/sys`, and inside a cgroup with a cpuset of its own (needs root).

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use numa_agent::host::{cpuset, sysfs};

/// Set for the copy of this program that runs inside the cgroup.
const INSIDE: &str = "NUMA_AGENT_TEST_INSIDE_CPUSET";

#[test]
fn this_host_is_read() {
    let topology = sysfs::read_host().expect("this machine's /sys is read");
    if std::env::var_os(INSIDE).is_some() {
        println!("allowed={} online={}", topology.allowed, topology.online());
    }
    let limits = cpuset::own(Path::new("/")).expect("our cgroup is read");
    let online = fs::read_to_string("/sys/devices/system/cpu/online").expect("cpu/online");
    assert_eq!(topology.online().to_string(), online.trim());
    assert!(topology.allowed.is_subset(&topology.online()) && !topology.allowed.is_empty());
    if let Some(cpus) = limits.cpus {
        assert_eq!(topology.allowed, cpus.intersection(&topology.online()));
    }
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let mems = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:")).map(str::trim);
    assert_eq!(
        Some(topology.allowed_mems.to_string().as_str()),
        mems,
        "the kernel's word for our cpuset's nodes"
    );
}

/// A cgroup with the cpuset controller, removed when dropped.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

fn limited(cpus: &str, mems: &str) -> Result<Cgroup, String> {
    // Version 1, then version 2 where the root hands the controller down.
    let roots = ["/sys/fs/cgroup/cpuset", "/sys/fs/cgroup"].map(Path::new);
    let name = format!("numa-agent-test-{}", std::process::id());
    let mut why = "no cpuset controller is mounted".to_owned();
    for root in roots.into_iter().filter(|root| root.join("cgroup.procs").exists()) {
        let cgroup = Cgroup(root.join(&name));
        fs::create_dir(&cgroup.0).map_err(|error| format!("{}: {error}", cgroup.0.display()))?;
        let written =
            ["cpuset.cpus", "cpuset.mems"].iter().zip([cpus, mems]).try_for_each(|(file, value)| {
                let path = cgroup.0.join(file);
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                file.write_all(value.as_bytes()).map_err(|e| format!("{}: {e}", path.display()))
            });
        match written {
            Ok(()) => return Ok(cgroup),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// An affinity mask must not count, our cgroup must.
#[test]
fn our_cgroup_limits_what_is_allowed_and_our_mask_does_not() {
    let host = sysfs::read_host().expect("this machine's /sys is read");
    let (Some(last), Some(mem)) = (host.allowed.last(), host.allowed_mems.first()) else {
        panic!("nothing is allowed: {host:?}")
    };
    let me = std::env::current_exe().expect("our path");
    let allowed = |setup: String| {
        let output = Command::new("sh")
            .args(["-c", &format!("{setup} exec \"$0\" --exact this_host_is_read --nocapture")])
            .arg(&me)
            .env(INSIDE, "1")
            .stderr(Stdio::inherit())
            .output()
            .expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let line = text.lines().find_map(|line| line.split_once("allowed="));
        line.and_then(|(_, rest)| rest.split(' ').next()).map(str::to_owned).expect("what is allowed")
    };
    assert_eq!(allowed(format!("taskset -cp {last} $$ >/dev/null &&")), host.allowed.to_string());
    match limited(&last.to_string(), &mem.to_string()) {
        Ok(cgroup) => {
            let procs = cgroup.0.join("cgroup.procs");
            assert_eq!(allowed(format!("echo $$ > {} &&", procs.display())), last.to_string());
        }
        Err(why) => {
            numa_agent_tests::skip(&format!("our own cpuset (needs root and a cpuset controller): {why}"));
        }
    }
}
