//! A process that does what a test tells it: threads, renames, pins, memory, exec, fork, storms of short processes.
//!
//! Orders come on standard input and are answered on standard output when done, so a test needs no sleep to know what
//! has happened. Between orders each thread keeps looking at its own mask.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, IsTerminal},
    os::unix::{fs::FileExt, process::CommandExt},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::gettid;
use numa_agent::core::idset::{CpuSet, NodeSet};
use serde::{Deserialize, Serialize};

use super::{
    Actor, Family, RoleArgs,
    occupation::{Occupant, Occupation},
    readable,
    roles::rename,
    say, say_hello,
};
use crate::{
    sys::{self, Birth},
    witness::{Observer, Point, Witness},
};

/// `MPOL_INTERLEAVE`.
const INTERLEAVE: i32 = 3;

/// Time between two looks of an idle thread.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Processes of a storm that are started before any of them is reaped.
const AT_ONCE: u32 = 25;

/// What a puppet can be told. Threads are named by tid; the main thread's is the pid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Thread `from` starts a thread, which then takes the name, if there is one. Answer: its tid.
    Thread {
        /// Creator.
        from: u32,
        /// New thread's name.
        name: Option<String>,
    },
    /// The thread takes a name.
    Rename {
        /// Which thread.
        tid: u32,
        /// Its new name.
        name: String,
    },
    /// The thread sets its own mask, as OpenMP runtimes do.
    Pin {
        /// Which thread.
        tid: u32,
        /// Its new mask.
        cpus: CpuSet,
    },
    /// Thread `from` sets the mask of another task.
    PinOther {
        /// Who does it.
        from: u32,
        /// Whose mask.
        tid: u32,
        /// The mask.
        cpus: CpuSet,
    },
    /// The main thread takes so many pages, with its new pages coming from these nodes in turn.
    Interleave {
        /// Where from.
        nodes: NodeSet,
        /// How many.
        pages: u32,
    },
    /// The main thread takes so many pages, under the memory policy that it has.
    Take {
        /// How many.
        pages: u32,
    },
    /// The main thread takes so many huge pages of the pool, and writes into them.
    TakeHuge {
        /// How many.
        pages: u32,
    },
    /// Fails if they hold anything but what was written.
    HugeAsWritten,
    /// The thread asks the kernel for its memory policy, and fails if that is another.
    CheckPolicy {
        /// Which thread.
        tid: u32,
        /// Its mode's number (`MPOL_*`).
        mode: i32,
        /// Its nodes.
        nodes: NodeSet,
    },
    /// A thread that is not the main one is busy from now on, between two orders to it.
    Occupy {
        /// Which thread.
        tid: u32,
        /// What with.
        with: Occupation,
    },
    /// Answer: how often it did what it is busy with. Fails if that has ever gone wrong.
    Rounds {
        /// Which thread.
        tid: u32,
    },
    /// Answer: the longest that a page made it wait, in microseconds, since it was last asked.
    LongestWait {
        /// Which thread.
        tid: u32,
    },
    /// Answer: how many of the pages that were taken so are on this node now.
    PagesOn {
        /// Which node.
        node: u32,
    },
    /// The thread opens a device file and does an `ioctl` on it that the device does not understand.
    UseDevice {
        /// Which thread.
        tid: u32,
        /// The file.
        path: String,
    },
    /// The process becomes a puppet of another role, by exec. Answered by the new program's hello.
    Exec {
        /// The new role.
        role: String,
    },
    /// The process overwrites its arguments, as `setproctitle` does, with those of another role; no event tells of it.
    Retitle {
        /// Whose arguments.
        role: String,
    },
    /// The process forks without exec. Answer: the child's pid; it lives as long as the puppet.
    Fork,
    /// The process starts and reaps this many processes, each of which ends after its first look; [`AT_ONCE`] of them at a time.
    Storm {
        /// How many.
        count: u32,
        /// Their role.
        role: String,
    },
}

/// A running puppet, as a test holds it.
#[derive(Debug)]
pub struct Puppet {
    actor: Actor,
}

