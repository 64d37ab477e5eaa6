//! Who is to be bound, and looks on: programs right after exec, threads right after a rename.
//!
//! Each looks at its own mask until that is the right one. What it uses of a CPU meanwhile, it uses in the wrong place.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use nix::{
    sys::wait::waitpid,
    time::{ClockId, clock_gettime},
    unistd::{Pid, gettid, pipe},
};
use numa_agent::core::idset::CpuSet;
use serde::{Deserialize, Serialize};

use super::halves::Halves;
use crate::{stack::roles, sys, witness::now_ns};

/// What a forward thread is called. Nobody else's is: a peer that goes by names alone must not touch others.
pub const FORWARD: &str = "bench_forward";
/// What any other thread is called.
pub const MEMBER: &str = "bench_member";
/// The program whose processes are to be bound.
pub const PROGRAM: &str = "bench-target";

/// One look at the calling thread.
#[derive(Debug, Clone)]
pub struct Sight {
    /// `CLOCK_MONOTONIC`.
    at_ns: u64,
    /// CPU time of the thread so far.
    used_ns: u64,
    mask: CpuSet,
}

impl Sight {
    /// Looks.
    ///
    /// # Panics
    /// If the thread cannot read its own mask, or a clock.
    #[must_use]
    pub fn now() -> Self {
        let mask = sys::affinity(0).expect("sched_getaffinity of the caller");
        let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's CPU time");
        let used_ns = used.tv_sec().cast_unsigned() * 1_000_000_000 + used.tv_nsec().cast_unsigned();
        Self { at_ns: now_ns(), used_ns, mask }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// From right before the change to the first look that saw the right mask; `None`: never, as long as it had patience.
    pub after_ns: Option<u64>,
    /// CPU time from the first look to that one; 0 if they are the same.
    pub off_plan_ns: u64,
}

impl Reaction {
    /// Looks until the caller's mask is `place`.
    fn watch(since_ns: u64, first: &Sight, place: &CpuSet, patience: Duration) -> Self {
        let mut sight = first.clone();
        let end_ns = since_ns + patience.as_nanos() as u64;
        while sight.mask != *place && sight.at_ns < end_ns {
            sight = Sight::now();
        }
        Self {
            after_ns: (sight.mask == *place).then(|| sight.at_ns.saturating_sub(since_ns)),
            off_plan_ns: sight.used_ns - first.used_ns,
        }
    }
}

/// `main` of `bench-target`, whose first statement looked: `look PLACE SINCE_NS PATIENCE_MS` says how it was bound; `stay` does nothing until
/// the end of standard input; without a word it ends.
///
/// # Errors
/// If it was called wrongly.
pub fn play(first: &Sight) -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["stay"] => drop(io::copy(&mut io::stdin(), &mut io::sink())?),
        ["look", place, since_ns, patience_ms] => {
            let patience = Duration::from_millis(patience_ms.parse()?);
            let place = place.parse().context("a CPU list")?;
            let reaction = Reaction::watch(since_ns.parse()?, first, &place, patience);
            println!("{}", serde_json::to_string(&reaction)?);
        }
        _ => bail!("no such play: {words:?}"),
    }
    Ok(())
}

/// A pause, never the same: what is measured must not keep step with a timer.
fn pause(index: u32) {
    thread::sleep(Duration::from_micros(1000 + u64::from(index) * 619 % 2000));
}

/// Starts the program so many times, one after the other, from where none of them belongs.
///
/// # Errors
/// If one does not start or fails.
pub fn execs(count: u32, patience: Duration) -> Result<Vec<Reaction>> {
    let halves = Halves::of(Pid::parent())?;
    sys::set_affinity(0, &halves.forward).context("cannot go where no program belongs")?;
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    let start = |index| {
        pause(index);
        exec(&program, &halves.members, patience)
    };
    (0..count).map(start).collect()
}

/// Starts it once.
fn exec(program: &Path, place: &CpuSet, patience: Duration) -> Result<Reaction> {
    let (answer, out) = pipe()?;
    let mut out = Some(out);
    // By hand, so that the clock is read right before the exec.
    let child = sys::fork(|| {
        let mut command = Command::new(program);
        command.stdout(out.take().expect("it is there once"));
        command.args(["look", &place.to_string(), &now_ns().to_string(), &patience.as_millis().to_string()]);
        eprintln!("cannot start {}: {}", program.display(), command.exec());
    })?;
    drop(out);
    let mut line = String::new();
    File::from(answer).read_to_string(&mut line)?;
    waitpid(Pid::from_raw(child.cast_signed()), None)?;
    serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", program.display()))
}

