//! `numa-agent watch`.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{UsageError, machine::MachineArgs, plan_args::PlanArgs};
use crate::{
    agent::{self, Jitter, LineFormat, LineQueue, Socket},
    core::{
        jitter::observer::Limits,
        view::{self, FASTEST_MS, Line, Request, SLOWEST_MS},
    },
    host::{
        client::{self, ClientError, Lines, Peer},
        sys,
    },
    report::escape,
    view::{
        app::{
            App, Link,
            filter::{Filter, Of},
        },
        draw::{LEAST, Look},
        lines::Writer,
        once, session, signals,
        source::{Broken, Connect, Connection, Gone, News, Source},
    },
};

/// Where the interval is longer, a screen has its first figures after this time.
const EARLY_MS: u64 = 1_000;
/// Nothing is kept of an interval once it is over: the view keeps what it shows.
const LIMITS: Limits = Limits { ended: 64, intervals: 64 };
/// Time between full scans of programs of our own.
const RECONCILE: Duration = Duration::from_secs(30);
/// Lines that wait for a slow reader of standard output; beyond that the agent leaves events out.
const QUEUE: usize = 256;

/// Flags of `watch`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
On a terminal: a screen of at least 80 x 24; ? shows the keys, q ends it. Elsewhere, or with --format text: a line for each event. With
--json: each line of the agent as it comes, one JSON object a line with its kind (status, snapshot, event, missed); with --once --json: one
snapshot, the same object, over several lines.

Watches the running agent. Where there is none, and a configuration or other flags of the plan say what to manage, it loads
kernel programs of its own (root) and observes, until an agent comes; nothing is changed.

Exit status: 0; 1 if there is nothing to watch, or it cannot be; 2 bad usage.")]
pub struct WatchArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = view::SOCKET)]
    socket: PathBuf,
    /// Time between snapshots, from 200ms to 1h.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// One snapshot after one interval, and the end.
    #[arg(long)]
    once: bool,
    /// text, json, or with --once svg: a picture of the screen.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// The picture's columns and rows; with --once --format svg only. [default: 120x40]
    #[arg(long, value_name = "COLSxROWS", value_parser = size)]
    size: Option<(u16, u16)>,
    /// Only such events, in lines and on the screen: words that all have to be found, kind:re-pin, group:s0.g1, tid:47 and so on.
    #[arg(long, value_name = "FILTER", conflicts_with_all = ["json", "once"])]
    events: Option<String>,
    /// How many threads can be measured at once by programs of our own. Default: 64 for each CPU, at least 4096.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_threads: Option<u32>,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Svg,
}

/// Of a picture.
const SIZE: (u16, u16) = (120, 40);

/// What is made of what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Screen,
    Lines { json: bool },
    Once(Format),
}

/// Watches; `messages` go to standard error.
pub fn run(args: WatchArgs, messages: LineQueue) -> anyhow::Result<()> {
    let format = if args.json { Some(Format::Json) } else { args.format };
    let (terminal, term) = (io::stdout().is_terminal(), env_text("TERM"));
    let can_draw = term.as_ref().is_some_and(|term| term != "dumb");
    let mode = mode(args.once, format, terminal && can_draw)?;
    if args.size.is_some() && mode != Mode::Once(Format::Svg) {
        return Err(UsageError("--size is that of a picture: add --once --format svg".to_owned()).into());
    }
    let events = events(args.events.as_deref().unwrap_or_default(), mode)?;
    if terminal && !can_draw && format.is_none() && !args.once {
        let term = term.map_or_else(|| "not set".to_owned(), |term| escape::text(&term));
        messages.line(format!("numa-agent: TERM is {term}: a line for each event instead of a screen"));
    }
    let args = Arc::new(args);
    let source = source(&args, &messages, mode)?;
    match mode {
        Mode::Screen => {
            let mut app = App::new(source.interval_ms);
            app.event_filter = events;
            Ok(session::run(app, source, look())?)
        }
        Mode::Lines { json } => write_lines(source, json, events),
        Mode::Once(format) => write_once(source, format, args.size.unwrap_or(SIZE)),
    }
}

fn events(text: &str, mode: Mode) -> Result<Filter, UsageError> {
    let filter = Filter::new(text, Of::Events);
    match filter.problem() {
        Some(problem) => Err(UsageError(format!("--events: {problem}"))),
        // `--json` is turned away before; so is what means the same.
        None if !filter.is_empty() && mode == (Mode::Lines { json: true }) => Err(UsageError(
            "--events is for lines and the screen; JSON is filtered by jq and the like".to_owned(),
        )),
        None => Ok(filter),
    }
}

