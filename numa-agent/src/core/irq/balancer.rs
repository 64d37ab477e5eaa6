//! What is said to irqbalance, and what it answers (`sock_handle` in its `irqbalance.c`, 1.3 to 1.9).

use std::collections::BTreeSet;

use crate::core::idset::CpuSet;

/// Asks for the settings.
pub const SETUP: &str = "setup";

/// The longest command that it takes.
const MAX_COMMAND: usize = 16_383;

/// The interrupts that were banned by command line or socket, from the answer to [`SETUP`]; `None`: that is no answer.
///
/// `SLEEP 10 IRQ 24 LOAD 0 DIFF 0 CLASS 4 BANNED 00000000`
#[must_use]
pub fn banned(answer: &str) -> Option<BTreeSet<u32>> {
    let words: Vec<&str> = answer.trim_end_matches('\0').split_whitespace().collect();
    if words.first() != Some(&"SLEEP") {
        return None;
    }
    let numbers = words.windows(2).filter(|pair| pair[0] == "IRQ").map(|pair| pair[1].parse().ok());
    numbers.collect()
}

/// The CPUs that it puts no interrupts on, by environment, socket or what isolates them, from the same answer; `None`: that is no answer.
#[must_use]
pub fn banned_cpus(answer: &str) -> Option<CpuSet> {
    let mut words = answer.trim_end_matches('\0').split_whitespace();
    words.next().filter(|word| *word == "SLEEP")?;
    CpuSet::from_mask(words.skip_while(|word| *word != "BANNED").nth(1)?).ok()
}

/// Replaces the ban list. `None`: more than it takes.
///
/// It reads numbers up to one that is none: IRQ 0, the timer of old PCs, cannot be told.
#[must_use]
pub fn ban(irqs: &BTreeSet<u32>) -> Option<String> {
    let numbers = list(&irqs.iter().copied().filter(|irq| *irq != 0).collect());
    let list = if numbers.is_empty() { "NONE".to_owned() } else { numbers };
    let command = format!("settings ban irqs {list}");
    (command.len() <= MAX_COMMAND).then_some(command)
}

/// A list as [`list`] writes it; words that are no numbers are left out.
#[must_use]
pub fn listed(text: &str) -> BTreeSet<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Numbers with blanks between them.
#[must_use]
pub fn list(irqs: &BTreeSet<u32>) -> String {
    irqs.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// The same as arguments of its command line, for one that has no socket.
#[must_use]
pub fn arguments(irqs: &BTreeSet<u32>) -> String {
    irqs.iter().map(|irq| format!("--banirq={irq}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_who_is_banned() {
        let answer =
            "SLEEP 10 IRQ 24 LOAD 0 DIFF 0 CLASS 4 IRQ 1311 LOAD 7 DIFF 1 CLASS 5 BANNED 00000000,00000003";
        assert_eq!(banned(answer), Some([24, 1311].into()));
        assert_eq!(banned_cpus(answer), "0-1".parse().ok());
        assert_eq!(banned_cpus("SLEEP 10 BANNED 00000001,00000000\0"), "32".parse().ok());
        assert_eq!(
            ["", "SLEEP 10", "SLEEP 10 BANNED x", "BANNED 0"].map(banned_cpus),
            [None, None, None, None]
        );
        assert_eq!(banned("SLEEP 10 BANNED 0"), Some(BTreeSet::new()));
        assert_eq!(banned("SLEEP 10 IRQ x LOAD"), None);
        assert_eq!(banned(""), None);
        assert_eq!(banned("TYPE 0 NUMBER 0"), None);
    }

    #[test]
    fn the_whole_list_is_sent_each_time() {
        assert_eq!(ban(&[30, 24].into()).unwrap(), "settings ban irqs 24 30");
        assert_eq!(ban(&BTreeSet::new()).unwrap(), "settings ban irqs NONE");
        assert_eq!(ban(&[0].into()).unwrap(), "settings ban irqs NONE", "0 would end the list");
        assert_eq!(ban(&(1000..6000).collect()), None);
        assert_eq!(arguments(&[24, 30].into()), "--banirq=24 --banirq=30");
    }
}
