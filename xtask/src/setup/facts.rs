//! Looks at the machine. Changes nothing, downloads nothing.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Purpose,
    guests::Tool,
    plan::{BROWSERS, Compiler, Facts, Linker, PACKAGERS, PEERS, Packages, plan},
};
use crate::{
    build::Arch,
    fuzz, lint, sh,
    toolchain::{self, Places, Toolchain},
};

/// The facts for `purpose`; `tried` tells what was run already.
pub fn gather(purpose: Purpose, tried: &Facts) -> Facts {
    let places = Places::from_env();
    let compiler = toolchain::compiler(&places);
    let mut facts = Facts {
        linker: toolchain::find_linker(&places).and_then(|path| linker(&path, compiler.as_ref())),
        compiler: compiler.and_then(|found| {
            let llvm = llvm_of(&found.rustc)?;
            Some(Compiler { path: found.rustc.display().to_string(), llvm })
        }),
        done: tried.done.clone(),
        failed: tried.failed.clone(),
        rustup: sh::works("rustup", &["--version"]),
        // Fresh /proc entries belong to their process's effective user.
        root: fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0),
        ..Facts::default()
    };
    let lacks_program = |program: &&str| !places.path.iter().any(|dir| dir.join(program).is_file());
    if matches!(purpose, Purpose::Lint | Purpose::Test) {
        let lacks = |name: &str| sh::output(sh::cargo().args([name, "--version"])).is_none();
        facts.lint_lacks = [("fmt", "rustfmt"), ("clippy", "clippy")]
            .into_iter()
            .filter(|(c, _)| lacks(c))
            .map(|(_, n)| n)
            .collect();
        facts.no_deny = !lint::has_deny();
    }
    facts.no_browser = purpose == Purpose::Test && BROWSERS.iter().all(lacks_program);
    facts.no_cxx = purpose == Purpose::Test && !fuzz::has_compiler();
    facts.no_tmux = purpose == Purpose::Test && lacks_program(&"tmux");
    if purpose == Purpose::Test {
        facts.packagers_lack =
            PACKAGERS.into_iter().map(|(program, ..)| program).filter(lacks_program).collect();
    }
    if purpose == Purpose::Bench {
        facts.bench_lacks = PEERS.into_iter().filter(lacks_program).collect();
    }
    facts.guests_optional = purpose == Purpose::Test;
    facts.guests_lack = match purpose {
        Purpose::Static(arch) => lacking(&Tool::of_binaries(arch)),
        Purpose::Vm(arch) => lacking(&Tool::of_guests(arch)),
        Purpose::Test => lacking(Arch::ALL.map(Tool::of_guests).as_flattened()),
        Purpose::Build | Purpose::Lint | Purpose::Bench => Vec::new(),
    };
    // The rest is slower to find out, and only matters when something has to be installed.
    if facts.no_browser
        || facts.no_cxx
        || facts.no_tmux
        || !facts.packagers_lack.is_empty()
        || !facts.guests_lack.is_empty()
        || !plan(&facts).missing.is_empty()
    {
        facts.rustup_has_llvm = cfg!(target_arch = "x86_64");
        facts.bare_nightly = bare_nightly(&places);
        facts.packages = packages();
    }
    facts
}

/// Those of `tools` that are not there.
pub fn lacking(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|tool| !is_there(*tool)).collect()
}

fn is_there(tool: Tool) -> bool {
    let in_path = |program: &str| Places::from_env().path.iter().any(|dir| dir.join(program).is_file());
    let linker = |arch: Arch| arch.cross_linker().unwrap_or("cc".to_owned());
    match tool {
        Tool::Target(arch) => {
            let mut rustc = Command::new("rustc");
            rustc.current_dir(sh::root()).args(["--print", "target-libdir", "--target", arch.triple()]);
            sh::output(&mut rustc).is_some_and(|dir| Path::new(dir.trim()).is_dir())
        }
        Tool::Linker(arch) => in_path(&linker(arch)),
        // A compiler that does not find the file says its name and nothing more.
        Tool::Libc(arch) => sh::output(Command::new(linker(arch)).arg("-print-file-name=libc.a"))
            .is_some_and(|file| Path::new(file.trim()).is_absolute()),
        Tool::Qemu(arch) => in_path(&format!("qemu-system-{arch}")),
    }
}

