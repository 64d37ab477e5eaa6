//! Builds the eBPF programs of `numa-ebpf` and hands the object to `host::bpf` as `OUT_DIR/programs.o`.
//!
//! `aya-build` is not used: it takes whatever `nightly` rustup has, with or without the library's source.

#[allow(dead_code, reason = "shared with xtask, which uses the rest")]
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use toolchain::Toolchain;

/// Set to 1, no programs are built: for `cargo check` and clippy where the toolchain is missing or slow.
const SKIP: &str = "NUMA_AGENT_SKIP_EBPF";

fn main() {
    println!("cargo::rerun-if-env-changed={SKIP}");
    for path in ["build.rs", "../numa-ebpf/src", "../numa-ebpf/Cargo.toml", "../xtask/src/toolchain.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Err(why) = run() {
        for line in why.trim().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = out.join("programs.o");
    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        // An empty object: the loader says that this build has no programs.
        return fs::write(&object, []).map_err(|error| format!("{}: {error}", object.display()));
    }
    let toolchain = toolchain::discover().map_err(|missing| missing.to_string())?;
    for tool in [&toolchain.rustc, &toolchain.linker] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    let built = build(&toolchain, &out)?;
    fs::copy(&built, &object)
        .map_err(|error| format!("{} to {}: {error}", built.display(), object.display()))?;
    Ok(())
}

/// Runs the nested cargo; the path of the object it made.
fn build(toolchain: &Toolchain, out: &Path) -> Result<PathBuf, String> {
    let endian = if variable("CARGO_CFG_TARGET_ENDIAN")? == "big" { "bpfeb" } else { "bpfel" };
    let target = format!("{endian}-unknown-none");
    // A target directory of its own: cargo would wait for its own lock (rust-lang/cargo#6412).
    let target_dir = out.join("ebpf");
    let flags = [
        // What aya-ebpf's registers and context types are chosen by.
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
        format!("-Clinker={}", toolchain.linker.display()),
        // BTF for the maps and functions is made from the debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let mut cargo = Command::new(&toolchain.cargo);
    cargo.args(["build", "--quiet", "--release", "-Z", "build-std=core", "--bin", "numa-ebpf"]);
    cargo.args(["--features", "programs", "--target", &target, "--manifest-path", "../numa-ebpf/Cargo.toml"]);
    cargo.arg("--target-dir").arg(&target_dir);
    // The outer build's compiler, flags and wrappers (clippy's, sccache's) are for the host.
    for key in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTC_WRAPPER",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
    ] {
        cargo.env_remove(key);
    }
    cargo.env("RUSTC", &toolchain.rustc).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "2").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    // bpf-linker takes the compiler's bitcode and optimizes it as a whole.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    if toolchain.needs_bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    if let Some(llvm) = &toolchain.llvm {
        cargo.env("LD_LIBRARY_PATH", llvm_dir(llvm, out)?);
    }
    let output =
        cargo.output().map_err(|error| format!("{} could not be run: {error}", toolchain.cargo.display()))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "the eBPF programs do not build ({} with {}):\n{messages}",
            toolchain.rustc.display(),
            toolchain.linker.display()
        ));
    }
    Ok(target_dir.join(target).join("release/numa-ebpf"))
}

/// A directory with nothing but that LLVM library. bpf-linker 0.10 opens the first `libLLVM*` in LD_LIBRARY_PATH, and a
/// distribution's library directory holds several versions.
fn llvm_dir(llvm: &Path, out: &Path) -> Result<PathBuf, String> {
    let dir = out.join("llvm");
    let link = dir.join(llvm.file_name().unwrap_or_default());
    let made = fs::remove_dir_all(&dir)
        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| fs::create_dir_all(&dir))
        .and_then(|()| std::os::unix::fs::symlink(llvm, &link));
    made.map_err(|error| format!("{}: {error}", link.display())).map(|()| dir)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}; this is a build script, cargo runs it"))
}
