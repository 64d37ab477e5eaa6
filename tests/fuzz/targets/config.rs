//! Configuration files, as JSON and as TOML: an error names its file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::core::{config::Overrides, settings::Settings};

fuzz_target!(|text: &str| {
    for path in ["fuzz.json", "fuzz.toml", "fuzz"] {
        if let Err(error) = Settings::from_sources(Some((path, text)), Overrides::default()) {
            let message = error.to_string();
            assert!(message.starts_with(path), "{message}");
        }
    }
});
