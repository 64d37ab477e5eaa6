//! From what a viewer sends to a [`Request`]. Anybody may send anything.

use super::{FASTEST_MS, MAX_REQUEST, Request, SLOWEST_MS};

/// The request that is too long, in words.
#[must_use]
pub fn too_long() -> String {
    format!("a request is one line of at most {MAX_REQUEST} bytes")
}

/// Reads a line, with or without its end.
///
/// # Errors
/// In words for who sent it. They hold nothing of what was sent.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    if line.len() > MAX_REQUEST {
        return Err(too_long());
    }
    let request = serde_json::from_slice(line).map_err(|_| {
        r#"not a request; those are {"request":"status"} and {"request":"watch","interval_ms":1000}"#
            .to_owned()
    })?;
    match request {
        Request::Watch { interval_ms } if !(FASTEST_MS..=SLOWEST_MS).contains(&interval_ms) => {
            Err(format!("interval_ms is from {FASTEST_MS} to {SLOWEST_MS}"))
        }
        request => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pace_has_limits() {
        let watch = |interval_ms: u64| {
            parse(format!("{{\"request\":\"watch\",\"interval_ms\":{interval_ms}}}\r\n").as_bytes())
        };
        assert_eq!(watch(FASTEST_MS), Ok(Request::Watch { interval_ms: FASTEST_MS }));
        assert!(watch(SLOWEST_MS).is_ok());
        for wrong in [0, FASTEST_MS - 1, SLOWEST_MS + 1, u64::MAX] {
            assert!(watch(wrong).unwrap_err().contains("200"), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_what_is() {
        let nested = b"[".repeat(MAX_REQUEST);
        for wrong in [
            b"".as_slice(),
            b"\n",
            b"\xff\xfe\0",
            b"null",
            b"GET / HTTP/1.1",
            br#"{"request":"bind"}"#,
            br#"{"request":"status"}{"request":"status"}"#,
            br#"{"request":"watch"}"#,
            br#"{"request":"watch","interval_ms":-1}"#,
            br#"{"request":"watch","interval_ms":1e3}"#,
            br#"{"request":"watch","interval_ms":500,"force":true}"#,
            &nested,
        ] {
            assert!(parse(wrong).unwrap_err().contains("status"), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(parse(&vec![b' '; MAX_REQUEST + 1]), Err(too_long()));
    }

    /// Real requests with some bytes changed, added or left out.
    fn almost() -> impl Strategy<Value = Vec<u8>> {
        let real = prop_oneof![
            Just(r#"{"request":"status"}"#.to_owned()),
            any::<u64>().prop_map(|ms| format!(r#"{{"request":"watch","interval_ms":{ms}}}"#)),
        ];
        let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..4);
        (real, edits).prop_map(|(real, edits)| {
            let mut bytes = real.into_bytes();
            for (at, byte, how) in edits {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_does_harm(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..2 * MAX_REQUEST),
            almost(),
        ]) {
            match parse(&bytes) {
                Ok(Request::Watch { interval_ms }) => prop_assert!((FASTEST_MS..=SLOWEST_MS).contains(&interval_ms)),
                Ok(Request::Status) => prop_assert!(String::from_utf8_lossy(&bytes).contains("status")),
                Err(why) => prop_assert!(why.len() < 200),
            }
        }

        #[test]
        fn what_a_client_sends_is_understood(interval_ms in FASTEST_MS..=SLOWEST_MS) {
            let request = Request::Watch { interval_ms };
            prop_assert_eq!(parse(&serde_json::to_vec(&request).unwrap()), Ok(request));
        }
    }
}