impl Puppet {
    /// Starts a puppet with the arguments of `role`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(family: &Family, role: &str, instance: u32, birth: Birth) -> Result<Self> {
        let mut command = family.command(role, instance);
        command.arg("--puppet");
        Ok(Self { actor: Actor::start(command, birth)? })
    }

    /// Starts a puppet by way of another program, which is given its command line.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_by(mut starter: Command, family: &Family, role: &str, instance: u32) -> Result<Self> {
        let inner = family.command(role, instance);
        starter.arg(inner.get_program()).args(inner.get_args()).arg("--puppet");
        Ok(Self { actor: Actor::start(starter, Birth::Session)? })
    }

    /// Starts a puppet as process 1 of a pid namespace: it knows itself and its threads by the numbers in there.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_in_pid_namespace(family: &Family, role: &str) -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child"]);
        Self::start_by(unshare, family, role, 0)
    }

    /// Its pid, also its main thread's tid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.actor.pid()
    }

    /// Has it carry out `order`; returns the answer's number, 0 where the order has none.
    ///
    /// # Errors
    /// If it cannot.
    pub fn order(&mut self, order: &Order) -> Result<u32> {
        self.actor.tell(order)?;
        if let Order::Exec { .. } = order {
            self.actor.hello = self.actor.hear()?;
            return Ok(self.pid());
        }
        self.actor.hear::<Result<u32, String>>()?.map_err(|error| anyhow!("{order:?}: {error}"))
    }

    /// Has the main thread start a thread of that name; returns its tid.
    ///
    /// # Errors
    /// If it cannot.
    pub fn thread(&mut self, name: &str) -> Result<u32> {
        self.order(&Order::Thread { from: self.pid(), name: Some(name.to_owned()) })
    }

    /// Has thread `tid` rename itself.
    ///
    /// # Errors
    /// If it cannot.
    pub fn rename(&mut self, tid: u32, name: &str) -> Result<()> {
        self.order(&Order::Rename { tid, name: name.to_owned() }).map(drop)
    }

    /// Has thread `tid` set its own mask.
    ///
    /// # Errors
    /// If it cannot.
    pub fn pin(&mut self, tid: u32, cpus: &CpuSet) -> Result<()> {
        self.order(&Order::Pin { tid, cpus: cpus.clone() }).map(drop)
    }

    /// Has it exec the program of another role.
    ///
    /// # Errors
    /// If it cannot.
    pub fn exec(&mut self, role: &str) -> Result<()> {
        self.order(&Order::Exec { role: role.to_owned() }).map(drop)
    }

    /// Has the main thread start a thread that is busy so; returns its tid.
    ///
    /// # Errors
    /// If it cannot.
    pub fn occupied(&mut self, with: Occupation) -> Result<u32> {
        let tid = self.thread("busy")?;
        self.order(&Order::Occupy { tid, with })?;
        Ok(tid)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(self) -> Result<()> {
        self.actor.stop()
    }
}

/// What a thread is told, with where to answer.
type Errand = (Order, mpsc::Sender<Result<u32, String>>);

/// What the threads of a puppet share.
struct Strings {
    args: RoleArgs,
    witness: Arc<Witness>,
    threads: Mutex<HashMap<u32, mpsc::Sender<Errand>>>,
    /// Memory that was taken by [`Order::Interleave`].
    taken: Mutex<Vec<Vec<u8>>>,
    /// That of [`Order::TakeHuge`].
    huge: Mutex<&'static mut [u64]>,
}

impl Strings {
    fn threads(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Errand>>> {
        self.threads.lock().expect("nobody panics with the lock")
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.taken.lock().expect("nobody panics with the lock")
    }
}

/// The puppet's side: looks at itself and carries out orders until its standard input ends.
pub(super) fn play(args: &RoleArgs, witness: &Arc<Witness>, me: &mut Observer) -> Result<()> {
    let strings = Arc::new(Strings {
        args: args.clone(),
        witness: Arc::clone(witness),
        threads: Mutex::default(),
        taken: Mutex::default(),
        huge: Mutex::default(),
    });
    say_hello(0, Vec::new())?;
    loop {
        if !readable(io::stdin(), LOOK_EVERY)? {
            me.sample();
            continue;
        }
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line).context("cannot read an order")? == 0 {
            return Ok(());
        }
        let order = serde_json::from_str(&line).with_context(|| format!("not an order: {line}"))?;
        let answer = dispatch(&strings, me, order);
        say(&answer.map_err(|error| format!("{error:#}")))?;
    }
}

