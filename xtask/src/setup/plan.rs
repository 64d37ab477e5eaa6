//! What to install: facts about the machine in, commands out. No I/O.
//!
//! A compiler, its LLVM and `bpf-linker` have to fit one another, and so they decide together:
//!
//! | LLVM of the compiler | `bpf-linker` |
//! |---|---|
//! | 21, 22 (Rust 1.91 and newer) | 0.10.3, built by cargo; it loads the compiler's own LLVM at run time |
//! | 22, 23 | 0.11 and newer, which has LLVM inside; cargo can build it only against an installed LLVM, so we use one that is already there and never install it |
//! | older | none: `aya-ebpf` wants newer compilers anyway |
//!
//! That is why rustup's newest nightly (LLVM 23 since summer 2026) is not what we install, but [`PINNED_NIGHTLY`].

use std::fmt;

use super::guests::Tool;
use crate::{build::Arch, toolchain::PINNED_NIGHTLY};

/// The `bpf-linker` that cargo can build without an installed LLVM; 0.11 took that away.
pub const LINKER_VERSION: &str = "0.10.3";

/// The `cargo-deny` that setup builds; an installed one of another version will do.
pub const DENY_VERSION: &str = "0.20.2";

/// The oldest distribution compiler worth looking at: the workspace's `rust-version`.
const OLDEST_RELEASE: (u32, u32) = (1, 88);

/// The programs that `bench` compares with.
pub const PEERS: [&str; 4] = ["perf", "runqlat", "bpftrace", "tuned"];

/// The programs that tests of packages, services and containers run, and the packages of Debian's and Fedora's that have them.
pub const PACKAGERS: [(&str, &str, &str); 6] = [
    ("lintian", "lintian", "lintian"),
    ("rpmbuild", "rpm", "rpm-build"),
    ("mmdebstrap", "mmdebstrap", "mmdebstrap"),
    ("systemd-analyze", "systemd", "systemd"),
    ("podman", "podman", "podman"),
    ("runc", "runc", "runc"),
];

/// Any of these shows HTML pages to the tests.
pub const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Everything the decision depends on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The compiler that the build would take.
    pub compiler: Option<Compiler>,
    /// The `bpf-linker` that the build would take.
    pub linker: Option<Linker>,
    /// Whether rustup is there.
    pub rustup: bool,
    /// rustup's `nightly` without rust-src: its LLVM's major version.
    pub bare_nightly: Option<u32>,
    /// Whether rustup's toolchains for this architecture have LLVM as a library; only x86_64's are known to.
    pub rustup_has_llvm: bool,
    /// Whether packages can be installed.
    pub root: bool,
    /// The distribution's packages.
    pub packages: Packages,
    /// rustup components that only `lint` needs, and that do not run.
    pub lint_lacks: Vec<&'static str>,
    /// There is no cargo-deny, and `lint` wants one.
    pub no_deny: bool,
    /// Those of [`PEERS`] that are not there.
    pub bench_lacks: Vec<&'static str>,
    /// There is none of [`BROWSERS`], and tests want one.
    pub no_browser: bool,
    /// There is no C++ compiler, and fuzz targets want one.
    pub no_cxx: bool,
    /// There is no tmux, and tests want it.
    pub no_tmux: bool,
    /// Those of [`PACKAGERS`] that are not there.
    pub packagers_lack: Vec<&'static str>,
    /// This machine's architecture.
    pub host: Arch,
    /// What static binaries or VM tests need, and is not there.
    pub guests_lack: Vec<Tool>,
    /// Whether that was not asked for by itself: then what cannot be installed is done without.
    pub guests_optional: bool,
    /// What was run already and worked.
    pub done: Vec<Action>,
    /// What was run already and failed.
    pub failed: Vec<Action>,
}

/// A compiler with the standard library's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// Its path.
    pub path: String,
    /// The major version of its LLVM.
    pub llvm: u32,
}

/// An installed `bpf-linker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    /// Major, minor and patch.
    pub version: (u32, u32, u32),
    /// Why it could not link an empty program of the compiler.
    pub fault: Option<String>,
}

/// The package manager, and what it offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Packages {
    /// apt, with (package, version) of each compiler and source package it knows.
    Apt(Vec<(String, String)>),
    /// dnf; its compiler and source always match.
    Dnf,
    /// One that we cannot drive.
    #[default]
    Unknown,
}

