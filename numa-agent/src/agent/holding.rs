//! Holding processes at exec: the heartbeat that has the kernel side do it, and the guard that ends it.
//!
//! No guard that is ready, no heartbeat: nobody is held whom nobody would let go on. Who is held when the guard is lost goes on at once.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    task::{Context, Poll},
    time::Duration,
};

use nix::errno::Errno;
use serde_json::json;
use tokio::{io::unix::AsyncFd, time::Interval};

use super::{
    Agent,
    inputs::{interval, poll_cleared},
    output::Output,
};
use crate::{
    core::{
        hold::{Answer, By, End, Hold, HoldSettings, MemoryResult, Order, Release},
        memory::Policy,
        stats::Stats,
        task::TaskId,
    },
    host::{
        bpf::{BpfError, Holds},
        guard::{self, Guard, Parents, Word},
        sys::{self, Host, Kernel as _, SysError, monotonic_ns},
    },
};

/// Time between two heartbeats; the kernel side takes one of 200 ms ago for fresh.
const BEAT: Duration = Duration::from_millis(50);
/// A guard that has not answered an order for so long after the limit hangs.
const STUCK_NS: u64 = 300_000_000;
/// So long it has then to go on, before it is ended: if it was about to set a memory policy, the program that it traces may crash with it.
const DOUBT_NS: u64 = 5_000_000_000;
/// Time until another guard is started: the first, and the longest. It doubles with each that is lost.
const RETRY_NS: (u64, u64) = (100_000_000, 10_000_000_000);
/// How long a guard may take to end, once it is told to.
const FAREWELL: Duration = Duration::from_secs(1);

/// The heartbeat and the guard.
pub(super) struct Holding {
    settings: HoldSettings,
    /// `None`: nothing can be held here.
    holds: Option<Holds>,
    /// While somebody may be held.
    beats: Option<Interval>,
    beat_ns: u64,
    guarded: Option<Guarded>,
    /// Orders that have not been answered, and since when.
    unanswered: BTreeMap<Hold, u64>,
    /// Of those that were let go on without a guard.
    parents: Parents,
    retry_at_ns: u64,
    lost_in_a_row: u32,
}

/// A guard that runs.
struct Guarded {
    guard: Guard,
    signal: AsyncFd<std::os::fd::OwnedFd>,
    /// Tasks may be held.
    ready: bool,
    /// It has been told to end.
    leaving: bool,
    /// Since when it is known not to do what it is told.
    doubted_ns: Option<u64>,
}

/// What is to be done.
pub(super) enum Due {
    /// Another heartbeat.
    Beat,
    /// The guard has something to say.
    Word,
}

impl Holding {
    /// Nobody is held before [`Holding::configure`].
    pub(super) fn new(holds: Option<Holds>) -> Self {
        Self {
            settings: HoldSettings::default(),
            holds,
            beats: None,
            beat_ns: 0,
            guarded: None,
            unanswered: BTreeMap::new(),
            parents: Parents::default(),
            retry_at_ns: 0,
            lost_in_a_row: 0,
        }
    }

    /// Whether it can be done at all.
    pub(super) fn is_possible(&self) -> bool {
        self.holds.is_some()
    }

    /// Puts settings in force.
    pub(super) fn configure(&mut self, settings: HoldSettings) {
        self.settings = HoldSettings { hold: settings.hold && self.is_possible(), ..settings };
        if self.settings.hold {
            self.beats.get_or_insert_with(|| interval(BEAT));
            self.tell_limit();
        } else {
            self.beat(0);
            if let Some(guarded) = &mut self.guarded {
                // It is heard of when it has ended.
                (guarded.ready, guarded.leaving) = (false, true);
                let _ = guarded.guard.tell(&Order::End);
            }
        }
    }

    /// The guard's pid.
    pub(super) fn guard(&self) -> Option<u32> {
        self.guarded.as_ref().map(|guarded| guarded.guard.pid())
    }

