//! A real service manager for the time of a test: `systemd --user` of root's, in a mount namespace of its own, where `/run`, `/var/lib`, `/etc` and
//! `/usr/bin` take what is written to them from memory, so that the host's stay as they are.
//!
//! It need not be process 1 and is no toy: it runs a unit with its capabilities, system call filter, file system and descriptors as the
//! host's own would. Made for tests: what goes wrong is a panic that says what.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{agent, eventually};

/// The manager's own program.
const PROGRAM: &str = "/lib/systemd/systemd";

/// Becomes the manager. Its arguments: a cgroup to make and to be in, a directory with `etc` and `bin` to be laid over the host's, where
/// the manager's messages go, and its program.
const SCRIPT: &str = r#"
cgroup=$1; files=$2; log=$3
mkdir "$cgroup"
echo $$ > "$cgroup/cgroup.procs"
# In memory: not every file system can lie above another.
mkdir "$files/layers"
mount -t tmpfs tmpfs "$files/layers"
cd "$files/layers"
mkdir etc.work bin.work
cp -a "$files/etc" "$files/bin" .
mount -t overlay overlay -o lowerdir=/etc,upperdir=etc,workdir=etc.work /etc
mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=bin,workdir=bin.work /usr/bin
cd /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
test -e /sys/kernel/tracing/events || mount -t tracefs tracefs /sys/kernel/tracing
# By this a manager knows that the machine runs systemd.
mkdir -p /run/systemd/system
export XDG_RUNTIME_DIR=/run XDG_CONFIG_HOME=/var/lib XDG_STATE_HOME=/var/lib
unset DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET
exec "$4" --user --log-target=console > "$log" 2>&1
"#;

/// A running manager.
pub struct Manager {
    child: Child,
    cgroup: String,
    dir: tempfile::TempDir,
}

impl Manager {
    /// Starts one that has numa-agent's `unit`, with `config` as the configuration, and a group `numa-agent`.
    ///
    /// # Errors
    /// Why this machine has none to offer.
    pub fn start(unit: &Path, config: &str) -> Result<Self, String> {
        if !Path::new(PROGRAM).exists() {
            return Err(format!("there is no {PROGRAM}"));
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |path: &str| dir.path().join(path);
        for folder in ["etc/systemd/user", "etc/numa-agent", "bin"] {
            fs::create_dir_all(at(folder)).expect("a directory");
        }
        // Whatever the umask is: these become /etc and /usr/bin.
        for folder in ["etc", "etc/systemd", "bin"] {
            fs::set_permissions(at(folder), fs::Permissions::from_mode(0o755)).expect("our own directory");
        }
        fs::copy(unit, at("etc/systemd/user/numa-agent.service")).expect("the unit");
        fs::write(at("etc/numa-agent/config.toml"), config).expect("the configuration");
        let groups = fs::read_to_string("/etc/group").expect("/etc/group");
        fs::write(at("etc/group"), format!("{groups}numa-agent:x:{GROUP}:\n")).expect("the groups");
        let copied = Command::new("cp").arg(agent::binary()).arg(at("bin/numa-agent")).status();
        assert!(copied.expect("cp").success());

        let name = format!("numa-agent-test-{}", std::process::id());
        let cgroup = unified().ok_or("no cgroup2 is mounted")?.join(&name);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", SCRIPT, "sh"]);
        command.arg(&cgroup).arg(dir.path()).arg(at("log")).arg(PROGRAM);
        command.stdin(Stdio::null());
        let child = command.spawn().expect("unshare");
        let mut manager = Self { child, cgroup: name, dir };
        eventually(|| {
            let ended = manager.child.try_wait().expect("wait for the manager");
            assert!(ended.is_none(), "the manager ended: {ended:?}\n{}", manager.log());
            let output = manager.control(&["list-units"]);
            if output.status.success() { Ok(()) } else { Err(manager.log()) }
        });
        Ok(manager)
    }

    /// Lines that are to stand over the unit's from now on.
    ///
    /// # Panics
    /// If it does not take them.
    pub fn amend(&self, lines: &str) {
        let folder = self.path("/etc/systemd/user/numa-agent.service.d");
        fs::create_dir_all(&folder).expect("a directory");
        // There is no journal.
        let output = "StandardOutput=append:/run/said\nStandardError=append:/run/said\nRestart=no\n";
        fs::write(folder.join("test.conf"), format!("[Service]\n{output}{lines}\n")).expect("a drop-in");
        let output = self.control(&["daemon-reload"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// `systemctl` with those arguments, to its end.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn control(&self, args: &[&str]) -> Output {
        let mut command = self.inside("systemctl");
        command.args(["--user", "--no-pager"]).args(args).output().expect("systemctl")
    }

    /// A property of the service.
    ///
    /// # Panics
    /// If it cannot be asked.
    #[must_use]
    pub fn property(&self, name: &str) -> String {
        let output = self.control(&["show", "--value", "--property", name, "numa-agent"]);
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// A command that sees what the manager sees.
    #[must_use]
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.child.id().to_string(), program]);
        command.env("XDG_RUNTIME_DIR", "/run").env_remove("DBUS_SESSION_BUS_ADDRESS").stdin(Stdio::null());
        command
    }

    /// Where a file is that the manager knows by `path`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    /// All that the service has said.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.path("/run/said")).unwrap_or_default()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// The group `numa-agent` in there: one that no system of ours has.
pub const GROUP: u32 = 59_464;

impl Drop for Manager {
    fn drop(&mut self) {
        // It stops its services first.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
        // Where there is v1 beside v2, it has made the same groups there.
        for mount in mounts(|_| true) {
            let group = mount.join(&self.cgroup);
            for _ in 0..100 {
                remove(&group);
                if !group.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Removes a cgroup and those below it, as far as nobody is in them.
fn remove(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&below.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn unified() -> Option<PathBuf> {
    mounts(|kind| kind == "cgroup2").into_iter().next()
}

/// Where cgroups of that kind are mounted.
fn mounts(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("read /proc/mounts");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|fields| fields[2].starts_with("cgroup") && wanted(fields[2]));
    groups.map(|fields| PathBuf::from(fields[1])).collect()
}
