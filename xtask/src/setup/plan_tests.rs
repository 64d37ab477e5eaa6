use super::*;

fn pair(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

/// What apt offers on Debian 12 after `apt-get update`.
fn bookworm() -> Packages {
    Packages::Apt(vec![
        pair("rustc-web", "1.96.0+dfsg1-1~deb12u2"),
        pair("rustc-web", "1.85.0+dfsg3-1~deb12u3"),
        pair("rust-web-src", "1.96.0+dfsg1-1~deb12u2"),
        pair("rust-web-src", "1.85.0+dfsg3-1~deb12u3"),
        pair("rustc", "1.63.0+dfsg1-2"),
        pair("rust-src", "1.63.0+dfsg1-2"),
    ])
}

fn compiler(llvm: u32) -> Option<Compiler> {
    Some(Compiler { path: "/usr/bin/rustc".to_owned(), llvm })
}

fn linker(version: (u32, u32, u32)) -> Option<Linker> {
    Some(Linker { version, fault: None })
}

/// Root, rustup with stable only, Debian 12.
fn fresh() -> Facts {
    Facts { rustup: true, rustup_has_llvm: true, root: true, packages: bookworm(), ..Facts::default() }
}

fn debian_pair() -> Action {
    Action::AptInstall(vec![
        "rustc-web=1.96.0+dfsg1-1~deb12u2".to_owned(),
        "rust-web-src=1.96.0+dfsg1-1~deb12u2".to_owned(),
    ])
}

#[test]
fn nothing_is_missing_on_a_machine_that_has_it_all() {
    let facts = Facts { compiler: compiler(22), linker: linker((0, 10, 3)), ..Facts::default() };
    assert_eq!(plan(&facts), Plan::default());
}

#[test]
fn rustup_comes_first_and_needs_no_root() {
    let facts = Facts { root: false, ..fresh() };
    assert_eq!(plan(&facts).steps, [Action::InstallNightly, Action::InstallLinker]);
    // A nightly whose LLVM fits only needs the source; a newer one does not help.
    let facts = Facts { bare_nightly: Some(22), ..fresh() };
    assert_eq!(plan(&facts).steps, [Action::AddSource, Action::InstallLinker]);
    let facts = Facts { bare_nightly: Some(23), ..fresh() };
    assert_eq!(plan(&facts).steps[0], Action::InstallNightly);
}

#[test]
fn the_distribution_follows_when_rustup_cannot_download() {
    let mut facts = Facts { bare_nightly: Some(22), failed: vec![Action::AddSource], ..fresh() };
    assert_eq!(plan(&facts).steps[0], Action::InstallNightly);
    facts.failed.push(Action::InstallNightly);
    assert_eq!(plan(&facts).steps, [Action::AptUpdate, debian_pair(), Action::InstallLinker]);
    facts.done.push(Action::AptUpdate);
    assert_eq!(plan(&facts).steps, [debian_pair(), Action::InstallLinker]);
}

#[test]
fn rustup_without_an_llvm_library_is_passed_over() {
    let facts = Facts { rustup_has_llvm: false, ..fresh() };
    assert_eq!(plan(&facts).steps[0], Action::AptUpdate);
}

#[test]
fn empty_package_lists_are_fetched_before_anything_is_said_about_packages() {
    let empty = Packages::Apt(Vec::new());
    let facts = Facts { rustup: false, packages: empty, ..fresh() };
    assert_eq!(plan(&facts).steps[0], Action::AptUpdate);
    // Fetched, and still nothing recent enough: no endless loop, but what a person can do.
    let facts = Facts { done: vec![Action::AptUpdate], ..facts };
    let plan = plan(&facts);
    assert_eq!(plan.steps, [Action::InstallLinker]);
    assert!(plan.by_hand[0].contains("https://rustup.rs"), "{plan:?}");
}

#[test]
fn compiler_and_source_come_in_the_same_newest_version() {
    let offered =
        [pair("rustc-web", "1.97.0-1"), pair("rustc-web", "1.96.0-1"), pair("rust-web-src", "1.96.0-1")];
    let newest = newest_pair(&offered).unwrap();
    assert_eq!(newest, ["rustc-web=1.96.0-1", "rust-web-src=1.96.0-1"]);
    // 1.100 is newer than 1.96, epochs do not count, and plain packages will do.
    let offered =
        [offered.to_vec(), vec![pair("rustc", "1:1.100.0-1"), pair("rust-src", "1:1.100.0-1")]].concat();
    assert_eq!(newest_pair(&offered).unwrap(), ["rustc=1:1.100.0-1", "rust-src=1:1.100.0-1"]);
    assert_eq!(newest_pair(&[pair("rustc", "1.87.0-1"), pair("rust-src", "1.87.0-1")]), None);
}

#[test]
fn without_root_or_network_every_command_is_named_and_none_is_run_in_vain() {
    let facts = Facts {
        root: false,
        failed: vec![Action::InstallNightly, Action::InstallLinker],
        lint_lacks: vec!["rustfmt"],
        ..fresh()
    };
    let plan = plan(&facts);
    assert_eq!(plan.missing.len(), 3);
    assert_eq!(plan.steps, [Action::AddComponents(vec!["rustfmt"])]);
    let all = plan.by_hand.join("\n");
    for command in [Action::InstallNightly, Action::AptUpdate, debian_pair(), Action::InstallLinker] {
        assert!(all.contains(&command.to_string()), "{command} is not in {all}");
    }
}

#[test]
fn a_linker_that_does_not_fit_or_work_is_replaced() {
    let with = |installed| Facts { compiler: compiler(22), linker: installed, ..fresh() };
    assert_eq!(plan(&with(linker((0, 9, 15)))).steps, [Action::InstallLinker]);
    let broken =
        Some(Linker { version: (0, 10, 3), fault: Some("unable to find LLVM shared lib".to_owned()) });
    let broken = plan(&with(broken));
    assert!(broken.missing[0].contains("unable to find LLVM shared lib"), "{broken:?}");
    assert_eq!(broken.steps, [Action::InstallLinker]);
    // A prebuilt one of the user's own is left alone.
    assert_eq!(plan(&with(linker((0, 13, 0)))), Plan::default());
}

#[test]
fn a_compiler_whose_llvm_no_linker_of_ours_reads_is_not_taken() {
    let facts = Facts { compiler: compiler(23), linker: linker((0, 10, 3)), ..fresh() };
    let plan_23 = plan(&facts);
    assert!(plan_23.missing[0].contains("LLVM 23"), "{plan_23:?}");
    assert_eq!(plan_23.steps, [Action::InstallNightly]);
    let facts = Facts { linker: linker((0, 13, 0)), ..facts };
    assert_eq!(plan(&facts), Plan::default());
    let facts = Facts { compiler: compiler(19), linker: None, ..fresh() };
    assert_eq!(plan(&facts).steps, [Action::InstallNightly, Action::InstallLinker]);
}

#[test]
fn a_step_that_changed_nothing_is_not_repeated() {
    let facts = Facts { compiler: compiler(22), done: vec![Action::InstallLinker], ..fresh() };
    let plan = plan(&facts);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.by_hand, ["cargo install bpf-linker --version 0.10.3 --locked"]);
}

