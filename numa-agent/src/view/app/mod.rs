//! What is shown, as a value: keys and lines change it, drawing reads it. No I/O; the time is a parameter.

pub mod data;
pub mod feed;
pub mod filter;
pub mod sort;

use ratatui::crossterm::event::KeyEvent;

use self::{
    data::Data,
    feed::{Entry, Kind},
    filter::{Filter, Of},
    sort::Sort,
};
use super::keys::{self, Action};
use crate::core::{
    task::TaskId,
    view::{Line, Node, Snapshot, Socket, Thread},
};

/// Lengths of intervals that keys lead through, in milliseconds.
pub const INTERVALS_MS: [u64; 8] = [200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// For so many intervals after the last move between nodes there is room for them also where there is little.
const MOVES_STAY: u64 = 60;

/// When something came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some point in time.
    pub ms: u64,
    /// Hours, minutes and seconds of the day, UTC.
    pub clock: String,
}

/// What comes in.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A key.
    Key(KeyEvent),
    /// The terminal has so many columns and rows.
    Size(u16, u16),
    /// From the agent, or from programs of our own.
    Line(Box<Line>),
    /// Where lines come from has changed.
    Link(Link),
    /// Time has passed.
    Tick,
}

/// What is to be done outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The view is over.
    Quit,
    /// Ask for snapshots so many milliseconds apart.
    Interval(u64),
    /// Give the terminal back and stop, until the shell brings us to the foreground.
    Suspend,
    /// Draw everything anew: something else wrote to the terminal.
    Redraw,
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// None has come yet.
    Connecting,
    /// The running agent.
    Agent,
    /// Programs of our own: there was no agent on this path.
    Own(String),
    /// The agent went away, or never was there; it is tried again.
    Lost(String),
    /// The agent is there, and does not answer.
    Silent(String),
}

/// The panels, in the order that Tab leads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Panel {
    /// Sockets and nodes.
    Nodes,
    /// Moves between them.
    Moves,
    /// The table of threads.
    #[default]
    Threads,
    /// What happened.
    Events,
}

impl Panel {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nodes, Self::Moves, Self::Threads, Self::Events];

    fn turned(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|panel| *panel == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// What covers the panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// One thread.
    Thread(TaskId),
    /// Keys and marks.
    Help,
}

/// The view.
#[derive(Debug, Clone)]
pub struct App {
    live: Data,
    /// What is shown while paused.
    frozen: Option<Box<Data>>,
    /// Where lines come from.
    pub link: Link,
    /// Since when, in [`Now::ms`].
    pub link_since_ms: u64,
    /// When the last line came, in the same time.
    heard_ms: u64,
    /// The time of the last input.
    pub now: Now,
    /// Milliseconds between snapshots.
    pub interval_ms: u64,
    /// Columns and rows.
    pub size: (u16, u16),
    /// The panel that keys go to.
    pub focus: Panel,
    /// Whether it has all the room.
    pub zoomed: bool,
    /// What covers the panels, the last one on top.
    pub pages: Vec<Page>,
    /// How far the page on top is scrolled, in lines.
    pub scroll: usize,
    /// Which threads are listed.
    pub filter: Filter,
    /// Which events are.
    pub event_filter: Filter,
    /// A filter being typed: of events while keys go to them, else of threads.
    pub typing: Option<String>,
    /// In which order.
    pub sort: Sort,
    /// First of the columns behind the names.
    pub column: usize,
    /// The row that the cursor is on where its thread is gone.
    row: usize,
    selected: Option<TaskId>,
    /// The node that the cursor is on, as an index.
    pub node: usize,
    /// How many events the feed is scrolled back.
    pub back: usize,
}

impl App {
    /// A view without data.
    #[must_use]
    pub fn new(interval_ms: u64) -> Self {
        Self {
            live: Data::default(),
            frozen: None,
            link: Link::Connecting,
            link_since_ms: 0,
            heard_ms: 0,
            now: Now::default(),
            interval_ms,
            size: (0, 0),
            focus: Panel::default(),
            zoomed: false,
            pages: Vec::new(),
            scroll: 0,
            filter: Filter::default(),
            event_filter: Filter::default(),
            typing: None,
            sort: Sort::default(),
            column: 0,
            row: 0,
            selected: None,
            node: 0,
            back: 0,
        }
    }

    /// What is shown.
    #[must_use]
    pub fn data(&self) -> &Data {
        self.frozen.as_deref().unwrap_or(&self.live)
    }

