//! Reads what surrounds a plan: kernel settings, daemons, and what else decides where a process runs.
//!
//! Everything is below a root that stands for `/`. What is not there, or is not ours to read, is not known; no error.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::{
    cpuset::{self, CpusetError},
    irq::balancer,
    sysfs::{self, SysfsError},
};
use crate::core::{
    check::facts::{
        CpusetInForce, Daemon, DaemonKind, ProcessSurroundings, Surroundings, Tuned, binds_by_argument,
        binds_by_variable, launches_bound, placing_key, placing_setting,
    },
    idset::{CpuSet, IdSet},
    task::join_arguments,
};

/// How far up a process's ancestors are followed.
const MAX_ANCESTORS: usize = 64;
/// How many profiles of TuneD may include one another.
const MAX_PROFILES: usize = 16;
/// Where systemd's unit files are.
const UNITS: [&str; 6] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Where TuneD's profiles are; the first two are of versions before 2.23.
const PROFILES: [&str; 4] = ["etc/tuned", "usr/lib/tuned", "etc/tuned/profiles", "usr/lib/tuned/profiles"];

/// Reads the host's.
///
/// # Errors
/// [`SysfsError`], naming the file that is there and makes no sense.
pub fn read(root: &Path) -> Result<Surroundings, SysfsError> {
    Ok(Surroundings {
        conditions: sysfs::conditions::read(root)?,
        smt: text(root, "sys/devices/system/cpu/smt/control"),
        governors: governors(root),
        clock: clock(root),
        daemons: daemons(root),
    })
}

/// Reads a process's.
///
/// # Errors
/// [`CpusetError`], naming the file of its cgroup that is there and makes no sense.
pub fn of_process(root: &Path, pid: u32) -> Result<ProcessSurroundings, CpusetError> {
    Ok(ProcessSurroundings {
        own_binding: own_binding(root, pid),
        launchers: launchers(root, pid),
        unit: unit(root, pid),
        cpuset: cpuset::of(root, pid)?.map(|(cgroup, limits)| CpusetInForce {
            cgroup,
            cpus: limits.cpus,
            mems: limits.mems,
        }),
        swapped_bytes: swapped(root, pid),
    })
}

/// `/etc/machine-id`; empty where there is none.
#[must_use]
pub fn machine_id(root: &Path) -> String {
    text(root, "etc/machine-id").unwrap_or_default()
}

fn text(root: &Path, file: &str) -> Option<String> {
    let bytes = fs::read(root.join(file)).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn governors(root: &Path) -> BTreeMap<String, CpuSet> {
    let dir = "sys/devices/system/cpu/cpufreq";
    let mut governors = BTreeMap::<String, CpuSet>::new();
    for policy in entries(&root.join(dir)) {
        let file = |name: &str| text(root, &format!("{dir}/{policy}/{name}"));
        // affected_cpus: those that are online, by spaces.
        if let (Some(governor), Some(cpus)) = (file("scaling_governor"), file("affected_cpus")) {
            let cpus = cpus.split_whitespace().filter_map(|cpu| cpu.parse::<u32>().ok());
            governors.entry(governor).or_default().extend(cpus);
        }
    }
    governors
}

fn clock(root: &Path) -> Option<(String, Vec<String>)> {
    let file = |name: &str| text(root, &format!("sys/devices/system/clocksource/clocksource0/{name}"));
    let all = file("available_clocksource").unwrap_or_default();
    Some((file("current_clocksource")?, all.split_whitespace().map(str::to_owned).collect()))
}

fn daemons(root: &Path) -> Vec<Daemon> {
    let mut pids: Vec<u32> =
        entries(&root.join("proc")).iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let daemon = |pid: u32| {
        let kind = match text(root, &format!("proc/{pid}/comm"))?.as_str() {
            "irqbalance" => DaemonKind::Irqbalance(banned(root, pid)),
            "numad" => DaemonKind::Numad,
            // Its threads' names are others; a zombie has no command line.
            "tuned" if !cmdline(root, pid).is_empty() => DaemonKind::Tuned(tuned(root)),
            _ => return None,
        };
        Some(Daemon { pid, kind })
    };
    pids.into_iter().filter_map(daemon).collect()
}

/// What is forbidden to irqbalance: by its own word, which only root gets, else by its environment: `IRQBALANCE_BANNED_CPULIST` (since 1.8), `IRQBALANCE_BANNED_CPUS`, a mask.
fn banned(root: &Path, pid: u32) -> Option<CpuSet> {
    let folder = root.join(balancer::FOLDER.trim_start_matches('/'));
    if let Ok(cpus) = balancer::cpu_bans(&balancer::socket_of(&folder, pid)) {
        return Some(cpus);
    }
    let environ = environ(root, pid)?;
    let value = |name: &str| environ.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let list = value("IRQBALANCE_BANNED_CPULIST").and_then(|list| list.parse().ok());
    Some(list.or_else(|| IdSet::from_mask(value("IRQBALANCE_BANNED_CPUS")?).ok()).unwrap_or_default())
}

fn tuned(root: &Path) -> Tuned {
    let Some(active) = text(root, "etc/tuned/active_profile").filter(|name| !name.is_empty()) else {
        return Tuned::Unknown("/etc/tuned/active_profile names no profile".to_owned());
    };
    let mut names: Vec<String> = active.split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        at += 1;
        let files = PROFILES.iter().map(|dir| format!("{dir}/{name}/tuned.conf"));
        let Some(profile) = files.into_iter().find_map(|file| text(root, &file)) else {
            return Tuned::Unknown(format!("no tuned.conf of profile {name} can be read"));
        };
        if let Some(setting) = placing_setting(&profile) {
            return Tuned::Places { profile: active, setting: format!("{name}: {setting}") };
        }
        for line in profile.lines().filter_map(|line| line.split_once('=')) {
            if line.0.trim() == "include" && names.len() < MAX_PROFILES {
                // Optional ones begin with -.
                let included = line.1.split([',', ' ']).map(|name| name.trim().trim_start_matches('-'));
                names.extend(included.filter(|name| !name.is_empty()).map(str::to_owned));
            }
        }
    }
    Tuned::Quiet { profile: active }
}

