//! Who uses a device file.

use std::{
    fs::File,
    io::{IsTerminal as _, Read as _},
    sync::mpsc,
};

use numa_ebpf::record::device_number;

use super::*;

/// `/dev/full` and `/dev/zero` (`Documentation/admin-guide/devices.txt`).
const FULL: u32 = device_number(1, 7);
const ZERO: u32 = device_number(1, 5);

/// An `ioctl`, which the device does not understand.
fn ask(path: &str) {
    assert!(!File::open(path).expect("a device").is_terminal());
}

impl Live {
    /// Which task used which device, in order.
    fn users(&mut self) -> Vec<(u32, u32)> {
        self.drain();
        let users = self.seen.iter().filter_map(|event| match event.kind {
            EventKind::UseDevice { device, .. } => Some((event.task.tid, device)),
            _ => None,
        });
        users.collect()
    }
}

#[test]
fn a_marked_task_that_uses_a_device_is_told_of_once() {
    let Some(mut live) = live(&LoadOptions { devices: true, ..seeing_ourselves() }) else { return };
    assert!(live.programs.health().has("device"), "{}", live.programs.health().summary());
    live.programs.set_devices(&[FULL].into()).expect("a table");
    ask("/dev/full");
    live.mark(std::process::id(), own_tid());
    ask("/dev/zero");
    ask("/proc/self/comm");
    assert_eq!(live.users(), [], "nobody who is marked used it");
    ask("/dev/full");
    ask("/dev/full");
    assert_eq!(live.users(), [(own_tid(), FULL)]);
    let (sender, other) = mpsc::channel();
    let thread = thread::spawn(move || {
        sender.send(own_tid()).expect("who asks");
        ask("/dev/full");
    });
    let other = other.recv().expect("its tid");
    thread.join().expect("no panic");
    assert_eq!(live.users(), [(own_tid(), FULL), (other, FULL)]);
    // Other devices: whoever uses them is told of, and no one else.
    live.programs.set_devices(&[ZERO].into()).expect("a table");
    ask("/dev/full");
    ask("/dev/zero");
    assert_eq!(live.users()[2..], [(own_tid(), ZERO)]);
    assert_eq!(live.programs.drops().to_string(), "nothing");
}

#[test]
fn another_program_of_a_task_is_told_of_too() {
    let Some(mut live) = live(&LoadOptions { devices: true, ..seeing_ourselves() }) else { return };
    live.programs.set_devices(&[FULL].into()).expect("a table");
    let mut shell =
        waiting_shell("exec 3</dev/full; [ -t 3 ]; [ -t 3 ]; exec /bin/sh -c '[ -t 3 ]; [ -t 3 ]; echo'");
    let tid = shell.id();
    live.mark(tid, tid);
    go(&mut shell);
    let mut rest = String::new();
    shell.stdout.take().expect("a pipe").read_to_string(&mut rest).expect("its end");
    shell.wait().expect("ends");
    assert_eq!(live.users(), [(tid, FULL), (tid, FULL)]);
}
