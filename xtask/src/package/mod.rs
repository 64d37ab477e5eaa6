//! What is installed where: the tree that both kinds of packages are made of.
//!
//! The same files at the same commit make the same package: nothing in it tells who made it, or when.

pub mod deb;
pub mod rpm;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{build::Arch, sh};

/// Packaging's own files.
const PACKAGING: &str = "numa-agent/packaging";
/// What the kinds of packages have in common: where it goes, and where it is in the repository.
const FILES: [(&str, &str); 10] = [
    ("usr/lib/systemd/system/numa-agent.service", "numa-agent/packaging/numa-agent.service"),
    ("usr/lib/sysusers.d/numa-agent.conf", "numa-agent/packaging/sysusers.conf"),
    ("etc/numa-agent/config.toml", "numa-agent/packaging/config.toml"),
    ("usr/share/doc/numa-agent/README.md", "README.md"),
    ("usr/share/doc/numa-agent/CHANGELOG.md", "CHANGELOG.md"),
    ("usr/share/doc/numa-agent/examples/numa-agent.toml", "docs/examples/numa-agent.toml"),
    ("usr/share/doc/numa-agent/examples/numa_bind.json", "docs/examples/numa_bind.json"),
    (
        "usr/share/doc/numa-agent/examples/prometheus/numa-agent.rules.yml",
        "numa-agent/packaging/prometheus/numa-agent.rules.yml",
    ),
    (
        "usr/share/doc/numa-agent/examples/prometheus/numa-agent.rules.test.yml",
        "numa-agent/packaging/prometheus/numa-agent.rules.test.yml",
    ),
    (
        "usr/share/doc/numa-agent/examples/grafana/numa-agent.json",
        "numa-agent/packaging/grafana/numa-agent.json",
    ),
];
/// Shells, and where their completions go.
const COMPLETIONS: [(&str, &str); 2] = [
    ("bash", "usr/share/bash-completion/completions/numa-agent"),
    ("fish", "usr/share/fish/vendor_completions.d/numa-agent.fish"),
];
/// The same of zsh, where distributions differ.
pub const ZSH: &str = "zsh";

/// What is packed.
pub struct Contents<'a> {
    /// The agent.
    pub agent: &'a Path,
    /// What it is for.
    pub arch: Arch,
    /// The same program for this machine, which prints its manual pages and completions.
    pub printer: &'a Path,
    /// Its version.
    pub version: &'a str,
    /// How old everything is, in seconds since 1970.
    pub time: u64,
}

