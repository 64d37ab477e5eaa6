//! What the journal asks of the machine that it is about: who was born of whom, which CPUs there are, and where a cpuset lets its tasks run.

use std::{fs, path::Path};

use crate::{
    core::{
        idset::{CpuSet, IdSet},
        journal::{Cpus, Machine},
    },
    host::{
        cpuset,
        sys::{self, Host, Kernel},
    },
};

/// CPUs come and go, but not for each bind.
const CPUS_LAST_NS: u64 = 1_000_000_000;

/// This machine, for who asks often.
#[derive(Debug, Default)]
pub struct Here {
    cpus: Cpus,
    /// Some are there and offline.
    some_offline: bool,
    looked_at_ns: Option<u64>,
    /// `/proc/self/mountinfo`, for where cpusets are.
    mounts: Option<String>,
}

impl Here {
    fn look(&mut self, now_ns: u64) {
        if self.looked_at_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < CPUS_LAST_NS) {
            return;
        }
        self.looked_at_ns = Some(now_ns);
        self.cpus = Cpus { online: listed("online"), possible: listed("possible") };
        self.some_offline = !listed("present").is_subset(&self.cpus.online);
    }
}

impl Machine for Here {
    fn born(&mut self, pid: u32) -> Option<(u64, u32)> {
        Some((Host.start_time(pid)?, sys::parent(pid)?))
    }

    fn cpus(&mut self) -> &Cpus {
        self.look(sys::monotonic_ns());
        &self.cpus
    }

    fn allowed(&mut self, pid: u32) -> Option<CpuSet> {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts = self.mounts.get_or_insert_with(mounts);
        cpuset::among(Path::new("/"), pid, mounts).ok()??.1.cpus
    }

    fn whole(&mut self, tid: u32, mask: &CpuSet) -> CpuSet {
        self.look(sys::monotonic_ns());
        let whole = || {
            let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            line.trim().parse::<CpuSet>().ok()
        };
        // It may have been given another in between.
        let same = |whole: &CpuSet| whole.intersection(&self.cpus.online) == *mask;
        self.some_offline.then(whole).flatten().filter(same).unwrap_or_else(|| mask.clone())
    }
}

/// A list of CPUs of the kernel's; empty where it has none.
pub(in crate::host) fn listed(name: &str) -> IdSet {
    let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_of_this_process() {
        let mut here = Here::default();
        let me = std::process::id();
        let (start_time, parent) = here.born(me).unwrap();
        assert_eq!((Some(start_time), parent), (Host.start_time(me), std::os::unix::process::parent_id()));
        assert_eq!(here.born(u32::MAX >> 1), None);
        let Cpus { online, possible } = here.cpus().clone();
        assert!(!online.is_empty() && online.is_subset(&possible), "{online} {possible}");
        if let Some(allowed) = here.allowed(me) {
            assert!(Host.affinity(me).unwrap().is_subset(&allowed), "{allowed}");
        }
        let mask = Host.affinity(me).unwrap();
        here.some_offline = true;
        assert_eq!(here.whole(me, &mask).intersection(&online), mask);
        assert_eq!(here.whole(me, &CpuSet::new()), CpuSet::new(), "another by now");
    }
}
