//! Debian's packages, fetched by this machine's apt from its own mirror, and not installed.
//!
//! apt works in a directory of its own: the machine's package lists, configuration and installed packages stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Arch, vm_dir};
use crate::sh;

/// A release in one of Debian's archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    Main(&'static str),
    Security(&'static str),
}

/// An apt that knows nothing but some releases, and only for one architecture.
pub struct Apt {
    dir: PathBuf,
    arch: Arch,
}

impl Apt {
    /// Fetches the lists of these releases; `name` tells them from others.
    ///
    /// # Errors
    /// If this machine has no apt, or no mirror of Debian.
    pub fn new(name: &str, suites: &[Suite], arch: Arch) -> Result<Self> {
        let uris = sh::output(Command::new("apt-get").args(["--print-uris", "update"]))
            .context("guests' programs come from Debian's packages, and this machine has no apt")?;
        let dir = vm_dir().join("apt").join(format!("{name}-{arch}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| dir.display().to_string())?;
        }
        let list = sources(&uris, suites)?;
        fs::write(dir.join("sources.list"), list).with_context(|| dir.display().to_string())?;
        let apt = Self { dir, arch };
        sh::run(apt.command("apt-get").args(["--quiet", "--quiet", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        let options = [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            format!("APT::Architecture={}", self.arch.debian()),
            format!("APT::Architectures={}", self.arch.debian()),
            // The user that apt downloads as cannot write below everybody's directories.
            "APT::Sandbox::User=root".to_owned(),
            // Packages only.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        for option in options {
            command.args(["-o", &option]);
        }
        command.current_dir(&self.dir);
        command
    }

    /// The packages whose names begin so.
    ///
    /// # Errors
    /// If apt fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names =
            sh::output(self.command("apt-cache").args(["pkgnames", prefix])).context("apt-cache failed")?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads `package` and puts the file that `find` finds in it into the directory `to`; its path there.
    ///
    /// # Errors
    /// If it cannot be downloaded, or has no such file.
    pub fn take_out(&self, package: &str, find: fn(&Path) -> Option<PathBuf>, to: &Path) -> Result<PathBuf> {
        let deb = self.download(package)?;
        let unpacked = self.dir.join("unpacked");
        let _ = fs::remove_dir_all(&unpacked);
        sh::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&unpacked))?;
        let found =
            find(&unpacked).with_context(|| format!("{package} has not the file that it is fetched for"))?;
        fs::create_dir_all(to).with_context(|| to.display().to_string())?;
        // Moved when complete: what is there is whole.
        let path = to.join(found.file_name().unwrap_or_default());
        fs::rename(&found, &path).with_context(|| path.display().to_string())?;
        fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
        fs::remove_file(&deb).with_context(|| deb.display().to_string())?;
        Ok(path)
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        // An older version may be there from a run that was ended.
        let dir = self.dir.join("downloaded");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        sh::run(self.command("apt-get").args(["--quiet", "download", package]).current_dir(&dir))?;
        let mut entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?.flatten();
        let deb = entries.find(|entry| entry.path().extension().is_some_and(|ext| ext == "deb"));
        deb.map(|entry| entry.path()).with_context(|| format!("apt-get did not download {package}"))
    }
}

/// The `sources.list` for these releases, with the mirrors that apt's own `uris` show this machine uses.
fn sources(uris: &str, suites: &[Suite]) -> Result<String> {
    // 'http://HOST/debian/dists/bookworm/InRelease' name 0
    let bases: Vec<&str> = uris
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once("/dists/").map(|(base, _)| base))
        .collect();
    let mut list = String::new();
    for suite in suites {
        let (ends, suite) = match suite {
            Suite::Main(suite) => ("/debian", suite),
            Suite::Security(suite) => ("-security", suite),
        };
        let Some(base) = bases.iter().find(|base| base.ends_with(ends)) else {
            bail!(
                "this machine's apt has no mirror of Debian that ends in {ends}: guests' programs come from there"
            );
        };
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        list.push_str(&format!("deb [signed-by={keyring}] {base} {suite} main\n"));
    }
    Ok(list)
}

/// A shell and the usual commands in one static program, for the tests that start some.
///
/// # Errors
/// As [`Apt::new`] and [`Apt::take_out`].
pub fn busybox(arch: Arch) -> Result<PathBuf> {
    let dir = vm_dir().join("busybox").join(arch.name());
    let found = |dir: &Path| {
        ["busybox", "bin/busybox", "usr/bin/busybox"]
            .map(|name| dir.join(name))
            .into_iter()
            .find(|path| path.exists())
    };
    match found(&dir) {
        Some(path) => Ok(path),
        None => {
            Apt::new("busybox", &[Suite::Main("bookworm")], arch)?.take_out("busybox-static", found, &dir)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_this_machines() {
        let uris = "'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n\
                    'http://mirror.example/debian-security/dists/bookworm-security/InRelease' y 0 \n";
        let list = sources(uris, &[Suite::Main("bullseye"), Suite::Security("bullseye-security")]).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert!(lines[0].ends_with("http://mirror.example/debian bullseye main"), "{list}");
        assert!(lines[1].ends_with("http://mirror.example/debian-security bullseye-security main"), "{list}");
        let ubuntu = "'http://mirror.example/ubuntu/dists/noble/InRelease' x 0";
        assert!(
            sources(ubuntu, &[Suite::Main("unstable")])
                .unwrap_err()
                .to_string()
                .contains("no mirror of Debian")
        );
    }
}