fn cmdline(root: &Path, pid: u32) -> String {
    join_arguments(&fs::read(root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default())
}

/// The environment a process was started with; `None` where we may not look.
fn environ(root: &Path, pid: u32) -> Option<Vec<(String, String)>> {
    let bytes = match fs::read(root.join(format!("proc/{pid}/environ"))) {
        Ok(bytes) => bytes,
        // It is gone, and so is what it would do.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(_) => return None,
    };
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn own_binding(root: &Path, pid: u32) -> Option<Vec<String>> {
    let variables = environ(root, pid)?;
    let variables = variables.iter().filter(|(name, value)| binds_by_variable(name, value));
    let mut found: Vec<String> = variables.map(|(name, value)| format!("{name}={value}")).collect();
    let arguments = fs::read(root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default();
    let arguments = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    found.extend(
        arguments.filter(|argument| binds_by_argument(argument)).map(|argument| argument.into_owned()),
    );
    Some(found)
}

fn launchers(root: &Path, pid: u32) -> Vec<String> {
    let parent = |pid: &u32| status(root, *pid, "PPid:")?.parse::<u32>().ok().filter(|parent| *parent > 1);
    let ancestors = std::iter::successors(parent(&pid), parent).take(MAX_ANCESTORS);
    let lines = ancestors.map(|ancestor| (ancestor, cmdline(root, ancestor)));
    lines
        .filter(|(_, line)| launches_bound(line))
        .map(|(ancestor, line)| format!("pid {ancestor} ({line})"))
        .collect()
}

/// The first word of a line of `status`.
fn status(root: &Path, pid: u32, label: &str) -> Option<String> {
    let text = text(root, &format!("proc/{pid}/status"))?;
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn swapped(root: &Path, pid: u32) -> Option<u64> {
    status(root, pid, "VmSwap:")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The lines that place a process, of its unit's files and of the slices' above it.
fn unit(root: &Path, pid: u32) -> Vec<(String, String)> {
    let cgroups = text(root, &format!("proc/{pid}/cgroup")).unwrap_or_default();
    // The unified hierarchy's, or systemd's own of v1.
    let path = cgroups.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    });
    let mut names: Vec<&str> = path.unwrap_or_default().split('/').collect();
    names.retain(|name| [".service", ".slice", ".scope"].iter().any(|kind| name.ends_with(kind)));
    names.iter().flat_map(|name| placing_lines(root, name)).collect()
}

/// Those of one unit, each with its file: of the unit's own in the first directory that has one, and of its drop-ins, the
/// first directory's of each name. An empty value takes back what came before.
fn placing_lines(root: &Path, name: &str) -> Vec<(String, String)> {
    let own = UNITS.iter().map(|dir| format!("{dir}/{name}")).find(|file| root.join(file).exists());
    let mut drop_ins = BTreeMap::new();
    for dir in UNITS.map(|dir| format!("{dir}/{name}.d")) {
        for file in entries(&root.join(&dir)).into_iter().filter(|file| file.ends_with(".conf")) {
            drop_ins.entry(file.clone()).or_insert_with(|| format!("{dir}/{file}"));
        }
    }
    let mut found: Vec<(String, String)> = Vec::new();
    for file in own.into_iter().chain(drop_ins.into_values()) {
        let text = text(root, &file).unwrap_or_default();
        for line in text.lines().map(str::trim) {
            let Some(key) = placing_key(line) else { continue };
            if line.ends_with('=') {
                found.retain(|(_, line)| placing_key(line) != Some(key));
            } else {
                found.push((format!("/{file}"), line.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
    };

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_hosts_settings_are_read() {
        let cpufreq = "sys/devices/system/cpu/cpufreq";
        let dir = tree(&[
            ("sys/devices/system/cpu/smt/control", "off\n"),
            (&format!("{cpufreq}/policy0/scaling_governor"), "performance\n"),
            (&format!("{cpufreq}/policy0/affected_cpus"), "0 1\n"),
            (&format!("{cpufreq}/policy2/scaling_governor"), "schedutil\n"),
            (&format!("{cpufreq}/policy2/affected_cpus"), "2 3\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n"),
            ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet\n"),
        ]);
        let read = read(dir.path()).unwrap();
        assert_eq!(read.smt.as_deref(), Some("off"));
        let governors: Vec<(String, String)> =
            read.governors.into_iter().map(|(name, cpus)| (name, cpus.to_string())).collect();
        assert_eq!(
            governors,
            [("performance".to_owned(), "0-1".to_owned()), ("schedutil".to_owned(), "2-3".to_owned())]
        );
        assert_eq!(read.clock, Some(("hpet".to_owned(), vec!["tsc".to_owned(), "hpet".to_owned()])));
    }

    #[test]
    fn an_empty_root_says_nothing() {
        let dir = tree(&[]);
        assert_eq!(read(dir.path()).unwrap(), Surroundings::default());
        let gone = of_process(dir.path(), 7).unwrap();
        assert_eq!(gone, ProcessSurroundings { own_binding: Some(Vec::new()), ..Default::default() });
    }

    #[test]
    fn daemons_are_told_by_name_with_what_they_may() {
        let dir = tree(&[
            ("proc/10/comm", "irqbalance\n"),
            ("proc/10/environ", "PATH=/bin\0IRQBALANCE_BANNED_CPULIST=40-79\0"),
            ("proc/11/comm", "irqbalance\n"),
            ("proc/11/environ", "IRQBALANCE_BANNED_CPUS=0000000f,00000000\0"),
            ("proc/12/comm", "irqbalance\n"),
            ("proc/12/environ", "PATH=/bin\0"),
            ("proc/13/comm", "numad\n"),
            ("proc/14/comm", "bash\n"),
            ("proc/15/comm", "tuned\n"),
        ]);
        let banned = |list: &str| DaemonKind::Irqbalance(Some(list.parse().unwrap()));
        let found: Vec<(u32, DaemonKind)> =
            daemons(dir.path()).into_iter().map(|daemon| (daemon.pid, daemon.kind)).collect();
        assert_eq!(
            found,
            [(10, banned("40-79")), (11, banned("32-35")), (12, banned("")), (13, DaemonKind::Numad)]
        );
    }

    #[test]
    fn an_irqbalance_that_answers_knows_better_than_its_environment() {
        let dir = tree(&[
            ("proc/10/comm", "irqbalance\n"),
            ("proc/10/environ", "IRQBALANCE_BANNED_CPULIST=40-79\0"),
            ("run/irqbalance/here", ""),
        ]);
        let listener = UnixListener::bind(dir.path().join("run/irqbalance/irqbalance10.sock")).unwrap();
        let says = |answer: &'static str| {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut command = [0; 16];
                let length = stream.read(&mut command).unwrap();
                assert_eq!(&command[..length], b"setup");
                stream.write_all(answer.as_bytes()).unwrap();
            });
            daemons(dir.path()).remove(0).kind
        };
        let banned = |list: &str| DaemonKind::Irqbalance(Some(list.parse().unwrap()));
        assert_eq!(says("SLEEP 10 BANNED 0000000f,00000000"), banned("32-35"));
        assert_eq!(says("no such thing"), banned("40-79"));
    }

    #[test]
    fn a_profile_places_by_itself_or_by_what_it_includes() {
        let of = |files: &[(&str, &str)]| tuned(tree(files).path());
        let active = |name| ("etc/tuned/active_profile", name);
        let throughput = (
            "usr/lib/tuned/throughput-performance/tuned.conf",
            "[cpu]\ngovernor=performance\n[scheduler]\nsched_min_granularity_ns = 10000000\n",
        );
        assert_eq!(
            of(&[active("throughput-performance\n"), throughput]),
            Tuned::Quiet { profile: "throughput-performance".to_owned() }
        );
        let own = ("etc/tuned/mine/tuned.conf", "[main]\ninclude=base, -optional\n");
        let base =
            ("usr/lib/tuned/profiles/base/tuned.conf", "[scheduler]\n# group.x=no\nisolated_cores=2-9\n");
        assert_eq!(
            of(&[active("mine"), own, base]),
            Tuned::Places { profile: "mine".to_owned(), setting: "base: isolated_cores=2-9".to_owned() }
        );
        assert!(matches!(of(&[active("mine")]), Tuned::Unknown(why) if why.contains("profile mine")));
        assert!(matches!(of(&[]), Tuned::Unknown(_)));
    }

    #[test]
    fn what_places_a_process_is_found() {
        let dir = tree(&[
            (
                "proc/7/environ",
                "HOME=/\0OMP_PROC_BIND=close\0CPU_AFFINITY_CONF=mode:0\0KMP_AFFINITY=granularity=fine,compact\0",
            ),
            ("proc/7/cmdline", "python3\0-m\0vllm\0--additional-config\0{\"enable_cpu_binding\": true}\0"),
            ("proc/7/status", "Name:\tpython3\nPPid:\t6\nVmSwap:\t    12 kB\n"),
            ("proc/7/cgroup", "0::/system.slice/serve.service\n"),
            ("proc/6/status", "Name:\tsh\nPPid:\t5\n"),
            ("proc/6/cmdline", "sh\0-c\0numactl --cpunodebind=0 python3 -m vllm\0"),
            ("proc/5/status", "Name:\tsystemd\nPPid:\t1\n"),
            ("proc/5/cmdline", "/usr/bin/start-taskset-free\0"),
            (
                "etc/systemd/system/serve.service",
                "[Service]\nAllowedCPUs=8\nAllowedCPUs=\nCPUAffinity=0-3\nNice=1\n",
            ),
            ("usr/lib/systemd/system/serve.service", "[Service]\nNUMAMask=0\n"),
            ("etc/systemd/system/serve.service.d/numa.conf", "[Service]\nNUMAPolicy = bind\n"),
            ("etc/systemd/system/serve.service.d/note.txt", "NUMAMask=0\n"),
        ]);
        let found = of_process(dir.path(), 7).unwrap();
        assert_eq!(
            found.own_binding.unwrap(),
            [
                "OMP_PROC_BIND=close",
                "KMP_AFFINITY=granularity=fine,compact",
                "{\"enable_cpu_binding\": true}"
            ]
        );
        assert_eq!(found.launchers, ["pid 6 (sh -c numactl --cpunodebind=0 python3 -m vllm)"]);
        let unit: Vec<(&str, &str)> =
            found.unit.iter().map(|(path, line)| (path.as_str(), line.as_str())).collect();
        assert_eq!(
            unit,
            [
                ("/etc/systemd/system/serve.service", "CPUAffinity=0-3"),
                ("/etc/systemd/system/serve.service.d/numa.conf", "NUMAPolicy = bind"),
            ]
        );
        assert_eq!((found.swapped_bytes, found.cpuset), (Some(12 << 10), None));
    }

    #[test]
    fn a_process_has_the_cpuset_of_its_own_cgroup() {
        let dir = tree(&[
            ("proc/self/mountinfo", "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("proc/7/cgroup", "0::/kubepods/one\n"),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
            ("sys/fs/cgroup/kubepods/one/cpuset.cpus.effective", "0-3\n"),
            ("sys/fs/cgroup/cpuset.mems.effective", "0-1\n"),
        ]);
        let cpuset = of_process(dir.path(), 7).unwrap().cpuset.unwrap();
        let [cpus, mems] = [cpuset.cpus.unwrap(), cpuset.mems.unwrap()].map(|set| set.to_string());
        assert_eq!(
            (cpuset.cgroup.as_str(), cpus.as_str(), mems.as_str()),
            ("/sys/fs/cgroup/kubepods/one", "0-3", "0-1")
        );
    }
}
