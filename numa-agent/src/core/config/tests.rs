//! What is accepted, and the words for what is not.

use super::*;
use crate::core::settings::{FORWARD_THREAD_PATTERNS, REPORT_PATH, Settings};

const GUIDE: &str = include_str!("../../../../docs/examples/numa_bind.json");
const EXAMPLE: &str = include_str!("../../../../docs/examples/numa-agent.toml");

fn json(text: &str) -> Result<Settings, ConfigError> {
    Settings::from_sources(Some(("numa.json", text)), Overrides::default())
}

fn toml(text: &str) -> Result<Settings, ConfigError> {
    Settings::from_sources(Some(("numa.toml", text)), Overrides::default())
}

fn texts(patterns: &[regex::Regex]) -> Vec<&str> {
    patterns.iter().map(regex::Regex::as_str).collect()
}

#[test]
fn the_guides_json_is_taken_as_it_is() {
    let settings = json(GUIDE).unwrap();
    assert_eq!(settings.source, "numa.json");
    assert_eq!(settings.layout.groups_per_socket, Some(4));
    assert_eq!(settings.layout.others_socket_index, Some(2));
    assert_eq!(texts(&settings.group_patterns), ["scheduler", "worker", "rpc_proxy"]);
    assert_eq!(texts(&settings.other_patterns), ["Motor", "Servicer"]);
    assert_eq!(texts(&settings.forward_thread_patterns), ["forward", "prefill", "decode"]);
    assert_eq!(settings.report, REPORT_PATH);
    assert!(settings.report_asked);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn the_example_toml_says_the_same_and_has_rules() {
    let (settings, guide) = (toml(EXAMPLE).unwrap(), json(GUIDE).unwrap());
    assert_eq!(settings.layout, guide.layout);
    assert_eq!(texts(&settings.group_patterns), texts(&guide.group_patterns));
    assert_eq!(texts(&settings.other_patterns), texts(&guide.other_patterns));
    assert_eq!(texts(&settings.forward_thread_patterns), texts(&guide.forward_thread_patterns));
    let roles: Vec<_> = settings.rules.iter().map(|rule| (rule.name.as_str(), rule.role)).collect();
    assert_eq!(
        roles,
        [
            ("people looking at worker logs", RuleRole::Ignore),
            ("engine in a pod", RuleRole::Group),
            ("metrics", RuleRole::Other)
        ]
    );
    assert_eq!(settings.rules[2].uid, Some(vec![998, 999]));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn every_example_key_is_known_and_every_known_key_is_in_the_example_and_the_manual() {
    let manual = include_str!("../../../../docs/config.md");
    for key in KEYS {
        assert!(EXAMPLE.contains(key), "docs/examples/numa-agent.toml shows {key}");
        assert!(manual.contains(&format!("`{key}`")), "docs/config.md explains {key}");
    }
    for key in MEMORY_KEYS {
        assert!(
            EXAMPLE.contains(&format!("memory = {{ {key} = ")),
            "docs/examples/numa-agent.toml shows memory's {key}"
        );
    }
    for key in IRQ_KEYS {
        assert!(EXAMPLE.contains(&format!("{key} = ")), "docs/examples/numa-agent.toml shows irq's {key}");
        assert!(manual.contains(&format!("`{key}`")), "docs/config.md explains irq's {key}");
    }
    for key in RULE_KEYS {
        assert!(EXAMPLE.contains(&format!("\n{key} = ")), "docs/examples/numa-agent.toml shows rules' {key}");
        assert!(manual.contains(&format!("`{key}`")), "docs/config.md explains rules' {key}");
    }
}

#[test]
fn what_others_do_and_the_pace_are_asked_for() {
    let settings = toml("drift = 'enforce'\nmax_bind_rate = 50").unwrap();
    assert_eq!((settings.drift, settings.max_bind_rate), (DriftPolicy::Enforce, Some(50)));
    let settings = toml("").unwrap();
    assert_eq!((settings.drift, settings.max_bind_rate), (DriftPolicy::Reapply, None));
    for (text, words) in [("drift = 'fight'", "enforce"), ("max_bind_rate = 0", "use 1 to 1000000")] {
        let error = toml(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn devices_of_forward_threads() {
    let devices =
        |text: &str| toml(text).map(|settings| (settings.forward_thread_devices, settings.devices_asked));
    assert_eq!(devices("").unwrap(), (vec!["/dev/davinci[0-9]*".to_owned()], false));
    assert_eq!(devices("forward_thread_devices = []").unwrap(), (vec![], true));
    for (text, words) in [
        ("forward_thread_devices = ['davinci0']", "no absolute path"),
        ("forward_thread_devices = ['/dev/**/davinci0']", "**"),
        ("forward_thread_devices = ['/dev/x***']", "forward_thread_devices[0]"),
        ("forward_thread_devices = '/dev/x'", "a list of paths"),
    ] {
        let error = devices(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn cpus_are_left_to_interrupts() {
    let reserve = |text: &str| toml(text).map(|settings| settings.layout.reserve);
    let both = reserve("irq = { cpus = '0-1,80', cpus_per_socket = 2 }").unwrap();
    assert_eq!((both.cpus.to_string().as_str(), both.per_socket), ("0-1,80", 2));
    assert!(reserve("").unwrap().is_empty());
    for (text, words) in [
        ("irq = { cpus = '0-x' }", ["irq.cpus", "0-1,80-81"]),
        ("irq = { cpus = 3 }", ["irq.cpus", "a string"]),
        ("irq = { cpus_per_socket = -1 }", ["irq.cpus_per_socket", "0 to"]),
        ("irq = { cpu = '1' }", ["irq.cpu", "cpus"]),
    ] {
        let error = reserve(text).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
    }
}

#[test]
fn metrics_need_an_address_with_a_port() {
    let metrics = |text: &str| toml(text).map(|settings| settings.metrics);
    assert_eq!(metrics("").unwrap(), None);
    let address = metrics("metrics = '[::1]:9464'").unwrap().unwrap();
    assert!(address.is_ipv6() && address.port() == 9464);
    for text in
        ["metrics = 'localhost'", "metrics = ':9464'", "metrics = '127.0.0.1'", "metrics = '127.0.0.1:99999'"]
    {
        let error = metrics(text).unwrap_err().to_string();
        assert!(error.contains("numa.toml:1: metrics") && error.contains("127.0.0.1:9464"), "{error}");
    }
    assert!(metrics("metrics = 9464").unwrap_err().to_string().contains("not a string"));
}

#[test]
fn holding_is_off_unless_asked_for_and_injecting_implies_it() {
    let hold = |text: &str| toml(text).map(|settings| settings.hold);
    let off = hold("").unwrap();
    assert_eq!((off.hold, off.inject, off.terminals, off.limit.as_millis()), (false, false, false, 100));
    let on = hold("hold = true\nhold_limit_ms = 20\nhold_terminal = true").unwrap();
    assert_eq!((on.hold, on.inject, on.terminals, on.limit.as_millis()), (true, false, true, 20));
    let injecting = hold("memory.apply = 'inject'").unwrap();
    assert!(injecting.hold && injecting.inject);
    assert_eq!(injecting.limit.as_millis(), 1000, "one after the other");
    assert_eq!(hold("hold_limit_ms = 20\nmemory.apply = 'inject'").unwrap().limit.as_millis(), 20);
    assert!(json(r#"{"memory": {"apply": "inject"}}"#).unwrap().hold.inject);
    let fencing = json(r#"{"memory": {"apply": "cpuset"}}"#).unwrap();
    assert!(fencing.cpusets && !fencing.hold.hold);
    assert!(!hold("memory = { apply = 'none' }").unwrap().hold);
    for (text, words) in [
        ("hold = 'yes'", "numa.toml:1: hold: this is a string, not true or false"),
        ("hold_limit_ms = 0", "use 1 to 10000"),
        ("hold = false\nmemory.apply = 'inject'", "numa.toml:1: hold: it is false, but memory.apply"),
        ("memory.apply = 'injekt'", "did you mean inject?"),
        ("memory.aply = 'inject'", "did you mean apply?"),
        ("memory = 'inject'", "write a table"),
    ] {
        let error = hold(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn defaults_stand_where_nothing_is_said() {
    let settings = Settings::from_sources(None, Overrides::default()).unwrap();
    assert_eq!(settings.source, "flags");
    assert_eq!(settings.layout, Default::default());
    assert!(matches!(settings.group_by, GroupBy::Auto));
    assert_eq!(texts(&settings.forward_thread_patterns), FORWARD_THREAD_PATTERNS);
    assert_eq!((settings.report.as_str(), settings.report_asked), (REPORT_PATH, false));
    assert!(settings.warnings[0].contains("nothing will be managed"), "{:?}", settings.warnings);
    let nulls = json(r#"{"groups_per_socket": null, "report": null, "group_patterns": null}"#).unwrap();
    assert_eq!((nulls.layout, nulls.report_asked), (settings.layout, false));
}

#[test]
fn a_config_that_only_ignores_manages_nothing_and_says_so() {
    let idle =
        |text| toml(text).unwrap().warnings.iter().any(|warning| warning.contains("nothing will be managed"));
    assert!(idle("rules = [{role = 'ignore', comm = 'vim'}]"));
    assert!(idle("forward_thread_patterns = ['x']"));
    assert!(!idle("rules = [{role = 'other', comm = 'vim'}]"));
    assert!(!idle("group_pids = [5]"));
    assert!(!idle("other_patterns = ['x']"));
}

#[test]
fn flags_stand_over_the_file_key_by_key() {
    let file = r#"{"groups_per_socket": 4, "others_socket_index": 2, "layout": "shared", "policy": "paired",
        "group_patterns": ["a", "b"], "other_patterns": ["c"], "forward_thread_patterns": ["d"],
        "group_pids": [1, 2, 1], "other_pids": [3], "report": "r.md", "group_by": "tree"}"#;
    let flags = Overrides {
        groups_per_socket: Some(0),
        align: Some(Align::Core),
        policy: Some(PolicyChoice::Generic),
        group_by: Some("pid".parse().unwrap()),
        group_patterns: vec!["x".into()],
        forward_thread_patterns: vec!["y".into(), "z".into()],
        other_pids: vec![7],
        ..Overrides::default()
    };
    let settings = Settings::from_sources(Some(("numa.json", file)), flags).unwrap();
    assert_eq!(settings.layout.groups_per_socket, Some(0));
    assert_eq!(settings.layout.others_socket_index, Some(2));
    assert_eq!((settings.layout.policy, settings.layout.layout), (PolicyChoice::Generic, Layout::Shared));
    assert_eq!(settings.layout.align, Some(Align::Core));
    assert!(matches!(settings.group_by, GroupBy::Pid));
    assert_eq!(texts(&settings.group_patterns), ["x"]);
    assert_eq!(texts(&settings.other_patterns), ["c"]);
    assert_eq!(texts(&settings.forward_thread_patterns), ["y", "z"]);
    assert_eq!((settings.group_pids, settings.other_pids), (vec![1, 2], vec![7]));
    assert_eq!(settings.report, "r.md");
}

#[test]
fn a_given_forward_list_replaces_the_default_even_when_empty() {
    assert!(toml("forward_thread_patterns = []").unwrap().forward_thread_patterns.is_empty());
    let flags = Overrides { forward_thread_patterns: vec!["step".into()], ..Overrides::default() };
    let settings = Settings::from_sources(None, flags).unwrap();
    assert_eq!(texts(&settings.forward_thread_patterns), ["step"]);
}

/// The message for a file that is refused has all these words.
#[test]
fn what_is_wrong_is_named_with_file_line_key_and_hint() {
    let cases: &[(&str, &[&str])] = &[
        (
            "\ngroup_per_socket = 4",
            &["numa.toml:2: group_per_socket: unknown key", "did you mean groups_per_socket?"],
        ),
        ("group-patterns = []", &["group-patterns", "did you mean group_patterns?"]),
        ("zzz = 1", &["numa.toml:1: zzz: unknown key; known keys here: policy", "report"]),
        ("[cpuset]\nx = 1", &["numa.toml:1: cpuset: unknown key"]),
        (
            "[[rules]]\nrole = 'group'\ncmd = 'x'",
            &["numa.toml:3: rules[0].cmd:", "did you mean", "known keys here: name, role"],
        ),
        (
            "group_patterns = [\n'a',\n'b(']",
            &["numa.toml:3: group_patterns[1]: bad regular", "b(", "unclosed group", "hint"],
        ),
        ("other_patterns = ['(?=x)']", &["other_patterns[0]", "look-around"]),
        ("[[rules]]\nrole = 'other'\nexe = '['", &["numa.toml:3: rules[0].exe: bad regular", "unclosed"]),
        ("groups_per_socket = -1", &["groups_per_socket: -1 is out of range; use 0 to 4096"]),
        ("groups_per_socket = 100000", &["groups_per_socket: 100000 is out of range"]),
        (
            "groups_per_socket = 99999999999999999999999999",
            &["groups_per_socket", "out of range; use 0 to 4096"],
        ),
        (
            "groups_per_socket = 4.0",
            &["groups_per_socket: this is a number with a fraction", "write a whole number"],
        ),
        ("groups_per_socket = '4'", &["groups_per_socket: this is a string, not a whole number"]),
        ("others_socket_index = -2", &["others_socket_index: -2 is out of range"]),
        ("group_pids = [7, 0]", &["group_pids[1]: 0 is out of range; use 1 to 4194304"]),
        ("other_pids = [4194305]", &["other_pids[0]: 4194305 is out of range"]),
        (
            "group_pids = [1, 5]\nother_pids = [5]",
            &["numa.toml:2: other_pids[0]: pid 5 is also given by numa.toml:1: group_pids[1]"],
        ),
        ("group_pids = 5", &["group_pids: this is a whole number, not a list of process ids"]),
        ("group_patterns = 'x'", &["group_patterns: this is a string, not a list of strings"]),
        ("group_patterns = [5]", &["group_patterns[0]: this is a whole number, not a string"]),
        (
            "group_patterns = ['']",
            &["group_patterns[0]: the pattern is empty and would match everything", "remove it"],
        ),
        ("group_patterns = ['.*']", &["group_patterns[0]: \".*\" matches every process", "name the program"]),
        ("other_patterns = ['x|']", &["other_patterns[0]: \"x|\" matches every process"]),
        ("other_patterns = [' ']", &["matches every process"]),
        ("forward_thread_patterns = ['']", &["forward_thread_patterns[0]: the pattern is empty"]),
        (
            "policy = 'pared'",
            &["numa.toml:1: policy: \"pared\" is not one of auto, paired, generic; did you mean paired?"],
        ),
        ("layout = 'x'", &["layout: \"x\" is not one of split, shared"]),
        ("align = 'clusters'", &["did you mean cluster?"]),
        ("group_by = 'sesion'", &["group_by", "did you mean session?"]),
        ("group_by = 'env:'", &["group_by", "env:NAME takes"]),
        ("group_by = 'arg:port'", &["group_by", "parentheses"]),
        ("group_by = 'arg:('", &["group_by", "unclosed group"]),
        ("report = ''", &["report: the path is empty"]),
        ("report = 2024-01-01", &["report: this is a date or time, not a string"]),
        ("rules = ['x']", &["rules[0]: this is a string, not a table"]),
        ("[[rules]]\ncomm = 'x'", &["rules[0]: the rule has no role; add role"]),
        ("[[rules]]\nrole = 'groups'\ncomm = 'x'", &["numa.toml:2: rules[0].role", "did you mean group?"]),
        ("[[rules]]\nrole = 'group'", &["rules[0]: the rule has no condition; give at least one of comm"]),
        (
            "[[rules]]\nrole = 'group'\ncomm = '.'\ncmdline = '.*'",
            &["rules[0]: the rule matches every process", "narrower"],
        ),
        ("[[rules]]\nrole = 'group'\nuid = []", &["rules[0].uid: the list is empty"]),
        ("[[rules]]\nrole = 'group'\nuid = [-1]", &["rules[0].uid[0]: -1 is out of range"]),
        ("[[rules]]\nrole = 'group'\nuid = 'root'", &["rules[0].uid: this is a string"]),
        (
            "[[rules]]\nrole = 'group'\ncomm = 'a_name_of_sixteen'",
            &["numa.toml:3: rules[0].comm", "can never match", "at least 17 bytes", "cmdline"],
        ),
        (
            "forward_thread_patterns = ['a_name_of_sixteen', 'x[^\\s\\S]']",
            &["forward_thread_patterns[0]", "can never match", "/comm"],
        ),
        ("group_patterns = [\n'a'\n", &["numa.toml:2: not valid TOML"]),
    ];
    for (text, words) in cases {
        let error = toml(text).expect_err(text).to_string();
        for word in *words {
            assert!(error.contains(word), "{text:?} gives {error:?}, which does not say {word:?}");
        }
    }
}

#[test]
fn json_mistakes_are_named_the_same_way() {
    for (text, words) in [
        ("{\n\"group_patterns\": [\"a\",\n \"b(\"]}", "numa.json:3: group_patterns[1]: bad regular"),
        (
            "{\n\n\"others_sockets_index\":\n 2}",
            "numa.json:3: others_sockets_index: unknown key; did you mean others_socket_index?",
        ),
        ("{\"groups_per_socket\": 4", "numa.json:1: not valid JSON: EOF"),
        ("[]", "numa.json:1: this is a list, not a table"),
        ("{\"rules\": [{\"role\": \"group\", \"comm\": \"x\", \"uid\": -5}]}", "rules[0].uid: -5"),
        ("{\"group_pids\": [1], \"group_pids\": [2]}", "duplicate key \"group_pids\""),
    ] {
        let error = json(text).expect_err(text).to_string();
        assert!(error.contains(words), "{text:?} gives {error:?}, which does not say {words:?}");
    }
}

#[test]
fn flags_that_are_wrong_are_named_as_flags() {
    let give = |change: fn(&mut Overrides)| {
        let mut flags = Overrides::default();
        change(&mut flags);
        Settings::from_sources(Some(("numa.toml", "group_pids = [9]")), flags)
            .expect_err("refused")
            .to_string()
    };
    assert!(
        give(|flags| flags.group_patterns = vec!["a".into(), "(".into()]).starts_with("--group-pattern: bad")
    );
    assert!(
        give(|flags| flags.other_patterns = vec![".".into()])
            .starts_with("--other-pattern: \".\" matches every")
    );
    assert!(
        give(|flags| flags.forward_thread_patterns = vec!["f".repeat(16)])
            .starts_with("--forward-thread-pattern")
    );
    assert!(give(|flags| flags.group_pids = vec![0]).starts_with("--group-pid: 0 is out of range"));
    assert!(
        give(|flags| flags.groups_per_socket = Some(u32::MAX)).starts_with("--groups-per-socket: 4294967295")
    );
    assert!(give(|flags| flags.report = Some(String::new())).starts_with("--report: the path is empty"));
    let both = give(|flags| flags.other_pids = vec![9]);
    assert!(both.starts_with("--other-pid: pid 9 is also given by numa.toml:1: group_pids[0]"), "{both}");
}

#[test]
fn a_file_is_checked_also_where_flags_replace_its_values() {
    let flags = Overrides { group_patterns: vec!["x".into()], ..Overrides::default() };
    let error = Settings::from_sources(Some(("numa.toml", "group_patterns = ['(']")), flags).unwrap_err();
    assert!(error.to_string().contains("group_patterns[0]"));
}

#[test]
fn one_thread_pattern_too_long_for_a_name_is_a_warning() {
    for (pattern, dead) in [
        ("a_name_of_sixtee", true),
        ("a_name_of_fiftee", true),
        ("fifteen_bytes_x", false),
        ("^fifteen_bytes_x$", false),
        ("(long_enough_by_all_means|short)", false),
        ("[a-z]{16,}", true),
        ("äöüäöüäö", true),
    ] {
        let settings =
            toml(&format!("forward_thread_patterns = ['{pattern}', 'decode']\ngroup_pids = [5]")).unwrap();
        assert_eq!(settings.forward_thread_patterns.len(), 2);
        assert_eq!(settings.warnings.len(), usize::from(dead), "{pattern}: {:?}", settings.warnings);
        if dead {
            let warning = &settings.warnings[0];
            assert!(warning.starts_with("numa.toml:1: forward_thread_patterns[0]: "), "{warning}");
            assert!(warning.contains(pattern) && warning.contains("can never match"), "{warning}");
        }
    }
}

#[test]
fn a_rule_that_only_looks_closed_is_named() {
    let warns = |rule: &str| {
        let settings = toml(&format!("rules = [{{role = 'group', comm = 'w', {rule}}}]")).unwrap();
        let named = |warning: &String| warning.contains("rules[0]") && warning.contains("add uid");
        settings.warnings.iter().any(named)
    };
    for open in ["exe = '/usr/bin/python3'", "cgroup = 'kubepods'", "exe = '^/usr', cgroup = '/kubepods'"] {
        assert!(warns(open), "{open}");
    }
    for closed in
        ["exe = 'e', uid = 0", "cgroup = '^/kubepods'", "exe = 'e', cgroup = '\\Ax'", "cmdline = 'l'"]
    {
        assert!(!warns(closed), "{closed}");
    }
    let other = toml("rules = [{role = 'other', exe = 'e'}]").unwrap();
    assert!(other.warnings.is_empty(), "{:?}", other.warnings);
}

#[test]
fn isolated_cpus_are_used_where_that_is_asked_for() {
    assert!(!toml("").unwrap().layout.use_isolated);
    assert!(toml("use_isolated = true").unwrap().layout.use_isolated);
    let flags = Overrides { use_isolated: Some(true), ..Overrides::default() };
    let file = Some(("numa.toml", "use_isolated = false"));
    assert!(Settings::from_sources(file, flags).unwrap().layout.use_isolated);
    assert!(toml("use_isolated = 1").is_err());
}

#[test]
fn rules_take_every_condition_and_a_name_of_their_own() {
    let settings = toml(
        "[[rules]]\nrole = 'group'\ncomm = 'c'\ncmdline = 'l'\nexe = 'e'\ncgroup = 'g'\nparent = 'p'\nuid = 0\n\
         [[rules]]\nname = 'mine'\nrole = 'ignore'\nuid = [1, 2]",
    )
    .unwrap();
    let rule = &settings.rules[0];
    let text = |regex: &Option<regex::Regex>| regex.as_ref().unwrap().as_str().to_owned();
    assert_eq!(
        (rule.name.as_str(), rule.role, rule.uid.clone()),
        ("rules[0]", RuleRole::Group, Some(vec![0]))
    );
    assert_eq!(
        [&rule.comm, &rule.cmdline, &rule.exe, &rule.cgroup, &rule.parent].map(text),
        ["c", "l", "e", "g", "p"]
    );
    assert_eq!((settings.rules[1].name.as_str(), settings.rules[1].role), ("mine", RuleRole::Ignore));
}
