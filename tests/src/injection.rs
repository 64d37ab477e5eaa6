//! Memory policies put into threads that do something else, in all the states that they may be in. What the threads see of it is the witness: their
//! own `get_mempolicy`, and that nothing else of theirs changed.
//!
//! The same in the live tests and in guests. Nothing of it needs BPF.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use numa_agent::{
    core::{
        idset::NodeSet,
        memory::{Mode, Policy},
        task::TaskId,
    },
    host::{
        inject::{InjectError, set_policy},
        sys::{Host, Kernel},
    },
};

use crate::{
    eventually,
    stack::{
        Family,
        occupation::{Occupation, WAIT},
        puppet::{Order, Puppet},
    },
    sys::{self, Birth},
};

/// Longer than any injection takes, also on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn task(tid: u32) -> TaskId {
    TaskId { tid, start_time: Host.start_time(tid).expect("it is there") }
}

/// Two policies that differ on a machine of one node too.
fn policies() -> [Policy; 2] {
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory").expect("a kernel with NUMA");
    let nodes: NodeSet = nodes.trim().parse().expect("a list of nodes");
    [Policy::new(Mode::Interleave, nodes.clone()), Policy::new(Mode::Bind, nodes)]
}

fn inject(tid: u32, policy: &Policy) {
    let found = set_policy(task(tid), policy, PATIENCE);
    assert_eq!(found.unwrap_or_else(|error| panic!("{error}")), *policy, "thread {tid}");
}

fn assert_has(puppet: &mut Puppet, tid: u32, policy: &Policy) {
    let order = Order::CheckPolicy { tid, mode: policy.mode as i32, nodes: policy.nodes.clone() };
    puppet.order(&order).expect("the policy that was injected");
}

fn rounds(puppet: &mut Puppet, tid: u32) -> u32 {
    puppet.order(&Order::Rounds { tid }).expect("nothing has gone wrong")
}

/// Waits until it has done so many rounds more.
fn go_on(puppet: &mut Puppet, tid: u32, more: u32) {
    let since = rounds(puppet, tid);
    eventually(|| match rounds(puppet, tid) {
        done if done >= since + more => Ok(()),
        done => Err(format!("{tid} has done {done} rounds, {since} of them before")),
    });
}

fn puppet(family: &Family) -> Puppet {
    Puppet::start(family, "idle", 0, Birth::Session).expect("start a puppet")
}

/// What goes on with the time that is left: it comes to its end though it is interrupted more often than it takes.
pub fn waits_keep_their_time(family: &Family) {
    let mut puppet = puppet(family);
    for with in [Occupation::Sleep, Occupation::FutexTime, Occupation::PollTime] {
        let tid = puppet.occupied(with).expect("a busy thread");
        for turn in 0.. {
            // Rounds are told between two of them: asking waits for one.
            let policy = &policies()[turn % 2];
            inject(tid, policy);
            thread::sleep(WAIT / 12);
            if turn == 60 {
                go_on(&mut puppet, tid, 2);
                assert_has(&mut puppet, tid, policy);
                break;
            }
        }
        assert!(rounds(&mut puppet, tid) >= 4, "{with:?}: not once in many interruptions");
    }
    puppet.stop().expect("stop a puppet");
}

/// Whatever a thread is at, it goes on with that and has the policy.
pub fn every_occupation_goes_on(family: &Family) {
    let mut puppet = puppet(family);
    for with in [
        Occupation::Futex,
        Occupation::Pipe,
        Occupation::Epoll,
        Occupation::EpollTime,
        Occupation::SignalTime,
        Occupation::Compute,
        Occupation::Deaf,
    ] {
        let tid = puppet.occupied(with).expect("a busy thread");
        go_on(&mut puppet, tid, 1);
        for turn in 0..24 {
            let policy = &policies()[turn % 2];
            inject(tid, policy);
            if turn % 8 == 7 {
                go_on(&mut puppet, tid, 1);
                assert_has(&mut puppet, tid, policy);
            }
            thread::sleep(WAIT / 17);
        }
        go_on(&mut puppet, tid, 2);
    }
    // And the main thread, which nobody has touched, has what it had.
    let main = puppet.pid();
    puppet.order(&Order::CheckPolicy { tid: main, mode: 0, nodes: NodeSet::new() }).expect("its own policy");
    puppet.stop().expect("stop a puppet");
}

