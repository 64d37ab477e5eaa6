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
    let units = ns >> UNIT_SHIFT;
    if units >= TOO_LONG {
        return BUCKETS - 1;
    }
    let shift = log2((units as u32) | 1 << SUB_SHIFT) - SUB_SHIFT;
    ((shift << SUB_SHIFT) + (units as u32 >> shift)) as usize
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

/// The logarithm, rounded down, of a number that is not zero. Programs have no instruction for it.
#[inline(always)]
const fn log2(mut number: u32) -> u32 {
    let mut log = 0;
    if number >= 1 << 16 {
        number >>= 16;
        log += 16;
    }
    if number >= 1 << 8 {
        number >>= 8;
        log += 8;
    }
    if number >= 1 << 4 {
        number >>= 4;
        log += 4;
    }
    if number >= 1 << 2 {
        number >>= 2;
        log += 2;
    }
    if number >= 1 << 1 {
        log += 1;
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