    /// What is to be done next; for ever pending while nobody is held.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Due> {
        let Some(beats) = &mut self.beats else { return Poll::Pending };
        if let Some(guarded) = &self.guarded
            && poll_cleared(&guarded.signal, context).is_ready()
        {
            return Poll::Ready(Due::Word);
        }
        beats.poll_tick(context).map(|_| Due::Beat)
    }

    /// Another heartbeat, if it is time.
    pub(super) fn keep_alive(&mut self) {
        let is_ready = self.guarded.as_ref().is_some_and(|guarded| guarded.ready);
        if self.settings.hold && is_ready {
            let now_ns = monotonic_ns();
            if now_ns.saturating_sub(self.beat_ns) >= BEAT.as_nanos() as u64 / 2 {
                self.beat(now_ns);
            }
        }
    }

    fn beat(&mut self, now_ns: u64) {
        self.beat_ns = now_ns;
        let terminals = self.settings.terminals;
        let result = self.holds.as_mut().map_or(Ok(()), |holds| holds.beat(now_ns, terminals));
        told(result);
    }

    fn tell_limit(&self) {
        if let Some(guarded) = &self.guarded {
            let _ = guarded.guard.tell(&Order::Limit { ns: self.settings.limit.as_nanos() as u64 });
        }
    }

    /// Has a held process go on; at once if there is no guard.
    pub(super) fn release(&mut self, hold: Hold, memory: Option<&Policy>) -> Option<Release> {
        let Some(guarded) = &self.guarded else {
            return guard::free(self.holds.as_mut()?.held(), &mut self.parents, hold);
        };
        let memory = memory.map(Policy::to_string);
        // A guard that takes no orders hangs: it lets go by the limit, or is replaced.
        if guarded.guard.tell(&Order::Release { hold, memory }) {
            self.unanswered.insert(hold, monotonic_ns());
        }
        None
    }

    /// Starts a guard where there should be one.
    fn start(&mut self) -> Option<std::io::Result<()>> {
        let due = self.settings.hold && self.guarded.is_none() && monotonic_ns() >= self.retry_at_ns;
        let holds = self.holds.as_ref().filter(|_| due)?;
        let started = Guard::start(holds).and_then(|guard| {
            let signal = sys::watch(guard.as_fd().try_clone_to_owned()?)?;
            Ok(Guarded { guard, signal, ready: false, leaving: false, doubted_ns: None })
        });
        Some(started.map(|guarded| self.guarded = Some(guarded)).inspect_err(|_| self.back_off()))
    }

    fn back_off(&mut self) {
        let (first_ns, longest_ns) = RETRY_NS;
        let pause_ns = (first_ns << self.lost_in_a_row.min(16)).min(longest_ns);
        self.retry_at_ns = monotonic_ns() + pause_ns;
        self.lost_in_a_row += 1;
    }

    /// Whether the guard does not do what it is told.
    fn is_stuck(&self) -> bool {
        let patience_ns = self.settings.limit.as_nanos() as u64 + STUCK_NS;
        let oldest_ns = self.unanswered.values().min();
        oldest_ns.is_some_and(|told_ns| monotonic_ns().saturating_sub(*told_ns) > patience_ns)
    }

    /// Nobody is held until it answers; it is woken, in case somebody has stopped it.
    fn doubt(&mut self) {
        self.beat(0);
        self.unanswered.clear();
        if let Some(guarded) = &mut self.guarded {
            (guarded.ready, guarded.doubted_ns) = (false, Some(monotonic_ns()));
            guarded.guard.wake();
            let _ = guarded.guard.tell(&Order::Speak);
        }
    }

    /// For how long it is in doubt, in nanoseconds.
    fn doubted_for(&self) -> Option<u64> {
        Some(monotonic_ns().saturating_sub(self.guarded.as_ref()?.doubted_ns?))
    }

    /// It has answered; whether it was in doubt.
    fn trust(&mut self) -> bool {
        let Some(guarded) = &mut self.guarded else { return false };
        let doubted = guarded.doubted_ns.take().is_some();
        guarded.ready |= doubted && !guarded.leaving;
        doubted
    }

    /// Lets all go on that no guard looks after any more.
    fn free_all(&mut self) -> Vec<Release> {
        let mut freed = Vec::new();
        if let Some(holds) = &mut self.holds {
            guard::free_all(holds.held(), &mut self.parents, |release| freed.push(release));
        }
        freed
    }

    /// The guard is gone, or is to go; its pid.
    fn drop_guard(&mut self) -> Option<u32> {
        self.beat(0);
        self.unanswered.clear();
        let guarded = self.guarded.take()?;
        let pid = guarded.guard.pid();
        guarded.guard.kill();
        Some(pid)
    }

    /// Nobody is held any more, and the guard ends; what it has to say at last.
    fn end(&mut self) -> Vec<Answer> {
        self.configure(HoldSettings { hold: false, ..self.settings });
        let mut answers = Vec::new();
        let Some(guarded) = &mut self.guarded else { return answers };
        let until_ns = monotonic_ns() + FAREWELL.as_nanos() as u64;
        while !guarded.guard.has_ended() && monotonic_ns() < until_ns {
            std::thread::sleep(Duration::from_millis(2));
        }
        while let Word::Answer(answer) = guarded.guard.hear() {
            answers.push(answer);
        }
        self.drop_guard();
        answers
    }
}

