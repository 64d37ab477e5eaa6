//! The terminal: taken over, drawn on, and given back as it was, whatever happens. The only part of the view that writes to it.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    os::unix::fs::OpenOptionsExt,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::termios::{FlushArg, tcflush},
};
use ratatui::{
    backend::{Backend, CrosstermBackend},
    buffer::Buffer,
    crossterm::{
        QueueableCommand,
        cursor::{Hide, Show},
        execute,
        terminal::{
            self, BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
            disable_raw_mode, enable_raw_mode,
        },
    },
    layout::Rect,
};

use super::{
    app::App,
    draw::{Look, draw},
};
use crate::host::sys;

/// Whether it is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// It is being given back: nobody draws any more.
static GIVING: AtomicBool = AtomicBool::new(false);
/// One at a time.
static LEAVING: Mutex<()> = Mutex::new(());
/// How long somebody who waits for the terminal has to wake up.
const WAKE: Duration = Duration::from_secs(1);
/// What was said meanwhile.
static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// The most that is kept of it, in bytes.
const MAX_HELD: usize = 1 << 20;

/// The terminal while it shows the view. Not ratatui's own: that asks the terminal where its cursor is, and takes the answer from
/// whoever reads keys.
pub struct Screen {
    backend: CrosstermBackend<BufWriter<Stdout>>,
    /// What it shows; of no size where that is not known.
    shown: Buffer,
    look: Look,
}

impl Screen {
    /// Takes the terminal over; a panic from now on gives it back before it says anything.
    ///
    /// # Errors
    /// If standard output is no terminal, or cannot be written to.
    pub fn take(look: Look) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                report(panic);
            }));
        });
        enter()?;
        let out = BufWriter::with_capacity(1 << 16, io::stdout());
        Ok(Self { backend: CrosstermBackend::new(out), shown: Buffer::default(), look })
    }

    /// Shows the view.
    ///
    /// # Errors
    /// If the terminal is gone, or is not ours any more.
    pub fn draw(&mut self, app: &App) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            // The panic has said what it is.
            return Err(io::Error::other("a thread of the view has panicked"));
        }
        let (columns, rows) = terminal::size()?;
        let area = Rect::new(0, 0, columns, rows);
        let mut next = Buffer::empty(area);
        draw(app, self.look, &mut next);
        self.backend.queue(BeginSynchronizedUpdate)?;
        if self.shown.area != area {
            self.backend.clear()?;
            self.shown = Buffer::empty(area);
        }
        self.backend.draw(self.shown.diff(&next).into_iter())?;
        self.shown = next;
        execute!(self.backend, EndSynchronizedUpdate)
    }

    /// All of it is drawn next time.
    pub fn forget(&mut self) {
        self.shown = Buffer::default();
    }

    /// Takes the terminal over again, after it was [given back](give_back).
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn resume(&mut self) -> io::Result<()> {
        self.forget();
        enter()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    GIVING.store(false, Ordering::SeqCst);
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Gives the terminal back as it was, and says on standard error what was to be said meanwhile. Once: later calls do nothing.
pub fn give_back() {
    GIVING.store(true, Ordering::SeqCst);
    let _leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // If that fails the terminal is gone.
    let _ = execute!(io::stdout(), EndSynchronizedUpdate, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    let held = std::mem::take(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner));
    let _ = io::stderr().write_all(&held);
}

/// Gives a terminal back that takes nothing, as far as it can be without waiting, and ends the process: who waited for the terminal
/// must not go on with what it had to say.
pub fn abandon() -> ! {
    let _leaving = LEAVING.lock().unwrap_or_else(PoisonError::into_inner);
    if TAKEN.swap(false, Ordering::SeqCst) {
        leave_at_once();
    }
    std::process::exit(0)
}

fn leave_at_once() {
    let _ = disable_raw_mode();
    // Whoever waits for the terminal has the lock of standard output, and in the kernel the terminal's.
    let tty = OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/tty");
    let (Ok(mut tty), Ok(mode)) = (tty, fcntl(io::stdout(), FcntlArg::F_GETFL)) else { return };
    let mode = OFlag::from_bits_retain(mode);
    // They give up once a signal that we take has woken them; the shell that we share this with has it back below.
    let _ = fcntl(io::stdout(), FcntlArg::F_SETFL(mode | OFlag::O_NONBLOCK));
    let until = Instant::now() + WAKE;
    while !GIVING.load(Ordering::SeqCst) && Instant::now() < until {
        let _ = sys::send_signal(std::process::id(), sys::Signal::SIGCONT);
        std::thread::sleep(WAKE / 200);
    }
    // What it has not taken would be in the way.
    let _ = tcflush(&tty, FlushArg::TCOFLUSH);
    let _ = execute!(tty, EndSynchronizedUpdate, LeaveAlternateScreen, Show);
    let _ = fcntl(io::stdout(), FcntlArg::F_SETFL(mode));
}

/// Standard error; what is written while the terminal shows the view waits until it does not, unless it goes elsewhere.
#[derive(Debug)]
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if TAKEN.load(Ordering::SeqCst) && io::stderr().is_terminal() {
            let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_HELD.saturating_sub(held.len()).min(text.len());
            held.extend_from_slice(&text[..room]);
            return Ok(text.len());
        }
        io::stderr().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
