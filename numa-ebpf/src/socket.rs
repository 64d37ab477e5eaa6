//! TCP sockets: from a descriptor of the calling task to the kernel's `struct sock`, and which connection that is.

use crate::{
    config::{FILE_PRIVATE, SOCK_FAMILY, SOCK_LOCAL_PORT, SOCK_PROTOCOL, SOCK_REMOTE_PORT, SOCKET_SK},
    file,
    task::{self, Pointer, read},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// Both ends of a connection, in host byte order.
#[derive(Clone, Copy)]
pub struct Ports {
    pub local: u16,
    pub remote: u16,
}

/// The ports of a TCP socket, by direct loads; `None` for other sockets.
///
/// # Safety
/// The verifier knows the pointer as a `struct sock` (BTF tracepoints).
#[inline(always)]
pub unsafe fn ports(sock: Pointer) -> Option<Ports> {
    // SAFETY: as the caller promises.
    let field = |offset| unsafe { task::field::<u16>(sock, offset) };
    let local = field(SOCK_LOCAL_PORT.load());
    let tcp = is_tcp(field(SOCK_FAMILY.load()), field(SOCK_PROTOCOL.load()));
    tcp.then(|| Ports { local, remote: u16::from_be(field(SOCK_REMOTE_PORT.load())) })
}

/// The same by the helper, for any pointer.
#[inline(always)]
pub fn read_ports(sock: Pointer) -> Option<Ports> {
    let tcp = is_tcp(read(sock, SOCK_FAMILY.load())?, read(sock, SOCK_PROTOCOL.load())?);
    let remote: u16 = read(sock, SOCK_REMOTE_PORT.load())?;
    tcp.then_some(Ports { local: read(sock, SOCK_LOCAL_PORT.load())?, remote: u16::from_be(remote) })
}

#[inline(always)]
fn is_tcp(family: u16, protocol: u16) -> bool {
    (family == AF_INET || family == AF_INET6) && protocol == IPPROTO_TCP
}

/// The socket behind a descriptor of the calling task; `None` if it is something else.
#[inline(always)]
pub fn of_descriptor(fd: u32) -> Option<Pointer> {
    let (file, _) = file::of_descriptor(fd, file::S_IFSOCK)?;
    let socket: Pointer = read(file, FILE_PRIVATE.load())?;
    read(socket, SOCKET_SK.load())
}
