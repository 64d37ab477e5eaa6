//! Every kernel program, on this kernel.

use numa_agent_tests::programs;

use super::*;

#[test]
fn every_program_loads_and_the_verifier_works_no_harder() {
    let test = "every_program_loads_and_the_verifier_works_no_harder";
    let Some(_stage) = stage(test) else { return };
    if let Err(unknown) = programs::check() {
        skip(test, &unknown.why);
    }
}
