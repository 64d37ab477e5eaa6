//! All viewers: who wants what, and what is on its way to whom. One thread's; nothing here waits.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::Instant,
};

use super::{CALLERS, FOR_ROOT, QUEUE, READINGS, VIEWERS, feed::Demand};
use crate::core::view::{Line, SCHEMA, build::Reading};

/// Of a viewer's queue, what events leave free: a place for its snapshot, of which it has one at a time, and one for what it missed.
const KEPT: usize = 2;

/// A line on its way, its end of line included.
#[derive(Debug, Clone)]
pub struct Ready {
    /// What it says.
    pub text: Arc<str>,
    /// It is the snapshot that its viewer waits for.
    pub snapshot: bool,
}

/// What a viewer gets its lines from.
#[derive(Debug)]
pub struct Queue {
    /// The lines.
    pub lines: mpsc::Receiver<Ready>,
    /// A snapshot is being made, or has not been taken.
    pub awaits: Rc<Cell<bool>>,
}

#[derive(Debug)]
struct Viewer {
    lines: mpsc::Sender<Ready>,
    interval: Duration,
    /// What the next snapshot begins with.
    since: Option<(Arc<Reading>, Instant)>,
    awaits: Rc<Cell<bool>>,
    /// Events that it did not get, and has not been told of.
    missed: u64,
}

/// One who has connected, and is no viewer yet.
#[derive(Debug)]
struct Calling {
    conversation: AbortHandle,
    is_root: bool,
}

/// A snapshot to be made: the reading that it begins with, and who wants it.
pub type Wanted = (Arc<Reading>, Vec<u64>);

/// All of them.
#[derive(Debug)]
pub struct Hub {
    demand: Arc<Demand>,
    next_id: u64,
    callers: BTreeMap<u64, Calling>,
    viewers: BTreeMap<u64, Viewer>,
    /// Who waits for the state.
    asking: Vec<oneshot::Sender<Arc<str>>>,
}

impl Hub {
    /// Nobody yet.
    pub fn new(demand: Arc<Demand>) -> Self {
        Self { demand, next_id: 0, callers: BTreeMap::new(), viewers: BTreeMap::new(), asking: Vec::new() }
    }

    /// A number for who comes next.
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Somebody has connected; if there are too many, whoever has been at it longest gives way, root last.
    pub fn came(&mut self, id: u64, is_root: bool, conversation: AbortHandle) {
        self.callers.insert(id, Calling { conversation, is_root });
        if self.callers.len() > CALLERS
            && let Some(id) =
                self.callers.iter().min_by_key(|(id, who)| (who.is_root, **id)).map(|(id, _)| *id)
            && let Some(who) = self.callers.remove(&id)
        {
            who.conversation.abort();
        }
    }

    /// Somebody has gone.
    pub fn went(&mut self, id: u64) {
        self.callers.remove(&id);
        if self.viewers.remove(&id).is_some() {
            self.set_pace();
        }
    }

    /// Whether anybody looks on.
    pub fn is_watched(&self) -> bool {
        !self.viewers.is_empty()
    }

    /// The state, once the loop has told it.
    pub fn ask_status(&mut self) -> oneshot::Receiver<Arc<str>> {
        let (told, state) = oneshot::channel();
        self.asking.retain(|asking| !asking.is_closed());
        self.asking.push(told);
        self.demand.ask_status();
        state
    }

    /// From now on that caller is a viewer.
    ///
    /// # Errors
    /// If there are too many, in words.
    pub fn subscribe(&mut self, id: u64, is_root: bool, interval: Duration) -> Result<Queue, String> {
        let most = if is_root { VIEWERS } else { VIEWERS - FOR_ROOT };
        if self.viewers.len() >= most {
            return Err(format!("there are {} viewers already; close some", self.viewers.len()));
        }
        self.callers.remove(&id);
        let (sender, lines) = mpsc::channel(QUEUE);
        let awaits = Rc::new(Cell::new(false));
        let viewer = Viewer { lines: sender, interval, since: None, awaits: Rc::clone(&awaits), missed: 0 };
        self.viewers.insert(id, viewer);
        self.set_pace();
        Ok(Queue { lines, awaits })
    }

