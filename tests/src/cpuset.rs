//! Cgroups of the cpuset controller, v1 or v2, as containers have them. Made for tests.

use std::{fs, io, path::PathBuf, process::Command, thread, time::Duration};

use numa_agent::core::idset::{CpuSet, NodeSet};

/// A cgroup of the cpuset controller, for the time of a test.
#[derive(Debug)]
pub struct Cpuset {
    /// Its name, unique on the machine.
    pub name: String,
    path: PathBuf,
}

impl Cpuset {
    /// Makes one that allows `cpus`, and the memory that its parent does.
    ///
    /// # Errors
    /// Why this host has none to offer.
    pub fn new(test: &str, cpus: &CpuSet) -> Result<Self, String> {
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

    /// Moves a process into it.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn take(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("move a process into the cpuset");
    }

    /// Lets its tasks use memory of `nodes`, and no other.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn allow_memory(&self, nodes: &NodeSet) {
        fs::write(self.path.join("cpuset.mems"), nodes.to_string()).expect("change the cpuset");
    }

    /// A command that runs another in it, which is given to it as arguments.
    #[must_use]
    pub fn enter(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.path);
        command
    }

    /// Lets its tasks use `cpus`, and no others.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn allow(&self, cpus: &CpuSet) {
        fs::write(self.path.join("cpuset.cpus"), cpus.to_string()).expect("change the cpuset");
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        // Its tasks end with the test; the kernel may take a moment to see them off.
        for _ in 0..200 {
            match fs::remove_dir(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        eprintln!("cannot remove {}", self.path.display());
    }
}