/// What the distribution's packages are for, where any version will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Tests of HTML pages.
    Pages,
    /// Fuzz targets.
    Fuzzing,
    /// Tests in a terminal.
    Terminals,
    /// Tests of packages, services and containers.
    Packaging,
    /// `bench`.
    Peers,
    /// VM tests and static binaries.
    Guests,
}

/// One thing to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give rustup's nightly the library's source.
    AddSource,
    /// Install the nightly that is known to fit.
    InstallNightly,
    /// Fetch apt's package lists.
    AptUpdate,
    /// Install `NAME=VERSION` packages with apt.
    AptInstall(Vec<String>),
    /// Install the compiler and its source with dnf.
    DnfInstall,
    /// Install packages with apt, whatever their version.
    AptInstallFor(Use, Vec<&'static str>),
    /// The same with dnf.
    DnfInstallFor(Use, Vec<&'static str>),
    /// Build `bpf-linker`.
    InstallLinker,
    /// Build `cargo-deny`.
    InstallDeny,
    /// Give rustup's active toolchain what `lint` runs.
    AddComponents(Vec<&'static str>),
    /// Give it the standard library for other targets.
    AddTargets(Vec<&'static str>),
}

impl Action {
    /// The command line.
    pub fn command(&self) -> Vec<String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        match self {
            Self::AddSource => words("rustup component add rust-src --toolchain nightly"),
            // rustup would otherwise take the occasion to replace itself.
            Self::InstallNightly => words(&format!(
                "rustup toolchain install {PINNED_NIGHTLY} --profile minimal --component rust-src --no-self-update"
            )),
            Self::AptUpdate => words("apt-get update"),
            Self::AptInstall(packages) => {
                [words("apt-get install --yes --no-install-recommends"), packages.clone()].concat()
            }
            Self::AptInstallFor(_, packages) => {
                words(&format!("apt-get install --yes --no-install-recommends {}", packages.join(" ")))
            }
            Self::DnfInstallFor(_, packages) => {
                words(&format!("dnf install --assumeyes {}", packages.join(" ")))
            }
            Self::DnfInstall => words("dnf install --assumeyes rust rust-src"),
            Self::InstallLinker => {
                words(&format!("cargo install bpf-linker --version {LINKER_VERSION} --locked"))
            }
            Self::InstallDeny => {
                words(&format!("cargo install cargo-deny --version {DENY_VERSION} --locked"))
            }
            Self::AddComponents(names) => words(&format!("rustup component add {}", names.join(" "))),
            Self::AddTargets(names) => words(&format!("rustup target add {}", names.join(" "))),
        }
    }

    /// What it is for, and about how long it takes.
    pub fn why(&self) -> &'static str {
        match self {
            Self::AddSource => "the standard library's source for rustup's nightly, 45 MB, seconds",
            Self::InstallNightly => {
                "a Rust nightly with the standard library's source, 700 MB on disk, under a minute"
            }
            Self::AptUpdate => "the distribution's current package lists, seconds",
            Self::AptInstall(_) => {
                "the distribution's Rust compiler with its source, 780 MB on disk, about a minute"
            }
            Self::DnfInstall => "the distribution's Rust compiler with its source, about a minute",
            Self::AptInstallFor(Use::Pages, _) | Self::DnfInstallFor(Use::Pages, _) => {
                "a browser for the tests of HTML pages, 400 MB on disk, under a minute"
            }
            Self::AptInstallFor(Use::Fuzzing, _) | Self::DnfInstallFor(Use::Fuzzing, _) => {
                "a C++ compiler for libFuzzer, 60 MB on disk, seconds"
            }
            Self::AptInstallFor(Use::Terminals, _) | Self::DnfInstallFor(Use::Terminals, _) => {
                "a terminal for the tests of `numa-agent watch`, 2 MB on disk, seconds"
            }
            Self::AptInstallFor(Use::Packaging, _) | Self::DnfInstallFor(Use::Packaging, _) => {
                "what tests of packages, services and containers run, 250 MB on disk, under a minute"
            }
            Self::AptInstallFor(Use::Peers, _) | Self::DnfInstallFor(Use::Peers, _) => {
                "what `cargo xtask bench` compares with, 200 MB on disk, under a minute"
            }
            Self::AptInstallFor(Use::Guests, _) | Self::DnfInstallFor(Use::Guests, _) => {
                "what builds static binaries and runs VM tests, 350 MB on disk, under a minute"
            }
            Self::InstallLinker => "the linker for eBPF programs, into cargo's bin directory, 1 to 3 minutes",
            Self::InstallDeny => {
                "what looks at dependencies for `cargo xtask lint`, into cargo's bin directory, 2 to 10 minutes"
            }
            Self::AddComponents(_) => "what `cargo xtask lint` runs, seconds",
            Self::AddTargets(_) => "the standard library for static binaries, 150 MB on disk each, seconds",
        }
    }

    fn needs_root(&self) -> bool {
        matches!(
            self,
            Self::AptUpdate
                | Self::AptInstall(_)
                | Self::DnfInstall
                | Self::AptInstallFor(..)
                | Self::DnfInstallFor(..)
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command().join(" "))
    }
}

/// What is missing, and what to do about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One line for each thing that is missing; nothing is missing if it is empty.
    pub missing: Vec<String>,
    /// What to run, in this order. After the first, look again: it may have changed what the others should be.
    pub steps: Vec<Action>,
    /// Where no way is left: what a person can do.
    pub by_hand: Vec<String>,
    /// What is not there and cannot be installed, and what becomes of it.
    pub without: Vec<String>,
}