/// A thousand and more injections while a signal comes every few instants: each comes once, and the thread's sums are right.
pub fn a_storm_of_signals_changes_nothing(family: &Family, injections: usize) {
    let mut puppet = puppet(family);
    let tid = puppet.occupied(Occupation::Storm).expect("a busy thread");
    go_on(&mut puppet, tid, 1);
    for turn in 0..injections {
        inject(tid, &policies()[turn % 2]);
    }
    go_on(&mut puppet, tid, 3);
    assert_has(&mut puppet, tid, &policies()[(injections - 1) % 2]);
    puppet.stop().expect("stop a puppet");
}

/// A restartable sequence that is interrupted is aborted, as it would be by any other thread's turn: if it went on, none would ever abort it.
#[cfg(target_arch = "x86_64")]
pub fn sequences_are_aborted(family: &Family) {
    let mut puppet = puppet(family);
    let tid = puppet.occupied(Occupation::Sequence).expect("a busy thread");
    go_on(&mut puppet, tid, 1);
    for turn in 0..40 {
        let policy = &policies()[turn % 2];
        inject(tid, policy);
        thread::sleep(WAIT / 50);
    }
    go_on(&mut puppet, tid, 3);
    puppet.stop().expect("stop a puppet");
}

fn state(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("State:")).expect("a state");
    line.trim().to_owned()
}

fn assert_stopped(pid: u32) {
    eventually(|| match state(pid) {
        state if state.starts_with("T (stopped)") => Ok(()),
        state => Err(format!("{pid} is {state}")),
    });
}

/// A stopped process stays stopped, and goes on when it is let.
pub fn a_stopped_process_stays_stopped(family: &Family) {
    let [interleave, bind] = policies();
    let mut puppet = puppet(family);
    let main = puppet.pid();
    let sleeper = puppet.occupied(Occupation::Sleep).expect("a busy thread");
    let signal = |signal| kill(Pid::from_raw(main.cast_signed()), signal).expect("it is there");
    signal(Signal::SIGSTOP);
    assert_stopped(main);
    for _ in 0..20 {
        inject(main, &bind);
        inject(sleeper, &interleave);
        assert_stopped(main);
    }
    signal(Signal::SIGCONT);
    assert_has(&mut puppet, main, &bind);
    assert_has(&mut puppet, sleeper, &interleave);
    go_on(&mut puppet, sleeper, 1);
    puppet.stop().expect("stop a puppet");
}

/// Stack pointer and place of a stopped thread.
fn place(tid: u32) -> String {
    fs::read_to_string(format!("/proc/{tid}/syscall")).expect("it is stopped")
}

/// A program that is stopped by `SIGSTOP` on its way out of `execve` has the policy before its first instruction, and all its memory by it.
pub fn a_program_has_it_before_its_first_instruction() {
    let [interleave, _] = policies();
    let mut command = Command::new("cat");
    sys::traced_from_exec(&mut command);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("cat starts");
    let pid = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(pid, None).expect("it is our child");
    assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGTRAP), "at its first instruction");
    kill(pid, Signal::SIGSTOP).expect("it is there");
    ptrace::detach(pid, None).expect("we trace it");
    let tid = child.id();
    assert_stopped(tid);
    let before = place(tid);
    inject(tid, &interleave);
    assert_stopped(tid);
    assert_eq!(place(tid), before, "it is where it was");
    kill(pid, Signal::SIGCONT).expect("it is there");
    let maps = eventually(|| {
        let maps = fs::read_to_string(format!("/proc/{tid}/numa_maps")).expect("it is there");
        if maps.contains("heap") && maps.contains("libc") { Ok(maps) } else { Err(maps) }
    });
    let by_policy = |line: &str| line.split(' ').nth(1) == Some(interleave.to_string().as_str());
    assert!(maps.lines().all(by_policy), "{maps}");
    drop(child.stdin.take());
    assert!(child.wait().expect("it is our child").success());
}

