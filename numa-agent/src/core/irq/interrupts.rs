//! `/proc/interrupts` as a value. The numbers and the names in it are all that is used: what a driver's name looks like is its own choice.
//!
//! Total: a line that makes no sense is left out. Formats: `kernel/irq/proc.c` (`show_interrupts`), 5.10 to 7.x.

use std::collections::BTreeMap;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Interrupts with a number.
    pub lines: BTreeMap<u32, Line>,
    /// The others (timers, calls between CPUs, errors): their descriptions, by label.
    pub local: BTreeMap<String, String>,
}

/// One numbered interrupt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// How often it came, on all CPUs that are online.
    pub count: u64,
    /// What drivers registered for it; empty where nobody did.
    pub name: String,
}

/// Reads the file's text. The heading has one `CPUn` for each CPU that is online; so many counts each line has.
#[must_use]
pub fn parse(text: &str) -> Interrupts {
    let mut found = Interrupts::default();
    let mut lines = text.lines();
    let columns = lines.next().unwrap_or_default().split_whitespace().count();
    for line in lines {
        let Some((label, rest)) = line.split_once(':') else { continue };
        let (counts, rest) = counts(rest, columns);
        let label = label.trim();
        match label.parse::<u32>() {
            // A line that breaks off within the counts says nothing of its interrupt.
            Ok(number) if counts.len() == columns => {
                let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
                found.lines.insert(number, Line { count, name: name(rest).to_owned() });
            }
            Err(_) if !label.is_empty() => {
                found.local.insert(label.to_owned(), rest.trim().to_owned());
            }
            _ => {}
        }
    }
    found
}

/// Up to `most` numbers, and what comes after them.
fn counts(mut rest: &str, most: usize) -> (Vec<u64>, &str) {
    let mut counts = Vec::new();
    while counts.len() < most {
        let text = rest.trim_start();
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let Ok(count) = text[..end].parse() else { break };
        counts.push(count);
        rest = &text[end..];
    }
    (counts, rest)
}

/// Behind the chip, the hardware's number and the trigger, which are padded to columns, come two spaces and the names. Without names there
/// is padding alone, or nothing.
fn name(rest: &str) -> &str {
    rest.rsplit_once("  ")
        .map_or("", |(before, name)| if before.trim().is_empty() { "" } else { name })
        .trim()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const X86_64: &str = "            CPU0       CPU1       
  1:          0          9  IO-APIC   1-edge      i8042
  4:          0         15  IO-APIC   4-edge      ttyS0
 16:          3          1  IO-APIC  16-fasteoi   ehci_hcd:usb1, i915
 24:          0          0  IO-APIC   7-edge    
 38:          0      81381 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
129:          7          5 IR-PCI-MSI 524289-edge      nvme0q1
NMI:          0          0   Non-maskable interrupts
LOC:   20494565   20699169   Local timer interrupts
ERR:          0
";

    const AARCH64: &str = "           CPU0       CPU2       CPU3       
  9:          0          0          0     GICv3  25 Level     vgic
 11:      21021      20213      19999     GICv3  30 Level     arch_timer
2753:   18000000          0          1   ITS-MSI 101187584 Edge      sq_send_trigger_irq
2754:          0   17999999          0   ITS-MSI 101187585 Edge      cq_update_irq
2760:          0          0          0   ITS-pMSI   0 Edge      arm-smmu-v3-evtq
IPI0:      1000       1001       1002       Rescheduling interrupts
Err:          0
";

    fn line(count: u64, name: &str) -> Line {
        Line { count, name: name.to_owned() }
    }

    #[test]
    fn x86_64() {
        let found = parse(X86_64);
        assert_eq!(found.lines[&38], line(81381, "virtio2-input.0"));
        assert_eq!(found.lines[&16], line(4, "ehci_hcd:usb1, i915"));
        assert_eq!(found.lines[&129], line(12, "nvme0q1"));
        assert_eq!(found.lines[&24], line(0, ""));
        assert_eq!(found.lines.len(), 6);
        assert_eq!(found.local["LOC"], "Local timer interrupts");
        assert_eq!(found.local["ERR"], "", "it has one count for all CPUs, and no words");
    }

    #[test]
    fn aarch64_with_a_cpu_offline() {
        let found = parse(AARCH64);
        assert_eq!(found.lines[&2753], line(18_000_001, "sq_send_trigger_irq"));
        assert_eq!(found.lines[&2754], line(17_999_999, "cq_update_irq"));
        assert_eq!(found.lines[&11], line(61_233, "arch_timer"));
        assert_eq!(found.local["IPI0"], "Rescheduling interrupts");
        assert_eq!(found.lines.len(), 5);
    }

    #[test]
    fn what_breaks_off_is_left_out() {
        let cut = X86_64.find("81381").unwrap();
        let found = parse(&X86_64[..cut]);
        assert_eq!(found.lines.keys().copied().collect::<Vec<_>>(), [1, 4, 16, 24]);
        assert_eq!(parse(""), Interrupts::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,300}", cut in 0usize..2000, more in ".{0,40}") {
            let _ = parse(&text);
            let mut damaged = X86_64.to_owned();
            damaged.insert_str(damaged.floor_char_boundary(cut.min(X86_64.len())), &more);
            let _ = parse(&damaged);
        }
    }
}
