//! `numa-agent irq`: where devices' interrupts and network queues are handled.

mod apply;
mod plan;
mod restore;

use std::{collections::BTreeSet, path::PathBuf};

use clap::{Args, Subcommand};
use regex::Regex;

use super::{Format, machine::MachineArgs, plan_args::PlanArgs};
use crate::{
    core::{
        irq::{
            outcome::Outcome,
            plan::{Choice, IrqPlan},
        },
        plan::Plan,
    },
    host::irq::{
        Roots,
        balancer::{self, Balancer, FOLDER},
    },
    report::{self, escape, irq::IrqReport},
};

/// `plan`, `apply`, `restore`.
#[derive(Debug, Subcommand)]
pub enum IrqCommand {
    /// Show where interrupts and network queues of devices are handled and where they should be; changes nothing.
    Plan(plan::IrqPlanArgs),
    /// Put them there, and read them back; what each was before goes to the journal.
    Apply(apply::IrqApplyArgs),
    /// Put everything back that `apply` has changed, unless somebody else has changed it since.
    Restore(restore::IrqRestoreArgs),
}

/// Flags that say of which machine, by which plan, and what of it.
#[derive(Debug, Args)]
struct What {
    #[command(flatten)]
    plan: PlanArgs,
    /// Read DIR instead of /sys: a captured tree, or where the host's is mounted. Needs --procfs-root: interrupts are in both.
    #[arg(long, value_name = "DIR", requires = "procfs_root")]
    sysfs_root: Option<PathBuf>,
    /// Read DIR instead of /proc: its `interrupts`, and its `irq`. Needs --sysfs-root.
    #[arg(long, value_name = "DIR", requires = "sysfs_root")]
    procfs_root: Option<PathBuf>,
    /// Only devices whose address, kind (npu, gpu, accelerator, network, storage) or name matches: 'npu', '^0000:c1', 'eth0'.
    #[arg(long, value_name = "REGEX")]
    device: Option<Regex>,
    /// Only this interrupt. Repeatable.
    #[arg(long, value_name = "N")]
    irq: Vec<u32>,
    /// Where an irqbalance that runs has its socket.
    #[arg(long, value_name = "DIR", default_value = FOLDER, hide = true)]
    irqbalance_sockets: PathBuf,
    /// Format of standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl What {
    fn roots(&self) -> Roots {
        let Roots { sysfs, procfs } = Roots::default();
        Roots {
            sysfs: self.sysfs_root.clone().unwrap_or(sysfs),
            procfs: self.procfs_root.clone().unwrap_or(procfs),
        }
    }

    fn machine(&self) -> MachineArgs {
        MachineArgs { sysfs_root: self.sysfs_root.clone(), preset: None }
    }

    fn balancers(&self) -> Vec<Balancer> {
        balancer::running(&self.roots().procfs, &self.irqbalance_sockets)
    }

    /// The plan, and what is as planned already.
    fn report(&self) -> anyhow::Result<IrqReport> {
        let settings = self.plan.settings(None)?;
        let topology = self.machine().topology()?;
        // By the machine and the settings alone: interrupts stay where they are when instances come and go.
        let groups = Plan::new(&topology, &settings.layout, 0)?;
        let reserved = settings.layout.reserve.on(&topology);
        let found = self.roots().inventory()?;
        let irqs: BTreeSet<u32> = self.irq.iter().copied().collect();
        let choice = Choice { device: self.device.clone(), irqs };
        let plan = crate::core::irq::plan::plan(&topology, &groups, &reserved, &found, &choice);
        let absent = settings.layout.reserve.warning(&topology);
        let warnings = topology.warnings.iter().chain(&absent).chain(&plan.warnings).cloned().collect();
        let (places, queues) = outcomes(&plan);
        Ok(IrqReport { plan, places, queues, reserved, warnings, ..IrqReport::default() })
    }

    fn show(&self, report: &IrqReport) -> anyhow::Result<()> {
        super::print(&match self.format {
            Format::Text => report::irq::text(report),
            Format::Json => report::json::print(&report::irq::json(report)),
        })?;
        for warning in &report.warnings {
            super::complain(&format!("warning: {}", escape::text(warning)));
        }
        Ok(())
    }
}

/// Before anything is done.
fn outcomes(plan: &IrqPlan) -> (Vec<Outcome>, Vec<Outcome>) {
    let outcome = |same: bool| if same { Outcome::Unchanged } else { Outcome::Planned };
    (
        plan.places.iter().map(|place| outcome(place.now == place.planned)).collect(),
        plan.queues.iter().map(|place| outcome(place.now == place.planned)).collect(),
    )
}

/// Runs the subcommand.
pub fn run(command: &IrqCommand) -> anyhow::Result<()> {
    match command {
        IrqCommand::Plan(args) => plan::run(args),
        IrqCommand::Apply(args) => apply::run(args),
        IrqCommand::Restore(args) => restore::run(args),
    }
}