/// A tree that is to be packed.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The files that all packages have, below `root`, which must not be there yet. `zsh` is the directory of its completions.
    ///
    /// # Errors
    /// If one cannot be read, made or written.
    pub fn stage(root: &Path, contents: &Contents<'_>, zsh: &str) -> Result<Self> {
        let tree = Self { root: root.into() };
        tree.put("usr/bin/numa-agent", &read(contents.agent)?, 0o755)?;
        for (to, from) in FILES {
            tree.put(to, &read(&sh::root().join(from))?, 0o644)?;
        }
        let zsh = format!("{zsh}/_numa-agent");
        for (shell, to) in COMPLETIONS.into_iter().chain([(ZSH, zsh.as_str())]) {
            let script = sh::run_for_output(Command::new(contents.printer).args(["completions", shell]))?;
            tree.put(to, script.as_bytes(), 0o644)?;
        }
        tree.manual(contents.printer)?;
        Ok(tree)
    }

    /// The manual pages.
    fn manual(&self, printer: &Path) -> Result<()> {
        let pages = self.root.with_extension("man");
        fs::create_dir_all(&pages).with_context(|| pages.display().to_string())?;
        sh::run(Command::new(printer).args(["man", "--dir"]).arg(&pages))?;
        let mut plain = Vec::new();
        for page in fs::read_dir(&pages).with_context(|| pages.display().to_string())? {
            let page = page?.path();
            let to = format!("usr/share/man/man1/{}", page.file_name().unwrap_or_default().to_string_lossy());
            self.put(&to, &read(&page)?, 0o644)?;
            plain.push(to);
        }
        self.compress(&plain)?;
        fs::remove_dir_all(&pages).with_context(|| pages.display().to_string())
    }

    /// A file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let to = self.root.join(to);
        // Not one by one with whatever the umask is.
        for folder in to.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).with_context(|| to.display().to_string())
    }

    /// Files that are there, compressed from now on.
    ///
    /// # Errors
    /// If one cannot be.
    pub fn compress(&self, files: &[String]) -> Result<()> {
        // -n: neither name nor time.
        sh::run(Command::new("gzip").arg("-9n").args(files).current_dir(&self.root))
    }

    /// All files, by their paths from the root, sorted.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(path) = path.strip_prefix(&self.root) {
                    files.push(path.to_string_lossy().into_owned());
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// A file of the repository's packaging.
fn packaging(name: &str) -> Result<Vec<u8>> {
    read(&sh::root().join(PACKAGING).join(name))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    /// Packs by `pack` in a directory of its own, with what another program would print; the package, and what `list` tells of it.
    fn packed(
        who: &str,
        pack: fn(&Path, &Contents<'_>) -> Result<PathBuf>,
        list: &[&str],
    ) -> (Vec<u8>, String) {
        let dist = env::temp_dir().join(format!("numa-agent-package-{}-{who}", std::process::id()));
        fs::create_dir_all(&dist).unwrap();
        let agent = dist.join("numa-agent");
        let script = "#!/bin/sh\nif [ $1 = man ]; then echo page > $3/numa-agent.1; else echo \"$@\"; fi\n";
        fs::write(&agent, script).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o700)).unwrap();
        let contents = Contents {
            agent: &agent,
            arch: Arch::Aarch64,
            printer: &agent,
            version: "1.2.3",
            time: 1_700_000_000,
        };
        let package = pack(&dist, &contents).unwrap();
        let listing = sh::output(Command::new(list[0]).args(&list[1..]).arg(&package)).unwrap();
        let bytes = fs::read(&package).unwrap();
        fs::remove_dir_all(&dist).unwrap();
        (bytes, listing)
    }

    /// Whether the tools are there; says so if not.
    fn can(program: &str) -> bool {
        let there = sh::works(program, &["--version"]);
        if !there {
            eprintln!("SKIP: packages: there is no {program}");
            let forbidden = env::var_os("NUMA_AGENT_FORBID_SKIP").is_some_and(|value| value == "1");
            assert!(!forbidden, "skips are forbidden");
        }
        there
    }

    #[test]
    fn a_debian_package_has_everything_and_is_the_same_wherever_it_is_made() {
        if !can(deb::PROGRAM) {
            return;
        }
        let (bytes, listing) = packed("deb", deb::pack, &["dpkg-deb", "--contents"]);
        let has = |mode: &str, path: &str| {
            listing
                .lines()
                .any(|line| line.starts_with(mode) && line.contains(" root/root ") && line.ends_with(path))
        };
        for (mode, path) in [
            ("-rwxr-xr-x", "/usr/bin/numa-agent"),
            ("-rw-r--r--", "/usr/lib/systemd/system/numa-agent.service"),
            ("-rw-r--r--", "/usr/lib/sysusers.d/numa-agent.conf"),
            ("-rw-r--r--", "/etc/numa-agent/config.toml"),
            ("-rw-r--r--", "/usr/share/man/man1/numa-agent.1.gz"),
            ("-rw-r--r--", "/usr/share/zsh/vendor-completions/_numa-agent"),
            ("-rw-r--r--", "/usr/share/doc/numa-agent/copyright"),
            ("-rw-r--r--", "/usr/share/doc/numa-agent/examples/prometheus/numa-agent.rules.yml"),
            ("-rw-r--r--", "/usr/share/doc/numa-agent/examples/grafana/numa-agent.json"),
            ("drwxr-xr-x", "/etc/numa-agent/"),
        ] {
            assert!(has(mode, path), "{mode} {path} in\n{listing}");
        }
        assert!(packed("deb-2", deb::pack, &["dpkg-deb", "--contents"]).0 == bytes, "two packages differ");
        let (_, control) = packed("deb-3", deb::pack, &["dpkg-deb", "--field"]);
        assert!(
            control.contains("Architecture: arm64\n") && control.contains("Version: 1.2.3\n"),
            "{control}"
        );
        assert!(!control.contains("Depends"), "{control}");
    }

    #[test]
    fn an_rpm_package_has_everything_and_is_the_same_wherever_it_is_made() {
        if !can(rpm::PROGRAM) {
            return;
        }
        let list = ["rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEUSERNAME}\n]%{ARCH} %{BUILDTIME}\n"];
        let (bytes, listing) = packed("rpm", rpm::pack, &list);
        for line in [
            "/usr/bin/numa-agent root",
            "/etc/numa-agent/config.toml root",
            "/usr/share/man/man1/numa-agent.1.gz root",
            "/usr/share/licenses/numa-agent/LICENSE root",
            "/usr/share/zsh/site-functions/_numa-agent root",
            "/usr/share/doc/numa-agent/examples/prometheus/numa-agent.rules.yml root",
            "/usr/share/doc/numa-agent/examples/grafana/numa-agent.json root",
            "aarch64 1700000000",
        ] {
            assert!(listing.lines().any(|found| found == line), "{line} in\n{listing}");
        }
        assert!(packed("rpm-2", rpm::pack, &list).0 == bytes, "two packages differ");
    }
}
