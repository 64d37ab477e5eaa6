//! Debian packages, by `dpkg-deb`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Contents, Tree, packaging};
use crate::{build::Arch, sh};

/// What builds them.
pub const PROGRAM: &str = "dpkg-deb";
/// The scripts of the package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// Who answers for it. There is no address to write to.
const MAINTAINER: &str = "numa-agent authors <numa-agent@numa-agent.invalid>";

/// Makes the package in `dist`; its path.
///
/// # Errors
/// If something cannot be read or written, or `dpkg-deb` fails.
pub fn pack(dist: &Path, contents: &Contents<'_>) -> Result<PathBuf> {
    let arch = match contents.arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    };
    let name = format!("numa-agent_{}_{arch}", contents.version);
    let root = dist.join(format!("{name}.tree"));
    let tree = Tree::stage(&root, contents, "usr/share/zsh/vendor-completions")?;
    tree.put("usr/share/doc/numa-agent/copyright", &packaging("debian/copyright")?, 0o644)?;
    tree.put("usr/share/lintian/overrides/numa-agent", &packaging("debian/lintian-overrides")?, 0o644)?;
    let log = "usr/share/doc/numa-agent/changelog".to_owned();
    tree.put(&log, changelog(contents)?.as_bytes(), 0o644)?;
    tree.compress(&[log, "usr/share/doc/numa-agent/CHANGELOG.md".to_owned()])?;
    let files = tree.files()?;
    // Configuration is meant to be changed.
    let fixed = files.iter().filter(|file| !file.starts_with("etc/"));
    let sums = sh::run_for_output(Command::new("md5sum").args(fixed).current_dir(&root))?;
    tree.put("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    let kilobytes = kilobytes(&root, &files)?;
    tree.put("DEBIAN/control", control(contents.version, arch, kilobytes).as_bytes(), 0o644)?;
    tree.put("DEBIAN/conffiles", b"/etc/numa-agent/config.toml\n", 0o644)?;
    for script in SCRIPTS {
        tree.put(&format!("DEBIAN/{script}"), &packaging(&format!("debian/{script}"))?, 0o755)?;
    }
    let package = dist.join(format!("{name}.deb"));
    // gzip: what xz makes depends on the number of CPUs.
    let mut dpkg = Command::new(PROGRAM);
    dpkg.args(["--build", "--root-owner-group", "-Zgzip", "-z9"]).arg(&root).arg(&package);
    sh::run(dpkg.env("SOURCE_DATE_EPOCH", contents.time.to_string()))?;
    fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    Ok(package)
}

fn control(version: &str, arch: &str, kilobytes: u64) -> String {
    format!(
        "Package: numa-agent\n\
         Version: {version}\n\
         Architecture: {arch}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {kilobytes}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: NUMA host agent for inference servers\n \
         Puts every process and thread of an inference server on the right NUMA\n \
         node the moment it is born, keeps it there, and reports off-node runs and\n \
         scheduling jitter. Needs a kernel with BTF, 5.10 or newer.\n"
    )
}

fn changelog(contents: &Contents<'_>) -> Result<String> {
    let mut date = Command::new("date");
    let date =
        sh::run_for_output(date.args(["-u", "-R", "-d", &format!("@{}", contents.time)]).env("LC_ALL", "C"))?;
    let version = contents.version;
    Ok(format!(
        "numa-agent ({version}) stable; urgency=medium\n\n  * CHANGELOG.md says what is new.\n\n -- {MAINTAINER}  {date}"
    ))
}

/// As dpkg counts: each file in whole kilobytes.
fn kilobytes(root: &Path, files: &[String]) -> Result<u64> {
    let size = |file: &String| {
        let path = root.join(file);
        Ok(fs::metadata(&path).with_context(|| path.display().to_string())?.len().div_ceil(1024))
    };
    files.iter().map(size).sum()
}
