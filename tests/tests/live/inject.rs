//! Memory policies in threads that run already, through ptrace.

use numa_agent_tests::injection;

use super::*;

/// The family of a test's processes.
fn family(test: &str) -> Option<(Stage, numa_agent_tests::stack::Family)> {
    let stage = stage(test)?;
    if sys::memory_policy().is_err() {
        skip(test, "no memory policies here");
        return None;
    }
    let family = stage.family.clone();
    Some((stage, family))
}

#[test]
fn every_occupation_goes_on() {
    let Some((_stage, family)) = family("inject-occupations") else { return };
    injection::every_occupation_goes_on(&family);
}

#[test]
fn waits_keep_their_time() {
    let Some((_stage, family)) = family("inject-waits") else { return };
    injection::waits_keep_their_time(&family);
}

#[test]
fn a_storm_of_signals_changes_nothing() {
    let Some((_stage, family)) = family("inject-storm") else { return };
    injection::a_storm_of_signals_changes_nothing(&family, 2000);
}

#[test]
fn a_stopped_process_stays_stopped() {
    let Some((_stage, family)) = family("inject-stopped") else { return };
    injection::a_stopped_process_stays_stopped(&family);
}

#[test]
fn a_program_has_it_before_its_first_instruction() {
    let Some((_stage, _)) = family("inject-exec") else { return };
    injection::a_program_has_it_before_its_first_instruction();
}

#[test]
fn who_cannot_be_reached_is_named() {
    let Some((_stage, family)) = family("inject-unreached") else { return };
    injection::who_cannot_be_reached_is_named(&family);
}

#[test]
fn a_filter_is_suspended_and_in_force_again() {
    let Some((_stage, _)) = family("inject-filter") else { return };
    injection::a_filter_is_suspended_and_in_force_again();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_program_is_refused() {
    let Some((_stage, family)) = family("inject-32-bit") else { return };
    injection::a_32_bit_program_is_refused(&family);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn sequences_are_aborted() {
    let Some((_stage, family)) = family("inject-sequences") else { return };
    injection::sequences_are_aborted(&family);
}
