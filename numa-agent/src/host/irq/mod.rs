//! Interrupts and network queues as the kernel shows them, and how they are changed.

pub mod apply;
pub mod balancer;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    cpuset,
    sysfs::{self, SysfsError, devices},
};
use crate::core::{
    idset::{CpuSet, ListError},
    irq::{Inventory, Irq, Queue, Side, interrupts},
};

/// Why interrupts are not known.
#[derive(Debug, thiserror::Error)]
pub enum IrqError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file that holds no set of CPUs.
    #[error("{path} holds {content:?}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Its content, shortened.
        content: String,
        /// What is wrong with it.
        source: ListError,
    },
    /// Sysfs makes no sense.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
}

/// Where the kernel's files are: `/sys` and `/proc`, or what stands for them.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub procfs: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: "/sys".into(), procfs: "/proc".into() }
    }
}

impl Roots {
    /// The file that says where an interrupt may go.
    #[must_use]
    pub fn affinity(&self, irq: u32) -> PathBuf {
        self.irq(irq).join("smp_affinity_list")
    }

    /// The file that says where it does go.
    #[must_use]
    pub fn effective(&self, irq: u32) -> PathBuf {
        self.irq(irq).join("effective_affinity_list")
    }

    /// A queue's file (`rx-0/rps_cpus`).
    #[must_use]
    pub fn queue(&self, interface: &str, file: &str) -> PathBuf {
        self.sysfs.join("class/net").join(interface).join("queues").join(file)
    }

    fn irq(&self, irq: u32) -> PathBuf {
        self.procfs.join("irq").join(irq.to_string())
    }

    /// Reads everything that there is.
    ///
    /// # Errors
    /// [`IrqError`], naming the file.
    pub fn inventory(&self) -> Result<Inventory, IrqError> {
        let path = self.procfs.join("interrupts");
        let text = fs::read_to_string(&path).map_err(|error| IrqError::Read { path, error })?;
        let listed = interrupts::parse(&text);
        let mut found = Inventory { local: listed.local, ..Inventory::default() };
        for number in self.numbers()? {
            let line = listed.lines.get(&number);
            let irq = Irq {
                number,
                name: self.name(number)?.or_else(|| line.map(|line| line.name.clone())).unwrap_or_default(),
                affinity: set(&self.affinity(number), str::parse)?,
                effective: set(&self.effective(number), str::parse)?,
                node: text_of(&self.irq(number).join("node"))?.and_then(|node| node.parse().ok()),
                managed: self.managed(number)?,
                count: line.map_or(0, |line| line.count),
            };
            found.irqs.insert(number, irq);
        }
        found.devices = devices::read(&self.sysfs)?;
        self.queues(&mut found)?;
        Ok(found)
    }

    /// The interrupts that have a folder.
    fn numbers(&self) -> Result<Vec<u32>, IrqError> {
        let path = self.procfs.join("irq");
        let failed = |error| IrqError::Read { path: path.clone(), error };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            numbers.extend(
                entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()),
            );
        }
        Ok(numbers)
    }

    /// The drivers' names, joined by commas (`/sys/kernel/irq`, since 4.9).
    fn name(&self, irq: u32) -> Result<Option<String>, IrqError> {
        text_of(&self.sysfs.join(format!("kernel/irq/{irq}/actions")))
    }

    /// Whether the kernel manages it: told by debugfs alone (`CONFIG_GENERIC_IRQ_DEBUGFS`), which few have.
    fn managed(&self, irq: u32) -> Result<Option<bool>, IrqError> {
        let path = self.sysfs.join(format!("kernel/debug/irq/irqs/{irq}"));
        match text_of(&path) {
            // Not for everybody's eyes, and only a hint.
            Err(IrqError::Read { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            other => Ok(other?.map(|text| text.contains("IRQD_AFFINITY_MANAGED"))),
        }
    }

    /// The queues of all interfaces that a PCI function has.
    fn queues(&self, found: &mut Inventory) -> Result<(), IrqError> {
        let folder = self.sysfs.join("class/net");
        let mut interfaces: Vec<String> = names(&folder)?;
        interfaces.sort();
        for interface in interfaces {
            let Some(address) = devices::address_of(&folder.join(&interface)) else { continue };
            for name in names(&folder.join(&interface).join("queues"))? {
                let Some((side, index)) = name.split_once('-') else { continue };
                let side = match side {
                    "rx" => Side::Receive,
                    "tx" => Side::Send,
                    _ => continue,
                };
                let Ok(index) = index.parse() else { continue };
                let mut queue =
                    Queue { interface: interface.clone(), address: address.clone(), side, index, cpus: None };
                match set(&self.queue(&interface, &queue.file()), CpuSet::from_mask) {
                    Ok(cpus) => queue.cpus = cpus,
                    // A device with one queue answers so before 5.17, one that divides them by class always.
                    Err(error) => found.warnings.push(format!("{interface} {name} is left alone: {error}")),
                }
                found.queues.push(queue);
            }
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>, IrqError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IrqError::Read { path: folder.to_owned(), error }),
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// The file's text without its end of line, nor the NULs that `tar` fills files of sysfs with; `None` if there is none.
fn text_of(path: &Path) -> Result<Option<String>, IrqError> {
    let text = cpuset::text(path).map_err(|error| match error {
        cpuset::CpusetError::Read { path, source } => IrqError::Read { path, error: source },
        other => IrqError::Sysfs(sysfs::SysfsError::Cpuset(other)),
    })?;
    Ok(text.map(|text| text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()))
}

/// The set that a file holds.
fn set(path: &Path, parse: fn(&str) -> Result<CpuSet, ListError>) -> Result<Option<CpuSet>, IrqError> {
    let Some(text) = text_of(path)? else { return Ok(None) };
    let content = || text.chars().take(80).collect();
    parse(&text).map(Some).map_err(|source| IrqError::Content {
        path: path.to_owned(),
        content: content(),
        source,
    })
}
