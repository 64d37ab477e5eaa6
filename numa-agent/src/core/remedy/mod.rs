//! What is wrong with a host or with what runs on it, what that does to a plan, and the command that mends it: one owner of
//! these words for `doctor`, `check` and `bind`. Whether something is wrong is others' to say.
//!
//! A fix is a command, and what follows a `#` is a remark; where no command helps, it is a remark alone. So it can be pasted as it is.
//!
//! Names from other processes are in here as they are: whoever prints escapes.

pub mod agent;
pub mod machine;
pub mod memory;
pub mod plan;
pub mod rivals;
pub mod runs;

/// A word as a shell reads it back as it is: what others named may have anything in it, and a fix is there to be pasted.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Words as a shell reads them back as they are.
#[must_use]
pub fn shell(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    words.join(" ")
}

/// The remark of a fix that is no command; `None` for a command.
#[must_use]
pub fn remark(fix: &str) -> Option<&str> {
    fix.strip_prefix("# ")
}

/// Something that is wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The subject.
    pub name: &'static str,
    /// What there is, and what it does to a plan.
    pub found: String,
    /// The command, and what to think of before.
    pub fix: String,
}

impl Finding {
    fn new(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, found: found.into(), fix: fix.into() }
    }

    /// One line.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("{}; fix: {}", self.found, remark(&self.fix).unwrap_or(&self.fix))
    }
}
