//! `numa-agent irq plan`.

use std::collections::BTreeSet;

use clap::Args;

use super::What;
use crate::{
    host::irq::balancer::{self, Balancer},
    report::irq::BalancerRow,
};

/// Flags of `irq plan`.
#[derive(Debug, Args)]
pub struct IrqPlanArgs {
    #[command(flatten)]
    what: What,
}

/// Prints the plan.
pub fn run(args: &IrqPlanArgs) -> anyhow::Result<()> {
    let mut report = args.what.report()?;
    let irqs: BTreeSet<u32> = report.plan.places.iter().map(|place| place.irq).collect();
    report.balancers = args.what.balancers().iter().map(|found| row(found, &irqs)).collect();
    args.what.show(&report)
}

/// What `apply` would tell it.
fn row(found: &Balancer, irqs: &BTreeSet<u32>) -> BalancerRow {
    let (result, keeps_off) = match balancer::bans(&found.socket) {
        Ok(bans) if irqs.is_subset(&bans) => ("leaves them alone already".to_owned(), true),
        Ok(bans) => {
            (format!("would be told to leave {} of them alone", irqs.difference(&bans).count()), false)
        }
        Err(error) => (format!("cannot be asked: {error}"), false),
    };
    BalancerRow { pid: found.pid, socket: found.socket.display().to_string(), result, keeps_off }
}
