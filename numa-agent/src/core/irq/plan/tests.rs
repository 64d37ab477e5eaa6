use super::*;
use crate::core::{irq::reserve::Reserve, preset::Preset, settings::LayoutSettings};

fn irq(number: u32, name: &str) -> Irq {
    Irq {
        number,
        name: name.to_owned(),
        affinity: Some("0-319".parse().unwrap()),
        effective: Some("0".parse().unwrap()),
        ..Irq::default()
    }
}

fn device(
    address: &str,
    kind: Kind,
    node: Option<u32>,
    names: &[&str],
    irqs: std::ops::Range<u32>,
) -> Device {
    let names = names.iter().map(ToString::to_string).collect();
    Device { address: address.to_owned(), kind, node, names, irqs: irqs.collect() }
}

fn queue(interface: &str, address: &str, side: Side, index: u32) -> Queue {
    Queue {
        interface: interface.to_owned(),
        address: address.to_owned(),
        side,
        index,
        cpus: Some(CpuSet::new()),
    }
}

/// An A3 host with an NPU on nodes 0 and 7, a network card on node 1, an NVMe disk without a node, and what every machine has.
fn host() -> Inventory {
    let mut found = Inventory::default();
    let mut irqs = vec![irq(3, "arch_timer"), irq(9, "acpi"), irq(40, "pciehp"), irq(99, "")];
    for first in [2700, 2800] {
        let names = ["mailbox", "trs-mbox0", "sq_send_trigger_irq", "cq_update_irq"];
        irqs.extend(names.iter().enumerate().map(|(at, name)| irq(first + at as u32, name)));
    }
    irqs.extend((0..4).map(|queue| irq(500 + queue, &format!("hns3-0000:7d:00.0-TxRx-{queue}"))));
    irqs.extend(
        (0..2).map(|queue| Irq { managed: Some(queue > 0), ..irq(600 + queue, &format!("nvme0q{queue}")) }),
    );
    irqs[0].affinity = None;
    found.irqs = irqs.into_iter().map(|irq| (irq.number, irq)).collect();
    found.devices = vec![
        device("0000:7d:00.0", Kind::Network, Some(1), &["eth0"], 500..504),
        device("0000:81:00.0", Kind::Storage, None, &["nvme0"], 600..602),
        device("0000:c1:00.0", Kind::Npu, Some(0), &["davinci0"], 2700..2704),
        device("0000:c2:00.0", Kind::Npu, Some(7), &["davinci7"], 2800..2804),
        device("0000:00:08.0", Kind::Other, Some(0), &[], 40..41),
    ];
    for index in 0..4 {
        found.queues.push(queue("eth0", "0000:7d:00.0", Side::Receive, index));
        found.queues.push(queue("eth0", "0000:7d:00.0", Side::Send, index));
    }
    found.local.insert("IPI0".into(), "Rescheduling interrupts".into());
    found
}

fn planned(reserve: Reserve, choice: &Choice) -> IrqPlan {
    let topology = Preset::A3.topology();
    let settings = LayoutSettings { reserve, ..LayoutSettings::default() };
    let groups = Plan::new(&topology, &settings, 0).unwrap();
    plan(&topology, &groups, &settings.reserve.on(&topology), &host(), choice)
}

fn cpu_of(plan: &IrqPlan, irq: u32) -> u32 {
    let place = plan.places.iter().find(|place| place.irq == irq).unwrap_or_else(|| panic!("IRQ {irq}"));
    assert_eq!(place.planned.len(), 1, "one interrupt, one CPU");
    place.planned.first().unwrap()
}

#[test]
fn each_device_is_served_on_its_socket_and_off_forward_threads() {
    let plan = planned(Reserve::default(), &Choice::default());
    assert_eq!(plan.places.len(), 14);
    // The NPUs come first, and of each its busiest.
    assert_eq!([2702, 2703, 2700, 2701].map(|irq| cpu_of(&plan, irq)), [0, 1, 2, 3]);
    assert_eq!([2802, 2803, 2800, 2801].map(|irq| cpu_of(&plan, irq)), [240, 241, 242, 243]);
    // Node 1 is all forward threads': its card's interrupts go on where the NPU's ended.
    assert_eq!([500, 501, 502, 503].map(|irq| cpu_of(&plan, irq)), [4, 5, 6, 7]);
    assert_eq!([600, 601].map(|irq| cpu_of(&plan, irq)), [160, 161], "with the background processes");
    assert!(plan.places.iter().any(|place| place.irq == 601 && place.managed));
    assert!(
        plan.warnings.iter().any(|warning| warning.contains("share CPUs 0-39 with groups")),
        "{:?}",
        plan.warnings
    );
    assert!(plan.warnings.iter().any(|warning| warning.contains("not known")), "{:?}", plan.warnings);
}

