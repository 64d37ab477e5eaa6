//! Settings that are one word of a few: parsing, printing, and the hint for a slip of the pen.

/// A word that is none of the few that a key or flag takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not one of {words}{hint}")]
pub struct ChoiceError {
    given: String,
    words: String,
    /// Starts with its separator; empty for none.
    hint: String,
}

impl ChoiceError {
    pub(crate) fn new(given: &str, words: &[&'static str]) -> Self {
        let near = suggest(given, words.iter().copied());
        let hint = near.map(|word| format!("; did you mean {word}?")).unwrap_or_default();
        Self { given: given.to_owned(), words: words.join(", "), hint }
    }

    /// With a hint that is more than a word.
    pub(crate) fn because(self, hint: &str) -> Self {
        Self { hint: format!("; {hint}"), ..self }
    }
}

/// Gives a setting that is one word of a few the list of them, and its `FromStr` and `Display`, one the inverse of the other.
macro_rules! words {
    ($type:ident: $($word:literal $variant:ident),+) => {
        impl $type {
            /// All words.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl std::str::FromStr for $type {
            type Err = $crate::core::choice::ChoiceError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::core::choice::ChoiceError::new(text, Self::WORDS)),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}
pub(super) use words;

/// The word that was probably meant: within a third of its letters of what was given.
pub(super) fn suggest(given: &str, words: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    let distance = |word: &str| strsim::damerau_levenshtein(&given, word);
    let near = words.map(|word| (distance(word), word)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, word)| *distance <= word.len().div_ceil(3)).map(|(_, word)| word)
}
