//! How busy the CPUs were: from two readings of `/proc/stat`.

use std::collections::BTreeMap;

use super::CpuLoad;

/// Time of each CPU since boot, in clock ticks: all of it, and what it was not idle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuTimes(BTreeMap<u32, Times>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    all: u64,
    busy: u64,
}

/// Which of a line's figures are all of its time: user, nice, system, idle, iowait, irq, softirq, steal. Guests' time is in
/// user and nice.
const ALL: usize = 8;
/// Those of idle time.
const IDLE: [usize; 2] = [3, 4];

impl CpuTimes {
    /// From the text of `/proc/stat`; offline CPUs have no line in it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let cpu = words.next()?.strip_prefix("cpu")?.parse().ok()?;
            let figures: Vec<u64> = words.take(ALL).map_while(|word| word.parse().ok()).collect();
            let idle = IDLE.iter().map(|index| figures.get(*index)).sum::<Option<u64>>()?;
            let all = figures.iter().sum::<u64>();
            Some((cpu, Times { all, busy: all - idle }))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The load since `before`. A CPU of which nothing is told (it was offline, or the interval is less than a clock tick) has none.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<CpuLoad> {
        let load = |(cpu, now): (&u32, &Times)| {
            let before = before.0.get(cpu)?;
            let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
            // Idle time can go back a little (proc_stat(5), of iowait).
            let busy = now.busy.saturating_sub(before.busy).min(all);
            Some(CpuLoad { cpu: *cpu, busy: busy as f64 / all as f64 })
        };
        self.0.iter().filter_map(load).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_not_idle() {
        let before = CpuTimes::parse(
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 0 10 100 0 0 0 0 0 0\ncpu7 0 0 0 50 50 0 0 0\nintr 5\n",
        );
        let now = CpuTimes::parse(
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 30 0 20 160 0 3 3 4 20 0\ncpu7 0 0 0 90 10 0 0 0\ncpu9 1 1 1 1 1 1 1 1\n",
        );
        let load = |cpu, busy| CpuLoad { cpu, busy };
        assert_eq!(now.since(&before), [load(0, 0.4)], "of CPU 7 no time went by, CPU 9 is new");
        let later = CpuTimes::parse("cpu0 30 0 20 170 0 3 3 4 20 0\ncpu7 5 0 0 90 8 0 0 0\n");
        assert_eq!(later.since(&now), [load(0, 0.0), load(7, 1.0)]);
    }

    #[test]
    fn what_is_no_line_of_a_cpu_is_passed_over() {
        for text in ["", "cpu0", "cpu0 1 2 3", "cpux 1 2 3 4 5 6 7 8", "cpu0 a b c d e f g h"] {
            assert_eq!(CpuTimes::parse(text), CpuTimes::default(), "{text}");
        }
    }
}