/// Decides.
pub fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    let usable = facts.compiler.as_ref().filter(|compiler| linker_for(compiler.llvm, facts.linker.as_ref()));
    if usable.is_none() {
        plan.missing.push(match &facts.compiler {
            None => "a Rust compiler with the standard library's source".to_owned(),
            Some(Compiler { path, llvm }) => format!(
                "a Rust compiler that bpf-linker {LINKER_VERSION} fits ({path} has LLVM {llvm}; it would do with a prebuilt \
                 bpf-linker 0.11 or newer in PATH)"
            ),
        });
        let routes = compiler_routes(facts);
        match routes.iter().find(|route| route.iter().all(|action| facts.allows(action))) {
            Some(route) => plan.steps.extend(route.iter().cloned()),
            None => plan.by_hand.push(one_of(&routes)),
        }
    }
    let llvm = usable.map_or(22, |compiler| compiler.llvm);
    let fault = match &facts.linker {
        None => Some("bpf-linker".to_owned()),
        Some(linker) if !reads(linker.version, llvm) => Some(format!(
            "a bpf-linker that reads LLVM {llvm} (the installed one is {})",
            dotted(linker.version)
        )),
        Some(linker) => linker
            .fault
            .as_ref()
            .filter(|_| usable.is_some())
            .map(|fault| format!("a working bpf-linker (the installed one fails: {fault})")),
    };
    if let Some(fault) = fault {
        plan.missing.push(fault);
        plan.take(facts, Action::InstallLinker);
    }
    if !facts.lint_lacks.is_empty() {
        plan.missing.push(facts.lint_lacks.join(" and "));
        plan.take(facts, Action::AddComponents(facts.lint_lacks.clone()));
    }
    // Lint says what it did not check: where it cannot be built, that keeps nobody from working.
    if facts.no_deny && facts.allows(&Action::InstallDeny) {
        plan.missing.push("cargo-deny (only `lint` needs that)".to_owned());
        plan.steps.push(Action::InstallDeny);
    } else if facts.no_deny {
        plan.without
            .push(format!("cargo-deny: dependencies are not looked at; by hand: {}", Action::InstallDeny));
    }
    if !facts.bench_lacks.is_empty() {
        plan.missing.push(format!("{} (only `bench` needs that)", facts.bench_lacks.join(", ")));
        plan.peers(facts);
    }
    if facts.no_browser {
        let (debian, fedora) = (vec!["chromium", "fonts-dejavu-core"], vec!["chromium", "dejavu-sans-fonts"]);
        plan.for_tests(
            facts,
            "Chromium",
            "of HTML pages",
            facts.packages.install(Use::Pages, debian, fedora),
        );
    }
    if facts.no_cxx {
        let install = facts.packages.install(Use::Fuzzing, vec!["g++"], vec!["gcc-c++"]);
        plan.for_tests(facts, "a C++ compiler", "with random input", install);
    }
    if facts.no_tmux {
        let install = facts.packages.install(Use::Terminals, vec!["tmux"], vec!["tmux"]);
        plan.for_tests(facts, "tmux", "in a terminal", install);
    }
    if !facts.packagers_lack.is_empty() {
        let lacking = PACKAGERS.into_iter().filter(|(program, ..)| facts.packagers_lack.contains(program));
        let (debian, fedora) = lacking.map(|(_, debian, fedora)| (debian, fedora)).unzip();
        let install = facts.packages.install(Use::Packaging, debian, fedora);
        plan.for_tests(
            facts,
            &facts.packagers_lack.join(", "),
            "of packages, services and containers",
            install,
        );
    }
    plan.guests(facts);
    plan
}

