//! HTTP by hand, so that tests say what goes over the wire.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    /// What follows.
    pub body: String,
}

/// Asks for `path`.
///
/// # Errors
/// If there is no answer, or it makes no sense.
pub fn get(address: SocketAddr, path: &str, accept: &str) -> io::Result<Answer> {
    say(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"),
    )
}

/// Says that, and takes all that comes.
///
/// # Errors
/// As [`get`].
pub fn say(address: SocketAddr, request: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // It may answer and close before it has read all.
    let _ = stream.write_all(request.as_bytes());
    let mut raw = Vec::new();
    let read = stream.read_to_end(&mut raw);
    let text = String::from_utf8_lossy(&raw).into_owned();
    let wrong = || io::Error::other(format!("{read:?}: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
    let head = head.to_ascii_lowercase();
    // Prometheus sends long answers in chunks: their sizes stand on lines of their own.
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Ok(Answer { status, head, body })
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        whole += chunk;
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
