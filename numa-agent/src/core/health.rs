//! Which kernel programs are in force, what that is worth, and what was lost: facts in, verdict and words out.

use std::fmt;

use numa_ebpf::{counter, record::kind};
use serde_json::{Value, json};

/// Instructions that the verifier goes through for one program, at most (`BPF_COMPLEXITY_LIMIT_INSNS`, since 5.2).
const VERIFIER_LIMIT: u32 = 1_000_000;

/// What became of one kernel program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramResult {
    /// Its name.
    pub name: &'static str,
    /// Whether the agent is of no use without it.
    pub required: bool,
    /// `Err`: why it is not attached.
    pub result: Result<(), String>,
    /// Instructions that the verifier went through to take it; `None` if it did not, or the kernel does not say: those
    /// before 5.16 (`verified_insns` of `struct bpf_prog_info`).
    pub verified: Option<u32>,
}

/// What the attached programs are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All are attached.
    Full,
    /// All required ones are.
    Degraded,
    /// A required one is not.
    Unusable,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::Unusable => "unusable",
        }
    }
}

/// The results of all programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// In the order they were attached.
    pub programs: Vec<ProgramResult>,
    /// Those that only a tap needs; none where nobody asked for one.
    pub tap: Vec<ProgramResult>,
    /// Whether tasks can be held at exec, or why not; `None` where nobody asked for that.
    pub hold: Option<Result<(), String>>,
}

impl Health {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut failed = self.failed().peekable();
        if failed.peek().is_none() {
            Verdict::Full
        } else if failed.any(|program| program.required) {
            Verdict::Unusable
        } else {
            Verdict::Degraded
        }
    }

    /// The programs that are not attached.
    pub fn failed(&self) -> impl Iterator<Item = &ProgramResult> {
        self.programs.iter().filter(|program| program.result.is_err())
    }

    /// Whether the program of that name is attached.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.programs.iter().any(|program| program.name == name && program.result.is_ok())
    }

    /// What the tap's programs are worth, if there are any: `Degraded` where sends are told of by system calls.
    #[must_use]
    pub fn tap_verdict(&self) -> Option<Verdict> {
        let attached =
            |name: &str| self.tap.iter().any(|program| program.name == name && program.result.is_ok());
        let mut calls =
            self.tap.iter().filter(|program| !["tap_receive", "tap_send"].contains(&program.name)).peekable();
        let by_calls = calls.peek().is_some() && calls.all(|program| program.result.is_ok());
        match (attached("tap_receive"), attached("tap_send")) {
            _ if self.tap.is_empty() => None,
            (true, true) => Some(Verdict::Full),
            (true, false) if by_calls => Some(Verdict::Degraded),
            _ => Some(Verdict::Unusable),
        }
    }

    /// One line: how many are attached, and each failure's reason. Of the tap only if it is in no way.
    #[must_use]
    pub fn summary(&self) -> String {
        let words = summary(self.verdict(), &self.programs);
        match self.tap_verdict() {
            Some(verdict @ Verdict::Unusable) => format!("{words}; the tap: {}", summary(verdict, &self.tap)),
            _ => words,
        }
    }

    /// Which program the verifier had most work with, where the kernel tells.
    #[must_use]
    pub fn hardest(&self) -> Option<String> {
        let hardest = self.programs.iter().max_by_key(|program| program.verified)?;
        let (name, verified) = (hardest.name, hardest.verified?);
        Some(format!(
            "the verifier had most work with {name}, {verified} instructions of the {VERIFIER_LIMIT} allowed"
        ))
    }

    /// The same of the tap's programs, if there are any.
    #[must_use]
    pub fn tap_summary(&self) -> Option<String> {
        let words = summary(self.tap_verdict()?, &self.tap);
        Some(words)
    }

    /// `{"verdict": "full|degraded|unusable", "programs": {"fork": "attached", "migrate": "failed: .."},
    /// "verified_instructions": {"fork": 300, "migrate": null}}`, with the same of the tap as `tap` if there is one.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = json(self.verdict(), &self.programs);
        if let Some(verdict) = self.tap_verdict() {
            all["tap"] = json(verdict, &self.tap);
        }
        all
    }
}

fn summary(verdict: Verdict, programs: &[ProgramResult]) -> String {
    let all = programs.len();
    let reasons: Vec<String> = programs
        .iter()
        .filter_map(|program| {
            let why = program.result.as_ref().err()?;
            Some(format!("{}{} ({why})", program.name, if program.required { ", required" } else { "" }))
        })
        .collect();
    if reasons.is_empty() {
        return format!("all {all} attached");
    }
    format!("{}, {} of {all} attached, without {}", verdict.word(), all - reasons.len(), reasons.join("; "))
}

