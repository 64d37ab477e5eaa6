//! What each role does. Data goes scheduler -> rpc_proxy -> workers -> forward threads and back, once per token.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Actor, Family, RoleArgs, puppet, readable, say_hello, token_file,
    tokens::{Token, work},
};
use crate::{
    sys::Birth,
    witness::{Look, Observer, Point, Witness, now_ns},
};

/// Plays the role of `args`; `first` is the look taken at the first statement of `main`.
///
/// # Errors
/// If the role cannot be played: a neighbour is missing or broke off.
pub fn play(args: &RoleArgs, first: Look) -> Result<()> {
    let witness = Witness::open(&args.out, &args.role, args.instance)?;
    let mut me = witness.observer();
    me.note_look(first, Point::Main);
    match args.role.as_str() {
        _ if args.blink => {}
        _ if args.puppet => puppet::play(args, &witness, &mut me)?,
        "scheduler" => scheduler(args, &mut me)?,
        "worker" => worker(args, &witness, &mut me)?,
        "rpc_proxy" => rpc_proxy(args, &mut me)?,
        "motor" => motor(args, &mut me)?,
        "hog" => hog(&mut me)?,
        role => bail!("no such role: {role:?}"),
    }
    me.note(Point::End);
    Ok(())
}

/// Makes a token per tick and records when it was there.
fn scheduler(args: &RoleArgs, me: &mut Observer) -> Result<()> {
    let family = Family::of(args)?;
    let mut workers = Vec::new();
    for _ in 0..args.load.workers {
        let mut command = family.command("worker", args.instance);
        command.args(["--forward", &args.load.forward.to_string(), "--work", &args.load.work.to_string()]);
        workers.push(Actor::start(command, Birth::Plain)?);
    }
    let mut command = family.command("rpc_proxy", args.instance);
    for worker in &workers {
        command.args(["--connect", &worker.hello.port.to_string()]);
    }
    let proxy = Actor::start(command, Birth::Plain)?;
    let mut link = connect(proxy.hello.port)?;
    let path = token_file(&args.out, args.instance);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
    say_hello(0, workers.iter().chain([&proxy]).map(Actor::pid).collect())?;

    let mut next = Instant::now();
    for number in 1u64.. {
        // The clock of the token loop: late tokens are late, none are made up for.
        next = (next + args.load.tick()).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
        if readable(io::stdin(), Duration::ZERO)? {
            break;
        }
        send(&mut link, number)?;
        if receive(&mut link)? != Some(number) {
            bail!("rpc_proxy of instance {} broke off at token {number}", args.instance);
        }
        let mut line = serde_json::to_vec(&Token { number, at_ns: now_ns() })?;
        line.push(b'\n');
        file.write_all(&line).with_context(|| format!("cannot write {}", path.display()))?;
        me.sample();
    }
    drop(link);
    workers.into_iter().chain([proxy]).try_for_each(Actor::stop)
}

/// Passes each token on to all workers, and back when all are done with it.
fn rpc_proxy(args: &RoleArgs, me: &mut Observer) -> Result<()> {
    let mut workers = args.connect.iter().map(|port| connect(*port)).collect::<Result<Vec<_>>>()?;
    let mut scheduler = listen_and_say_hello()?;
    while let Some(token) = receive(&mut scheduler)? {
        for worker in &mut workers {
            send(worker, token)?;
        }
        for worker in &mut workers {
            if receive(worker)? != Some(token) {
                bail!("a worker of instance {} broke off at token {token}", args.instance);
            }
        }
        send(&mut scheduler, token)?;
        me.sample();
    }
    Ok(())
}

/// Has every forward thread work on each token.
fn worker(args: &RoleArgs, witness: &Arc<Witness>, me: &mut Observer) -> Result<()> {
    let (done_sender, done) = mpsc::channel();
    let mut orders = Vec::new();
    let mut threads = Vec::new();
    for index in 0..args.load.forward {
        let (order, inbox) = mpsc::channel();
        let (mut me, done, rounds) = (witness.observer(), done_sender.clone(), args.load.work);
        threads.push(thread::spawn(move || forward(index, rounds, &mut me, &inbox, &done)));
        orders.push(order);
    }
    // All have their names before the worker is ready.
    for _ in &orders {
        done.recv().context("a forward thread ended early")?;
    }
    let mut proxy = listen_and_say_hello()?;
    while let Some(token) = receive(&mut proxy)? {
        for order in &orders {
            order.send(token).context("a forward thread ended early")?;
        }
        for _ in &orders {
            done.recv().context("a forward thread ended early")?;
        }
        send(&mut proxy, token)?;
        me.sample();
    }
    drop(orders);
    for thread in threads {
        if thread.join().is_err() {
            bail!("a forward thread panicked");
        }
    }
    Ok(())
}

/// A forward thread: born with its parent's name, renames itself, then works on tokens.
fn forward(
    index: u32,
    rounds: u64,
    me: &mut Observer,
    inbox: &mpsc::Receiver<u64>,
    done: &mpsc::Sender<u64>,
) {
    me.note(Point::Start);
    let kind = ["forward", "prefill", "decode"][index as usize % 3];
    rename(&format!("{kind}_{}", index / 3));
    me.note(Point::Renamed);
    let mut answer = done.send(0);
    while answer.is_ok()
        && let Ok(token) = inbox.recv()
    {
        work(rounds);
        me.sample();
        answer = done.send(token);
    }
    me.note(Point::End);
}

/// A background process: a little work now and then.
fn motor(args: &RoleArgs, me: &mut Observer) -> Result<()> {
    say_hello(0, Vec::new())?;
    while !readable(io::stdin(), args.load.tick())? {
        work(args.load.work / 4);
        me.sample();
    }
    Ok(())
}

/// Takes all the CPU it gets; not part of anything.
fn hog(me: &mut Observer) -> Result<()> {
    say_hello(0, Vec::new())?;
    while !readable(io::stdin(), Duration::ZERO)? {
        let until = Instant::now() + Duration::from_millis(10);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        me.sample();
    }
    Ok(())
}

/// Gives the calling thread a name, as `pthread_setname_np` does.
///
/// # Panics
/// If `name` holds a zero byte.
pub fn rename(name: &str) {
    let name = std::ffi::CString::new(name).expect("a thread name without zero bytes");
    nix::sys::prctl::set_name(&name).expect("PR_SET_NAME");
}

fn connect(port: u16) -> Result<TcpStream> {
    let link =
        TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot reach port {port}"))?;
    link.set_nodelay(true)?;
    Ok(link)
}

fn listen_and_say_hello() -> Result<TcpStream> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on 127.0.0.1")?;
    say_hello(listener.local_addr()?.port(), Vec::new())?;
    let (link, _) = listener.accept().context("nobody connected")?;
    link.set_nodelay(true)?;
    Ok(link)
}

fn send(link: &mut TcpStream, token: u64) -> Result<()> {
    link.write_all(&token.to_le_bytes()).context("cannot send a token")
}

/// The next token; `None` at the end of the connection.
fn receive(link: &mut TcpStream) -> Result<Option<u64>> {
    let mut bytes = [0; 8];
    match link.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u64::from_le_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context("cannot receive a token"),
    }
}
