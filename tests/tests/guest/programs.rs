//! Every kernel program, on the guest's kernel.

use numa_agent_tests::{programs, verifier};

use crate::stage::stage;

#[test]
fn every_program_loads_and_the_verifier_works_no_harder() {
    // It is about the kernel: two shapes will do, of which every kernel has one.
    let Some(_stage) = stage("programs", &["a3-mini", "2s1n"]) else { return };
    if let Err(unknown) = programs::check() {
        // Debian's newest may be newer than all that is kept: all programs load there too, and its numbers are shown.
        assert!(unknown.is_newer, "{}", unknown.why);
        println!("{}{}", verifier::WORD, unknown.why);
    }
}
