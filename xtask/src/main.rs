//! How people set up, build, test and demo numa-agent.
fn main() {}
