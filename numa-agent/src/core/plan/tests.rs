//! The plan on machines of every shape we know of, and on random ones.

use proptest::prelude::*;

use super::{machine::Machine, *};
use crate::core::preset;

fn set(text: &str) -> CpuSet {
    text.parse().expect("a good list")
}

fn generic() -> LayoutSettings {
    LayoutSettings { policy: PolicyChoice::Generic, ..LayoutSettings::default() }
}

fn paired() -> LayoutSettings {
    LayoutSettings { policy: PolicyChoice::Paired, ..LayoutSettings::default() }
}

fn a3() -> Machine {
    Machine { cluster_cores: 4, ..Machine::grid(4, 2, 40) }
}

fn plan(machine: &Machine, settings: &LayoutSettings, instances: usize) -> Plan {
    Plan::new(&machine.build(), settings, instances).expect("a plan")
}

fn refused(machine: &Machine, settings: &LayoutSettings) -> String {
    Plan::new(&machine.build(), settings, 1).expect_err("no plan").to_string()
}

/// `primary_cpus forward_cpus mem_nodes` of each group on `socket`.
fn places(plan: &Plan, socket: u32) -> Vec<String> {
    let groups = plan.groups.iter().filter(|group| group.socket == socket);
    groups.map(|group| format!("{} {} {}", group.primary_cpus, group.forward_cpus, group.mem_nodes)).collect()
}

#[test]
fn a3_is_the_guides_layout_by_whole_clusters() {
    let plan = Plan::new(&preset::a3(), &LayoutSettings::default(), 0).expect("a plan");
    assert_eq!(plan.policy, Policy::Paired);
    assert_eq!(
        places(&plan, 0),
        ["0-11 40-79 0-1", "12-23 40-79 0-1", "24-31 40-79 0-1", "32-39 40-79 0-1"],
        "ten clusters of four over four groups"
    );
    assert_eq!(places(&plan, 3)[0], "240-251 280-319 6-7");
    assert_eq!(plan.others, Others { socket: 2, node: 4, cpus: set("160-199") });
    assert_eq!(plan.groups.len(), 16);
    assert_eq!(plan.groups[5].name, "socket1_group1");
    assert!(plan.groups.iter().all(|group| group.align == Align::Cluster));
    assert_eq!(plan.warnings, Vec::<String>::new());
    let slots: Vec<&str> = plan.slots().iter().take(5).map(|group| group.name.as_str()).collect();
    assert_eq!(
        slots,
        ["socket0_group0", "socket1_group0", "socket2_group0", "socket3_group0", "socket0_group1"]
    );
}

#[test]
fn a3_without_alignment_has_even_tens() {
    for align in [Align::None, Align::Core] {
        let settings = LayoutSettings { align: Some(align), ..LayoutSettings::default() };
        let plan = plan(&a3(), &settings, 0);
        assert_eq!(
            places(&plan, 0),
            ["0-9 40-79 0-1", "10-19 40-79 0-1", "20-29 40-79 0-1", "30-39 40-79 0-1"]
        );
    }
}

#[test]
fn a3_shared_gives_every_group_the_node_without_limit() {
    let settings = LayoutSettings {
        layout: Layout::Shared,
        groups_per_socket: Some(100),
        align: Some(Align::Cluster),
        ..LayoutSettings::default()
    };
    let plan = plan(&a3(), &settings, 0);
    assert_eq!(plan.groups.len(), 400);
    assert!(plan.groups.iter().filter(|g| g.socket == 1).all(|g| g.primary_cpus == set("80-119")));
}

#[test]
fn a2_divides_24_cores_by_four() {
    let plan = Plan::new(&preset::a2(), &LayoutSettings::default(), 0).expect("a plan");
    assert_eq!(places(&plan, 0), ["0-7 24-47 0-1", "8-15 24-47 0-1", "16-19 24-47 0-1", "20-23 24-47 0-1"]);
    assert_eq!(plan.others.cpus, set("96-119"));
}

