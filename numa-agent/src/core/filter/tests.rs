//! Nothing that the rules match is rejected; what has nothing to do with them is.

use proptest::prelude::*;

use super::*;
use crate::core::{
    config::Overrides,
    rules::Rules,
    task::{ProcessFacts, join_arguments},
};

fn settings(toml: &str) -> Settings {
    Settings::from_sources(Some(("t.toml", toml)), Overrides::default()).expect("a good config")
}

fn filter_of(pattern: &str) -> KernelFilter {
    let flags = Overrides { group_patterns: vec![pattern.to_owned()], ..Overrides::default() };
    KernelFilter::new(&Settings::from_sources(None, flags).expect(pattern))
}

/// Arguments as the kernel has them.
fn arguments(text: &str) -> Vec<u8> {
    text.split_whitespace().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect()
}

/// Table invariants that the kernel side relies on: it indexes without asking.
fn check_table(filter: &KernelFilter) {
    let states = filter.transitions.len() / filter.class_count as usize;
    assert!(filter.transitions.len() <= MAX_TRANSITIONS && states <= MAX_STATES);
    assert_eq!(filter.transitions.len() % filter.class_count as usize, 0);
    assert!((filter.start as usize) < states);
    assert!(filter.transitions.iter().all(|next| ((next & !ACCEPT) as usize) < states));
    assert!(filter.classes.iter().all(|class| u32::from(*class) < filter.class_count));
}

#[test]
fn the_examples_let_their_own_through_and_reject_the_rest() {
    let guide = include_str!("../../../../docs/examples/numa_bind.json");
    let guide = Settings::from_sources(Some(("x.json", guide)), Overrides::default()).unwrap();
    let example = settings(include_str!("../../../../docs/examples/numa-agent.toml"));
    let unfiltered = settings("group_patterns = ['worker']\nrules = [{role = 'other', uid = 998}]");
    assert!(KernelFilter::new(&unfiltered).pass_all, "a rule on the user alone is beyond the filter");
    assert!(KernelFilter::new(&example).pass_all, "and so is the example's on the parent");
    let filter = KernelFilter::new(&guide);
    check_table(&filter);
    assert!(filter.transitions.len() < 2000, "{} transitions for five words", filter.transitions.len());
    for (comm, line, passes) in [
        ("sh", "/bin/sh -c ls", false),
        ("python", "python foo.py", false),
        ("ls", "ls --color=auto", false),
        ("kubelet", "/usr/bin/kubelet --config=/etc/kubelet.yaml --work", false),
        ("cat", "cat /proc/self/stat rpc_prox y schedule r", false),
        ("python3", "python3 -m vllm.scheduler --port 1", true),
        ("worker_0", "", true),
        ("rpc_proxy", "./rpc_proxy", true),
        ("java", "java -jar Motor.jar", true),
        ("java", "java Servicer", true),
    ] {
        assert_eq!(filter.accepts(comm.as_bytes(), &arguments(line)), passes, "{comm}: {line}");
    }
}

#[test]
fn users_ways_to_write_a_word_keep_the_filter_sharp() {
    for pattern in [
        "scheduler",
        ".*scheduler.*",
        "^.*scheduler$",
        "(?i)scheduler",
        "(?i).*SCHEDULER.*",
        "[Ss]cheduler[0-9]*",
        r"\bscheduler\b",
        r"python3?\s.*scheduler",
        "(foo|.*)scheduler(_[a-z]+)?",
        "(scheduler)+",
        "^(/usr)?/bin/.*scheduler",
        "scheduler|x{3}worker|.*rpc_proxy.*",
    ] {
        let filter = filter_of(pattern);
        check_table(&filter);
        assert!(!filter.pass_all, "{pattern}");
        assert!(!filter.accepts(b"bash", &arguments("/bin/bash -c ls")), "{pattern}");
        assert!(filter.accepts(b"python3", &arguments("python3 /bin/x/scheduler")), "{pattern}");
    }
}

#[test]
fn letters_of_either_case_cost_no_more_than_one() {
    assert_eq!(filter_of("motor"), filter_of("MoTor"));
    let (plain, folded) = (filter_of("rpc_proxy|worker"), filter_of("(?i)rpc_proxy|(?i)worker"));
    assert!(folded.transitions.len() < 3 * plain.transitions.len(), "K has a third form, the Kelvin sign");
}

#[test]
fn what_requires_no_text_lets_everything_through() {
    for pattern in ["[a-z]+[!-~]", r"\d{4}", "\u{fffd}bin", "(foo|[a-z]+)x*", "[^a]b*[!-~]"] {
        assert!(filter_of(pattern).pass_all, "{pattern}");
    }
    assert!(filter_of("[a-z]").pass_all);
    for rule in ["exe = 'x'", "uid = 5", "comm = '[a-z]{2}', cgroup = 'x'"] {
        let filter = KernelFilter::new(&settings(&format!("rules = [{{role = 'group', {rule}}}]")));
        assert!(filter.pass_all && filter.accepts(b"", b""), "{rule}");
    }
}

#[test]
fn nothing_to_match_lets_nothing_through() {
    for toml in
        ["group_pids = [5]", "rules = [{role = 'ignore', uid = 5}]", "group_patterns = ['x[^\\s\\S]']"]
    {
        let filter = KernelFilter::new(&settings(toml));
        check_table(&filter);
        assert!(!filter.pass_all && !filter.accepts(b"x", &arguments("x y z 5")), "{toml}");
    }
}

#[test]
fn a_rule_is_filtered_by_the_condition_that_tells_more() {
    let rule = "rules = [{role = 'group', comm = 'py', cmdline = 'EngineCore|vllm serve', exe = 'x'}]";
    let filter = KernelFilter::new(&settings(rule));
    assert!(!filter.accepts(b"python", &arguments("python foo.py")));
    assert!(filter.accepts(b"python", &arguments("python vllm serve")));
}

