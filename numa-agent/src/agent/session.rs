//! A recording session: the agent's loop, which changes nothing and ends by itself.

use std::{
    future::poll_fn,
    os::unix::net::UnixStream,
    pin::Pin,
    process::ExitStatus,
    sync::mpsc::sync_channel,
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Agent, LineFormat, Options, Signals, Socket, inputs::Alarm, measuring::read_memory, viewers::Door,
};
use crate::{
    core::{jitter::recording::Recording, task::TaskId},
    host::sys::{self, Gated, Signal},
};

/// What is recorded, and for how long.
pub struct Session {
    /// The most time.
    pub duration: Option<Duration>,
    /// It ends when these processes have, if there are any.
    pub processes: Vec<TaskId>,
    /// A command, let run once it is followed; the recording ends when it does.
    pub command: Option<Gated>,
    /// Read where the processes' memory is.
    pub numa_maps: bool,
    /// Told that it has begun, and then, after each interval, how it goes.
    pub progress: Box<dyn FnMut(Progress<'_>)>,
    /// Given what was recorded, as soon as it is.
    pub write: Box<dyn FnOnce(Recording) -> anyhow::Result<()> + Send>,
}

/// How a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// From now on all is recorded; a command has not been let run yet.
    Begun,
    /// An interval is over.
    Interval(&'a str),
}

/// The part of a session that the loop looks at.
pub(super) struct Watched {
    end: Option<Instant>,
    alarm: Alarm,
    processes: Vec<TaskId>,
    command: Option<Command>,
    progress: Box<dyn FnMut(Progress<'_>)>,
    /// A signal that asked for the end was passed on to the command.
    asked: bool,
}

/// There is no such program, or it cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}: {error}")]
pub struct CannotRun {
    program: String,
    error: std::io::Error,
}

/// A command that runs.
pub(super) struct Command {
    pid: u32,
    ended: oneshot::Receiver<std::io::Result<ExitStatus>>,
    status: Option<ExitStatus>,
}

/// Records; the command's exit status, if there was one and it has ended. The recording is handed over before a command that
/// outlives it has ended.
///
/// # Errors
/// If it cannot start, or the recording cannot be written.
pub fn record(options: Options, session: Session) -> anyhow::Result<Option<ExitStatus>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new().context("signal handlers")?;
        let Session { duration, processes, command, numa_maps, mut progress, write } = session;
        let mut agent = Agent::start(options, None)?;
        anyhow::ensure!(
            agent.executor.marks.programs.health().has("switch"),
            "the kernel does not take the program `switch`, without which nothing is measured; see `numa-agent doctor`"
        );
        progress(Progress::Begun);
        let command = command.map(Command::start).transpose()?;
        if agent.options.jitter.processes.is_some() && numa_maps && command.is_none() {
            let leaders = agent.engine.processes().map(|process| process.facts.id()).collect();
            agent.memory = Some(read_memory(leaders));
        }
        let end = duration.map(|duration| Instant::now() + duration);
        agent.session = Some(Watched::new(end, processes, command, progress));
        agent.turn(&mut signals).await?;
        let draft = agent.conclude();
        let mut frame = agent.frame();
        if let Some(tapped) = agent.tapped.take() {
            let (connections, lost) = tapped.finish();
            frame.connections = connections;
            frame.run.lost.extend(lost);
        }
        let living = if numa_maps { draft.living() } else { Vec::new() };
        let memory = read_memory(living).await.context("memory of processes")??;
        frame.memory = memory.into_iter().map(|(process, memory)| (process, memory.nodes)).collect();
        tokio::task::spawn_blocking(move || write(draft.recording(frame))).await.context("recording")??;
        match agent.session.take().and_then(|session| session.command) {
            Some(command) => command.see_off(&mut signals).await,
            None => Ok(None),
        }
    });
    runtime.shutdown_background();
    result
}