/// How a thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// Among all the others.
    Ordinary,
    /// Before them.
    First,
}

/// The floor: a thread of the same process that is told by a pipe, and binds.
fn helper(tid: u32, halves: Halves, class: Class) -> Result<File> {
    let (word, tell) = pipe()?;
    let mut word = File::from(word);
    let mut help = move || -> io::Result<()> {
        sys::set_affinity(0, &halves.members)?;
        if class == Class::First {
            sys::go_first()?;
        }
        let mut name = [0];
        while word.read(&mut name)? == 1 {
            let place = if FORWARD.as_bytes().ends_with(&name) { &halves.forward } else { &halves.members };
            sys::set_affinity(tid, place)?;
        }
        Ok(())
    };
    thread::spawn(move || help().expect("the helper can bind"));
    Ok(File::from(tell))
}

/// Has a thread take the two names in turn; with a `helper` it tells that of each.
///
/// # Errors
/// If nobody binds it at all.
pub fn renames(count: u32, patience: Duration, class: Option<Class>) -> Result<Vec<Reaction>> {
    let halves = Halves::of(Pid::parent())?;
    let work = move || -> Result<Vec<Reaction>> {
        let tid = gettid().as_raw().cast_unsigned();
        let mut tell = class.map(|class| helper(tid, halves.clone(), class)).transpose()?;
        let mut rename = |name: &str, place: &CpuSet, patience| -> Result<Reaction> {
            let first = Sight::now();
            roles::rename(name);
            if let Some(tell) = &mut tell {
                tell.write_all(&name.as_bytes()[name.len() - 1..])?;
            }
            Ok(Reaction::watch(first.at_ns, &first, place, patience))
        };
        // It must be known before the first one counts. Who loses events may lose this one, too.
        const TO_BE_KNOWN: Duration = Duration::from_secs(5);
        const TRIES: u32 = 4;
        let mut known = (0..TRIES).map(|_| rename(MEMBER, &halves.members, TO_BE_KNOWN));
        let known = known.find_map(|known| known.map(|known| known.after_ns).transpose()).transpose()?;
        ensure!(known.is_some(), "nobody binds a thread that says who it is, {TRIES} times");
        let mut reactions = Vec::new();
        for index in 0..count {
            pause(index);
            let (name, place) =
                if index % 2 == 0 { (FORWARD, &halves.forward) } else { (MEMBER, &halves.members) };
            // Who was not moved by the last one is there already, and that proves nothing.
            let there = sys::affinity(0)? == *place;
            let reaction = rename(name, place, patience)?;
            reactions.push(if there { Reaction { after_ns: None, ..reaction } } else { reaction });
        }
        Ok(reactions)
    };
    thread::spawn(work).join().expect("it does not panic")
}

/// Has a thread begin on one CPU of those where it belongs, and look whether anybody lets it have all. It says nothing of itself, as those of a
/// storm do not: who goes by names has nothing to do with it.
///
/// # Errors
/// If our own mask cannot be read or set.
pub fn born(patience: Duration) -> Result<Reaction> {
    let place = Halves::whole()?.members;
    let narrow = place.iter().take(1).collect();
    sys::set_affinity(0, &narrow).context("cannot go where no thread belongs")?;
    let look = move || {
        let first = Sight::now();
        Reaction::watch(first.at_ns, &first, &place, patience)
    };
    Ok(thread::spawn(look).join().expect("it does not panic"))
}

/// The program, started elsewhere than where it belongs; it stays until it is told to end.
#[derive(Debug)]
pub struct Stayer {
    child: Child,
    place: CpuSet,
}

impl Stayer {
    /// Starts it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(halves: &Halves) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let from = halves.forward.first().context("a CPU")?;
        let mut command = Command::new("taskset");
        command.args(["-c", &from.to_string()]).arg(&program).arg("stay").stdin(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, place: halves.members.clone() })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is where it belongs.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        sys::affinity(self.pid()).is_ok_and(|mask| mask == self.place)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it fails.
    pub fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait()?.success(), "{PROGRAM} failed");
        Ok(())
    }
}
