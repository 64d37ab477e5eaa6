//! Letting a held process go on: check who it is, see whether somebody else wants it stopped, continue it.

use nix::errno::Errno;

use crate::{
    core::{
        hold::{End, Hold},
        task::TaskId,
    },
    host::sys::{self, Host, Kernel, PidFd, Signal},
};

/// The signals that stop a process, as bits of a signal mask (signal(7); the same on x86_64 and aarch64).
const STOPS: u64 = 1 << (19 - 1) | 1 << (20 - 1) | 1 << (21 - 1) | 1 << (22 - 1);

/// What a process's signals say of its being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// It does not run.
    pub in_force: bool,
    /// A signal that stops it waits to be taken.
    pub pending: bool,
    /// A tracer has it, and so its stop may be in force once that is gone.
    pub traced: bool,
}

/// What it takes of the machine.
pub trait Stopped {
    /// A process, whatever becomes of its pid.
    type Handle;

    /// The process that has that pid now.
    fn open(&self, pid: u32) -> Result<Self::Handle, Errno>;

    /// When the task that has that tid now started.
    fn start_time(&self, tid: u32) -> Option<u64>;

    /// The process that started it; 0 if that is in another pid namespace.
    fn parent(&self, pid: u32) -> Option<u32>;

    /// How it stands; `None` if it is gone.
    fn stop(&self, pid: u32) -> Option<Stop>;

    /// Lets it go on; without a handle, whoever has the pid.
    fn resume(&self, pid: u32, process: Option<&Self::Handle>) -> Result<(), Errno>;
}

/// Whether somebody else has asked for it to be stopped while it was held: our stop has been taken by then, so that what is still
/// pending is theirs.
pub fn is_stopped_by_others(host: &impl Stopped, hold: &Hold) -> bool {
    host.stop(hold.task.tid).is_some_and(|stop| stop.in_force && stop.pending)
}

/// Whether it is stopped, or about to be.
pub fn is_stopped(host: &impl Stopped, hold: &Hold) -> bool {
    host.stop(hold.task.tid).is_some_and(|stop| stop.in_force || stop.pending)
}

/// Whether a tracer has it: the guard before this one, if that has been ended and is not gone yet.
pub fn is_traced(host: &impl Stopped, hold: &Hold) -> bool {
    host.stop(hold.task.tid).is_some_and(|stop| stop.traced)
}

/// Lets it go on, unless that would undo somebody else's stop: then it stays as it is, for them to continue. What `first` does comes
/// right before, if it is let go on.
pub fn release(host: &impl Stopped, hold: &Hold, first: impl FnOnce()) -> End {
    let TaskId { tid, start_time } = hold.task;
    let process = match host.open(tid) {
        Err(Errno::ESRCH) => return End::Gone,
        // Out of descriptors, say: to continue one that has the pid by now does less harm than to leave one stopped.
        process => process.ok(),
    };
    if host.start_time(tid).is_some_and(|known| known != start_time) {
        return End::Gone;
    }
    if is_stopped_by_others(host, hold) {
        return End::Stopped;
    }
    first();
    match host.resume(tid, process.as_ref()) {
        Ok(()) => End::Continued,
        Err(Errno::ESRCH) => End::Gone,
        Err(_) => End::Refused,
    }
}

/// Lets it go on if it is still stopped: our stop may have come after it was first told to.
pub fn release_again(host: &impl Stopped, hold: &Hold, first: impl FnOnce()) -> End {
    match host.stop(hold.task.tid) {
        None => End::Gone,
        Some(Stop { in_force: false, pending: false, .. }) => End::Continued,
        Some(_) => release(host, hold, first),
    }
}

impl Stopped for Host {
    type Handle = PidFd;

    fn open(&self, pid: u32) -> Result<PidFd, Errno> {
        PidFd::open(pid)
    }

    fn start_time(&self, tid: u32) -> Option<u64> {
        Kernel::start_time(self, tid)
    }

    fn parent(&self, pid: u32) -> Option<u32> {
        sys::parent(pid)
    }

    fn stop(&self, pid: u32) -> Option<Stop> {
        parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn resume(&self, pid: u32, process: Option<&PidFd>) -> Result<(), Errno> {
        match process {
            Some(process) => process.signal(Signal::SIGCONT),
            None => nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGCONT),
        }
    }
}

