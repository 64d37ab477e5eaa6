//! RPM packages, by `rpmbuild` over the same tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Contents, PACKAGING, Tree};
use crate::sh;

/// What builds them.
pub const PROGRAM: &str = "rpmbuild";

/// Makes the package in `dist`; its path.
///
/// # Errors
/// If something cannot be read or written, or `rpmbuild` fails.
pub fn pack(dist: &Path, contents: &Contents<'_>) -> Result<PathBuf> {
    let (version, arch) = (contents.version, contents.arch);
    let top = dist.join(format!("numa-agent-{version}-{arch}.rpmbuild"));
    let root = top.join("tree");
    let tree = Tree::stage(&root, contents, "usr/share/zsh/site-functions")?;
    tree.put("usr/share/licenses/numa-agent/LICENSE", &super::read(&sh::root().join("LICENSE"))?, 0o644)?;
    // The spec names the configuration itself.
    let files = tree.files()?.into_iter().filter(|file| !file.starts_with("etc/"));
    let list: String = files.map(|file| format!("%attr(-, root, root) \"/{file}\"\n")).collect();
    fs::write(top.join("tree.files"), list).with_context(|| top.display().to_string())?;
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    let mut rpmbuild = Command::new(PROGRAM);
    rpmbuild.args(["-bb", "--quiet", "--target", &format!("{arch}-linux")]);
    rpmbuild.args(define("_topdir", &top.to_string_lossy()));
    rpmbuild.args(define("_rpmdir", &top.join("out").to_string_lossy()));
    rpmbuild.args(define("_rpmfilename", "%%{NAME}.rpm"));
    rpmbuild.args(define("stage", &root.to_string_lossy()));
    rpmbuild.args(define("version_of_agent", version));
    rpmbuild.arg(sh::root().join(PACKAGING).join("rpm/numa-agent.spec"));
    sh::run(rpmbuild.env("SOURCE_DATE_EPOCH", contents.time.to_string()))?;
    let package = dist.join(format!("numa-agent-{version}-1.{arch}.rpm"));
    let made = top.join("out/numa-agent.rpm");
    fs::rename(&made, &package).with_context(|| made.display().to_string())?;
    fs::remove_dir_all(&top).with_context(|| top.display().to_string())?;
    Ok(package)
}