#[test]
fn one_node_a_socket_uses_the_groups_own_cpus_for_forward_threads() {
    let plan = plan(&Machine::grid(2, 1, 8), &LayoutSettings::default(), 3);
    assert_eq!(plan.policy, Policy::Generic);
    assert_eq!(
        places(&plan, 0),
        ["0-3 0-3 0", "4-7 4-7 0"],
        "three instances over two sockets need two each"
    );
    assert_eq!(places(&plan, 1), ["8-11 8-11 1", "12-15 12-15 1"]);
    assert!(plan.groups.iter().all(|group| group.secondary_node == group.primary_node));
    assert_eq!(plan.others, Others { socket: 0, node: 0, cpus: set("0-7") });
}

#[test]
fn two_cpus_on_one_node_take_any_number_of_instances() {
    let quiet = plan(&Machine::grid(1, 1, 2), &LayoutSettings::default(), 0);
    assert_eq!(places(&quiet, 0), ["0-1 0-1 0"]);
    let busy = plan(&Machine::grid(1, 1, 2), &LayoutSettings::default(), 5);
    assert_eq!(places(&busy, 0), ["0 0 0", "1 1 0"]);
    assert!(busy.warnings[0].contains("planning 2"), "{:?}", busy.warnings);
    assert!(busy.warnings[1].contains("5 instances share 2 groups"), "{:?}", busy.warnings);
}

#[test]
fn snc2_is_a_pair_and_its_default_others_socket_falls_back() {
    let machine = Machine { threads: 2, ..Machine::grid(2, 2, 8) };
    let plan = plan(&machine, &LayoutSettings::default(), 0);
    assert_eq!(plan.policy, Policy::Paired);
    assert_eq!(places(&plan, 1)[0], "16-17,48-49 24-31,56-63 2-3", "whole cores, both hardware threads");
    assert_eq!((plan.others.socket, plan.others.node), (1, 2));
    assert!(plan.warnings[0].contains("index 2"), "{:?}", plan.warnings);
}

#[test]
fn nps4_deals_groups_over_the_four_nodes() {
    let settings = LayoutSettings { groups_per_socket: Some(6), ..LayoutSettings::default() };
    let plan = plan(&Machine::grid(2, 4, 4), &settings, 0);
    assert_eq!(plan.policy, Policy::Generic);
    assert_eq!(
        places(&plan, 0),
        ["0-1 4-7 0-1", "4-5 0-3 0-1", "8-11 4-7 1-2", "12-15 8-11 2-3", "2-3 4-7 0-1", "6-7 0-3 0-1"],
        "node 1 is as near to 0 as to 2: the tie goes to the lower id"
    );
}

#[test]
fn explicit_paired_uses_the_first_two_of_four_nodes_and_says_so() {
    let plan = plan(&Machine::grid(2, 4, 4), &paired(), 0);
    assert_eq!(places(&plan, 1)[0], "16 20-23 4-5");
    assert!(plan.warnings[0].contains("socket 0 has 4 nodes"), "{:?}", plan.warnings);
}

#[test]
fn explicit_paired_without_pairs_is_refused() {
    let message = refused(&Machine::grid(2, 1, 8), &paired());
    assert!(message.contains("socket 0") && message.contains("--policy generic"), "{message}");
}

#[test]
fn missing_distances_are_the_farthest() {
    let machine = Machine { without_distances: set("0-3"), ..Machine::grid(1, 4, 2) };
    let plan = plan(&machine, &LayoutSettings { groups_per_socket: Some(2), ..generic() }, 0);
    let secondaries: Vec<u32> = plan.groups.iter().map(|group| group.secondary_node).collect();
    assert_eq!(secondaries, [1, 0]);
}

#[test]
fn cpu_only_nodes_borrow_the_nearest_memory() {
    let machine = Machine { without_memory: set("0-1"), ..Machine::grid(2, 2, 4) };
    let plan = plan(&machine, &LayoutSettings::default(), 0);
    assert_eq!(places(&plan, 0)[0], "0 4-7 2");
    assert_eq!(places(&plan, 1)[0], "8 12-15 2-3");
    assert!(plan.warnings.iter().any(|w| w.contains("node 2's, the nearest")), "{:?}", plan.warnings);
}

#[test]
fn no_memory_anywhere_is_a_warning() {
    let mut topology = Machine::grid(1, 1, 4).build();
    topology.allowed_mems = NodeSet::new();
    let plan = Plan::new(&topology, &LayoutSettings::default(), 1).expect("a plan");
    assert!(plan.groups[0].mem_nodes.is_empty());
    assert!(plan.warnings[0].contains("no memory policy"), "{:?}", plan.warnings);
}

