//! A real terminal, of tmux, in which a shell runs what a test types: what shows in it, and whether it is as it was afterwards.
//!
//! Made for tests: what goes wrong is a panic that says what.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::eventually;

/// What the shell says when it is ready.
const PROMPT: &str = "ready>";

/// The terminal; it ends with the test.
#[derive(Debug)]
pub struct Terminal {
    dir: TempDir,
    /// The terminal's settings before anything ran.
    settings: String,
}

/// A terminal of so many columns and rows, or a visible `SKIP:` line where there is no tmux.
///
/// # Panics
/// If there is none and `NUMA_AGENT_FORBID_SKIP` is 1, or it does not start.
#[must_use]
pub fn terminal_or_skip(columns: u16, rows: u16) -> Option<Terminal> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("tmux").is_file()) {
        crate::skip("no tmux in PATH: `cargo xtask setup --tests` installs it");
        return None;
    }
    Some(Terminal::start(columns, rows))
}

impl Terminal {
    fn start(columns: u16, rows: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut terminal = Self { dir, settings: String::new() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        // bash has the job control that ctrl-z needs.
        let shell = format!("env -u NO_COLOR LC_ALL=C.UTF-8 PS1='{PROMPT} ' bash --norc --noprofile");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, &shell]);
        terminal.wait_for("the shell", |screen| screen.contains(PROMPT));
        terminal.settings = terminal.settings();
        terminal
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("tmux.sock")
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        // Not the one that the tests may run in.
        tmux.arg("-S").arg(self.socket()).args(args).env_remove("TMUX").stdin(Stdio::null());
        let output = tmux.output().expect("tmux starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What shows.
    ///
    /// # Panics
    /// If tmux has ended.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The colours of what shows, as the numbers that select them (ECMA-48 SGR): none where it has none. Bold, dim, underlined and
    /// reverse are no colours.
    ///
    /// # Panics
    /// If tmux has ended.
    #[must_use]
    pub fn colours(&self) -> BTreeSet<u32> {
        let styled = self.tmux(&["capture-pane", "-p", "-e"]);
        let sequences = styled.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        let numbers =
            sequences.flat_map(|(numbers, _)| numbers.split(';').filter_map(|one| one.parse().ok()));
        numbers.filter(|number| matches!(number, 30..=38 | 40..=48 | 90..=107)).collect()
    }

    /// Waits until what shows is as wanted.
    ///
    /// # Panics
    /// If it is not in time.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(|| {
            let screen = self.screen();
            if wanted(&screen) { Ok(screen) } else { Err(format!("no {what} in\n{screen}")) }
        })
    }

    /// Waits until `text` shows.
    ///
    /// # Panics
    /// If it does not in time.
    pub fn wait_for_text(&self, text: &str) -> String {
        self.wait_for(text, |screen| screen.contains(text))
    }

    /// Types text as it is.
    ///
    /// # Panics
    /// If tmux has ended.
    pub fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Presses keys by tmux's names, such as `Enter`, `C-z`, `Down`.
    ///
    /// # Panics
    /// If tmux has ended.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Has the shell run a command.
    ///
    /// # Panics
    /// If tmux has ended.
    pub fn run(&self, command: &str) {
        self.type_text(command);
        self.press(&["Enter"]);
    }

    /// Gives it another size.
    ///
    /// # Panics
    /// If tmux has ended.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Waits for the shell, and asserts that the terminal is as it was: its settings, its own screen, a cursor.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_restored(&self) {
        eventually(|| {
            let flags = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
            let screen = self.screen();
            let last = screen.trim_end().lines().last().unwrap_or_default();
            // After a resize the cursor may be left behind what was typed, when a long line is folded and unfolded.
            if flags.trim() == "0 1" && last.trim_end().ends_with(PROMPT) {
                return Ok(());
            }
            Err(format!("alternate screen and cursor: {flags}\n{screen}"))
        });
        assert_eq!(self.settings(), self.settings, "the terminal's settings are others");
    }

    fn settings(&self) -> String {
        let file = self.dir.path().join("settings");
        let _ = std::fs::remove_file(&file);
        self.run(&format!("clear; stty -g > {0}.new && mv {0}.new {0}", file.display()));
        eventually(|| std::fs::read_to_string(&file).map_err(|error| error.to_string()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.socket()).arg("kill-server").env_remove("TMUX").stderr(Stdio::null());
        let _ = tmux.status();
    }
}