impl Agent {
    /// Does what is due of holding.
    pub(super) fn hold(&mut self, due: &Due) {
        match due {
            Due::Beat => self.beat(),
            Due::Word => self.hear_guard(),
        }
    }

    fn beat(&mut self) {
        // If it was us who were late.
        self.hear_guard();
        match self.executor.holding.doubted_for() {
            None if self.executor.holding.is_stuck() => self.doubt_guard(),
            Some(ns) if ns > DOUBT_NS => self.lose_guard("does not answer"),
            _ => {}
        }
        match self.executor.holding.start() {
            Some(Ok(())) => self.welcome_guard(),
            Some(Err(error)) => self.say_warning(&format!("no guard, so nobody is held at exec: {error}")),
            None => {}
        }
        let holding = &mut self.executor.holding;
        holding.keep_alive();
        if holding.guarded.as_ref().is_none_or(|guarded| guarded.doubted_ns.is_some()) {
            let freed = holding.free_all();
            self.note_releases(freed);
        }
        let continued = self.executor.holding.parents.look(&Host, monotonic_ns());
        continued.into_iter().for_each(|parent| self.note_parent(parent));
    }

    /// It is one of us: never managed, and where we are.
    fn welcome_guard(&mut self) {
        if let Some(guarded) = &self.executor.holding.guarded {
            self.engine.disregard(guarded.guard.task());
        }
        self.step_aside();
    }

    fn hear_guard(&mut self) {
        loop {
            let Some(guarded) = &mut self.executor.holding.guarded else { return };
            match guarded.guard.hear() {
                Word::Nothing => return,
                Word::Gone if !guarded.leaving => return self.lose_guard("is gone"),
                Word::Gone => {
                    let holding = &mut self.executor.holding;
                    holding.drop_guard();
                    // Another reload may want one again.
                    holding.beats = holding.beats.take().filter(|_| holding.settings.hold);
                    let freed = self.executor.holding.free_all();
                    return self.note_releases(freed);
                }
                Word::Answer(answer) => self.note_answer(answer),
            }
        }
    }

    fn note_answer(&mut self, answer: Answer) {
        let was_ready = self.executor.holding.guarded.as_ref().is_some_and(|guarded| guarded.ready);
        let trusted_again = self.executor.holding.trust();
        let holding = &mut self.executor.holding;
        match answer {
            Answer::Ready => {
                if let Some(guarded) = &mut holding.guarded {
                    guarded.ready = !guarded.leaving;
                }
                holding.tell_limit();
                if !was_ready {
                    self.tell_ready();
                }
            }
            _ if trusted_again => {
                self.tell_ready();
                // Not in doubt any more.
                self.note_answer(answer);
            }
            Answer::Parent { parent } => self.note_parent(parent),
            Answer::Late { hold } => drop(holding.unanswered.remove(&hold)),
            Answer::Released(release) => {
                holding.unanswered.remove(&release.hold);
                if release.by == By::Agent {
                    holding.lost_in_a_row = 0;
                }
                self.note_releases([release]);
            }
        }
    }

    fn tell_ready(&mut self) {
        let holding = &mut self.executor.holding;
        holding.keep_alive();
        let (pid, limit) = (holding.guard(), holding.settings.limit);
        self.executor.output.event("guard", json!({ "state": "ready", "pid": pid }), || {
            Some(format!("processes are held at exec, for {} ms or so", limit.as_millis()))
        });
    }

    /// The parent of one that was held had stopped itself, and goes on.
    fn note_parent(&mut self, parent: TaskId) {
        self.executor.stats.holds.parents_continued += 1;
        let fields = json!({ "pid": parent.tid, "start_time": parent.start_time });
        self.executor.output.event("continued", fields, || {
            Some(format!("continued {}, which had stopped when it saw its child held", parent.tid))
        });
    }

