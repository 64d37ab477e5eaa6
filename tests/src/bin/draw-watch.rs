//! Draws the made-up A3 as `numa-agent watch` shows it: an SVG document on standard output. `docs/images/watch.svg` is made so.

use clap::Parser;
use numa_agent::view::{
    app::{App, Input, Link, Now},
    draw::{Look, draw},
    keys::{BINDINGS, Key},
    svg, synthetic,
    terminal::Screen,
};
use ratatui::{
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
};

/// Draws the made-up A3 as `numa-agent watch` shows it.
#[derive(Debug, Parser)]
struct Args {
    /// Columns.
    #[arg(long, default_value_t = 120)]
    columns: u16,
    /// Rows.
    #[arg(long, default_value_t = 40)]
    rows: u16,
    /// How many intervals are over.
    #[arg(long, default_value_t = 30)]
    intervals: u64,
    /// Keys pressed then, by their names in the help, with spaces between.
    #[arg(long, default_value = "")]
    keys: String,
    /// Take the terminal over, show the screen there, and panic: what is left of the terminal is for tests to see.
    #[arg(long)]
    panic: bool,
    /// The same, but another thread panics while the screen is drawn on and on.
    #[arg(long)]
    panic_elsewhere: bool,
}

fn main() {
    let args = Args::parse();
    let mut app = App::new(1000);
    let now =
        |second: u64| Now { ms: second * 1000, clock: format!("12:{:02}:{:02}", second / 60, second % 60) };
    app.take(Input::Size(args.columns, args.rows), &now(0));
    app.take(Input::Link(Link::Agent), &now(0));
    let mut second = 0;
    for line in synthetic::a3(args.intervals) {
        second += u64::from(matches!(line, numa_agent::core::view::Line::Snapshot(_)));
        app.take(Input::Line(Box::new(line)), &now(second));
    }
    for name in args.keys.split_whitespace() {
        let known = BINDINGS.iter().flat_map(|binding| binding.keys).find(|key| key.name() == name);
        let typed = Key { code: KeyCode::Char(name.chars().next().unwrap_or(' ')), ctrl: false };
        let Key { code, ctrl } = *known.unwrap_or(&typed);
        let modifiers = if ctrl { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
        app.take(Input::Key(KeyEvent::new(code, modifiers)), &now(second));
    }
    if args.panic || args.panic_elsewhere {
        let mut screen = Screen::take(Look::default()).expect("a terminal");
        screen.draw(&app).expect("it is drawn");
        if args.panic_elsewhere {
            let other = std::thread::spawn(|| panic!("this panic was asked for elsewhere"));
            let _ = other.join();
            let drawn = screen.draw(&app);
            drop(screen);
            println!("drawn: {drawn:?}");
            return;
        }
        panic!("this panic was asked for");
    }
    let mut buffer = Buffer::empty(Rect::new(0, 0, args.columns, args.rows));
    draw(&app, Look::default(), &mut buffer);
    print!("{}", svg::picture(&buffer, "numa-agent watch: a made-up A3 host"));
}
