//! Rules: which processes are part of a serving instance, which are background, which are left alone.
//!
//! One matcher serves the scan and the live events. That the agent itself never matches is its callers' part: they know
//! who it is.

use std::collections::BTreeMap;

use regex::Regex;

use super::{
    instance::GroupBy,
    rule::{Rule, RuleRole},
    settings::Settings,
    task::{ProcessFacts, ProcessRole, ThreadRole},
};

/// The facts beyond pid, comm and cmdline that the rules and the grouping look at: what a reader must fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// [`ProcessFacts::uid`], where no event told it.
    pub uid: bool,
    /// [`ProcessFacts::exe`].
    pub exe: bool,
    /// [`ProcessFacts::cgroup`].
    pub cgroup: bool,
    /// [`ProcessFacts::parent`].
    pub parent: bool,
    /// [`ProcessFacts::env`] of that variable.
    pub env: Option<String>,
    /// [`ProcessFacts::device_node`], of these device files.
    pub devices: Vec<String>,
    /// [`ProcessFacts::ancestors`] of every process; without it only of those that have no session.
    pub ancestors: bool,
}

/// The matcher: one for the scan and for live events.
#[derive(Debug, Clone)]
pub struct Rules {
    settings: Settings,
    /// The explicit pids; once pinned, with the start time of the process that was meant.
    pids: BTreeMap<u32, (ProcessRole, Pin)>,
}

/// Which process of a pid is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pin {
    /// Whichever has it.
    Any,
    /// The one that started then; `None`: it had gone when the pids were pinned.
    Started(Option<u64>),
}

