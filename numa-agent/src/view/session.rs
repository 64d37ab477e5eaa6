//! The view on a terminal, from beginning to end: keys, lines, signals and the time go to [`App`], and what it asks for is done.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use ratatui::crossterm::{
    event::{self, Event, KeyEvent},
    terminal,
};

use super::{
    app::{App, Effect, Input, Now},
    draw::Look,
    signals::{self, Signals},
    source::{Gone, News, Source},
    terminal::{Screen, abandon, give_back},
};
use crate::host::sys;

/// What waits for the loop; beyond that lines wait with the agent, which leaves events out.
const QUEUE: usize = 256;
/// The view is drawn at most so often, but for keys.
const FRAME: Duration = Duration::from_millis(100);
/// The clock's seconds are seen.
const TICK: Duration = Duration::from_millis(500);
/// A pace is asked for once no key has changed it for so long.
const SETTLE: Duration = Duration::from_millis(400);
/// How long the view has to end after a signal, unless there is another: a terminal that takes nothing must not hold us.
const FAREWELL: Duration = Duration::from_secs(2);

/// What wakes the loop.
enum Wake {
    Key(KeyEvent),
    /// It has another size.
    Size(u16, u16),
    News(News),
    /// There was a signal.
    Signal,
    /// The terminal is gone.
    End,
}

/// Why the view ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It cannot be used.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// Nothing comes any more.
    #[error("{0}")]
    Over(String),
}

/// Shows the view until it is over.
///
/// # Errors
/// If the terminal cannot be used, or nothing comes any more.
pub fn run(app: App, source: Source, look: Look) -> Result<(), SessionError> {
    let (wake, woken) = sync_channel(QUEUE);
    let signal = wake.clone();
    // A full queue wakes the loop anyway.
    let signals = signals::watch(move || drop(signal.try_send(Wake::Signal)), FAREWELL, || abandon())?;
    match show(app, source, look, &signals, wake, &woken) {
        // The terminal, or an observer of our own, went with the signal.
        Err(_) if signals.end_soon() => Ok(()),
        other => other,
    }
}

fn show(
    mut app: App,
    source: Source,
    look: Look,
    signals: &Signals,
    wake: SyncSender<Wake>,
    woken: &Receiver<Wake>,
) -> Result<(), SessionError> {
    let mut screen = Screen::take(look)?;
    read_keys(wake.clone())?;
    let pacer = source.read(move |news| wake.send(Wake::News(news)).map_err(|_| Gone))?;
    let began = Instant::now();
    let now = || {
        let at = sys::now_rfc3339();
        let clock = at.get(11..19).unwrap_or_default().to_owned();
        Now { ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), clock }
    };
    let (columns, rows) = terminal::size()?;
    app.take(Input::Size(columns, rows), &now());
    let mut due = Instant::now();
    let mut pace: Option<(u64, Instant)> = None;
    loop {
        if Instant::now() >= due {
            screen.draw(&app)?;
            due = Instant::now() + TICK;
        }
        let Some(wake) = next(woken, due, pace.map(|(_, at)| at)) else { return Ok(()) };
        if signals.end() {
            return Ok(());
        }
        if let Some((interval_ms, at)) = pace
            && Instant::now() >= at
        {
            pacer.set(interval_ms);
            pace = None;
        }
        if signals.resumed() {
            screen.resume()?;
            let (columns, rows) = terminal::size()?;
            app.take(Input::Size(columns, rows), &now());
            due = Instant::now();
        }
        let (input, soon) = match wake {
            None | Some(Wake::Signal) => (Input::Tick, FRAME),
            Some(Wake::Key(key)) => (Input::Key(key), Duration::ZERO),
            Some(Wake::Size(columns, rows)) => (Input::Size(columns, rows), Duration::ZERO),
            Some(Wake::News(News::Line(line))) => (Input::Line(line), FRAME),
            Some(Wake::News(News::Link(link))) => (Input::Link(link), FRAME),
            Some(Wake::End) => return Ok(()),
            Some(Wake::News(News::Over(why))) => return Err(SessionError::Over(why)),
        };
        due = due.min(Instant::now() + soon);
        match app.take(input, &now()) {
            None => {}
            Some(Effect::Quit) => return Ok(()),
            Some(Effect::Redraw) => screen.forget(),
            Some(Effect::Interval(ms)) => pace = Some((ms, Instant::now() + SETTLE)),
            Some(Effect::Suspend) => {
                give_back();
                sys::suspend_group()?;
                screen.resume()?;
            }
        }
    }
}

/// What comes next; `Some(None)`: only time has passed. `None`: nobody is left who could wake us.
fn next(woken: &Receiver<Wake>, due: Instant, other: Option<Instant>) -> Option<Option<Wake>> {
    let until = other.map_or(due, |other| other.min(due));
    match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(wake) => Some(Some(wake)),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// Each thread ends when the loop has.
fn read_keys(wake: SyncSender<Wake>) -> io::Result<()> {
    thread("keys", move || {
        loop {
            let woken = match event::read() {
                Ok(Event::Key(key)) => Wake::Key(key),
                Ok(Event::Resize(columns, rows)) => Wake::Size(columns, rows),
                Ok(_) => continue,
                // Without a terminal there are no keys.
                Err(_) => Wake::End,
            };
            let end = matches!(woken, Wake::End);
            if wake.send(woken).is_err() || end {
                return;
            }
        }
    })
}
