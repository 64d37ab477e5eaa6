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
use tokio::signal::unix::{SignalKind, signal};

use super::{
    app::{App, Effect, Input, Now},
    draw::Look,
    source::{Gone, News, Source},
    terminal::{Screen, give_back},
};
use crate::host::sys::{self, Signal};

/// What waits for the loop; beyond that lines wait with the agent, which leaves events out.
const QUEUE: usize = 256;
/// The view is drawn at most so often, but for keys.
const FRAME: Duration = Duration::from_millis(100);
/// The clock's seconds are seen.
const TICK: Duration = Duration::from_millis(500);
/// A pace is asked for once no key has changed it for so long.
const SETTLE: Duration = Duration::from_millis(400);
/// After a signal that ends the view: a terminal that takes nothing must not hold us.
const FAREWELL: Duration = Duration::from_secs(2);

/// What wakes the loop.
enum Wake {
    Key(KeyEvent),
    /// It has another size.
    Size(u16, u16),
    News(News),
    /// Somebody stopped us, and we go on.
    Resumed,
    /// A signal asks for the end, or the terminal is gone.
    End,
}

/// Shows the view until it is over.
///
/// # Errors
/// If the terminal cannot be used.
pub fn run(mut app: App, source: Source, look: Look) -> io::Result<()> {
    let (wake, woken) = sync_channel(QUEUE);
    watch_signals(wake.clone())?;
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
        let Some(wake) = next(&woken, due, pace.map(|(_, at)| at)) else { return Ok(()) };
        if let Some((interval_ms, at)) = pace
            && Instant::now() >= at
        {
            pacer.set(interval_ms);
            pace = None;
        }
        let (input, soon) = match wake {
            None => (Input::Tick, FRAME),
            Some(Wake::Key(key)) => (Input::Key(key), Duration::ZERO),
            Some(Wake::Size(columns, rows)) => (Input::Size(columns, rows), Duration::ZERO),
            Some(Wake::News(News::Line(line))) => (Input::Line(line), FRAME),
            Some(Wake::News(News::Link(link))) => (Input::Link(link), FRAME),
            Some(Wake::Resumed) => {
                screen.resume()?;
                let (columns, rows) = terminal::size()?;
                (Input::Size(columns, rows), Duration::ZERO)
            }
            Some(Wake::End | Wake::News(News::Over)) => return Ok(()),
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

fn watch_signals(wake: SyncSender<Wake>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    // A raw terminal sends none; others may.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut go_on = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    drop(guard);
    thread("signals", move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => break,
                    _ = go_on.recv() => {
                        if wake.send(Wake::Resumed).is_err() {
                            return;
                        }
                    }
                }
            }
            let _ = wake.try_send(Wake::End);
            tokio::time::sleep(FAREWELL).await;
            std::process::exit(1);
        });
    })
}
