//! `cargo xtask lint`: what a reviewer should never have to say.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{sh, toolchain};

/// Runs every check, also after one has failed.
///
/// # Errors
/// Names the checks that failed.
pub fn run() -> Result<()> {
    let checks =
        [("fmt", fmt as fn() -> Result<()>), ("clippy", clippy), ("eBPF warnings", ebpf), ("deny", deny)];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = check() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("lint failed: {}", failed.join(", ")) }
}

fn fmt() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    sh::run(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

/// Clippy sees numa-ebpf as the host does: without the programs. The build script keeps a successful build's warnings to
/// itself. So check the programs for their own target.
fn ebpf() -> Result<()> {
    let toolchain = toolchain::discover()?;
    let target_dir = sh::root().join("target/ebpf-lint");
    let mut cargo = Command::new(&toolchain.cargo);
    cargo.current_dir(sh::root().join("numa-ebpf"));
    cargo.args(["check", "-Z", "build-std=core", "--target", "bpfel-unknown-none", "--bin", "numa-ebpf"]);
    cargo.args(["--features", "programs"]).arg("--target-dir").arg(target_dir);
    cargo.env("RUSTC", &toolchain.rustc).env_remove("RUSTUP_TOOLCHAIN");
    let arch = std::env::consts::ARCH;
    cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Dwarnings"));
    if toolchain.needs_bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    sh::run(&mut cargo)
}

/// Whether cargo has `cargo deny`.
pub fn has_deny() -> bool {
    sh::output(sh::cargo().args(["deny", "--version"])).is_some()
}

fn deny() -> Result<()> {
    if !has_deny() {
        return without_deny(sh::is_ci());
    }
    let check = |what: &[&str]| sh::run(sh::cargo().args(["deny", "--workspace", "check"]).args(what));
    check(&["licenses", "bans", "sources"])?;
    // They come from a repository at github.com, which not every machine can reach.
    let known = ["ls-remote", "--exit-code", "https://github.com/RustSec/advisory-db", "HEAD"];
    if !sh::works("git", &known) {
        eprintln!("lint: the advisory database cannot be reached: advisories are not checked");
        return Ok(());
    }
    check(&["advisories"])
}

/// Somebody without network may go on, and is told; what is to land has been looked at.
fn without_deny(ci: bool) -> Result<()> {
    let fault = "cargo-deny is not installed: licenses, sources and advisories are not checked (cargo xtask setup --tests)";
    if ci {
        bail!("{fault}");
    }
    eprintln!("lint: {fault}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_that_nobody_looked_at_do_not_land() {
        assert!(without_deny(true).unwrap_err().to_string().contains("cargo xtask setup --tests"));
        assert!(without_deny(false).is_ok());
    }
}
