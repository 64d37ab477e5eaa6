//! Kernels for guests: Debian's own packages, fetched by this machine's apt from its own mirror, and kept under `target/vm/kernels`.
//!
//! apt works in a directory of its own: the machine's package lists, configuration and installed packages stay as they are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Arch, vm_dir};
use crate::sh;

/// A kernel series, and where Debian has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// As on the command line.
    pub name: &'static str,
    /// Releases of the main archive, and of the security archive, that have it.
    suites: &'static [(Archive, &'static str)],
    /// How its packages are called, before and after what counts up: "linux-image-5.10.0-" 46 "-cloud-amd64".
    prefix: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// All series, oldest first. The flavour for virtual machines is small and has all drivers built in.
pub const ALL: [Series; 4] = [
    Series {
        name: "5.10",
        suites: &[(Archive::Main, "bullseye"), (Archive::Security, "bullseye-security")],
        prefix: "linux-image-5.10.0-",
    },
    Series {
        name: "6.1",
        suites: &[(Archive::Main, "bookworm"), (Archive::Security, "bookworm-security")],
        prefix: "linux-image-6.1.0-",
    },
    Series { name: "6.12", suites: &[(Archive::Main, "trixie")], prefix: "linux-image-6.12." },
    // The newest there is: unstable moves, so no number is pinned.
    Series { name: "7", suites: &[(Archive::Main, "unstable")], prefix: "linux-binary-7." },
];

/// The series of that name.
pub fn find(name: &str) -> Option<Series> {
    ALL.into_iter().find(|series| series.name == name)
}

/// Kernels by [`super::matrix::Machine::key`].
pub type Kernels = BTreeMap<(&'static str, &'static str), Kernel>;

/// A kernel that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its package.
    pub package: String,
    /// The image.
    pub path: PathBuf,
}

/// The kernel kept last of that series; `None` if none was fetched yet.
pub fn kept(series: Series, arch: Arch) -> Option<Kernel> {
    let entries = fs::read_dir(kernels_dir(arch)).ok()?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let package = newest_first(series, arch, names).into_iter().next()?;
    let path = image_in(&kernels_dir(arch).join(&package))?;
    Some(Kernel { package, path })
}

/// The kernel of that series: kept, or fetched now; with `refresh`, the newest there is.
///
/// # Errors
/// If there is no apt, or it has no such package.
pub fn get(series: Series, arch: Arch, refresh: bool) -> Result<Kernel> {
    match kept(series, arch) {
        Some(kernel) if !refresh => Ok(kernel),
        _ => fetch(series, arch),
    }
}

fn kernels_dir(arch: Arch) -> PathBuf {
    vm_dir().join("kernels").join(arch.name())
}

fn fetch(series: Series, arch: Arch) -> Result<Kernel> {
    let apt = Apt::new(series, arch)?;
    let mut failed = None;
    for package in apt.packages()? {
        if let Some(path) = image_in(&kernels_dir(arch).join(&package)) {
            return Ok(Kernel { package, path });
        }
        // Lists may name packages that the archive has not any more.
        match apt.download(&package) {
            Ok(deb) => return unpack(&apt, package, &deb),
            Err(error) => failed = Some(error),
        }
    }
    let what = format!("no kernel {}*-cloud-{} to be had from apt", series.prefix, arch.debian());
    Err(failed.unwrap_or_else(|| anyhow!("apt lists none")).context(what))
}

fn unpack(apt: &Apt, package: String, deb: &Path) -> Result<Kernel> {
    let dir = kernels_dir(apt.arch).join(&package);
    // Unpacked beside, and moved when complete.
    let unpacked = apt.dir.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    sh::run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&unpacked))?;
    let image = image_in(&unpacked).with_context(|| format!("{package} has no vmlinuz"))?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let path = dir.join(image.file_name().unwrap_or_default());
    fs::rename(&image, &path).with_context(|| path.display().to_string())?;
    fs::remove_dir_all(&unpacked).with_context(|| unpacked.display().to_string())?;
    fs::remove_file(deb).with_context(|| deb.display().to_string())?;
    Ok(Kernel { package, path })
}

/// The kernel image in an unpacked package, or where [`fetch`] keeps it: `boot/vmlinuz-VERSION`, since 7
/// `usr/lib/modules/VERSION/vmlinuz`.
fn image_in(dir: &Path) -> Option<PathBuf> {
    let list = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let modules = list(dir.join("usr/lib/modules")).flat_map(list);
    let is_image =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    list(dir.to_path_buf()).chain(list(dir.join("boot"))).chain(modules).find(is_image)
}

