//! Memory policies in threads that run already, through ptrace: as in the live tests, on other kernels and architectures.

use numa_agent_tests::injection;

use crate::stage::stage;

/// The smallest machine: nothing here is about nodes.
const ON: [&str; 1] = ["2s1n"];

#[test]
fn inject_every_occupation_goes_on() {
    let Some(stage) = stage("inject-occupations", &ON) else { return };
    injection::every_occupation_goes_on(&stage.family);
}

#[test]
fn inject_waits_keep_their_time() {
    let Some(stage) = stage("inject-waits", &ON) else { return };
    injection::waits_keep_their_time(&stage.family);
}

#[test]
fn inject_a_storm_of_signals_changes_nothing() {
    let Some(stage) = stage("inject-storm", &ON) else { return };
    injection::a_storm_of_signals_changes_nothing(&stage.family, 100);
}

#[test]
fn inject_a_stopped_process_stays_stopped() {
    let Some(stage) = stage("inject-stopped", &ON) else { return };
    injection::a_stopped_process_stays_stopped(&stage.family);
}

#[test]
fn inject_who_cannot_be_reached_is_named() {
    let Some(stage) = stage("inject-unreached", &ON) else { return };
    injection::who_cannot_be_reached_is_named(&stage.family);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn inject_a_32_bit_program_is_refused() {
    let Some(stage) = stage("inject-32-bit", &ON) else { return };
    injection::a_32_bit_program_is_refused(&stage.family);
}
