//! `cargo xtask vm`: the agent on other kernels and shapes of machines, in guests under QEMU. `docs/development.md` tells how to use it,
//! `docs/kernels.md` what came out.

mod console;
mod contents;
mod image;
mod kernels;
mod matrix;
mod packages;
mod qemu;
mod table;
mod topology;

use std::{
    collections::btree_map::Entry,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    console::{Console, End},
    kernels::{Kernel, Kernels, Series},
    matrix::Machine,
    qemu::Guest,
    topology::Topology,
};
use crate::{
    build::Arch,
    setup::{self, Purpose},
    sh,
    tally::Tally,
};

/// What `cargo xtask vm` takes.
#[derive(clap::Subcommand)]
pub enum Vm {
    /// Boot guests and run the tests in them
    Test(TestArgs),
    /// A shell in a guest, with the agent and the test programs
    Shell(ShellArgs),
    /// Kernels, shapes, and what is run by default
    List,
}

/// Which machines, and what on them.
#[derive(Default, clap::Args)]
pub struct TestArgs {
    /// Only tests whose name contains this; one that begins with `bpf_live` runs that suite
    #[arg(value_parser = word)]
    filter: Option<String>,
    /// Kernel series, as `vm list` shows them; repeatable
    #[arg(long, value_parser = series)]
    kernel: Vec<Series>,
    /// Shape of the machine; repeatable
    #[arg(long, value_parser = topology)]
    topology: Vec<Topology>,
    /// Architecture; repeatable
    #[arg(long)]
    arch: Vec<Arch>,
    /// A kernel image of your own, instead of Debian's; it needs BTF, and drivers built in
    #[arg(long, value_name = "PATH", conflicts_with = "kernel")]
    vmlinuz: Option<PathBuf>,
    /// The whole matrix, and its result into docs/kernels.md once it is complete
    #[arg(long, conflicts_with_all = ["filter", "kernel", "topology", "arch", "vmlinuz"])]
    all: bool,
    /// Look for newer kernels than those kept
    #[arg(long)]
    refresh: bool,
    /// Seconds for one test; ten times that, and the boot, for a guest
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Guests at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Not the tests that passed and had nothing to say
    #[arg(long)]
    brief: bool,
}

/// Which machine.
#[derive(clap::Args)]
pub struct ShellArgs {
    /// Kernel series
    #[arg(long, value_parser = series, default_value = "6.1")]
    kernel: Series,
    /// A kernel image of your own, instead of Debian's
    #[arg(long, value_name = "PATH", conflicts_with = "kernel")]
    vmlinuz: Option<PathBuf>,
    /// Shape of the machine
    #[arg(long, value_parser = topology, default_value = "a3-mini")]
    topology: Topology,
    /// Architecture
    #[arg(long, default_value_t = Arch::host())]
    arch: Arch,
}

/// What the kernel command line can hold.
fn word(filter: &str) -> Result<String, String> {
    let fits =
        !filter.is_empty() && filter.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
    if fits {
        Ok(filter.to_owned())
    } else {
        Err("a test's name has letters, digits, _ and :: only".to_owned())
    }
}

fn series(name: &str) -> Result<Series, String> {
    kernels::find(name)
        .ok_or_else(|| format!("known are {}", kernels::ALL.map(|series| series.name).join(", ")))
}

fn topology(name: &str) -> Result<Topology, String> {
    topology::find(name)
        .ok_or_else(|| format!("known are {}", topology::ALL.map(|known| known.name).join(", ")))
}

