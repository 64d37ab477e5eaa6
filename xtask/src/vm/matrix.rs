//! Which machines there are, and what is run on each. No I/O.

use std::fmt;

use super::{
    Arch,
    kernels::{self, Series},
    topology::{self, Topology},
};

/// One guest: architecture, kernel, shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    pub arch: Arch,
    pub series: Series,
    pub topology: Topology,
}

impl Machine {
    /// What its kernel is known by.
    pub fn key(&self) -> (&'static str, &'static str) {
        (self.arch.name(), self.series.name)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.arch, self.series.name, self.topology.name)
    }
}

/// What was asked for; an empty list is everything.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    pub kernels: &'a [Series],
    pub topologies: &'a [Topology],
    pub arches: &'a [Arch],
}

impl Wanted<'_> {
    fn is_everything(&self) -> bool {
        self.kernels.is_empty() && self.topologies.is_empty() && self.arches.is_empty()
    }

    fn takes(&self, machine: &Machine) -> bool {
        fn has<T: PartialEq>(list: &[T], one: &T) -> bool {
            list.is_empty() || list.contains(one)
        }
        has(self.kernels, &machine.series)
            && has(self.topologies, &machine.topology)
            && has(self.arches, &machine.arch)
    }
}

/// The machines that are `wanted`; unless `all` or something is asked for, those of [`SUBSET`].
pub fn select(wanted: &Wanted<'_>, all: bool) -> Vec<Machine> {
    let few = !all && wanted.is_everything();
    let in_subset =
        |machine: &Machine| SUBSET.contains(&(machine.arch, machine.series.name, machine.topology.name));
    matrix().into_iter().filter(|machine| wanted.takes(machine) && (!few || in_subset(machine))).collect()
}

/// The machines for a kernel of one's own: the usual one, unless others are `wanted`.
pub fn for_own(wanted: &Wanted<'_>) -> Vec<Machine> {
    let arches = if wanted.arches.is_empty() { &[Arch::host()][..] } else { wanted.arches };
    let usual = [topology::ALL[0]];
    let shapes = if wanted.topologies.is_empty() { &usual[..] } else { wanted.topologies };
    let on = |arch: Arch| {
        shapes.iter().map(move |topology| Machine { arch, series: kernels::OWN, topology: *topology })
    };
    arches.iter().flat_map(|arch| on(*arch)).collect()
}

/// What `cargo xtask test` boots: the oldest and the newest kernel, and the other architecture.
const SUBSET: [(Arch, &str, &str); 3] =
    [(Arch::X86_64, "5.10", "a3-mini"), (Arch::X86_64, "7", "a3-mini"), (Arch::Aarch64, "6.1", "a3-mini")];

fn matrix() -> Vec<Machine> {
    let mut machines = Vec::new();
    for arch in Arch::ALL {
        for series in kernels::ALL {
            for topology in topology::ALL {
                let machine = Machine { arch, series, topology };
                if exists(&machine) {
                    machines.push(machine);
                }
            }
        }
    }
    machines
}

/// Not every combination can be had: see `docs/kernels.md`.
fn exists(machine: &Machine) -> bool {
    let kernel = machine.series.name;
    match (machine.arch, machine.topology.name) {
        // Of each large one, one is enough; Debian's 6.1 and older take no more than 256 CPUs on aarch64.
        (arch, "a3") => arch == Arch::Aarch64 && kernel == "6.12",
        (arch, "a3-half") => arch == Arch::Aarch64 && kernel == "6.1",
        // From a device tree, 5.10 takes each cluster for a socket.
        (Arch::Aarch64, "a3-mini" | "snc") => kernel != "5.10",
        _ => true,
    }
}

/// The test programs that are in every guest.
pub const SUITES: [&str; 2] = ["guest", "bpf_live"];

/// Those that run: the ones that the filter begins with, else the first.
pub fn suites(filter: Option<&str>) -> Vec<&'static str> {
    let named: Vec<&str> =
        SUITES.into_iter().filter(|suite| filter.is_some_and(|filter| filter.starts_with(suite))).collect();
    if named.is_empty() { vec![SUITES[0]] } else { named }
}

/// What the names of the tests that the machine is for have in them, one or the other; nothing: it is for all. Hundreds of emulated
/// CPUs take minutes for what others do in seconds.
pub fn only(machine: &Machine) -> &'static [&'static str] {
    if machine.topology.online_later {
        &["topology::", "plan::", "placement::created_execd", "placement::renamed"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subset_is_of_the_matrix() {
        let everything = Wanted::default();
        assert_eq!(select(&everything, false).len(), SUBSET.len());
        assert!(select(&everything, true).len() > 20);
    }

    #[test]
    fn a_suite_runs_by_its_name() {
        assert_eq!(suites(None), ["guest"]);
        assert_eq!(suites(Some("storm")), ["guest"]);
        assert_eq!(suites(Some("bpf_live::tasks")), ["bpf_live"]);
    }

    #[test]
    fn the_large_ones_are_for_few_tests() {
        let machines = select(&Wanted::default(), true);
        let few: Vec<String> =
            machines.iter().filter(|one| !only(one).is_empty()).map(ToString::to_string).collect();
        assert_eq!(few, ["aarch64 6.1 a3-half", "aarch64 6.12 a3"]);
    }

    #[test]
    fn a_kernel_of_ones_own_boots_the_usual_machine_or_what_is_asked_for() {
        let names = |wanted: &Wanted<'_>| for_own(wanted).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&Wanted::default()), [format!("{} own a3-mini", Arch::host())]);
        let shapes = [topology::find("cxl").unwrap(), topology::find("one").unwrap()];
        let wanted = Wanted { topologies: &shapes, arches: &[Arch::Aarch64], ..Wanted::default() };
        assert_eq!(names(&wanted), ["aarch64 own cxl", "aarch64 own one"]);
    }

    #[test]
    fn what_is_asked_for_is_all_of_it() {
        let kernels = [kernels::find("6.1").unwrap()];
        let wanted = Wanted { kernels: &kernels, ..Wanted::default() };
        let machines = select(&wanted, false);
        assert!(machines.iter().all(|machine| machine.series.name == "6.1"));
        assert!(machines.iter().any(|machine| machine.topology.name == "cxl"));
    }
}
