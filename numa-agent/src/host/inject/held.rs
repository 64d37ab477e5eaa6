//! A thread that is held on its way to user mode, and made to run one system call after the other.
//!
//! Whenever a function of this module returns, its registers are its own.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{InjectError, arch, vdso};
use crate::host::sys::{Registers, Stop, Tracee, Until};

/// For how long its next stop is looked for without pause: most come within microseconds.
const BRISK: Duration = Duration::from_micros(200);
/// The pause between two looks later.
const PAUSE: Duration = Duration::from_micros(100);

/// Negative results of system calls are errors down to this.
const MAX_ERRNO: u64 = 4095;

pub struct Held<'a> {
    tracee: &'a Tracee,
    tid: u32,
    deadline: Instant,
    memory: File,
    /// A system call's instruction.
    instruction: u64,
    /// What it waited in before, until that is settled.
    waiting: Option<arch::Waiting>,
    /// Whether its registers are such that it may be sent elsewhere and brought back: see [`arch::settle`].
    settled: bool,
}

impl<'a> Held<'a> {
    /// Waits until it is held.
    pub fn take(
        tracee: &'a Tracee,
        tid: u32,
        waiting: arch::Waiting,
        patience: Duration,
    ) -> Result<Self, InjectError> {
        let deadline = Instant::now() + patience;
        tracee.interrupt().map_err(|_| InjectError::Gone { tid })?;
        hold(tracee, tid, deadline)?;
        // Opened now: an exec would have made it another program's.
        let memory = File::open(format!("/proc/{tid}/mem"));
        let memory = memory.map_err(|error| InjectError::Memory { tid, error })?;
        Ok(Self { tracee, tid, deadline, memory, instruction: 0, waiting: Some(waiting), settled: false })
    }

    /// The thread.
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// Finds a system call's instruction in its vDSO.
    pub fn find_instruction(&mut self) -> Result<(), InjectError> {
        // It has no vDSO that we know otherwise.
        self.registers()?;
        self.instruction =
            vdso::find_call(self.tid, &self.memory).ok_or(InjectError::NoVdso { tid: self.tid })?;
        Ok(())
    }

    /// Writes those words into its memory.
    pub fn write(&self, address: u64, words: &[u64]) -> Result<(), InjectError> {
        let refused = |errno: Errno| InjectError::Memory { tid: self.tid, error: errno.into() };
        words
            .iter()
            .enumerate()
            .try_for_each(|(index, word)| self.tracee.write(address + 8 * index as u64, *word))
            .map_err(refused)
    }