/// Runs the command.
///
/// # Errors
/// If something cannot be built, fetched or started; a failing test is a failing exit code.
pub fn run(command: &Vm) -> Result<ExitCode> {
    match command {
        Vm::Test(args) => {
            let tally = test(args)?;
            println!("{tally}");
            Ok(if tally.is_good(sh::is_ci()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Vm::Shell(args) => shell(args),
        Vm::List => {
            list();
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What `cargo xtask test` runs of it: a few machines, the tests that have `filter` in their name.
///
/// # Errors
/// As [`run`].
pub fn test_subset(filter: Option<&str>) -> Result<Tally> {
    let (mut machines, mut kernels, mut tally) = (Vec::new(), Kernels::new(), Tally::default());
    for machine in matrix::select(&matrix::Wanted::default(), false) {
        match kernel_to_boot(&machine) {
            Ok(kernel) => {
                kernels.insert(machine.key(), kernel);
                machines.push(machine);
            }
            Err(error) => {
                let skip = format!("SKIP: guest {machine}: {error:#}");
                println!("{skip}");
                tally.line(&skip);
            }
        }
    }
    if !machines.is_empty() {
        let args =
            TestArgs { brief: filter.is_none(), filter: filter.map(str::to_owned), ..TestArgs::default() };
        tally.add(test_on(&machines, &kernels, &args)?);
    }
    Ok(tally)
}

fn kernel_to_boot(machine: &Machine) -> Result<Kernel> {
    let lacking = setup::lacking_for_vm(machine.arch);
    if !lacking.is_empty() {
        bail!("there is no {}; `cargo xtask setup --vm`", lacking.join(", "));
    }
    kernels::get(machine.series, machine.arch, false)
}

/// Below the target directory, everything that belongs to guests.
fn vm_dir() -> PathBuf {
    crate::build::target_dir().unwrap_or_else(|_| sh::root().join("target")).join("vm")
}

/// What ran on one machine.
pub struct Ran {
    machine: Machine,
    console: Console,
    seconds: u64,
}

impl Ran {
    fn not_started(machine: Machine, error: &anyhow::Error) -> Self {
        println!("{machine}: {error:#}");
        Self { machine, console: Console::unheard(format!("{error:#}")), seconds: 0 }
    }
}

fn test(args: &TestArgs) -> Result<Tally> {
    let wanted = matrix::Wanted { kernels: &args.kernel, topologies: &args.topology, arches: &args.arch };
    let machines = match &args.vmlinuz {
        Some(_) => matrix::for_own(&wanted),
        None => matrix::select(&wanted, args.all),
    };
    if machines.is_empty() {
        bail!("no machine of the matrix is like that; `cargo xtask vm list` shows them");
    }
    let kernels = match &args.vmlinuz {
        Some(path) => {
            let kernel = own_kernel(path)?;
            machines.iter().map(|machine| (machine.key(), kernel.clone())).collect()
        }
        None => get_kernels(&machines, args.refresh)?,
    };
    test_on(&machines, &kernels, args)
}

fn own_kernel(path: &Path) -> Result<Kernel> {
    let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let package = path.display().to_string();
    Ok(Kernel { package, path, modules: Vec::new() })
}

fn test_on(machines: &[Machine], kernels: &Kernels, args: &TestArgs) -> Result<Tally> {
    let images = contents::build_all(machines)?;
    let todo = Mutex::new(machines.iter());
    let report = Mutex::new(table::Report::new(machines, kernels, commit(), args.all));
    let so_far = vm_dir().join("result.md");
    let next = || todo.lock().ok().and_then(|mut todo| todo.next().copied());
    let work = || {
        while let Some(machine) = next() {
            let kernel = &kernels[&machine.key()];
            let one = run_one(machine, kernel, &images[machine.arch.name()], args);
            // Why one machine does not start is its own failure: the others' results are worth keeping.
            let one = one.unwrap_or_else(|error| Ran::not_started(machine, &error));
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(one);
            // It takes hours: what came out so far is there if it is ended early, beside the last complete result.
            if args.all
                && let Err(error) = fs::write(&so_far, report.markdown())
            {
                eprintln!("error: {}: {error}", so_far.display());
            }
        }
    };
    thread::scope(|scope| (0..args.jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", if args.brief { report.summary() } else { report.markdown() });
    if args.all {
        table::keep(&report.markdown(), &sh::root().join("docs/kernels.md"))?;
    }
    let tally = report.tally();
    if tally.is_empty() {
        eprintln!("error: no test of that name is about these machines");
    }
    Ok(tally)
}

/// The commit that the tests are of; a plus if something was changed since.
fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--exclude=*", "--dirty=+"]).current_dir(sh::root());
    sh::output(&mut git).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

/// Gets the kernels that these machines need.
fn get_kernels(machines: &[Machine], refresh: bool) -> Result<Kernels> {
    let mut kernels = Kernels::new();
    for machine in machines {
        if let Entry::Vacant(place) = kernels.entry(machine.key()) {
            place.insert(kernels::get(machine.series, machine.arch, refresh)?);
        }
    }
    Ok(kernels)
}

/// How long it takes until init is up, at most; by far not as much on a machine with nothing else to do.
fn boot_limit(machine: &Machine) -> Duration {
    Duration::from_secs(60) + Duration::from_secs(5) * machine.topology.cpus(machine.arch)
}

fn run_one(machine: Machine, kernel: &Kernel, image: &Path, args: &TestArgs) -> Result<Ran> {
    let each = args.limit.map_or(Duration::from_secs(180), Duration::from_secs);
    let suites = matrix::suites(args.filter.as_deref());
    let mut init_args =
        vec![format!("--topology={}", machine.topology.name), format!("--limit={}", each.as_secs())];
    init_args.extend(suites.iter().map(|suite| format!("--suite={}", contents::suite_path(suite).display())));
    init_args.extend(matrix::only(&machine).iter().map(|only| format!("--only={only}")));
    init_args.extend(args.filter.iter().map(|filter| format!("--filter={filter}")));
    init_args.extend(machine.topology.init_args());
    let image = contents::with_modules(image, kernel)?;
    let guest = Guest {
        arch: machine.arch,
        topology: machine.topology,
        kernel: &kernel.path,
        image: &image,
        init_args,
    };
    let logs = vm_dir().join("logs");
    fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let log = logs.join(format!("{machine}.log").replace(' ', "-"));
    eprintln!("+ guest {machine}: {}, console in {}", kernel.package, log.display());
    let start = Instant::now();
    let console = guest.run(boot_limit(&machine) + each * 10, &log, |console| {
        if let Some(test) = console.tests.last()
            && test.end != End::Elsewhere
            && !(args.brief && test.end == End::Ok && test.said.is_empty())
        {
            println!("{machine} {} ... {} ({} ms)", test.name, test.end, test.millis);
            test.said.iter().for_each(|line| println!("    {line}"));
        }
    });
    // What is left of it is the image of all kernels.
    fs::remove_file(&image).with_context(|| image.display().to_string())?;
    let mut console = console?;
    if args.filter.is_none() && console.fault().is_none() && console.count(End::Ok) == 0 {
        console.broken.push("no test ran".to_owned());
    }
    if let Some(release) = console.kernel.as_deref().filter(|release| !machine.series.has(release)) {
        console.broken.push(format!("{release} came up, which is no {}", machine.series.name));
    }
    if let Some(fault) = console.fault() {
        println!("{machine}: {fault}; see {}", log.display());
    }
    console.complaints.iter().for_each(|line| println!("{machine}, the kernel: {line}"));
    Ok(Ran { machine, console, seconds: start.elapsed().as_secs() })
}

fn shell(args: &ShellArgs) -> Result<ExitCode> {
    setup::ensure(Purpose::Vm(args.arch))?;
    let kernel = match &args.vmlinuz {
        Some(path) => own_kernel(path)?,
        None => kernels::get(args.kernel, args.arch, false)?,
    };
    let image = contents::with_modules(&contents::build(args.arch)?, &kernel)?;
    let mut init_args = vec![format!("--topology={}", args.topology.name), "--shell".to_owned()];
    init_args.extend(args.topology.init_args());
    let guest =
        Guest { arch: args.arch, topology: args.topology, kernel: &kernel.path, image: &image, init_args };
    eprintln!("+ guest {} {} {}; `exit` or Ctrl-D ends it", args.arch, kernel.package, args.topology.name);
    let status = guest.command().stdin(Stdio::inherit()).status().context("QEMU")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list() {
    println!("kernels:");
    for series in kernels::ALL {
        for arch in Arch::ALL {
            let kept =
                kernels::kept(series, arch).map_or("not fetched yet".to_owned(), |kernel| kernel.package);
            println!("  {:<6} {:<8} {kept}", series.name, arch.name());
        }
    }
    println!("shapes:");
    for topology in topology::ALL {
        let cpus = Arch::ALL.map(|arch| format!("{} on {arch}", topology.cpus(arch))).join(", ");
        println!("  {:<8} {} (CPUs: {cpus})", topology.name, topology.about);
    }
    println!("machines of the matrix; * those that `cargo xtask test` boots:");
    let everything = matrix::Wanted::default();
    let few = matrix::select(&everything, false);
    for machine in matrix::select(&everything, true) {
        println!("  {} {machine}", if few.contains(&machine) { "*" } else { " " });
    }
}

impl Arch {
    /// The emulator.
    fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Debian's name.
    fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }
}
