//! The line between agent and guard: one message a packet. Neither ever waits for the other.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt::SndBuf,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest message; one that is longer makes no sense to the other side.
const MAX_MESSAGE: usize = 4096;
/// Room for messages that wait to be read.
const QUEUE_BYTES: usize = 1 << 20;

/// One end, at which messages of type `H` are heard.
#[derive(Debug)]
pub struct Wire<H> {
    socket: OwnedFd,
    heard: PhantomData<fn() -> H>,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<H> {
    /// Nothing yet.
    Nothing,
    /// This.
    Message(H),
    /// Nothing any more: the other side is gone.
    End,
}

/// Both ends: this one, and the descriptor of the other.
///
/// # Errors
/// If there are too many open files.
pub fn pair<H>() -> io::Result<(Wire<H>, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&near, &far] {
        // Cut to what the machine allows.
        setsockopt(end, SndBuf, &QUEUE_BYTES)?;
    }
    Ok((Wire::of_fd(near), far))
}

impl<H: DeserializeOwned> Wire<H> {
    /// The next message. What makes no sense is left out.
    pub fn hear(&self) -> Heard<H> {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Heard::End,
                Ok(bytes) => {
                    if let Ok(message) = serde_json::from_slice(&buffer[..bytes]) {
                        return Heard::Message(message);
                    }
                }
                Err(Errno::EAGAIN) => return Heard::Nothing,
                Err(Errno::EINTR) => {}
                Err(_) => return Heard::End,
            }
        }
    }
}

impl<H> Wire<H> {
    /// That end.
    #[must_use]
    pub fn of_fd(socket: OwnedFd) -> Self {
        Self { socket, heard: PhantomData }
    }

    /// Tells the other side; whether there was room.
    pub fn tell(&self, message: &impl Serialize) -> bool {
        let Ok(bytes) = serde_json::to_vec(message) else { return false };
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).is_ok()
    }
}

impl<H> AsFd for Wire<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        hold::{Answer, Hold, Order},
        task::TaskId,
    };

    #[test]
    fn messages_come_one_by_one_and_the_end_after_the_last() {
        let (agent, far) = pair::<Answer>().unwrap();
        let guard = Wire::<Order>::of_fd(far);
        assert_eq!(guard.hear(), Heard::Nothing);
        let hold = Hold { task: TaskId { tid: 5, start_time: 7 }, at_ns: u64::MAX };
        let order = Order::Release { hold, memory: Some("interleave:0-1".into()) };
        assert!(agent.tell(&order) && agent.tell(&"nonsense") && agent.tell(&Order::End));
        assert!(guard.tell(&Answer::Late { hold }));
        drop(guard.hear());
        assert_eq!(guard.hear(), Heard::Message(Order::End), "what makes no sense is left out");
        drop(guard);
        assert_eq!(agent.hear(), Heard::Message(Answer::Late { hold }));
        assert_eq!(agent.hear(), Heard::End);
        assert!(!agent.tell(&order));
    }

    #[test]
    fn a_full_line_holds_up_nobody() {
        let (agent, _guard) = pair::<Answer>().unwrap();
        let told = (0..1_000_000).take_while(|_| agent.tell(&Order::End)).count();
        assert!((100..1_000_000).contains(&told), "{told}");
    }
}
