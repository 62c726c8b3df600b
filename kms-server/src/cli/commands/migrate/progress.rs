//! How far a move is, on stderr: a bar on a terminal, and a line now and then elsewhere.

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::cli::output::note;

/// The time between two lines, and between two bars.
const LINES: Duration = Duration::from_secs(5);
const BARS: Duration = Duration::from_millis(100);

/// The number of characters of a whole bar.
const WIDTH: usize = 40;

/// The progress of a move.
pub struct Progress {
    is_quiet: bool,
    is_terminal: bool,
    last: Cell<Instant>,
    /// Whether a bar stands on the last line of the terminal.
    has_bar: Cell<bool>,
}

impl Progress {
    /// Creates a progress, which is not shown if `is_quiet`.
    pub fn new(is_quiet: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { is_quiet, is_terminal, last: Cell::new(Instant::now()), has_bar: Cell::new(false) }
    }

    /// Shows that `done` of `all` keys are `what`.
    pub fn step(&self, what: &str, done: usize, all: usize) {
        let pause = if self.is_terminal { BARS } else { LINES };
        let is_due = self.last.get().elapsed() >= pause || self.has_bar.get() && done == all;
        if self.is_quiet || !is_due {
            return;
        }
        self.last.set(Instant::now());
        if self.is_terminal {
            self.has_bar.set(true);
            let full = (done * WIDTH).checked_div(all).unwrap_or(WIDTH);
            let bar = format!("{:#<full$}{:-<rest$}", "", "", rest = WIDTH - full);
            let _ = write!(io::stderr(), "\r[{bar}] {done} of {all} keys {what}\x1b[K");
        } else {
            note(format_args!("{done} of {all} keys {what}"));
        }
    }

    /// Ends the line of the bar.
    pub fn end(&self) {
        if self.has_bar.get() {
            let _ = writeln!(io::stderr());
        }
    }
}