fn mode(once: bool, format: Option<Format>, terminal: bool) -> Result<Mode, UsageError> {
    match (once, format) {
        (true, format) => Ok(Mode::Once(format.unwrap_or(Format::Text))),
        (false, Some(Format::Svg)) => {
            Err(UsageError("--format svg is a picture of one moment: add --once".to_owned()))
        }
        (false, None) if terminal => Ok(Mode::Screen),
        (false, format) => Ok(Mode::Lines { json: format == Some(Format::Json) }),
    }
}

/// A variable of the environment, if it has a value.
fn env_text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// As the environment says: `NO_COLOR`, and a locale that has no more than ASCII.
fn look() -> Look {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(env_text).unwrap_or_default();
    Look { colour: env_text("NO_COLOR").is_none(), unicode: is_unicode(&locale) }
}

fn is_unicode(locale: &str) -> bool {
    let locale = locale.to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval =
        humantime::parse_duration(text).map_err(|error| format!("{error}; like 500ms, 2s or 1m"))?;
    let limits = u128::from(FASTEST_MS)..=u128::from(SLOWEST_MS);
    if limits.contains(&interval.as_millis()) { Ok(interval) } else { Err("from 200ms to 1h".to_owned()) }
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let numbers = text.split_once(['x', 'X']).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (columns, rows) = numbers.ok_or("like 120x40")?;
    if columns < LEAST.0 || rows < LEAST.1 || columns > 500 || rows > 300 {
        return Err(format!("from {}x{} to 500x300", LEAST.0, LEAST.1));
    }
    Ok((columns, rows))
}

/// The running agent; without one, programs of our own where the flags say whom to observe.
fn source(args: &Arc<WatchArgs>, messages: &LineQueue, mode: Mode) -> anyhow::Result<Source> {
    let interval_ms = u64::try_from(args.interval.as_millis())?;
    let first_ms = first_ms(mode, interval_ms);
    let path = args.socket.clone();
    let connect: Connect = Box::new(move |interval_ms| {
        let lines = client::connect(&path, Request::Watch { interval_ms });
        lines.and_then(connection).map_err(|error| error.to_string())
    });
    let (first, leads_to) = match client::connect(&args.socket, Request::Watch { interval_ms: first_ms }) {
        Ok(lines) => (connection(lines)?, Link::Agent),
        Err(ClientError::NoAgent(path)) if args.plan.names_processes() => {
            (observe(args, messages, first_ms)?, Link::Own(path.display().to_string()))
        }
        Err(error @ ClientError::NoAgent(_)) => anyhow::bail!(
            "{error}; or give --config FILE (or other flags of the plan), and watch observes by itself, as root"
        ),
        Err(error) => return Err(error.into()),
    };
    Ok(Source { first, leads_to, first_ms, interval_ms, connect })
}

/// Milliseconds until the first snapshot: nobody looks at an empty screen for a minute.
fn first_ms(mode: Mode, interval_ms: u64) -> u64 {
    if mode == Mode::Screen { interval_ms.min(EARLY_MS) } else { interval_ms }
}

/// Programs of our own, that change nothing.
fn observe(args: &Arc<WatchArgs>, messages: &LineQueue, interval_ms: u64) -> anyhow::Result<Connection> {
    let (outline, topology, settings) = (Arc::clone(args), Arc::clone(args), Arc::clone(args));
    let outline = outline.machine.outline();
    let options = agent::Options {
        socket: Socket::None,
        gives_up: false,
        real_time: false,
        metrics: None,
        dry_run: true,
        journal: None,
        restore_on_exit: false,
        format: LineFormat::Silent,
        messages: messages.clone(),
        reconcile: Some(RECONCILE),
        bpf_log: false,
        ring_bytes: None,
        max_accounts: args.max_threads,
        jitter: Jitter { interval: args.interval, limits: LIMITS, reports: None, processes: None, tap: None },
        outline: Box::new(outline),
        topology: Box::new(move || topology.machine.topology()),
        settings: Box::new(move || settings.plan.settings(None)),
    };
    let near = agent::observe(options)?;
    Ok(connection(client::ask(near, Peer::Ourselves, Request::Watch { interval_ms })?)?)
}

fn connection(lines: Lines) -> Result<Connection, ClientError> {
    let (pace, close) = (lines.pacer()?, lines.closer()?);
    let lines = lines.map(|line| {
        line.map_err(|error| match error.may_pass() {
            true => Broken::Silent(error.to_string()),
            false => Broken::Over(error.to_string()),
        })
    });
    Ok(Connection { lines: Box::new(lines), pace: Box::new(pace), close: Box::new(close) })
}

