//! Sets of small ids (CPUs, nodes) and the kernel's list format for them (`0-9,12`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

/// The largest id a set holds. Far above any kernel's `NR_CPUS` (8192 on x86_64, 6.18 `arch/x86/Kconfig`), small
/// enough that a hostile list cannot exhaust memory.
pub const MAX_ID: u32 = 65_535;

/// A set of ids, ordered. Prints and parses as a kernel list.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdSet {
    /// Bit `i % 64` of word `i / 64`; no trailing zero words, so that equal sets are equal values.
    /// Up to 128 ids take no memory beyond the set itself, of which there are several for each managed thread.
    words: SmallVec<[u64; 2]>,
}

/// A set of logical CPU numbers.
pub type CpuSet = IdSet;
/// A set of NUMA node ids.
pub type NodeSet = IdSet;

/// Why a text is no id list.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ListError {
    /// A token is neither a number nor a range.
    #[error("{0:?} is not an id or a range; write a list like 0-9,12")]
    Token(String),
    /// A range runs backwards.
    #[error("range {0:?} runs backwards")]
    Backwards(String),
    /// An id above [`MAX_ID`].
    #[error("id {0} is above {MAX_ID}")]
    TooLarge(u64),
    /// A group of a mask is not a 32-bit hexadecimal number.
    #[error("{0:?} is not a group of a mask; a mask looks like ffffffff,0000000f")]
    Mask(String),
}

/// The most of a word that an error shows.
const MOST_SHOWN: usize = 40;

fn shortened(word: &str) -> String {
    match word.char_indices().nth(MOST_SHOWN) {
        None => word.to_owned(),
        Some((end, _)) => format!("{}..", &word[..end]),
    }
}

impl IdSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: SmallVec::new_const() }
    }

    /// Adds `id`.
    ///
    /// # Panics
    /// If `id` is above [`MAX_ID`]; ids from text are checked by [`IdSet::from_str`] first.
    pub fn insert(&mut self, id: u32) {
        assert!(id <= MAX_ID, "id {id} is above {MAX_ID}");
        let word = id as usize / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id % 64);
    }

    /// Removes `id`, if it is there.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 64) {
            *word &= !(1 << (id % 64));
        }
        self.trim();
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// How many ids the set holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The lowest id.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The highest id.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        let top = self.words.last()?;
        Some((self.words.len() as u32 - 1) * 64 + 63 - top.leading_zeros())
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let base = index as u32 * 64;
            std::iter::successors((word != 0).then_some(word), |rest| {
                let rest = rest & (rest - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |rest| base + rest.trailing_zeros())
        })
    }

    /// The ids as inclusive ranges, ascending and not touching.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for id in self.iter() {
            match ranges.last_mut() {
                Some((_, end)) if *end + 1 == id => *end = id,
                _ => ranges.push((id, id)),
            }
        }
        ranges
    }

    /// The bits as 64-bit words, lowest ids first, without trailing zero words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The set with those bits, lowest ids first.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        let used = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        Self { words: SmallVec::from_slice(&words[..used]) }
    }

    /// Parses a kernel mask: 32-bit hexadecimal groups separated by commas, highest ids first.
    ///
    /// # Errors
    /// [`ListError`] for a group that is no 32-bit number, or an id above [`MAX_ID`].
    pub fn from_mask(text: &str) -> Result<Self, ListError> {
        let mut set = Self::new();
        for (index, group) in text.trim().rsplit(',').map(str::trim).enumerate() {
            let digits = group.strip_prefix("0x").unwrap_or(group);
            let number = u32::from_str_radix(digits, 16)
                .ok()
                .filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let bits = number.ok_or_else(|| ListError::Mask(shortened(group)))?;
            for bit in (0..32).filter(|bit| bits & (1 << bit) != 0) {
                let id = index as u64 * 32 + bit;
                set.insert(u32::try_from(id).ok().filter(|id| *id <= MAX_ID).ok_or(ListError::TooLarge(id))?);
            }
        }
        Ok(set)
    }

    /// Ids in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::trimmed(self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect())
    }

    /// Ids in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let length = self.words.len().max(other.words.len());
        let word = |set: &Self, index: usize| set.words.get(index).copied().unwrap_or(0);
        Self::trimmed((0..length).map(|index| word(self, index) | word(other, index)).collect())
    }

    /// Ids in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mask = |index: usize| !other.words.get(index).copied().unwrap_or(0);
        Self::trimmed(self.words.iter().enumerate().map(|(index, word)| word & mask(index)).collect())
    }

    /// Whether every id is also in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }

    fn trimmed(words: SmallVec<[u64; 2]>) -> Self {
        let mut set = Self { words };
        set.trim();
        set
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::new();
        ids.into_iter().for_each(|id| set.insert(id));
        set
    }
}

