//! Finds what builds the eBPF programs: a compiler that can build `core` for a BPF target, `bpf-linker`, and the LLVM
//! library that `bpf-linker` loads at run time.
//!
//! Shared by `cargo xtask setup`, which installs what is missing, and by numa-agent's build script, which includes this
//! file by path. So: standard library only, and nothing here installs, downloads or prints.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The nightly that `cargo xtask setup` installs: its LLVM (22) is the newest for which cargo can build `bpf-linker` by
/// itself.
pub const PINNED_NIGHTLY: &str = "nightly-2026-05-20";

/// A complete toolchain for the eBPF programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler; its sysroot has the standard library's source.
    pub rustc: PathBuf,
    /// The cargo that drives it.
    pub cargo: PathBuf,
    /// Whether it is a stable compiler, which takes unstable flags only with `RUSTC_BOOTSTRAP=1`.
    pub needs_bootstrap: bool,
    /// `bpf-linker`.
    pub linker: PathBuf,
    /// The LLVM library of that compiler, for a `bpf-linker` that loads LLVM at run time; `None` where the compiler has
    /// LLVM built in, which suits only a `bpf-linker` that has its own.
    pub llvm: Option<PathBuf>,
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No nightly toolchain with rust-src, and no distribution compiler with the library's source.
    Compiler,
    /// No `bpf-linker`.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Compiler => {
                "no Rust compiler with the standard library's source was found (a rustup nightly with rust-src, or the \
                 distribution's /usr/bin/rustc with its source package)"
            }
            Self::Linker => "bpf-linker was found neither in PATH nor in cargo's bin directory",
        };
        write!(f, "the eBPF programs cannot be built: {what}; run `cargo xtask setup`")
    }
}

impl std::error::Error for Missing {}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// `RUSTUP_HOME`.
    pub rustup_home: PathBuf,
    /// `CARGO_HOME`.
    pub cargo_home: PathBuf,
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
    /// The distribution's compiler.
    pub system_rustc: PathBuf,
    /// The cargo to drive the distribution's compiler with.
    pub system_cargo: PathBuf,
    /// Directories in which distributions put LLVM's library, besides the compiler's own `lib`.
    pub library_dirs: Vec<PathBuf>,
}

impl Places {
    /// The places of this environment.
    #[must_use]
    pub fn from_env() -> Self {
        let home = || env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let dir = |key: &str, default: &str| {
            env::var_os(key)
                .filter(|value| !value.is_empty())
                .map_or_else(|| home().join(default), PathBuf::from)
        };
        Self {
            rustup_home: dir("RUSTUP_HOME", ".rustup"),
            cargo_home: dir("CARGO_HOME", ".cargo"),
            path: env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default(),
            system_rustc: PathBuf::from("/usr/bin/rustc"),
            // Cargo tells build scripts and `cargo run` which cargo it is; that is the real one, not rustup's proxy.
            system_cargo: env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from),
            library_dirs: ["/usr/lib64", "/usr/lib"].map(PathBuf::from).into(),
        }
    }
}

/// Finds the toolchain in this environment.
///
/// # Errors
/// [`Missing`] names the first part that is not there.
pub fn discover() -> Result<Toolchain, Missing> {
    discover_in(&Places::from_env())
}

/// Finds the toolchain in `places`: a rustup nightly that has rust-src, else the distribution's compiler with its source.
///
/// # Errors
/// [`Missing`] names the first part that is not there.
pub fn discover_in(places: &Places) -> Result<Toolchain, Missing> {
    let compiler = compiler(places).ok_or(Missing::Compiler)?;
    let linker = find_linker(places).ok_or(Missing::Linker)?;
    Ok(Toolchain { linker, ..compiler })
}

/// The compiler that [`discover_in`] takes, without its linker.
#[must_use]
pub fn compiler(places: &Places) -> Option<Toolchain> {
    nightly(places).or_else(|| distribution(places))
}

/// `bpf-linker`, from `PATH` or cargo's bin directory.
#[must_use]
pub fn find_linker(places: &Places) -> Option<PathBuf> {
    let cargo_bin = places.cargo_home.join("bin");
    places.path.iter().chain([&cargo_bin]).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
}

fn nightly(places: &Places) -> Option<Toolchain> {
    let entries = fs::read_dir(places.rustup_home.join("toolchains")).ok()?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    // What setup installed, then `nightly-HOST` before `nightly-DATE-HOST`, and the latest date first.
    let dated = |name: &str| name.trim_start_matches("nightly-").starts_with(|c: char| c.is_ascii_digit());
    let other = |name: &str| !name.starts_with(PINNED_NIGHTLY);
    names.sort_by(|a, b| (other(a), dated(a)).cmp(&(other(b), dated(b))).then(b.cmp(a)));
    names.into_iter().find_map(|name| {
        let root = places.rustup_home.join("toolchains").join(name);
        let rustc = root.join("bin/rustc");
        // Also keeps out a toolchain for another host: its rustc does not run.
        let about = describe(&rustc).filter(|_| has_source(&root))?;
        let llvm = find_llvm(&about, &[root.join("lib")]);
        Some(Toolchain {
            rustc,
            cargo: root.join("bin/cargo"),
            needs_bootstrap: false,
            linker: PathBuf::new(),
            llvm,
        })
    })
}

fn distribution(places: &Places) -> Option<Toolchain> {
    let rustc = places.system_rustc.clone();
    let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?.trim());
    let about = describe(&rustc).filter(|_| has_source(&sysroot))?;
    let mut dirs = vec![sysroot.join("lib")];
    for dir in &places.library_dirs {
        let versioned = about.llvm_major.map(|major| dir.join(format!("llvm-{major}/lib")));
        dirs.extend(versioned.into_iter().chain([dir.join(&about.multiarch), dir.clone()]));
    }
    let llvm = find_llvm(&about, &dirs);
    let cargo = places.system_cargo.clone();
    Some(Toolchain { rustc, cargo, needs_bootstrap: !about.nightly, linker: PathBuf::new(), llvm })
}

