//! Serving instances: which processes belong together.

use regex::Regex;

/// `--group-by`: what tells one serving instance from another.
#[derive(Debug, Clone, Default)]
pub enum GroupBy {
    /// The container if there is one, else the session, else the topmost matching ancestor.
    #[default]
    Auto,
    /// The cgroup's path.
    Cgroup,
    /// The session id.
    Session,
    /// The topmost matching ancestor.
    Tree,
    /// Every matching process is an instance.
    Pid,
    /// The value of an environment variable.
    Env(String),
    /// Capture 1 of a regular expression searched in the command line.
    Arg(Regex),
}
