//! A stand-in for irqbalance: its socket, its ban list, and its way to read commands, as `sock_handle` of its `irqbalance.c` has them.

use std::{
    collections::BTreeSet,
    io::{IoSliceMut, Write},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use nix::{
    cmsg_space,
    sys::socket::{
        Backlog, ControlMessageOwned, MsgFlags, UnixCredentials, listen as listen_for, recvmsg, setsockopt,
        sockopt::PassCred,
    },
    unistd::getuid,
};

/// One that answers until the test is over.
#[derive(Debug)]
pub struct Irqbalance {
    address: SocketAddr,
    bans: Arc<Mutex<BTreeSet<u32>>>,
}

impl Irqbalance {
    /// Starts one that has banned some from its command line: its process is `pid` in `proc`, its socket in `sockets`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(proc: &Path, sockets: &Path, pid: u32, banned: &[u32]) -> Self {
        std::fs::create_dir_all(sockets).expect("a folder");
        let address = SocketAddr::from_pathname(sockets.join(name(pid))).expect("a path");
        Self::listen(address, proc, pid, banned)
    }

    /// The same of a version before 1.5: its socket has no file. `pid` is that of no other in this network namespace.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_old(proc: &Path, pid: u32, banned: &[u32]) -> Self {
        let address = SocketAddr::from_abstract_name(name(pid)).expect("a name");
        Self::listen(address, proc, pid, banned)
    }

    fn listen(address: SocketAddr, proc: &Path, pid: u32, banned: &[u32]) -> Self {
        let folder = proc.join(pid.to_string());
        std::fs::create_dir_all(&folder).expect("a process");
        std::fs::write(folder.join("comm"), "irqbalance\n").expect("its name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        // Irqbalance's own number.
        listen_for(&listener, Backlog::new(1).expect("a number")).expect("a shorter queue");
        setsockopt(&listener, PassCred, &true).expect("credentials");
        let bans = Arc::new(Mutex::new(banned.iter().copied().collect()));
        let kept = Arc::clone(&bans);
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| serve(stream, &kept)));
        Self { address, bans }
    }

    /// Stops it until what is given is dropped: it waits for the first to say something, and as many as it takes wait for it.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn stop(&self) -> Vec<UnixStream> {
        let connect = |_| UnixStream::connect_addr(&self.address).expect("a place in its queue");
        (0..3).map(connect).collect()
    }

    /// What it leaves alone.
    #[must_use]
    pub fn bans(&self) -> BTreeSet<u32> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn name(pid: u32) -> String {
    format!("irqbalance{pid}.sock")
}

/// Reads once, and heeds who has the right to speak.
fn serve(mut stream: UnixStream, bans: &Mutex<BTreeSet<u32>>) {
    let mut bytes = vec![0; 16_384];
    let mut space = cmsg_space!(UnixCredentials);
    let (length, trusted) = {
        let mut into = [IoSliceMut::new(&mut bytes)];
        let Ok(got) = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::empty())
        else {
            return;
        };
        let said = |message| matches!(message, ControlMessageOwned::ScmCredentials(who) if who.uid() == getuid().as_raw());
        (got.bytes, got.cmsgs().is_ok_and(|mut messages| messages.any(said)))
    };
    let command = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let mut bans = bans.lock().unwrap_or_else(PoisonError::into_inner);
    if !trusted {
        return;
    }
    if let Some(list) = command.strip_prefix("settings ban irqs ") {
        // Numbers up to the first word that is none.
        *bans = list.split(' ').map_while(|word| word.parse().ok()).collect();
    } else if command == "setup" {
        let listed: String = bans.iter().map(|irq| format!("IRQ {irq} LOAD 0 DIFF 0 CLASS 4 ")).collect();
        // Who asked may have gone.
        let _ = stream.write_all(format!("SLEEP 10 {listed}BANNED 00000000").as_bytes());
    }
}