#[test]
fn what_is_set_aside_takes_them_all_and_leaves_no_warning() {
    let reserve = Reserve { per_socket: 2, ..Reserve::default() };
    let npus = Choice { device: Some(Regex::new("npu").unwrap()), ..Choice::default() };
    let plan = planned(reserve.clone(), &npus);
    assert_eq!([2702, 2703, 2700, 2701].map(|irq| cpu_of(&plan, irq)), [38, 39, 38, 39]);
    assert_eq!([2802, 2803].map(|irq| cpu_of(&plan, irq)), [278, 279]);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let whole = planned(reserve, &Choice::default());
    assert!(
        whole.queues.iter().filter(|queue| queue.file.contains("rps")).all(|queue| queue.planned.is_empty())
    );
}

#[test]
fn packets_are_spread_only_over_free_cpus_that_have_no_queue() {
    let rps = |per_socket| {
        let plan = planned(Reserve { per_socket, ..Reserve::default() }, &Choice::default());
        let queues: BTreeSet<String> = plan
            .queues
            .iter()
            .filter(|queue| queue.file.contains("rps"))
            .map(|queue| queue.planned.to_string())
            .collect();
        assert_eq!(queues.len(), 1);
        queues.into_iter().next().unwrap()
    };
    assert_eq!(rps(0), "", "group processes have those CPUs");
    assert_eq!(rps(4), "", "four queues, four CPUs");
    assert_eq!(rps(8), "32-39");
}

#[test]
fn a_nodes_cpus_share_the_send_queues() {
    let plan = planned(Reserve::default(), &Choice::default());
    let send: Vec<CpuSet> = plan
        .queues
        .iter()
        .filter(|queue| queue.file.contains("xps"))
        .map(|queue| queue.planned.clone())
        .collect();
    assert_eq!(send.len(), 4);
    assert_eq!(send.iter().map(CpuSet::len).sum::<usize>(), 40);
    let all = send.iter().fold(CpuSet::new(), |all, queue| all.union(queue));
    assert_eq!(all.to_string(), "40-79", "the card's node, forward threads or not: they are who sends");
}

#[test]
fn a_choice_changes_nothing_but_what_is_shown() {
    let all = planned(Reserve::default(), &Choice::default());
    let card = Choice { device: Some(Regex::new("eth0|hns3").unwrap()), ..Choice::default() };
    let some = planned(Reserve::default(), &card);
    assert_eq!(some.places.len(), 4);
    assert!(some.places.iter().all(|place| all.places.contains(place)));
    let one = planned(Reserve::default(), &Choice { irqs: [2803, 9].into(), ..Choice::default() });
    assert_eq!(one.places.iter().map(|place| place.irq).collect::<Vec<_>>(), [2803]);
    assert_eq!(cpu_of(&one, 2803), cpu_of(&all, 2803));
    assert!(one.queues.is_empty());
    assert!(one.warnings.iter().any(|warning| warning.contains("IRQ 9")), "{:?}", one.warnings);
}

#[test]
fn what_is_left_alone_is_named_with_its_reason() {
    let plan = planned(Reserve::default(), &Choice::default());
    let why = |irq: &str| plan.left.iter().find(|left| left.irq == irq).map(|left| left.why);
    assert_eq!(why("3"), Some("its CPUs cannot be set"));
    assert_eq!(why("9"), Some("no PCI device's"));
    assert_eq!(why("40"), Some("a device of a kind that no plan cares for"));
    assert_eq!(why("IPI0"), Some("each CPU's own"));
    assert_eq!(why("99"), None, "nobody's, and it never came");
    assert_eq!(why("500"), None);
}

#[test]
fn npu_interrupts_are_known_by_name_where_no_device_lists_them() {
    let mut found = host();
    found.devices.retain(|device| device.kind != Kind::Npu);
    let topology = Preset::A3.topology();
    let groups = Plan::new(&topology, &LayoutSettings::default(), 0).unwrap();
    let numbers = |found: &Inventory| -> Vec<(u32, Option<u32>)> {
        let plan = plan(&topology, &groups, &CpuSet::new(), found, &Choice::default());
        let npus = plan.places.iter().filter(|place| place.device.contains("npu"));
        npus.map(|place| (place.irq, place.planned.first())).collect()
    };
    assert_eq!(
        numbers(&found),
        [2702, 2703, 2802, 2803, 2701, 2801]
            .iter()
            .zip(160..)
            .map(|(irq, cpu)| (*irq, Some(cpu)))
            .collect::<Vec<_>>()
    );
    found.irqs.values_mut().for_each(|irq| irq.node = Some(2));
    assert_eq!(numbers(&found)[0], (2702, Some(80)));
}
