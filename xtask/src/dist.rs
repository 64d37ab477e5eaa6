//! `cargo xtask dist`: release archives and packages for each architecture, with a static `numa-agent`.
//!
//! The same files at the same commit make the same archive: entries are sorted, belong to nobody in particular, and are
//! as old as the commit. So do packages, see [`crate::package`].

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    build::{self, Arch, Build, Profile},
    elf,
    package::{Contents, deb, rpm},
    sh,
};

/// What is in an archive besides the binary: its folder there, and where it is in the repository.
const FILES: [(&str, &str); 16] = [
    ("", "LICENSE"),
    ("", "README.md"),
    ("", "CHANGELOG.md"),
    ("", "docs/examples/numa-agent.toml"),
    ("", "docs/examples/numa_bind.json"),
    ("", "numa-agent/packaging/Containerfile"),
    ("systemd", "numa-agent/packaging/numa-agent.service"),
    ("systemd", "numa-agent/packaging/sysusers.conf"),
    ("systemd", "numa-agent/packaging/config.toml"),
    ("prometheus", "numa-agent/packaging/prometheus/numa-agent.rules.yml"),
    ("prometheus", "numa-agent/packaging/prometheus/numa-agent.rules.test.yml"),
    ("grafana", "numa-agent/packaging/grafana/numa-agent.json"),
    ("kubernetes", "numa-agent/packaging/kubernetes/namespace.yaml"),
    ("kubernetes", "numa-agent/packaging/kubernetes/configmap.yaml"),
    ("kubernetes", "numa-agent/packaging/kubernetes/daemonset.yaml"),
    ("kubernetes", "numa-agent/packaging/kubernetes/kustomization.yaml"),
];

/// The workspace's version, which xtask has too.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `cargo xtask dist` takes.
#[derive(Args)]
pub struct DistArgs {
    /// Only for this architecture; can be repeated
    #[arg(long = "arch", value_name = "ARCH")]
    archs: Vec<Arch>,
    /// Pack this program for this machine, as it is: tests have no static one
    #[arg(long, hide = true, value_name = "PATH", requires = "out")]
    agent: Option<PathBuf>,
    /// Where archives and packages go: a directory, which is emptied
    #[arg(long, hide = true, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl DistArgs {
    /// The architectures asked for, each of them once.
    pub fn archs(&self) -> Vec<Arch> {
        if self.agent.is_some() {
            return vec![Arch::host()];
        }
        Arch::ALL.into_iter().filter(|arch| self.archs.is_empty() || self.archs.contains(arch)).collect()
    }
}

/// Builds, checks and packs.
///
/// # Errors
/// If something does not build, is not what it should be, or cannot be written.
pub fn run(args: &DistArgs) -> Result<()> {
    ensure!(
        env::var_os("NUMA_AGENT_SKIP_EBPF").is_none_or(|value| value != "1"),
        "NUMA_AGENT_SKIP_EBPF=1 makes an agent without eBPF programs, which is not for shipping"
    );
    let time = commit_time()?;
    let dist = args.out.clone().map_or_else(|| Ok(build::target_dir()?.join("dist")), anyhow::Ok)?;
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| dist.display().to_string())?;
    }
    let mut agents = Vec::new();
    for arch in args.archs() {
        let (agent, verified) = match &args.agent {
            Some(agent) => (agent.clone(), "as it was given".to_owned()),
            None => {
                let agent = Build::for_arch(arch, Profile::Shipped)?.agent()?;
                let verified = verify(&agent, arch)?;
                (agent, verified)
            }
        };
        agents.push((arch, agent, verified));
    }
    // Another architecture's program prints nothing here.
    let printer = match agents.iter().find(|(arch, ..)| *arch == Arch::host()) {
        Some((_, agent, _)) => agent.clone(),
        None => Build::new(false)?.agent()?,
    };
    let mut made = Vec::new();
    for (arch, agent, verified) in &agents {
        let name = format!("numa-agent-{VERSION}-{arch}-linux");
        stage(agent, &dist.join(&name))?;
        made.push((pack(&dist, &name, time)?, verified));
        fs::remove_dir_all(dist.join(&name))?;
        let contents = Contents { agent, arch: *arch, printer: &printer, version: VERSION, time };
        for package in packages(&dist, &contents)? {
            made.push((package, verified));
        }
    }
    let names = made.iter().filter_map(|(path, _)| path.file_name());
    let sums = sh::run_for_output(Command::new("sha256sum").args(names).current_dir(&dist))?;
    let path = dist.join("SHA256SUMS");
    fs::write(&path, sums).with_context(|| path.display().to_string())?;
    for (archive, verified) in &made {
        let size = fs::metadata(archive).with_context(|| archive.display().to_string())?.len();
        println!("{}: {:.1} MB; {verified}", archive.display(), size as f64 / 1e6);
    }
    println!("{}", path.display());
    Ok(())
}

