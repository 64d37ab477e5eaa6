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
        let mut present = [0; WORDS.div_ceil(64)];
        for (index, _) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            present[index / 64] |= 1 << (index % 64);
        }
        Self { present, words: words.iter().copied().filter(|word| *word != 0).collect() }
    }

    /// The account again.
    #[must_use]
    pub fn account(&self) -> Account {
        let mut words = [0; WORDS];
        let places = (0..WORDS).filter(|index| self.present[index / 64] >> (index % 64) & 1 != 0);
        for (index, word) in places.zip(&self.words) {
            words[index] = *word;
        }
        *Account::from_words(&words)
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
