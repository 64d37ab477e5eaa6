//! Building the agent and the programs that tests and the demo run.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::sh;

/// Builds workspace binaries in one profile, and knows where they are.
pub struct Build {
    release: bool,
    /// Where this profile's binaries are.
    dir: PathBuf,
}

impl Build {
    /// For the release or the dev profile.
    ///
    /// # Errors
    /// If the target directory cannot be told.
    pub fn new(release: bool) -> Result<Self> {
        // Cargo has put us into TARGET/debug; so this holds for CARGO_TARGET_DIR and a configured one alike.
        let exe = env::current_exe().context("cannot tell where cargo put xtask")?;
        let target =
            exe.ancestors().nth(2).context("xtask is not inside a target directory; use `cargo xtask`")?;
        Ok(Self { release, dir: target.join(if release { "release" } else { "debug" }) })
    }

    /// Builds `numa-agent`; the path of the binary.
    ///
    /// # Errors
    /// If it does not build.
    pub fn agent(&self) -> Result<PathBuf> {
        self.binary("numa-agent", "numa-agent")
    }

    /// Builds binary `name` of the tests crate; its path.
    ///
    /// # Errors
    /// If it does not build, or there is no such binary.
    pub fn test_program(&self, name: &str) -> Result<PathBuf> {
        self.binary("numa-agent-tests", name)
    }

    fn binary(&self, package: &str, name: &str) -> Result<PathBuf> {
        let mut cargo = sh::cargo();
        cargo.args(["build", "--package", package, "--bin", name]);
        if self.release {
            cargo.arg("--release");
        }
        sh::run(&mut cargo)?;
        Ok(self.dir.join(name))
    }
}
