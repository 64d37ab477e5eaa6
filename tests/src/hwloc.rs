//! Sysfs trees of real machines, from the distribution's source package of hwloc (BSD licence), and what hwloc's own
//! tests expect of them. Fetched when a test wants them and kept in cargo's target directory; no copy is in this
//! repository.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use numa_agent::core::idset::CpuSet;

/// Captured machines: a directory with hwloc's `tests/hwloc/linux`, each archive unpacked beside itself.
#[derive(Debug, Clone)]
pub struct Machines {
    dir: PathBuf,
}

/// What hwloc found on a machine: the parts of `lstopo -v` that we model too.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// All PUs.
    pub cpus: CpuSet,
    /// CPUs of each package that has an id. hwloc may tell packages of one id apart by their CPUs; they are one here.
    pub packages: BTreeMap<u32, CpuSet>,
    /// CPUs local to each NUMA node.
    pub nodes: BTreeMap<u32, CpuSet>,
}

/// The captured machines, or a visible `SKIP:` line where they are out of reach.
///
/// # Panics
/// If they are out of reach and `NUMA_AGENT_FORBID_SKIP` is 1.
#[must_use]
pub fn machines_or_skip() -> Option<Machines> {
    match machines() {
        Ok(machines) => Some(machines),
        Err(why) => {
            crate::skip(&format!("real machines' trees (apt-get source hwloc): {why}"));
            None
        }
    }
}

/// The captured machines, fetched if this is the first time.
///
/// # Errors
/// What was out of reach, in words.
pub fn machines() -> Result<Machines, String> {
    // target/debug/deps/test-0123
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = exe.ancestors().nth(3).ok_or("no target directory above the test program")?;
    let dir = target.join("hwloc");
    if !dir.is_dir() {
        // Made whole, then renamed: another test program may be doing the same.
        let work = tempfile::tempdir_in(target).map_err(|error| error.to_string())?;
        fetch(work.path())?;
        let made = unpack(work.path())?;
        match fs::rename(&made, &dir) {
            Err(error) if !dir.is_dir() => return Err(format!("{}: {error}", dir.display())),
            _ => (),
        }
    }
    Ok(Machines { dir })
}

impl Machines {
    /// Every machine's name, sorted.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".tar.bz2").map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The directory that stands for that machine's `/sys`.
    ///
    /// # Errors
    /// If there is none.
    pub fn sys(&self, name: &str) -> io::Result<PathBuf> {
        // The archive's top directory is not always called as the archive.
        let tops = fs::read_dir(self.dir.join(name))?.filter_map(Result::ok);
        let sys = tops.map(|top| top.path().join("sys")).find(|sys| sys.is_dir());
        sys.ok_or_else(|| io::Error::other(format!("{name} has no sys directory")))
    }

    /// What hwloc expects of that machine, where its test has no options that change the answer.
    #[must_use]
    pub fn expected(&self, name: &str) -> Option<Expected> {
        let file = |extension: &str| self.dir.join(format!("{name}.{extension}"));
        if file("options").exists() || file("env").exists() {
            return None;
        }
        Some(parse(&fs::read_to_string(file("output")).ok()?))
    }
}

/// Reads `lstopo -v`: an object a line, children indented below it. A NUMA node is a child without children of its own,
/// local to what its parent holds.
fn parse(text: &str) -> Expected {
    let mut expected = Expected::default();
    // The ancestors of the current line: indentation and index into `held`.
    let mut above: Vec<(usize, usize)> = Vec::new();
    let mut held: Vec<CpuSet> = Vec::new();
    let (mut packages, mut nodes) = (Vec::new(), Vec::new());
    for line in text.lines().take_while(|line| !line.starts_with("depth ")) {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        let kind = line.split([' ', '(']).next().unwrap_or("");
        let id: Option<u32> = line.split_once("(P#").and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok())
        });
        // A memory-side cache stands between a node and the object they are both local to.
        if kind == "MemCache" {
            continue;
        }
        above.retain(|(outer, _)| *outer < indent);
        match (kind, id) {
            ("PU", Some(id)) => {
                expected.cpus.insert(id);
                above.iter().for_each(|(_, index)| held[*index].insert(id));
            }
            ("NUMANode", Some(id)) => nodes.extend(above.last().map(|(_, parent)| (id, *parent))),
            _ => {
                if let ("Package", Some(id)) = (kind, id) {
                    packages.push((id, held.len()));
                }
                above.push((indent, held.len()));
                held.push(CpuSet::new());
            }
        }
    }
    for (id, index) in packages {
        expected.packages.entry(id).or_default().extend(held[index].iter());
    }
    expected.nodes = nodes.into_iter().map(|(id, index)| (id, held[index].clone())).collect();
    expected
}

/// Downloads the source package into `work`, through package lists of our own: the machine's may have no sources, and are
/// not ours to change.
fn fetch(work: &Path) -> Result<(), String> {
    let sources = work.join("sources");
    for dir in [&sources, &work.join("lists/partial"), &work.join("cache/archives/partial")] {
        fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    }
    let mut found = vec![PathBuf::from("/etc/apt/sources.list")];
    found.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()));
    for file in &found {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let lines = text.lines().map(|line| match line.strip_prefix("deb ") {
            Some(rest) => format!("deb-src {rest}\n"),
            None if line.trim_end() == "Types: deb" => "Types: deb-src\n".to_owned(),
            None => format!("{line}\n"),
        });
        let name = file.file_name().unwrap_or_default();
        fs::write(sources.join(name), lines.collect::<String>()).map_err(|error| error.to_string())?;
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        for (option, dir) in
            [("Dir::Etc::sourceparts", "sources"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")]
        {
            command.arg("-o").arg(format!("{option}={}", work.join(dir).display()));
        }
        // Root's apt would drop to a user that may not write here.
        let fixed = ["Dir::Etc::sourcelist=/dev/null", "APT::Sandbox::User=root", "Acquire::Retries=1"];
        for option in fixed {
            command.args(["-o", option]);
        }
        run(command.args(arguments).current_dir(work))
    };
    // Other vendors' repositories may have no sources: what counts is whether the package is found afterwards.
    let update = apt(&["update"]);
    apt(&["source", "--download-only", "hwloc"]).map_err(|error| match update {
        Err(update) => format!("{error}; {update}"),
        Ok(()) => error,
    })
}

/// Unpacks the test directory and each machine's archive. Gives the directory.
fn unpack(work: &Path) -> Result<PathBuf, String> {
    let listed = |dir: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let archive = listed(work)?.into_iter().find(|path| name(path).contains(".orig.tar"));
    let archive = archive.ok_or("apt-get source left no .orig.tar")?;
    let made = work.join("machines");
    fs::create_dir(&made).map_err(|error| error.to_string())?;
    run(Command::new("tar")
        .args(["--strip-components=4", "--wildcards", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&made)
        .arg("*/tests/hwloc/linux/*"))?;
    for path in listed(&made)? {
        if let Some(machine) = name(&path).strip_suffix(".tar.bz2") {
            let dir = made.join(machine);
            fs::create_dir(&dir).map_err(|error| error.to_string())?;
            run(Command::new("tar").arg("--no-same-owner").arg("-xf").arg(&path).arg("-C").arg(&dir))?;
        }
    }
    Ok(made)
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{program}: {} ({last:?})", output.status))
}
