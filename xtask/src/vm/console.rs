//! What a guest says on its console: the lines of `tests/src/guest.rs`, and the kernel's cries. No I/O.

use std::fmt;

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Ok,
    Failed,
    Skipped,
    /// It is about machines of another shape.
    Elsewhere,
}

impl End {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "failed" => Self::Failed,
            "skipped" => Self::Skipped,
            "elsewhere" => Self::Elsewhere,
            _ => return None,
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::Elsewhere => "-",
        })
    }
}

/// One test that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    pub name: String,
    pub end: End,
    pub millis: u64,
    /// What it said, if it is not simply fine.
    pub said: Vec<String>,
}

/// What has been heard of a guest so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// The kernel's release, once it is up.
    pub kernel: Option<String>,
    pub tests: Vec<Tested>,
    /// The test that has begun and not ended.
    pub running: Option<String>,
    /// The guest has said all: it agrees with what was counted here.
    pub done: bool,
    /// What makes the run a failure, however its tests end: an oops, a panic, a verdict that does not fit.
    pub broken: Vec<String>,
    /// What is worth knowing on an emulated machine, and no failure: stalls, soft lockups, warnings.
    pub complaints: Vec<String>,
    said: Vec<String>,
}

/// What the kernel says when it stalls, which an emulated machine on a busy host may, and when it wonders.
const COMPLAINTS: [&str; 5] =
    ["soft lockup", "self-detected stall", "detected stalls", "blocked for more than", WARNING];
/// What it says when something is broken.
const CRIES: [&str; 7] = [
    "Kernel panic",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "invalid opcode:",
    "general protection fault",
    "Internal error:",
];
/// `WARNING: CPU: 1 PID: 2 at FILE:LINE FUNCTION`, since 6.19 `WARNING: FILE:LINE at FUNCTION, CPU#1`.
const WARNING: &str = "WARNING: ";
/// Where it wonders about what the agent has to do with.
const OURS: [&str; 3] = ["kernel/bpf/", "kernel/sched/", "mm/"];

/// Whether a line of the kernel's is a warning from a file that is in one of [`OURS`].
fn is_about_us(line: &str) -> bool {
    let warning = line.split_once(WARNING).map_or("", |(_, warning)| warning);
    warning.split(' ').any(|word| word.contains(".c:") && OURS.iter().any(|dir| word.starts_with(dir)))
}

impl Console {
    /// Of a guest that could not be started, or not be heard.
    pub fn unheard(why: String) -> Self {
        Self { broken: vec![why], ..Self::default() }
    }

    /// Takes a line.
    pub fn line(&mut self, line: &str) {
        // The kernel may have begun the line.
        let (kernels, said) = match line.split_once("vm: ") {
            Some((before, said)) if !before.ends_with(char::is_alphanumeric) => (before, Some(said)),
            _ => (line, None),
        };
        if is_about_us(kernels) {
            self.broken.push(line.trim().to_owned());
        } else if COMPLAINTS.iter().any(|word| kernels.contains(word)) {
            self.complaints.push(line.trim().to_owned());
        } else if CRIES.iter().any(|word| kernels.contains(word)) {
            self.broken.push(line.trim().to_owned());
        }
        if let Some(said) = said {
            self.said(said.trim_end());
        }
    }

