//! How many births of threads that are where they belong are told of one by one: nothing is to be done about them, and who starts as
//! many as it can would keep user space busy with nothing else. The others are counted ([`crate::counter::UNTOLD_BIRTHS`]); user space looks for
//! those that live on.
//!
//! A leaky bucket of one word (the generic cell rate algorithm): the time by which all that was told would have been told at the lasting pace.

/// The lasting pace: a birth in so many nanoseconds, 2000 a second.
const EACH_NS: u64 = 500_000;
/// So many at once are ahead of it at most: the threads of a process that starts are told of, all of them.
const BURST: u64 = 1024;

/// Whether a birth at `now_ns` is told, and the word then; `due_ns` is the word so far. CPUs that do this at the same time may tell of a few more.
#[inline(always)]
#[must_use]
pub const fn admit(due_ns: u64, now_ns: u64) -> Option<u64> {
    if due_ns > now_ns + BURST * EACH_NS {
        return None;
    }
    Some(if due_ns > now_ns { due_ns } else { now_ns } + EACH_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of those are told.
    fn told(word: &mut u64, births: impl Iterator<Item = u64>) -> usize {
        births.filter(|at_ns| admit(*word, *at_ns).inspect(|due_ns| *word = *due_ns).is_some()).count()
    }

    #[test]
    fn a_burst_is_told_and_then_so_many_a_second() {
        let (mut word, second) = (0, 1_000_000_000);
        let start = 7 * second;
        assert_eq!(told(&mut word, (0..5000).map(|_| start)), BURST as usize + 1);
        let storm = (1..=60_000).map(|index| start + index * second / 60_000);
        assert_eq!(told(&mut word, storm), (second / EACH_NS) as usize);
        let calm = (0..1000).map(|index| start + 2 * second + index * EACH_NS);
        assert_eq!(told(&mut word, calm), 1000, "who is no faster is always told of");
        assert_eq!(
            told(&mut word, (0..5000).map(|_| start + 9 * second)),
            BURST as usize + 1,
            "a burst again"
        );
    }
}