fn json(verdict: Verdict, programs: &[ProgramResult]) -> Value {
    let each = |value: fn(&ProgramResult) -> Value| -> Value {
        programs.iter().map(|program| (program.name.to_owned(), value(program))).collect()
    };
    let result = |program: &ProgramResult| match &program.result {
        Ok(()) => json!("attached"),
        Err(why) => json!(format!("failed: {why}")),
    };
    json!({
        "verdict": verdict.word(), "programs": each(result),
        "verified_instructions": each(|program| json!(program.verified)),
    })
}

/// What the kernel programs could not tell, since they were loaded. Each number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropCounts([u64; counter::LOSSES]);

impl DropCounts {
    const NAMES: [&str; counter::LOSSES] = [
        "unmarked",
        "fork",
        "exec",
        "rename",
        "exit",
        "set_affinity",
        "migrate",
        "use_device",
        "unseen_set_affinity",
        "not_measured",
    ];

    /// The sum over the CPUs' counters.
    pub fn sum<'a>(cpus: impl IntoIterator<Item = &'a counter::Counters>) -> Self {
        let mut total = [0; counter::LOSSES];
        for cpu in cpus {
            total.iter_mut().zip(cpu).for_each(|(total, cpu)| *total += cpu);
        }
        Self(total)
    }

    /// Each counter's name and value: events of a kind that the full ring buffer refused; `unmarked`: tasks for which
    /// there was no room in the table of marked tasks; `unseen_set_affinity`: calls there was no room to
    /// follow, or by a marked task in a container on a task that could not be found; `not_measured`: marked tasks for whose
    /// account there was no room.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }

    /// All losses.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Whether something was lost that only a scan makes good. A lost migration is only missing from the log, the
    /// account has it; a task without an account is managed like any other.
    #[must_use]
    pub fn state_lost(&self) -> bool {
        self.total() > self.0[kind::MIGRATE as usize] + self.not_measured()
    }

    /// What figures may be too low by, and what is only missing from the log.
    #[must_use]
    pub fn apart(&self) -> [Self; 2] {
        let mut detail = Self::default();
        detail.0[kind::MIGRATE as usize] = self.0[kind::MIGRATE as usize];
        [self.since(&detail), detail]
    }

    /// Marked tasks for whose account there was no room.
    #[must_use]
    pub fn not_measured(&self) -> u64 {
        self.0[counter::NO_ACCOUNT]
    }

    /// Whether the table of marked tasks was full.
    #[must_use]
    pub fn marks_full(&self) -> bool {
        self.0[counter::MARKS_FULL] > 0
    }

    /// What was lost after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index].saturating_sub(before.0[index])))
    }

    /// One number per name, and their `total`.
    #[must_use]
    pub fn json(&self) -> Value {
        let total = ("total", self.total());
        Value::Object(
            self.iter().chain([total]).map(|(name, value)| (name.to_owned(), value.into())).collect(),
        )
    }
}

/// Threads that were born where they belong while the ring had little room left, since the programs were loaded: nobody was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Untold {
    /// Those that live, and of which nobody has heard otherwise.
    pub living: u64,
    /// Those that have ended without that.
    pub ended: u64,
    /// CPU time of these, in nanoseconds.
    pub run_ns: u64,
}

impl Untold {
    /// From the CPUs' counters; `heard_of`: of so many of them somebody has heard.
    pub fn sum<'a>(cpus: impl IntoIterator<Item = &'a counter::Counters>, mut heard_of: u64) -> Self {
        let (mut born, mut untold) = (0, Self::default());
        for cpu in cpus {
            born += cpu[counter::UNTOLD_BIRTHS];
            heard_of += cpu[counter::UNTOLD_HEARD];
            untold.ended += cpu[counter::UNTOLD_ENDS];
            untold.run_ns += cpu[counter::UNTOLD_RUN_NS];
        }
        Self { living: born.saturating_sub(untold.ended + heard_of), ..untold }
    }
}