impl Extend<u32> for IdSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (start, end)) in self.ranges().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if start == end {
                write!(f, "{comma}{start}")?;
            } else {
                write!(f, "{comma}{start}-{end}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for IdSet {
    type Err = ListError;

    /// Parses a kernel list: ids and ranges separated by commas; white space around them and an empty text are fine.
    fn from_str(text: &str) -> Result<Self, ListError> {
        let id = |token: &str, whole: &str| {
            let number: u64 = token.trim().parse().map_err(|_| ListError::Token(shortened(whole)))?;
            u32::try_from(number).ok().filter(|id| *id <= MAX_ID).ok_or(ListError::TooLarge(number))
        };
        let mut set = Self::new();
        for token in text.trim().split(',').map(str::trim) {
            if token.is_empty() {
                continue;
            }
            match token.split_once('-') {
                None => set.insert(id(token, token)?),
                Some((start, end)) => {
                    let (start, end) = (id(start, token)?, id(end, token)?);
                    if start > end {
                        return Err(ListError::Backwards(shortened(token)));
                    }
                    set.extend(start..=end);
                }
            }
        }
        Ok(set)
    }
}

impl Serialize for IdSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IdSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> IdSet {
        text.parse().expect("a good list")
    }

    #[test]
    fn prints_as_the_kernel_does() {
        assert_eq!(set("0-9,12").to_string(), "0-9,12");
        assert_eq!(set(" 12, 3,4 ,5\n").to_string(), "3-5,12");
        assert_eq!(set("").to_string(), "");
        assert_eq!(set("63-64").to_string(), "63-64");
    }

    #[test]
    fn bad_lists_are_refused_with_the_token_at_fault() {
        assert_eq!("0-x".parse::<IdSet>(), Err(ListError::Token("0-x".into())));
        assert_eq!("9-3".parse::<IdSet>(), Err(ListError::Backwards("9-3".into())));
        assert_eq!("0-4294967295".parse::<IdSet>(), Err(ListError::TooLarge(4_294_967_295)));
        assert_eq!("-1".parse::<IdSet>(), Err(ListError::Token("-1".into())));
    }

    #[test]
    fn masks_are_read_lowest_group_last() {
        assert_eq!(IdSet::from_mask("00000001,0000000f\n"), Ok(set("0-3,32")));
        assert_eq!(IdSet::from_mask("0"), Ok(IdSet::new()));
        assert_eq!(IdSet::from_mask("f,xyz"), Err(ListError::Mask("xyz".into())));
        assert_eq!(IdSet::from_mask("123456789"), Err(ListError::Mask("123456789".into())));
        assert_eq!(IdSet::from_mask("+1"), Err(ListError::Mask("+1".into())));
        let beyond = format!("1{}", ",0".repeat(MAX_ID as usize / 32 + 1));
        assert_eq!(IdSet::from_mask(&beyond), Err(ListError::TooLarge(u64::from(MAX_ID) + 1)));
    }

    #[test]
    fn removal_keeps_equal_sets_equal() {
        let mut big = set("1,200");
        big.remove(200);
        assert_eq!(big, set("1"));
        assert_eq!(big.last(), Some(1));
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in prop::collection::btree_set(0u32..300, 0..40), b in prop::collection::btree_set(0u32..300, 0..40)) {
            let (x, y): (IdSet, IdSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(x.union(&y).iter().collect::<BTreeSet<_>>(), &a | &b);
            prop_assert_eq!(x.intersection(&y).iter().collect::<BTreeSet<_>>(), &a & &b);
            prop_assert_eq!(x.difference(&y).iter().collect::<BTreeSet<_>>(), &a - &b);
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(x.to_string().parse::<IdSet>().unwrap(), x);
        }
    }
}
