//! How people set up, build, test, demo and package numa-agent. `docs/development.md` explains each command.
//!
//! Small on purpose: `cargo xtask` has to start within seconds on a machine that has built nothing yet, so it depends on
//! `anyhow` and `clap` alone and never on numa-agent itself.

mod bench;
mod build;
mod demo;
mod digest;
mod dist;
mod elf;
mod fuzz;
mod lint;
mod package;
mod pictures;
mod setup;
mod sh;
mod tally;
mod test;
#[allow(dead_code, reason = "shared with numa-agent's build script, which uses the rest")]
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{build::Build, setup::Purpose};

/// Sets up, builds, tests, demonstrates, measures and packages numa-agent.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building needs and this machine lacks: the eBPF toolchain
    Setup(setup::Args),
    /// Build the agent
    Build {
        /// Optimized
        #[arg(long)]
        release: bool,
    },
    /// Check formatting, clippy, the eBPF programs' warnings, and the dependencies' licenses
    Lint,
    /// Run all tests (some need root) and count them
    Test(test::Args),
    /// Feed random input to everything that reads what others wrote
    Fuzz(fuzz::Args),
    /// Boot other kernels and shapes of machines under QEMU, and test the agent there
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Show the agent at work on a synthetic serving stack
    Demo(demo::DemoArgs),
    /// Draw the pictures of the live view in docs/images anew
    Pictures,
    /// Measure what the agent costs, beside its peers
    Bench(bench::BenchArgs),
    /// Make release archives with static binaries, for x86_64 and aarch64
    Dist(dist::DistArgs),
}

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::run(&args),
        Command::Build { release } => {
            setup::ensure(Purpose::Build)?;
            println!("built {}", Build::new(release)?.agent()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Lint => {
            setup::ensure(Purpose::Lint)?;
            lint::run()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Test(args) => {
            setup::ensure(Purpose::Test)?;
            test::run(&args)
        }
        Command::Fuzz(args) => {
            setup::ensure(Purpose::Test)?;
            let tally = fuzz::run(&args)?;
            println!("{tally}");
            Ok(if tally.is_good(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Vm(command) => vm::run(&command),
        Command::Demo(args) => {
            setup::ensure(Purpose::Build)?;
            demo::run(&args, &Build::new(true)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pictures => {
            setup::ensure(Purpose::Build)?;
            pictures::run(&Build::new(false)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench(args) => {
            setup::ensure(Purpose::Build)?;
            bench::run(&args, &Build::new(true)?)
        }
        Command::Dist(args) => {
            args.archs().into_iter().try_for_each(|arch| setup::ensure(Purpose::Static(arch)))?;
            dist::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
