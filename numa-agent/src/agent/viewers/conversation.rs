//! One connection: a request, and the lines that answer it. Whoever is at the other end may send anything, or stop to read.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use tokio::{net::UnixStream, time::timeout};

use super::{
    PATIENCE,
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
    let request = match timeout(PATIENCE, read_request(stream)).await {
        Ok(Ok(line)) => request::parse(&line)?,
        Ok(Err(ReadError::TooLong)) => return Err(request::too_long()),
        Ok(Err(ReadError::Gone)) => return Ok(()),
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
                Ok(()) => show(stream, queue).await?,
                other => other,
            }
        }
    };
    if let Err(error) = sent {
        tracing::debug!("viewer {id}: {error}");
    }
    Ok(())
}

/// Sends what comes. `Ok(Err)`: the viewer has gone, or does not read.
async fn show(stream: &UnixStream, mut queue: Queue) -> Result<io::Result<()>, String> {
    loop {
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
            ready = stream.readable() => {
                let mut more = [0; 64];
                match ready.and_then(|()| stream.try_read(&mut more)) {
                    Ok(0) => return Ok(Ok(())),
                    Ok(_) => return Err("one request a connection".to_owned()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
    }
}

enum ReadError {
    TooLong,
    Gone,
}

/// A line, or all that comes before the other end is closed.
async fn read_request(stream: &UnixStream) -> Result<Vec<u8>, ReadError> {
    let (mut line, mut buffer) = (Vec::new(), [0; MAX_REQUEST + 1]);
    loop {
        stream.readable().await.map_err(|_| ReadError::Gone)?;
        let length = match stream.try_read(&mut buffer) {
            Ok(0) if line.is_empty() => return Err(ReadError::Gone),
            Ok(0) => return Ok(line),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(ReadError::Gone),
        };
        line.extend_from_slice(&buffer[..length]);
        if line.len() > MAX_REQUEST {
            return Err(ReadError::TooLong);
        }
        // Whatever comes after it makes it no request.
        if line.contains(&b'\n') {
            return Ok(line);
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
