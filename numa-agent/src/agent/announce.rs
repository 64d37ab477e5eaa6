//! What the agent says of itself: ready, warnings, node moves, the summary at the end.

use std::sync::Arc;

use numa_ebpf::{account::Account, brief::Brief};
use serde_json::json;

use super::{Agent, meter::moves};
use crate::{
    core::{
        event::TaskEvent,
        jitter::{draft::Kept, observer::Labels},
        task::TaskId,
        view,
    },
    host::notify::{self, Word},
    report::{escape, many},
};

impl Agent {
    /// A task ended: what it came to is read, and counts.
    pub(super) fn note_ended(&mut self, event: &TaskEvent, slot: Option<u32>, brief: Option<&Brief>) {
        let ended = self.executor.marks.ended(&self.engine, event, slot, brief);
        if let Some((labels, account)) = ended {
            self.count_moves(event.pid, event.task, &labels, &account);
        }
    }

    pub(super) fn count_moves(&mut self, pid: u32, task: TaskId, labels: &Labels, account: &Account) {
        self.executor.stats.migrated(task, pid, &labels.comm, labels.role.name(), moves(account));
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
        if self.executor.output.is_silent() {
            return;
        }
        let stats = &self.executor.stats;
        let health = self.executor.marks.programs.health();
        let mode = view::mode(!self.options.dry_run);
        let managed = self.managed_json();
        let reconcile =
            self.options.reconcile.map_or("off".to_owned(), |period| format!("every {} s", period.as_secs()));
        self.executor.output.message(&format!(
            "numa-agent {}: {mode}; {}; scan: {} threads of {} processes, {} bound, {} failed; programs: {}; event thread {priority}; reconcile {reconcile}",
            env!("CARGO_PKG_VERSION"),
            self.plan_text(),
            managed["threads"],
            managed["processes"],
            stats.count("bound"),
            stats.count("failed"),
            health.summary(),
        ));
        let fields = json!({
            "version": env!("CARGO_PKG_VERSION"), "mode": mode, "programs": health.json(), "priority": priority,
            "managed": managed, "groups": self.engine.plan().groups.len(),
        });
        self.executor.output.event("ready", fields, || None);
    }

    /// Tells the service manager that has started us, if one has.
    pub(super) fn tell_manager(&self, word: Word) {
        if let Err(error) = notify::tell(word) {
            tracing::warn!("NOTIFY_SOCKET: the service manager cannot be told of {word:?}: {error}");
        }
    }

    pub(super) fn say_warnings(&mut self) {
        for warning in self.engine.warnings() {
            self.executor.stats.warnings += 1;
            tracing::warn!("{}", escape::text(&warning));
        }
        for warning in self.engine.take_news() {
            self.executor.output.event("warning", json!({ "warning": warning }), || None);
        }
    }

    pub(super) fn say_news(&mut self) {
        for warning in self.engine.take_news() {
            self.say_warning(&warning);
        }
    }

    pub(super) fn say_warning(&mut self, warning: &str) {
        self.executor.stats.warnings += 1;
        tracing::warn!("{}", escape::text(warning));
        self.executor.output.event("warning", json!({ "warning": warning }), || None);
    }

    pub(super) fn plan_text(&self) -> String {
        let plan = self.engine.plan();
        let policy = plan.policy;
        let sockets: std::collections::BTreeSet<u32> = plan.groups.iter().map(|group| group.socket).collect();
        let (groups, sockets) = (plan.groups.len(), sockets.len());
        let processes = self.engine.processes().count();
        let threads: usize = self.engine.processes().map(|process| process.threads.len()).sum();
        format!(
            "{policy} plan, {} on {}; managing {} of {}",
            many(groups, "group", "s"),
            many(sockets, "socket", "s"),
            many(threads, "thread", "s"),
            many(processes, "process", "es")
        )
    }

    pub(super) fn managed_json(&self) -> serde_json::Value {
        let threads: usize = self.engine.processes().map(|process| process.threads.len()).sum();
        json!({ "processes": self.engine.processes().count(), "threads": threads })
    }

    /// The last words. `living` are the threads that go on, as they were read at last.
    pub(super) fn say_summary(&mut self, living: &[Arc<Kept>]) {
        for thread in living {
            let pid = thread.labels.process.id.tid;
            self.count_moves(pid, thread.task, &thread.labels, &thread.account.account());
        }
        let (lines_dropped, messages_dropped) = self.executor.output.dropped();
        self.executor.stats.lines_dropped = lines_dropped;
        self.executor.stats.journaled = self.executor.journaling.counts().unwrap_or_default();
        let mut fields = self.executor.stats.json();
        fields["managed"] = self.managed_json();
        let drift = self.engine.drift();
        fields["drift"] = json!(drift);
        fields["lost"] = self.lost.json();
        fields["unreadable_events"] = json!(self.unreadable);
        let observer = &self.executor.marks.observer;
        for (key, nobodys) in [("unattributed", observer.unattributed()), ("untold", observer.untold())] {
            fields[key] = json!({ "threads": nobodys.threads, "run_ns": nobodys.run_ns });
        }
        fields["messages_dropped"] = json!(messages_dropped);
        fields["warnings"] = json!(self.engine.warnings());
        let text: Vec<String> = self.executor.stats.text().lines().map(escape::text).collect();
        let drift = drift.text().map(|text| format!("  masks changed {}", escape::text(&text)));
        let text = text.into_iter().chain(drift).collect::<Vec<_>>().join("\n");
        self.executor.output.event("summary", fields, || Some(text));
    }
}
