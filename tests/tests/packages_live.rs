//! Packages as `cargo xtask dist` makes them: what Debian's checker says, and what installing, upgrading, removing and purging do in a clean
//! root. A stand-in hears what scripts tell the service manager; what a real one does is tested in `live/service.rs`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use numa_agent::core::idset::CpuSet;
use numa_agent_tests::{agent, cast::Cast, eventually, sys};
use tempfile::TempDir;

/// Says that `test` cannot run here, and why.
fn skip(test: &str, why: &str) {
    numa_agent_tests::skip(&format!("{test}: {why}"));
}

/// Whether all of `programs` are there.
fn can(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = missing {
        skip(test, &format!("there is no {program}"));
    }
    missing.is_none()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs to a good end.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

/// The package of the agent at hand, of that kind.
fn package(kind: &str) -> PathBuf {
    let mut made = fs::read_dir(packages()).unwrap().map(|entry| entry.unwrap().path());
    made.find(|path| path.extension().is_some_and(|ending| ending == kind)).unwrap()
}

/// Where the packages of the agent at hand are, without its debug information.
fn packages() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, packages) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (agent, out) = (dir.path().join("numa-agent"), dir.path().join("dist"));
        run(Command::new("objcopy").arg("--strip-debug").arg(agent::binary()).arg(&agent));
        let mut xtask = Command::new(env!("CARGO"));
        xtask.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        xtask.args(["run", "--quiet", "--package", "xtask", "--", "dist", "--agent"]).arg(&agent);
        run(xtask.arg("--out").arg(&out));
        (dir, out)
    });
    packages
}

#[test]
fn debians_checker_has_nothing_to_say() {
    if !can("lintian", &["lintian", "objcopy", "dpkg-deb"]) {
        return;
    }
    let mut lintian = Command::new("lintian");
    // The program that is shipped is static; the one at hand wants a C library that the package does not ask for.
    lintian.args([
        "--no-cfg",
        "--fail-on",
        "error,warning",
        "--suppress-tags",
        "undeclared-elf-prerequisites",
    ]);
    let said = run(lintian.arg(package("deb")));
    assert!(!said.lines().any(|line| line.starts_with("E:") || line.starts_with("W:")), "{said}");
}

#[test]
fn systemds_checkers_have_nothing_to_say_of_the_unit() {
    if !can("unit", &["systemd-analyze"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../numa-agent/packaging/numa-agent.service");
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("=/usr/bin/numa-agent run "));
    // The program need not be installed here.
    let copy = dir.path().join("numa-agent.service");
    fs::write(&copy, text.replace("=/usr/bin/numa-agent ", "=/bin/true ")).unwrap();
    assert_eq!(run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy)), "");
    // From 0 to 10 in tenths; docs/production.md says what is left.
    run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=35", "--no-pager"])
        .arg(&copy));
}

