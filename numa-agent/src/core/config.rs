//! The configuration file and the flags over it, as given: one [`Partial`] each, checked value by value.
//!
//! Owns the keys, their types and bounds, and the messages about them; `layers` puts them together. The caller reads the file and passes its text.

mod document;
mod error;
mod layers;
mod pattern;

use core::net::SocketAddr;
use std::str::FromStr;

use super::{
    choice::{ChoiceError, suggest},
    idset::{CpuSet, MAX_ID},
    instance::GroupBy,
    irq::reserve::Reserve,
    plan::MAX_GROUPS_PER_SOCKET,
    rule::{Rule, RuleRole},
    settings::{Align, DriftPolicy, Layout, MemoryApply, PolicyChoice},
};
use document::{Node, Value};
pub use error::{ConfigError, Origin};
pub(super) use pattern::{Pattern, Subject};

/// Keys of the file's top level. A later table is one more word here and one more field in [`Partial`].
const KEYS: [&str; 23] = [
    "policy",
    "layout",
    "align",
    "groups_per_socket",
    "others_socket_index",
    "group_by",
    "use_isolated",
    "rules",
    "group_patterns",
    "other_patterns",
    "forward_thread_patterns",
    "forward_thread_devices",
    "group_pids",
    "other_pids",
    "report",
    "hold",
    "hold_terminal",
    "hold_limit_ms",
    "memory",
    "irq",
    "metrics",
    "drift",
    "max_bind_rate",
];

/// Keys of `memory`.
const MEMORY_KEYS: [&str; 1] = ["apply"];

/// Keys of `irq`.
const IRQ_KEYS: [&str; 2] = ["cpus", "cpus_per_socket"];

/// Keys of an entry of `rules`.
const RULE_KEYS: [&str; 8] = ["name", "role", "comm", "cmdline", "exe", "cgroup", "uid", "parent"];

/// No machine has more sockets than CPUs, and no kernel more than 8192 CPUs (6.18 `arch/x86/Kconfig`).
const MAX_SOCKET_INDEX: u32 = 8191;
/// `PID_MAX_LIMIT` on 64-bit kernels (`include/linux/threads.h`, 5.10 to 6.18).
const MAX_PID: u32 = 4_194_304;
/// The highest user id; the next one, `(uid_t)-1`, means "no user".
const MAX_UID: u32 = u32::MAX - 1;

/// More binds a second than any machine makes.
const MAX_BIND_RATE: u32 = 1_000_000;

/// The longest that a process may be held, in milliseconds: who waits for it for longer takes it for dead.
const MAX_HOLD_MS: u32 = 10_000;

/// The flags that stand over the configuration file. A list that is empty was not given; one that was given replaces
/// the file's.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--policy`.
    pub policy: Option<PolicyChoice>,
    /// `--layout`.
    pub layout: Option<Layout>,
    /// `--align`.
    pub align: Option<Align>,
    /// `--groups-per-socket`.
    pub groups_per_socket: Option<u32>,
    /// `--others-socket-index`.
    pub others_socket_index: Option<u32>,
    /// `--group-by`.
    pub group_by: Option<GroupBy>,
    /// `--use-isolated`.
    pub use_isolated: Option<bool>,
    /// `--group-pattern`, each.
    pub group_patterns: Vec<String>,
    /// `--other-pattern`, each.
    pub other_patterns: Vec<String>,
    /// `--forward-thread-pattern`, each.
    pub forward_thread_patterns: Vec<String>,
    /// `--group-pid`, each.
    pub group_pids: Vec<u32>,
    /// `--other-pid`, each.
    pub other_pids: Vec<u32>,
    /// `--report`.
    pub report: Option<String>,
}

/// One layer: what the file says, or the flags. `None`: it does not say.
#[derive(Debug, Default)]
pub(super) struct Partial {
    pub policy: Option<PolicyChoice>,
    pub layout: Option<Layout>,
    pub align: Option<Align>,
    pub groups_per_socket: Option<u32>,
    pub others_socket_index: Option<u32>,
    pub group_by: Option<GroupBy>,
    pub use_isolated: Option<bool>,
    pub rules: Option<Vec<Rule>>,
    pub group_patterns: Option<Vec<Pattern>>,
    pub other_patterns: Option<Vec<Pattern>>,
    pub forward_thread_patterns: Option<Vec<Pattern>>,
    pub forward_thread_devices: Option<Vec<String>>,
    pub group_pids: Option<Vec<(Origin, u32)>>,
    pub other_pids: Option<Vec<(Origin, u32)>>,
    pub report: Option<String>,
    pub hold: Option<(Origin, bool)>,
    pub hold_terminal: Option<bool>,
    pub hold_limit_ms: Option<u32>,
    pub memory_apply: Option<MemoryApply>,
    pub reserve: Option<Reserve>,
    pub metrics: Option<SocketAddr>,
    pub drift: Option<DriftPolicy>,
    pub max_bind_rate: Option<u32>,
}

