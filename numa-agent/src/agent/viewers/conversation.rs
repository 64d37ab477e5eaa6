//! One connection: requests, and the lines that answer them. Whoever is at the other end may send anything, or stop to read.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep_until, timeout},
};

use super::{
    PATIENCE, REQUEST_PAUSE,
    hub::{Hub, Queue, printed},
};
use crate::core::view::{Line, MAX_REQUEST, Request, SCHEMA, request};

/// Who may look, and which of them is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root.
    Root,
    /// Another who may.
    Viewer,
    /// One who may not.
    Stranger,
}

/// Talks, until all is said or the other is gone.
pub async fn converse(hub: Rc<RefCell<Hub>>, id: u64, stream: UnixStream, caller: Caller) {
    if let Err(error) = answer(&hub, id, &stream, caller).await {
        let line = printed(&Line::Error { schema: SCHEMA, error });
        // It may have gone.
        let _ = send(&stream, line.as_bytes()).await;
    }
    hub.borrow_mut().went(id);
}

/// The error is for the other end, in words.
async fn answer(hub: &Rc<RefCell<Hub>>, id: u64, stream: &UnixStream, caller: Caller) -> Result<(), String> {
    if caller == Caller::Stranger {
        return Err("only root and the members of the socket's group may look".to_owned());
    }
    let mut requests = Requests { stream, unread: Vec::new() };
    let request = match timeout(PATIENCE, requests.next()).await {
        Ok(Some(line)) => request::parse(&line)?,
        Ok(None) => return Ok(()),
        Err(_) => return Err(format!("no request within {} s", PATIENCE.as_secs())),
    };
    let state = hub.borrow_mut().ask_status();
    // Without the loop there is nobody to tell it.
    let state = state.await.map_err(|_| "the agent ends".to_owned())?;
    let sent = match request {
        Request::Status => send(stream, state.as_bytes()).await,
        Request::Watch { interval_ms } => {
            let interval = Duration::from_millis(interval_ms);
            let queue = hub.borrow_mut().subscribe(id, caller == Caller::Root, interval)?;
            match send(stream, state.as_bytes()).await {
                Ok(()) => show(hub, id, &mut requests, queue).await?,
                other => other,
            }
        }
    };
    if let Err(error) = sent {
        tracing::debug!("viewer {id}: {error}");
    }
    Ok(())
}

/// Sends what comes, at the pace that was asked for last. `Ok(Err)`: the viewer has gone, or does not read.
async fn show(
    hub: &Rc<RefCell<Hub>>,
    id: u64,
    requests: &mut Requests<'_>,
    mut queue: Queue,
) -> Result<io::Result<()>, String> {
    let stream = requests.stream;
    let mut listens = Instant::now();
    loop {
        let request = async {
            sleep_until(listens).await;
            requests.next().await
        };
        tokio::select! {
            line = queue.lines.recv() => {
                let Some(line) = line else { return Ok(Ok(())) };
                let sent = send(stream, line.text.as_bytes()).await;
                if line.snapshot {
                    queue.awaits.set(false);
                }
                if sent.is_err() {
                    return Ok(sent);
                }
            }
            request = request => {
                let Some(line) = request else { return Ok(Ok(())) };
                let Request::Watch { interval_ms } = request::parse(&line)? else {
                    return Err("a viewer may ask for another interval, and for nothing else".to_owned());
                };
                hub.borrow_mut().set_interval(id, Duration::from_millis(interval_ms));
                listens = Instant::now() + REQUEST_PAUSE;
            }
        }
    }
}

/// What the other end says.
struct Requests<'a> {
    stream: &'a UnixStream,
    /// What has been read, and is not answered yet.
    unread: Vec<u8>,
}

impl Requests<'_> {
    /// The next line, or what there is of it at the end; too long a one as far as it shows that. `None`: no more comes.
    /// Nothing is lost where this is given up and called again.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Some(std::mem::replace(&mut self.unread, rest));
            }
            if self.unread.len() > MAX_REQUEST {
                return Some(std::mem::take(&mut self.unread));
            }
            self.stream.readable().await.ok()?;
            let mut buffer = [0; MAX_REQUEST + 1];
            match self.stream.try_read(&mut buffer) {
                Ok(0) if self.unread.is_empty() => return None,
                Ok(0) => return Some(std::mem::take(&mut self.unread)),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

/// Sends all of it, to who takes some of it at least every so often.
async fn send(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        timeout(PATIENCE, stream.writable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        match stream.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
