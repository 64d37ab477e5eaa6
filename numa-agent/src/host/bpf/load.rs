//! Loading and attaching. Programs are verified several at a time, and attached one by one.

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{RLIM_INFINITY, Resource, setrlimit},
};

use super::{
    LoadOptions, accounts,
    error::{BpfError, explain},
    hold,
    offsets::{self, Offsets},
    tap,
};
use crate::{
    core::health::{Health, ProgramResult, Verdict},
    host::sys,
};

/// The kernel's own type information.
const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
/// Where tracefs belongs (`Documentation/trace/ftrace.rst`).
const TRACEFS: &str = "/sys/kernel/tracing";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// Where a program goes.
pub(super) enum Hook {
    /// A tracepoint with BTF-typed arguments.
    Btf(&'static str),
    /// A tracepoint with untyped arguments.
    Raw(&'static str),
    /// Entry or exit of a system call.
    Syscall(&'static str),
}

/// Programs that take a run to begin where nobody has told of it: without `switch` nobody would tell of its end either.
const INTERRUPTS: [&str; 6] =
    ["irq_enter", "irq_exit", "softirq_enter", "softirq_exit", "timer_enter", "timer_exit"];

/// Other architectures' timer tick is an interrupt handler like any other.
const PROGRAM_COUNT: usize = if cfg!(target_arch = "x86_64") { 18 } else { 16 };

/// The programs: name, whether required, hook. Exit comes first, so that no mark outlives its task.
const PROGRAMS: [(&str, bool, Hook); PROGRAM_COUNT] = [
    ("exit", true, Hook::Btf("sched_process_exit")),
    ("fork", true, Hook::Btf("sched_process_fork")),
    ("rename", true, Hook::Raw("task_rename")),
    ("exec", true, Hook::Btf("sched_process_exec")),
    ("migrate", false, Hook::Btf("sched_migrate_task")),
    ("switch", false, Hook::Btf("sched_switch")),
    ("wakeup", false, Hook::Btf("sched_wakeup")),
    ("wakeup_new", false, Hook::Btf("sched_wakeup_new")),
    ("numa_move", false, Hook::Btf("sched_move_numa")),
    ("numa_swap", false, Hook::Btf("sched_swap_numa")),
    ("irq_exit", false, Hook::Btf("irq_handler_exit")),
    ("irq_enter", false, Hook::Btf("irq_handler_entry")),
    ("softirq_exit", false, Hook::Btf("softirq_exit")),
    ("softirq_enter", false, Hook::Btf("softirq_entry")),
    #[cfg(target_arch = "x86_64")]
    ("timer_exit", false, Hook::Btf("local_timer_exit")),
    #[cfg(target_arch = "x86_64")]
    ("timer_enter", false, Hook::Btf("local_timer_entry")),
    ("affinity_exit", false, Hook::Syscall("sys_exit_sched_setaffinity")),
    ("affinity_enter", false, Hook::Syscall("sys_enter_sched_setaffinity")),
];

/// Where device files are looked for.
const DEVICE: (&str, bool, &Hook) = ("device", false, &Hook::Syscall("sys_enter_ioctl"));

/// The programs whose verification takes longest, the longest first: the others are done beside them.
const LONGEST: [&str; 3] = ["exec", "switch", "rename"];
/// Threads that verify, at most: with as many, the longest is what is waited for. Side by side since 5.2 (45a73c17bfb9).
const VERIFIERS: usize = 4;

/// What came of programs' verification.
type Verified = HashMap<&'static str, Result<(), ProgramError>>;

/// Loads the object, makes its maps, of which some are taken and prepared, and then attaches what can be attached: programs run from the
/// moment they are attached.
pub(super) fn load<T>(
    options: &LoadOptions,
    take: impl FnOnce(&mut Ebpf) -> Result<T, BpfError>,
    prepare: impl FnOnce(&mut T) -> Result<(), BpfError>,
) -> Result<(Ebpf, T, Health), BpfError> {
    if OBJECT.is_empty() {
        return Err(BpfError::NoPrograms);
    }
    raise_memlock();
    let offsets = offsets()?;
    let (mut constants, nested) = (offsets.required, offsets.namespaces);
    constants.extend(nested.iter().flatten());
    let cpus = options.places.iter().map(|(cpu, _)| cpu + 1).max().unwrap_or(1);
    constants.extend([
        ("SELF_TGID", options.self_pid),
        ("DEBUG_LOG", u32::from(options.debug_log)),
        ("CPU_IDS", cpus),
    ]);
    if let (true, Ok(known)) = (options.hold, &offsets.hold) {
        constants.extend(known.iter().copied().chain([("HOLD", 1)]));
    }
    let devices = options.devices.then(|| offsets.devices.map_err(|error| error.to_string()));
    constants.extend(devices.iter().flatten().flatten());
    let tap = options.tap.map(|tap| (tap, offsets.tap.map_err(|error| error.to_string())));
    if let Some((tap, Ok(known))) = &tap {
        constants.extend(known.iter().copied().chain(tap::constants(tap)));
    }
    // Where it can, it parses the kernel's whole BTF at once (aya 0.14): 20 ms and tens of MB, for relocations that Rust programs do not
    // have.
    let mut loader = sys::without_files(EbpfLoader::new);
    loader.btf(None);
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    let accounts = options.max_accounts.max(1);
    loader.map_max_entries("events", options.ring_bytes);
    loader.map_max_entries("tasks", options.max_tasks);
    loader.map_max_entries("accounts", accounts + 1);
    loader.map_max_entries("free_slots", accounts);
    loader.map_max_entries("slot_of", sys::pid_max());
    loader.map_max_entries("plan_of", accounts + 1);
    loader.map_max_entries("untold", accounts + 1);
    loader.map_max_entries("plan_sets", accounts::PLAN_SETS);
    loader.map_max_entries("places", cpus);
    loader.map_max_entries("cpus", cpus);
    for (name, size) in tap::map_sizes(options.tap.as_ref()).into_iter().chain(hold::map_sizes(options.hold))
    {
        loader.map_max_entries(name, size);
    }
    if !options.debug_log {
        loader.map_max_entries("AYA_LOGS", 4096);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| BpfError::Load(explain(&error)))?;
    let mut taken = take(&mut ebpf)?;
    let btf = offsets.hooks.to_btf().map_err(|error| BpfError::Load(explain(&error)))?;
    let mut wanted: Vec<_> = PROGRAMS.iter().map(|(name, _, hook)| (*name, hook)).collect();
    wanted.extend(devices.as_ref().and_then(|known| known.is_ok().then_some((DEVICE.0, DEVICE.2))));
    let (mut verified, prepared) = verify_all(&mut ebpf, &btf, &wanted, || prepare(&mut taken));
    prepared?;
    let mut health = with_tracefs(|tracefs| {
        let mut programs = attach_all(&mut ebpf, &mut verified, tracefs);
        programs.extend(devices.map(|known| match known {
            Ok(_) => attach(&mut ebpf, &mut verified, tracefs, DEVICE),
            Err(why) => {
                let (name, required, _) = DEVICE;
                ProgramResult { name, required, result: Err(why), verified: None }
            }
        }));
        let tap = tap.map_or(Vec::new(), |(tap, known)| {
            tap::attach_all(&tap, &known.map(drop), |name, required, hook| {
                let (mut of_it, ()) = verify_all(&mut ebpf, &btf, &[(name, hook)], || ());
                attach(&mut ebpf, &mut of_it, tracefs, (name, required, hook))
            })
        });
        let hold = options.hold.then(|| offsets.hold.map(drop).map_err(|error| error.to_string()));
        Health { programs, tap, hold }
    });
    if let Err(error) = nested {
        // Without, the affinity programs take tids as those of the initial namespace.
        let result = Err(format!("sched_setaffinity in containers is not understood: {error}"));
        let (name, required, verified) = ("affinity_namespaces", false, None);
        health.programs.push(ProgramResult { name, required, result, verified });
    }
    sys::release_freed_memory();
    if [Some(health.verdict()), health.tap_verdict()].contains(&Some(Verdict::Unusable)) {
        return Err(BpfError::Unusable(health));
    }
    Ok((ebpf, taken, health))
}

fn offsets() -> Result<Offsets, BpfError> {
    let path = Path::new(BTF_PATH);
    let blob = fs::read(path).map_err(|error| BpfError::NoBtf { path: path.into(), error })?;
    let typed = PROGRAMS
        .iter()
        .filter_map(|(_, _, hook)| if let Hook::Btf(name) = hook { Some(*name) } else { None });
    let wanted: Vec<&str> = typed.chain(tap::TRACEPOINTS).collect();
    offsets::resolve(&blob, &wanted).map_err(|error| BpfError::Btf { path: path.into(), error })
}

/// Has the kernel verify those programs, which only takes time: nothing runs yet. Meanwhile `beside` is done.
fn verify_all<R>(
    ebpf: &mut Ebpf,
    btf: &Btf,
    wanted: &[(&'static str, &Hook)],
    beside: impl FnOnce() -> R,
) -> (Verified, R) {
    let hook_of = |found: &str| wanted.iter().find(|(name, _)| *name == found);
    let rank = |name: &str| LONGEST.iter().position(|long| *long == name).unwrap_or(LONGEST.len());
    let programs = ebpf.programs_mut().filter_map(|(name, program)| Some((*hook_of(name)?, program)));
    let mut programs: Vec<_> = programs.collect();
    programs.sort_by_key(|((name, _), _)| rank(name));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(VERIFIERS).min(programs.len());
    let (queue, verified) = (Mutex::new(programs.into_iter()), Mutex::new(Verified::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(((name, hook), program)) = next() {
            let result = verify(program, btf, hook);
            verified.lock().unwrap_or_else(PoisonError::into_inner).insert(name, result);
        }
    };
    let done = thread::scope(|scope| {
        // Whom there is no room for does not help.
        (1..threads).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, work)));
        let done = beside();
        work();
        done
    });
    (verified.into_inner().unwrap_or_else(PoisonError::into_inner), done)
}

fn verify(program: &mut Program, btf: &Btf, hook: &Hook) -> Result<(), ProgramError> {
    match (hook, program) {
        (Hook::Btf(tracepoint), Program::BtfTracePoint(program)) => program.load(tracepoint, btf),
        (Hook::Raw(_), Program::RawTracePoint(program)) => program.load(),
        (Hook::Syscall(_), Program::TracePoint(program)) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_all(ebpf: &mut Ebpf, verified: &mut Verified, tracefs: &Result<(), String>) -> Vec<ProgramResult> {
    let mut programs: Vec<ProgramResult> = Vec::new();
    for (name, required, hook) in &PROGRAMS {
        let blind = programs.iter().any(|program| program.name == "switch" && program.result.is_err());
        programs.push(if blind && INTERRUPTS.contains(name) {
            let result = Err("of no use without switch, which is not attached".to_owned());
            ProgramResult { name, required: *required, result, verified: None }
        } else {
            attach(ebpf, verified, tracefs, (name, *required, hook))
        });
    }
    programs
}

/// Attaches a program: name, whether required, hook. `tracefs` says whether a system call's can be.
fn attach(
    ebpf: &mut Ebpf,
    verified: &mut Verified,
    tracefs: &Result<(), String>,
    (name, required, hook): (&'static str, bool, &Hook),
) -> ProgramResult {
    let result = match (hook, tracefs) {
        (Hook::Syscall(_), Err(why)) => Err(why.clone()),
        _ => try_attach(ebpf, verified, name, hook).map_err(|error| explain(&error)),
    };
    // A program that was not loaded has no figures either.
    let info = ebpf.program(name).and_then(|program| program.info().ok());
    let verified = info.and_then(|info| info.verified_instruction_count());
    ProgramResult { name, required, result, verified }
}

fn try_attach(ebpf: &mut Ebpf, verified: &mut Verified, name: &str, hook: &Hook) -> Result<(), ProgramError> {
    let missing = || ProgramError::InvalidName { name: name.to_owned() };
    verified.remove(name).ok_or_else(missing)??;
    match (hook, ebpf.program_mut(name).ok_or_else(missing)?) {
        (Hook::Btf(_), Program::BtfTracePoint(program)) => program.attach().map(drop),
        (Hook::Raw(tracepoint), Program::RawTracePoint(program)) => program.attach(tracepoint).map(drop),
        (Hook::Syscall(tracepoint), Program::TracePoint(program)) => {
            program.attach("syscalls", tracepoint).map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Runs `work` where tracefs is mounted: numbers of tracepoints are read from it. Where the host has not mounted it, on a
/// thread in a mount namespace of its own, so that the host is left as it is. `work` is told if that failed.
fn with_tracefs<R: Send>(work: impl FnOnce(&Result<(), String>) -> R + Send) -> R {
    let mounted = |path: &str| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if mounted(TRACEFS) || mounted("/sys/kernel/debug/tracing") {
        return work(&Ok(()));
    }
    let private = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), None::<&str>)
    };
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let tracefs = private().map_err(|errno| {
                let why = io::Error::from(errno);
                format!("tracefs is not mounted ({why}); run `mount -t tracefs tracefs {TRACEFS}`")
            });
            work(&tracefs)
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Before 5.11 maps count against this limit. Refused without CAP_SYS_RESOURCE, which later kernels do not need: if the
/// limit matters, making the maps fails and says so.
fn raise_memlock() {
    if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!("RLIMIT_MEMLOCK stays as it is: {errno}");
    }
}
