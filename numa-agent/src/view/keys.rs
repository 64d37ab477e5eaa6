//! What keys do: one table, which the help is drawn from.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To end.
    Quit,
    /// Keys and marks.
    Help,
    /// The view stands, or goes on.
    Pause,
    /// To type a filter.
    Filter,
    /// Another order.
    SortNext,
    /// The order before.
    SortPrevious,
    /// The other way round.
    Reverse,
    /// Into what the cursor is on.
    Open,
    /// Out of it.
    Back,
    /// The cursor goes up.
    Up,
    /// Down.
    Down,
    /// Half a screen up.
    PageUp,
    /// Half a screen down.
    PageDown,
    /// To the first.
    Top,
    /// To the last.
    Bottom,
    /// Columns before.
    Left,
    /// More columns.
    Right,
    /// The next panel.
    NextPanel,
    /// The panel before.
    PreviousPanel,
    /// The panel alone, or all again.
    Zoom,
    /// Shorter intervals.
    Faster,
    /// Longer intervals.
    Slower,
    /// Everything anew.
    Redraw,
    /// Into the background.
    Suspend,
}

/// Keys that do the same.
#[derive(Debug)]
pub struct Binding {
    /// The keys, in the order of the help.
    pub keys: &'static [Key],
    /// What they do.
    pub action: Action,
    /// In the help.
    pub help: &'static str,
    /// In the last line, where there is room; in order of the table.
    pub hint: Option<&'static str>,
}

/// One key, pressed with ctrl or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Which one.
    pub code: KeyCode,
    /// Whether with ctrl.
    pub ctrl: bool,
}

const fn key(code: KeyCode) -> Key {
    Key { code, ctrl: false }
}

const fn letter(c: char) -> Key {
    key(KeyCode::Char(c))
}

const fn ctrl(c: char) -> Key {
    Key { code: KeyCode::Char(c), ctrl: true }
}

const fn bound(
    keys: &'static [Key],
    action: Action,
    help: &'static str,
    hint: Option<&'static str>,
) -> Binding {
    Binding { keys, action, help, hint }
}

/// The keymap.
pub const BINDINGS: &[Binding] = &[
    bound(&[letter('q'), ctrl('c')], Action::Quit, "quit", Some("quit")),
    bound(&[letter('?'), letter('h'), key(KeyCode::F(1))], Action::Help, "this help, and back", Some("help")),
    bound(
        &[letter(' '), letter('p')],
        Action::Pause,
        "pause: the view stands, data is still taken in",
        Some("pause"),
    ),
    bound(
        &[letter('/'), letter('f')],
        Action::Filter,
        "filter threads, or in their panel events: words, node:3, kind:moved",
        Some("filter"),
    ),
    bound(&[letter('s'), letter('>')], Action::SortNext, "sort by the next column", Some("sort")),
    bound(&[letter('S'), letter('<')], Action::SortPrevious, "sort by the one before", None),
    bound(&[letter('r')], Action::Reverse, "sort the other way round", None),
    bound(
        &[key(KeyCode::Enter)],
        Action::Open,
        "open a thread, an event's thread, a node's threads",
        Some("open"),
    ),
    bound(
        &[key(KeyCode::Esc), key(KeyCode::Backspace)],
        Action::Back,
        "back; out of a panel alone; no filter",
        Some("back"),
    ),
    bound(&[key(KeyCode::Tab)], Action::NextPanel, "next panel", Some("panel")),
    bound(&[key(KeyCode::BackTab)], Action::PreviousPanel, "panel before", None),
    bound(&[letter('z')], Action::Zoom, "this panel alone, and back", Some("alone")),
    bound(&[key(KeyCode::Up), letter('k')], Action::Up, "up", None),
    bound(&[key(KeyCode::Down), letter('j')], Action::Down, "down", None),
    bound(&[key(KeyCode::PageUp), ctrl('u')], Action::PageUp, "half a screen up", None),
    bound(&[key(KeyCode::PageDown), ctrl('d')], Action::PageDown, "half a screen down", None),
    bound(&[key(KeyCode::Home), letter('g')], Action::Top, "first", None),
    bound(&[key(KeyCode::End), letter('G')], Action::Bottom, "last", None),
    bound(&[key(KeyCode::Right), letter('l')], Action::Right, "columns further right", None),
    bound(&[key(KeyCode::Left)], Action::Left, "columns further left", None),
    bound(&[letter('+'), letter('=')], Action::Faster, "faster: shorter intervals", Some("faster")),
    bound(&[letter('-')], Action::Slower, "slower: longer intervals", Some("slower")),
    bound(&[ctrl('l')], Action::Redraw, "draw anew", None),
    bound(&[ctrl('z')], Action::Suspend, "into the background; fg brings it back", None),
];