impl Rules {
    /// The matcher for those settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let group = settings.group_pids.iter().map(|pid| (*pid, (ProcessRole::Group, Pin::Any)));
        let other = settings.other_pids.iter().map(|pid| (*pid, (ProcessRole::Other, Pin::Any)));
        let pids = group.chain(other).collect();
        Self { settings, pids }
    }

    /// The settings it was made from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ties the explicit pids to the processes that have them now, so that a later process with a recycled pid does
    /// not match. `start_time` tells a pid's ([`super::task::TaskId::start_time`]). Gives the pids that are not there.
    pub fn pin_pids(&mut self, start_time: impl Fn(u32) -> Option<u64>) -> Vec<u32> {
        for (pid, (_, pin)) in &mut self.pids {
            *pin = Pin::Started(start_time(*pid));
        }
        let gone = self.pids.iter().filter(|(_, (_, pin))| *pin == Pin::Started(None));
        gone.map(|(pid, _)| *pid).collect()
    }

    /// Whether a rule looks at a process's parent.
    #[must_use]
    pub fn needs_parents(&self) -> bool {
        self.settings.rules.iter().any(|rule| rule.parent.is_some())
    }

    /// What a reader must fetch for [`Rules::process_role`] and the grouping.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let any = |has: fn(&Rule) -> bool| self.settings.rules.iter().any(has);
        // All but `pid` and `tree`, which always tell, may fall back to `auto`.
        let auto = !matches!(self.settings.group_by, GroupBy::Tree | GroupBy::Pid);
        Needs {
            uid: any(|rule| rule.uid.is_some()),
            exe: any(|rule| rule.exe.is_some()),
            cgroup: auto || any(|rule| rule.cgroup.is_some()),
            parent: self.needs_parents(),
            env: match &self.settings.group_by {
                GroupBy::Env(name) => Some(name.clone()),
                _ => None,
            },
            devices: self.settings.forward_thread_devices.clone(),
            ancestors: matches!(self.settings.group_by, GroupBy::Tree)
                || !self.settings.descends_from.is_empty(),
        }
    }

    /// The role of a process; `None`: not ours. Explicit pids come first, then `rules` in order, then group patterns,
    /// then other patterns. Kernel threads never match, nor does `numa-agent exec` until it is the program that it starts. A rule does not match on a fact that could not be read.
    #[must_use]
    pub fn process_role(&self, process: &ProcessFacts) -> Option<ProcessRole> {
        if process.kernel_thread {
            return None;
        }
        if let Some(role) = self.explicit(process.pid, Some(process.start_time)) {
            return Some(role);
        }
        if self.descends(process) {
            return Some(ProcessRole::Group);
        }
        if is_launcher(process) {
            return None;
        }
        match self.settings.rules.iter().find(|rule| rule.holds(process, true) == Some(true)) {
            Some(rule) => rule.role.process_role(),
            None => self.by_pattern(process),
        }
    }

    /// Whether a process could have a role, judged by pid, comm, cmdline and uid alone, as an exec event has them: a
    /// fact that is `None`, and the command line if the event has only its beginning, counts as unknown. `false` is
    /// final, so `/proc` need not be read.
    #[must_use]
    pub fn may_match(&self, process: &ProcessFacts, cmdline_truncated: bool) -> bool {
        if process.kernel_thread {
            return false;
        }
        if self.explicit(process.pid, None).is_some() || !self.settings.descends_from.is_empty() {
            return true;
        }
        if is_launcher(process) {
            return false;
        }
        for rule in &self.settings.rules {
            match (rule.holds(process, !cmdline_truncated), rule.role) {
                (Some(true), RuleRole::Ignore) => return false,
                (Some(true) | None, RuleRole::Group | RuleRole::Other) => return true,
                (Some(false), _) | (None, RuleRole::Ignore) => {}
            }
        }
        let patterns = !self.settings.group_patterns.is_empty() || !self.settings.other_patterns.is_empty();
        if cmdline_truncated { patterns } else { self.by_pattern(process).is_some() }
    }

    /// The role of a thread named `comm` in a process of that role. Who uses a device that only forward threads use is one.
    #[must_use]
    pub fn thread_role(&self, process: ProcessRole, comm: &str, uses_device: bool) -> ThreadRole {
        match process {
            ProcessRole::Other => ThreadRole::Other,
            ProcessRole::Group if uses_device => ThreadRole::Forward,
            ProcessRole::Group if self.settings.forward_thread_patterns.iter().any(|r| r.is_match(comm)) => {
                ThreadRole::Forward
            }
            ProcessRole::Group => ThreadRole::Member,
        }
    }

    /// The role of an explicit pid; an unknown start time fits every one.
    fn explicit(&self, pid: u32, start_time: Option<u64>) -> Option<ProcessRole> {
        let (role, pin) = *self.pids.get(&pid)?;
        let meant = match pin {
            Pin::Any => true,
            Pin::Started(meant) => meant.is_some() && (start_time.is_none() || start_time == meant),
        };
        meant.then_some(role)
    }

    /// Whether it is one of those whose descendants are ours, or one of these. A parent that started after its child is
    /// another process by now that got a recycled pid.
    fn descends(&self, process: &ProcessFacts) -> bool {
        let roots = &self.settings.descends_from;
        let mut child = process.id();
        let real = process.ancestors.iter().take_while(|parent| {
            let older = parent.start_time <= child.start_time;
            child = **parent;
            older
        });
        roots.contains(&process.id())
            || (!roots.is_empty() && real.into_iter().any(|parent| roots.contains(parent)))
    }

    fn by_pattern(&self, process: &ProcessFacts) -> Option<ProcessRole> {
        let (group, other) = (&self.settings.group_patterns, &self.settings.other_patterns);
        if group.is_empty() && other.is_empty() {
            return None;
        }
        let subject = process.subject();
        let matches = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(&subject));
        if matches(group) { Some(ProcessRole::Group) } else { matches(other).then_some(ProcessRole::Other) }
    }
}

