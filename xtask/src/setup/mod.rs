//! `cargo xtask setup`: brings what building needs and the machine lacks.
//!
//! [`facts`] looks, [`plan`] decides, this runs the steps one by one and looks again after each.

mod facts;
mod guests;
mod plan;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use self::{
    guests::Tool,
    plan::{Action, Facts, Plan, plan},
};
use crate::{build::Arch, sh};

/// What `cargo xtask setup` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is missing and what would be installed; exit code 1 if anything is
    #[arg(long)]
    check: bool,
    /// Also what only `lint` and `test` need: rustfmt, clippy, cargo-deny, Chromium, and what --vm brings
    #[arg(long)]
    tests: bool,
    /// Also what VM tests and static binaries need: QEMU, cross compilers, Rust's standard library for them
    #[arg(long)]
    vm: bool,
    /// Also what only `bench` compares with: perf, libbpf-tools, bpftrace, TuneD
    #[arg(long)]
    bench: bool,
}

/// What the machine is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building the agent.
    Build,
    /// Linting too.
    Lint,
    /// Testing too, in guests where it can be had.
    Test,
    /// Building static binaries.
    Static(Arch),
    /// Testing in guests of that architecture.
    Vm(Arch),
    /// Measuring beside the peers.
    Bench,
}

/// The command.
///
/// # Errors
/// If something cannot be installed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let vm = Arch::ALL.map(|arch| (args.vm, Purpose::Vm(arch)));
    let also = [&[(args.tests, Purpose::Test), (args.bench, Purpose::Bench)][..], &vm].concat();
    let also = also.into_iter().filter(|(asked, _)| *asked).map(|(_, purpose)| purpose);
    let purposes: Vec<Purpose> = [Purpose::Build].into_iter().chain(also).collect();
    if args.check {
        let mut missing = false;
        // Building is part of each.
        for purpose in &purposes[usize::from(purposes.len() > 1)..] {
            let plan = plan(&facts::gather(*purpose, &Facts::default()));
            report(&plan);
            missing |= !plan.missing.is_empty();
        }
        if !missing {
            println!("setup: nothing is missing");
        }
        return Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    purposes.into_iter().try_for_each(ensure)?;
    println!("{}", facts::summary());
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; silent and quick if nothing is.
///
/// # Errors
/// If something is missing and cannot be installed; says what to do.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let mut tried = Facts::default();
    loop {
        let facts = facts::gather(purpose, &tried);
        let next = plan(&facts);
        if next.missing.is_empty() {
            return Ok(());
        }
        report(&next);
        let Some(step) = next.steps.first().filter(|_| next.by_hand.is_empty()) else {
            bail!("setup cannot go on by itself; what is missing, and the commands, are above");
        };
        match execute(step) {
            Ok(()) => tried.done.push(step.clone()),
            Err(error) => {
                eprintln!("setup: {error:#}; looking for another way");
                tried.failed.push(step.clone());
            }
        }
    }
}

/// What VM tests on `arch` need and this machine lacks.
pub fn lacking_for_vm(arch: Arch) -> Vec<String> {
    facts::lacking(&Tool::of_guests(arch)).iter().map(ToString::to_string).collect()
}

fn execute(action: &Action) -> Result<()> {
    let words = action.command();
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    // These are built by the toolchain in use, whichever this workspace's cargo runs on.
    if matches!(action, Action::InstallLinker | Action::InstallDeny) {
        command = sh::cargo();
        command.args(args);
    }
    sh::run(&mut command)
}

fn report(plan: &Plan) {
    for missing in &plan.missing {
        eprintln!("setup: missing: {missing}");
    }
    for step in &plan.steps {
        eprintln!("setup: {}: {step}", if plan.by_hand.is_empty() { "will run" } else { "can run" });
        eprintln!("         ({})", step.why());
    }
    for without in &plan.without {
        eprintln!("setup: without {without}");
    }
    for command in &plan.by_hand {
        eprintln!("setup: run by hand, with network access (apt-get and dnf as root):\n        {command}");
    }
}
