//! Log-linear buckets of durations, as HDR histograms have them: eight to each doubling. The kernel side counts into them,
//! user space turns them into percentiles.
//!
//! The middle of a bucket is at most 1/16 off from any duration in it, from 512 ns on; below that, buckets are 64 ns wide and
//! the middle is at most 32 ns off. Durations of 2^36 ns (68.7 s) and more fall into the last bucket.

/// Number of buckets.
pub const BUCKETS: usize = 224;
/// Width of the narrowest buckets is 1 << `UNIT_SHIFT` nanoseconds.
pub const UNIT_SHIFT: u32 = 6;
/// A doubling has 1 << `SUB_SHIFT` buckets.
const SUB_SHIFT: u32 = 3;
/// The first duration that is too long to be told apart, in units.
const TOO_LONG: u64 = 1 << 30;

/// Durations in a few numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub total_ns: u64,
    /// The longest in nanoseconds.
    pub max_ns: u64,
}

/// How often durations were in each bucket, by [`bucket`]. A bucket stays at its largest value rather than wrap around: then
/// [`Summary::count`] is more than the buckets' sum.
pub type Buckets = [u32; BUCKETS];

/// Counts one more duration.
#[inline(always)]
pub fn record(summary: &mut Summary, buckets: &mut Buckets, ns: u64) {
    summary.count += 1;
    summary.total_ns += ns;
    if ns > summary.max_ns {
        summary.max_ns = ns;
    }
    let bucket = bucket(ns);
    // `bucket` is always inside; the verifier wants to see it.
    if bucket < BUCKETS {
        buckets[bucket] = buckets[bucket].saturating_add(1);
    }
}

/// The bucket of a duration.
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    // Of what is too long the logarithm is wrong, and whatever comes of it too large.
    let shift = log2(ns).wrapping_sub(SUB_SHIFT as u64) % 64;
    let bucket = (shift << SUB_SHIFT) + (ns >> UNIT_SHIFT >> shift);
    if bucket < BUCKETS as u64 { bucket as usize } else { BUCKETS - 1 }
}

/// The shortest duration of a bucket, in nanoseconds.
#[must_use]
pub const fn lowest_ns(bucket: usize) -> u64 {
    let (doubling, sub) = (bucket >> SUB_SHIFT, bucket & ((1 << SUB_SHIFT) - 1));
    let units = match doubling {
        0 => sub as u64,
        _ => (sub as u64 | 1 << SUB_SHIFT) << (doubling - 1),
    };
    units << UNIT_SHIFT
}

/// From the shortest duration of a bucket to that of the next, in nanoseconds.
#[must_use]
pub const fn width_ns(bucket: usize) -> u64 {
    lowest_ns(bucket + 1) - lowest_ns(bucket)
}

/// The logarithm, rounded down, of a duration in units, at least [`SUB_SHIFT`]; of one that is not too long to be told
/// apart. Programs have no instruction for it, and durations are not for a processor to predict: so there is no branch.
#[inline(always)]
const fn log2(ns: u64) -> u64 {
    let mut left = ns | 1 << (UNIT_SHIFT + SUB_SHIFT);
    let mut log = 0;
    let mut step = 16;
    while step > 0 {
        // The sign bit of a difference. In nanoseconds: if the compiler knew leading zeros, it would make a branch of it.
        let more = ((1u64 << (step + UNIT_SHIFT as u64)) - 1).wrapping_sub(left) >> 63;
        left >>= more * step;
        log += more * step;
        step /= 2;
    }
    log
}

const _: () = assert!(lowest_ns(BUCKETS) == TOO_LONG << UNIT_SHIFT);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_holds_what_lies_between_its_bounds() {
        for index in 0..BUCKETS {
            let (low, next) = (lowest_ns(index), lowest_ns(index + 1));
            assert!(low < next, "bucket {index}");
            assert_eq!(bucket(low), index);
            assert_eq!(bucket((low + next) / 2), index);
            assert_eq!(bucket(next - 1), index);
        }
        assert_eq!(bucket(lowest_ns(BUCKETS)), BUCKETS - 1, "too long");
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_middle_is_a_sixteenth_off_at_most() {
        for index in 0..BUCKETS {
            let (low, half) = (lowest_ns(index), width_ns(index) / 2);
            let bound = if low < 512 { 32 } else { low / 16 };
            assert!(half <= bound, "bucket {index}: {half} of {low}");
        }
    }

    #[test]
    fn a_full_bucket_stays_full() {
        let mut summary = Summary { count: 0, total_ns: 0, max_ns: 0 };
        let mut buckets = [0; BUCKETS];
        buckets[bucket(1000)] = u32::MAX;
        record(&mut summary, &mut buckets, 1000);
        record(&mut summary, &mut buckets, 3000);
        assert_eq!((buckets[bucket(1000)], buckets[bucket(3000)]), (u32::MAX, 1));
        assert_eq!(summary, Summary { count: 2, total_ns: 4000, max_ns: 3000 });
    }
}