/// One line: what the build will use.
pub fn summary() -> String {
    match toolchain::discover() {
        Ok(found) => format!(
            "setup: ready: {} with {}{}",
            found.rustc.display(),
            found.linker.display(),
            found.llvm.map(|llvm| format!(" and {}", llvm.display())).unwrap_or_default()
        ),
        Err(missing) => format!("setup: {missing}"),
    }
}

fn linker(path: &Path, compiler: Option<&Toolchain>) -> Option<Linker> {
    let text = sh::output(Command::new(path).arg("--version")).unwrap_or_default();
    let mut numbers = text.split_whitespace().nth(1)?.split('.').map_while(|part| part.parse().ok());
    let version = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some(Linker { version, fault: compiler.and_then(|compiler| link_nothing(path, compiler).err()) })
}

/// Compiles and links a program with nothing in it. `bpf-linker --version` works without LLVM; only linking shows
/// whether it finds one, and one that reads what the compiler writes. Takes a twentieth of a second.
fn link_nothing(linker: &Path, compiler: &Toolchain) -> Result<(), String> {
    let dir = env::temp_dir().join(format!("numa-agent-setup-{}", std::process::id()));
    let linked = try_link(linker, compiler, &dir);
    let removed = fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()));
    linked.and(removed)
}

fn try_link(linker: &Path, compiler: &Toolchain, dir: &Path) -> Result<(), String> {
    let source = dir.join("nothing.rs");
    let libraries = dir.join("llvm");
    fs::create_dir_all(&libraries)
        .and_then(|()| fs::write(&source, "#![feature(no_core)]\n#![no_core]\n#![no_main]\n"))
        .map_err(|error| format!("{}: {error}", dir.display()))?;
    if let Some(llvm) = &compiler.llvm {
        // Alone in its directory, as in the build script: the linker takes the first libLLVM that it sees.
        let link = libraries.join(llvm.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(llvm, &link).map_err(|error| format!("{}: {error}", link.display()))?;
    }
    let output = Command::new(&compiler.rustc)
        .args(["--target", "bpfel-unknown-none", "--crate-type", "bin", "-o"])
        .arg(dir.join("nothing.o"))
        .arg(format!("-Clinker={}", linker.display()))
        .arg(&source)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LD_LIBRARY_PATH", &libraries)
        .output()
        .map_err(|error| format!("{}: {error}", compiler.rustc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let telling =
        |line: &&str| ["panicked", "unable", "Invalid", "error"].iter().any(|word| line.contains(word));
    Err(said.lines().rfind(telling).or(said.lines().last()).unwrap_or("no message").trim().to_owned())
}

/// The LLVM of rustup's `nightly`, where that lacks the source.
fn bare_nightly(places: &Places) -> Option<u32> {
    let toolchains = fs::read_dir(places.rustup_home.join("toolchains")).ok()?;
    let is_nightly = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("nightly-").is_some_and(|host| !host.starts_with(|c: char| c.is_ascii_digit()))
    };
    let root = toolchains.filter_map(|entry| Some(entry.ok()?.path())).find(is_nightly)?;
    llvm_of(&root.join("bin/rustc")).filter(|_| !toolchain::has_source(&root))
}

fn llvm_of(rustc: &Path) -> Option<u32> {
    let text = sh::output(Command::new(rustc).args(["--version", "--verbose"]))?;
    text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.trim().parse().ok()
}

fn packages() -> Packages {
    if sh::works("apt-get", &["--version"]) {
        let listed = sh::output(Command::new("apt-cache").args([
            "madison",
            "rustc-web",
            "rust-web-src",
            "rustc",
            "rust-src",
        ]));
        return Packages::Apt(madison(&listed.unwrap_or_default()));
    }
    if sh::works("dnf", &["--version"]) { Packages::Dnf } else { Packages::Unknown }
}

/// `apt-cache madison` prints ` package | version | where from`.
fn madison(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(|field| field.trim().to_owned());
            Some((fields.next()?, fields.next()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_lines_become_packages_with_versions() {
        let text = " rustc-web | 1.96.0+dfsg1-1~deb12u2 | http://mirror.example/debian-security x/main amd64 Packages\n\
                    \x20 rustc | 1.63.0+dfsg1-2 | http://mirror.example/debian bookworm/main amd64 Packages\n\n";
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(
            madison(text),
            [pair("rustc-web", "1.96.0+dfsg1-1~deb12u2"), pair("rustc", "1.63.0+dfsg1-2")]
        );
    }
}
