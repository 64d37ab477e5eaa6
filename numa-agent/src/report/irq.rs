//! What `irq` shows: interrupts and queues, where they are and where they should be.

use serde_json::{Value, json};

use super::{escape, shown, table::Table, units::counted};
use crate::core::{
    idset::CpuSet,
    irq::{
        outcome::Outcome,
        plan::{IrqPlan, Left, Place, QueuePlace},
    },
};

/// The longest name in a table.
const MOST_NAME: usize = 64;

/// Everything that `irq plan` and `irq apply` say.
#[derive(Debug, Clone, Default)]
pub struct IrqReport {
    /// The plan.
    pub plan: IrqPlan,
    /// What became of each of its interrupts.
    pub places: Vec<Outcome>,
    /// What became of each of its queues.
    pub queues: Vec<Outcome>,
    /// CPUs that the configuration leaves to interrupts.
    pub reserved: CpuSet,
    /// Whether it was applied.
    pub applied: bool,
    /// What was said to each irqbalance that runs.
    pub balancers: Vec<BalancerRow>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// An irqbalance that runs.
#[derive(Debug, Clone)]
pub struct BalancerRow {
    /// Its process.
    pub pid: u32,
    /// Its socket.
    pub socket: String,
    /// What it was told, or why it was not.
    pub result: String,
    /// Whether it leaves alone what is planned.
    pub keeps_off: bool,
}

impl IrqReport {
    /// Those that could not be set, though the kernel lets others be.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.places.iter().chain(&self.queues).filter(|outcome| matches!(outcome, Outcome::Failed(_))).count()
    }

    /// Those that nobody can set.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.places
            .iter()
            .chain(&self.queues)
            .filter(|outcome| matches!(outcome, Outcome::Refused(_)))
            .count()
    }
}

/// For people.
#[must_use]
pub fn text(report: &IrqReport) -> String {
    let mut irqs = Table::new(&["IRQ", "NAME", "DEVICE", "NODE", "NOW", "PLANNED", "RESULT", "WHY"]);
    for (place, outcome) in report.plan.places.iter().zip(&report.places) {
        irqs.row([
            place.irq.to_string(),
            name(&place.name),
            name(&place.device),
            node(place.node),
            now(place),
            place.planned.to_string(),
            result(place, outcome),
            place.why.clone(),
        ]);
    }
    let mut queues = Table::new(&["INTERFACE", "QUEUE", "NODE", "NOW", "PLANNED", "RESULT", "WHY"]);
    for (place, outcome) in report.plan.queues.iter().zip(&report.queues) {
        queues.row([
            name(&place.interface),
            place.file.clone(),
            node(place.node),
            shown(&place.now),
            shown(&place.planned),
            escape::text(&outcome.to_string()),
            place.why.clone(),
        ]);
    }
    let mut out = match irqs.is_empty() {
        true => "no interrupt of a device to plan\n".to_owned(),
        false => irqs.aligned(""),
    };
    if !queues.is_empty() {
        out += &format!("\n{}", queues.aligned(""));
    }
    for balancer in &report.balancers {
        out += &format!("\nirqbalance {}: {}\n", balancer.pid, escape::text(&balancer.result));
    }
    if !report.plan.left.is_empty() {
        out += &format!("\nleft alone: {}\n", left(&report.plan.left));
    }
    if !report.applied {
        out += "\ndry run: nothing was changed; `numa-agent irq apply` sets it\n";
    }
    out
}

/// What a driver or a tree calls something: as much of it as a table bears.
fn name(name: &str) -> String {
    escape::shortened(&escape::text(name), MOST_NAME)
}

/// How many for which reason, and which.
fn left(left: &[Left]) -> String {
    let mut reasons: Vec<&str> = left.iter().map(|left| left.why).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let reason = |why: &&str| {
        let irqs: Vec<&str> =
            left.iter().filter(|left| left.why == *why).map(|left| left.irq.as_str()).collect();
        format!("{} ({why}): {}", counted(irqs.len() as u64, "interrupt", "s"), escape::text(&irqs.join(" ")))
    };
    reasons.iter().map(reason).collect::<Vec<_>>().join("; ")
}

fn node(node: Option<u32>) -> String {
    node.map_or_else(|| "unknown".to_owned(), |node| node.to_string())
}

/// `0-39 (3)`: where it may go, and where it does.
fn now(place: &Place) -> String {
    match &place.effective {
        Some(effective) if *effective != place.now && !effective.is_empty() => {
            format!("{} ({effective})", shown(&place.now))
        }
        _ => shown(&place.now),
    }
}

fn result(place: &Place, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Planned if place.managed => "planned; the kernel will refuse".to_owned(),
        other => escape::text(&other.to_string()),
    }
}

/// For programs.
#[must_use]
pub fn json(report: &IrqReport) -> Value {
    let irq = |(place, outcome): (&Place, &Outcome)| {
        json!({
            "irq": place.irq,
            "name": place.name,
            "device": place.device,
            "node": place.node,
            "affinity": place.now,
            "effective": place.effective,
            "planned": place.planned,
            "why": place.why,
            "managed": place.managed,
            "result": outcome.to_string(),
        })
    };
    let queue = |(place, outcome): (&QueuePlace, &Outcome)| {
        json!({
            "interface": place.interface,
            "queue": place.file,
            "node": place.node,
            "cpus": place.now,
            "planned": place.planned,
            "why": place.why,
            "result": outcome.to_string(),
        })
    };
    let left = |left: &Left| json!({"irq": left.irq, "name": left.name, "why": left.why});
    let balancer = |row: &BalancerRow| json!({"pid": row.pid, "socket": row.socket, "result": row.result, "keeps_off": row.keeps_off});
    json!({
        "schema": 1,
        "applied": report.applied,
        "reserved_cpus": report.reserved,
        "irqs": report.plan.places.iter().zip(&report.places).map(irq).collect::<Vec<_>>(),
        "queues": report.plan.queues.iter().zip(&report.queues).map(queue).collect::<Vec<_>>(),
        "irqbalance": report.balancers.iter().map(balancer).collect::<Vec<_>>(),
        "left": report.plan.left.iter().map(left).collect::<Vec<_>>(),
        "warnings": report.warnings,
    })
}
