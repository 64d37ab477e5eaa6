//! Names that other processes chose: harmless in every output, and no container but where there is one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use numa_agent::{core::instance::container_of, report::escape};

fuzz_target!(|name: &str| {
    let plain = escape::text(name);
    assert!(!plain.chars().any(escape::is_hidden), "{plain:?}");
    for page in [escape::xml(name), escape::markdown(name)] {
        assert!(!page.contains(['<', '>']) && !page.chars().any(escape::is_hidden), "{page:?}");
    }
    if let Some(container) = container_of(name) {
        assert!(name.starts_with(&container.cgroup) && container.cgroup.contains(&container.id));
    }
});
