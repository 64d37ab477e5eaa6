//! What `numa-agent topology` prints: the machine as text in the manner of `numactl -H` and `lscpu`, and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{escape, table::Table};
use crate::core::{
    idset::{CpuSet, IdSet},
    topology::{Node, Topology},
};

/// The machine for people. A line for each node, also on hundreds of CPUs.
#[must_use]
pub fn text(topology: &Topology) -> String {
    let sections = [Some(summary(topology)), Some(nodes(topology)), distances(topology), warnings(topology)];
    sections.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// The machine for programs, `"schema": 1`. Sets are kernel lists (`0-9,12`), sizes bytes, and `null` is unknown.
#[must_use]
pub fn json(topology: &Topology) -> Value {
    let sockets: Vec<Value> = topology
        .sockets
        .iter()
        .map(|socket| {
            let nodes: Vec<Value> =
                socket.nodes.iter().map(|node| json!({"id": node.id, "cpus": node.cpus})).collect();
            json!({"id": socket.id, "nodes": nodes})
        })
        .collect();
    let nodes: Vec<Value> = topology
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id,
                "cpus": node.cpus,
                "memory_bytes": node.memory_bytes,
                "free_bytes": node.free_bytes,
                "distances": node.distances,
                "cores": topology.cores_of(&node.cpus),
                "clusters": topology.clusters_of(&node.cpus),
            })
        })
        .collect();
    let caches: Vec<Value> = caches(topology)
        .into_iter()
        .flat_map(|((level, kind), shared)| {
            shared.into_iter().map(
                move |(cpus, size)| json!({"level": level, "type": kind, "size_bytes": size, "cpus": cpus}),
            )
        })
        .collect();
    json!({
        "schema": 1,
        "source": topology.source,
        "sockets": sockets,
        "nodes": nodes,
        "caches": caches,
        "online": topology.online(),
        "offline": topology.offline,
        "isolated": topology.isolated,
        "nohz_full": topology.nohz_full,
        "allowed": topology.allowed,
        "allowed_mems": topology.allowed_mems,
        "warnings": topology.warnings,
    })
}

fn summary(topology: &Topology) -> String {
    let online = topology.online();
    let cores = topology.cores_of(&online);
    let threads = spread(cores.iter().map(CpuSet::len));
    let smt = match cores.iter().find(|core| core.len() > 1) {
        Some(core) => format!("{threads} threads each (core of CPU {}: {core})", core.first().unwrap_or(0)),
        None => "no SMT".to_owned(),
    };
    let clusters = topology.clusters_of(&online);
    let cluster_line = match clusters.is_empty() {
        true => "none (no level between core and node)".to_owned(),
        false => format!("{} of {} CPUs", clusters.len(), spread(clusters.iter().map(CpuSet::len))),
    };
    let of =
        |bytes: fn(&Node) -> Option<u64>| topology.nodes.iter().filter_map(bytes).reduce(u64::saturating_add);
    let memory = match (of(|node| node.memory_bytes), of(|node| node.free_bytes)) {
        (Some(total), Some(free)) => format!("{}, {} free", size(total), size(free)),
        (total, _) => optional(total),
    };
    let mut lines = vec![
        ("Source", escape::text(&topology.source)),
        ("Sockets", topology.sockets.len().to_string()),
        ("Nodes", format!("{} ({})", topology.nodes.len(), node_ids(topology, |_| true))),
        ("CPUs", format!("{} online ({online})", online.len())),
        ("Cores", format!("{}, {smt}", cores.len())),
        ("Clusters", cluster_line),
    ];
    for ((level, kind), shared) in caches(topology) {
        let sizes: BTreeSet<String> = shared.values().map(|bytes| optional(*bytes)).collect();
        let sizes = sizes.into_iter().collect::<Vec<_>>().join(" or ");
        let users = spread(shared.keys().map(|cpus| cpus.len()));
        let users = if users == "1" { "1 CPU each".to_owned() } else { format!("{users} CPUs each") };
        let name = match kind {
            "Data" => "L1d",
            "Instruction" => "L1i",
            _ => "",
        };
        let label = if level == 1 && !name.is_empty() { name.to_owned() } else { format!("L{level}") };
        let shown = format!("{label:4}{} x {sizes}, {users}", shared.len());
        lines.push(("Cache", escape::text(&shown)));
    }
    lines.push(("Memory", memory));
    let cpuless = node_ids(topology, |node| node.cpus.is_empty());
    let memoryless = node_ids(topology, |node| node.memory_bytes == Some(0));
    let notable = [
        ("Offline", &topology.offline, "CPUs "),
        ("Isolated", &topology.isolated, "CPUs "),
        ("No tick", &topology.nohz_full, "CPUs "),
        ("No CPUs", &cpuless, "nodes "),
        ("No memory", &memoryless, "nodes "),
    ];
    lines.extend(
        notable
            .iter()
            .filter(|(_, set, _)| !set.is_empty())
            .map(|(label, set, what)| (*label, format!("{what}{set}"))),
    );
    if topology.allowed != online {
        let allowed = match topology.allowed.is_empty() {
            true => "no CPU: our cgroup leaves none that is online".to_owned(),
            false => format!("CPUs {} by our cgroup", topology.allowed),
        };
        lines.push(("Allowed", allowed));
    }
    if topology.allowed_mems != node_ids(topology, |node| node.memory_bytes != Some(0)) {
        lines.push(("Allowed", format!("memory of nodes {} by our cgroup", topology.allowed_mems)));
    }
    lines.iter().map(|(label, value)| format!("{label:10}{value}\n")).collect()
}