#[test]
fn memory_only_nodes_host_nothing_and_do_not_break_a_pair() {
    let mut machine = Machine::grid(2, 2, 4);
    machine.nodes.push((None, 4, 0));
    let plan = plan(&machine, &LayoutSettings::default(), 0);
    assert_eq!(plan.policy, Policy::Paired);
    assert!(plan.groups.iter().all(|group| !group.mem_nodes.contains(4)));
}

#[test]
fn sparse_ids_are_kept() {
    let machine = Machine {
        nodes: vec![(Some(36), 0, 4), (Some(8442), 9, 4), (Some(36), 4, 4), (Some(8442), 12, 4)],
        ..Machine::default()
    };
    let plan =
        plan(&machine, &LayoutSettings { others_socket_index: Some(1), ..LayoutSettings::default() }, 0);
    assert_eq!(plan.groups[0].name, "socket36_group0");
    assert_eq!(places(&plan, 36)[3], "3 8-11 0,4");
    assert_eq!(places(&plan, 8442)[0], "4 12-15 9,12");
    assert_eq!((plan.others.socket, plan.others.node), (8442, 9));
}

#[test]
fn offline_cpus_are_left_out_and_shrink_clusters() {
    let machine = Machine { offline: set("0,1,39"), ..a3() };
    let plan = plan(&machine, &LayoutSettings::default(), 0);
    assert_eq!(places(&plan, 0), ["2-11 40-79 0-1", "12-23 40-79 0-1", "24-31 40-79 0-1", "32-38 40-79 0-1"]);
}

#[test]
fn only_what_the_cgroup_allows_is_planned() {
    let machine = Machine { allowed: Some(set("0-19,40-43,80-99")), ..a3() };
    let plan = plan(&machine, &LayoutSettings::default(), 4);
    assert_eq!(plan.policy, Policy::Generic, "socket 1 has lost its second node");
    assert_eq!(places(&plan, 0), ["0-19 40-43 0-1", "40-43 0-19 0-1"]);
    assert_eq!(places(&plan, 1), ["80-91 80-91 2", "92-99 92-99 2"]);
    assert_eq!(plan.groups.len(), 4, "sockets 2 and 3 have nothing we may use");
    for text in ["socket 1 only node 2", "socket 2 hosts no groups", "socket 3 hosts no groups"] {
        assert!(plan.warnings.iter().any(|warning| warning.contains(text)), "{text}: {:?}", plan.warnings);
    }
}

#[test]
fn an_unusable_machine_is_refused() {
    let machine = Machine { allowed: Some(CpuSet::new()), ..Machine::grid(1, 1, 4) };
    assert!(refused(&machine, &LayoutSettings::default()).contains("allowed by our cgroup"));
}

#[test]
fn a_default_that_does_not_fit_is_reduced_an_explicit_number_is_not() {
    let machine = Machine::grid(2, 2, 3);
    let reduced = plan(&machine, &LayoutSettings::default(), 0);
    assert_eq!(places(&reduced, 0), ["0 3-5 0-1", "1 3-5 0-1", "2 3-5 0-1"]);
    assert!(reduced.warnings[0].ends_with("planning 3"), "{:?}", reduced.warnings);

    let explicit = LayoutSettings { groups_per_socket: Some(4), ..LayoutSettings::default() };
    let message = refused(&machine, &explicit);
    assert_eq!(
        message,
        "socket 0: 4 groups a socket put 4 on node 0, which has 3 usable CPUs; at most 3 groups a socket fit \
         (--groups-per-socket); --layout shared lifts the limit"
    );
}

#[test]
fn a_small_node_limits_the_groups_only_from_its_turn_on() {
    let machine = Machine { nodes: vec![(Some(0), 0, 2), (Some(0), 1, 1)], ..Machine::default() };
    let ask = |count| LayoutSettings { groups_per_socket: Some(count), ..generic() };
    assert_eq!(places(&plan(&machine, &ask(3), 0), 0), ["0 2 0-1", "2 0-1 0-1", "1 2 0-1"]);
    let message = refused(&machine, &ask(4));
    assert!(message.contains("put 2 on node 1, which has 1 usable CPU; at most 3 groups"), "{message}");
}

