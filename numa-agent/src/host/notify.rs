//! Word to the service manager that started us (`sd_notify(3)`): lines in one datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! Without that variable nobody wants to know, and nothing is sent. What is said is for the caller to decide.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The variable.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a manager that does not listen may keep us.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a service manager can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// What depends on us may start.
    Ready,
    /// We are about to end.
    Stopping,
}

/// Tells the service manager, if there is one.
///
/// # Errors
/// If it cannot be reached.
pub fn tell(word: Word) -> io::Result<()> {
    env::var_os(SOCKET).map_or(Ok(()), |socket| tell_at(&socket, word))
}

fn tell_at(socket: &OsStr, word: Word) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let line: &[u8] = match word {
        Word::Ready => b"READY=1\n",
        Word::Stopping => b"STOPPING=1\n",
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    sender.send_to_addr(line, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let heard = |manager: &UnixDatagram| {
            let mut text = [0; 64];
            manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let length = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        tell_at(path.as_os_str(), Word::Ready).unwrap();
        assert_eq!(heard(&manager), "READY=1\n");

        let name = format!("numa-agent-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tell_at(format!("@{name}").as_ref(), Word::Stopping).unwrap();
        assert_eq!(heard(&manager), "STOPPING=1\n");
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tell_at(dir.path().join("nobody").as_os_str(), Word::Ready).is_err());
        assert!(tell_at("".as_ref(), Word::Ready).is_err());
    }
}
