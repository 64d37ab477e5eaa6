//! A plan that does not fit, or that somebody or something is not where it says; each with the command that mends it by the same plan.

use super::{Finding, shell};
use crate::core::{
    idset::CpuSet,
    units::{many, share},
};

/// Commands about one plan: with the flags that it was asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    flags: String,
}

impl Commands {
    /// For a plan with these flags; without any there is a place for them.
    #[must_use]
    pub fn new(flags: &[String]) -> Self {
        Self { flags: if flags.is_empty() { "--config FILE".to_owned() } else { shell(flags) } }
    }

    /// `numa-agent bind --apply --config x.json` for `bind --apply`.
    #[must_use]
    pub fn with(&self, command: &str) -> String {
        format!("numa-agent {command} {}", self.flags)
    }
}

/// No plan can be made.
#[must_use]
pub fn unfit(why: &str, commands: &Commands) -> Finding {
    Finding::new(
        "plan",
        why,
        format!(
            "{} # says so too: change the configuration or the machine until it plans",
            commands.with("bind")
        ),
    )
}

/// What a plan had to give up, or what is odd about what it is made of.
#[must_use]
pub fn shortcoming(warning: &str, commands: &Commands) -> Finding {
    Finding::new(
        "plan",
        warning,
        format!(
            "{} # shows the plan and what it gives up: change the configuration until there is nothing",
            commands.with("bind")
        ),
    )
}

/// Nobody is in a group.
#[must_use]
pub fn nobody(patterns: &[&str], commands: &Commands) -> Finding {
    let by = match patterns {
        [] => "there are no patterns".to_owned(),
        _ => format!("the patterns are {}", patterns.join(", ")),
    };
    Finding::new(
        "processes",
        format!("no process of a serving instance runs that the plan's patterns and pids match; {by}"),
        format!(
            "{} # lists who matches: start the service, or correct group_patterns (--group-pattern)",
            commands.with("bind")
        ),
    )
}

/// Pids that were asked for and are nobody's.
#[must_use]
pub fn unmet(pids: &[u32]) -> Finding {
    let all = pids.iter().map(u32::to_string).collect::<Vec<_>>();
    Finding::new(
        "processes",
        format!("{} asked for by pid do not run: {}", many(pids.len(), "process", "es"), all.join(", ")),
        "# look their pids up anew, or have them found by group_patterns (--group-pattern)",
    )
}

/// Threads are born faster than scans find them.
#[must_use]
pub fn unsettled(commands: &Commands) -> Finding {
    Finding::new(
        "processes",
        "new threads turned up in each scan",
        format!(
            "{} # binds threads as they are born; check again when the service is up",
            commands.with("run")
        ),
    )
}

/// A group without forward threads: `names` are those that there are, `more` whether there are others. `devices`: a file says who is one, too.
#[must_use]
pub fn no_forward(group: &str, patterns: &[&str], names: &[&str], more: bool, pid: u32) -> Finding {
    Finding::new(
        "forward",
        format!(
            "{group}: no thread's name matches {}; the names there are: {}{}",
            patterns.join(", "),
            names.join(", "),
            if more { ", .." } else { "" }
        ),
        format!(
            "cat /proc/{pid}/task/*/comm # shows the names: give --forward-thread-pattern REGEX (forward_thread_patterns). If all are called alike, it is Python before 3.14, which keeps threads' names to itself: have each call libc's prctl(PR_SET_NAME), or give the device that they use (forward_thread_devices)"
        ),
    )
}

/// Who the forward threads are is not known of all: `what` depends on it.
#[must_use]
pub fn unseen(what: &str, threads: u64) -> Finding {
    Finding::new(
        "forward",
        format!(
            "{what}: not judged, because the agent knows {} by the device that they use than it lists",
            many(threads, "more forward thread", "s")
        ),
        "numa-agent watch # tells how many threads are off plan, of all: the agent puts them back",
    )
}

/// A thread that may run elsewhere than planned. `thread` says which; `actual` is `None` where it cannot be read.
#[must_use]
pub fn strayed(thread: &str, planned: &CpuSet, actual: Option<&CpuSet>, commands: &Commands) -> Finding {
    let actual = actual.map_or("unreadable".to_owned(), ToString::to_string);
    Finding::new(
        "affinity",
        format!("{thread}: planned {planned}, may run on {actual}"),
        commands.with("bind --apply"),
    )
}

/// A real-time or deadline thread, which is left where it is.
#[must_use]
pub fn spared(thread: &str, class: &str, tid: u32, planned: &CpuSet, actual: &CpuSet) -> Finding {
    Finding::new(
        "affinity",
        format!(
            "{thread}: spared, because it is {class} and stays where who made it so has put it; planned {planned}, may run on {actual}"
        ),
        format!("taskset -pc {planned} {tid} # puts it there, if whoever made it {class} agrees"),
    )
}

/// The memory of a process cannot be read.
#[must_use]
pub fn memory_unknown(process: &str, why: &str) -> Finding {
    Finding::new(
        "memory",
        format!("{process}: its memory is not known: {why}"),
        "# run it as root, while the process runs",
    )
}

/// A process with another memory policy.
#[must_use]
pub fn other_policy(process: &str, planned: &str, has: &str, commands: &Commands) -> Finding {
    Finding::new(
        "memory",
        format!("{process}: planned {planned}, numa_maps says {has}"),
        format!(
            "{} # sets the policy of what runs, and moves its pages; what starts later gets it by numa-agent exec, or by memory.apply with hold",
            repair(commands)
        ),
    )
}

/// Pages that are not where they are planned. `found` is [`spread`]'s.
#[must_use]
pub fn pages(found: String, commands: &Commands) -> Finding {
    Finding::new("memory", found, repair(commands))
}

/// Where the pages of a process are.
#[must_use]
pub fn spread(process: &str, on_plan: Option<f64>, balance: Option<f64>) -> String {
    let even = balance
        .map_or(String::new(), |balance| format!(", the least of them has {balance:.2} of an even part"));
    format!("{process}: {} on the planned nodes{even}", on_plan.map_or("unknown".to_owned(), share))
}

fn repair(commands: &Commands) -> String {
    format!("{} --set-policy", commands.with("repair --apply"))
}

/// A thread that ran elsewhere. `ran` says for how long.
#[must_use]
pub fn ran_off(thread: &str, ran: &str, commands: &Commands) -> Finding {
    Finding::new("affinity", format!("{thread}: {ran} off its nodes"), commands.with("bind --apply"))
}

/// Nobody has looked where threads run.
#[must_use]
pub fn unobserved(commands: &Commands) -> String {
    format!("{} # or start the agent: {}", commands.with("check --observe 10s"), commands.with("run"))
}

/// Nobody ran while somebody looked.
pub const IDLE: &str = "# check while the service has something to do, or give a longer --observe";

/// Who looked could not tell.
pub const UNMEASURED: &str = "sudo numa-agent doctor # says whether the program switch is missing; with too many threads for one list, stop the agent and check with --observe 10s";

/// Nothing can be said before another item passes.
#[must_use]
pub fn first(item: &str) -> String {
    format!("# make {item} pass first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_flags_of_the_plan() {
        let flags = ["--config", "my file.json"].map(str::to_owned);
        assert_eq!(
            Commands::new(&flags).with("bind --apply"),
            "numa-agent bind --apply --config 'my file.json'"
        );
        assert_eq!(Commands::new(&[]).with("run"), "numa-agent run --config FILE");
    }
}