#[test]
fn other_distributions_are_told_their_packages() {
    let facts = Facts { rustup: false, packages: Packages::Dnf, ..fresh() };
    assert_eq!(plan(&facts).steps[0].to_string(), "dnf install --assumeyes rust rust-src");
}

#[test]
fn peers_come_from_the_distribution_after_its_lists() {
    let ready = Facts {
        compiler: compiler(22),
        linker: linker((0, 10, 3)),
        bench_lacks: vec!["runqlat", "perf"],
        ..fresh()
    };
    let peers = Action::AptInstallFor(Use::Peers, vec!["libbpf-tools", "linux-perf"]);
    assert_eq!(plan(&ready).steps, [Action::AptUpdate, peers.clone()]);
    let updated = Facts { done: vec![Action::AptUpdate], ..ready.clone() };
    assert_eq!(plan(&updated).steps, std::slice::from_ref(&peers));
    // Installed, and still not there: no endless loop.
    let vain = plan(&Facts { done: vec![Action::AptUpdate, peers.clone()], ..ready.clone() });
    assert_eq!((vain.steps.as_slice(), vain.by_hand), (&[][..], vec![peers.to_string()]));
    let unprivileged = plan(&Facts { root: false, ..ready.clone() });
    assert!(unprivileged.steps.is_empty() && unprivileged.by_hand.len() == 2, "{unprivileged:?}");
    let fedora = plan(&Facts { packages: Packages::Dnf, ..ready });
    assert_eq!(fedora.steps[0].to_string(), "dnf install --assumeyes libbpf-tools perf");
}

