//! `numa-agent irq apply`.

use std::{collections::BTreeSet, path::Path};

use clap::Args;

use super::What;
use crate::{
    cli::{Incomplete, journal_args::JournalArgs},
    core::{
        idset::CpuSet,
        irq::balancer::{arguments, list},
        journal::{FileChange, FileClass, Outstanding, undo},
    },
    host::{
        irq::balancer::{self, Balancer, BalancerError},
        journal::Journal,
    },
    report::{
        irq::{BalancerRow, IrqReport},
        units::counted,
    },
};

/// Flags of `irq apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
An irqbalance that runs is told to leave these interrupts alone, by its socket; it keeps its other bans. `irq restore` takes all of it back.

Exit status: 0 if all is as planned now, but for interrupts whose CPUs the kernel lets nobody set (each is named); 1 if something could not be \
set; 2 bad usage.")]
pub struct IrqApplyArgs {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    journal: JournalArgs,
}

/// Sets everything, reads it back, reports.
pub fn run(args: &IrqApplyArgs) -> anyhow::Result<()> {
    let what = &args.what;
    let mut report = what.report()?;
    let topology = what.machine().topology()?;
    what.machine().check_applicable(&topology)?;
    let (mut journal, online) = (args.journal.open_or_refuse()?, topology.online());
    let mut note = |change: &FileChange| match &mut journal {
        Some((journal, known)) => write_down(journal, known, change, &online),
        None => Ok(()),
    };
    // First: it would move away what is set.
    let irqs: BTreeSet<u32> = report.plan.places.iter().map(|place| place.irq).collect();
    for balancer in what.balancers() {
        let (row, warning) = keep_off(&balancer, &irqs, &mut note);
        report.balancers.push(row);
        report.warnings.extend(warning);
    }
    let roots = what.roots();
    report.places = report.plan.places.iter().map(|place| roots.set_irq(place, &mut note)).collect();
    report.queues = report.plan.queues.iter().map(|place| roots.set_queue(place, &mut note)).collect();
    report.applied = true;
    what.show(&report)?;
    verdict(&report)
}

/// With what it had before us, also if the kernel has moved it since.
fn write_down(
    journal: &mut Journal,
    known: &Outstanding,
    change: &FileChange,
    online: &CpuSet,
) -> Result<(), String> {
    journal.before_file(&undo::traced(known, change, online)).map_err(|error| error.to_string())
}

/// Tells it which interrupts are not its to move.
fn keep_off(
    balancer: &Balancer,
    irqs: &BTreeSet<u32>,
    note: impl FnOnce(&FileChange) -> Result<(), String>,
) -> (BalancerRow, Option<String>) {
    let (result, keeps_off) = match tell(&balancer.socket, irqs, note) {
        Ok(0) => ("leaves them alone already".to_owned(), true),
        Ok(told) => (format!("told to leave {} alone", counted(told as u64, "interrupt", "s")), true),
        Err(why) => (format!("not told to leave them alone: {why}"), false),
    };
    let warning = (!keeps_off).then(|| {
        format!(
            "irqbalance (process {}) may move the interrupts back: {result}; give it IRQBALANCE_ARGS=\"{}\" \
             (/etc/default/irqbalance or /etc/sysconfig/irqbalance) and restart it",
            balancer.pid,
            arguments(irqs)
        )
    });
    let row =
        BalancerRow { pid: balancer.pid, socket: balancer.socket.display().to_string(), result, keeps_off };
    (row, warning)
}

/// How many it did not leave alone before.
fn tell(
    socket: &Path,
    irqs: &BTreeSet<u32>,
    note: impl FnOnce(&FileChange) -> Result<(), String>,
) -> Result<usize, String> {
    let said = |error: BalancerError| error.to_string();
    let before = balancer::bans(socket).map_err(said)?;
    let wanted = &before | irqs;
    let told = wanted.len() - before.len();
    if told > 0 {
        note(&FileChange {
            class: FileClass::Irq,
            path: socket.display().to_string(),
            what: "irqbalance's ban list".to_owned(),
            before: list(&before),
            given: list(&wanted),
            whose: None,
        })?;
        balancer::set_bans(socket, &wanted).map_err(said)?;
    }
    Ok(told)
}

fn verdict(report: &IrqReport) -> anyhow::Result<()> {
    if report.refusals() > 0 {
        super::super::complain(&format!(
            "{} stay where the kernel has them: nobody can set their CPUs",
            counted(report.refusals() as u64, "interrupt", "s")
        ));
    }
    match report.failures() {
        0 => Ok(()),
        failed => Err(Incomplete(format!(
            "{} could not be set; the output names each",
            counted(failed as u64, "interrupt or queue", "s")
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::journal;

    #[test]
    fn what_the_kernel_has_moved_meanwhile_gets_back_what_it_had_before_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        let mut known = Outstanding::default();
        // CPU 3 is offline by the second time.
        for (before, given, online) in [("0-7", "3", "0-7"), ("0-2,4-7", "2", "0-2,4-7")] {
            let change = FileChange {
                class: FileClass::Irq,
                path: "/proc/irq/9/smp_affinity_list".into(),
                what: "irq 9".into(),
                before: before.into(),
                given: given.into(),
                whose: None,
            };
            write_down(&mut journal, &known, &change, &online.parse().unwrap()).unwrap();
            known = journal::this_boots(journal::read(&path).unwrap().unwrap()).0;
        }
        let owed = known.files.values().next().unwrap();
        assert_eq!((owed.change.before.as_str(), owed.change.given.as_str()), ("0-7", "2"));
    }
}
