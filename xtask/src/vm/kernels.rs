//! Kernels for guests: which series there are, and Debian's packages of them, kept under `target/vm/kernels`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};

use super::{
    Arch,
    packages::{self, Apt, Suite},
    vm_dir,
};

/// A kernel series, and where Debian has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// As on the command line.
    pub name: &'static str,
    /// Releases that have it.
    suites: &'static [Suite],
    /// How its packages are called, before and after what counts up: "linux-image-5.10.0-" 46 "-cloud-amd64".
    prefix: &'static str,
}

impl Series {
    /// Whether a kernel of that release is of it.
    pub fn has(&self, release: &str) -> bool {
        *self == OWN || release.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The modules of a virtio network card, as far as they are not built in. Nothing else that tests use is one.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// All series, oldest first. The flavour for virtual machines is small.
pub const ALL: [Series; 4] = [
    Series {
        name: "5.10",
        suites: &[Suite::Main("bullseye"), Suite::Security("bullseye-security")],
        prefix: "linux-image-5.10.0-",
    },
    Series {
        name: "6.1",
        suites: &[Suite::Main("bookworm"), Suite::Security("bookworm-security")],
        prefix: "linux-image-6.1.0-",
    },
    Series { name: "6.12", suites: &[Suite::Main("trixie")], prefix: "linux-image-6.12." },
    // The newest there is: unstable moves, so no number is pinned.
    Series { name: "7", suites: &[Suite::Main("unstable")], prefix: "linux-binary-7." },
];

/// A kernel that is not Debian's, or not as Debian packs it: named by its path.
pub const OWN: Series = Series { name: "own", suites: &[], prefix: "" };

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
    /// Modules, in the order in which they can be loaded.
    pub modules: Vec<PathBuf>,
}

/// The kernel kept last of that series; `None` if none was fetched yet.
pub fn kept(series: Series, arch: Arch) -> Option<Kernel> {
    let entries = fs::read_dir(kernels_dir(arch)).ok()?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let package = newest_first(series, arch, names).into_iter().next()?;
    complete(&kernels_dir(arch).join(&package), package)
}

/// The kernel kept in `dir`, if all of it is there.
fn complete(dir: &Path, package: String) -> Option<Kernel> {
    let path = image_in(dir)?;
    // Some are built in, but never all.
    let modules: Vec<PathBuf> =
        MODULES.into_iter().flat_map(|name| module_in(&dir.join("modules"), name)).collect();
    (!modules.is_empty()).then_some(Kernel { package, path, modules })
}

/// A module in an unpacked package, or where [`fetch`] keeps it; since 6.12 it is packed.
fn module_in(dir: &Path, name: &str) -> Vec<PathBuf> {
    packages::called(dir, &[&format!("{name}.ko"), &format!("{name}.ko.xz")])
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
    let apt = Apt::new(series.name, series.suites, arch)?;
    let mut failed = None;
    for package in newest_first(series, arch, apt.names(series.prefix)?.into_iter()) {
        let dir = kernels_dir(arch).join(&package);
        if let Some(kernel) = complete(&dir, package.clone()) {
            return Ok(kernel);
        }
        // Lists may name packages that the archive has not any more.
        match fetch_into(&apt, &package, &dir) {
            Ok(()) => {
                return complete(&dir, package.clone())
                    .with_context(|| format!("{package} has no module of a network card"));
            }
            Err(error) => failed = Some(error),
        }
    }
    let what = format!("no kernel {}*-cloud-{} to be had from apt", series.prefix, arch.debian());
    Err(failed.unwrap_or_else(|| anyhow!("apt lists none")).context(what))
}

fn fetch_into(apt: &Apt, package: &str, dir: &Path) -> Result<()> {
    let image = |dir: &Path| image_in(dir).into_iter().collect();
    let modules = |dir: &Path| MODULES.into_iter().flat_map(|name| module_in(dir, name)).collect();
    // Since 7 they are in another package.
    let with_modules = package.replacen("linux-binary-", "linux-modules-", 1);
    apt.take_out(&with_modules, modules, &dir.join("modules"))?;
    apt.take_out(package, image, dir).map(drop)
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
    fn a_release_tells_its_series() {
        let has = |series: &str, release: &str| find(series).unwrap().has(release);
        assert!(has("6.1", "6.1.0-56-cloud-arm64") && has("7", "7.2.13+deb14-cloud-amd64"));
        assert!(!has("6.1", "6.12.9-cloud-amd64") && !has("5.10", "5.1"));
        assert!(OWN.has("5.10.0-216.0.0.oe2203sp4"));
    }

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
}
