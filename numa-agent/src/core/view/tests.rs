use serde_json::json;

use super::*;

/// An agent that is like any other.
pub(crate) fn agent() -> Agent {
    Agent {
        pid: 1,
        version: "0".into(),
        host: "h".into(),
        kernel: "6".into(),
        started_at: String::new(),
        uptime: 0.0,
        enforcing: true,
        policy: None,
        programs: "all".into(),
        missing_programs: Vec::new(),
        rss: None,
        cpu_seconds: None,
    }
}

#[test]
fn lines_are_told_by_their_kind() {
    let line = Line::Missed { schema: SCHEMA, events: 3 };
    let value = serde_json::to_value(&line).unwrap();
    assert_eq!(value, json!({ "kind": "missed", "schema": 1, "events": 3 }));
    assert_eq!(serde_json::from_value::<Line>(value).unwrap(), line);
}

#[test]
fn a_request_says_what_it_wants_and_nothing_else() {
    let parse = |text: &str| serde_json::from_str::<Request>(text);
    assert_eq!(parse(r#"{"request":"status"}"#).unwrap(), Request::Status);
    assert_eq!(
        parse(r#"{"request":"watch","interval_ms":500}"#).unwrap(),
        Request::Watch { interval_ms: 500 }
    );
    for wrong in ["", "[]", r#"{"request":"bind"}"#, r#"{"request":"watch","interval_ms":500,"force":true}"#]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
