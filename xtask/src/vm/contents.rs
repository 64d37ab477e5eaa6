//! What is in a guest: the agent, the test programs, a shell. Built, and packed into an image.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Arch,
    image::Image,
    kernels::Kernel,
    matrix::{self, Machine},
    packages, vm_dir,
};
use crate::{
    build::{Build, Profile},
    setup::{self, Purpose},
};

/// The packages that the test programs are of.
const PACKAGES: [&str; 2] = ["numa-agent", "numa-agent-tests"];

/// What tests start besides: all of them are busybox, which has many more, also for `vm shell`.
const COMMANDS: [&str; 5] = ["sh", "sleep", "true", "unshare", "taskset"];

/// Builds the image of each architecture that these machines need.
///
/// # Errors
/// As [`build`], and if something that is needed cannot be installed.
pub fn build_all(machines: &[Machine]) -> Result<BTreeMap<&'static str, PathBuf>> {
    let arches: Vec<Arch> =
        Arch::ALL.into_iter().filter(|arch| machines.iter().any(|machine| machine.arch == *arch)).collect();
    // Before anything is built: what it would fail for.
    arches.iter().try_for_each(|arch| setup::ensure(Purpose::Vm(*arch)))?;
    arches.into_iter().map(|arch| Ok((arch.name(), build(arch)?))).collect()
}

/// Builds everything that is in a guest, and packs it; the image's path.
///
/// # Errors
/// If something cannot be built, fetched or written.
pub fn build(arch: Arch) -> Result<PathBuf> {
    let build = Build::for_arch(arch, Profile::Guest)?;
    let mut image = Image::new();
    for (suite, built) in matrix::SUITES.iter().zip(build.test_binaries(&PACKAGES, &matrix::SUITES)?) {
        image.program(&built, &suite_path(suite))?;
    }
    image.program(&build.built("guest-init"), Path::new("/init"))?;
    for name in ["numa-agent", "serving-stack"] {
        let program = build.built(name);
        image.program(&program, &Path::new("/bin").join(name))?;
        // Tests find these where cargo has put them.
        image.link(&program, &format!("/bin/{name}"));
    }
    image.program(&packages::busybox(arch)?, Path::new("/bin/busybox"))?;
    for (file, place) in packages::irqbalance(arch)? {
        image.program(&file, &place)?;
    }
    for name in COMMANDS {
        image.link(&Path::new("/bin").join(name), "busybox");
    }
    let dir = vm_dir();
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let path = dir.join(format!("image-{arch}"));
    image.write(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// The image with a kernel's modules: an archive of their own behind it, as the kernel takes any number of them.
///
/// # Errors
/// If something cannot be read or written.
pub fn with_modules(image: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let mut modules = Image::new();
    for module in &kernel.modules {
        modules.program(module, &Path::new("/modules").join(module.file_name().unwrap_or_default()))?;
    }
    // Several may boot it at a time, each with its own.
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let own = kernel.path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let path = image.with_file_name(format!("{name}-{own}"));
    fs::copy(image, &path).with_context(|| image.display().to_string())?;
    modules.append(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Where the test program of that name is in a guest.
pub fn suite_path(name: &str) -> PathBuf {
    Path::new("/tests").join(name)
}