/// A line for each event, or each line as it came, until nobody reads them.
fn write_lines(source: Source, json: bool, events: Filter) -> anyhow::Result<()> {
    let (sender, news) = sync_channel(QUEUE);
    let signals = signals::watch(|| {}, Duration::ZERO, || std::process::exit(0))?;
    let _pacer = source.read(move |news| sender.send(news).map_err(|_| Gone))?;
    std::thread::spawn(end_with_the_reader);
    let (mut writer, mut out) = (Writer::new(events), io::stdout());
    for news in news {
        let at = sys::now_rfc3339();
        let text = match news {
            News::Over(_) if signals.end_soon() => return Ok(()),
            News::Over(why) => anyhow::bail!(why),
            News::Line(line) if json => printed(&line)?,
            News::Line(line) => writer.line(*line, &at),
            News::Link(link) => {
                let said = writer.link(link, &at).unwrap_or_default();
                if json {
                    // Standard output is for the agent's lines.
                    let _ = io::stderr().write_all(said.as_bytes());
                    continue;
                }
                said
            }
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has seen enough (`| head`) is no error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("standard output")?,
        }
    }
    Ok(())
}

/// Ends this process once nobody can read its standard output any more: there may be nothing to write for hours.
fn end_with_the_reader() {
    let out = io::stdout();
    // Errors and hang-ups are told unasked.
    let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
    while matches!(poll(&mut polled, PollTimeout::NONE), Ok(0) | Err(Errno::EINTR)) {}
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    if polled[0].revents().is_some_and(|told| told.intersects(gone)) {
        std::process::exit(0);
    }
}

fn printed(line: &Line) -> anyhow::Result<String> {
    Ok(escape::json(&serde_json::to_string(line)?) + "\n")
}

fn write_once(mut source: Source, format: Format, size: (u16, u16)) -> anyhow::Result<()> {
    let snapshot = loop {
        match source.first.lines.next() {
            Some(Ok(Line::Snapshot(snapshot))) => break snapshot,
            Some(Ok(_)) => {}
            Some(Err(Broken::Silent(why) | Broken::Over(why))) => anyhow::bail!(why),
            None => anyhow::bail!("the connection ended before the interval did"),
        }
    };
    super::print(&match format {
        Format::Text => once::text(&snapshot),
        Format::Json => json_text(&Line::Snapshot(snapshot))?,
        Format::Svg => {
            once::picture(vec![Line::Snapshot(snapshot)], source.leads_to, source.interval_ms, size)
        }
    })
}

fn json_text(snapshot: &Line) -> anyhow::Result<String> {
    Ok(escape::json(&serde_json::to_string_pretty(snapshot)?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_screen_and_everything_else_lines() {
        let lines = |json| Some(Mode::Lines { json });
        let mode = |once, format, terminal| mode(once, format, terminal).ok();
        assert_eq!(mode(false, None, true), Some(Mode::Screen));
        assert_eq!(mode(false, None, false), lines(false));
        assert_eq!(mode(false, Some(Format::Text), true), lines(false));
        assert_eq!(mode(false, Some(Format::Json), true), lines(true));
        assert_eq!(mode(true, None, true), Some(Mode::Once(Format::Text)));
        assert_eq!(mode(false, Some(Format::Svg), true), None);
    }

    #[test]
    fn a_filter_of_events_has_to_make_sense() {
        let lines = Mode::Lines { json: false };
        assert_eq!(events("kind:re-pin group:s0", lines).unwrap().text(), "kind:re-pin group:s0");
        assert!(events("kind:repined", lines).unwrap_err().to_string().contains("re-pin"));
        assert!(
            events("x", Mode::Lines { json: true }).is_err()
                && events("", Mode::Lines { json: true }).is_ok()
        );
    }

    #[test]
    fn a_screen_has_its_first_figures_early_and_all_else_is_as_long_as_asked() {
        assert_eq!([500, 1_000, 60_000].map(|ms| first_ms(Mode::Screen, ms)), [500, 1_000, 1_000]);
        for mode in [Mode::Lines { json: true }, Mode::Lines { json: false }, Mode::Once(Format::Json)] {
            assert_eq!(first_ms(mode, 60_000), 60_000);
        }
    }

    #[test]
    fn flags_have_limits() {
        assert_eq!(size("80x24"), Ok((80, 24)));
        for wrong in ["", "80", "80x", "79x24", "80x23", "-80x24", "501x24", "99999x99999"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(interval("200ms"), Ok(Duration::from_millis(200)));
        for wrong in ["", "199ms", "2h", "x"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn locales_say_whether_there_is_more_than_ascii() {
        assert!(["en_US.UTF-8", "C.UTF-8", "zh_CN.utf8"].into_iter().all(is_unicode));
        assert!(!["", "C", "POSIX", "en_US.ISO-8859-1", "zh_CN.GB18030"].into_iter().any(is_unicode));
    }
}
