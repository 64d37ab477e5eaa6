//! What the kernel says of a process's BPF programs and maps, in the `fdinfo` of its descriptors; their names by `bpf(2)`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// A program, and its runs while the kernel's run statistics were on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
    /// Nanoseconds of all runs.
    pub run_time_ns: u64,
    /// How often it ran.
    pub run_count: u64,
}

/// A map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Map {
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
    /// Room for so many elements.
    pub max_entries: u64,
    /// Bytes of kernel memory.
    pub memlock: u64,
}

/// Descriptors of a process that attach programs to something, BPF links and perf events; a measure of how far it got.
///
/// # Errors
/// If the process is gone.
pub fn attachments(pid: u32) -> Result<usize> {
    let kinds = ["bpf_link", "bpf-link", "bpf-raw-tracepoint", "[perf_event]"];
    Ok(descriptors(pid)?.iter().filter(|(_, target)| kinds.iter().any(|kind| target.ends_with(kind))).count())
}

/// The programs that a process has descriptors of, by id.
///
/// # Errors
/// If the process is gone, or the kernel does not tell names.
pub fn programs(pid: u32) -> Result<BTreeMap<u32, Program>> {
    let mut programs = BTreeMap::new();
    for fields in infos(pid, "bpf-prog")? {
        let Some(id) = fields.number("prog_id") else { continue };
        let number = |key| fields.number(key).unwrap_or(0);
        let (run_time_ns, run_count) = (number("run_time_ns"), number("run_cnt"));
        programs.insert(id as u32, Program { name: String::new(), run_time_ns, run_count });
    }
    for info in aya::programs::loaded_programs() {
        let info = info.context("cannot list the kernel's BPF programs")?;
        if let Some(program) = programs.get_mut(&info.id()) {
            program.name = info.name_as_str().unwrap_or("?").to_owned();
        }
    }
    Ok(programs)
}

/// The maps that a process has descriptors of, largest first.
///
/// # Errors
/// If the process is gone, or the kernel does not tell names.
pub fn maps(pid: u32) -> Result<Vec<Map>> {
    let mut maps = BTreeMap::new();
    for fields in infos(pid, "bpf-map")? {
        let Some(id) = fields.number("map_id") else { continue };
        let number = |key| fields.number(key).unwrap_or(0);
        let (max_entries, memlock) = (number("max_entries"), number("memlock"));
        maps.insert(id as u32, Map { name: String::new(), max_entries, memlock });
    }
    for info in aya::maps::loaded_maps() {
        let info = info.context("cannot list the kernel's BPF maps")?;
        if let Some(map) = maps.get_mut(&info.id()) {
            map.name = info.name_as_str().unwrap_or("?").to_owned();
        }
    }
    let mut maps: Vec<Map> = maps.into_values().collect();
    maps.sort_by(|a, b| b.memlock.cmp(&a.memlock).then_with(|| a.name.cmp(&b.name)));
    Ok(maps)
}

/// What ran between two looks: those programs that are in both.
#[must_use]
pub fn ran(before: &BTreeMap<u32, Program>, after: &BTreeMap<u32, Program>) -> Vec<Program> {
    let ran = |(id, after): (&u32, &Program)| {
        let before = before.get(id)?;
        Some(Program {
            name: after.name.clone(),
            run_time_ns: after.run_time_ns.checked_sub(before.run_time_ns)?,
            run_count: after.run_count.checked_sub(before.run_count)?,
        })
    };
    after.iter().filter_map(ran).collect()
}

/// The lines of an `fdinfo` file.
struct Fields(String);

impl Fields {
    /// The number behind `key`.
    fn number(&self, key: &str) -> Option<u64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        value.trim().parse().ok()
    }
}

/// The `fdinfo` of each descriptor of that kind.
fn infos(pid: u32, kind: &str) -> Result<Vec<Fields>> {
    let of_kind = descriptors(pid)?.into_iter().filter(|(_, target)| target.ends_with(kind));
    let read = |(fd, _): (String, String)| fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok();
    // A descriptor that was closed meanwhile is none.
    Ok(of_kind.filter_map(read).map(Fields).collect())
}

/// Number and target of each descriptor.
fn descriptors(pid: u32) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(Path::new(&path)).with_context(|| format!("cannot list {path}"))?;
    let target = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        Some((entry.file_name().to_str()?.to_owned(), target))
    };
    Ok(entries.filter_map(Result::ok).filter_map(target).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let text = "pos:\t0\nprog_type:\t26\nprog_id:\t12\nrun_time_ns:\t3400\nrun_cnt:\t40\nrun_cnt_x:\t1\n";
        let fields = Fields(text.to_owned());
        assert_eq!(fields.number("prog_id"), Some(12));
        assert_eq!((fields.number("run_time_ns"), fields.number("run_cnt")), (Some(3400), Some(40)));
        assert_eq!((fields.number("run"), fields.number("memlock")), (None, None));
    }

    #[test]
    fn only_what_was_there_all_the_time_ran() {
        let program = |run_time_ns, run_count| Program { name: "switch".to_owned(), run_time_ns, run_count };
        let before = BTreeMap::from([(1, program(100, 2)), (2, program(0, 0))]);
        let after = BTreeMap::from([(1, program(700, 5)), (3, program(9, 9))]);
        assert_eq!(ran(&before, &after), [program(600, 3)]);
    }

    #[test]
    fn a_process_without_programs_has_none() {
        assert_eq!(attachments(std::process::id()).unwrap(), 0);
        assert!(infos(std::process::id(), "bpf-prog").unwrap().is_empty());
        assert!(attachments(u32::MAX).is_err());
    }
}
