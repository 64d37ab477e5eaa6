//! The loads: processes that wait for a word, then do a known piece of work and say what it took.
//!
//! A load is the program `bench-load`, so that an observer can be told its pid before it begins; all that it starts
//! descends from it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeVal,
        wait::waitpid,
    },
    unistd::{Pid, pipe},
};
use numa_agent::core::idset::CpuSet;
use serde::{Deserialize, Serialize};

use super::target::{self, Class, Reaction};
use crate::{
    stack::roles,
    sys::{self, Birth, born},
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Load {
    /// Two processes on one CPU pass a byte back and forth through pipes
    Pipe {
        /// The CPU
        #[arg(long)]
        cpu: u32,
        /// Round trips, two switches each
        #[arg(long)]
        rounds: u32,
    },
    /// `perf bench sched messaging`: groups of 20 senders and 20 receivers on all CPUs
    Messaging {
        /// Groups
        #[arg(long)]
        groups: u32,
        /// Messages from each sender to each receiver
        #[arg(long)]
        loops: u32,
    },
    /// Threads that wake up now and then, until the end of standard input
    Threads {
        /// How many
        #[arg(long)]
        count: u32,
        /// Every so many milliseconds
        #[arg(long)]
        tick_ms: u32,
    },
    /// Threads that take all the CPU they get, until the end of standard input
    Hogs {
        /// How many for each CPU
        #[arg(long)]
        each: u32,
    },
    /// Programs that start and end as fast as they can, on all CPUs, until the end of standard input
    Storm,
    /// So many programs that start and end, on all CPUs
    Starts {
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// So many threads that start and end, on all CPUs
    Births {
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// A thread that is born where it does not belong, and looks when it is bound
    Born {
        /// How long it looks
        #[arg(long)]
        patience_ms: u32,
    },
    /// Programs that look when they are bound
    Execs {
        /// How many, one after the other
        #[arg(long)]
        count: u32,
        /// How long each looks
        #[arg(long)]
        patience_ms: u32,
    },
    /// A thread that renames itself, and looks when it is bound
    Renames {
        /// How often
        #[arg(long)]
        count: u32,
        /// How long it looks each time
        #[arg(long)]
        patience_ms: u32,
        /// It is bound by a thread that it tells
        #[arg(long)]
        helper: Option<Class>,
    },
}

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Took {
    /// From the word to the end.
    pub wall_ns: u64,
    /// CPU time of the load's processes.
    pub cpu_ns: u64,
}

/// What it says in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What it took.
    pub took: Took,
    /// Of each exec or rename.
    pub reactions: Vec<Reaction>,
}

impl Load {
    /// A name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipe { .. } => "pipe",
            Self::Messaging { .. } => "messaging",
            Self::Threads { .. } => "threads",
            Self::Hogs { .. } => "hogs",
            Self::Storm => "storm",
            Self::Starts { .. } => "starts",
            Self::Births { .. } => "births",
            Self::Born { .. } => "born",
            Self::Execs { .. } => "execs",
            Self::Renames { .. } => "renames",
        }
    }

    fn args(self) -> Vec<String> {
        let words = match self {
            Self::Pipe { cpu, rounds } => format!("pipe --cpu {cpu} --rounds {rounds}"),
            Self::Messaging { groups, loops } => format!("messaging --groups {groups} --loops {loops}"),
            Self::Threads { count, tick_ms } => format!("threads --count {count} --tick-ms {tick_ms}"),
            Self::Hogs { each } => format!("hogs --each {each}"),
            Self::Storm => "storm".to_owned(),
            Self::Starts { count } => format!("starts --count {count}"),
            Self::Births { count } => format!("births --count {count}"),
            Self::Born { patience_ms } => format!("born --patience-ms {patience_ms}"),
            Self::Execs { count, patience_ms } => {
                format!("execs --count {count} --patience-ms {patience_ms}")
            }
            Self::Renames { count, patience_ms, helper } => {
                let helper = helper.and_then(|class| class.to_possible_value());
                let helper = helper.map_or(String::new(), |class| format!(" --helper {}", class.get_name()));
                format!("renames --count {count} --patience-ms {patience_ms}{helper}")
            }
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// `main` of `bench-load`: waits for a line, works, prints [`Took`].
    ///
    /// # Errors
    /// If a system call fails, or `perf` does.
    pub fn work(self) -> Result<()> {
        let mut line = String::new();
        ensure!(io::stdin().read_line(&mut line).context("no word to begin")? > 0, "no word to begin");
        let (start, cpu_before) = (Instant::now(), cpu_ns()?);
        let mut reactions = Vec::new();
        let patience = |ms: u32| Duration::from_millis(ms.into());
        match self {
            Self::Pipe { cpu, rounds } => ping_pong(cpu, rounds)?,
            Self::Messaging { groups, loops } => messaging(groups, loops)?,
            Self::Threads { count, tick_ms } => threads(count, Duration::from_millis(tick_ms.into()))?,
            Self::Hogs { each } => for_ever(each, hog)?,
            Self::Storm => for_ever(1, || start_and_wait("true".as_ref()))?,
            Self::Starts { count } => {
                let program = std::env::current_exe()?.with_file_name(target::PROGRAM);
                on_all_cpus(1, Some(count), move || start_and_wait(program.as_os_str()))?;
            }
            Self::Births { count } => on_all_cpus(1, Some(count), birth)?,
            Self::Born { patience_ms } => reactions.push(target::born(patience(patience_ms))?),
            Self::Execs { count, patience_ms } => reactions = target::execs(count, patience(patience_ms))?,
            Self::Renames { count, patience_ms, helper } => {
                reactions = target::renames(count, patience(patience_ms), helper)?;
            }
        }
        let took = Took { wall_ns: start.elapsed().as_nanos() as u64, cpu_ns: cpu_ns()? - cpu_before };
        println!("{}", serde_json::to_string(&Done { took, reactions })?);
        Ok(())
    }
}

/// CPU time of this process and of its children that were waited for.
fn cpu_ns() -> Result<u64> {
    let ns = |time: TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()).cast_unsigned() * 1000;
    let of = |who| getrusage(who).map(|usage| ns(usage.user_time()) + ns(usage.system_time()));
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}

fn ping_pong(cpu: u32, rounds: u32) -> Result<()> {
    sys::set_affinity(0, &CpuSet::from_iter([cpu])).with_context(|| format!("cannot pin to CPU {cpu}"))?;
    let ((there_out, there_in), (back_out, back_in)) = (pipe()?, pipe()?);
    let pass = |from: &mut File, to: &mut File| -> io::Result<()> {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        to.write_all(&byte)
    };
    let mut there = (File::from(there_out), File::from(there_in));
    let mut back = (File::from(back_out), File::from(back_in));
    let partner = sys::fork(|| {
        for _ in 0..rounds {
            if pass(&mut there.0, &mut back.1).is_err() {
                return;
            }
        }
    })?;
    there.1.write_all(&[0])?;
    for _ in 1..rounds {
        pass(&mut back.0, &mut there.1)?;
    }
    back.0.read_exact(&mut [0])?;
    waitpid(Pid::from_raw(partner.cast_signed()), None)?;
    Ok(())
}

fn messaging(groups: u32, loops: u32) -> Result<()> {
    let mut perf = Command::new("perf");
    perf.args(["bench", "sched", "messaging", "-g", &groups.to_string(), "-l", &loops.to_string()]);
    let output = perf.output().context("cannot run perf")?;
    ensure!(output.status.success(), "perf bench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn threads(count: u32, tick: Duration) -> Result<()> {
    for index in 0..count {
        let name = format!("tick_{index}");
        let tick = move || {
            roles::rename(&name);
            loop {
                thread::sleep(tick);
            }
        };
        thread::Builder::new().stack_size(64 << 10).spawn(tick).context("cannot start a thread")?;
    }
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Runs `work` so often on each CPU, or for ever, in so many threads.
fn on_all_cpus(each: u32, count: Option<u32>, work: impl Fn() + Clone + Send + 'static) -> Result<()> {
    let cpus = sys::affinity(0)?;
    let share = count.map(|count| count / cpus.len() as u32 / each);
    let mut threads = Vec::new();
    for cpu in cpus.iter().flat_map(|cpu| (0..each).map(move |_| cpu)) {
        let work = work.clone();
        threads.push(thread::spawn(move || {
            sys::set_affinity(0, &CpuSet::from_iter([cpu])).expect("one of our own CPUs");
            let mut left = share;
            while left != Some(0) {
                work();
                left = left.map(|left| left - 1);
            }
        }));
    }
    // For ever is until the process ends.
    if count.is_some() {
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    }
    Ok(())
}

/// Runs it in so many threads on each CPU until the end of standard input.
fn for_ever(each: u32, work: impl Fn() + Clone + Send + 'static) -> Result<()> {
    on_all_cpus(each, None, work)?;
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn hog() {
    std::hint::spin_loop();
}

fn start_and_wait(program: &OsStr) {
    let status = Command::new(program).stdin(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot run {}", program.display());
}

fn birth() {
    let thread = thread::Builder::new().stack_size(64 << 10).spawn(|| ());
    thread.expect("a thread").join().expect("it does nothing");
}

/// A load that was started.
#[derive(Debug)]
pub struct Waiting {
    child: Child,
    word: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Waiting {
    /// Starts it; it waits.
    ///
    /// # Errors
    /// If `bench-load` is not beside this program.
    pub fn start(load: Load) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("bench-load");
        let mut command = Command::new(&program);
        command.args(load.args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        born(&mut command, Birth::Plain);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (word, answer) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        Ok(Self { child, word, answer: BufReader::new(answer) })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it begin, and waits for what it says: `ready` of threads.
    ///
    /// # Errors
    /// If it ends without a word.
    pub fn begin(&mut self) -> Result<String> {
        self.tell()?;
        self.hear()
    }

    /// Has it begin.
    ///
    /// # Errors
    /// If it is gone.
    pub fn tell(&mut self) -> Result<()> {
        self.word.write_all(b"go\n").context("the load is gone")
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the load said nothing; its messages are above");
        Ok(line)
    }

    /// Has it do its work.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(mut self) -> Result<Done> {
        self.tell()?;
        self.finish()
    }

    /// Waits for the end of one that has begun.
    ///
    /// # Errors
    /// If it fails.
    pub fn finish(mut self) -> Result<Done> {
        let line = self.hear()?;
        let done = serde_json::from_str(&line).with_context(|| format!("the load said {line:?}"))?;
        drop(self.word);
        ensure!(self.child.wait()?.success(), "the load failed");
        Ok(done)
    }

    /// Ends one that would go on.
    ///
    /// # Errors
    /// If it fails.
    pub fn end(mut self) -> Result<()> {
        drop(self.word);
        ensure!(self.child.wait()?.success(), "the load failed");
        Ok(())
    }
}