/// Has the thread that `order` is for carry it out.
fn dispatch(strings: &Arc<Strings>, me: &mut Observer, order: Order) -> Result<u32> {
    let pid = std::process::id();
    let by = match &order {
        Order::Thread { from, .. } | Order::PinOther { from, .. } => *from,
        Order::Rename { tid, .. } | Order::Pin { tid, .. } | Order::CheckPolicy { tid, .. } => *tid,
        Order::UseDevice { tid, .. } => *tid,
        Order::Occupy { tid, .. } | Order::Rounds { tid } | Order::LongestWait { tid } => *tid,
        Order::Interleave { .. }
        | Order::Take { .. }
        | Order::TakeHuge { .. }
        | Order::HugeAsWritten
        | Order::PagesOn { .. }
        | Order::Exec { .. }
        | Order::Retitle { .. }
        | Order::Fork
        | Order::Storm { .. } => pid,
    };
    if by == pid {
        return carry_out(strings, me, order);
    }
    let thread = strings.threads().get(&by).cloned().with_context(|| format!("no thread {by}"))?;
    let (sender, answer) = mpsc::channel();
    thread.send((order, sender)).context("the thread is gone")?;
    answer.recv().context("the thread is gone")?.map_err(|error| anyhow!(error))
}

/// Carries out `order` on the calling thread.
fn carry_out(strings: &Arc<Strings>, me: &mut Observer, order: Order) -> Result<u32> {
    let args = &strings.args;
    match order {
        Order::Thread { name, .. } => {
            let (errand, inbox) = mpsc::channel();
            let (ready, tid) = mpsc::channel();
            let shared = Arc::clone(strings);
            thread::spawn(move || puppet_thread(&shared, name, &inbox, &ready));
            let tid = tid.recv().context("the new thread is gone")?;
            strings.threads().insert(tid, errand);
            return Ok(tid);
        }
        Order::Rename { name, .. } => {
            rename(&name);
            me.note(Point::Renamed);
        }
        Order::Pin { cpus, .. } => {
            sys::set_affinity(0, &cpus).with_context(|| format!("cannot pin myself to {cpus}"))?;
            me.note(Point::Pinned);
        }
        Order::PinOther { tid, cpus, .. } => {
            sys::set_affinity(tid, &cpus).with_context(|| format!("cannot pin {tid} to {cpus}"))?;
        }
        Order::Interleave { nodes, pages } => {
            sys::interleave(&nodes).with_context(|| format!("cannot interleave over {nodes}"))?;
            check_policy(INTERLEAVE, &nodes)?;
            strings.taken().push(take(pages)?);
        }
        Order::UseDevice { path, .. } => {
            let device = fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
            if device.is_terminal() {
                bail!("{path} is a terminal, and does understand it");
            }
        }
        Order::Take { pages } => strings.taken().push(take(pages)?),
        Order::TakeHuge { pages } => {
            let memory = sys::take_huge_pages(pages).context("no huge pages")?;
            memory.iter_mut().enumerate().for_each(|(index, word)| *word = index as u64);
            *strings.huge.lock().expect("nobody panics with the lock") = memory;
        }
        Order::HugeAsWritten => {
            let memory = strings.huge.lock().expect("nobody panics with the lock");
            if memory.is_empty() || memory.iter().enumerate().any(|(index, word)| *word != index as u64) {
                bail!("the huge pages hold something else");
            }
        }
        Order::CheckPolicy { mode, nodes, .. } => check_policy(mode, &nodes)?,
        Order::Occupy { .. } | Order::Rounds { .. } | Order::LongestWait { .. } => {
            bail!("the main thread is busy with orders")
        }
        Order::PagesOn { node } => {
            let mut found = 0;
            for memory in strings.taken().iter() {
                let nodes = sys::nodes_of_pages(memory).context("cannot find my pages")?;
                found += nodes.iter().filter(|on| u32::try_from(**on) == Ok(node)).count();
            }
            return Ok(u32::try_from(found)?);
        }
        Order::Exec { role } => {
            let mut command = Family::of(args)?.command(&role, args.instance);
            return Err(command.arg("--puppet").exec()).context("cannot exec");
        }
        Order::Retitle { role } => retitle(&["--role", &role, "--tag", &args.tag, "--instance"])?,
        Order::Fork => {
            let args = args.clone();
            return Ok(sys::fork(move || forked(&args))?);
        }
        Order::Storm { count, role } => {
            let family = Family::of(args)?;
            let start = || {
                let mut command = family.command(&role, args.instance);
                command.arg("--blink").stdin(Stdio::null()).stdout(Stdio::null());
                command.spawn().context("cannot start one of a storm")
            };
            let mut left = count;
            while left > 0 {
                let at_once = left.min(AT_ONCE);
                let children = (0..at_once).map(|_| start()).collect::<Result<Vec<_>>>()?;
                for mut child in children {
                    let status = child.wait().context("cannot reap one of a storm")?;
                    if !status.success() {
                        bail!("one of a storm ended with {status}");
                    }
                }
                left -= at_once;
            }
        }
    }
    Ok(0)
}