/// Whether the standard library's source lies in that sysroot.
#[must_use]
pub fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

/// What `rustc --version --verbose` says.
struct About {
    nightly: bool,
    llvm_major: Option<u32>,
    /// Debian's name for the host, such as `x86_64-linux-gnu`.
    multiarch: String,
}

fn describe(rustc: &Path) -> Option<About> {
    let text = output(Command::new(rustc).args(["--version", "--verbose"]))?;
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    Some(About {
        nightly: field("release:")?.contains("nightly"),
        llvm_major: field("LLVM version:").and_then(|version| version.split('.').next()?.parse().ok()),
        multiarch: field("host:")?.replace("-unknown-", "-"),
    })
}

/// LLVM's shared library of the compiler's version. A directory often holds several versions, and linker scripts beside
/// them (`libLLVM-22-rust-1.97.0-nightly.so`): only an ELF file of the same major version will do.
fn find_llvm(about: &About, dirs: &[PathBuf]) -> Option<PathBuf> {
    dirs.iter().find_map(|dir| {
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        files.into_iter().find(|file| {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(rest) = name.strip_prefix("libLLVM") else { return false };
            let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
            let major =
                digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok());
            major.is_some() && major == about.llvm_major && is_elf(file)
        })
    })
}

fn is_elf(file: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 4];
    fs::File::open(file).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory of its own, removed at the end.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let dir = env::temp_dir().join(format!("numa-agent-toolchain-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn compiler(&self, sysroot: &str, release: &str, with_source: bool) {
            let root = self.0.join(sysroot);
            let script = format!(
                "#!/bin/sh\nif [ \"$1\" = --print ]; then echo {}; else printf 'rustc\\nhost: x86_64-unknown-linux-gnu\\n\
                 release: {release}\\nLLVM version: 22.1.8\\n'; fi\n",
                root.display()
            );
            self.write(&format!("{sysroot}/bin/rustc"), &script);
            if with_source {
                self.write(&format!("{sysroot}/lib/rustlib/src/rust/library/core/Cargo.toml"), "");
            }
        }

        fn places(&self) -> Places {
            Places {
                rustup_home: self.0.join("rustup"),
                cargo_home: self.0.join("cargo"),
                path: vec![self.0.join("path")],
                system_rustc: self.0.join("usr/bin/rustc"),
                system_cargo: PathBuf::from("cargo"),
                library_dirs: vec![self.0.join("usr/lib")],
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_nightly_with_source_comes_first() {
        let machine = Machine::new("nightly");
        machine.compiler("rustup/toolchains/nightly-2026-01-01-x", "1.97.0-nightly", true);
        machine.compiler("rustup/toolchains/nightly-2026-02-01-x", "1.97.0-nightly", true);
        machine.compiler("rustup/toolchains/nightly-x", "1.97.0-nightly", false);
        machine.compiler("usr", "1.96.0", true);
        machine.write("cargo/bin/bpf-linker", "");
        let found = discover_in(&machine.places()).unwrap();
        assert_eq!(found.rustc, machine.0.join("rustup/toolchains/nightly-2026-02-01-x/bin/rustc"));
        assert!(!found.needs_bootstrap);
        machine.compiler("rustup/toolchains/nightly-x", "1.97.0-nightly", true);
        let found = discover_in(&machine.places()).unwrap();
        assert_eq!(found.cargo, machine.0.join("rustup/toolchains/nightly-x/bin/cargo"));
        machine.compiler(&format!("rustup/toolchains/{PINNED_NIGHTLY}-x"), "1.97.0-nightly", true);
        let found = discover_in(&machine.places()).unwrap();
        assert_eq!(found.rustc, machine.0.join(format!("rustup/toolchains/{PINNED_NIGHTLY}-x/bin/rustc")));
    }

    #[test]
    fn the_distribution_compiler_needs_bootstrap_and_its_own_llvm() {
        let machine = Machine::new("distribution");
        machine.compiler("rustup/toolchains/nightly-x", "1.97.0-nightly", false);
        machine.compiler("usr", "1.96.0", true);
        machine.write("path/bpf-linker", "");
        machine.write("usr/lib/x86_64-linux-gnu/libLLVM-15.so.1", "\x7fELF");
        machine.write("usr/lib/x86_64-linux-gnu/libLLVM-22.so", "INPUT(libLLVM.so.22.1)");
        machine.write("usr/lib/x86_64-linux-gnu/libLLVM.so.22.1", "\x7fELF");
        let found = discover_in(&machine.places()).unwrap();
        assert_eq!(found.rustc, machine.0.join("usr/bin/rustc"));
        assert!(found.needs_bootstrap);
        assert_eq!(found.linker, machine.0.join("path/bpf-linker"));
        assert_eq!(found.llvm, Some(machine.0.join("usr/lib/x86_64-linux-gnu/libLLVM.so.22.1")));
    }

    #[test]
    fn what_is_missing_is_one_sentence_with_the_remedy() {
        let machine = Machine::new("missing");
        machine.compiler("usr", "1.96.0", false);
        assert_eq!(discover_in(&machine.places()), Err(Missing::Compiler));
        machine.compiler("usr", "1.96.0", true);
        let missing = discover_in(&machine.places()).unwrap_err();
        assert_eq!(missing, Missing::Linker);
        for missing in [Missing::Compiler, Missing::Linker] {
            let text = missing.to_string();
            assert!(text.ends_with("run `cargo xtask setup`") && !text.contains('\n'), "{text}");
        }
    }
}
