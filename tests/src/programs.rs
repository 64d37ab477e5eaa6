//! What every kernel must do with the kernel programs: take them all, and not work harder at it than it did.

use std::{collections::BTreeMap, env::consts::ARCH, fs};

use serde::Deserialize;

use crate::{
    agent, tracer,
    verifier::{self, Comparison, Counts, HOW, Measured, WORD},
};

/// What the agent is made of, on every architecture.
const EVERYWHERE: [&str; 17] = [
    "exit",
    "fork",
    "rename",
    "exec",
    "migrate",
    "switch",
    "wakeup",
    "wakeup_new",
    "numa_move",
    "numa_swap",
    "irq_exit",
    "irq_enter",
    "softirq_exit",
    "softirq_enter",
    "affinity_exit",
    "affinity_enter",
    "device",
];
/// The timer tick is an interrupt of its own kind on x86_64 alone.
const X86_64: [&str; 2] = ["timer_exit", "timer_enter"];
/// What a tap is made of.
const TAP: [&str; 10] = [
    "tap_receive",
    "tap_send",
    "tap_write_exit",
    "tap_write_enter",
    "tap_writev_exit",
    "tap_writev_enter",
    "tap_sendto_exit",
    "tap_sendto_enter",
    "tap_sendmsg_exit",
    "tap_sendmsg_enter",
];

/// `sock_send_length` came with 6.3: there `tap_send` has its tracepoint, and a tap is all there is of it.
const SEND_LENGTH: (u32, u32) = (6, 3);
/// `verified_insns` of `struct bpf_prog_info` came with 5.16.
const VERIFIED_INSNS: (u32, u32) = (5, 16);

/// `numa-agent doctor --format json`, as far as it is about programs.
#[derive(Debug, Deserialize)]
struct Doctor {
    programs: Programs,
}

#[derive(Debug, Deserialize)]
struct Programs {
    verdict: String,
    programs: BTreeMap<String, String>,
    verified_instructions: BTreeMap<String, Option<u32>>,
    tap: Option<Box<Programs>>,
}

/// A kernel of which no numbers are kept.
#[derive(Debug)]
pub struct Unknown {
    /// Which, and how to keep some.
    pub why: String,
    /// Whether it is newer than all those of which there are.
    pub is_newer: bool,
}

/// Has this kernel take every program, prints what its verifier went through, and holds that against what is kept.
///
/// # Errors
/// If of this kernel nothing is kept; the rest holds all the same.
///
/// # Panics
/// With what is wrong.
pub fn check() -> Result<(), Unknown> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let kernel = verifier::series(&release).expect("a release begins with two numbers");
    let version = verifier::version(&release).expect("a release begins with two numbers");
    let (output, loaded) = tracer::run(agent::command(["doctor", "--format", "json"])).expect("doctor runs");
    let doctor: Doctor = serde_json::from_slice(&output).expect("doctor's JSON");
    let programs = doctor.programs;
    let tap = programs.tap.as_deref().expect("doctor looks at the tap's programs too");

    let timers = if ARCH == "x86_64" { &X86_64[..] } else { &[] };
    programs.assert("full", &[&EVERYWHERE, timers].concat(), &[]);
    if version >= SEND_LENGTH {
        tap.assert("full", &TAP, &[]);
    } else {
        tap.assert("degraded", &TAP, &["tap_send"]);
    }

    let mut instructions = Counts::new();
    for (name, told) in programs.verified_instructions.iter().chain(&tap.verified_instructions) {
        // Witnessed under the name that the kernel has room for.
        let witnessed = loaded.get(&name[..name.len().min(15)]).copied();
        let expected = witnessed.filter(|_| version >= VERIFIED_INSNS);
        assert_eq!(*told, expected, "{name}: told by doctor, and by the verifier's own log");
        instructions.extend(witnessed.map(|count| (name.clone(), count)));
    }
    let measured = Measured { arch: ARCH.to_owned(), kernel, instructions };
    println!("{}", verifier::line(&measured));
    let kept = verifier::kept();
    match verifier::compare(&kept, &measured) {
        Comparison::Unknown(why) => {
            Err(Unknown { why, is_newer: verifier::is_newer(&kept, ARCH, &measured.kernel) })
        }
        Comparison::Known { wrong, less } => {
            for line in &less {
                println!("{WORD}less work: {line}; {HOW}");
            }
            assert!(wrong.is_empty(), "{}\n{HOW}", wrong.join("\n"));
            Ok(())
        }
    }
}

impl Programs {
    /// Expects that verdict, and that these programs are all there are and attached but for `missing`.
    #[track_caller]
    fn assert(&self, verdict: &str, names: &[&str], missing: &[&str]) {
        let attached = |name: &&str| self.programs.get(*name).is_some_and(|result| result == "attached");
        let failed: Vec<&str> = names.iter().copied().filter(|name| !attached(name)).collect();
        assert_eq!((self.verdict.as_str(), &failed[..]), (verdict, missing), "{:#?}", self.programs);
        assert_eq!(self.programs.len(), names.len(), "{:#?}", self.programs);
    }
}