impl Plan {
    fn take(&mut self, facts: &Facts, action: Action) {
        if facts.allows(&action) {
            self.steps.push(action);
        } else {
            self.by_hand.push(action.to_string());
        }
    }

    /// Lists of a fresh machine are empty or old; where they cannot be fetched, they may do.
    fn update(&mut self, facts: &Facts) {
        let tried = [&facts.done, &facts.failed].iter().any(|tried| tried.contains(&Action::AptUpdate));
        if !tried && !self.steps.contains(&Action::AptUpdate) {
            self.take(facts, Action::AptUpdate);
        }
    }

    /// Tests say that they are skipped without it: where it cannot be installed, that is no reason to run none.
    fn for_tests(&mut self, facts: &Facts, what: &str, tests: &str, install: Option<Action>) {
        let without = format!("{what}: tests {tests} are skipped");
        match install {
            None => self.without.push(without),
            Some(install) if !facts.allows(&install) => {
                self.without.push(format!("{without}; as root: {install}"));
            }
            Some(install) => {
                self.missing.push(format!("{what} (only tests {tests} need that)"));
                self.packages(facts, install);
            }
        }
    }

    fn peers(&mut self, facts: &Facts) {
        let (debian, fedora) = facts.bench_lacks.iter().map(|program| peer_packages(program)).unzip();
        match facts.packages.install(Use::Peers, debian, fedora) {
            Some(install) => self.packages(facts, install),
            None => self
                .by_hand
                .push(format!("your distribution's packages for {}", facts.bench_lacks.join(", "))),
        }
    }

    /// As with the browser, unless guests or static binaries were asked for by themselves.
    fn guests(&mut self, facts: &Facts) {
        let lacks = &facts.guests_lack;
        let debian = lacks.iter().filter_map(|tool| tool.debian(facts.host)).collect();
        let fedora = lacks.iter().filter_map(|tool| tool.fedora(facts.host)).collect();
        let install = facts.packages.install(Use::Guests, debian, fedora);
        let targets = Action::AddTargets(lacks.iter().filter_map(|tool| tool.target()).collect());
        // What cannot be installed, by what a person can do about it.
        let mut by_hand: Vec<(String, Vec<String>)> = Vec::new();
        for tool in lacks {
            let action = match &facts.packages {
                _ if tool.target().is_some() => facts.rustup.then_some(&targets),
                Packages::Apt(_) => tool.debian(facts.host).and(install.as_ref()),
                Packages::Dnf => tool.fedora(facts.host).and(install.as_ref()),
                Packages::Unknown => None,
            };
            if let Some(action) = action.filter(|action| facts.allows(action)) {
                self.missing.push(needed_by_guests(&tool.to_string()));
                if !self.steps.contains(action) {
                    self.packages(facts, action.clone());
                }
                continue;
            }
            let remedy = action.map_or_else(|| tool.by_hand(), ToString::to_string);
            match by_hand.iter_mut().find(|(known, _)| *known == remedy) {
                Some((_, tools)) => tools.push(tool.to_string()),
                None => by_hand.push((remedy, vec![tool.to_string()])),
            }
        }
        for (remedy, tools) in by_hand {
            let tools = tools.join(", ");
            if facts.guests_optional {
                self.without.push(format!("{tools}: VM tests that need that are skipped; by hand: {remedy}"));
            } else {
                self.missing.push(needed_by_guests(&tools));
                self.by_hand.push(remedy);
            }
        }
    }

    /// Takes `install`, after the lists where it is apt's.
    fn packages(&mut self, facts: &Facts, install: Action) {
        if matches!(install, Action::AptInstallFor(..)) {
            self.update(facts);
        }
        self.take(facts, install);
    }
}

impl Packages {
    /// What installs these packages; `None` for a package manager that we cannot drive.
    fn install(&self, purpose: Use, debian: Vec<&'static str>, fedora: Vec<&'static str>) -> Option<Action> {
        match self {
            Self::Apt(_) => Some(Action::AptInstallFor(purpose, debian)),
            Self::Dnf => Some(Action::DnfInstallFor(purpose, fedora)),
            Self::Unknown => None,
        }
    }
}

