//! `numa-agent completions`.

use clap::{Arg, Args, Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
bash: numa-agent completions bash > /usr/share/bash-completion/completions/numa-agent
zsh:  numa-agent completions zsh > /usr/share/zsh/vendor-completions/_numa-agent
fish: numa-agent completions fish > /usr/share/fish/vendor_completions.d/numa-agent.fish")]
pub struct CompletionsArgs {
    /// Whose completions.
    shell: Shell,
}

/// Prints them.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut visible(&super::Cli::command()), "numa-agent", &mut script);
    super::print(&String::from_utf8(script)?)
}

/// As much of `command` as its help shows: the generators offer what is hidden, too, and files for any value.
fn visible(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).map(hinted);
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let shown = Command::new(forever(command.get_name())).about(about).args(args);
    let shown = match command.get_version() {
        Some(version) => shown.version(forever(version)),
        None => shown,
    };
    shown.subcommands(subcommands.map(visible))
}

/// Paths are known by their type; what else has no hint is no file.
fn hinted(arg: &Arg) -> Arg {
    let named =
        |name: &str| arg.get_value_names().is_some_and(|names| names.iter().any(|known| known == name));
    let hint = match arg.get_value_hint() {
        ValueHint::AnyPath if named("DIR") => ValueHint::DirPath,
        ValueHint::Unknown if arg.get_action().takes_values() => ValueHint::Other,
        known => known,
    };
    arg.clone().value_hint(hint)
}

/// clap takes nothing else; the process ends in a moment.
fn forever(text: &str) -> &'static str {
    text.to_owned().leak()
}
