//! Parents of held processes. One that asks for stops (`WUNTRACED`) and has seen the hold may do as shells expect of it, and stop itself
//! until somebody lets it go on: `su`, `runuser`, `nsenter`, `sudo`. Nobody would, so the guard does.
//!
//! The kernel side holds no child of a parent that is stopped, and of its forebears those that are stopped as the hold is heard of stay so,
//! and all above them. Who stops within half a second after the child went on is taken to have stopped over it.

use std::collections::BTreeMap;

use super::release::{Stop, Stopped};
use crate::core::task::TaskId;

/// For how long a parent is looked after: the time it may take to get a CPU, see the stop and stop itself.
const WATCHED_NS: u64 = 500_000_000;
/// The first pause between two looks; each is four times the one before.
const SOON_NS: u64 = 500_000;
/// The longest.
const LATER_NS: u64 = 128_000_000;
/// So many at a time: as many as may be held.
const MOST: usize = 4096;
/// So far up.
const GENERATIONS: usize = 4;

/// A process's parent, its parent, and so on, none of which was stopped.
pub type Forebears = Vec<TaskId>;

/// Who is looked after.
#[derive(Debug, Default)]
pub struct Parents {
    watched: BTreeMap<TaskId, Watch>,
}

#[derive(Debug)]
struct Watch {
    until_ns: u64,
    next_ns: u64,
    pause_ns: u64,
    above: Forebears,
}

/// The forebears of a process that may stop over its hold.
pub fn forebears(host: &impl Stopped, pid: u32) -> Forebears {
    let mut all = Forebears::new();
    let mut child = pid;
    while all.len() < GENERATIONS {
        // Process 1 is stopped by nobody; 0 is in another pid namespace.
        let Some(parent) = host.parent(child).filter(|parent| *parent > 1) else { break };
        let Some(start_time) = host.start_time(parent) else { break };
        // The first has not been stopped: the kernel side has looked, and it may have stopped over the hold since.
        if !all.is_empty() && host.stop(parent).is_none_or(|stop| stop.in_force) {
            break;
        }
        all.push(TaskId { tid: parent, start_time });
        child = parent;
    }
    all
}

impl Parents {
    /// Looks after the first of them from now on, and lets it go on at once if it has stopped: its child, which is about to, may run
    /// another program that is to be held. Who it is then.
    pub fn watch(&mut self, host: &impl Stopped, forebears: &[TaskId], now_ns: u64) -> Option<TaskId> {
        let [parent, above @ ..] = forebears else { return None };
        if self.watched.len() >= MOST && !self.watched.contains_key(parent) {
            return None;
        }
        let new =
            || Watch { until_ns: 0, next_ns: now_ns + SOON_NS, pause_ns: SOON_NS, above: above.to_vec() };
        self.watched.entry(*parent).or_insert_with(new).until_ns = now_ns + WATCHED_NS;
        self.resume(host, *parent, now_ns).then_some(*parent)
    }

    /// Lets those go on that have stopped; who they are.
    pub fn look(&mut self, host: &impl Stopped, now_ns: u64) -> Vec<TaskId> {
        let due = self.watched.iter_mut().filter(|(_, watch)| watch.next_ns <= now_ns);
        let due = due.map(|(task, watch)| {
            watch.pause_ns = (watch.pause_ns * 4).min(LATER_NS);
            watch.next_ns = now_ns + watch.pause_ns;
            *task
        });
        let due: Vec<TaskId> = due.collect();
        let continued = due.into_iter().filter(|task| self.resume(host, *task, now_ns)).collect();
        self.watched.retain(|_, watch| watch.until_ns > now_ns);
        continued
    }

    /// When the next look is due, if anybody is looked after.
    pub fn next_ns(&self) -> Option<u64> {
        self.watched.values().map(|watch| watch.next_ns).min()
    }

    /// Whether it had stopped, and goes on: once for each hold. Its own parent may have stopped over that in turn.
    fn resume(&mut self, host: &impl Stopped, task: TaskId, now_ns: u64) -> bool {
        if !resume(host, task) {
            return false;
        }
        if let Some(watch) = self.watched.remove(&task) {
            self.watch(host, &watch.above, now_ns);
        }
        true
    }
}