/// So many whole pages, all of them touched.
fn take(pages: u32) -> Result<Vec<u8>> {
    // A huge page is on one node.
    nix::sys::prctl::set_thp_disable(true).context("cannot do without huge pages")?;
    let page = sys::page_bytes();
    // One more, for the page that it begins in, which holds the allocator's words too.
    let mut memory = vec![0; (pages as usize + 1) * page];
    let first = memory.as_ptr().align_offset(page);
    memory.truncate(first + pages as usize * page);
    memory.iter_mut().skip(first).step_by(page).for_each(|byte| *byte = 1);
    Ok(memory)
}

/// Asks the kernel for the calling thread's memory policy.
fn check_policy(mode: i32, nodes: &NodeSet) -> Result<()> {
    let (own, own_nodes) = sys::memory_policy().context("cannot ask for my memory policy")?;
    if (own, &own_nodes) != (mode, nodes) {
        bail!("my memory policy is of mode {own} over nodes {own_nodes}, not of mode {mode} over {nodes}");
    }
    Ok(())
}

/// Overwrites this process's arguments where the kernel reads them for `/proc/PID/cmdline`.
fn retitle(words: &[&str]) -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read my own stat")?;
    // Fields 48 and 49, counted from after the name: `arg_start` and `arg_end` (proc_pid_stat(5)).
    let after_name = stat.rsplit_once(')').context("no name in my own stat")?.1;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let address =
        |index: usize| -> Result<u64> { Ok(fields.get(index - 3).context("no such field")?.parse()?) };
    let (start, end) = (address(48)?, address(49)?);
    let mut title = words.join("\0").into_bytes();
    let room = usize::try_from(end - start)?;
    if title.len() > room {
        bail!("{} bytes of arguments have no room for {}", room, title.len());
    }
    title.resize(room, 0);
    let memory =
        fs::OpenOptions::new().write(true).open("/proc/self/mem").context("cannot open my memory")?;
    memory.write_all_at(&title, start).context("cannot overwrite my arguments")
}

/// A thread of a puppet; it ends with the process.
fn puppet_thread(
    strings: &Arc<Strings>,
    name: Option<String>,
    inbox: &mpsc::Receiver<Errand>,
    ready: &mpsc::Sender<u32>,
) {
    let mut me = strings.witness.observer();
    me.note(Point::Start);
    if let Some(name) = name {
        rename(&name);
        me.note(Point::Renamed);
    }
    let mut alive = ready.send(gettid().as_raw().cast_unsigned()).is_ok();
    let mut busy: Result<Option<Occupant>> = Ok(None);
    while alive {
        let pause = if matches!(busy, Ok(Some(_))) { Duration::ZERO } else { LOOK_EVERY };
        match inbox.recv_timeout(pause) {
            Ok((order, answer)) => {
                let result = match order {
                    Order::Occupy { with, .. } => {
                        busy = Occupant::new(with).map(Some);
                        Ok(0)
                    }
                    Order::Rounds { .. } => match &busy {
                        Ok(occupant) => Ok(occupant.as_ref().map_or(0, |occupant| occupant.rounds)),
                        Err(error) => Err(anyhow!("{error:#}")),
                    },
                    Order::LongestWait { .. } => match &mut busy {
                        Ok(Some(occupant)) => Ok(std::mem::take(&mut occupant.longest).as_micros() as u32),
                        _ => Err(anyhow!("it neither touches nor maps")),
                    },
                    order => carry_out(strings, &mut me, order),
                };
                alive = answer.send(result.map_err(|error| format!("{error:#}"))).is_ok();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => match &mut busy {
                Ok(Some(occupant)) => {
                    if let Err(error) = occupant.round() {
                        busy = Err(error);
                    }
                }
                _ => me.sample(),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => alive = false,
        }
    }
}

/// A forked child: looks at itself until its creator dies, and it with it.
fn forked(args: &RoleArgs) {
    let Ok(witness) = Witness::open(&args.out, &args.role, args.instance) else { return };
    let mut me = witness.observer();
    me.note(Point::Start);
    loop {
        thread::sleep(LOOK_EVERY);
        me.sample();
    }
}
