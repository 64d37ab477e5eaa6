//! Records of the kernel's rings: what the first word calls one kind is read as that kind, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::decode::{DecodeError, decode, decode_hold, decode_send};

fuzz_target!(|record: &[u8]| {
    match decode(record) {
        Ok(event) => assert_eq!(event.at_ns.to_ne_bytes(), record[8..16]),
        Err(DecodeError::UnknownKind { len, .. } | DecodeError::Length { len, .. }) => {
            assert_eq!(len, record.len())
        }
    }
    let _ = decode_send(record);
    let _ = decode_hold(record);
});