    /// Whether the view stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// The snapshot shown.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.data().snapshot.as_deref()
    }

    /// Sockets with each of their nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&Socket, &Node)> {
        let sockets = self.snapshot().map_or(&[][..], |snapshot| &snapshot.status.sockets);
        sockets.iter().flat_map(|socket| socket.nodes.iter().map(move |node| (socket, node)))
    }

    /// The threads of the table in its order.
    #[must_use]
    pub fn rows(&self) -> Vec<&Thread> {
        let Some(snapshot) = self.snapshot() else { return Vec::new() };
        let mut rows: Vec<_> = snapshot.threads.iter().filter(|thread| self.filter.matches(thread)).collect();
        self.sort.apply(&mut rows);
        rows
    }

    /// The events of the feed, newest first.
    pub fn events(&self) -> impl Iterator<Item = &Entry> {
        self.data().feed.iter().filter(|entry| self.event_filter.matches_event(entry))
    }

    /// The filter that is typed, or would be.
    #[must_use]
    pub fn focused_filter(&self) -> &Filter {
        if self.focus == Panel::Events { &self.event_filter } else { &self.filter }
    }

    /// Whether moves between nodes are worth room that others could use.
    #[must_use]
    pub fn has_moves(&self) -> bool {
        let data = self.data();
        self.focus == Panel::Moves || data.moved.is_some_and(|at| data.intervals - at < MOVES_STAY)
    }

    /// The row that the cursor is on.
    #[must_use]
    pub fn cursor(&self, rows: &[&Thread]) -> usize {
        let found = self.selected.and_then(|task| rows.iter().position(|thread| id(thread) == task));
        found.unwrap_or(self.row).min(rows.len().saturating_sub(1))
    }

    /// For how many milliseconds nothing has come, where something should have: three intervals, and at least a second.
    #[must_use]
    pub fn silent_ms(&self) -> Option<u64> {
        let silent = self.now.ms.saturating_sub(self.heard_ms);
        let late = silent > self.interval_ms.saturating_mul(3).max(1_000) && self.data().intervals > 0;
        (late || matches!(self.link, Link::Silent(_))).then_some(silent)
    }

    /// Takes something in.
    pub fn take(&mut self, input: Input, now: &Now) -> Option<Effect> {
        self.now.clone_from(now);
        match input {
            Input::Key(key) => return self.key(key),
            Input::Size(columns, rows) => {
                self.size = (columns, rows);
                self.column = self.column.min(super::draw::threads::last_column(self));
            }
            Input::Line(line) => {
                self.heard_ms = now.ms;
                drop(self.live.take(*line, &now.clock));
            }
            Input::Link(link) => self.relink(link),
            Input::Tick => {}
        }
        None
    }

    fn relink(&mut self, link: Link) {
        if link == Link::Agent && self.link != Link::Agent {
            // It has had no time to say anything.
            self.heard_ms = self.now.ms;
        }
        if std::mem::discriminant(&link) != std::mem::discriminant(&self.link) {
            self.link_since_ms = self.now.ms;
            let text = match &link {
                Link::Connecting => None,
                Link::Agent => Some("connected to the agent".to_owned()),
                Link::Own(path) => Some(format!("no agent on {path}: observing with programs of our own")),
                Link::Lost(why) => Some(format!("no agent: {why}")),
                Link::Silent(why) => Some(why.clone()),
            };
            if let Some(text) = text {
                self.live.feed.push(Entry::new(&self.now.clock, Kind::Agent, None, text));
            }
        }
        self.link = link;
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        if let Some(text) = &mut self.typing {
            return match keys::typed(key)? {
                keys::Typed::Quit => Some(Effect::Quit),
                keys::Typed::Char(c) => {
                    // Longer ones match no name.
                    if text.chars().count() < 256 {
                        text.push(c);
                    }
                    self.filter_by_typing()
                }
                keys::Typed::Erase => {
                    text.pop();
                    self.filter_by_typing()
                }
                keys::Typed::Clear => {
                    text.clear();
                    self.filter_by_typing()
                }
                keys::Typed::Accept => {
                    self.typing = None;
                    None
                }
                keys::Typed::Cancel => {
                    text.clear();
                    self.filter_by_typing();
                    self.typing = None;
                    None
                }
            };
        }
        self.act(keys::action(key)?)
    }

    fn filter_by_typing(&mut self) -> Option<Effect> {
        let text = self.typing.clone().unwrap_or_default();
        self.set_filter(&text);
        None
    }

    fn set_filter(&mut self, text: &str) {
        if self.focus == Panel::Events {
            self.event_filter = Filter::new(text, Of::Events);
            self.back = 0;
        } else {
            self.filter = Filter::new(text, Of::Threads);
        }
    }

    fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Faster => return self.pace(|now| INTERVALS_MS.into_iter().rev().find(|ms| *ms < now)),
            Action::Slower => return self.pace(|now| INTERVALS_MS.into_iter().find(|ms| *ms > now)),
            Action::Pause => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Box::new(self.live.clone())),
                }
            }
            Action::Help => match self.pages.last() {
                Some(Page::Help) => self.close(),
                _ => self.show(Page::Help),
            },
            Action::Back => self.leave(),
            Action::Open => self.open(),
            Action::Filter => {
                self.pages.clear();
                self.typing = Some(self.focused_filter().text().to_owned());
            }
            Action::SortNext => self.sort = self.sort.turned(1),
            Action::SortPrevious => self.sort = self.sort.turned(-1),
            Action::Reverse => self.sort.reversed = !self.sort.reversed,
            Action::NextPanel => self.focus = self.focus.turned(1),
            Action::PreviousPanel => self.focus = self.focus.turned(3),
            Action::Zoom => self.zoomed = !self.zoomed,
            Action::Left => self.column = self.column.saturating_sub(1),
            Action::Right => self.column = (self.column + 1).min(super::draw::threads::last_column(self)),
            Action::Up => self.go(-1),
            Action::Down => self.go(1),
            Action::PageUp => self.go(-self.page()),
            Action::PageDown => self.go(self.page()),
            Action::Top => self.go(isize::MIN),
            Action::Bottom => self.go(isize::MAX),
        }
        None
    }

    fn pace(&mut self, next: impl Fn(u64) -> Option<u64>) -> Option<Effect> {
        self.interval_ms = next(self.interval_ms)?;
        Some(Effect::Interval(self.interval_ms))
    }

    fn page(&self) -> isize {
        isize::try_from(self.size.1 / 2).unwrap_or(1).max(1)
    }

    fn show(&mut self, page: Page) {
        self.pages.push(page);
        self.scroll = 0;
    }

    fn close(&mut self) {
        self.pages.pop();
        self.scroll = 0;
    }

    /// Out of the page on top, the zoom, the panel's filter: one at a time.
    fn leave(&mut self) {
        if !self.pages.is_empty() {
            self.close();
        } else if self.zoomed {
            self.zoomed = false;
        } else {
            self.set_filter("");
        }
    }

    fn open(&mut self) {
        match (self.pages.last(), self.focus) {
            (Some(Page::Help), _) => self.close(),
            (Some(Page::Thread(_)), _) => {}
            (None, Panel::Threads) => {
                let rows = self.rows();
                if let Some(task) = rows.get(self.cursor(&rows)).map(|thread| id(thread)) {
                    self.selected = Some(task);
                    self.show(Page::Thread(task));
                }
            }
            (None, Panel::Nodes) => {
                let node = self.nodes().nth(self.node).map(|(_, node)| node.id);
                if let Some(node) = node {
                    (self.focus, self.zoomed) = (Panel::Threads, false);
                    self.set_filter(&format!("node:{node}"));
                }
            }
            (None, Panel::Moves) => self.zoomed = !self.zoomed,
            (None, Panel::Events) => {
                let task = self.events().nth(self.back).and_then(|entry| entry.task);
                if let Some(task) = task {
                    self.show(Page::Thread(task));
                }
            }
        }
    }

    fn go(&mut self, by: isize) {
        let moved = |at: usize, last: usize| at.saturating_add_signed(by).min(last);
        if !self.pages.is_empty() {
            // What is too far is drawn as far as there is something.
            self.scroll = moved(self.scroll, super::draw::last_scroll(self));
            return;
        }
        match self.focus {
            Panel::Threads => {
                let rows = self.rows();
                let at = moved(self.cursor(&rows), rows.len().saturating_sub(1));
                let selected = rows.get(at).map(|thread| id(thread));
                (self.row, self.selected) = (at, selected);
            }
            Panel::Nodes => self.node = moved(self.node, self.nodes().count().saturating_sub(1)),
            Panel::Moves => {}
            // The newest are at the top.
            Panel::Events => self.back = moved(self.back, self.events().count().saturating_sub(1)),
        }
    }
}

/// A thread for life.
#[must_use]
pub fn id(thread: &Thread) -> TaskId {
    TaskId { tid: thread.tid, start_time: thread.start_time }
}