/// Makes the packages that this machine has the tools for.
fn packages(dist: &Path, contents: &Contents<'_>) -> Result<Vec<PathBuf>> {
    type Pack = fn(&Path, &Contents<'_>) -> Result<PathBuf>;
    let kinds: [(&str, &str, Pack); 2] =
        [(".deb", deb::PROGRAM, deb::pack), (".rpm", rpm::PROGRAM, rpm::pack)];
    let mut made = Vec::new();
    for (kind, program, pack) in kinds {
        if sh::works(program, &["--version"]) {
            made.push(pack(dist, contents)?);
        } else {
            eprintln!("warning: no {kind}: there is no {program}");
        }
    }
    Ok(made)
}

/// When the commit was made, in seconds since 1970. SOURCE_DATE_EPOCH says it where there is no repository.
fn commit_time() -> Result<u64> {
    let told = env::var("SOURCE_DATE_EPOCH").ok();
    let git = |args: &[&str]| sh::output(Command::new("git").args(args).current_dir(sh::root()));
    if git(&["status", "--porcelain"]).is_some_and(|changes| !changes.trim().is_empty()) {
        eprintln!("warning: the archives have changes in them that are not committed");
    }
    let time = told.or_else(|| git(&["log", "-1", "--format=%ct"])).context(
        "no git repository to take the archives' time from; set SOURCE_DATE_EPOCH to seconds since 1970",
    )?;
    time.trim().parse().with_context(|| format!("`{}` is no time in seconds since 1970", time.trim()))
}

/// Checks `binary`; says how.
fn verify(binary: &Path, arch: Arch) -> Result<String> {
    let file = fs::read(binary).with_context(|| binary.display().to_string())?;
    elf::check_static(&file, arch).with_context(|| format!("{} is not for {arch}", binary.display()))?;
    let headers = format!("static and for {arch} by its ELF headers");
    if arch != Arch::host() {
        return Ok(format!("{headers}, not run on this machine"));
    }
    let said = sh::run_for_output(Command::new(binary).arg("--version"))?;
    if said.trim() != format!("numa-agent {VERSION}") {
        bail!("{} says that it is `{}`, not {VERSION}", binary.display(), said.trim());
    }
    Ok(format!("{headers}, runs"))
}

/// Puts everything that goes into an archive under `dir`.
fn stage(binary: &Path, dir: &Path) -> Result<()> {
    let files = FILES.map(|(folder, file)| (dir.join(folder), sh::root().join(file)));
    for (folder, from) in files.into_iter().chain([(dir.to_owned(), binary.to_owned())]) {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let to = folder.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Packs the directory `name` in `dist`; the archive's path.
fn pack(dist: &Path, name: &str, time: u64) -> Result<PathBuf> {
    let archive = dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=ustar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.args(["--mode=u=rwX,go=rX", &format!("--mtime=@{time}"), "--use-compress-program=gzip -9n"]);
    sh::run(tar.arg("--file").arg(&archive).arg("--directory").arg(dist).arg(name))?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Packs an archive as another user would have it, on another day; its bytes and its listing.
    fn packed(who: &str, mode: u32) -> (Vec<u8>, String) {
        let dist = env::temp_dir().join(format!("numa-agent-dist-{}-{who}", std::process::id()));
        let binary = dist.join("numa-agent");
        fs::create_dir_all(&dist).unwrap();
        fs::write(&binary, "the agent").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700 | mode)).unwrap();
        let name = "numa-agent-1.2.3-x";
        stage(&binary, &dist.join(name)).unwrap();
        fs::set_permissions(
            dist.join(name).join("LICENSE"),
            fs::Permissions::from_mode(0o600 | (mode & 0o044)),
        )
        .unwrap();
        let archive = pack(&dist, name, 1_700_000_000).unwrap();
        let listing = sh::output(Command::new("tar").env("TZ", "UTC").arg("-tvzf").arg(&archive)).unwrap();
        let bytes = fs::read(&archive).unwrap();
        fs::remove_dir_all(&dist).unwrap();
        (bytes, listing)
    }

    #[test]
    fn an_archive_has_everything_and_is_the_same_whoever_makes_it() {
        let (bytes, listing) = packed("one", 0o000);
        let lines: Vec<&str> = listing.lines().collect();
        let mut files: Vec<&str> =
            lines.iter().filter_map(|line| Some(line.split_once("1.2.3-x/")?.1)).collect();
        files.retain(|file| !file.is_empty() && !file.ends_with('/'));
        files.sort_unstable();
        assert_eq!(
            files,
            [
                "CHANGELOG.md",
                "Containerfile",
                "LICENSE",
                "README.md",
                "grafana/numa-agent.json",
                "kubernetes/configmap.yaml",
                "kubernetes/daemonset.yaml",
                "kubernetes/kustomization.yaml",
                "kubernetes/namespace.yaml",
                "numa-agent",
                "numa-agent.toml",
                "numa_bind.json",
                "prometheus/numa-agent.rules.test.yml",
                "prometheus/numa-agent.rules.yml",
                "systemd/config.toml",
                "systemd/numa-agent.service",
                "systemd/sysusers.conf",
            ]
        );
        assert!(lines.iter().all(|line| line.contains(" 0/0 ") && line.contains(" 2023-11-14 22:13 ")));
        let has = |mode: &str, name: &str| {
            lines.iter().any(|line| line.starts_with(mode) && line.ends_with(&format!("/{name}")))
        };
        assert!(has("-rwxr-xr-x", "numa-agent") && has("-rw-r--r--", "LICENSE"), "{listing}");
        assert!(has("-rw-r--r--", "numa-agent.toml") && has("-rw-r--r--", "CHANGELOG.md"), "{listing}");
        assert!(packed("two", 0o055).0 == bytes, "two archives of the same files differ");
    }

    #[test]
    fn what_cannot_be_shipped_is_refused() {
        let script = env::temp_dir().join(format!("numa-agent-dist-{}-script", std::process::id()));
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let refused = verify(&script, Arch::host()).unwrap_err();
        fs::remove_file(&script).unwrap();
        assert!(format!("{refused:#}").contains("no complete 64-bit"), "{refused:#}");
    }

    #[test]
    fn each_architecture_is_built_once() {
        let archs = |archs: &[Arch]| DistArgs { archs: archs.to_vec(), agent: None, out: None }.archs();
        assert_eq!(archs(&[]), Arch::ALL);
        assert_eq!(archs(&[Arch::Aarch64, Arch::Aarch64]), [Arch::Aarch64]);
    }
}
