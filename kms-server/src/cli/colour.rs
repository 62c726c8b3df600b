//! The colours in which commands print.

/// When commands print in colours.
// The rustdoc of the variants is help text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// Print in colours on a terminal that supports them.
    #[default]
    Auto,
    /// Like `Auto`, but `CLICOLOR_FORCE` counts in a pipe, too.
    ///
    /// Commands that have no `--color` in KES do this.
    #[value(skip)]
    AutoOrForced,
    /// Never print in colours.
    Never,
    /// Always print in colours, into a pipe, too.
    Always,
}

impl Colour {
    /// Returns whether to print in colours, on a terminal or into something else.
    pub fn are_wanted(self, is_terminal: bool) -> bool {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        match self {
            Self::Auto => is_terminal && has_colours(true, variable),
            Self::AutoOrForced => has_colours(is_terminal, variable),
            Self::Never => false,
            Self::Always => true,
        }
    }
}

/// Returns whether the environment wants colours, by the rules of termenv, which KES uses.
fn has_colours(is_terminal: bool, variable: impl Fn(&str) -> String) -> bool {
    let is_forced = !matches!(variable("CLICOLOR_FORCE").as_str(), "" | "0");
    if !variable("NO_COLOR").is_empty() {
        return false;
    }
    if is_forced {
        return true;
    }
    // A CI system records the output and shows it elsewhere.
    if !is_terminal || variable("CLICOLOR") == "0" || !variable("CI").is_empty() {
        return false;
    }
    let terminal = variable("TERM");
    variable("GOOGLE_CLOUD_SHELL") == "true"
        || matches!(variable("COLORTERM").to_lowercase().as_str(), "24bit" | "truecolor" | "yes" | "true")
        || matches!(terminal.as_str(), "xterm-kitty" | "wezterm" | "linux")
        || ["color", "ansi"].iter().any(|part| terminal.contains(part))
}

/// The style of a text, by its meaning.
#[derive(Clone, Copy)]
pub enum Style {
    /// The title of a list.
    Header,
    /// The label before a value.
    Label,
    /// The value that matters most.
    Name,
    /// A value that users copy.
    Strong,
    /// The path of a request.
    Path,
    /// A sign that all is well.
    Good,
    /// A sign that something is wrong.
    Bad,
    /// A sign that something may be wrong.
    Doubtful,
    /// No style.
    Plain,
}

impl Style {
    /// Returns the parameters of the escape sequence (SGR) for a terminal.
    pub fn parameters(self) -> &'static str {
        match self {
            Self::Header => "1;4",
            Self::Label => "2",
            Self::Strong => "1",
            Self::Path => "38;5;31",
            Self::Name => "1;38;5;37",
            Self::Good => "1;38;5;46",
            Self::Bad => "1;38;5;196",
            Self::Doubtful => "1;38;5;220",
            Self::Plain => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_tells_whether_a_terminal_has_colours() {
        let colours = |is_terminal: bool, variables: &str| {
            let set: Vec<_> = variables.split(' ').filter_map(|variable| variable.split_once('=')).collect();
            let value = |name: &str| set.iter().find(|(set, _)| *set == name).map_or("", |(_, value)| value);
            has_colours(is_terminal, |name| value(name).to_owned())
        };
        for coloured in [
            "TERM=xterm-256color",
            "TERM=xterm-color",
            "TERM=ansi",
            "TERM=linux",
            "TERM=xterm-kitty",
            "TERM=wezterm",
            "COLORTERM=truecolor",
            "COLORTERM=24bit TERM=dumb",
            "COLORTERM=yes",
            "COLORTERM=TRUE",
            "CLICOLOR_FORCE=1",
            "CLICOLOR_FORCE=1 CLICOLOR=0 TERM=dumb",
            "CLICOLOR_FORCE=1 CI=1",
            "TERM=xterm-256color CLICOLOR=1 NO_COLOR= CI=",
        ] {
            assert!(colours(true, coloured), "{coloured}");
            assert_eq!(colours(false, coloured), coloured.contains("FORCE"), "{coloured} in a pipe");
        }
        for plain in [
            "",
            "TERM=",
            "TERM=xterm",
            "TERM=screen",
            "TERM=dumb",
            "TERM=ANSI",
            "COLORTERM=1",
            "CLICOLOR_FORCE=0",
            "TERM=xterm-256color NO_COLOR=1",
            "TERM=xterm-256color CLICOLOR=0",
            "TERM=xterm-256color CI=false",
            "CLICOLOR_FORCE=1 NO_COLOR=1",
        ] {
            assert!(!colours(true, plain), "{plain}");
        }
    }
}