    fn said(&mut self, said: &str) {
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "up" => self.kernel = rest.split(' ').next().map(str::to_owned),
            "begin" => self.running = Some(rest.to_owned()),
            "|" => self.said.push(rest.to_owned()),
            "verdict" => self.verdict(rest),
            "broken:" => self.broken.push(rest.to_owned()),
            _ => match (End::parse(word), rest.rsplit_once(' ')) {
                (Some(end), Some((name, millis))) => {
                    self.running = None;
                    let said = std::mem::take(&mut self.said);
                    let millis = millis.parse().unwrap_or(0);
                    self.tests.push(Tested { name: name.to_owned(), end, millis, said });
                }
                _ => self.broken.push(format!("not understood: {said:?}")),
            },
        }
    }

    fn verdict(&mut self, counts: &str) {
        let ours =
            [End::Ok, End::Failed, End::Skipped, End::Elsewhere].map(|end| self.count(end).to_string());
        if counts == ours.join(" ") {
            self.done = true;
        } else {
            self.broken.push(format!("the guest counts {counts}, and {} was heard", ours.join(" ")));
        }
    }

    /// How many tests ended so.
    pub fn count(&self, end: End) -> usize {
        self.tests.iter().filter(|test| test.end == end).count()
    }

    /// Why this run is no result, whatever its tests say.
    pub fn fault(&self) -> Option<String> {
        let at = self.running.as_ref().map(|test| format!(", in {test}")).unwrap_or_default();
        match (self.broken.first(), self.done) {
            (Some(broken), _) => Some(format!("{broken}{at}")),
            (None, false) if self.kernel.is_none() => Some("it did not come up".to_owned()),
            (None, false) => Some(format!("it ended without a verdict{at}")),
            (None, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Console {
        let mut console = Console::default();
        text.lines().for_each(|line| console.line(line));
        console
    }

    #[test]
    fn tests_are_counted_with_what_they_said() {
        let console = heard(
            "[    0.1] noise\nvm: up 5.10.0-46-cloud-amd64 a3-mini\nvm: begin guest::a\nvm: ok guest::a 120\r\n\
             vm: begin guest::b\nvm: | thread panicked: x\nvm: failed guest::b 7\n[ 2.1] half a line vm: begin guest::c\n\
             vm: | ELSEWHERE: c: two sockets\nvm: elsewhere guest::c 3\nvm: verdict 1 1 0 1",
        );
        assert_eq!(console.kernel.as_deref(), Some("5.10.0-46-cloud-amd64"));
        assert_eq!((console.done, console.fault(), console.running.clone()), (true, None, None));
        let [a, b, c] = &console.tests[..] else { panic!("{console:?}") };
        assert_eq!((a.end, a.millis, a.said.len()), (End::Ok, 120, 0));
        assert_eq!((b.end, b.said.as_slice()), (End::Failed, &["thread panicked: x".to_owned()][..]));
        assert_eq!((c.name.as_str(), c.end), ("guest::c", End::Elsewhere));
    }

    #[test]
    fn silence_a_panic_and_a_lost_line_are_faults() {
        assert_eq!(heard("noise").fault().as_deref(), Some("it did not come up"));
        let hung = heard("vm: up 6.1 one\nvm: begin guest::a");
        assert_eq!(hung.fault().as_deref(), Some("it ended without a verdict, in guest::a"));
        let oops = heard(
            "vm: up 6.1 one\nvm: begin guest::a\n[ 3.2] BUG: unable to handle page fault\nvm: ok guest::a 1\nvm: verdict 1 0 0 0",
        );
        assert!(oops.fault().unwrap().contains("page fault"));
        assert!(heard("[ 1.0] BUG: x vm: up 6.1 one").fault().unwrap().contains("BUG: x"));
        assert!(heard("kvm: no hardware support").fault().unwrap().contains("did not come up"));
        let lost = heard("vm: up 6.1 one\nvm: verdict 1 0 0 0");
        assert!(lost.fault().unwrap().contains("counts 1 0 0 0"));
    }

    #[test]
    fn a_bug_and_a_warning_about_what_we_do_are_faults() {
        for cry in [
            "[ 3.2] kernel BUG at mm/slub.c:448!",
            "[ 3.2] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
            "[ 3.2] WARNING: CPU: 3 PID: 71 at kernel/sched/core.c:2120 dequeue_task+0x4",
            "[ 3.2] WARNING: kernel/bpf/verifier.c:2915 at reg_bounds_sanity_check+0xfa, CPU#3: numa-agent/71",
        ] {
            let console = heard(&format!("vm: up 6.1 one\n{cry}\nvm: verdict 0 0 0 0"));
            assert_eq!(console.fault().as_deref(), Some(cry));
        }
        for complaint in [
            "[ 3.2] WARNING: CPU: 3 PID: 71 at drivers/pci/pci.c:9 x+0x4",
            "[ 3.2] WARNING: arch/x86/mm/x.c:9 at x+0x4, CPU#3: y/71",
        ] {
            let console = heard(&format!("vm: up 6.1 one\n{complaint}\nvm: verdict 0 0 0 0"));
            assert_eq!((console.fault(), &console.complaints[..]), (None, &[complaint.to_owned()][..]));
        }
    }

    #[test]
    fn a_stall_is_told_and_no_fault() {
        let console = heard(
            "vm: up 6.1 one\n[9.1] watchdog: BUG: soft lockup - CPU#3 stuck for 23s!\nvm: verdict 0 0 0 0",
        );
        assert_eq!((console.fault(), console.complaints.len()), (None, 1));
    }
}