fn nodes(topology: &Topology) -> String {
    let mut table = Table::new(&["SOCKET", "NODE", "CPUS", "CORES", "CLUSTERS", "MEMORY", "FREE"]);
    let mut row = |socket: String, node: u32, cpus: &CpuSet| {
        let count = |parts: Vec<CpuSet>| if parts.is_empty() { "-".into() } else { parts.len().to_string() };
        let known = topology.node(node);
        table.row([
            socket,
            node.to_string(),
            if cpus.is_empty() { "-".into() } else { cpus.to_string() },
            count(topology.cores_of(cpus)),
            count(topology.clusters_of(cpus)),
            optional(known.and_then(|node| node.memory_bytes)),
            optional(known.and_then(|node| node.free_bytes)),
        ]);
    };
    for socket in &topology.sockets {
        for node in &socket.nodes {
            row(socket.id.to_string(), node.id, &node.cpus);
        }
    }
    for node in topology.nodes.iter().filter(|node| node.cpus.is_empty()) {
        row("-".into(), node.id, &node.cpus);
    }
    table.aligned("")
}

/// The matrix, rows being where the access comes from.
fn distances(topology: &Topology) -> Option<String> {
    if topology.nodes.len() < 2 || topology.nodes.iter().all(|node| node.distances.is_empty()) {
        return None;
    }
    let cells = topology.nodes.iter().flat_map(|node| node.distances.values().copied().chain([node.id]));
    let width = cells.map(|cell| cell.to_string().len()).max().unwrap_or(1) + 2;
    let line = |label: String, cells: &mut dyn Iterator<Item = String>| {
        format!("{label:>width$}{}\n", cells.map(|cell| format!("{cell:>width$}")).collect::<String>())
    };
    let header = line(String::new(), &mut topology.nodes.iter().map(|node| node.id.to_string()));
    let rows = topology.nodes.iter().map(|from| {
        let cell = |to: &Node| from.distances.get(&to.id).map_or("-".to_owned(), u32::to_string);
        line(from.id.to_string(), &mut topology.nodes.iter().map(cell))
    });
    Some(format!("Distances (10 = local)\n{header}{}", rows.collect::<String>()))
}

fn warnings(topology: &Topology) -> Option<String> {
    let lines = topology.warnings.iter().map(|warning| format!("warning: {}\n", escape::text(warning)));
    (!topology.warnings.is_empty()).then(|| lines.collect())
}

/// The distinct caches of a level and type, with their sizes, by the CPUs that share them.
type Shared<'a> = BTreeMap<&'a CpuSet, Option<u64>>;

fn caches(topology: &Topology) -> BTreeMap<(u32, &str), Shared<'_>> {
    let mut caches: BTreeMap<(u32, &str), Shared<'_>> = BTreeMap::new();
    for cache in topology.cpus.iter().flat_map(|cpu| &cpu.caches) {
        let shared = caches.entry((cache.level, &cache.kind)).or_default();
        shared.insert(&cache.shared_cpus, cache.size_bytes);
    }
    caches
}

fn node_ids(topology: &Topology, wanted: impl Fn(&Node) -> bool) -> IdSet {
    topology.nodes.iter().filter(|node| wanted(node)).map(|node| node.id).collect()
}

/// `4`, or `1-2` where the numbers differ.
fn spread(numbers: impl Iterator<Item = usize>) -> String {
    let numbers: BTreeSet<usize> = numbers.collect();
    match (numbers.first(), numbers.last()) {
        (Some(least), Some(most)) if least != most => format!("{least}-{most}"),
        (Some(all), _) => all.to_string(),
        _ => "0".into(),
    }
}

