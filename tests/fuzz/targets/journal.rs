//! The journal: what its intact lines say is kept when it is written anew, and no line is lost uncounted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::journal::{Outstanding, decode};

fuzz_target!(|bytes: &[u8]| {
    let decoded = decode(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(decoded.entries.len() + decoded.damaged, lines);
    let outstanding: Outstanding = decoded.entries.into_iter().collect();
    let again = decode(outstanding.encode().as_bytes());
    assert_eq!((again.damaged, again.entries.into_iter().collect()), (0, outstanding));
});
