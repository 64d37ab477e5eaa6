//! Tokens: the work they take, and the time between them.

use std::{cell::RefCell, hint::black_box, path::Path, time::Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::token_file;
use crate::witness;

/// A token that came out.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Token {
    /// Counts from 1.
    pub number: u64,
    /// `CLOCK_MONOTONIC` when the scheduler had it back, nanoseconds.
    pub at_ns: u64,
}

/// Words of a thread's working set: 256 KiB, so that a thread which changes its CPU pays for a cold cache.
const WORKING_SET: usize = 32 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u64>> = RefCell::new(vec![1; WORKING_SET]);
}

/// Does `rounds` of the fixed work of a forward thread, over memory of its own.
pub fn work(rounds: u64) {
    BUFFER.with_borrow_mut(|buffer| {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..rounds {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let cell = &mut buffer[state as usize % WORKING_SET];
            *cell = cell.wrapping_add(state);
        }
        black_box(buffer);
    });
}

/// Rounds that take about a millisecond on this machine in this build: the best of some tries, as most are disturbed.
#[must_use]
pub fn rounds_per_millisecond() -> u64 {
    const TRY: u64 = 20_000;
    let time = || {
        let start = Instant::now();
        work(TRY);
        start.elapsed().as_nanos().max(1)
    };
    let best = (0..30).map(|_| time()).min().unwrap_or(1);
    (u128::from(TRY) * 1_000_000 / best) as u64
}

/// The times between an instance's tokens, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gaps {
    /// Serving instance.
    pub instance: u32,
    /// How many gaps.
    pub count: usize,
    /// Median.
    pub p50_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

impl Gaps {
    /// The gaps between the tokens of `instance` that came out from `since_ns` on; `None` if there were fewer than two.
    ///
    /// # Errors
    /// If the instance's token file cannot be read.
    pub fn read(out: &Path, instance: u32, since_ns: u64) -> Result<Option<Self>> {
        let tokens: Vec<Token> = witness::lines(&token_file(out, instance))?;
        let times: Vec<u64> = tokens.iter().map(|token| token.at_ns).filter(|at| *at >= since_ns).collect();
        let mut gaps: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
        gaps.sort_unstable();
        let Some(max_us) = gaps.last().copied() else { return Ok(None) };
        let rank = |percent: usize| gaps[(gaps.len() * percent).div_ceil(100).saturating_sub(1)];
        Ok(Some(Self { instance, count: gaps.len(), p50_us: rank(50), p99_us: rank(99), max_us }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_ranked() {
        let dir = tempfile::tempdir().unwrap();
        // Gaps of 1 to 100 us, with an older token and an unfinished line around them.
        let mut at_ns = 1_000_000;
        let mut text = String::from("{\"number\":1,\"at_ns\":5}\n");
        for gap in 0..=100u64 {
            at_ns += gap * 1000;
            text += &format!("{{\"number\":{gap},\"at_ns\":{at_ns}}}\n");
        }
        std::fs::write(token_file(dir.path(), 3), text + "{\"num").unwrap();
        let gaps = Gaps::read(dir.path(), 3, 1_000_000).unwrap();
        assert_eq!(gaps, Some(Gaps { instance: 3, count: 100, p50_us: 50, p99_us: 99, max_us: 100 }));
        assert_eq!(Gaps::read(dir.path(), 3, u64::MAX).unwrap(), None);
    }
}
