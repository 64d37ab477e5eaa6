//! SIGHUP: everything is read anew on a thread of its own, and taken over here if it is good.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;

use super::{Agent, Done, Marks, flat, pin_pids, scanner};
use crate::{
    core::{
        engine::{Cause, Engine},
        filter::KernelFilter,
        rules::Rules,
        settings::Settings,
        task::TaskId,
        topology::Topology,
    },
    host::{
        bpf::Programs,
        procfs::ProcReader,
        scan::{Scan, Scanner},
        sys::Host,
    },
    report::escape,
};

/// What a reload has read: the processes with the facts that the new settings need.
pub(super) struct Reload {
    settings: Settings,
    topology: Topology,
    scan: Scan,
    /// For these settings. Making one takes long where many device files match.
    reader: ProcReader,
}

/// What a reload may take. Nothing ends the wait for a file system that does not answer; until it is over nobody looks at a machine that changes.
const LONG: Duration = Duration::from_secs(60);
/// The most that may be under way, each on a thread of its own that others need too.
const MOST: usize = 64;

/// Those that are under way.
#[derive(Default)]
pub(super) struct Reloads {
    began: Option<Instant>,
    /// Given up, or overtaken: nobody waits for them, and some may never end.
    left: Vec<JoinHandle<anyhow::Result<Box<Reload>>>>,
}

impl Reloads {
    /// One begins in place of another, if there is one; whether it may.
    fn begin(&mut self, another: Option<JoinHandle<anyhow::Result<Box<Reload>>>>) -> bool {
        self.left.extend(another);
        self.left.retain(|job| !job.is_finished());
        self.began = Some(Instant::now());
        self.left.len() < MOST
    }

    /// Whether the one that is waited for has taken too long.
    fn is_late(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.duration_since(began) >= LONG)
    }

    /// Nobody waits for it any more.
    fn give_up(&mut self, job: JoinHandle<anyhow::Result<Box<Reload>>>) {
        self.left.push(job);
        self.began = None;
    }
}

/// Has the kernel side tell of those who use the device files that there are now: drivers may be loaded at any time.
pub(super) fn look_for_devices(programs: &mut Programs, engine: &mut Engine, devices: &BTreeSet<u32>) {
    if !devices.is_empty() && !programs.health().has("device") {
        engine.warn_of_settings(
            "there are device files of forward_thread_devices, and nobody looks who uses them: there were none when the agent started, or \
             the program `device` cannot be attached; start it again (`numa-agent doctor`)"
                .to_owned(),
        );
    }
    if let Err(error) = programs.set_devices(devices) {
        engine.warn_of_settings(format!("who uses which device is not known: {error}"));
    }
}

impl Agent {
    /// Reads everything anew, on a thread of its own. A second SIGHUP starts over.
    pub(super) fn start_reload(&mut self) {
        if !self.reloads.begin(self.reload.take()) {
            self.say_warning(&format!(
                "reload: {MOST} others are under way and do not end; is the configuration file on a file system that does not answer?"
            ));
            return;
        }
        self.machine.begin();
        let options = Arc::clone(&self.options);
        let managed = self.engine.processes().map(|process| process.facts.pid).collect();
        let reader = self.executor.scanner.reader.clone().in_no_hurry();
        self.reload = Some(tokio::task::spawn_blocking(move || {
            let (settings, topology) = ((options.settings)()?, (options.topology)()?);
            let rules = Rules::new(settings.clone());
            let scanner =
                Scanner { reader: reader.renewed(rules.needs()), rules, managed, after_loss: false };
            let scan = scanner.scan(&Host)?;
            Ok(Box::new(Reload { settings, topology, scan, reader: scanner.reader }))
        }));
    }