fn needed_by_guests(tools: &str) -> String {
    format!("{tools} (only VM tests and static binaries need that)")
}

/// The package of one of [`PEERS`]: Debian's, and Fedora's.
fn peer_packages(program: &'static str) -> (&'static str, &'static str) {
    match program {
        "perf" => ("linux-perf", "perf"),
        "runqlat" => ("libbpf-tools", "libbpf-tools"),
        other => (other, other),
    }
}

impl Facts {
    /// Whether `action` can be run and was not already, in vain.
    fn allows(&self, action: &Action) -> bool {
        (self.root || !action.needs_root())
            && (self.rustup || !matches!(action, Action::AddComponents(_) | Action::AddTargets(_)))
            && !self.failed.contains(action)
            && !self.done.contains(action)
    }
}

/// The ways to a compiler, best first. rustup needs no root and says the same everywhere.
fn compiler_routes(facts: &Facts) -> Vec<Vec<Action>> {
    let mut routes = Vec::new();
    if facts.rustup && facts.rustup_has_llvm {
        if facts.bare_nightly.is_some_and(built_by_cargo) {
            routes.push(vec![Action::AddSource]);
        }
        routes.push(vec![Action::InstallNightly]);
    }
    match &facts.packages {
        Packages::Apt(offered) => {
            // Lists of a fresh machine are empty or old; what they offer now is only what we expect.
            let update = (!facts.done.contains(&Action::AptUpdate)).then_some(Action::AptUpdate);
            let install = newest_pair(offered).map(Action::AptInstall);
            let route: Vec<_> = update.into_iter().chain(install).collect();
            if !route.is_empty() {
                routes.push(route);
            }
        }
        Packages::Dnf => routes.push(vec![Action::DnfInstall]),
        Packages::Unknown => {}
    }
    routes
}

/// The compiler and source packages of the newest release that apt offers both of, in the same version.
fn newest_pair(offered: &[(String, String)]) -> Option<Vec<String>> {
    // Debian's `-web` packages follow upstream for the browsers' sake; on a release the plain ones are years old.
    let pairs = [("rustc-web", "rust-web-src"), ("rustc", "rust-src")];
    let has = |name: &str, version: &str| offered.iter().any(|(n, v)| n == name && v == version);
    offered
        .iter()
        .filter_map(|(name, version)| {
            let (compiler, source) = pairs.into_iter().find(|(compiler, _)| compiler == name)?;
            let release = release(version).filter(|release| *release >= OLDEST_RELEASE)?;
            has(source, version)
                .then(|| (release, vec![format!("{compiler}={version}"), format!("{source}={version}")]))
        })
        .max_by_key(|(release, _)| *release)
        .map(|(_, packages)| packages)
}

/// Major and minor of a Debian version such as `1.96.0+dfsg1-1~deb12u2`, with or without an epoch.
fn release(version: &str) -> Option<(u32, u32)> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = upstream.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether some `bpf-linker` fits `llvm`: the one we can build, or the one that is there.
fn linker_for(llvm: u32, installed: Option<&Linker>) -> bool {
    built_by_cargo(llvm)
        || installed.is_some_and(|linker| reads(linker.version, llvm) && linker.fault.is_none())
}

/// Whether [`LINKER_VERSION`] fits `llvm`.
fn built_by_cargo(llvm: u32) -> bool {
    matches!(llvm, 21 | 22)
}

/// Whether that `bpf-linker` takes what a compiler with that LLVM emits. LLVM reads what older versions wrote.
fn reads((major, minor, _): (u32, u32, u32), llvm: u32) -> bool {
    match (major, minor) {
        (0, ..=9) => llvm <= 21,
        (0, 10) => built_by_cargo(llvm),
        _ => llvm >= 21,
    }
}

fn dotted((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}

fn one_of(routes: &[Vec<Action>]) -> String {
    let routes: Vec<String> = routes
        .iter()
        .map(|route| route.iter().map(ToString::to_string).collect::<Vec<_>>().join(" && "))
        .collect();
    if routes.is_empty() {
        return format!(
            "install rustup (https://rustup.rs), then {}; or your distribution's rustc (LLVM 21 or 22) with the standard \
             library's source",
            Action::InstallNightly
        );
    }
    routes.join("\n    or: ")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
