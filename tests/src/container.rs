//! Containers of a real runtime: podman with runc, its storage in a directory of the test's own. Made for tests.
//!
//! runc, because crun refuses hosts that have cgroups of both versions; the `cgroupfs` driver, because no systemd need be there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Podman, and a root file system in which our own programs run.
pub struct Runtime {
    dir: TempDir,
    /// What it has started, to be removed.
    started: Vec<String>,
}

impl Runtime {
    /// Sets one up that can run `program`.
    ///
    /// # Errors
    /// Why this host has none to offer.
    pub fn new(program: &Path) -> Result<Self, String> {
        for needed in ["podman", "runc"] {
            if let Err(error) = Command::new(needed).arg("--version").stdout(Stdio::null()).status() {
                return Err(format!("{needed}: {error}"));
            }
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("rootfs");
        for folder in ["proc", "sys", "dev", "etc", "tmp", "witness"] {
            fs::create_dir_all(root.join(folder)).expect("a directory");
        }
        copy(program, &root.join("program")).expect("the program");
        // With the libraries that it wants, at their paths.
        let wanted = Command::new("ldd").arg(program).output().expect("ldd");
        let wanted = String::from_utf8_lossy(&wanted.stdout).into_owned();
        for library in wanted.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), &root.join(library.trim_start_matches('/'))).expect("a library");
        }
        Ok(Self { dir, started: Vec::new() })
    }

    /// A podman command.
    #[must_use]
    pub fn podman(&self) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut podman = Command::new("podman");
        podman.args([
            "--runtime=runc",
            "--cgroup-manager=cgroupfs",
            "--storage-driver=vfs",
            "--events-backend=file",
        ]);
        podman
            .arg("--root")
            .arg(at("storage"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"));
        podman.stdin(Stdio::null());
        podman
    }

    /// Starts a container of that name with `arguments` for the program; `out` is its `/witness`. Its pid.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(&mut self, name: &str, out: &Path, arguments: &[&str]) -> u32 {
        let mut podman = self.podman();
        podman.args([
            "run",
            "--detach",
            "--interactive",
            "--name",
            name,
            "--network=none",
            "--security-opt=seccomp=unconfined",
        ]);
        // The defaults may be more than we have to give.
        podman.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]);
        podman.arg("--volume").arg(format!("{}:/witness", out.display()));
        podman.arg("--rootfs").arg(self.dir.path().join("rootfs")).arg("/program").args(arguments);
        text(&podman.output().expect("podman"));
        self.started.push(name.to_owned());
        let state = self.inspect(name, "{{.State.Pid}}");
        state.parse().unwrap_or_else(|_| panic!("a pid, not {state:?}"))
    }

    /// What `podman inspect` says of a container.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        text(&self.podman().args(["inspect", "--format", format, name]).output().expect("podman"))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for name in &self.started {
            let _ = self.podman().args(["rm", "--force", "--time=0", name]).output();
        }
    }
}

/// What a command that went well has printed.
fn text(output: &Output) -> String {
    assert!(output.status.success(), "podman: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let folder: PathBuf = to.parent().map(Into::into).unwrap_or_default();
    fs::create_dir_all(folder)?;
    fs::copy(from, to).map(drop)
}
