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
            // What is installed here may be a version that no release has.
            "Dir::State::status=/dev/null".to_owned(),
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

    /// Downloads `package` and puts the files that `find` finds in it into the directory `to`, by the names that it finds them by; their
    /// paths there.
    ///
    /// # Errors
    /// If it cannot be downloaded, or has none of them.
    pub fn take_out(
        &self,
        package: &str,
        find: impl Fn(&Path) -> Vec<PathBuf>,
        to: &Path,
    ) -> Result<Vec<PathBuf>> {
        let deb = self.download(package)?;
        let unpacked = self.dir.join("unpacked");
        let _ = fs::remove_dir_all(&unpacked);
        sh::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&unpacked))?;
        let unpacked = fs::canonicalize(&unpacked).with_context(|| unpacked.display().to_string())?;
        fs::create_dir_all(to).with_context(|| to.display().to_string())?;
        let mut taken = Vec::new();
        for found in find(&unpacked) {
            // A library's short name is a link; one that leads out of here leads to this machine's own.
            let Ok(real) = fs::canonicalize(&found) else { continue };
            if !real.starts_with(&unpacked) {
                continue;
            }
            // Moved when complete: what is there is whole.
            let path = to.join(found.file_name().unwrap_or_default());
            fs::rename(&real, &path).with_context(|| path.display().to_string())?;
            taken.push(path);
        }
        fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
        fs::remove_file(&deb).with_context(|| deb.display().to_string())?;
        if taken.is_empty() {
            bail!("{package} has not the files that it is fetched for");
        }
        Ok(taken)
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

/// Everything below `dir` that has one of these names.
pub fn called(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(called(&path, names));
        } else if names.iter().any(|name| entry.file_name() == *name) {
            found.push(path);
        }
    }
    found
}

/// A shell and the usual commands in one static program, for the tests that start some.
///
/// # Errors
/// As [`Apt::new`] and [`Apt::take_out`].
pub fn busybox(arch: Arch) -> Result<PathBuf> {
    let dir = vm_dir().join("busybox").join(arch.name());
    let path = dir.join("busybox");
    if !path.exists() {
        let apt = Apt::new("busybox", &[Suite::Main("bookworm")], arch)?;
        apt.take_out("busybox-static", |dir| programs(dir, &["busybox"]), &dir)?;
    }
    Ok(path)
}

/// irqbalance, and what it needs, by the packages that have it.
const IRQBALANCE: [(&str, &[&str]); 13] = [
    ("irqbalance", &["irqbalance"]),
    ("libc6", &["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"]),
    ("libcap-ng0", &["libcap-ng.so.0"]),
    ("libcap2", &["libcap.so.2"]),
    ("libgcrypt20", &["libgcrypt.so.20"]),
    ("libglib2.0-0", &["libglib-2.0.so.0"]),
    ("libgpg-error0", &["libgpg-error.so.0"]),
    ("liblz4-1", &["liblz4.so.1"]),
    ("liblzma5", &["liblzma.so.5"]),
    ("libnuma1", &["libnuma.so.1"]),
    ("libpcre2-8-0", &["libpcre2-8.so.0"]),
    ("libsystemd0", &["libsystemd.so.0"]),
    ("libzstd1", &["libzstd.so.1"]),
];

/// The irqbalance that real hosts have, with its libraries: each file, and where it is in a guest.
///
/// # Errors
/// As [`Apt::new`] and [`Apt::take_out`].
pub fn irqbalance(arch: Arch) -> Result<Vec<(PathBuf, PathBuf)>> {
    let dir = vm_dir().join("irqbalance").join(arch.name());
    let mut apt = None;
    let mut files = Vec::new();
    for (package, names) in IRQBALANCE {
        let kept = || names.iter().map(|name| dir.join(name)).filter(|path| path.exists());
        if kept().next().is_none() {
            let apt = match &apt {
                Some(apt) => apt,
                None => apt.insert(Apt::new("irqbalance", &[Suite::Main("bookworm")], arch)?),
            };
            apt.take_out(package, |dir| programs(dir, names), &dir)?;
        }
        files.extend(kept().map(|path| {
            let name = path.file_name().unwrap_or_default();
            let folder = match name.to_string_lossy() {
                name if name == "irqbalance" => "/usr/sbin",
                name if name == "ld-linux-x86-64.so.2" => "/lib64",
                _ => "/lib",
            };
            let place = Path::new(folder).join(name);
            (path, place)
        }));
    }
    Ok(files)
}

/// The programs and libraries among those of these names: others are scripts, settings, notes.
fn programs(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
    let is_program = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
    called(dir, names).into_iter().filter(is_program).collect()
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