    /// Reads as many.
    pub fn read(&self, address: u64, words: &mut [u64]) -> Result<(), InjectError> {
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            let read = self.memory.read_exact_at(&mut bytes, address + 8 * index as u64);
            read.map_err(|error| InjectError::Memory { tid: self.tid, error })?;
            *word = u64::from_ne_bytes(bytes);
        }
        Ok(())
    }

    /// Has it run that system call: its result.
    pub fn call(&mut self, call: &'static str, number: i64, arguments: [u64; 6]) -> Result<u64, InjectError> {
        let result = loop {
            let own = self.settle()?;
            self.set(&arch::calling(&own, self.instruction, number.cast_unsigned(), arguments))?;
            if self.enter(&own)? {
                break self.leave(&own)?;
            }
        };
        if result > u64::MAX - MAX_ERRNO {
            let errno = Errno::from_raw(result.wrapping_neg() as i32);
            return Err(InjectError::Refused { call, tid: self.tid, errno });
        }
        Ok(result)
    }

    /// From where its registers send it to the beginning of a call. `false`: it got a signal first, with its own registers, and is held
    /// again; the call is still to be made.
    fn enter(&mut self, own: &Registers) -> Result<bool, InjectError> {
        let mut late = false;
        loop {
            self.resume(Until::Call, 0)?;
            let stop = match self.stop_in_time()? {
                Some(stop) => stop,
                None => {
                    late = true;
                    // Frozen, or it would have come this far: it can still be stopped before it does anything.
                    self.interrupt()?;
                    self.stop()?
                }
            };
            match stop {
                Stop::Call => return Ok(true),
                Stop::Held if late => {
                    self.set(own)?;
                    return Err(InjectError::Slow { tid: self.tid });
                }
                // Its process was stopped or let go on, or it has been interrupted twice.
                Stop::Held => {}
                Stop::Signal(signal) => return self.pass_on(signal, own).map(|()| false),
                Stop::Ended => return Err(self.gone()),
            }
        }
    }

    /// From the beginning of a call to where it is held again, with its own registers: the call's result.
    fn leave(&mut self, own: &Registers) -> Result<u64, InjectError> {
        self.resume(Until::Call, 0)?;
        // However long it takes: it must not be let go like this.
        while self.stop()? != Stop::Call {
            self.resume(Until::Call, 0)?;
        }
        let result = arch::result(&self.registers()?);
        self.interrupt()?;
        self.resume(Until::Stop, 0)?;
        match self.stop()? {
            Stop::Signal(signal) => self.pass_on(signal, own)?,
            _ => self.set(own)?,
        }
        Ok(result)
    }

    /// Lets it have a signal as if it had not been sent elsewhere, up to its handler's first instruction.
    fn pass_on(&mut self, signal: i32, own: &Registers) -> Result<(), InjectError> {
        let fault = self.tracee.fault_address();
        let ours = fault.is_some_and(|at| (self.instruction..=self.instruction + 4).contains(&at));
        self.set(own)?;
        self.settled = false;
        // The stop before the signal has taken the place of any other.
        self.interrupt()?;
        self.resume(Until::Stop, if ours { 0 } else { signal })?;
        hold(self.tracee, self.tid, self.deadline)?;
        if ours { Err(InjectError::Fault { tid: self.tid, signal }) } else { Ok(()) }
    }

    /// Its own registers, such that it may be sent elsewhere and brought back.
    fn settle(&mut self) -> Result<Registers, InjectError> {
        while !self.settled {
            let mut own = self.registers()?;
            self.abort_sequence(&mut own);
            if let Some(waiting) = self.waiting.take() {
                arch::restart(&mut own, &waiting, |address| self.code(address));
            }
            self.set(&own)?;
            let known = arch::settled(&own, |address| self.code(address));
            // Until it gets a signal.
            self.settled = true;
            if !known && !self.begin_its_own_call()? {
                self.settled = false;
            }
        }
        self.registers()
    }

    /// It is about to begin, or begin anew, a system call of its own: brings it there, where its registers say all that the kernel
    /// knows of it, and back to before. `false`: it got a signal first.
    #[cfg(target_arch = "aarch64")]
    fn begin_its_own_call(&mut self) -> Result<bool, InjectError> {
        let before = self.registers()?;
        if !self.enter(&before)? {
            return Ok(false);
        }
        let own = arch::before_call(&self.registers()?);
        self.tracee.leave_call_out().map_err(|_| self.gone())?;
        self.leave(&own)?;
        Ok(true)
    }

    #[cfg(target_arch = "x86_64")]
    fn begin_its_own_call(&mut self) -> Result<bool, InjectError> {
        Ok(true)
    }

    /// In a restartable sequence (`rseq(2)`), does what the kernel does to a thread that lost its CPU there. The kernel itself would not: it
    /// looks when the thread goes to user mode, where it is elsewhere by then.
    fn abort_sequence(&self, own: &mut Registers) {
        let read = |address: u64| {
            let mut word = [0];
            self.read(address, &mut word).ok().map(|()| word[0])
        };
        // `struct rseq` and `struct rseq_cs` of `include/uapi/linux/rseq.h`.
        let sequence =
            self.tracee.restartable_sequences().and_then(|place| read(place + 8)).filter(|at| *at != 0);
        let Some(sequence) = sequence else { return };
        if let (Some(start), Some(length), Some(abort)) =
            (read(sequence + 8), read(sequence + 16), read(sequence + 24))
            && arch::place(own).wrapping_sub(start) < length
        {
            *arch::place_mut(own) = abort;
        }
    }

    /// Two machine words' worth of code; zeros where there is none.
    fn code(&self, address: u64) -> [u8; 4] {
        let mut code = [0; 4];
        let _ = self.memory.read_at(&mut code, address);
        code
    }

    fn registers(&self) -> Result<Registers, InjectError> {
        self.tracee.registers().map_err(|_| self.gone())?.ok_or(InjectError::Width { tid: self.tid })
    }

    fn set(&self, registers: &Registers) -> Result<(), InjectError> {
        self.tracee.set_registers(registers).map_err(|_| self.gone())
    }

    fn interrupt(&self) -> Result<(), InjectError> {
        self.tracee.interrupt().map_err(|_| self.gone())
    }

    fn resume(&self, until: Until, signal: i32) -> Result<(), InjectError> {
        self.tracee.resume(until, signal).map_err(|_| self.gone())
    }

    fn stop_in_time(&self) -> Result<Option<Stop>, InjectError> {
        next_stop(self.tracee, self.tid, self.deadline)
    }

    /// Its next stop, whenever that is.
    fn stop(&self) -> Result<Stop, InjectError> {
        loop {
            match self.tracee.wait(true).map_err(|_| self.gone())? {
                Some(Stop::Ended) => return Err(self.gone()),
                Some(stop) => return Ok(stop),
                None => {}
            }
        }
    }

    /// Of a thread that was stopped, every failure has this reason: it was killed.
    fn gone(&self) -> InjectError {
        InjectError::Gone { tid: self.tid }
    }
}

/// Waits until a thread that has been interrupted is held; signals that come first, it gets.
fn hold(tracee: &Tracee, tid: u32, deadline: Instant) -> Result<(), InjectError> {
    let gone = |_| InjectError::Gone { tid };
    loop {
        match next_stop(tracee, tid, deadline)?.ok_or(InjectError::Slow { tid })? {
            Stop::Held => return Ok(()),
            Stop::Ended => return Err(InjectError::Gone { tid }),
            stop => {
                let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
                tracee.interrupt().map_err(gone)?;
                tracee.resume(Until::Stop, signal).map_err(gone)?;
            }
        }
    }
}

fn next_stop(tracee: &Tracee, tid: u32, deadline: Instant) -> Result<Option<Stop>, InjectError> {
    let start = Instant::now();
    loop {
        if let Some(stop) = tracee.wait(false).map_err(|_| InjectError::Gone { tid })? {
            return Ok(Some(stop));
        }
        let now = Instant::now();
        if now > deadline {
            return Ok(None);
        }
        if now - start < BRISK {
            thread::yield_now();
        } else {
            thread::sleep(PAUSE);
        }
    }
}
