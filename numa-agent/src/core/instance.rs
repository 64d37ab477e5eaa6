//! Serving instances: which processes belong together.

use std::str::FromStr;

use regex::Regex;

use super::settings::ChoiceError;

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

impl FromStr for GroupBy {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let wrong =
            || ChoiceError::new(text, &["auto", "cgroup", "session", "tree", "pid", "env:NAME", "arg:REGEX"]);
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => {
                Ok(Self::Env(name.to_owned()))
            }
            Some(("env", _)) => Err(wrong().because("env:NAME takes an environment variable's name")),
            Some(("arg", pattern)) => {
                let regex = Regex::new(pattern).map_err(|error| wrong().because(&error.to_string()))?;
                if regex.captures_len() < 2 {
                    let hint = "the part that names the instance must be in parentheses, as in arg:--port[= ]([0-9]+)";
                    return Err(wrong().because(hint));
                }
                Ok(Self::Arg(regex))
            }
            _ => match text {
                "auto" => Ok(Self::Auto),
                "cgroup" => Ok(Self::Cgroup),
                "session" => Ok(Self::Session),
                "tree" => Ok(Self::Tree),
                "pid" => Ok(Self::Pid),
                _ => Err(wrong()),
            },
        }
    }
}
