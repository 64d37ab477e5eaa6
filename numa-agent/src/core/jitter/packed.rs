//! Accounts without their zeros: of nearly 600 words, most threads' have less than a hundred that are not zero.

use numa_ebpf::account::{Account, Words};

/// Words of an account.
const WORDS: usize = size_of::<Words>() / 8;

/// An account, packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Which words are not zero.
    present: [u64; WORDS.div_ceil(64)],
    /// Those.
    words: Box<[u64]>,
}

impl Packed {
    /// Packs an account.
    #[must_use]
    pub fn new(account: &Account) -> Self {
        let words = account.as_words();
        let mut present = [0u64; WORDS.div_ceil(64)];
        for (present, words) in present.iter_mut().zip(words.chunks(64)) {
            for (index, word) in words.iter().enumerate() {
                *present |= u64::from(*word != 0) << index;
            }
        }
        // Most are zero: only those that are not are looked at again.
        let mut filled =
            Vec::with_capacity(present.iter().map(|present| present.count_ones() as usize).sum());
        for (present, words) in present.iter().zip(words.chunks(64)) {
            let mut left = *present;
            while left != 0 {
                filled.push(words[left.trailing_zeros() as usize]);
                left &= left - 1;
            }
        }
        Self { present, words: filled.into() }
    }

    /// The account again.
    #[must_use]
    pub fn account(&self) -> Account {
        let mut account = Account::EMPTY;
        let mut words = self.words.iter();
        for (present, filled) in self.present.iter().zip(account.as_words_mut().chunks_mut(64)) {
            let mut left = *present;
            while left != 0 {
                filled[left.trailing_zeros() as usize] = words.next().copied().unwrap_or_default();
                left &= left - 1;
            }
        }
        account
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_comes_out(filled in proptest::collection::btree_map(0..WORDS, any::<u64>(), 0..WORDS)) {
            let mut words = [0; WORDS];
            filled.iter().for_each(|(index, word)| words[*index] = *word);
            let account = *Account::from_words(&words);
            let packed = Packed::new(&account);
            prop_assert_eq!(packed.account(), account);
            prop_assert_eq!(packed.words.len(), filled.values().filter(|word| **word != 0).count());
        }
    }
}