/// What a key does outside of typing.
#[must_use]
pub fn action(event: KeyEvent) -> Option<Action> {
    let pressed = pressed(event)?;
    BINDINGS.iter().find(|binding| binding.keys.contains(&pressed)).map(|binding| binding.action)
}

/// What a key does to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// A character more.
    Char(char),
    /// One less.
    Erase,
    /// None left.
    Clear,
    /// Done.
    Accept,
    /// Not at all.
    Cancel,
    /// To end.
    Quit,
}

/// What a key does while a text is typed.
#[must_use]
pub fn typed(event: KeyEvent) -> Option<Typed> {
    let Key { code, ctrl } = pressed(event)?;
    Some(match code {
        KeyCode::Char('c') if ctrl => Typed::Quit,
        KeyCode::Char('u') if ctrl => Typed::Clear,
        KeyCode::Char('h') if ctrl => Typed::Erase,
        KeyCode::Char(c) if !ctrl => Typed::Char(c),
        KeyCode::Backspace => Typed::Erase,
        KeyCode::Enter => Typed::Accept,
        KeyCode::Esc => Typed::Cancel,
        _ => return None,
    })
}

fn pressed(event: KeyEvent) -> Option<Key> {
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    (event.kind != KeyEventKind::Release && !event.modifiers.contains(KeyModifiers::ALT))
        .then_some(Key { code: event.code, ctrl })
}

impl Key {
    /// As people call it.
    #[must_use]
    pub fn name(self) -> String {
        let code = match self.code {
            KeyCode::Char(' ') => "space".to_owned(),
            KeyCode::Char(c) => c.to_string(),
            KeyCode::Enter => "enter".to_owned(),
            KeyCode::Esc => "esc".to_owned(),
            KeyCode::Backspace => "backspace".to_owned(),
            KeyCode::Tab => "tab".to_owned(),
            KeyCode::BackTab => "shift-tab".to_owned(),
            KeyCode::Up => "↑".to_owned(),
            KeyCode::Down => "↓".to_owned(),
            KeyCode::Left => "←".to_owned(),
            KeyCode::Right => "→".to_owned(),
            KeyCode::PageUp => "pgup".to_owned(),
            KeyCode::PageDown => "pgdn".to_owned(),
            KeyCode::Home => "home".to_owned(),
            KeyCode::End => "end".to_owned(),
            KeyCode::F(number) => format!("f{number}"),
            _ => "?".to_owned(),
        };
        if self.ctrl { format!("ctrl-{code}") } else { code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things_and_all_have_names() {
        let keys: Vec<Key> = BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{}", key.name());
            assert_ne!(key.name(), "?!");
        }
        for (index, binding) in BINDINGS.iter().enumerate() {
            assert!(BINDINGS[..index].iter().all(|other| other.action != binding.action), "{binding:?}");
        }
    }

    #[test]
    fn keys_that_are_released_do_nothing() {
        let mut event = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        assert_eq!(action(event), Some(Action::Quit));
        event.kind = KeyEventKind::Release;
        assert_eq!(action(event), None);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!((action(ctrl_c), typed(ctrl_c)), (Some(Action::Quit), Some(Typed::Quit)));
        assert_eq!(action(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT)), None);
    }
}