    fn note_releases(&mut self, releases: impl IntoIterator<Item = Release>) {
        for release in releases {
            note_release(&mut self.executor.stats, &mut self.executor.output, &release);
        }
    }

    fn doubt_guard(&mut self) {
        let holding = &mut self.executor.holding;
        holding.doubt();
        let pid = holding.guard();
        let freed = holding.free_all();
        self.note_releases(freed);
        self.executor.output.event("guard", json!({ "state": "doubted", "pid": pid }), || None);
        let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
        self.say_warning(&format!(
            "the guard{pid} does not do what it is told: who was held goes on, and nobody is held until it answers"
        ));
    }

    fn lose_guard(&mut self, why: &str) {
        let holding = &mut self.executor.holding;
        let pid = holding.drop_guard();
        holding.back_off();
        self.executor.stats.holds.guards_lost += 1;
        let freed = self.executor.holding.free_all();
        self.note_releases(freed);
        self.executor.output.event("guard", json!({ "state": "lost", "pid": pid, "why": why }), || None);
        let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
        self.say_warning(&format!(
            "the guard{pid} {why}: who was held goes on, and nobody is held until another guard is there"
        ));
    }

    /// Takes over what the settings say.
    pub(super) fn configure_holding(&mut self) {
        let settings = self.engine.settings();
        // Without a rule nobody that execs is ours.
        let asked = settings.hold.hold && !settings.has_rules();
        let settings = HoldSettings { hold: settings.hold.hold && settings.has_rules(), ..settings.hold };
        if asked {
            self.say_warning(
                "hold: there is no rule or pattern that a program could match, so nobody is held",
            );
        }
        let holding = &mut self.executor.holding;
        holding.configure(settings);
        if settings.hold && !holding.is_possible() && !self.options.dry_run {
            let why = match &self.executor.marks.programs.health().hold {
                Some(Err(why)) => why.as_str(),
                _ => "without CAP_KILL nobody could let them go on",
            };
            self.say_warning(&format!("hold: processes cannot be held at exec here: {why}"));
        }
    }

    /// Nobody is held any more.
    pub(super) fn end_holding(&mut self) {
        for answer in self.executor.holding.end() {
            match answer {
                Answer::Released(release) => self.note_releases([release]),
                Answer::Parent { parent } => self.note_parent(parent),
                Answer::Ready | Answer::Late { .. } => {}
            }
        }
        let freed = self.executor.holding.free_all();
        self.note_releases(freed);
    }

    /// Puts the guard where the agent is.
    pub(super) fn guard_steps_aside(&self) -> Result<(), SysError> {
        let Some(pid) = self.executor.holding.guard() else { return Ok(()) };
        match Host.set_affinity(pid, &self.engine.plan().others.cpus) {
            Err(SysError { errno: Errno::ESRCH, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Counts and tells the end of a hold. People hear of those that are not as usual.
pub(super) fn note_release(stats: &mut Stats, output: &mut Output, release: &Release) {
    stats.holds.add(release);
    let Release { hold, by, end, memory, held_ns } = release;
    let (tid, held_us) = (hold.task.tid, *held_ns as f64 / 1000.0);
    let memory = match memory {
        MemoryResult::Unasked => None,
        MemoryResult::Set(policy) => Some(policy.clone()),
        MemoryResult::Refused(why) => Some(format!("refused: {why}")),
    };
    if *end == End::Refused {
        tracing::error!("process {tid} was held at exec and cannot be let go on; `kill -CONT {tid}` does");
    }
    let usual = *by == By::Agent && *end != End::Stopped;
    let refused = memory.clone().filter(|memory| memory.starts_with("refused"));
    let fields = json!({
        "pid": tid, "start_time": hold.task.start_time, "held_us": held_us, "by": by.name(), "end": end.name(), "memory": memory,
    });
    output.event("released", fields, || {
        let refused_text = refused.as_ref().map(|why| format!(", memory policy {why}")).unwrap_or_default();
        let text =
            || format!("released {tid} by {}, {} after {held_us:.0} us{refused_text}", by.name(), end.name());
        (!usual || refused.is_some()).then(text)
    });
}

fn told(result: Result<(), BpfError>) {
    if let Err(error) = result {
        tracing::warn!("{error}");
    }
}