/// Whether it had stopped, and goes on; not if another stop is on its way to it, which is somebody else's.
fn resume(host: &impl Stopped, task: TaskId) -> bool {
    let TaskId { tid, start_time } = task;
    let stopped = Stop { in_force: true, pending: false, traced: false };
    // Hardly anybody is, so that comes first.
    if host.stop(tid) != Some(stopped) {
        return false;
    }
    let Ok(process) = host.open(tid) else { return false };
    host.start_time(tid) == Some(start_time) && host.resume(tid, Some(&process)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use nix::errno::Errno;

    use super::*;

    /// `sudo su` and the held one: 10 is 20's parent, 20 is 30's.
    #[derive(Default)]
    struct Fake {
        stopped: RefCell<Vec<u32>>,
        resumed: RefCell<Vec<u32>>,
        pending: bool,
    }

    impl Stopped for Fake {
        type Handle = ();

        fn open(&self, _pid: u32) -> Result<(), Errno> {
            Ok(())
        }

        fn start_time(&self, _tid: u32) -> Option<u64> {
            Some(7)
        }

        fn parent(&self, pid: u32) -> Option<u32> {
            Some(match pid {
                30 => 20,
                20 => 10,
                _ => 1,
            })
        }

        fn stop(&self, pid: u32) -> Option<Stop> {
            let in_force = self.stopped.borrow().contains(&pid);
            Some(Stop { in_force, pending: in_force && self.pending, traced: false })
        }

        fn resume(&self, pid: u32, _process: Option<&()>) -> Result<(), Errno> {
            self.stopped.borrow_mut().retain(|stopped| *stopped != pid);
            self.resumed.borrow_mut().push(pid);
            Ok(())
        }
    }

    fn tids(tasks: &[TaskId]) -> Vec<u32> {
        tasks.iter().map(|task| task.tid).collect()
    }

    /// Looks until nobody is looked after any more; who was let go on, and how often it looked.
    fn to_the_end(parents: &mut Parents, host: &Fake) -> (Vec<u32>, u32) {
        let (mut continued, mut looks) = (Vec::new(), 0);
        while let Some(next_ns) = parents.next_ns() {
            continued.extend(tids(&parents.look(host, next_ns)));
            looks += 1;
        }
        (continued, looks)
    }

    #[test]
    fn parents_that_stop_over_a_hold_go_on_and_so_do_theirs() {
        let (host, mut parents) = (Fake::default(), Parents::default());
        let all = forebears(&host, 30);
        assert_eq!(tids(&all), [20, 10]);
        // It has stopped before its child goes on.
        host.stopped.borrow_mut().push(20);
        assert_eq!(parents.watch(&host, &all, 100).map(|task| task.tid), Some(20));
        host.stopped.borrow_mut().push(10);
        assert_eq!(to_the_end(&mut parents, &host).0, [10]);
        // Or after that.
        assert_eq!(parents.watch(&host, &all, 100), None);
        assert!(parents.look(&host, 100).is_empty(), "not yet");
        host.stopped.borrow_mut().extend([20, 10]);
        assert_eq!(to_the_end(&mut parents, &host).0, [20]);
        assert_eq!(*host.resumed.borrow(), [20, 10, 20, 10]);
    }

    #[test]
    fn who_had_been_stopped_before_stays_so() {
        let (host, mut parents) = (Fake::default(), Parents::default());
        host.stopped.borrow_mut().push(10);
        let all = forebears(&host, 30);
        assert_eq!(tids(&all), [20]);
        host.stopped.borrow_mut().push(20);
        parents.watch(&host, &all, 0);
        to_the_end(&mut parents, &host);
        assert_eq!(*host.resumed.borrow(), [20]);
        // Stopped once more by somebody else while it is stopped.
        let (host, mut parents) = (Fake { pending: true, ..Fake::default() }, Parents::default());
        let all = forebears(&host, 30);
        host.stopped.borrow_mut().push(20);
        parents.watch(&host, &all, 0);
        assert!(to_the_end(&mut parents, &host).0.is_empty());
    }

    #[test]
    fn nobody_is_looked_after_for_ever_or_twice_for_one_hold() {
        let (host, mut parents) = (Fake::default(), Parents::default());
        // Process 1 is not one of them.
        assert!(forebears(&host, 40).is_empty());
        let all = forebears(&host, 30);
        parents.watch(&host, &all, 0);
        let (continued, looks) = to_the_end(&mut parents, &host);
        assert!(continued.is_empty() && (5..12).contains(&looks), "{looks} looks");
        parents.watch(&host, &all[..1], 0);
        host.stopped.borrow_mut().push(20);
        assert_eq!(tids(&parents.look(&host, SOON_NS)), [20]);
        host.stopped.borrow_mut().push(20);
        assert!(to_the_end(&mut parents, &host).0.is_empty());
    }
}
