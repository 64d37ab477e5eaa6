//! The picture holds what the plan says, on machines large and small.

use super::*;
use crate::{
    core::{
        preset,
        settings::{Layout, LayoutSettings},
        synthetic::{Machine, Numbering},
    },
    report::sample,
};

/// `(CPU, classes of its ground, mark)` of every cell.
fn cells(svg: &str) -> Vec<(u32, String, String)> {
    let document = roxmltree::Document::parse(svg).expect("well-formed XML");
    let cell = |group: roxmltree::Node<'_, '_>| {
        let cpu = group.attribute("data-cpu")?.parse().ok()?;
        let ground = group.children().find(|child| child.has_tag_name("rect"))?.attribute("class")?;
        let mark = group.children().find(|child| child.attribute("class") == Some("mark"))?.text()?;
        Some((cpu, ground.to_owned(), mark.to_owned()))
    };
    document.descendants().filter_map(cell).collect()
}

fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).expect("well-formed XML");
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.filter_map(|node| node.text().map(str::to_owned)).collect()
}

fn machines() -> Vec<BindReport> {
    let smt = Machine {
        sockets: 2,
        nodes_per_socket: 4,
        cores_per_node: 9,
        threads_per_core: 2,
        numbering: Numbering::Apart,
        memory_only_nodes: vec![20],
        socket_ids: vec![36, 8442],
        offline: "3,40".parse().expect("a list"),
        isolated: "4-5".parse().expect("a list"),
        ..Machine::default()
    };
    let shared = LayoutSettings { layout: Layout::Shared, ..LayoutSettings::default() };
    vec![
        sample::a3(),
        sample::two_cpus(),
        sample::hostile(),
        sample::plan_only(smt.topology(), &LayoutSettings::default(), 5),
        sample::plan_only(preset::a2(), &shared, 0),
        sample::plan_only(Machine { cores_per_node: 1, ..Machine::default() }.topology(), &shared, 1),
    ]
}

#[test]
fn every_online_cpu_is_there_exactly_once() {
    for report in machines() {
        let mut drawn: Vec<u32> = cells(&bind(&report)).into_iter().map(|cell| cell.0).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, report.topology.online().iter().collect::<Vec<_>>(), "{}", report.topology.source);
    }
}

#[test]
fn cells_show_their_role_in_colour_and_in_writing() {
    let cells = cells(&bind(&sample::a3()));
    let cell =
        |cpu| cells.iter().find(|cell| cell.0 == cpu).map(|(_, class, mark)| (class.as_str(), mark.as_str()));
    assert_eq!(cell(0), Some(("cell g0", "g0")));
    assert_eq!(cell(12), Some(("cell g1", "g1")));
    assert_eq!(cell(40), Some(("cell forward", "f")));
    assert_eq!(cell(160), Some(("cell g0", "g0 o")));
}

#[test]
fn nothing_leaves_the_picture_or_overlaps_another_box() {
    for report in machines() {
        let svg = bind(&report);
        let document = roxmltree::Document::parse(&svg).expect("well-formed XML");
        let size = |name| document.root_element().attribute(name).and_then(|text| text.parse::<u32>().ok());
        let (width, height) = (size("width").expect("width"), size("height").expect("height"));
        let boxes = |class: &str| -> Vec<[u32; 4]> {
            let of_class = document.descendants().filter(|node| {
                node.attribute("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
            });
            let number = |node: &roxmltree::Node<'_, '_>, name| {
                node.attribute(name).and_then(|text| text.parse().ok()).expect("a number")
            };
            of_class.map(|node| ["x", "y", "width", "height"].map(|name| number(&node, name))).collect()
        };
        for class in ["socket", "node"] {
            let all = boxes(class);
            for (index, [x, y, w, h]) in all.iter().enumerate() {
                assert!(x + w <= width && y + h <= height, "{class} {index} of {}", report.topology.source);
                let apart = |[x2, y2, w2, h2]: &[u32; 4]| {
                    x + w <= *x2 || x2 + w2 <= *x || y + h <= *y2 || y2 + h2 <= *y
                };
                assert!(all[index + 1..].iter().all(apart), "{class} {index} of {}", report.topology.source);
            }
        }
        let nodes = boxes("node");
        let inside = |[x, y, w, h]: [u32; 4], [x2, y2, w2, h2]: [u32; 4]| {
            x2 <= x && y2 <= y && x + w <= x2 + w2 && y + h <= y2 + h2
        };
        for cell in boxes("cell").into_iter().filter(|cell| cell[3] == CELL_HEIGHT as u32) {
            assert!(nodes.iter().any(|node| inside(cell, *node)), "{cell:?} of {}", report.topology.source);
        }
    }
}

#[test]
fn instances_are_named_where_they_sit() {
    let texts = texts(&bind(&sample::a3()));
    let at = |text: &str| {
        texts.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text}: {texts:#?}"))
    };
    let first = at("g0: CPUs 0-11 · forward 40-79 · memory 0-1");
    assert_eq!(texts[first + 1], "session:77: 3 processes, 18 threads");
    let others = at("background processes: node 4, CPUs 160-199");
    assert_eq!(texts[others + 1], "Motor (1)");
}

#[test]
fn hostile_names_stay_text() {
    let svg = bind(&sample::hostile());
    assert!(!svg.contains("<script"));
    assert!(!svg.chars().any(|c| c != '\n' && escape::is_hidden(c)));
}