/// From `/proc/PID/status`.
fn parse(status: &str) -> Option<Stop> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let pending = u64::from_str_radix(field("ShdPnd:")?, 16).ok()?;
    let traced = field("TracerPid:").is_some_and(|tracer| tracer != "0");
    Some(Stop { in_force: field("State:")?.starts_with('T'), pending: pending & STOPS != 0, traced })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Fake {
        open: Result<(), Errno>,
        start_time: Option<u64>,
        stop: Option<Stop>,
        answer: Result<(), Errno>,
        resumed: Cell<u32>,
    }

    /// One that is held.
    fn held() -> Fake {
        let stop = Some(Stop { in_force: true, pending: false, traced: false });
        Fake { open: Ok(()), start_time: Some(7), stop, answer: Ok(()), resumed: Cell::new(0) }
    }

    impl Stopped for Fake {
        type Handle = ();

        fn open(&self, _pid: u32) -> Result<(), Errno> {
            self.open
        }

        fn start_time(&self, _tid: u32) -> Option<u64> {
            self.start_time
        }

        fn parent(&self, _pid: u32) -> Option<u32> {
            None
        }

        fn stop(&self, _pid: u32) -> Option<Stop> {
            self.stop
        }

        fn resume(&self, _pid: u32, _process: Option<&()>) -> Result<(), Errno> {
            self.resumed.set(self.resumed.get() + 1);
            self.answer
        }
    }

    const HOLD: Hold = Hold { task: TaskId { tid: 5, start_time: 7 }, at_ns: 1 };

    fn ended(fake: &Fake) -> (End, u32) {
        let mut asked = false;
        let end = release(fake, &HOLD, || asked = true);
        assert_eq!(asked, fake.resumed.get() > 0, "first, if at all");
        (end, fake.resumed.get())
    }

    #[test]
    fn who_is_held_goes_on_and_nobody_else() {
        assert_eq!(ended(&held()), (End::Continued, 1));
        let stop = Some(Stop { in_force: false, pending: true, traced: false });
        assert_eq!(ended(&Fake { stop, ..held() }), (End::Continued, 1), "our stop has not been taken yet");
        assert_eq!(ended(&Fake { start_time: Some(8), ..held() }), (End::Gone, 0), "the tid was recycled");
        assert_eq!(ended(&Fake { open: Err(Errno::ESRCH), ..held() }), (End::Gone, 0));
        assert_eq!(ended(&Fake { answer: Err(Errno::ESRCH), ..held() }), (End::Gone, 1));
        assert_eq!(ended(&Fake { answer: Err(Errno::EPERM), ..held() }), (End::Refused, 1));
    }

    #[test]
    fn who_cannot_be_looked_at_goes_on_all_the_same() {
        let blind = Fake { open: Err(Errno::EMFILE), start_time: None, stop: None, ..held() };
        assert_eq!(ended(&blind), (End::Continued, 1));
    }

    #[test]
    fn a_stop_by_somebody_else_stays() {
        let stop = Some(Stop { in_force: true, pending: true, traced: false });
        assert_eq!(ended(&Fake { stop, ..held() }), (End::Stopped, 0));
    }

    #[test]
    fn who_runs_is_not_told_twice() {
        for (in_force, resumed) in [(false, 0), (true, 1)] {
            let stop = Some(Stop { in_force, pending: false, traced: false });
            let fake = Fake { stop, ..held() };
            assert_eq!(release_again(&fake, &HOLD, || ()), End::Continued);
            assert_eq!(fake.resumed.get(), resumed);
        }
    }

    #[test]
    fn status_is_understood() {
        let status = |state: &str, pending: &str| {
            parse(&format!("Name:\tx\nState:\t{state}\nSigPnd:\t0000000000040000\nShdPnd:\t{pending}\n"))
        };
        let stop = |in_force, pending| Some(Stop { in_force, pending, traced: false });
        assert_eq!(status("T (stopped)", "0000000000000000"), stop(true, false));
        assert_eq!(status("T (stopped)", "0000000000040000"), stop(true, true));
        assert_eq!(status("R (running)", "0000000000020000"), stop(false, false), "SIGCONT stops nobody");
        assert_eq!(parse("State:\tT (stopped)\n"), None);
        let traced = parse("State:\tt (tracing stop)\nTracerPid:\t7\nShdPnd:\t0\n");
        assert_eq!(traced, Some(Stop { in_force: false, pending: false, traced: true }));
    }
}