impl Partial {
    /// Parses and checks a configuration file's text; `path` is for its extension and for messages.
    pub fn from_file(path: &str, text: &str) -> Result<Self, ConfigError> {
        let root = document::parse(path, text).map_err(|error| ConfigError::Syntax {
            file: path.to_owned(),
            line: error.line,
            format: error.format,
            problem: error.problem,
        })?;
        let top = Item { at: Origin::file(path, root.line, ""), node: &root }.table(&KEYS)?;
        Ok(Self {
            policy: top.get("policy", Item::choice)?,
            layout: top.get("layout", Item::choice)?,
            align: top.get("align", Item::choice)?,
            groups_per_socket: top.get("groups_per_socket", |item| item.number(0, MAX_GROUPS_PER_SOCKET))?,
            others_socket_index: top.get("others_socket_index", |item| item.number(0, MAX_SOCKET_INDEX))?,
            group_by: top.get("group_by", Item::choice)?,
            use_isolated: top.get("use_isolated", |item| item.flag())?,
            rules: top.get("rules", |item| item.list("tables", rule))?,
            group_patterns: top.get("group_patterns", |item| item.list("strings", process_pattern))?,
            other_patterns: top.get("other_patterns", |item| item.list("strings", process_pattern))?,
            forward_thread_patterns: top
                .get("forward_thread_patterns", |item| item.list("strings", Item::pattern))?,
            forward_thread_devices: top.get("forward_thread_devices", |item| item.list("paths", device))?,
            group_pids: top.get("group_pids", |item| item.list("process ids", pid))?,
            other_pids: top.get("other_pids", |item| item.list("process ids", pid))?,
            report: top.get("report", |item| report(&item.at, item.string()?))?,
            hold: top.get("hold", |item| Ok((item.at.clone(), item.flag()?)))?,
            hold_terminal: top.get("hold_terminal", |item| item.flag())?,
            hold_limit_ms: top.get("hold_limit_ms", |item| item.number(1, MAX_HOLD_MS))?,
            memory_apply: top
                .get("memory", |item| item.table(&MEMORY_KEYS)?.get("apply", Item::choice))?
                .flatten(),
            reserve: top.get("irq", reserve)?,
            metrics: top.get("metrics", endpoint)?,
            drift: top.get("drift", Item::choice)?,
            max_bind_rate: top.get("max_bind_rate", |item| item.number(1, MAX_BIND_RATE))?,
        })
    }

    /// Checks the flags. Their types are checked already, by the command line's parser.
    pub fn from_flags(flags: Overrides) -> Result<Self, ConfigError> {
        let patterns = |flag: &str, texts: Vec<String>| {
            let pattern = |text: &String| Pattern::new(Origin::flag(flag), text);
            let patterns = texts.iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
            Ok((!patterns.is_empty()).then_some(patterns))
        };
        let process_patterns = |flag: &str, texts: Vec<String>| {
            let given: Option<Vec<Pattern>> = patterns(flag, texts)?;
            given.map(|given| given.into_iter().map(Pattern::for_processes).collect()).transpose()
        };
        let pids = |flag: &str, pids: Vec<u32>| {
            let pid = |pid: &u32| {
                Ok((Origin::flag(flag), bounded(&Origin::flag(flag), (*pid).into(), 1, MAX_PID)?))
            };
            let pids = pids.iter().map(pid).collect::<Result<Vec<_>, ConfigError>>()?;
            Ok((!pids.is_empty()).then_some(pids))
        };
        let small = |flag: &str, value: Option<u32>, max: u32| {
            value.map(|value| bounded(&Origin::flag(flag), value.into(), 0, max)).transpose()
        };
        Ok(Self {
            policy: flags.policy,
            layout: flags.layout,
            align: flags.align,
            groups_per_socket: small("--groups-per-socket", flags.groups_per_socket, MAX_GROUPS_PER_SOCKET)?,
            others_socket_index: small("--others-socket-index", flags.others_socket_index, MAX_SOCKET_INDEX)?,
            group_by: flags.group_by,
            use_isolated: flags.use_isolated,
            rules: None,
            group_patterns: process_patterns("--group-pattern", flags.group_patterns)?,
            other_patterns: process_patterns("--other-pattern", flags.other_patterns)?,
            forward_thread_patterns: patterns("--forward-thread-pattern", flags.forward_thread_patterns)?,
            forward_thread_devices: None,
            group_pids: pids("--group-pid", flags.group_pids)?,
            other_pids: pids("--other-pid", flags.other_pids)?,
            report: flags.report.map(|path| report(&Origin::flag("--report"), &path)).transpose()?,
            hold: None,
            hold_terminal: None,
            hold_limit_ms: None,
            memory_apply: None,
            reserve: None,
            metrics: None,
            drift: None,
            max_bind_rate: None,
        })
    }

