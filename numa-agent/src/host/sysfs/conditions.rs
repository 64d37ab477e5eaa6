//! Reads what works against a memory plan: `Documentation/admin-guide/sysctl/{kernel,vm}.rst`,
//! `Documentation/admin-guide/mm/transhuge.rst`, each node's `meminfo`, `Documentation/accounting/psi.rst`.

use std::path::Path;

use procfs::FromBufRead;

use super::{NODE, SysfsError, tree::Tree};
use crate::core::memory::conditions::{Conditions, NodeRoom};

/// Reads them below `root`, which stands for `/`. What this kernel does not have is left out.
///
/// # Errors
/// [`SysfsError`], naming the file that is there and makes no sense.
pub fn read(root: &Path) -> Result<Conditions, SysfsError> {
    let tree = Tree { root };
    let setting = |file: &str| -> Result<Option<u32>, SysfsError> {
        Ok(tree.number(&format!("proc/sys/{file}"))?.and_then(|value| u32::try_from(value).ok()))
    };
    let chosen = |file: &str| -> Result<Option<String>, SysfsError> {
        let file = format!("sys/kernel/mm/transparent_hugepage/{file}");
        let Some(text) = tree.text(&file)? else { return Ok(None) };
        // always [madvise] never
        let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        word.map(|(word, _)| Some(word.to_owned()))
            .ok_or_else(|| tree.content(&file, &text, "no word is chosen"))
    };
    Ok(Conditions {
        balancing: setting("kernel/numa_balancing")?,
        zone_reclaim: setting("vm/zone_reclaim_mode")?,
        huge_pages: chosen("enabled")?,
        defrag: chosen("defrag")?,
        nodes: rooms(&tree)?,
        stalled: stalled(&tree)?,
    })
}

fn rooms(tree: &Tree<'_>) -> Result<Vec<NodeRoom>, SysfsError> {
    let mut rooms = Vec::new();
    for id in tree.numbered(&format!("sys/{NODE}"), "node")?.iter() {
        let file = format!("sys/{NODE}/node{id}/meminfo");
        let names = ["MemTotal:", "MemFree:", "Active(file):", "Inactive(file):"];
        let [total, free, active, inactive] = tree.meminfo(&file, names)?;
        if let (Some(total_bytes @ 1..), Some(free_bytes)) = (total, free) {
            let file_bytes = active.unwrap_or(0).saturating_add(inactive.unwrap_or(0));
            rooms.push(NodeRoom { id, total_bytes, free_bytes, file_bytes });
        }
    }
    Ok(rooms)
}

/// A kernel built with PSI and booted without it has the file, and refuses to read it (`EOPNOTSUPP`).
fn stalled(tree: &Tree<'_>) -> Result<Option<f64>, SysfsError> {
    let file = "proc/pressure/memory";
    let Ok(Some(text)) = tree.text(file) else { return Ok(None) };
    let pressure = procfs::MemoryPressure::from_buf_read(text.as_bytes());
    let pressure = pressure.map_err(|error| tree.content(file, &text, &error.to_string()))?;
    Ok(Some(f64::from(pressure.some.avg60)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const MEMINFO: &str = "Node 5 MemTotal: 1024 kB\nNode 5 MemFree: 512 kB\nNode 5 Active(file): 3 kB\n\
                           Node 5 Inactive(file): 4 kB\n";

    #[test]
    fn a_machine_is_read() {
        let dir = tree(&[
            ("proc/sys/kernel/numa_balancing", "1\n"),
            ("proc/sys/vm/zone_reclaim_mode", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/transparent_hugepage/defrag", "[always] defer defer+madvise madvise never\n"),
            ("sys/devices/system/node/node5/meminfo", MEMINFO),
            ("sys/devices/system/node/node6/meminfo", "Node 6 MemTotal: 0 kB\nNode 6 MemFree: 0 kB\n"),
            (
                "proc/pressure/memory",
                "some avg10=0.00 avg60=2.50 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=1\n",
            ),
        ]);
        let node = NodeRoom { id: 5, total_bytes: 1 << 20, free_bytes: 1 << 19, file_bytes: 7 << 10 };
        let expected = Conditions {
            balancing: Some(1),
            zone_reclaim: Some(0),
            huge_pages: Some("madvise".into()),
            defrag: Some("always".into()),
            nodes: vec![node],
            stalled: Some(2.5),
        };
        assert_eq!(read(dir.path()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_there_is_left_out_and_nonsense_is_named() {
        assert_eq!(read(tree(&[]).path()).unwrap(), Conditions::default());
        for (file, text) in [
            ("proc/sys/kernel/numa_balancing", "yes"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always"),
            ("sys/devices/system/node/node5/meminfo", "Node 5 MemTotal: much kB"),
            ("proc/pressure/memory", "none"),
        ] {
            let error = read(tree(&[(file, text)]).path()).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains("holds"), "{error}");
        }
    }

    #[test]
    fn this_machine_is_read() {
        let conditions = read("/".as_ref()).unwrap();
        assert!(
            !conditions.nodes.is_empty() || !Path::new("/sys/devices/system/node").exists(),
            "{conditions:?}"
        );
    }
}