#[test]
fn a_browser_is_installed_where_it_can_be_and_done_without_elsewhere() {
    let ready = Facts { compiler: compiler(22), linker: linker((0, 10, 3)), no_browser: true, ..fresh() };
    let offline = plan(&ready).steps;
    let chromium = Action::AptInstallFor(Use::Pages, vec!["chromium", "fonts-dejavu-core"]);
    assert_eq!(offline, [Action::AptUpdate, chromium]);
    let fedora = plan(&Facts { packages: Packages::Dnf, ..ready.clone() }).steps;
    assert_eq!(fedora, [Action::DnfInstallFor(Use::Pages, vec!["chromium", "dejavu-sans-fonts"])]);
    let without = [
        Facts { root: false, ..ready.clone() },
        Facts { packages: Packages::Unknown, ..ready.clone() },
        Facts { failed: offline, ..ready },
    ];
    for facts in without {
        let plan = plan(&facts);
        assert!(plan.missing.is_empty() && plan.by_hand.is_empty() && plan.without.len() == 1, "{plan:?}");
    }
}

#[test]
fn a_terminal_is_installed_beside_the_browser() {
    let ready = Facts { compiler: compiler(22), linker: linker((0, 10, 3)), no_tmux: true, ..fresh() };
    let tmux = Action::AptInstallFor(Use::Terminals, vec!["tmux"]);
    assert_eq!(plan(&ready).steps, [Action::AptUpdate, tmux]);
    let both = plan(&Facts { no_browser: true, ..ready.clone() });
    assert_eq!((both.steps.len(), both.missing.len()), (3, 2), "{both:?}");
    let without = plan(&Facts { root: false, ..ready });
    assert!(without.missing.is_empty() && without.without.len() == 1, "{without:?}");
}

#[test]
fn what_packages_are_tested_with_is_installed_by_package() {
    let lacking = vec!["rpmbuild", "podman"];
    let ready =
        Facts { compiler: compiler(22), linker: linker((0, 10, 3)), packagers_lack: lacking, ..fresh() };
    let debian = Action::AptInstallFor(Use::Packaging, vec!["rpm", "podman"]);
    assert_eq!(plan(&ready).steps, [Action::AptUpdate, debian]);
    let fedora = plan(&Facts { packages: Packages::Dnf, ..ready.clone() }).steps;
    assert_eq!(fedora, [Action::DnfInstallFor(Use::Packaging, vec!["rpm-build", "podman"])]);
    let without = plan(&Facts { root: false, ..ready });
    assert!(without.missing.is_empty() && without.without[0].contains("skipped"), "{without:?}");
}

#[test]
fn fuzz_targets_get_their_compiler() {
    let ready = Facts { compiler: compiler(22), linker: linker((0, 10, 3)), no_cxx: true, ..fresh() };
    let cxx = Action::AptInstallFor(Use::Fuzzing, vec!["g++"]);
    assert_eq!(plan(&ready).steps, [Action::AptUpdate, cxx]);
    let without = plan(&Facts { root: false, ..ready });
    assert!(without.missing.is_empty() && without.without[0].contains("skipped"), "{without:?}");
}

#[test]
fn what_looks_at_dependencies_is_built_by_cargo_and_keeps_nobody_from_working() {
    let ready =
        Facts { compiler: compiler(22), linker: linker((0, 10, 3)), no_deny: true, ..Facts::default() };
    let lacks = plan(&ready);
    assert_eq!((lacks.steps, lacks.missing.len()), (vec![Action::InstallDeny], 1));
    assert_eq!(Action::InstallDeny.to_string(), "cargo install cargo-deny --version 0.20.2 --locked");
    let without = plan(&Facts { failed: vec![Action::InstallDeny], ..ready });
    assert!(without.missing.is_empty() && without.by_hand.is_empty(), "{without:?}");
    assert!(without.without[0].contains("cargo install cargo-deny"), "{without:?}");
}