/// Observes on threads of its own, and changes nothing; gives the near end of a connection, on which to ask as on the socket
/// (`host::client::ask`). The observer ends when that is closed, and closes it when a signal ends it.
///
/// # Errors
/// If it cannot start.
pub fn observe(options: Options) -> anyhow::Result<UnixStream> {
    let (near, far) = UnixStream::pair().context("a connection to the observer")?;
    let (told, started) = sync_channel(1);
    let options = Options { dry_run: true, format: LineFormat::Silent, socket: Socket::None, ..options };
    let begun = told.clone();
    let observe = move || -> anyhow::Result<()> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
        let result = runtime.block_on(async {
            let mut signals = Signals::new().context("signal handlers")?;
            let mut agent = Agent::start(options, Some(Door::One(far)))?;
            agent.session = Some(Watched::endless());
            // The caller waits for it.
            let _ = begun.send(Ok(()));
            agent.turn(&mut signals).await
        });
        runtime.shutdown_background();
        result
    };
    let thread = std::thread::Builder::new().name("observer".to_owned());
    thread.spawn(move || {
        if let Err(error) = observe() {
            tracing::debug!("the observer ends: {error:#}");
            // Once it has begun, the end of the connection says it.
            let _ = told.try_send(Err(error));
        }
    })?;
    started.recv().context("the observer's start")??;
    Ok(near)
}

impl Watched {
    /// Until nobody looks on any more.
    fn endless() -> Self {
        Self::new(None, Vec::new(), None, Box::new(|_| {}))
    }

    fn new(
        end: Option<Instant>,
        processes: Vec<TaskId>,
        command: Option<Command>,
        progress: Box<dyn FnMut(Progress<'_>)>,
    ) -> Self {
        Self { end, alarm: Alarm::default(), processes, command, progress, asked: false }
    }

    /// Until the command has ended, or the time is over; for ever pending without them.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let command = self.command.as_mut().map_or(Poll::Pending, |command| command.poll_end(context));
        if command.is_ready() { command } else { self.alarm.poll(self.end, context) }
    }
}

impl Command {
    fn start(gated: Gated) -> anyhow::Result<Self> {
        let pid = gated.pid;
        let program = gated.program.clone();
        let mut child = gated.open().map_err(|error| CannotRun { program, error })?;
        let (told, ended) = oneshot::channel();
        std::thread::spawn(move || told.send(child.wait()));
        Ok(Self { pid, ended, status: None })
    }

    /// Until its end; for ever once it has been seen.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.status.is_some() {
            return Poll::Pending;
        }
        self.status = ready!(Pin::new(&mut self.ended).poll(context)).ok().and_then(Result::ok);
        Poll::Ready(())
    }

    /// Passes a signal on, unless the terminal has sent it to the command too.
    fn pass_on(&self, signal: Signal) {
        let from_keys = matches!(signal, Signal::SIGINT | Signal::SIGHUP) && sys::is_in_foreground();
        if self.status.is_none() && !from_keys {
            // It may end this moment.
            let _ = sys::send_signal(self.pid, signal);
        }
    }

    /// Once all is written, the command has its time.
    async fn see_off(mut self, signals: &mut Signals) -> anyhow::Result<Option<ExitStatus>> {
        let mut asked = false;
        while self.status.is_none() {
            let signal = poll_fn(|context| match self.poll_end(context) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => signals.poll_end(context).map(Some),
            });
            match signal.await {
                Some(signal) if !asked => self.pass_on(signal),
                _ => break,
            }
            asked = true;
        }
        Ok(self.status)
    }
}

impl Agent {
    /// Whether a signal ends it. With a command, the first is the command's, and the second ends the recording.
    pub(super) fn ends_by(&mut self, signal: Signal) -> bool {
        let Some(session) = &mut self.session else { return true };
        let Some(command) = session.command.as_ref().filter(|_| !session.asked) else { return true };
        command.pass_on(signal);
        session.asked = true;
        false
    }

    /// Whether all that is recorded has ended.
    pub(super) fn is_over(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let lives =
            |id: &TaskId| self.engine.process(id.tid).is_some_and(|process| process.facts.id() == *id);
        !session.processes.is_empty() && !session.processes.iter().any(lives)
    }

    pub(super) fn progress(&mut self) {
        let text = self.progress_text();
        if let Some(session) = &mut self.session {
            (session.progress)(Progress::Interval(&text));
        }
    }
}