#[test]
fn an_explicit_alignment_limits_the_groups() {
    let settings = LayoutSettings {
        align: Some(Align::Cluster),
        groups_per_socket: Some(11),
        ..LayoutSettings::default()
    };
    let message = refused(&a3(), &settings);
    assert!(message.contains("10 usable clusters") && message.contains("--align none"), "{message}");
    let message = refused(&Machine::grid(4, 2, 4), &LayoutSettings { groups_per_socket: None, ..settings });
    assert!(message.contains("no usable cluster;"), "{message}");
}

#[test]
fn default_alignment_is_the_largest_unit_that_goes_round() {
    let machine = Machine { threads: 2, cluster_cores: 2, ..Machine::grid(1, 1, 4) };
    for (groups, align) in [(2, Align::Cluster), (3, Align::Core), (5, Align::None)] {
        let plan = plan(&machine, &LayoutSettings { groups_per_socket: Some(groups), ..generic() }, 0);
        assert!(plan.groups.iter().all(|group| group.align == align), "{groups} groups: {:?}", plan.groups);
    }
}

#[test]
fn bad_others_sockets_are_refused() {
    let ask = |index| LayoutSettings { others_socket_index: Some(index), ..LayoutSettings::default() };
    let message = refused(&a3(), &ask(4));
    assert!(message.contains("the sockets are 0, 1, 2, 3, so the index goes from 0 to 3"), "{message}");
    let machine = Machine { allowed: Some(set("0-79")), ..a3() };
    let message = refused(&machine, &ask(3));
    assert!(message.contains("socket 3, which has no CPU"), "{message}");
}

#[test]
fn isolated_cpus_are_named() {
    let machine = Machine { isolated: set("2-3"), ..Machine::grid(1, 1, 4) };
    let used = LayoutSettings { use_isolated: true, ..LayoutSettings::default() };
    let with = plan(&machine, &used, 0);
    assert!(with.warnings[0].contains("uses isolated CPUs 2-3"), "{:?}", with.warnings);
    assert_eq!(with.groups[0].primary_cpus, set("0-3"));
    let without = plan(&machine, &LayoutSettings::default(), 0);
    let named =
        |warning: &String| warning.contains("CPUs 2-3 are left out") && warning.contains("use_isolated");
    assert!(without.warnings.iter().any(named), "{:?}", without.warnings);
    assert_eq!((&without.groups[0].primary_cpus, &without.others.cpus), (&set("0-1"), &set("0-1")));
    let none_left = Machine { isolated: set("4-7"), ..Machine::grid(1, 2, 4) };
    let message = refused(&none_left, &LayoutSettings::default());
    assert!(message.contains("node 1 of socket 0") && message.contains("4-7"), "{message}");
    assert!(message.contains("--use-isolated"), "{message}");
    assert_eq!(plan(&none_left, &used, 0).groups[0].forward_cpus, set("4-7"));
    // What our cgroup does not allow is not left out by that.
    let elsewhere = Machine { allowed: Some(set("0-3")), ..none_left };
    assert!(!plan(&elsewhere, &generic(), 0).warnings.iter().any(|warning| warning.contains("isolated")));
}

fn machines() -> impl Strategy<Value = Machine> {
    let node = (0u32..5, 1u32..13);
    let small = |max: u32| {
        prop::collection::btree_set(0u32..max, 0..12).prop_map(|ids| ids.into_iter().collect::<CpuSet>())
    };
    let limits = (small(80), small(80), prop::option::of(prop::collection::vec(0u32..120, 1..90)));
    (prop::collection::vec(node, 1..9), 1u32..3, 0u32..5, limits, small(20), small(20), 0u32..2, 1u32..4)
        .prop_map(
            |(
                nodes,
                threads,
                cluster_cores,
                (offline, isolated, allowed),
                without_memory,
                without_distances,
                extra,
                step,
            )| {
                let mut all: Vec<_> = nodes
                    .into_iter()
                    .enumerate()
                    .map(|(index, (socket, cores))| (Some(socket * 7), index as u32 * step, cores))
                    .collect();
                all.extend((0..extra).map(|_| (None, 50, 0)));
                let allowed = allowed.map(|ids| ids.into_iter().collect());
                Machine {
                    nodes: all,
                    threads,
                    cluster_cores,
                    offline,
                    isolated,
                    allowed,
                    without_memory,
                    without_distances,
                }
            },
        )
}

