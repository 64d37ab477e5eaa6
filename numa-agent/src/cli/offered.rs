//! Values of flags that completions can offer.

use std::{ffi::OsStr, fmt::Display, str::FromStr};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
};

/// Reads a value as its own type does; `words` are offered, and others may be right.
#[derive(Clone)]
pub struct Offered<T> {
    words: &'static [&'static str],
    read: fn(&str) -> Result<T, String>,
}

/// Values of a type that reads itself.
pub fn words<T: FromStr<Err: Display>>(words: &'static [&'static str]) -> Offered<T> {
    Offered { words, read: |text| text.parse().map_err(|error: T::Err| error.to_string()) }
}

/// Values that `read` reads.
pub fn read<T>(words: &'static [&'static str], read: fn(&str) -> Result<T, String>) -> Offered<T> {
    Offered { words, read }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Offered<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        self.read.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.words.iter().copied().map(PossibleValue::new)))
    }
}