/// Who cannot be reached, in time or at all, is named and goes on.
pub fn who_cannot_be_reached_is_named(family: &Family) {
    let [interleave, _] = policies();
    let mut puppet = puppet(family);
    let asleep = puppet.occupied(Occupation::Uninterruptible).expect("a busy thread");
    let short = Duration::from_millis(5);
    let refused = (0..200).find_map(|_| set_policy(task(asleep), &interleave, short).err());
    assert!(matches!(refused, Some(InjectError::Slow { tid }) if tid == asleep), "{refused:?}");
    inject(asleep, &interleave);
    go_on(&mut puppet, asleep, 2);
    assert_has(&mut puppet, asleep, &interleave);

    let main = puppet.pid();
    let by = nix::unistd::gettid().as_raw().cast_unsigned();
    ptrace::seize(Pid::from_raw(main.cast_signed()), ptrace::Options::empty()).expect("it may be traced");
    let refused = set_policy(task(main), &interleave, short);
    assert!(
        matches!(refused, Err(InjectError::Traced { tid, by: tracer }) if (tid, tracer) == (main, by)),
        "{refused:?}"
    );
    let recycled = TaskId { start_time: task(asleep).start_time + 1, ..task(asleep) };
    let refused = set_policy(recycled, &interleave, PATIENCE);
    assert!(matches!(refused, Err(InjectError::Gone { .. })), "{refused:?}");
}

/// A 32-bit program is refused, as often as one likes, and goes on.
#[cfg(target_arch = "x86_64")]
pub fn a_32_bit_program_is_refused(family: &Family) {
    use std::io::{Read, Write};

    let [interleave, _] = policies();
    let mut child = Command::new(crate::narrow::write(&family.out).expect("a file"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a kernel that runs 32-bit programs");
    let (mut to, mut from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let task = task(child.id());
    for byte in 0..20 {
        let refused = set_policy(task, &interleave, PATIENCE);
        assert!(matches!(refused, Err(InjectError::Width { tid }) if tid == task.tid), "{refused:?}");
        to.write_all(&[byte]).expect("it reads");
        let mut echo = [0];
        from.read_exact(&mut echo).expect("it writes");
        assert_eq!(echo, [byte], "as it was given it");
    }
    let maps = fs::read_to_string(format!("/proc/{}/numa_maps", task.tid)).expect("it is there");
    assert!(maps.lines().all(|line| line.contains(" default")), "{maps}");
    drop(to);
    assert!(child.wait().expect("it is our child").success());
}

/// A filter that kills for the call, as systemd's may, is suspended for the injected one alone.
pub fn a_filter_is_suspended_and_in_force_again() {
    let [interleave, _] = policies();
    let mut command = Command::new("sleep");
    sys::killed_for(&mut command, sys::SET_MEMPOLICY);
    let mut child = command.arg("1000").spawn().expect("sleep starts");
    let tid = child.id();
    eventually(|| match fs::read_to_string(format!("/proc/{tid}/comm")) {
        Ok(comm) if comm == "sleep\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    inject(tid, &interleave);
    let status = fs::read_to_string(format!("/proc/{tid}/status")).expect("it is there");
    assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nTracerPid:\t0\n"), "{status}");
    let maps = fs::read_to_string(format!("/proc/{tid}/numa_maps")).expect("it is there");
    assert!(maps.contains(&format!(" {interleave} ")), "{maps}");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}