/// An apt that knows nothing but the releases with one series, and only for one architecture.
struct Apt {
    dir: PathBuf,
    series: Series,
    arch: Arch,
}

impl Apt {
    fn new(series: Series, arch: Arch) -> Result<Self> {
        let uris = sh::output(Command::new("apt-get").args(["--print-uris", "update"]))
            .context("kernels come from Debian's packages, and this machine has no apt")?;
        let dir = vm_dir().join("apt").join(format!("{}-{}", series.name, arch.name()));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| dir.display().to_string())?;
        }
        let list = sources(&uris, series)?;
        fs::write(dir.join("sources.list"), list).with_context(|| dir.display().to_string())?;
        let apt = Self { dir, series, arch };
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

    /// Kernels of the series, newest first.
    fn packages(&self) -> Result<Vec<String>> {
        let names = sh::output(self.command("apt-cache").args(["pkgnames", self.series.prefix]))
            .context("apt-cache failed")?;
        Ok(newest_first(self.series, self.arch, names.lines().map(str::to_owned)))
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        sh::run(self.command("apt-get").args(["--quiet", "download", package]))?;
        let entries = fs::read_dir(&self.dir).with_context(|| self.dir.display().to_string())?;
        let of_package = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .find(of_package)
            .with_context(|| format!("apt-get did not download {package}"))
    }
}

/// The `sources.list` for a series, with the mirrors that apt's own `uris` show this machine uses.
fn sources(uris: &str, series: Series) -> Result<String> {
    // 'http://HOST/debian/dists/bookworm/InRelease' name 0
    let bases: Vec<&str> = uris
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once("/dists/").map(|(base, _)| base))
        .collect();
    let mut list = String::new();
    for (archive, suite) in series.suites {
        let ends = match archive {
            Archive::Main => "/debian",
            Archive::Security => "-security",
        };
        let Some(base) = bases.iter().find(|base| base.ends_with(ends)) else {
            bail!("this machine's apt has no mirror of Debian that ends in {ends}: kernels come from there");
        };
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        list.push_str(&format!("deb [signed-by={keyring}] {base} {suite} main\n"));
    }
    Ok(list)
}

/// Those of these packages that are kernels of the series for virtual machines, newest first.
fn newest_first(series: Series, arch: Arch, names: impl Iterator<Item = String>) -> Vec<String> {
    let suffix = format!("-cloud-{}", arch.debian());
    let version = |name: &str| -> Option<Vec<u32>> {
        let version = name.strip_prefix(series.prefix)?.strip_suffix(&suffix)?;
        // "+deb13" is Debian's own; what else is no number, as in a backport, is none of ours.
        let numbers = version.split_once('+').map_or(version, |(numbers, _)| numbers);
        numbers.split('.').map(|number| number.parse().ok()).collect()
    };
    let mut kernels: Vec<_> = names.filter_map(|name| Some((version(&name)?, name))).collect();
    kernels.sort();
    kernels.into_iter().rev().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_the_highest_number_and_no_backport() {
        let newest = |series: &str, names: &[&str]| {
            newest_first(find(series).unwrap(), Arch::X86_64, names.iter().map(|name| (*name).to_owned()))
        };
        let names = [
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-5.10.0-47-cloud-arm64",
            "linux-image-5.10.0-48-amd64",
            "linux-image-5.10.0-0.deb10.99-cloud-amd64",
        ];
        assert_eq!(newest("5.10", &names), [names[1], names[0]]);
        assert!(newest("6.1", &names).is_empty());
        let names = ["linux-binary-7.2.13+deb14-cloud-amd64", "linux-binary-7.10.1+deb14-cloud-amd64"];
        assert_eq!(newest("7", &names), [names[1], names[0]]);
    }

    #[test]
    fn mirrors_are_this_machines() {
        let uris = "'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n\
                    'http://mirror.example/debian-security/dists/bookworm-security/InRelease' y 0 \n";
        let list = sources(uris, find("5.10").unwrap()).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert!(lines[0].ends_with("http://mirror.example/debian bullseye main"), "{list}");
        assert!(lines[1].ends_with("http://mirror.example/debian-security bullseye-security main"), "{list}");
        let ubuntu = "'http://mirror.example/ubuntu/dists/noble/InRelease' x 0";
        assert!(sources(ubuntu, find("7").unwrap()).unwrap_err().to_string().contains("no mirror of Debian"));
    }
}