/// A size in the largest unit that leaves at least one before the point.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

fn optional(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        preset,
        synthetic::{Machine, Numbering},
    };

    #[test]
    fn a3_fits_a_screen() {
        let text = text(&preset::a3());
        let expected = "\
Source    preset a3
Sockets   4
Nodes     8 (0-7)
CPUs      320 online (0-319)
Cores     320, no SMT
Clusters  80 of 4 CPUs
Cache     L1d 320 x 64 KiB, 1 CPU each
Cache     L1i 320 x 64 KiB, 1 CPU each
Cache     L2  320 x 512 KiB, 1 CPU each
Cache     L3  8 x 32 MiB, 40 CPUs each
Memory    1 TiB

SOCKET  NODE  CPUS     CORES  CLUSTERS  MEMORY   FREE
0       0     0-39     40     10        128 GiB  -
0       1     40-79    40     10        128 GiB  -
1       2     80-119   40     10        128 GiB  -
1       3     120-159  40     10        128 GiB  -
2       4     160-199  40     10        128 GiB  -
2       5     200-239  40     10        128 GiB  -
3       6     240-279  40     10        128 GiB  -
3       7     280-319  40     10        128 GiB  -

Distances (10 = local)
       0   1   2   3   4   5   6   7
   0  10  12  20  20  20  20  20  20
   1  12  10  20  20  20  20  20  20
   2  20  20  10  12  20  20  20  20
   3  20  20  12  10  20  20  20  20
   4  20  20  20  20  10  12  20  20
   5  20  20  20  20  12  10  20  20
   6  20  20  20  20  20  20  10  12
   7  20  20  20  20  20  20  12  10
";
        assert_eq!(text, expected);
    }

    /// SMT with offline CPUs, a memory-only and a memoryless node, limits and a warning.
    fn odd() -> Topology {
        let machine = Machine {
            sockets: 2,
            threads_per_core: 2,
            numbering: Numbering::Apart,
            memory_only_nodes: vec![9],
            memoryless_nodes: [1].into_iter().collect(),
            offline: "8,15".parse().unwrap(),
            isolated: "3".parse().unwrap(),
            ..Machine::default()
        };
        Topology {
            allowed: "0-3".parse().unwrap(),
            allowed_mems: "0".parse().unwrap(),
            warnings: vec!["odd\x1b[31m".into()],
            ..machine.topology()
        }
    }

    #[test]
    fn what_is_unusual_is_said() {
        let text = text(&odd());
        for line in [
            "CPUs      14 online (0-7,9-14)",
            "Cores     8, 1-2 threads each (core of CPU 1: 1,9)",
            "Clusters  none (no level between core and node)",
            "Offline   CPUs 8,15",
            "Isolated  CPUs 3",
            "No CPUs   nodes 9",
            "No memory nodes 1",
            "Allowed   CPUs 0-3 by our cgroup",
            "Allowed   memory of nodes 0 by our cgroup",
            "-       9     -          -      -         16 GiB  -",
            "warning: odd\\u{1b}[31m",
        ] {
            assert!(text.lines().any(|each| each == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn json_says_all_of_it() {
        let value = json(&odd());
        assert_eq!(value["schema"], 1);
        assert_eq!(value["sockets"][1], json!({"id": 1, "nodes": [{"id": 1, "cpus": "4-7,12-14"}]}));
        let node = &value["nodes"][0];
        assert_eq!(node["cores"], json!(["0", "1,9", "2,10", "3,11"]));
        assert_eq!(node["distances"], json!({"0": 10, "1": 20, "9": 20}));
        assert_eq!((&node["memory_bytes"], &node["free_bytes"]), (&json!(16u64 << 30), &Value::Null));
        assert_eq!(value["nodes"][2]["cpus"], "");
        assert_eq!(
            value["caches"].as_array().unwrap().last(),
            Some(&json!({"level": 3, "type": "Unified", "size_bytes": 32 << 20, "cpus": "4-7,12-14"}))
        );
        for (key, expected) in [
            ("online", "0-7,9-14"),
            ("offline", "8,15"),
            ("isolated", "3"),
            ("nohz_full", ""),
            ("allowed", "0-3"),
            ("allowed_mems", "0"),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(json(&preset::a3())["nodes"][7]["clusters"][9], "316-319");
    }

    #[test]
    fn sizes() {
        let shown = [0, 512, 1536, 48 << 10, 266_240 << 10, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "512 B", "1.5 KiB", "48 KiB", "260 MiB", "16777215.9 TiB"]);
    }
}