    /// This layer over `below`.
    pub fn or(self, below: Self) -> Self {
        Self {
            policy: self.policy.or(below.policy),
            layout: self.layout.or(below.layout),
            align: self.align.or(below.align),
            groups_per_socket: self.groups_per_socket.or(below.groups_per_socket),
            others_socket_index: self.others_socket_index.or(below.others_socket_index),
            group_by: self.group_by.or(below.group_by),
            use_isolated: self.use_isolated.or(below.use_isolated),
            rules: self.rules.or(below.rules),
            group_patterns: self.group_patterns.or(below.group_patterns),
            other_patterns: self.other_patterns.or(below.other_patterns),
            forward_thread_patterns: self.forward_thread_patterns.or(below.forward_thread_patterns),
            forward_thread_devices: self.forward_thread_devices.or(below.forward_thread_devices),
            group_pids: self.group_pids.or(below.group_pids),
            other_pids: self.other_pids.or(below.other_pids),
            report: self.report.or(below.report),
            hold: self.hold.or(below.hold),
            hold_terminal: self.hold_terminal.or(below.hold_terminal),
            hold_limit_ms: self.hold_limit_ms.or(below.hold_limit_ms),
            memory_apply: self.memory_apply.or(below.memory_apply),
            reserve: self.reserve.or(below.reserve),
            metrics: self.metrics.or(below.metrics),
            drift: self.drift.or(below.drift),
            max_bind_rate: self.max_bind_rate.or(below.max_bind_rate),
        }
    }
}

/// A value of the file and its key.
struct Item<'a> {
    at: Origin,
    node: &'a Node,
}

/// A table of the file; its keys are known ones.
struct Table<'a> {
    at: Origin,
    entries: &'a [(String, Node)],
}

