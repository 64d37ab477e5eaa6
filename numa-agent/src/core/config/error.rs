//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;

/// Where a value was given: a key of the file, or a flag. Prints as `numa.toml:4: rules[0].comm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file and the line in it; `None` for a flag.
    place: Option<(String, usize)>,
    /// The key's path, empty for the whole file; or the flag.
    key: String,
}

impl Origin {
    pub(super) fn file(path: &str, line: usize, key: &str) -> Self {
        Self { place: Some((path.to_owned(), line)), key: key.to_owned() }
    }

    pub(super) fn flag(flag: &str) -> Self {
        Self { place: None, key: flag.to_owned() }
    }

    /// That key of the table that stands here.
    pub(super) fn key(&self, key: &str, line: usize) -> Self {
        let dot = if self.key.is_empty() { "" } else { "." };
        self.inside(format!("{}{dot}{key}", self.key), line)
    }

    /// That entry of the list that stands here.
    pub(super) fn index(&self, index: usize, line: usize) -> Self {
        self.inside(format!("{}[{index}]", self.key), line)
    }

    fn inside(&self, key: String, line: usize) -> Self {
        Self { place: self.place.clone().map(|(file, _)| (file, line)), key }
    }

    /// The key's path, or the flag.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.key
    }

    pub(crate) fn wrong(&self, problem: String, hint: String) -> ConfigError {
        ConfigError::Value { at: self.clone(), problem, hint }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, line)) if self.key.is_empty() => write!(f, "{file}:{line}"),
            Some((file, line)) => write!(f, "{file}:{line}: {}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// Why a configuration is refused. All of them are bad usage: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not JSON or TOML.
    #[error(
        "{file}:{line}: not valid {format}: {problem}; a name that ends in .json is read as JSON, in .toml as TOML"
    )]
    Syntax {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// `JSON` or `TOML`.
        format: &'static str,
        /// The parser's words.
        problem: String,
    },
    /// A key that nothing reads.
    #[error("{at}: unknown key; {}known keys here: {known}", hint.as_deref().map(|key| format!("did you mean {key}? ")).unwrap_or_default())]
    UnknownKey {
        /// The key.
        at: Origin,
        /// The nearest known key.
        hint: Option<&'static str>,
        /// All known keys of that table.
        known: String,
    },
    /// A word that is none of the few.
    #[error("{at}: {problem}")]
    Choice {
        /// The key.
        at: Origin,
        /// The [`crate::core::choice::ChoiceError`], in words.
        problem: String,
    },
    /// A regular expression that does not compile.
    #[error(
        "{at}: bad regular expression: {error}\nhint: plain text needs \\ before . * + ? ( ) [ ] {{ }} | ^ $ \\; look-around and back-references do not exist here"
    )]
    Regex {
        /// The key.
        at: Origin,
        /// The compiler's words, which show the pattern.
        error: String,
    },
    /// A value of the wrong type, impossible, or at odds with another one.
    #[error("{at}: {problem}; {hint}")]
    Value {
        /// The key.
        at: Origin,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: String,
    },
}

impl ConfigError {
    pub(super) fn unknown_key(at: Origin, key: &str, known: &[&'static str]) -> Self {
        Self::UnknownKey { at, hint: super::suggest(key, known.iter().copied()), known: known.join(", ") }
    }
}