impl fmt::Display for DropCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("nothing");
        }
        let lost = self.iter().filter(|(_, value)| *value > 0);
        let words: Vec<String> = lost.map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(results: &[(&'static str, bool, bool)]) -> Health {
        let program = |&(name, required, attached): &(&'static str, bool, bool)| {
            let result = if attached { Ok(()) } else { Err("ENOTSUPP".to_owned()) };
            ProgramResult { name, required, verified: attached.then_some(300), result }
        };
        Health { programs: results.iter().map(program).collect(), ..Health::default() }
    }

    #[test]
    fn a_tap_takes_receives_and_one_way_of_sends() {
        let of = |results: &[(&'static str, bool, bool)]| Health {
            tap: health(results).programs,
            ..Health::default()
        };
        let receive = ("tap_receive", true, true);
        let calls = [("tap_write_exit", false, true), ("tap_write_enter", false, true)];
        assert_eq!(of(&[]).tap_verdict(), None);
        assert_eq!(of(&[receive, ("tap_send", false, true)]).tap_verdict(), Some(Verdict::Full));
        assert_eq!(of(&[receive]).tap_verdict(), Some(Verdict::Unusable));
        let mut old = of(&[receive, ("tap_send", false, false), calls[0], calls[1]]);
        assert_eq!(old.tap_verdict(), Some(Verdict::Degraded));
        assert_eq!(
            old.tap_summary().as_deref(),
            Some("degraded, 3 of 4 attached, without tap_send (ENOTSUPP)")
        );
        assert_eq!(old.hardest(), None);
        // A tap is nothing that the agent is worth less without.
        assert_eq!((old.verdict(), old.summary().as_str()), (Verdict::Full, "all 0 attached"));
        assert_eq!(
            old.json()["tap"]["verified_instructions"],
            json!({
                "tap_receive": 300, "tap_send": null, "tap_write_exit": 300, "tap_write_enter": 300,
            })
        );
        old.tap[3].result = Err("EPERM".to_owned());
        assert_eq!(old.tap_verdict(), Some(Verdict::Unusable));
        assert!(
            old.summary().contains("the tap: unusable, 2 of 4 attached, without tap_send"),
            "{}",
            old.summary()
        );
        old.tap[0].result = Err("EPERM".to_owned());
        old.tap[1].result = Ok(());
        assert_eq!(old.tap_verdict(), Some(Verdict::Unusable));
    }

    #[test]
    fn the_verdict_follows_the_required_programs() {
        let full = health(&[("fork", true, true), ("migrate", false, true)]);
        assert_eq!((full.verdict(), full.summary().as_str()), (Verdict::Full, "all 2 attached"));
        let degraded = health(&[("fork", true, true), ("migrate", false, false)]);
        assert_eq!(degraded.verdict(), Verdict::Degraded);
        assert_eq!(
            degraded.hardest().as_deref(),
            Some("the verifier had most work with fork, 300 instructions of the 1000000 allowed")
        );
        assert_eq!(degraded.summary(), "degraded, 1 of 2 attached, without migrate (ENOTSUPP)");
        let unusable = health(&[("fork", true, false), ("migrate", false, false)]);
        assert_eq!(unusable.verdict(), Verdict::Unusable);
        assert_eq!(unusable.json()["programs"]["fork"], "failed: ENOTSUPP");
        assert_eq!(unusable.json()["verified_instructions"]["fork"], Value::Null);
        assert_eq!(
            (degraded.json()["verified_instructions"]["fork"].as_u64(), degraded.json().get("tap")),
            (Some(300), None)
        );
        assert!(unusable.summary().contains("fork, required (ENOTSUPP)"));
    }

    #[test]
    fn lost_moves_are_missing_from_the_log_only() {
        let mut counters = counter::Counters::default();
        (counters[kind::MIGRATE as usize], counters[kind::EXIT as usize]) = (7, 2);
        let [lost, detail] = DropCounts::sum([&counters]).apart();
        assert_eq!((lost.total(), lost.json()["exit"].as_u64()), (2, Some(2)));
        assert_eq!((detail.total(), detail.json()["migrate"].as_u64()), (7, Some(7)));
    }

    #[test]
    fn who_nobody_was_told_of_lives_until_it_ends_or_is_heard_of() {
        let mut cpus = [counter::Counters::default(); 2];
        (cpus[0][counter::UNTOLD_BIRTHS], cpus[1][counter::UNTOLD_ENDS]) = (9, 4);
        cpus[1][counter::UNTOLD_RUN_NS] = 70;
        assert_eq!(Untold::sum(&cpus, 3), Untold { living: 2, ended: 4, run_ns: 70 });
        cpus[0][counter::UNTOLD_HEARD] = 1;
        assert_eq!(Untold::sum(&cpus, 3).living, 1, "the kernel side has told of it by another event");
        assert_eq!(Untold::sum(&cpus, 6).living, 0, "one has ended as it was heard of");
        assert_eq!(DropCounts::sum(&cpus).total(), 0, "nothing is lost");
    }

    #[test]
    fn losses_are_summed_over_cpus_and_named_by_kind() {
        let mut cpu = counter::Counters::default();
        cpu[kind::EXEC as usize] = 2;
        cpu[counter::MARKS_FULL] = 1;
        let before = DropCounts::sum([&cpu]);
        let after = DropCounts::sum([&cpu, &cpu]);
        assert_eq!(after.to_string(), "unmarked 2, exec 4");
        assert_eq!(after.since(&before).json()["exec"], 2);
        assert_eq!(after.since(&after).to_string(), "nothing");
        let mut migrate = counter::Counters::default();
        migrate[kind::MIGRATE as usize] = 7;
        assert!(!DropCounts::sum([&migrate]).state_lost() && after.state_lost());
    }
}
