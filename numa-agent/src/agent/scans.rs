//! Scans: the first one, those in the background, and the losses that call for one.

use std::time::Instant;

use serde_json::json;

use super::{Agent, Done, Marks, flat, reload::look_for_devices, scanner};
use crate::{
    core::engine::Cause,
    host::{
        scan::{Scan, Scanner},
        sys::{Host, Kernel},
    },
    report::escape,
};

/// For who is where it belongs scans take one part in so many of the time.
const UNTOLD_SHARE: u32 = 50;

impl Agent {
    pub(super) fn take_in(&mut self, scan: &Scan, cause: &Cause) {
        self.executor.stats.scans += 1;
        for snapshot in &scan.snapshots {
            let actions = self.engine.observe(snapshot, cause, None);
            self.executor.journaling.found(&self.engine, snapshot.facts.pid);
            self.executor.execute(&mut self.engine, actions);
            self.executor.marks.keep_up(&self.engine);
            // Events do not wait for a whole scan's worth of processes.
            self.drain();
        }
        self.rescan |= std::mem::take(&mut self.executor.rescan);
        self.engine.sweep(&scan.alive, scan.as_of_ns);
        self.executor.journaling.sweep(&self.engine, &scan.alive);
    }

    /// Scans on this thread, then carries out the plan as a whole: nothing is bound twice while instances are still being
    /// counted. Scans again until nothing new turns up: a task may be created by one that was not marked yet.
    pub(super) fn scan_now(&mut self) -> anyhow::Result<()> {
        const ROUNDS: usize = 8;
        for _ in 0..ROUNDS {
            let reader = self.executor.scanner.reader.clone().in_no_hurry();
            let scan = scanner(&self.engine, reader).scan(&Host)?;
            self.executor.stats.scans += 1;
            self.engine.make_room(&scan.snapshots);
            self.executor.marks.keep_up(&self.engine);
            let mut missing = 0;
            for snapshot in &scan.snapshots {
                let actions = self.engine.observe(snapshot, &Cause::Scan, None);
                missing += self.executor.mark(&self.engine, &actions);
            }
            self.engine.sweep(&scan.alive, scan.as_of_ns);
            self.executor.marks.keep_up(&self.engine);
            let pending = self.engine.pending(&Cause::Scan);
            if missing == 0 && pending.is_empty() {
                break;
            }
            for process in self.engine.processes() {
                self.executor.journaling.found(&self.engine, process.facts.pid);
            }
            self.executor.execute(&mut self.engine, pending);
        }
        Ok(())
    }

    pub(super) fn start_scan(&mut self) {
        let rules = self.engine.rules().clone();
        let managed = self.engine.processes().map(|process| process.facts.pid).collect();
        let reader = self.executor.scanner.reader.clone().in_no_hurry();
        let after_loss = std::mem::take(&mut self.after_loss);
        (self.rescan, self.scan_started) = (false, Instant::now());
        self.scan = Some(tokio::task::spawn_blocking(move || {
            // It looks for device files first.
            let reader = reader.renewed(rules.needs());
            Ok(Scanner { reader, rules, managed, after_loss }.scan(&Host)?)
        }));
    }

    pub(super) fn finish_scan(&mut self, scan: Done<Scan>) {
        self.scan_took = self.scan_started.elapsed();
        match flat(scan) {
            Ok(scan) => {
                look_for_devices(&mut self.executor.marks.programs, &mut self.engine, &scan.devices);
                self.take_in(&scan, &Cause::Reconcile);
            }
            Err(error) => {
                tracing::warn!("scan: {}; trying again", escape::text(&format!("{error:#}")));
                // What was lost before it is still lost.
                (self.rescan, self.after_loss) = (true, true);
            }
        }
    }

    /// New losses mean that the state may be wrong: say so, and look at everything again.
    pub(super) fn note_losses(&mut self) {
        let lost = self.executor.marks.programs.drops();
        if lost != self.lost {
            let new = lost.since(&self.lost);
            self.lost = lost;
            if new.marks_full() {
                self.sweep_marks();
            }
            let mut text = format!("events lost in the kernel: {new}");
            if new.state_lost() {
                self.executor.marks.sweep_closed();
                (self.rescan, self.after_loss) = (true, true);
                text.push_str("; scanning again");
            }
            self.executor.output.event("lost", json!({ "lost": new.json() }), || Some(text));
        }
        // They are where they belong; who lives on is found by a scan. In a storm that goes on there are always some.
        let lives = self.executor.marks.note_untold() > 0;
        self.rescan |= lives && self.scan_started.elapsed() >= UNTOLD_SHARE * self.scan_took;
    }

    /// Looks for some more of the tasks of whose end the ring had no room to tell.
    pub(super) fn sweep(&mut self) {
        for (pid, task, labels, account) in self.executor.marks.sweep_some() {
            self.count_moves(pid, task, &labels, &account);
        }
    }

    /// Makes room in the full table of marks: a task that ended while it was being marked left one behind.
    pub(super) fn sweep_marks(&mut self) {
        for task in self.executor.marks.programs.marked() {
            if Host.start_time(task.tid) != Some(task.start_time) {
                Marks::unmark(&mut self.executor.marks, task);
            }
        }
    }
}