#[test]
fn separators_and_the_border_of_name_and_arguments_are_one_space() {
    let filter = filter_of("py -m  vllm");
    assert!(!filter.pass_all);
    let seen = |line: &[u8]| filter.accepts(b"py", line);
    assert!(seen(b"-m\0 vllm\0"), "as the rules see it: two spaces, one of them the argument's own");
    assert!(seen(b"\0\0-m\0\0\0vllm\0"), "empty arguments are left out by the rules");
    assert!(!seen(b"-m\0vll\0m\0"));
    assert!(!filter.accepts(b"p", b"y\0-m\0vllm\0"));
}

#[test]
fn too_many_words_become_shorter_ones_and_then_none() {
    let words = |count: u32, tail: &str| {
        let word = |index: u32| format!("{:05x}{tail}", index.wrapping_mul(2_654_435_761) >> 12);
        settings(&format!("group_patterns = ['{}']", (0..count).map(word).collect::<Vec<_>>().join("|")))
    };
    let long = KernelFilter::new(&words(300, "qwertyuiopasdfghjklzxcvbnm"));
    check_table(&long);
    assert!(!long.pass_all && !long.accepts(b"bash", &arguments("bash -c qwertyuiop")));
    assert!(KernelFilter::new(&words(5000, "")).pass_all);
}

/// A piece of a regular expression. The words overlap each other's beginnings and ends, and fold beyond ASCII (k, s).
fn pattern() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "ask",
        "skas",
        "kas a",
        " as",
        "s",
        "a",
        "ab ",
        "[ak]",
        "[a-s]",
        "[^k]",
        ".",
        r"\s",
        r"\w",
        r"\b",
        "^",
        "$",
        "ſ",
        "\u{212a}",
        "é",
        "\u{fffd}",
        r"\x00",
        "  ",
        "aaaaaaaaaa",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            4 => prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            2 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join("|"))),
            1 => inner.clone().prop_map(|part| format!("(?i:{part})")),
            1 => inner.clone().prop_map(|part| format!("(?-u:{part})")),
            2 => (inner, prop::sample::select(vec!["*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{12}"]))
                .prop_map(|(part, times)| format!("(?:{part}){times}")),
        ]
    })
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"ask"[..],
        b"SKAS",
        b"kas",
        b" a",
        b"a",
        b"S",
        b"k",
        b"b",
        b" ",
        b"ab",
        b"\xff",
        b"\xef\xbf",
        b"\xef\xbf\xbd",
        b"aaaaaaaaaa",
        "ſ".as_bytes(),
        "\u{212a}".as_bytes(),
        "é".as_bytes(),
        "É".as_bytes(),
    ]);
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// What the agent makes of a process whose name and arguments the kernel has like this.
fn facts(comm: &[u8], arguments: &[u8]) -> ProcessFacts {
    let comm = String::from_utf8_lossy(comm).into_owned();
    ProcessFacts { pid: 5, comm, cmdline: join_arguments(arguments).into(), ..Default::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_the_rules_match_is_never_rejected(
        patterns in prop::collection::vec(pattern(), 1..4),
        (comm_rule, line_rule) in (prop::option::of(pattern()), pattern()),
        texts in prop::collection::vec((text(), prop::collection::vec(text(), 0..4)), 20),
    ) {
        // Patterns that the settings refuse (they match everything, do not compile) are left out.
        let quoted = |pattern: &String| toml::Value::String(pattern.clone()).to_string();
        let good: Vec<String> = patterns
            .iter()
            .filter(|p| Settings::from_sources(Some(("t.toml", &format!("group_patterns = [{}]", quoted(p)))), Overrides::default()).is_ok())
            .map(quoted)
            .collect();
        let comm = comm_rule.as_ref().map(|comm| format!("comm = {}, ", quoted(comm))).unwrap_or_default();
        let rule = format!("rules = [{{role = 'other', {comm}cmdline = {}}}]\n", quoted(&line_rule));
        let only_rule = Settings::from_sources(Some(("t.toml", &rule)), Overrides::default());
        let only_patterns = format!("other_patterns = [{}]", good.join(", "));
        let only_patterns = Settings::from_sources(Some(("t.toml", &only_patterns)), Overrides::default());
        for settings in [only_rule, only_patterns].into_iter().flatten() {
            let filter = KernelFilter::new(&settings);
            check_table(&filter);
            let rules = Rules::new(settings);
            for (comm, arguments) in &texts {
                let comm = &comm[..comm.len().min(15)];
                let arguments: Vec<u8> = arguments.iter().flat_map(|argument| [argument, &b"\0"[..]].concat()).collect();
                let process = facts(comm, &arguments);
                if rules.process_role(&process).is_some() {
                    prop_assert!(filter.accepts(comm, &arguments), "{:?} {:?}", comm, process);
                    prop_assert!(rules.may_match(&process, false) && rules.may_match(&process, true));
                }
            }
        }
    }

    /// The table finds a literal exactly where a plain search of the normalized text does.
    #[test]
    fn the_automaton_is_a_search(words in prop::collection::btree_set("[a-c]{1,4}( [ab]{1,2})?", 0..8), text in "[a-d \\x00]{0,40}") {
        let literals = words.iter().map(|word| word.as_bytes()).collect();
        let filter = KernelFilter::of_literals(&literals).unwrap();
        let normal = format!("x {text}").replace('\0', " ").split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ") + " ";
        let found = words.iter().any(|word| normal.contains(word.as_str()));
        prop_assert_eq!(filter.accepts(b"x", text.as_bytes()), found);
    }
}
