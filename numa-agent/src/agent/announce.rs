//! What the agent says of itself: ready, warnings, node moves, the summary at the end.

use numa_ebpf::account::{Account, span};
use serde_json::json;

use super::{Agent, executor::Executor};
use crate::{
    core::{
        event::{MigrationCounts, TaskEvent},
        task::TaskId,
    },
    host::{bpf::Programs, sys::Host},
    report::escape,
};

impl Agent {
    /// A measured task ended.
    pub(super) fn note_ended(&mut self, event: &TaskEvent, slot: u32) {
        match self.executor.marks.read_account(slot) {
            Ok(account) => self.note_migrations(event.pid, event.task, moves(&account)),
            Err(error) => tracing::warn!("{error}"),
        }
        if let Err(error) = self.executor.marks.release(slot) {
            tracing::warn!("{error}");
        }
    }

    pub(super) fn note_migrations(&mut self, pid: u32, task: TaskId, counts: MigrationCounts) {
        if let Some((comm, role)) = Executor::<Host, Programs>::describe(&self.engine, pid, task) {
            self.executor.stats.migrated(task, pid, &comm, role, counts);
        }
    }

    pub(super) fn say_migrated(&mut self, event: &TaskEvent, from_cpu: u32, to_cpu: u32) {
        let node = |cpu: u32| self.engine.topology().cpu(cpu).map(|cpu| cpu.node);
        let (pid, tid) = (event.pid, event.task.tid);
        let fields = json!({
            "pid": pid, "tid": tid, "from_cpu": from_cpu, "to_cpu": to_cpu, "from_node": node(from_cpu), "to_node": node(to_cpu),
        });
        self.executor.output.event("migrated", fields, || {
            Some(format!("migrated {tid}: CPU {from_cpu} -> {to_cpu}, across nodes"))
        });
    }

    pub(super) fn say_ready(&mut self, priority: &str) {
        self.say_warnings();
        let stats = &self.executor.stats;
        let health = self.executor.marks.health();
        let mode = if self.options.dry_run { "observing only" } else { "enforcing" };
        let reconcile =
            self.options.reconcile.map_or("off".to_owned(), |period| format!("every {} s", period.as_secs()));
        self.executor.output.message(&format!(
            "numa-agent {}: {mode}; {}; scan: {} bound, {} unchanged, {} failed; programs: {}; event thread {priority}; reconcile {reconcile}",
            env!("CARGO_PKG_VERSION"),
            self.plan_text(),
            stats.count("bound"),
            stats.count("unchanged"),
            stats.count("failed"),
            health.summary(),
        ));
        let fields = json!({
            "version": env!("CARGO_PKG_VERSION"), "mode": mode, "programs": health.json(), "priority": priority,
            "managed": self.managed_json(), "groups": self.engine.plan().groups.len(),
        });
        self.executor.output.event("ready", fields, || None);
    }

    pub(super) fn say_warnings(&mut self) {
        self.engine.take_news();
        for warning in self.engine.warnings() {
            tracing::warn!("{}", escape::text(&warning));
        }
    }

    pub(super) fn say_news(&mut self) {
        for warning in self.engine.take_news() {
            tracing::warn!("{}", escape::text(&warning));
            self.executor.output.event("warning", json!({ "warning": warning }), || None);
        }
    }

    pub(super) fn plan_text(&self) -> String {
        let plan = self.engine.plan();
        let policy = plan.policy;
        let sockets: std::collections::BTreeSet<u32> = plan.groups.iter().map(|group| group.socket).collect();
        let (groups, sockets) = (plan.groups.len(), sockets.len());
        let processes = self.engine.processes().count();
        let threads: usize = self.engine.processes().map(|process| process.threads.len()).sum();
        format!(
            "{policy} plan, {groups} group{} on {sockets} socket{}; managing {threads} threads of {processes} processes",
            plural(groups),
            plural(sockets)
        )
    }

    pub(super) fn managed_json(&self) -> serde_json::Value {
        let threads: usize = self.engine.processes().map(|process| process.threads.len()).sum();
        json!({ "processes": self.engine.processes().count(), "threads": threads })
    }

    pub(super) fn finish(mut self) {
        self.note_losses();
        let live: Vec<(u32, TaskId)> = self
            .engine
            .processes()
            .flat_map(|process| process.threads.values().map(|thread| (process.facts.pid, thread.id)))
            .collect();
        for (pid, task) in live {
            let slot = self.executor.marks.slot_of(task);
            if let Some(Ok(account)) = slot.map(|slot| self.executor.marks.read_account(slot)) {
                self.note_migrations(pid, task, moves(&account));
            }
        }
        let (lines_dropped, messages_dropped) = self.executor.output.dropped();
        self.executor.stats.lines_dropped = lines_dropped;
        let mut fields = self.executor.stats.json();
        fields["managed"] = self.managed_json();
        fields["lost"] = self.lost.json();
        fields["messages_dropped"] = json!(messages_dropped);
        fields["warnings"] = json!(self.engine.warnings());
        let text: Vec<String> = self.executor.stats.text().lines().map(escape::text).collect();
        let text = text.join("\n");
        self.executor.output.event("summary", fields, || Some(text));
        self.executor.output.finish();
    }
}

fn moves(account: &Account) -> MigrationCounts {
    let by_span = &account.moves_by_span;
    MigrationCounts { cpu: by_span.iter().sum(), node: by_span[span::SOCKET] + by_span[span::MACHINE] }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