    /// From now on that viewer wants snapshots so often; what happened since its last one is in its next.
    pub fn set_interval(&mut self, id: u64, interval: Duration) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.interval = interval;
            self.set_pace();
        }
    }

    /// Something happened.
    pub fn event(&mut self, line: String) {
        let missed = self.demand.take_missed();
        let text: Arc<str> = (line + "\n").into();
        for viewer in self.viewers.values_mut() {
            viewer.missed += missed;
            viewer.event(Ready { text: Arc::clone(&text), snapshot: false });
        }
    }

    /// The state, for those who asked.
    pub fn state(&mut self, text: &Arc<str>) {
        // Who has gone does not take it.
        self.asking.drain(..).for_each(|asking| drop(asking.send(Arc::clone(text))));
    }

    /// All accounts have been read: the snapshots that are to be made of it.
    pub fn reading(&mut self, now: &Arc<Reading>) -> Vec<Wanted> {
        self.demand.took_reading();
        let missed = self.demand.take_missed();
        let (at, mut wanted) = (Instant::now(), Vec::<Wanted>::new());
        let too_old = self.too_old();
        for (id, viewer) in &mut self.viewers {
            viewer.missed += missed;
            let Some((since, began)) = &viewer.since else {
                viewer.since = Some((Arc::clone(now), at));
                continue;
            };
            // The loop's readings are not to the millisecond.
            let due = at.duration_since(*began) >= viewer.interval.mul_f64(0.9);
            let due = due || too_old.is_some_and(|too_old| *began <= too_old);
            if !due || viewer.awaits.get() {
                continue;
            }
            match wanted.iter_mut().find(|(known, _)| Arc::ptr_eq(known, since)) {
                Some((_, ids)) => ids.push(*id),
                None => wanted.push((Arc::clone(since), vec![*id])),
            }
            viewer.awaits.set(true);
            viewer.since = Some((Arc::clone(now), at));
        }
        wanted
    }

    /// Viewers whose reading is as old as this, or older, get their snapshot early: so many are not kept.
    fn too_old(&self) -> Option<Instant> {
        let mut kept: Vec<Instant> = Vec::new();
        kept.extend(self.viewers.values().filter_map(|viewer| Some(viewer.since.as_ref()?.1)));
        kept.sort_unstable();
        kept.dedup();
        // The one that has just come will be kept too.
        kept.len().checked_sub(READINGS).map(|last| kept[last])
    }

    /// A snapshot has been made.
    pub fn snapshot(&mut self, text: &Arc<str>, viewers: &[u64]) {
        for viewer in viewers {
            if let Some(viewer) = self.viewers.get_mut(viewer) {
                viewer.tell_missed();
                if !viewer.send(Ready { text: Arc::clone(text), snapshot: true }) {
                    viewer.awaits.set(false);
                }
            }
        }
    }

    /// One could not be made, whoever wanted it: nobody waits for one any more.
    pub fn not_made(&mut self) {
        self.viewers.values().for_each(|viewer| viewer.awaits.set(false));
    }

    /// No more lines: who has taken those that wait has heard all.
    pub fn close(&mut self) {
        self.asking.clear();
        self.viewers.clear();
    }

    fn set_pace(&self) {
        self.demand.set_pace(self.viewers.values().map(|viewer| viewer.interval).min());
    }
}

impl Viewer {
    fn event(&mut self, line: Ready) {
        let has_room = self.lines.capacity() > KEPT;
        if has_room {
            self.tell_missed();
        }
        // One that did not keep up hears of that first.
        if self.missed > 0 || !has_room || !self.send(line) {
            self.missed += 1;
        }
    }

    fn tell_missed(&mut self) {
        if self.missed > 0 {
            let line = Line::Missed { schema: SCHEMA, events: self.missed };
            if self.send(Ready { text: printed(&line), snapshot: false }) {
                self.missed = 0;
            }
        }
    }

    fn send(&self, line: Ready) -> bool {
        self.lines.try_send(line).is_ok()
    }
}

/// A line as it is sent. Names in it are as they are, but for what a terminal could take for a command.
#[must_use]
pub fn printed(line: &Line) -> Arc<str> {
    // Of numbers, texts and lists nothing can fail.
    let text = serde_json::to_string(line).unwrap_or_default();
    (crate::report::escape::json(&text) + "\n").into()
}