impl<'a> Item<'a> {
    fn table(self, known: &[&'static str]) -> Result<Table<'a>, ConfigError> {
        let Value::Table(entries) = &self.node.value else { return Err(self.not("a table")) };
        for (key, node) in entries {
            if !known.contains(&key.as_str()) {
                return Err(ConfigError::unknown_key(self.at.key(key, node.line), key, known));
            }
        }
        Ok(Table { at: self.at, entries })
    }

    fn list<T>(
        self,
        what: &str,
        read: impl Fn(Item<'a>) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let Value::List(items) = &self.node.value else { return Err(self.not(&format!("a list of {what}"))) };
        let item =
            |(index, node): (usize, &'a Node)| read(Item { at: self.at.index(index, node.line), node });
        items.iter().enumerate().map(item).collect()
    }

    fn string(&self) -> Result<&'a str, ConfigError> {
        let Value::String(text) = &self.node.value else { return Err(self.not("a string")) };
        Ok(text)
    }

    fn flag(&self) -> Result<bool, ConfigError> {
        let Value::Bool(flag) = self.node.value else { return Err(self.not("true or false")) };
        Ok(flag)
    }

    fn number(self, min: u32, max: u32) -> Result<u32, ConfigError> {
        let Value::Integer(number) = self.node.value else { return Err(self.not("a whole number")) };
        bounded(&self.at, number, min, max)
    }

    /// One word of a few, or such.
    fn choice<T: FromStr<Err = ChoiceError>>(self) -> Result<T, ConfigError> {
        self.string()?
            .parse()
            .map_err(|error: ChoiceError| ConfigError::Choice { at: self.at, problem: error.to_string() })
    }

    fn pattern(self) -> Result<Pattern, ConfigError> {
        let text = self.string()?;
        Pattern::new(self.at, text)
    }

    fn not(&self, wanted: &str) -> ConfigError {
        let problem = format!("this is {}, not {wanted}", self.node.value.kind());
        self.at.wrong(problem, format!("write {wanted}"))
    }
}

impl<'a> Table<'a> {
    /// The key's value as `read` takes it; `None` where it is absent or `null`.
    fn get<T>(
        &self,
        key: &str,
        read: impl FnOnce(Item<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        let entry = self.entries.iter().find(|(name, node)| name == key && node.value != Value::Null);
        entry.map(|(_, node)| read(Item { at: self.at.key(key, node.line), node })).transpose()
    }
}

fn bounded(at: &Origin, number: i128, min: u32, max: u32) -> Result<u32, ConfigError> {
    let inside = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
    inside.ok_or_else(|| at.wrong(format!("{number} is out of range"), format!("use {min} to {max}")))
}

fn process_pattern(item: Item<'_>) -> Result<Pattern, ConfigError> {
    item.pattern()?.for_processes()
}

fn pid(item: Item<'_>) -> Result<(Origin, u32), ConfigError> {
    Ok((item.at.clone(), item.number(1, MAX_PID)?))
}

fn report(at: &Origin, path: &str) -> Result<String, ConfigError> {
    if path.is_empty() {
        return Err(
            at.wrong("the path is empty".into(), "name a file, or leave it out for the default".into())
        );
    }
    Ok(path.to_owned())
}

fn device(item: Item<'_>) -> Result<String, ConfigError> {
    let path = item.string()?;
    let hint = || "write a path like \"/dev/davinci*\"".to_owned();
    if !path.starts_with('/') {
        return Err(item.at.wrong(format!("{path:?} is no absolute path"), hint()));
    }
    if path.contains("**") {
        // It would lead through all of /proc and /sys.
        return Err(item.at.wrong(format!("{path:?}: ** stands for any folders"), hint()));
    }
    match glob::Pattern::new(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(item.at.wrong(format!("{path:?}: {}", error.msg), hint())),
    }
}

fn reserve(item: Item<'_>) -> Result<Reserve, ConfigError> {
    let table = item.table(&IRQ_KEYS)?;
    let cpus = table.get("cpus", |item| {
        let list: Result<CpuSet, _> = item.string()?.parse();
        list.map_err(|error| item.at.wrong(error.to_string(), "write CPUs as in \"0-1,80-81\"".into()))
    })?;
    let per_socket = table.get("cpus_per_socket", |item| item.number(0, MAX_ID))?;
    Ok(Reserve { cpus: cpus.unwrap_or_default(), per_socket: per_socket.unwrap_or(0) })
}

fn endpoint(item: Item<'_>) -> Result<SocketAddr, ConfigError> {
    let text = item.string()?;
    text.parse().map_err(|_| {
        let hint = "write an IP address and a port, like \"127.0.0.1:9464\" or \"[::1]:9464\"";
        item.at.wrong(format!("{text:?} is no address to listen at"), hint.into())
    })
}

fn uids(item: Item<'_>) -> Result<Vec<u32>, ConfigError> {
    if !matches!(item.node.value, Value::List(_)) {
        return Ok(vec![item.number(0, MAX_UID)?]);
    }
    let at = item.at.clone();
    let uids = item.list("user ids", |item| item.number(0, MAX_UID))?;
    if uids.is_empty() {
        return Err(
            at.wrong("the list is empty, so the rule can never match".into(), "name a user id".into())
        );
    }
    Ok(uids)
}

fn rule(item: Item<'_>) -> Result<Rule, ConfigError> {
    let at = item.at.clone();
    let table = item.table(&RULE_KEYS)?;
    let condition = |key| table.get(key, Item::pattern);
    let (comm, cmdline, parent) = (condition("comm")?, condition("cmdline")?, condition("parent")?);
    let (exe, cgroup, uid) = (condition("exe")?, condition("cgroup")?, table.get("uid", uids)?);
    let role: Option<RuleRole> = table.get("role", Item::choice)?;
    let role = role.ok_or_else(|| {
        at.wrong("the rule has no role".into(), "add role = \"group\", \"other\" or \"ignore\"".into())
    })?;
    if let Some(comm) = comm.as_ref().filter(|comm| comm.never_fits_comm()) {
        return Err(comm.origin.wrong(comm.why_never(), "shorten it, or use cmdline instead".into()));
    }
    let narrow = uid.is_some() || exe.is_some() || cgroup.is_some();
    let texts = [(&comm, Subject::Comm), (&cmdline, Subject::Cmdline), (&parent, Subject::Process)];
    let mut given =
        texts.iter().filter_map(|(pattern, subject)| Some((pattern.as_ref()?, *subject))).peekable();
    if !narrow && given.peek().is_none() {
        let hint = "give at least one of comm, cmdline, exe, cgroup, uid, parent".into();
        return Err(at.wrong("the rule has no condition".into(), hint));
    }
    if !narrow && given.all(|(pattern, subject)| pattern.matches_everything(subject)) {
        let hint = "make a condition narrower; a process that no rule matches is left alone anyway".into();
        return Err(at.wrong("the rule matches every process of the host".into(), hint));
    }
    let regex = |pattern: Option<Pattern>| pattern.map(|pattern| pattern.regex);
    Ok(Rule {
        name: table
            .get("name", |item| Ok(item.string()?.to_owned()))?
            .unwrap_or_else(|| at.path().to_owned()),
        role,
        comm: regex(comm),
        cmdline: regex(cmdline),
        exe: regex(exe),
        cgroup: regex(cgroup),
        uid,
        parent: regex(parent),
    })
}

#[cfg(test)]
mod tests;
