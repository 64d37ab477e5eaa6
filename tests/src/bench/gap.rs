//! Why there is no figure: what it takes is not there, or is left out, and that is said; or it failed, and so has the bench.

use std::{env, fmt};

use serde::Serialize;

/// A program that others make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Its name in `PATH`.
    pub program: &'static str,
    /// The package that brings it.
    pub package: &'static str,
}

/// What `perf bench` and `perf sched` take.
pub const PERF: Tool = Tool { program: "perf", package: "linux-perf" };
/// bpftrace.
pub const BPFTRACE: Tool = Tool { program: "bpftrace", package: "bpftrace" };

/// Why something was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Gap {
    /// What it takes is not there.
    Missing(String),
    /// It should have been.
    Failed(String),
}

impl Gap {
    /// Why what takes that cannot be measured; `None` if it is in `PATH`.
    #[must_use]
    pub fn without(tool: Tool) -> Option<Self> {
        let Tool { program, package } = tool;
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).any(|dir| dir.join(program).is_file());
        let why = || format!("no {program}; install {package} or run `cargo xtask setup --bench`");
        (!found).then(|| Self::Missing(why()))
    }

    /// With all causes.
    #[must_use]
    pub fn failed(error: &anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }

    /// Of what is called `what`, if it should have been measured.
    #[must_use]
    pub fn failure(&self, what: &str) -> Option<String> {
        match self {
            Self::Missing(_) => None,
            Self::Failed(why) => Some(format!("{what}: {why}")),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Missing(why) | Self::Failed(why)) = self;
        write!(f, "not measured: {why}")
    }
}

impl From<Gap> for String {
    fn from(gap: Gap) -> Self {
        gap.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_said_with_its_package_and_is_no_failure() {
        assert_eq!(Gap::without(Tool { program: "sh", package: "dash" }), None);
        let gap = Gap::without(Tool { program: "no-such-program-here", package: "some-package" }).unwrap();
        let said = gap.to_string();
        assert!(said.starts_with("not measured: ") && said.contains("install some-package"), "{said}");
        assert_eq!(gap.failure("it"), None);
        let failed = Gap::failed(&anyhow::anyhow!("cause").context("what"));
        assert_eq!(failed.failure("it").as_deref(), Some("it: what: cause"));
    }
}
