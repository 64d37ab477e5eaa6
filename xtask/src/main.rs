//! How people set up, build, test and demo numa-agent.

#[allow(dead_code, reason = "`setup` installs what `discover` misses")]
mod toolchain;

fn main() {}