/// A Debian of essential packages alone, in a directory.
struct Root {
    dir: TempDir,
}

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let release = fs::read_to_string("/etc/os-release").unwrap();
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap();
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--variant=essential", "--include=passwd", suite]);
        run(mmdebstrap.arg(dir.path().join("root")));
        Self { dir }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A command in it, with the host's processes and devices.
    fn command(&self, program: &str) -> Command {
        let mut command = self.beside(r#"exec chroot "$0" "$@""#);
        command.arg(program);
        command
    }

    /// What a line of shell script starts beside it, with the arguments that are added; `$0` is the root.
    fn beside(&self, exec: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = format!(r#"mount -t proc proc "$0/proc"; mount --rbind /sys "$0/sys"; {exec}"#);
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
        command.arg(self.path("")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Gives `package` to dpkg.
    fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path("numa-agent.deb")).unwrap();
        self.dpkg(&["--install", "/numa-agent.deb"])
    }

    fn dpkg(&self, args: &[&str]) -> String {
        run(self.command("dpkg").args(args))
    }

    /// The host's rpm, which has its database in the root, and runs the package's scripts there.
    fn rpm(&self, args: &[&str]) -> String {
        let mut rpm = self.beside(r#"exec rpm --root "$0" --dbpath /var/lib/rpm "$@""#);
        run(rpm.args(args))
    }

    /// Starts what the installed unit starts, with the capabilities that it has there.
    fn start(&self) -> Child {
        let capabilities: Vec<String> = says(self, "CapabilityBoundingSet")
            .iter()
            .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        fs::create_dir_all(self.path("/var/lib/numa-agent")).unwrap();
        let said = fs::File::create(self.path("/said")).unwrap();
        let mut command = self.command("setpriv");
        command.arg("--no-new-privs").args(["--bounding-set", &format!("-all,{}", capabilities.join(","))]);
        command.args(says(self, "ExecStart")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let child = command.spawn().unwrap();
        eventually(|| match self.read("/said") {
            said if said.contains("enforcing") => Ok(()),
            said => Err(said),
        });
        child
    }

    fn stop(&self, mut child: Child) {
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.read("/said"));
    }

    /// A stand-in for the service manager's tool, which keeps what it is told.
    fn with_manager(self) -> Self {
        fs::create_dir_all(self.path("/run/systemd/system")).unwrap();
        let tool = self.path("/usr/bin/systemctl");
        fs::write(&tool, "#!/bin/sh\necho \"$*\" >> /told\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// What it was told of the service since the last call; of units it was told each time.
    fn told(&self) -> Vec<String> {
        let told = self.read("/told");
        fs::remove_file(self.path("/told")).unwrap();
        let (reloads, told): (Vec<_>, Vec<_>) = told.lines().partition(|line| *line == "daemon-reload");
        assert!(!reloads.is_empty(), "{told:?}");
        told.into_iter().map(str::to_owned).collect()
    }

    /// Configures it to manage the cast, in two groups that divide the CPUs; what the file says then.
    fn configure(&self, tag: &str) -> String {
        let ours = format!(
            "policy = 'generic'\ngroups_per_socket = 2\nalign = 'none'\ngroup_patterns = ['--role worker --tag {tag} ']\n"
        );
        fs::write(self.path("/etc/numa-agent/config.toml"), &ours).unwrap();
        ours
    }
}

/// What a test of packages works with: a root, all CPUs, and the half of them that the first group has.
fn stage(test: &str, programs: &[&str]) -> Option<(Root, CpuSet, CpuSet)> {
    if !nix::unistd::geteuid().is_root() {
        skip(test, "it needs root");
        return None;
    }
    if !can(test, &["mmdebstrap", "objcopy", "unshare", "setpriv"]) || !can(test, programs) {
        return None;
    }
    let all = sys::affinity(0).unwrap();
    if all.len() < 2 {
        skip(test, "it needs two CPUs");
        return None;
    }
    let half = all.iter().take(all.len().div_ceil(2)).collect();
    Some((Root::new().with_manager(), all, half))
}

/// The same package as another version.
fn newer(package: &Path, dir: &Path) -> PathBuf {
    let (tree, made) = (dir.join("newer"), dir.join("newer.deb"));
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(version, &format!("{version}.1"))).unwrap();
    run(Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(&tree).arg(&made));
    made
}

/// What the installed unit says of `key`.
fn says(root: &Root, key: &str) -> Vec<String> {
    let unit = root.read("/usr/lib/systemd/system/numa-agent.service");
    let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    value.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_clean_root_takes_it_and_gives_it_back() {
    let Some((root, all, half)) = stage("packages", &["dpkg-deb"]) else { return };
    root.install(&package("deb"));
    assert!(root.read("/etc/group").lines().any(|line| line.starts_with("numa-agent:")));
    assert!(root.told().is_empty(), "it is neither enabled nor started");
    assert_eq!(root.dpkg(&["--verify", "numa-agent"]), "");
    let control = run(Command::new("dpkg-deb").arg("--field").arg(package("deb")));
    assert!(!control.contains("Depends"), "{control}");

    // As it comes, it manages nothing, and says so.
    let idle = root.start();
    let said = root.read("/said");
    assert!(said.contains("managing 0 threads") && said.contains("nothing"), "{said}");
    root.stop(idle);

    // What somebody has configured stays through an upgrade, and what is bound too.
    let tag = format!("packages-{}", std::process::id());
    let cast = Cast::new(env!("CARGO_BIN_EXE_serving-stack"), &tag);
    let ours = root.configure(&tag);
    let running = root.start();
    let worker = cast.puppet("worker", 0);
    cast.settle_thread(worker.pid(), &half, |look| look.cpus == half);
    root.install(&newer(&package("deb"), root.dir.path()));
    assert_eq!(root.told(), ["try-restart numa-agent.service"]);
    assert_eq!(root.read("/etc/numa-agent/config.toml"), ours);
    assert_eq!(sys::affinity(worker.pid()).unwrap(), half);

    // Removal undoes what was changed, and leaves the configuration; purging takes that too.
    root.stop(running);
    assert_eq!(sys::affinity(worker.pid()).unwrap(), half, "who is bound stays bound");
    root.dpkg(&["--remove", "numa-agent"]);
    assert_eq!(root.told(), ["--quiet disable --now numa-agent.service"]);
    assert!(!root.path("/usr/bin/numa-agent").exists() && root.path("/etc/numa-agent/config.toml").exists());
    assert_eq!(sys::affinity(worker.pid()).unwrap(), all, "bound by surprise");
    root.dpkg(&["--purge", "numa-agent"]);
    for path in ["/etc/numa-agent", "/var/lib/numa-agent", "/run/numa-agent"] {
        assert!(!root.path(path).exists(), "{path} is still there");
    }
}

/// The root is a Debian, which has what the scripts call; rpm itself is the host's.
#[test]
fn an_rpm_is_installed_upgraded_and_removed() {
    let Some((root, all, half)) = stage("rpm", &["rpmbuild", "rpm"]) else { return };
    let package = package("rpm");
    let package = package.to_str().unwrap();
    root.rpm(&["--install", "--nodeps", "--force-debian", package]);
    assert!(root.read("/etc/group").lines().any(|line| line.starts_with("numa-agent:")));
    assert!(root.told().is_empty(), "it is neither enabled nor started");
    assert_eq!(root.rpm(&["--verify", "--nodeps", "numa-agent"]), "");
    let requires = root.rpm(&["--query", "--requires", "numa-agent"]);
    assert!(
        requires.lines().all(|line| line.contains("rpmlib(")
            || line.starts_with("/bin/sh")
            || line.starts_with("config(")),
        "{requires}"
    );

    let tag = format!("rpm-{}", std::process::id());
    let cast = Cast::new(env!("CARGO_BIN_EXE_serving-stack"), &tag);
    let ours = root.configure(&tag);
    let running = root.start();
    let worker = cast.puppet("worker", 0);
    cast.settle_thread(worker.pid(), &half, |look| look.cpus == half);
    // Over itself: its scripts are told of an upgrade.
    root.rpm(&["--upgrade", "--nodeps", "--force-debian", "--replacepkgs", package]);
    assert_eq!(root.told(), ["try-restart numa-agent.service"]);
    assert_eq!(root.read("/etc/numa-agent/config.toml"), ours);
    assert_eq!(sys::affinity(worker.pid()).unwrap(), half);
    root.stop(running);
    assert_eq!(sys::affinity(worker.pid()).unwrap(), half, "who is bound stays bound");

    root.rpm(&["--erase", "--nodeps", "--force-debian", "numa-agent"]);
    assert_eq!(root.told(), ["--quiet disable --now numa-agent.service"]);
    assert!(!root.path("/usr/bin/numa-agent").exists());
    assert_eq!(root.read("/etc/numa-agent/config.toml.rpmsave"), ours);
    assert_eq!(sys::affinity(worker.pid()).unwrap(), all, "bound by surprise");
}