fn settings() -> impl Strategy<Value = LayoutSettings> {
    let policy =
        prop_oneof![Just(PolicyChoice::Auto), Just(PolicyChoice::Paired), Just(PolicyChoice::Generic)];
    let layout = prop_oneof![3 => Just(Layout::Split), 1 => Just(Layout::Shared)];
    let align = prop_oneof![Just(Align::None), Just(Align::Core), Just(Align::Cluster)];
    let numbers = (prop::option::of(0u32..7), prop::option::of(0u32..3));
    (policy, layout, prop::option::of(align), numbers, any::<bool>()).prop_map(
        |(policy, layout, align, (groups_per_socket, others_socket_index), use_isolated)| LayoutSettings {
            use_isolated,
            policy,
            layout,
            align,
            groups_per_socket,
            others_socket_index,
            ..LayoutSettings::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_plan_keeps_the_rules(machine in machines(), settings in settings(), instances in 0usize..40) {
        let topology = machine.build();
        let plan = Plan::new(&topology, &settings, instances);
        prop_assert_eq!(&plan, &Plan::new(&topology, &settings, instances), "same input, same plan");
        let Ok(plan) = plan else { return Ok(()) };

        let isolated = if settings.use_isolated { CpuSet::new() } else { topology.isolated.clone() };
        let usable = topology.online().intersection(&topology.allowed).difference(&isolated);
        let names: std::collections::BTreeSet<_> = plan.groups.iter().map(|group| &group.name).collect();
        prop_assert_eq!(names.len(), plan.groups.len());
        prop_assert!(plan.others.cpus.is_subset(&usable) && !plan.others.cpus.is_empty());
        for group in &plan.groups {
            for cpus in [&group.primary_cpus, &group.forward_cpus] {
                prop_assert!(!cpus.is_empty() && cpus.is_subset(&usable), "{}", group.name);
            }
            prop_assert!(group.mem_nodes.is_subset(&topology.memory_nodes()));
            prop_assert!(!group.mem_nodes.is_empty() || topology.memory_nodes().is_empty());
            let on = |node| topology.node(node).expect("a node").cpus.clone();
            prop_assert!(group.primary_cpus.is_subset(&on(group.primary_node)));
            prop_assert!(group.forward_cpus.is_subset(&on(group.secondary_node)));
        }

        for socket in &topology.sockets {
            let counts = plan.groups.iter().filter(|group| group.socket == socket.id).count();
            let hosts = socket.nodes.iter().any(|node| !node.cpus.intersection(&usable).is_empty());
            prop_assert_eq!(counts > 0, hosts, "socket {} hosts groups if it can", socket.id);
            for node in &socket.nodes {
                let cpus = node.cpus.intersection(&usable);
                let groups: Vec<&Group> =
                    plan.groups.iter().filter(|g| (g.socket, g.primary_node) == (socket.id, node.id)).collect();
                if groups.is_empty() {
                    continue;
                }
                if plan.layout == Layout::Shared {
                    prop_assert!(groups.iter().all(|group| group.primary_cpus == cpus));
                    continue;
                }
                let sum: usize = groups.iter().map(|group| group.primary_cpus.len()).sum();
                let union = groups.iter().fold(CpuSet::new(), |all, group| all.union(&group.primary_cpus));
                prop_assert_eq!(&union, &cpus, "the groups cover the node");
                prop_assert_eq!(sum, cpus.len(), "and are disjoint");

                let align = groups[0].align;
                prop_assert!(settings.align.is_none_or(|asked| asked == align));
                let units = match align {
                    Align::None => cpus.iter().map(|cpu| [cpu].into_iter().collect()).collect(),
                    Align::Core => topology.cores_of(&cpus),
                    Align::Cluster => topology.clusters_of(&cpus),
                };
                let held = |group: &Group| units.iter().filter(|unit| unit.is_subset(&group.primary_cpus)).count();
                let sizes: Vec<usize> = groups.iter().map(|group| held(group)).collect();
                prop_assert_eq!(sizes.iter().sum::<usize>(), units.len(), "no unit is cut");
                prop_assert!(sizes.windows(2).all(|pair| pair[0] >= pair[1]), "larger first: {:?}", sizes);
                prop_assert!(sizes[0] - sizes[sizes.len() - 1] <= 1, "even: {:?}", sizes);
            }
        }
    }
}
