//! Building the agent and the programs that tests, guests and the demo run: for this machine, or static for an architecture.

use std::{env, fmt, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::sh;

/// An architecture that the agent is shipped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// AMD and Intel
    #[value(name = "x86_64")]
    X86_64,
    /// Kunpeng and other 64-bit ARM
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// This machine's.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// As the kernel and QEMU call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's target. There is a `libc.a` for it wherever its C compiler can link, which is not so with musl.
    pub fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// What links for it; `None` if that is this machine's own `cc`.
    pub fn cross_linker(self) -> Option<String> {
        (self != Self::host()).then(|| format!("{}-linux-gnu-gcc", self.name()))
    }
}

impl Default for Arch {
    fn default() -> Self {
        Self::host()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A profile of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What `cargo build` takes.
    Dev,
    /// For guests: built quickly, small, and not too slow under emulation.
    Guest,
    /// Optimized.
    Release,
    /// The same without debug information.
    Shipped,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Guest => "guest",
            Self::Release => "release",
            Self::Shipped => "shipped",
        }
    }

    /// The directory of its binaries.
    fn dir(self) -> &'static str {
        if self == Self::Dev { "debug" } else { self.name() }
    }
}

/// Builds workspace binaries in one profile, and knows where they are.
pub struct Build {
    profile: Profile,
    /// Static for this one; `None`: as `cargo build` does for this machine.
    arch: Option<Arch>,
    /// Where this profile's binaries are.
    dir: PathBuf,
}

impl Build {
    /// For this machine, in the release or the dev profile.
    ///
    /// # Errors
    /// If the target directory cannot be told.
    pub fn new(release: bool) -> Result<Self> {
        let profile = if release { Profile::Release } else { Profile::Dev };
        Ok(Self { profile, arch: None, dir: target_dir()?.join(profile.dir()) })
    }

    /// Static binaries for `arch`, which run on any system of that kind, and in a guest that has nothing else.
    ///
    /// # Errors
    /// If the target directory cannot be told.
    pub fn for_arch(arch: Arch, profile: Profile) -> Result<Self> {
        Ok(Self { profile, arch: Some(arch), dir: target_dir()?.join(arch.triple()).join(profile.dir()) })
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

    /// Builds integration tests of `packages` by name, and all programs of those packages, which [`Build::built`] tells; the paths
    /// of the tests' binaries. In one go: cargo would build dependencies again for each set of packages that differs in features.
    ///
    /// # Errors
    /// If they do not build, or there are no such tests.
    pub fn test_binaries(&self, packages: &[&str], names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut cargo = self.cargo("test");
        cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
        cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        cargo.args(names.iter().flat_map(|name| ["--test", name]));
        let messages = sh::run_for_output(&mut cargo)?;
        let find = |name: &&str| {
            let found = messages.lines().find_map(|message| executable(message, name));
            found.with_context(|| format!("cargo does not say where the tests `{name}` are"))
        };
        names.iter().map(find).collect()
    }

    /// Where a program is that was built.
    pub fn built(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn binary(&self, package: &str, name: &str) -> Result<PathBuf> {
        sh::run(self.cargo("build").args(["--package", package, "--bin", name]))?;
        Ok(self.built(name))
    }

    fn cargo(&self, command: &str) -> Command {
        let mut cargo = sh::cargo();
        cargo.args([command, "--profile", self.profile.name()]);
        if let Some(arch) = self.arch {
            // With --target, the flags are not for build scripts and macros.
            cargo.args(["--target", arch.triple()]);
            cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
            if let Some(linker) = arch.cross_linker() {
                let triple = arch.triple().to_uppercase().replace('-', "_");
                cargo.env(format!("CARGO_TARGET_{triple}_LINKER"), linker);
            }
        }
        cargo
    }
}

/// Where cargo builds. It has put us into TARGET/debug; so this holds for CARGO_TARGET_DIR and a configured one alike.
pub fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell where cargo put xtask")?;
    let target =
        exe.ancestors().nth(2).context("xtask is not inside a target directory; use `cargo xtask`")?;
    Ok(target.to_owned())
}

/// Where cargo says in `message`, a line of JSON, that the test target `name` is.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let target = message.split_once(r#""target":{"kind":["test"]"#)?.1;
    target.contains(&format!(r#""name":"{name}""#)).then_some(())?;
    let (path, _) = target.split_once(r#""executable":""#)?.1.split_once(r#"","fresh""#)?;
    // What else JSON escapes, no path that cargo can build in has.
    Some(PathBuf::from(path.replace(r#"\""#, "\"").replace(r"\\", r"\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_a_test_binary_is() {
        let message = |kind: &str, name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///n#0.1.0","target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"{name}","src_path":"/n/{name}.rs"}},"profile":{{"opt_level":"1","test":true}},"filenames":["/n/x"],"executable":{executable},"fresh":false}}"#
            )
        };
        let found = executable(&message("test", "guest", r#""/a \"b\"/c\\d/guest-1f""#), "guest");
        assert_eq!(found, Some(PathBuf::from(r#"/a "b"/c\d/guest-1f"#)));
        assert_eq!(executable(&message("bin", "guest", r#""/a/guest""#), "guest"), None);
        assert_eq!(executable(&message("test", "guest-2", r#""/a/guest""#), "guest"), None);
        assert_eq!(executable(&message("lib", "guest", "null"), "guest"), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#, "guest"), None);
    }

    #[test]
    fn a_static_build_has_a_target_and_a_linker_and_a_directory_of_its_own() {
        let build = Build::for_arch(Arch::Aarch64, Profile::Guest).unwrap();
        assert!(build.dir.ends_with("aarch64-unknown-linux-gnu/guest"));
        let cargo = build.cargo("build");
        let args: Vec<_> = cargo.get_args().collect();
        assert_eq!(args, ["build", "--profile", "guest", "--target", "aarch64-unknown-linux-gnu"]);
        let linker =
            cargo.get_envs().find(|(key, _)| *key == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
        assert_eq!(linker.is_some(), cfg!(target_arch = "x86_64"));
        let own = Build::new(false).unwrap();
        // In CI cargo is quiet.
        let plain = own.cargo("build").get_envs().all(|(key, _)| key == "CARGO_TERM_QUIET");
        assert!(own.dir.ends_with("debug") && plain);
    }
}