    /// Once a second: one that hangs keeps nobody from planning for a machine that changes.
    pub(super) fn give_up_late_reload(&mut self) {
        let Some(job) = self.reload.take_if(|_| self.reloads.is_late(Instant::now())) else { return };
        self.reloads.give_up(job);
        self.say_warning(&format!(
            "reload: it has taken {} s and is given up; the old configuration stays in force. Is its file on a file system that does not \
             answer? Send SIGHUP again once it does",
            LONG.as_secs()
        ));
    }

    pub(super) fn finish_reload(&mut self, reload: Done<Box<Reload>>) {
        let reload = flat(reload).and_then(|reload| {
            let Reload { settings, topology, scan, reader } = *reload;
            let seen = scan.snapshots.iter().map(|snapshot| (snapshot.facts.id(), &snapshot.facts)).collect();
            let mut engine = self.engine.reconfigured(topology, settings, &seen)?;
            pin_pids(&mut engine);
            self.executor.marks.programs.set_filter(&KernelFilter::new(engine.rules().settings()))?;
            look_for_devices(&mut self.executor.marks.programs, &mut engine, &scan.devices);
            Ok((engine, scan, reader))
        });
        let (next, scan, reader) = match reload {
            Ok(reload) => reload,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!("reload: {}; the old configuration stays in force", escape::text(&error));
                self.survey_if_changed();
                return;
            }
        };
        if next.rules().settings().metrics != self.engine.rules().settings().metrics {
            self.say_warning("metrics: the endpoint stays as it is until the agent is started anew");
        }
        self.executor.deferred.at(next.settings().max_bind_rate);
        self.executor.scanner.reader = reader.in_a_hurry();
        self.take_over(next);
        self.configure_holding();
        self.take_in(&scan, &Cause::Replan);
        self.step_aside();
        self.say_warnings();
        let managed = self.managed_json();
        self.machine.settle();
        let text = format!("reloaded: {}", self.plan_text());
        tracing::info!("{text}");
        self.executor.output.event("reloaded", json!({ "managed": managed }), || Some(text));
        self.survey_if_changed();
    }

    /// Puts `next` in force, and everybody where it says.
    pub(super) fn take_over(&mut self, next: Engine) {
        let before = std::mem::replace(&mut self.engine, next);
        // A machine that changed changes nothing of what the rules need.
        self.executor.scanner = scanner(&self.engine, self.executor.scanner.reader.clone());
        for process in before.processes() {
            let now = self.engine.process(process.facts.pid).map(|process| &process.threads);
            let kept = |task: TaskId| {
                now.and_then(|threads| threads.get(&task.tid)).is_some_and(|kept| kept.id == task)
            };
            for thread in process.threads.values().filter(|thread| !kept(thread.id)) {
                Marks::unmark(&mut self.executor.marks, thread.id);
            }
        }
        self.executor.marks.replan(&self.engine);
        let pending = self.engine.pending(&Cause::Replan);
        self.executor.execute(&mut self.engine, pending);
        // A scan by the old rules is of no use. A process may have slipped through before the new filter, and on a machine that
        // changed the kernel may have given any task another mask.
        (self.scan, self.rescan) = (None, true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn one_that_hangs_is_given_up_and_there_are_not_too_many() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let (end, hung) = channel::<()>();
        let hung = Arc::new(std::sync::Mutex::new(hung));
        let job = || {
            let hung = Arc::clone(&hung);
            tokio::task::spawn_blocking(move || {
                let _ = hung.lock().unwrap().recv();
                anyhow::bail!("over")
            })
        };
        let mut reloads = Reloads::default();
        assert!(reloads.begin(None));
        let now = Instant::now();
        assert!(!reloads.is_late(now) && reloads.is_late(now + LONG));
        reloads.give_up(job());
        assert!(!reloads.is_late(now + LONG), "it is not waited for any more");
        for _ in 2..MOST {
            assert!(reloads.begin(Some(job())));
        }
        assert!(!reloads.begin(Some(job())));
        drop(end);
        while reloads.left.iter().any(|job| !job.is_finished()) {
            std::thread::yield_now();
        }
        assert!(reloads.begin(None), "they have ended");
    }
}