/// Whether it is `numa-agent exec ...`, which holds another program's command line and will be that in a moment.
fn is_launcher(process: &ProcessFacts) -> bool {
    process.comm == "numa-agent" && process.cmdline.split(' ').nth(1) == Some("exec")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::Overrides;

    fn rules(toml: &str) -> Rules {
        Rules::new(
            Settings::from_sources(Some(("t.toml", toml)), Overrides::default()).expect("a good config"),
        )
    }

    fn process(comm: &str, cmdline: &str) -> ProcessFacts {
        ProcessFacts {
            pid: 10,
            start_time: 7,
            comm: comm.into(),
            cmdline: cmdline.into(),
            ..Default::default()
        }
    }

    const GROUP: Option<ProcessRole> = Some(ProcessRole::Group);
    const OTHER: Option<ProcessRole> = Some(ProcessRole::Other);

    #[test]
    fn patterns_are_searched_in_comm_space_cmdline_and_group_comes_first() {
        let rules = rules("group_patterns = ['worker', '^py /x$']\nother_patterns = ['Motor', 'work']");
        for (comm, cmdline, role) in [
            ("worker_1", "", GROUP),
            ("python", "python -m worker", GROUP),
            ("py", "/x", GROUP),
            ("py", "/x y", None),
            ("Motor", "", OTHER),
            ("homework", "homework", OTHER),
            ("bash", "-c ls", None),
        ] {
            assert_eq!(rules.process_role(&process(comm, cmdline)), role, "{comm} {cmdline}");
            assert_eq!(rules.may_match(&process(comm, cmdline), false), role.is_some(), "{comm} {cmdline}");
        }
    }

    #[test]
    fn a_launcher_is_not_yet_what_it_starts() {
        let rules = rules("group_patterns = ['worker']");
        let launcher = process("numa-agent", "/usr/bin/numa-agent exec --group auto -- worker");
        assert_eq!(rules.process_role(&launcher), None);
        assert!(!rules.may_match(&launcher, false) && !rules.may_match(&launcher, true));
        for other in ["numa-agent jitter record -- worker", "numa-agent worker exec"] {
            assert_eq!(rules.process_role(&process("numa-agent", other)), GROUP, "{other}");
        }
        let by_pid = Rules::new(
            Settings::from_sources(Some(("t.toml", "group_pids = [10]")), Overrides::default()).unwrap(),
        );
        assert_eq!(by_pid.process_role(&launcher), GROUP);
    }

    #[test]
    fn pids_come_before_rules_before_patterns() {
        let rules = rules(
            "group_patterns = ['a']\ngroup_pids = [10]\nother_pids = [11]\n\
             rules = [{role = 'ignore', comm = 'ab'}, {role = 'other', comm = 'ac'}, {role = 'group', comm = 'a'}]",
        );
        let role = |pid, comm: &str| rules.process_role(&ProcessFacts { pid, ..process(comm, "") });
        assert_eq!(role(10, "ab"), GROUP);
        assert_eq!(role(11, "ac"), OTHER);
        assert_eq!(role(12, "ab"), None, "ignored, though a pattern matches");
        assert_eq!(role(12, "ac"), OTHER, "the first rule that matches decides");
        assert_eq!(role(12, "ad"), GROUP);
    }

    #[test]
    fn kernel_threads_never_match() {
        let rules =
            rules("group_patterns = ['worker']\ngroup_pids = [10]\nrules = [{role = 'group', uid = 0}]");
        let kernel = ProcessFacts { kernel_thread: true, ..process("kworker/0:1", "") };
        assert_eq!(rules.process_role(&kernel), None);
        assert!(!rules.may_match(&kernel, false));
        assert_eq!(rules.process_role(&ProcessFacts { kernel_thread: false, ..kernel }), GROUP);
    }

    #[test]
    fn all_conditions_of_a_rule_must_hold() {
        let rules = rules(
            "rules = [{role = 'group', comm = '^c$', cmdline = '^l$', exe = 'e', cgroup = 'g', parent = 'p q', uid = [1, 2]}]",
        );
        let good = ProcessFacts {
            uid: 2,
            exe: Some("/e".into()),
            cgroup: Some("/g".into()),
            parent: Some("p q r".into()),
            ..process("c", "l")
        };
        assert_eq!(rules.process_role(&good), GROUP);
        let breaks: [fn(&mut ProcessFacts); 9] = [
            |p| p.uid = 3,
            |p| p.comm = "cc".into(),
            |p| p.cmdline = "ll".into(),
            |p| p.exe = Some("/x".into()),
            |p| p.cgroup = Some("/".into()),
            |p| p.parent = Some("pq".into()),
            |p| p.exe = None,
            |p| p.cgroup = None,
            |p| p.parent = None,
        ];
        for (index, spoil) in breaks.iter().enumerate() {
            let mut process = good.clone();
            spoil(&mut process);
            assert_eq!(rules.process_role(&process), None, "condition {index}");
            assert_eq!(
                rules.may_match(&process, false),
                index >= 6,
                "unknown facts may still turn out to fit: {index}"
            );
        }
    }

    #[test]
    fn an_unknown_ignore_rule_hides_nothing_and_a_known_one_is_final() {
        let rules = rules(
            "group_patterns = ['worker']\nrules = [{role = 'ignore', comm = 'vim'}, {role = 'ignore', exe = 'x'}]",
        );
        assert!(!rules.may_match(&process("vim", "worker.log"), false));
        assert!(rules.may_match(&process("cat", "worker.log"), false));
        assert!(!rules.may_match(&process("cat", "file"), false));
    }

    #[test]
    fn a_truncated_command_line_decides_nothing() {
        let rules = rules("group_patterns = ['end$']\nrules = [{role = 'ignore', cmdline = 'start'}]");
        assert!(rules.may_match(&process("x", "start"), true));
        assert!(!rules.may_match(&process("x", "start"), false));
        let only_rules = self::rules("rules = [{role = 'group', comm = 'a', cmdline = 'b'}]");
        assert!(only_rules.may_match(&process("a", ""), true));
        assert!(!only_rules.may_match(&process("x", "b"), true));
    }

    #[test]
    fn pinned_pids_do_not_pass_to_a_recycled_pid() {
        let mut rules = rules("group_pids = [10, 20]");
        let at = |pid, start_time| ProcessFacts { pid, start_time, ..process("x", "") };
        assert_eq!(rules.process_role(&at(10, 8)), GROUP);
        assert_eq!(rules.pin_pids(|pid| (pid == 10).then_some(7)), [20]);
        assert_eq!(rules.process_role(&at(10, 7)), GROUP);
        assert_eq!(rules.process_role(&at(10, 8)), None);
        assert_eq!(rules.process_role(&at(20, 8)), None);
        assert!(rules.may_match(&at(10, 0), false), "an event does not know the start time");
        assert!(!rules.may_match(&at(20, 0), false));
    }

    #[test]
    fn only_what_somebody_looks_at_is_needed() {
        let needs = |toml: &str| Needs { devices: Vec::new(), ..rules(toml).needs() };
        assert_eq!(rules("").needs().devices, rules("").settings.forward_thread_devices);
        let auto = Needs { cgroup: true, ..Needs::default() };
        for by in ["auto", "session", "cgroup", "arg:(x)"] {
            assert_eq!(needs(&format!("group_by = '{by}'\ngroup_patterns = ['x']")), auto, "{by}");
        }
        assert_eq!(needs("group_by = 'tree'"), Needs { ancestors: true, ..Needs::default() });
        assert_eq!(needs("group_by = 'env:A'"), Needs { env: Some("A".into()), ..auto });
        assert_eq!(needs("group_by = 'pid'"), Needs::default());
        let all = "group_by = 'pid'\nrules = [{role = 'group', exe = 'x'}, {role = 'other', uid = 5, parent = 'y', cgroup = 'z'}]";
        assert_eq!(
            needs(all),
            Needs { uid: true, exe: true, cgroup: true, parent: true, ..Needs::default() }
        );
    }

    #[test]
    fn threads_are_told_by_their_own_name_in_group_processes_only() {
        let rules = rules("group_patterns = ['worker']");
        for (role, comm, thread) in [
            (ProcessRole::Group, "forward_0", ThreadRole::Forward),
            (ProcessRole::Group, "acl-decode", ThreadRole::Forward),
            (ProcessRole::Group, "python", ThreadRole::Member),
            (ProcessRole::Other, "prefill", ThreadRole::Other),
        ] {
            assert_eq!(rules.thread_role(role, comm, false), thread, "{comm}");
            let user = if role == ProcessRole::Other { thread } else { ThreadRole::Forward };
            assert_eq!(rules.thread_role(role, comm, true), user, "{comm} uses the device");
        }
    }
}
