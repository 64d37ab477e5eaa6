//! The guard: a process of its own that owns the tasks that are held at exec. The agent tells it whom to let go on; it does so by itself
//! for who is held too long, and for all when the agent is gone, however it went.
//!
//! What is here is the agent's end of it; [`serve`] is what runs in the guard.

mod memory;
mod parents;
mod release;
mod serve;
mod wire;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
};

use self::wire::{Heard, Wire, pair};
pub use self::{
    parents::Parents,
    serve::{free, free_all, serve},
};
use super::{
    bpf::Holds,
    sys::{self, Host, Kernel as _, Signal},
};
use crate::core::{
    hold::{Answer, Order},
    task::TaskId,
};

/// The subcommand that it runs.
pub const SUBCOMMAND: &str = "guard";

/// A guard that was started.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    wire: Wire<Answer>,
}

/// What the guard says.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing more for now.
    Nothing,
    /// This.
    Answer(Answer),
    /// It is gone.
    Gone,
}

impl Guard {
    /// Starts one. It says [`Answer::Ready`] when it is.
    ///
    /// # Errors
    /// If our own program cannot be run, or there are too many open files.
    pub fn start(holds: &Holds) -> io::Result<Self> {
        let (wire, far) = pair()?;
        // Also where the file has been replaced since we started.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("numa-agent")
            .arg(SUBCOMMAND)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let [ring, held] = holds.fds();
        let child = sys::spawn_with(command, &[ring, held, far.as_fd()])?;
        Ok(Self { child, wire })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Who it is.
    #[must_use]
    pub fn task(&self) -> TaskId {
        let tid = self.pid();
        TaskId { tid, start_time: Host.start_time(tid).unwrap_or_default() }
    }

    /// Gives it an order; whether there was room.
    #[must_use]
    pub fn tell(&self, order: &Order) -> bool {
        self.wire.tell(order)
    }

    /// What it has to say.
    pub fn hear(&self) -> Word {
        match self.wire.hear() {
            Heard::Nothing => Word::Nothing,
            Heard::Message(answer) => Word::Answer(answer),
            Heard::End => Word::Gone,
        }
    }

    /// Has it go on, if somebody has stopped it.
    pub fn wake(&self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid().cast_signed()), Signal::SIGCONT);
    }

    /// Ends it at once. Nobody waits for it here: a debugger that follows it may keep its end to itself.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        // Without a thread for it, it stays a zombie until we end.
        let _ = std::thread::Builder::new().spawn(move || self.child.wait());
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}