/// A machine that builds the agent and has nothing for guests.
fn no_guests() -> Facts {
    Facts {
        compiler: compiler(22),
        linker: linker((0, 10, 3)),
        host: Arch::X86_64,
        guests_lack: Arch::ALL.map(Tool::of_guests).concat(),
        ..fresh()
    }
}

#[test]
fn guests_need_an_emulator_a_linker_a_libc_and_rusts_library() {
    let all = no_guests();
    let rust = Action::AddTargets(vec!["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]);
    let debian = Action::AptInstallFor(
        Use::Guests,
        vec![
            "gcc",
            "libc6-dev",
            "qemu-system-x86",
            "gcc-aarch64-linux-gnu",
            "libc6-dev-arm64-cross",
            "qemu-system-arm",
        ],
    );
    assert!(debian.to_string().contains("--no-install-recommends"), "{debian}");
    let plan_all = plan(&all);
    assert_eq!((plan_all.missing.len(), plan_all.by_hand.len()), (8, 0));
    assert_eq!(plan_all.steps, [rust.clone(), Action::AptUpdate, debian.clone()]);
    // On the other architecture the same names are the other way round, and a user can only have rustup's part.
    let binaries = Facts {
        host: Arch::Aarch64,
        root: false,
        guests_lack: Tool::of_binaries(Arch::X86_64).to_vec(),
        ..all.clone()
    };
    let planned = plan(&binaries);
    assert_eq!(planned.steps, [Action::AddTargets(vec!["x86_64-unknown-linux-gnu"])]);
    assert!(planned.by_hand[0].ends_with(" gcc-x86-64-linux-gnu libc6-dev-amd64-cross"), "{planned:?}");
    assert_eq!(planned.by_hand.len(), 1);
    // Installed, and still not there: no endless loop.
    let vain = plan(&Facts { done: vec![rust, Action::AptUpdate, debian], ..all });
    assert_eq!((vain.steps.len(), vain.missing.len(), vain.by_hand.len()), (0, 2, 2));
}

#[test]
fn fedora_and_unknown_distributions_are_told_what_to_bring_by_hand() {
    let fedora = plan(&Facts { packages: Packages::Dnf, ..no_guests() });
    assert!(fedora.by_hand[0].contains("libc.a") && fedora.by_hand.len() == 1, "{fedora:?}");
    let install = fedora.steps[1].to_string();
    assert!(
        install.ends_with(
            "gcc glibc-static qemu-system-x86-core gcc-aarch64-linux-gnu qemu-system-aarch64-core"
        )
    );
    let unknown = plan(&Facts { packages: Packages::Unknown, rustup: false, ..no_guests() });
    assert_eq!((unknown.steps.len(), unknown.missing.len(), unknown.by_hand.len()), (0, 8, 8));
    assert!(unknown.by_hand[0].contains("rustup target add x86_64-unknown-linux-gnu"), "{unknown:?}");
}

#[test]
fn tests_do_without_guests_that_cannot_be_had() {
    let optional = Facts { guests_optional: true, ..no_guests() };
    // What can be installed is.
    assert_eq!(plan(&optional), plan(&no_guests()));
    let offline = plan(&optional).steps;
    let without = plan(&Facts { failed: offline, ..optional.clone() });
    assert!(
        without.missing.is_empty() && without.by_hand.is_empty() && without.steps.is_empty(),
        "{without:?}"
    );
    let what: Vec<_> = without.without.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(what.len(), 2, "{without:?}");
    assert!(what[0].starts_with("Rust's") && what[1].ends_with("qemu-system-aarch64"), "{without:?}");
    // One part that cannot be had does not keep out the others.
    let fedora = plan(&Facts { packages: Packages::Dnf, ..optional });
    assert_eq!((fedora.missing.len(), fedora.without.len(), fedora.by_hand.len()), (7, 1, 0));
}
